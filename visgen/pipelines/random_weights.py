"""Official architectures at full size with random weights: speed can be measured without a download."""

from __future__ import annotations

import re
from typing import Any

import torch

from visgen.checkpoints.catalogue import CATALOGUE, OfficialCheckpoint, official
from visgen.checkpoints.var import SCALES
from visgen.errors import InputError
from visgen.generators.var import VARTransformer
from visgen.pipelines.base import ImagePipeline
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.tokenizers.var import VARTokenizer

DEPTH = re.compile(r"var_d(\d+)\.pth")


def architecture(entry: OfficialCheckpoint) -> dict[str, Any]:
    """Config of the `VARTransformer` of a catalogue entry, as in arXiv 2404.02905.

    64·depth channels in as many heads as blocks; the model of 512 pixels shares its modulation.

    Raises:
        InputError: an entry without a VAR generator.
    """
    match = DEPTH.fullmatch(entry.files.get("generator", ""))
    if match is None:
        raise InputError(f"{entry.alias} has no architecture to draw with; use {', '.join(_drawing())}")
    depth = int(match[1])
    scales = entry.configs.get("generator", {}).get("patch_nums")
    return {
        "scales": SCALES[680] if scales is None else tuple(scales),
        "hidden_size": 64 * depth,
        "depth": depth,
        "num_heads": depth,
        "modulation": "per_block" if scales is None else "shared",
    }


def _drawing() -> list[str]:
    return [alias for alias, entry in CATALOGUE.items() if "generator" in entry.files]


def random_pipeline(alias: str, seed: int = 0) -> ImagePipeline:
    """A class-to-image pipeline of an official architecture whose weights are random, in float32 on the CPU.

    The gates of its residual branches start at full size, not VAR's 1e-3, so that all blocks take part.

    Args:
        alias: "var-d16" … "var-d36".
        seed: of the weights; the global generator is left as it was.

    Raises:
        UnknownNameError: no such alias.
        InputError: an alias without a generator.
    """
    entry = official(alias)
    config = architecture(entry)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = VARTransformer(**config).eval()
        generator.init_weights(gamma=1.0)
        tokenizer = VARTokenizer(scales=config["scales"]).eval()
    pipe = ClassToImagePipeline(tokenizer, generator, dict(entry.sampling))
    pipe.card = {"notes": f"random weights in the architecture of {alias}"}
    return pipe
