"""What a call says of decoding: how many tokens, and how a decoder that starts from noise is sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from visgen.errors import InputError, shown
from visgen.schema import read

DECODING = "decoding"  # the stream of `Noise` that decoders draw from, apart from that of the tokens


def decoding_request(decoder: Any, decoding: Any | Mapping[str, Any] | None) -> Any:
    """What the decoder takes as `sampling`, checked; None where nothing was asked for.

    Args:
        decoder: a tokenizer, or a renderer; keywords replace those of its own `sampling`.
        decoding: a `FlowSampling` (what the decoder's own is made of), or some of its keywords.

    Raises:
        InputError: unknown keywords or bad values, or a tokenizer whose decoder draws nothing.
    """
    if decoding is None:
        return None
    own = getattr(decoder, "sampling", None) if getattr(decoder, "starts_from_noise", True) else None
    if own is None:
        raise InputError(
            f"decoding={shown(decoding)}: a {type(decoder).__name__} decodes without noise and takes none; "
            "only tokenizers with a flow decoder do, such as FlexTok"
        )
    if isinstance(decoding, type(own)):
        return decoding
    if not isinstance(decoding, Mapping):
        raise InputError(
            f"decoding={shown(decoding)} must be a {type(own).__name__} or a mapping of its keywords"
        )
    return read(type(own), asdict(own) | dict(decoding), "decoding")


def check_length(generator: Any, tokenizer: Any, num_tokens: int | None) -> None:
    """Raise `InputError` unless the generator can stop at `num_tokens` and the tokenizer decodes so few."""
    generator.check_num_tokens(num_tokens)
    tokenizer.check_knobs(num_tokens, None)


def length_facts(num_tokens: int | None, decoding: Any) -> dict[str, Any]:
    """What was asked for, `decoding` as `decoding_request` gives it; for `ImageOutput.settings`, and keywords
    of a pipeline's call. Empty by default."""
    facts: dict[str, Any] = {} if num_tokens is None else {"num_tokens": num_tokens}
    if decoding is not None:
        facts["decoding"] = asdict(decoding)
    return facts
