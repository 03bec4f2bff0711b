"""Official architectures at full size with random weights: speed can be measured without a download."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from visgen.checkpoints.catalogue import CATALOGUE, OfficialCheckpoint, official
from visgen.checkpoints.common import LLAMA_SIZES, square_grid
from visgen.checkpoints.maskgit import generator_config
from visgen.checkpoints.titok import PUBLISHED
from visgen.checkpoints.var import SCALES
from visgen.checkpoints.xar import SIZES as XAR_SIZES
from visgen.errors import InputError
from visgen.generators.elm_masked import ELMMaskedTransformer
from visgen.generators.maskgit import MaskGITGenerator
from visgen.generators.rar import RARGenerator
from visgen.generators.raster import RasterTransformer
from visgen.generators.var import VARTransformer
from visgen.generators.xar import XARGenerator
from visgen.nn.llama import swiglu_size
from visgen.pipelines.base import ImagePipeline
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.tokenizers.bae import BAETokenizer
from visgen.tokenizers.kl import KLTokenizer
from visgen.tokenizers.maskgit_vqgan import MaskGITTokenizer
from visgen.tokenizers.titok import TiTokTokenizer
from visgen.tokenizers.var import VARTokenizer
from visgen.tokenizers.vq import VQTokenizer

DEPTH = re.compile(r"var_d(\d+)\.pth")
LLAMAGEN_SIZE = re.compile(r"[ct]2i_(\w+?)_")
ELM_SIZE = re.compile(r"gpt/(?:mlm)?(\w+)-(\d+)-(\d+)\.pth")
TITOK_LETTERS = {"s": "small", "b": "base", "l": "large"}
TITOK_NAME = re.compile(r"generator_titok_([lbs])(\d+)\.bin")
RAR_SIZE = re.compile(r"rar_(\w+)\.bin")
XAR_SIZE = re.compile(r"xAR-([BLH])\.pth")
# Width, depth, MLP
RAR_SIZES = {
    "b": (768, 24, 3072),
    "l": (1024, 24, 4096),
    "xl": (1280, 32, 5120),
    "xxl": (1408, 40, 6144),
}

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


def _titok(entry: OfficialCheckpoint) -> Config:
    """BERT for 32 and 64 tokens, U-ViT for 128."""
    count = int(_match(TITOK_NAME, entry)[2])
    uvit = {"backbone": "uvit", "hidden_size": 1024, "depth": 20, "mlp_size": 4096}
    own = generator_config(dict(entry.configs["generator"]))
    return {"num_tokens": count, "codebook_size": 4096, **own, **(uvit if count == 128 else {})}


def _rar(entry: OfficialCheckpoint) -> Config:
    width, depth, mlp = RAR_SIZES[_match(RAR_SIZE, entry)[1]]
    return {"grid": (16, 16), "hidden_size": width, "depth": depth, "mlp_size": mlp}


def _xar(entry: OfficialCheckpoint) -> Config:
    width, depth, heads, mlp = XAR_SIZES[_match(XAR_SIZE, entry)[1].lower()]
    depths = {"encoder_depth": depth, "decoder_depth": depth}
    return {"hidden_size": width, **depths, "num_heads": heads, "mlp_size": mlp}


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
    "titok-maskgit": _titok,
    "rar": _rar,
    "xar": _xar,
}


def random_pipeline(alias: str, seed: int = 0) -> ImagePipeline:
    """A class-to-image pipeline of an official architecture whose weights are random, in float32 on the CPU.

    Gates of residual branches start at full size, not small (VAR) or closed (RAR), and the heads of
    next-token models are not zero as in a fresh model, so that all parts take part and laws are not flat.

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
    if system == "titok-maskgit":
        return MaskGITGenerator(**config)
    if system == "xar":
        return XARGenerator(**config)
    if system == "rar":
        rar = RARGenerator(**config)
        for block in [*rar.blocks, rar.head]:
            torch.nn.init.normal_(block.modulation.weight, std=0.02)
            torch.nn.init.ones_(block.modulation.bias)
        return rar
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
    if entry.system == "titok-maskgit":
        sizes = PUBLISHED[TITOK_LETTERS[_match(TITOK_NAME, entry)[1]]]
        return TiTokTokenizer(num_tokens=config["num_tokens"], encoder_sizes=sizes, decoder_sizes=sizes)
    if entry.system == "xar":
        return KLTokenizer()
    if entry.system == "rar":
        return MaskGITTokenizer()
    bits = config["codebook_size"].bit_length() - 1
    return BAETokenizer(num_codes=config["num_codes"], code_bits=bits)
