"""Whether the components of a pipeline were made for each other."""

from __future__ import annotations

from typing import Any

from visgen.errors import InputError
from visgen.tokenizers.tokens import Sequence1D


def check_fit(tokenizer: Any, generator: Any, text: Any = None) -> None:
    """Compare what components say of their tokens and words; what a component does not say is not compared.

    Raises:
        InputError: another codebook, other scales, another number of tokens, latents of one and ids of the
            other, or another vocabulary.
    """
    if generator is None:
        return
    config = generator.config
    for name in ("scales", "codebook_size", "latent_channels"):
        made, needed = getattr(tokenizer.config, name, None), getattr(config, name, None)
        if made is not None and needed is not None and made != needed:
            raise InputError(
                f"tokenizer and generator do not fit: {name} is {made} of one and {needed} of the other"
            )
    _check_sequence(tokenizer, generator)
    if getattr(generator, "continuous", False):
        _check_latents(tokenizer, generator)
    words, known = getattr(text, "vocab_size", None), getattr(config, "text_vocab_size", None)
    if words is not None and known is not None and words != known:
        raise InputError(f"text component has {words} words, but the generator was made for {known}")


def _check_latents(tokenizer: Any, generator: Any) -> None:
    """Of a generator of latents: the tokenizer must decode latents of its grid."""
    if tokenizer.codebook is not None:
        raise InputError(
            f"tokenizer and generator do not fit: {type(generator).__name__} makes latents, and "
            f"{type(tokenizer).__name__} decodes ids"
        )
    if tokenizer.layout != generator.layout:
        raise InputError(
            f"tokenizer and generator do not fit: tokens are {tokenizer.layout} of one and "
            f"{generator.layout} of the other"
        )


def _check_sequence(tokenizer: Any, generator: Any) -> None:
    """Where either speaks of a sequence: the tokenizer must decode what the generator makes."""
    made, decoded = (getattr(one, "layout", None) for one in (generator, tokenizer))
    if made is None or not any(isinstance(one, Sequence1D) for one in (made, decoded)):
        return
    shorter = isinstance(made, Sequence1D) and isinstance(decoded, Sequence1D) and made.n < decoded.n
    if made != decoded and not (shorter and "num_tokens" in tokenizer.knobs):
        raise InputError(
            f"tokenizer and generator do not fit: tokens are {decoded} of one and {made} of the other"
        )
    codes, needed = tokenizer.codebook, getattr(generator.config, "codebook_size", None)
    if codes is not None and needed is not None and len(codes) != needed:
        raise InputError(
            "tokenizer and generator do not fit: "
            f"codebook_size is {len(codes)} of one and {needed} of the other"
        )
