"""Official TiTok and TA-TiTok tokenizers (`fun-research/TiTok`, `yucornetto/tokenizer_titok_*`): key mapping
and config inference, pure functions."""

from __future__ import annotations

import math
import re
from typing import Any

from visgen.checkpoints.common import State, build, count
from visgen.checkpoints.titok_config import known, section
from visgen.errors import InputError
from visgen.tokenizers.maskgit_vqgan import MaskGITTokenizer
from visgen.tokenizers.titok import TiTokTokenizer

IGNORED = ("quantize.embed_prob",)  # how often codes were used, a statistic of training
RENAMED = (
    ("quantize.embedding.", "vq.embedding."),
    ("pixel_quantize.embedding.", "pixel_codes."),
)
MID = re.compile(r"\.mid\.(\d+)\.")  # residual blocks, numbered


def convert_tokenizer(state: State) -> State:
    """Official keys → `TiTokTokenizer` keys."""
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    return {_key(key): tensor for key, tensor in state.items() if key not in IGNORED}


def _key(key: str) -> str:
    for official, ours in RENAMED:
        if key.startswith(official):
            return ours + key.removeprefix(official)
    return _cnn_key(key) if key.startswith("pixel_decoder.") else key


def _cnn_key(key: str) -> str:
    key = key.replace(".upsample_conv.", ".upsample.conv.")
    return MID.sub(lambda found: f".mid.block_{int(found[1]) + 1}.", key)


def infer_tokenizer_config(state: State) -> dict[str, Any]:
    """Config of a tokenizer (our names) from an official state dict.

    Codes have unit length in models with the VQGAN's head and in no others, as in the published ones.
    """
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    patch = state["encoder.patch_embed.weight"].shape[-1]
    side = math.isqrt(state["encoder.positional_embedding"].shape[0] - 1)
    decoder_side = math.isqrt(state["decoder.positional_embedding"].shape[0] - 1)
    dim = state["decoder.decoder_embed.weight"].shape[1]
    head = _head(state)
    ours = {
        "image_size": side * patch,
        "patch_size": patch,
        "decoder_patch_size": side * patch // decoder_side,
        "num_tokens": state["latent_tokens"].shape[0],
        "token_dim": dim,
        "normalize_codes": head != "rgb",
        "continuous": "quantize.embedding.weight" not in state,
        "encoder_sizes": _sizes(state, "encoder"),
        "decoder_sizes": _sizes(state, "decoder"),
        "head": head,
        **_vqgan(state, head),
    }
    if not ours["continuous"]:
        ours["codebook_size"] = state["quantize.embedding.weight"].shape[0]
    if "decoder.text_guidance_proj.weight" in state:
        ours["text_length"] = state["decoder.text_guidance_positional_embedding"].shape[0]
        ours["text_dim"] = state["decoder.text_guidance_proj.weight"].shape[1]
    return ours


def _head(state: State) -> str:
    if "decoder.conv_out.weight" in state:
        return "rgb"
    return "vqgan" if "pixel_quantize.embedding.weight" in state else "codes"


