"""Tokenizers of official size with random weights: their speed can be measured without a download."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from visgen.errors import UnknownNameError
from visgen.registry import nearest
from visgen.tokenizers import TOKENIZERS

Config = Mapping[str, Any]


def _flextok(encoder: int, decoder: int) -> tuple[str, Config]:
    """The authors' rule: width 64 · depth (arXiv 2502.13967)."""
    sizes = {f"{part}_sizes": {"width": 64 * n, "depth": n} for part, n in _parts(encoder, decoder)}
    return "FlexTokTokenizer", sizes


def _karl(width: int, layers: int, heads: int) -> tuple[str, Config]:
    """Encoder and decoder of one size (arXiv 2507.07995)."""
    numbers = {"width": width, "layers": layers, "heads": heads}
    return "KARLTokenizer", {f"{part}_{k}": n for part, _ in _parts(0, 0) for k, n in numbers.items()}


def _titok(tokens: int, sizes: tuple[int, int, int]) -> tuple[str, Config]:
    return "TiTokTokenizer", {"num_tokens": tokens, "encoder_sizes": sizes, "decoder_sizes": sizes}


def _parts(encoder: int, decoder: int) -> tuple[tuple[str, int], tuple[str, int]]:
    return ("encoder", encoder), ("decoder", decoder)


# Name → class of `TOKENIZERS` and what differs from its defaults, which are official sizes
SIZES: Mapping[str, tuple[str, Config]] = {
    "flextok-d12-d12": _flextok(12, 12),
    "flextok-d18-d18": _flextok(18, 18),
    "flextok-d18-d28": _flextok(18, 28),
    "karl-tiny": _karl(512, 8, 8),
    "karl-small": _karl(1024, 8, 8),
    "karl-base": _karl(768, 12, 12),
    "karl-semilarge": _karl(1024, 16, 16),
    "titok-s128": _titok(128, (512, 8, 8)),
    "titok-b64": _titok(64, (768, 12, 12)),
    "titok-l32": _titok(32, (1024, 24, 16)),
    "llamagen-vq": ("VQTokenizer", {}),
    "var-tokenizer": ("VARTokenizer", {}),
}


def random_tokenizer(name: str, seed: int = 0) -> Any:
    """A tokenizer of official size whose weights are random, in float32 on the CPU.

    What starts at zero in a fresh model (FlexTok's gates) is drawn too, so that all parts take part.

    Args:
        name: of `SIZES`.
        seed: of the weights; the global generator is left as it was.

    Raises:
        UnknownNameError: no such size.
    """
    if name not in SIZES:
        raise UnknownNameError(f"unknown size of a tokenizer {name!r}: {nearest(name, sorted(SIZES))}")
    kind, config = SIZES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = TOKENIZERS.load(kind)(**config)
        for parameter in tokenizer.parameters():
            if parameter.ndim > 1 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    return tokenizer.eval()
