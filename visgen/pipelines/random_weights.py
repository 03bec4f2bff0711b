"""Official architectures at full size with random weights: speed can be measured without a download."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from visgen.checkpoints.catalogue import CATALOGUE, OfficialCheckpoint, official
from visgen.checkpoints.common import LLAMA_SIZES, square_grid
from visgen.checkpoints.var import SCALES
from visgen.errors import InputError
from visgen.generators.elm_masked import ELMMaskedTransformer
from visgen.generators.raster import RasterTransformer
from visgen.generators.var import VARTransformer
from visgen.nn.llama import swiglu_size
from visgen.pipelines.base import ImagePipeline
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.tokenizers.bae import BAETokenizer
from visgen.tokenizers.var import VARTokenizer
from visgen.tokenizers.vq import VQTokenizer

DEPTH = re.compile(r"var_d(\d+)\.pth")
LLAMAGEN_SIZE = re.compile(r"[ct]2i_(\w+?)_")
ELM_SIZE = re.compile(r"gpt/(?:mlm)?(\w+)-(\d+)-(\d+)\.pth")

Config = dict[str, Any]


def architecture(entry: OfficialCheckpoint) -> Config:
    """Config of the generator of a catalogue entry, as in its paper.

    Raises:
        InputError: an entry without a generator, or of a system that is not built from scratch here.
    """
    make = CONFIGS.get(entry.system)
    if make is None or "generator" not in entry.files:
        raise InputError(f"{entry.alias} has no architecture to draw with; use {', '.join(_drawing())}")
    return make(entry)


def _drawing() -> list[str]:
    entries = CATALOGUE.values()
    return [one.alias for one in entries if one.system in CONFIGS and "generator" in one.files]


def _var(entry: OfficialCheckpoint) -> Config:
    """64·depth channels in as many heads as blocks; the model of 512 pixels shares its modulation."""
    depth = int(_match(DEPTH, entry)[1])
    scales = entry.configs.get("generator", {}).get("patch_nums")
    return {
        "scales": SCALES[680] if scales is None else tuple(scales),
        "hidden_size": 64 * depth,
        "depth": depth,
        "num_heads": depth,
        "modulation": "per_block" if scales is None else "shared",
    }


def _llamagen(entry: OfficialCheckpoint) -> Config:
    text = {"condition": "text", "text_length": entry.text.get("max_length"), "text_dim": 2048}
    return {
        "grid": square_grid(entry.configs["generator"]["block_size"]),
        "codebook_size": 16384,
        **_llama(_match(LLAMAGEN_SIZE, entry)[1]),
        **(text if entry.text else {"condition": "class", "num_classes": 1000}),
    }


def _elm(entry: OfficialCheckpoint) -> Config:
    size, codes, bits = _match(ELM_SIZE, entry).groups()
    return {"grid": (16, 16), "codebook_size": 2 ** int(bits), "num_codes": int(codes), **_llama(size)}


def _llama(size: str) -> Config:
    width, depth, heads = LLAMA_SIZES[size.lower()]
    mlp = swiglu_size(width)
    return {"hidden_size": width, "depth": depth, "num_heads": heads, "mlp_size": mlp}


def _match(pattern: re.Pattern[str], entry: OfficialCheckpoint) -> re.Match[str]:
    found = pattern.match(entry.files["generator"])
    if found is None:
        raise InputError(
            f"{entry.alias}: the size of {entry.files['generator']} cannot be told from its name"
        )
    return found


CONFIGS: dict[str, Callable[[OfficialCheckpoint], Config]] = {
    "var": _var,
    "llamagen": _llamagen,
    "elm-ar": _elm,
    "elm-mlm": _elm,
}


def random_pipeline(alias: str, seed: int = 0) -> ImagePipeline:
    """A class-to-image pipeline of an official architecture whose weights are random, in float32 on the CPU.

    VAR's gates of residual branches start at full size, not 1e-3, and the heads of next-token models are not
    zero as in a fresh model, so that all parts take part and laws are not flat.

    Args:
        alias: of a class-conditional model, such as "var-d16", "llamagen-b" or "elm-l-2-10".
        seed: of the weights; the global generator is left as it was.

    Raises:
        UnknownNameError: no such alias.
        InputError: an alias without a generator, or one of text, which needs its text encoder.
    """
    entry = official(alias)
    config = architecture(entry)
    if entry.text:
        raise InputError(f"{alias} needs its text encoder; use a model of classes, such as llamagen-b")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator, tokenizer = _generator(entry.system, config), _tokenizer(entry, config)
    pipe = ClassToImagePipeline(tokenizer.eval(), generator.eval(), dict(entry.sampling))
    pipe.card = {"notes": f"random weights in the architecture of {alias}"}
    return pipe


def _generator(system: str, config: Config) -> Any:
    if system == "var":
        var = VARTransformer(**config)
        var.init_weights(gamma=1.0)
        return var
    if system == "elm-mlm":
        return ELMMaskedTransformer(**config)
    model = RasterTransformer(**config)
    for name, parameter in model.named_parameters():
        if name.startswith("tokens.head"):
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def _tokenizer(entry: OfficialCheckpoint, config: Config) -> Any:
    if entry.system == "var":
        return VARTokenizer(scales=config["scales"])
    if entry.system == "llamagen":
        return VQTokenizer(**entry.configs["tokenizer"])
    bits = config["codebook_size"].bit_length() - 1
    return BAETokenizer(num_codes=config["num_codes"], code_bits=bits)