def _sizes(state: State, part: str) -> tuple[int, int, int]:
    """Width, depth, heads: of 64 channels, or of 16 in models narrower than any published one."""
    width = state[f"{part}.class_embedding"].shape[1]
    return width, count(state, f"{part}.transformer."), max(1, width // (64 if width >= 512 else 16))


def _vqgan(state: State, head: str) -> dict[str, Any]:
    """Sizes of the VQGAN whose codes a head predicts."""
    if head == "rgb":
        return {}
    codes = {"vqgan_codebook_size": state["decoder.ffn.2.weight"].shape[0]}
    if head == "codes":
        return codes
    dim = state["pixel_quantize.embedding.weight"].shape[1]
    sizes = {f"vqgan_{name}": size for name, size in _cnn_sizes(state, "pixel_decoder.up.").items()}
    return codes | sizes | {"vqgan_dim": dim}


def _cnn_sizes(state: State, levels: str) -> dict[str, Any]:
    """Base width, multiples and blocks of a stack of levels; only the products of the first two matter."""
    widths = [state[f"{levels}{i}.block.0.conv1.weight"].shape[0] for i in range(count(state, levels))]
    ch = math.gcd(*widths)
    blocks = count(state, f"{levels}0.block.")
    return {"ch": ch, "ch_mult": tuple(width // ch for width in widths), "blocks": blocks}


# Of the tokenizer's section; sizes are told by shapes, and what is told twice is checked
SAME = {
    "codebook_size": "codebook_size",
    "token_size": "token_dim",
    "use_l2_norm": "normalize_codes",
    "commitment_cost": "beta",
    "vit_enc_patch_size": "patch_size",
    "vit_dec_patch_size": "decoder_patch_size",
    "num_latent_tokens": "num_tokens",
    "text_context_length": "text_length",
    "text_embed_dim": "text_dim",
}
PUBLISHED = {"small": (512, 8, 8), "base": (768, 12, 12), "large": (1024, 24, 16)}
TOLD = (
    "vit_enc_model_size",
    "vit_dec_model_size",
    "finetune_decoder",
    "is_legacy",
    "quantize_mode",
    "clustering_vq",
    "pixel_codebook",
    "pixel_z",
    "pixel_mult",
    "pixel_ch",
)


def tokenizer_config(official: dict[str, Any], inferred: dict[str, Any]) -> dict[str, Any]:
    """Official config (nested) → ours, beside what the shapes tell.

    Raises:
        InputError: a switch, or a size by name, that the weights contradict.
    """
    own = known(section(official, "model", "vq_model"), (*SAME, *TOLD), "model.vq_model")
    _check_told(own, inferred)
    ours = {SAME[key]: value for key, value in own.items() if key in SAME}
    if inferred["continuous"]:
        ours.pop("codebook_size", None)  # stands in their configs, and means nothing
    if "text_length" not in inferred:
        ours = {key: value for key, value in ours.items() if not key.startswith("text_")}
    crop = section(official, "dataset", "preprocessing").get("crop_size")
    return ours | ({} if crop is None else {"image_size": crop})


def _check_told(own: dict[str, Any], inferred: dict[str, Any]) -> None:
    rgb = inferred["head"] == "rgb"
    true: dict[str, Any] = {
        "is_legacy": not rgb,
        "quantize_mode": "vae" if inferred["continuous"] else "vq",
    }
    if not rgb:
        true["finetune_decoder"] = inferred["head"] == "vqgan"
    for side in ("enc", "dec"):
        if (name := str(own.get(f"vit_{side}_model_size"))) in PUBLISHED:
            own = own | {f"vit_{side}_model_size": PUBLISHED[name]}
            true[f"vit_{side}_model_size"] = inferred[f"{side}oder_sizes"]
    for key, value in true.items():
        if own.get(key, value) != value:
            raise InputError(f"config.model.vq_model.{key}={own[key]!r}: the weights are of {value!r}")


def tokenizer_from_official(state: State, config: dict[str, Any] | None = None) -> TiTokTokenizer:
    """Build a `TiTokTokenizer` from an official state dict; config as in the official code, inferred when
    omitted (`use_l2_norm`: of legacy models)."""
    inferred = infer_tokenizer_config(state)
    ours = inferred | tokenizer_config(config or {}, inferred)
    return build(TiTokTokenizer, ours, convert_tokenizer(state), "the official TiTok tokenizer")


def vqgan_from_official(state: State, config: dict[str, Any] | None = None) -> MaskGITTokenizer:
    """Build a `MaskGITTokenizer` from the official MaskGIT-VQGAN (`maskgit-vqgan-imagenet-f16-256.bin`).

    The shapes tell everything but `image_size`, which is 256 unless `config` says so. The first layer's width
    must be that of the first level, as it is in the official model.
    """
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    codes, dim = state["quantize.embedding.weight"].shape
    sizes = _cnn_sizes(state, "decoder.up.")
    ours = {
        "codebook_size": codes,
        "code_dim": dim,
        "num_res_blocks": sizes.pop("blocks"),
        **sizes,
        **known(config or {}, ("image_size",), "vqgan"),
    }
    converted = {_cnn_key(key).replace("quantize.", "vq.", 1): tensor for key, tensor in state.items()}
    return build(MaskGITTokenizer, ours, converted, "the official MaskGIT VQGAN")
