"""Catalogue entries of `bytedance/1d-tokenizer`: TiTok's tokenizers and MaskGIT generators, RAR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from visgen.checkpoints.catalogue_entry import OfficialCheckpoint

TITOK_REPO, RAR_REPO = "fun-research/TiTok", "yucornetto/RAR"
TITOK_PARITY = "tiny official models (tests/golden/titok)"
# Files of fun-research/TiTok, all but the VQGAN's, are named from memory
VQGAN_FILE, VQGAN_PARAMETERS = "maskgit-vqgan-imagenet-f16-256.bin", 54.5e6


def _titok(
    name: str, tokenizer: float, generator: float, fid: str, recipe: Mapping[str, Any], **sampling: Any
) -> OfficialCheckpoint:
    """A class-conditional MaskGIT model over TiTok's tokens; `recipe` is what the sampling options lack."""
    return OfficialCheckpoint(
        alias=f"titok-{name}",
        system="titok-maskgit",
        tokenizer_system="titok",
        repo_id=TITOK_REPO,
        files={
            "tokenizer": f"tokenizer_titok_{name}.bin",
            "generator": f"generator_titok_{name}.bin",
        },
        size_bytes=round(4 * (tokenizer + generator)),
        licence="Apache-2.0",
        paper="2406.07550",
        sampling=sampling,
        configs={
            "generator": {"model": {"generator": {**recipe, "softmax_temperature_annealing": True}}},
        },
        parity=TITOK_PARITY,
        notes=f"ImageNet classes at 256×256 in {name[1:]} tokens; published FID {fid}",
    )


def _titok_tokenizer(name: str, parameters: float, rfid: str) -> OfficialCheckpoint:
    return OfficialCheckpoint(
        alias=f"titok-{name}".replace("_", "-"),
        system="titok",
        tokenizer_system="titok",
        repo_id=TITOK_REPO,
        files={"tokenizer": f"tokenizer_titok_{name}.bin"},
        size_bytes=round(4 * parameters),
        licence="Apache-2.0",
        paper="2406.07550",
        parity=TITOK_PARITY,
        notes=f"TiTok's tokenizer alone; published rFID at 256×256 {rfid}",
    )


def _rar(
    size: str, parameters: float, fid: str, temperature: float, guidance: float, power: float
) -> OfficialCheckpoint:
    return OfficialCheckpoint(
        alias=f"rar-{size}",
        system="rar",
        tokenizer_system="maskgit-vqgan",
        repo_id=RAR_REPO,
        files={"tokenizer": VQGAN_FILE, "generator": f"rar_{size}.bin"},
        size_bytes=round(4 * (parameters + VQGAN_PARAMETERS)),
        licence="Apache-2.0",
        paper="2411.00776",
        sampling={
            "temperature": temperature,
            "guidance_scale": guidance,
            "guidance_schedule": f"power_cosine:{power}",
        },
        repos={"tokenizer": TITOK_REPO},
        parity=TITOK_PARITY,
        notes=f"ImageNet classes at 256×256; published FID {fid}",
    )


TITOK_ENTRIES = (
    _titok(
        "l32",
        641.1e6,
        177.2e6,
        "2.77",
        {"num_steps": 8, "randomize_temperature": 9.5},
        guidance_scale=1 + 4.5,
        guidance_schedule="maskgit_linear",
    ),
    _titok(
        "b64",
        204.8e6,
        177.2e6,
        "2.48",
        {"num_steps": 8, "randomize_temperature": 11.0},
        guidance_scale=1 + 3.0,
        guidance_schedule="maskgit_linear",
    ),
    _titok(
        "s128",
        83.7e6,
        295.0e6,
        "1.97",
        {"num_steps": 64, "randomize_temperature": 2.8},
        guidance_scale=6.9,
        guidance_schedule="power_cosine:3.0",
    ),
    _titok_tokenizer("bl64_vq8k", 390.0e6, "2.06"),
    _titok_tokenizer("bl128_vq8k", 390.2e6, "1.49"),
    _titok_tokenizer("sl256_vq8k", 330.3e6, "1.03"),
    _titok_tokenizer("ll32_vae_c16", 606.9e6, "1.61"),
    _titok_tokenizer("bl64_vae_c16", 389.4e6, "1.25"),
    _titok_tokenizer("bl128_vae_c16", 389.6e6, "0.84"),
    OfficialCheckpoint(
        alias="maskgit-vqgan",
        system="maskgit-vqgan",
        tokenizer_system="maskgit-vqgan",
        repo_id=TITOK_REPO,
        files={"tokenizer": VQGAN_FILE},
        size_bytes=round(4 * VQGAN_PARAMETERS),
        licence="Apache-2.0",
        paper="2202.04200",
        parity="its decoder: tiny official models (tests/golden/titok)",
        notes="the tokenizer of RAR, alone; file layout from memory",
    ),
    _rar("b", 260.9e6, "1.95", 1.0, 16.0, 2.75),
    _rar("l", 461.6e6, "1.70", 1.02, 15.5, 2.5),
    _rar("xl", 955.3e6, "1.50", 1.02, 6.9, 1.5),
    _rar("xxl", 1498.4e6, "1.48", 1.02, 8.0, 1.2),
)
