"""What the authors published: hub id, files, size, licence and the sampling recipe of their best numbers.

Loads no torch, so that listing is instant. Look at the hub page for the full terms of a licence.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

from visgen.checkpoints.catalogue_entry import OfficialCheckpoint
from visgen.checkpoints.catalogue_flextok import FLEXTOK_ENTRIES
from visgen.checkpoints.catalogue_kl16 import KL16_ENTRIES
from visgen.checkpoints.catalogue_seed import SEED_ENTRIES
from visgen.checkpoints.catalogue_seed_llama import SEED_LLAMA_ENTRIES
from visgen.checkpoints.catalogue_titok import TITOK_ENTRIES
from visgen.checkpoints.catalogue_xar import XAR_ENTRIES
from visgen.errors import UnknownNameError
from visgen.registry import nearest

VAR_REPO = "FoundationVision/var"
VAR_TOKENIZER_FILE = "vae_ch160v4096z32.pth"
VAR_TOKENIZER_PARAMETERS = 108.95e6
VAR_SCALES_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)

VAR_PARITY = "tiny official models (tests/golden/var)"
# Official cfg = 1.5 is our guidance scale 1 + 1.5 on a linear ramp; this recipe gives the FIDs of the README.
VAR_FID_SAMPLING = {"guidance_scale": 2.5, "guidance_schedule": "linear", "top_k": 900, "top_p": 0.96}


def _var(
    depth: int, parameters: float, fid: str, scales: tuple[int, ...] | None = None
) -> OfficialCheckpoint:
    size = 256 if scales is None else 16 * scales[-1]
    return OfficialCheckpoint(
        alias=f"var-d{depth}",
        system="var",
        tokenizer_system="var-tokenizer",
        repo_id=VAR_REPO,
        files={"tokenizer": VAR_TOKENIZER_FILE, "generator": f"var_d{depth}.pth"},
        size_bytes=round(4 * (parameters + VAR_TOKENIZER_PARAMETERS)),
        licence="MIT",
        paper="2404.02905",
        sampling=VAR_FID_SAMPLING,
        configs={}
        if scales is None
        else {"tokenizer": {"v_patch_nums": scales}, "generator": {"patch_nums": scales}},
        parity=VAR_PARITY,
        notes=f"ImageNet classes at {size}×{size}; published FID {fid}",
    )


LLAMAGEN_REPO, LLAMAGEN_TEXT_REPO = "FoundationVision/LlamaGen", "peizesun/llamagen_t2i"
LLAMAGEN_PARITY = "tiny official models (tests/golden/llamagen)"
VQ16_PARAMETERS, VQ8_PARAMETERS = 71.88e6, 70.11e6
# As the authors prepare captions: cleaned twice, padded on the left, padding zeroed
FLAN_T5_XL = {
    "encoder": "google/flan-t5-xl",
    "max_length": 120,
    "left_padding": True,
    "clean": True,
    "zero_padding": True,
}


def _llamagen(
    name: str, file: str, size: int, parameters: float, guidance: float, fid: str
) -> OfficialCheckpoint:
    """A class-conditional model; FIDs are of pictures resized to 256."""
    return OfficialCheckpoint(
        alias=f"llamagen-{name}",
        system="llamagen",
        tokenizer_system="llamagen-vq",
        repo_id=LLAMAGEN_REPO,
        files={"tokenizer": "vq_ds16_c2i.pt", "generator": file},
        size_bytes=round(4 * (parameters + VQ16_PARAMETERS)),
        licence="MIT",
        paper="2406.06525",
        sampling={"guidance_scale": guidance},
        configs={"tokenizer": {"image_size": size}, "generator": {"block_size": (size // 16) ** 2}},
        parity=LLAMAGEN_PARITY,
        notes=f"ImageNet classes at {size}×{size}; published FID {fid}",
    )


def _llamagen_text(alias: str, file: str, size: int, stage: int) -> OfficialCheckpoint:
    return OfficialCheckpoint(
        alias=alias,
        system="llamagen",
        tokenizer_system="llamagen-vq",
        repo_id=LLAMAGEN_TEXT_REPO,
        files={"tokenizer": "vq_ds16_t2i.pt", "generator": file},
        size_bytes=round(4 * (777.9e6 + VQ16_PARAMETERS)),
        licence="MIT",
        paper="2406.06525",
        sampling={"guidance_scale": 7.5, "top_k": 1000},
        configs={
            "tokenizer": {"image_size": size},
            "generator": {"block_size": (size // 16) ** 2, "cls_token_num": 120},
        },
        text=FLAN_T5_XL,
        parity=LLAMAGEN_PARITY,
        notes=f"text to {size}×{size} (stage {stage}); its text encoder, google/flan-t5-xl, is 11 GB more",
    )


def _llamagen_tokenizer(alias: str, file: str, parameters: float, rfid: str) -> OfficialCheckpoint:
    return OfficialCheckpoint(
        alias=alias,
        system="llamagen-vq",
        tokenizer_system="llamagen-vq",
        repo_id=LLAMAGEN_REPO,
        files={"tokenizer": file},
        size_bytes=round(4 * parameters),
        licence="MIT",
        paper="2406.06525",
        parity=LLAMAGEN_PARITY,
        notes=f"LlamaGen's tokenizer alone; published rFID at 256×256 {rfid}",
    )


ELM_REPO = "xuantonglll/ELM"
ELM_PARITY = "tiny official models (tests/golden/elm)"
ELM_SAMPLING = {"guidance_scale": 4.0, "guidance_schedule": "elm_linear", "top_k": 1000}
ELM_LICENCE = "none stated"
BAE_BYTES = 332e6  # the whole GAN


def _elm(size: str, codes: int, bits: int, parameters: float, fid: str = "") -> OfficialCheckpoint:
    """A next-token model of `codes` sub-codes of `bits` bits."""
    return OfficialCheckpoint(
        alias=f"elm-{size}-{codes}-{bits}".lower(),
        system="elm-ar",
        tokenizer_system="elm-bae",
        repo_id=ELM_REPO,
        files=_elm_files(f"{size}-{codes}-{bits}", codes * bits),
        size_bytes=round(4 * parameters + BAE_BYTES),
        licence=ELM_LICENCE,
        paper="2410.16257",
        sampling=ELM_SAMPLING,
        configs={"tokenizer": {"token_each": codes, "code_dim": bits}},
        parity=ELM_PARITY,
        notes=f"ImageNet classes at 256×256{fid and f'; published FID {fid}'}",
    )


def _elm_masked(size: str, parameters: float) -> OfficialCheckpoint:
    return OfficialCheckpoint(
        alias=f"elm-mlm-{size}-1-16".lower(),
        system="elm-mlm",
        tokenizer_system="elm-bae",
        repo_id=ELM_REPO,
        files=_elm_files(f"mlm{size}-1-16", 16),
        size_bytes=round(4 * parameters + BAE_BYTES),
        licence=ELM_LICENCE,
        paper="2410.16257",
        sampling={"guidance_scale": 4.0, "guidance_schedule": "elm_linear"},
        configs={"tokenizer": {"token_each": 1, "code_dim": 16}},
        parity=ELM_PARITY,
        notes="masked transformer, ImageNet classes at 256×256; its authors publish no sampling recipe",
    )


def _elm_files(generator: str, bits: int) -> dict[str, str]:
    return {"tokenizer": f"bae/bae_{bits}/binaryae_ema.th", "generator": f"gpt/{generator}.pth"}


def _elm_tokenizer(name: str) -> OfficialCheckpoint:
    return OfficialCheckpoint(
        alias=f"elm-bae-{name}".replace("_", "-"),
        system="elm-bae",
        tokenizer_system="elm-bae",
        repo_id=ELM_REPO,
        files={"tokenizer": f"bae/bae_{name}/binaryae_ema.th"},
        size_bytes=round(BAE_BYTES),
        licence=ELM_LICENCE,
        paper="2410.16257",
        parity=ELM_PARITY,
        notes=f"ELM's tokenizer alone, {name.split('_')[0]} bits per position",
    )


def _transformers(
    alias: str, repo_id: str, parameters: float, licence: str, paper: str, notes: str, **sampling: Any
) -> OfficialCheckpoint:
    """A language model that draws, stored in bfloat16."""
    return OfficialCheckpoint(
        alias=alias,
        system="transformers",
        tokenizer_system="transformers",
        repo_id=repo_id,
        files={},
        size_bytes=round(2 * parameters),
        licence=licence,
        paper=paper,
        sampling=sampling,
        parity="the transformers library's own models, tiny",
        notes=notes,
    )


DEEPSEEK, ANOLE_LICENCE = "DeepSeek Model License", "Chameleon Research License (non-commercial)"
ANOLE_NOTES = (
    "text to 512×512; needs vqgan.ckpt of the Chameleon release where the repository lacks a decoder"
)

_ENTRIES = (
    _var(16, 310.3e6, "3.55"),
    _var(20, 600.9e6, "2.95"),
    _var(24, 1033e6, "2.33"),
    _var(30, 2010e6, "1.97"),
    _var(36, 2354e6, "2.63", VAR_SCALES_512),
    OfficialCheckpoint(
        alias="var-tokenizer",
        system="var-tokenizer",
        tokenizer_system="var-tokenizer",
        repo_id=VAR_REPO,
        files={"tokenizer": VAR_TOKENIZER_FILE},
        size_bytes=round(4 * VAR_TOKENIZER_PARAMETERS),
        licence="MIT",
        paper="2404.02905",
        parity=VAR_PARITY,
        notes="the tokenizer of every VAR, alone",
    ),
    _llamagen("b", "c2i_B_256.pt", 256, 110.9e6, 2.0, "5.46"),
    _llamagen("b-384", "c2i_B_384.pt", 384, 110.9e6, 2.0, "6.09"),
    _llamagen("l", "c2i_L_256.pt", 256, 342.9e6, 2.0, "3.80"),
    _llamagen("l-384", "c2i_L_384.pt", 384, 342.9e6, 2.0, "3.07"),
    _llamagen("xl", "c2i_XL_384.pt", 384, 774.7e6, 1.75, "2.62"),
    _llamagen("xxl", "c2i_XXL_384.pt", 384, 1411e6, 1.75, "2.34"),
    _llamagen("3b", "c2i_3B_384.pt", 384, 3096.7e6, 1.65, "2.18"),
    _llamagen_text("llamagen-t2i-xl", "t2i_XL_stage1_256.pt", 256, 1),
    _llamagen_text("llamagen-t2i-xl-512", "t2i_XL_stage2_512.pt", 512, 2),
    _llamagen_tokenizer("llamagen-vq16", "vq_ds16_c2i.pt", VQ16_PARAMETERS, "2.19"),
    _llamagen_tokenizer("llamagen-vq8", "vq_ds8_c2i.pt", VQ8_PARAMETERS, "0.59"),
    _elm("L", 1, 16, 444e6),
    _elm("L", 2, 8, 313e6),
    _elm("L", 2, 10, 316e6),
    _elm("L", 2, 12, 328e6),
    _elm("XL", 1, 16, 901e6),
    _elm("XL", 2, 8, 737e6),
    _elm("XL", 2, 10, 741e6),
    _elm("XL", 2, 12, 757e6),
    _elm("XXL", 1, 16, 1562e6),
    _elm("XXL", 2, 10, 1372e6),
    _elm("XXL", 2, 12, 1391e6),
    _elm("2B", 2, 12, 1910e6, "1.54"),
    _elm_masked("L", 445e6),
    _elm_masked("XL", 902e6),
    _elm_masked("XXL", 1564e6),
    _elm_tokenizer("16"),
    _elm_tokenizer("16_deter"),
    _elm_tokenizer("20"),
    _elm_tokenizer("24"),
    *FLEXTOK_ENTRIES,
    *TITOK_ENTRIES,
    *KL16_ENTRIES,
    *XAR_ENTRIES,
    *SEED_ENTRIES,
    *SEED_LLAMA_ENTRIES,
    _transformers(
        "janus-1.3b",
        "deepseek-community/Janus-1.3B",
        2.09e9,
        DEEPSEEK,
        "2410.13848",
        "text to 384×384",
        guidance_scale=5.0,
    ),
    _transformers(
        "janus-pro-1b",
        "deepseek-community/Janus-Pro-1B",
        2.09e9,
        DEEPSEEK,
        "2501.17811",
        "text to 384×384",
        guidance_scale=5.0,
    ),
    _transformers(
        "janus-pro-7b",
        "deepseek-community/Janus-Pro-7B",
        7.42e9,
        DEEPSEEK,
        "2501.17811",
        "text to 384×384",
        guidance_scale=5.0,
    ),
    _transformers(
        "emu3-gen",
        "BAAI/Emu3-Gen-hf",
        8.76e9,
        "Apache-2.0",
        "2409.18869",
        "text to 720×720",
        guidance_scale=3.0,
        top_k=2048,
    ),
    _transformers(
        "anole-7b",
        "leloy/Anole-7b-v0.1-hf",
        7.04e9,
        ANOLE_LICENCE,
        "2407.06135",
        ANOLE_NOTES,
        guidance_scale=3.0,
        top_k=2000,
    ),
)

CATALOGUE: dict[str, OfficialCheckpoint] = {entry.alias: entry for entry in _ENTRIES}


def official(alias: str) -> OfficialCheckpoint:
    """The entry of an alias; raises `UnknownNameError` with the nearest ones."""
    if alias not in CATALOGUE:
        raise UnknownNameError(f"unknown official checkpoint {alias!r}: {nearest(alias, sorted(CATALOGUE))}")
    return CATALOGUE[alias]


def aliases_of_repo(repo_id: str) -> list[str]:
    """Aliases whose files lie in a hub repository, in catalogue order."""
    return [entry.alias for entry in _ENTRIES if entry.repo_id.lower() == repo_id.lower()]


def entry_of_file(
    name: str, role: str = "generator", entries: Iterable[OfficialCheckpoint] | None = None
) -> OfficialCheckpoint | None:
    """The first entry whose file of that role has this name, or None; folders count where both have some."""
    entries = _ENTRIES if entries is None else entries
    return next((entry for entry in entries if _is_named(name, entry.files.get(role))), None)


def _is_named(name: str, file: str | None) -> bool:
    """Whether a path ends in a file of the catalogue, as published or as safetensors."""
    if file is None:
        return False
    given, wanted = PurePath(name), PurePath(file)
    shared = min(len(given.parts), len(wanted.parts))
    same_folders = given.parts[-shared:-1] == wanted.parts[-shared:-1]
    return same_folders and given.name in (wanted.name, wanted.with_suffix(".safetensors").name)
