"""Whether the components of a pipeline were made for each other."""

from __future__ import annotations

from typing import Any

from visgen.errors import InputError


def check_fit(tokenizer: Any, generator: Any, text: Any = None) -> None:
    """Compare what components say of their tokens and words; what a component does not say is not compared.

    Raises:
        InputError: another codebook, other scales, or another vocabulary.
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
    words, known = getattr(text, "vocab_size", None), getattr(config, "text_vocab_size", None)
    if words is not None and known is not None and words != known:
        raise InputError(f"text component has {words} words, but the generator was made for {known}")
