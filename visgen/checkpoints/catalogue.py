"""What the authors published: hub id, files, size, licence and the sampling recipe of their best numbers.

Loads no torch, so that listing is instant. Look at the hub page for the full terms of a licence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from visgen.errors import UnknownNameError
from visgen.registry import nearest


@dataclass(frozen=True)
class OfficialCheckpoint:
    """One published model.

    Attributes:
        alias: the name `visgen.load` takes.
        system: key of `visgen.checkpoints.OFFICIAL` for the generator.
        tokenizer_system: the same for the tokenizer.
        repo_id: repository on the hub.
        files: role ("tokenizer", "generator") → file name in the repository.
        size_bytes: download in bytes, about (parameters × 4).
        licence: of the weights.
        paper: arXiv id.
        sampling: keywords of `TokenSampling`, the published recipe in our convention of guidance.
        configs: role → official configuration keys that shapes do not tell.
        parity: what our numbers were checked against.
        notes: one line for people.
    """

    alias: str
    system: str
    tokenizer_system: str
    repo_id: str
    files: Mapping[str, str]
    size_bytes: int
    licence: str
    paper: str
    sampling: Mapping[str, Any] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    parity: str = ""
    notes: str = ""

    @property
    def tasks(self) -> tuple[str, ...]:
        """What `visgen.load(alias, task)` accepts, the default first."""
        return ("class-to-image", "edit", "reconstruct") if "generator" in self.files else ("reconstruct",)

    @property
    def about(self) -> str:
        """Size, licence and source in a few words."""
        return f"about {self.size_bytes / 1e9:.1f} GB, licence {self.licence}, {self.repo_id} on the hub"


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


def entry_of_file(name: str, role: str = "generator") -> OfficialCheckpoint | None:
    """The entry whose file of that role has this name, or None."""
    return next((entry for entry in _ENTRIES if entry.files.get(role) == name), None)
