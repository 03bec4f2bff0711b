"""Official ELM autoencoders (`xuantonglll/ELM`): key mapping and config inference, pure functions.

The official autoencoder is one flat list of blocks per side; what a block is shows in its tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from visgen.checkpoints.common import (
    State,
    build,
    count,
    fuse_qkv,
    renamed,
    without,
)
from visgen.tokenizers.bae import BAETokenizer

MID = ["mid.block_1", "mid.attn_1", "mid.block_2"]
MOST_BITS_OF_ONE = 16  # published models with one code per position have 16 bits, the others two codes


def autoencoder_state(state: State) -> State:
    """The autoencoder's tensors: of a file of the whole GAN those behind "ae.", without that prefix."""
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    own = {key.removeprefix("ae."): tensor for key, tensor in state.items() if key.startswith("ae.")}
    return own or state


def convert_tokenizer(state: State) -> State:
    """Official autoencoder keys → `BAETokenizer` keys.

    Left out are the decoder's noise head, which nothing uses, and the shortcuts of blocks that keep their
    width, which the official code stores but does not run.
    """
    state = autoencoder_state(state)
    names = block_names(state)
    out = {}
    for key, tensor in state.items():
        block, rest = ".".join(key.split(".")[:3]), ".".join(key.split(".")[3:])
        if key.startswith("generator.logsigma.") or (rest.startswith("conv_out.") and _idle(state, block)):
            continue
        if block in names:
            out[f"{names[block]}.{rest.replace('conv_out.', 'nin_shortcut.')}"] = tensor
        else:
            out[key.replace("quantize.proj.0.", "quantize.proj.").replace("quantize.", "bits_quantizer.")] = (
                tensor
            )
    return fuse_qkv(out)


def _idle(state: State, block: str) -> bool:
    """Whether a residual block keeps its width."""
    out_channels, in_channels = state[f"{block}.conv1.weight"].shape[:2]
    return out_channels == in_channels


def block_names(state: State) -> dict[str, str]:
    """Official block ("encoder.blocks.4") → our module ("encoder.down.1.downsample"), for both sides."""
    encoder, decoder = _kinds(state, "encoder"), _kinds(state, "generator")
    end = ["norm_out", "conv_out"]
    down = list(_level_names(encoder[1:-5], "down", "downsample"))
    start = ["norm_in", "conv_in"] if decoder[0] == "norm" else ["conv_in"]
    up = list(_level_names(decoder[len(start) + 3 : -2], "up", "upsample"))
    sides = {
        "encoder": ("encoder", ["conv_in", *down, *MID, *end]),
        "generator": ("decoder", [*start, *MID, *up, *end]),
    }
    return {
        f"{side}.blocks.{i}": f"{ours}.{name}"
        for side, (ours, names) in sides.items()
        for i, name in enumerate(names)
    }


def _kinds(state: State, side: str) -> list[str]:
    """What each block of a side is: conv, norm, res, attn or scale (down or up)."""
    return [_kind(state, f"{side}.blocks.{i}.") for i in range(count(state, f"{side}.blocks."))]


def _kind(state: State, prefix: str) -> str:
    for name, kind in (("conv1", "res"), ("q", "attn"), ("conv", "scale")):
        if f"{prefix}{name}.weight" in state:
            return kind
    return "norm" if state[f"{prefix}weight"].ndim == 1 else "conv"


def _level_names(kinds: Sequence[str], side: str, scale: str) -> Iterator[str]:
    """Names of the blocks of all levels; those of the decoder run from the last level to the first."""
    last = kinds.count("scale")
    step, res = 0, -1
    for kind in kinds:
        level = f"{side}.{step if side == 'down' else last - step}"
        if kind == "scale":
            yield f"{level}.{scale}"
            step, res = step + 1, -1
        else:
            res += kind == "res"
            yield f"{level}.{'block' if kind == 'res' else 'attn'}.{res}"


def infer_tokenizer_config(state: State) -> dict[str, Any]:
    """Config of a tokenizer (our names) from an official state dict; 256 pixels."""
    state = autoencoder_state(state)
    names = {ours: official for official, ours in block_names(state).items()}
    bits, channels = state["quantize.embed.weight"].shape
    ch = state["encoder.blocks.0.weight"].shape[0]
    levels = count(names, "encoder.down.")
    widths = [state[names[f"encoder.down.{i}.block.0"] + ".conv1.weight"].shape[0] for i in range(levels)]
    codes = 1 if bits <= MOST_BITS_OF_ONE else 2
    return {
        "num_codes": codes,
        "code_bits": bits // codes,
        "image_size": 256,
        "attention_sizes": tuple(256 // 2**i for i in range(levels) if f"encoder.down.{i}.attn.0" in names),
        "channels": channels,
        "ch": ch,
        "ch_mult": tuple(width // ch for width in widths),
        "num_res_blocks": count(names, "encoder.down.0.block."),
        "decoder_blocks": count(names, "decoder.up.0.block."),
        "norm_first": "decoder.norm_in" in names,
    }


TOKENIZER_NAMES = {
    "token_each": "num_codes",
    "code_dim": "code_bits",
    "img_size": "image_size",
    "attn_resolutions": "attention_sizes",
    "emb_dim": "channels",
    "nf": "ch",
}
TOLD = ("ch_mult", "res_blocks", "gen_mul", "codebook_size", "norm_first")


def tokenizer_config(official: dict[str, Any]) -> dict[str, Any]:
    """Official config names → ours; what the shapes tell is left to them. Bits of ±1 are not supported."""
    official = without(official, {"use_tanh": False, "n_channels": 3})
    return renamed({key: value for key, value in official.items() if key not in TOLD}, TOKENIZER_NAMES)


def tokenizer_from_official(state: State, config: dict[str, Any] | None = None) -> BAETokenizer:
    """Build a `BAETokenizer` from an official state dict; config keys as in the official code, inferred when
    omitted."""
    ours = infer_tokenizer_config(state) | tokenizer_config(config or {})
    return build(BAETokenizer, ours, convert_tokenizer(state), "the official ELM tokenizer")
