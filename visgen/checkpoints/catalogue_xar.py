"""xAR's published generators (arXiv 2502.20388); recipes and FIDs are those of its README and table."""

from __future__ import annotations

from visgen.checkpoints.catalogue_entry import OfficialCheckpoint
from visgen.checkpoints.catalogue_kl16 import KL16_FILE, KL16_PARAMETERS, KL16_REPO

XAR_REPO = "OliverRen/xAR"


def _xar(size: str, parameters: float, steps: int, cfg: float, fid: str) -> OfficialCheckpoint:
    return OfficialCheckpoint(
        alias=f"xar-{size.lower()}",
        system="xar",
        tokenizer_system="kl16-tokenizer",
        repo_id=XAR_REPO,
        files={"tokenizer": KL16_FILE, "generator": f"xAR-{size}.pth"},
        repos={"tokenizer": KL16_REPO},
        size_bytes=round(4 * (parameters + KL16_PARAMETERS)),
        licence="none stated",
        paper="2502.20388",
        sampling={"num_inference_steps": steps, "guidance_scale": cfg, "guidance_schedule": "linear"},
        parity="tiny official model (tests/golden/xar)",
        notes=f"ImageNet classes at 256×256, four cells; published FID {fid}; the tokenizer is MAR's (MIT)",
    )


XAR_ENTRIES = (
    _xar("B", 172.6e6, 40, 2.7, "1.72"),
    _xar("L", 608.4e6, 50, 2.3, "1.28"),
    _xar("H", 1186.0e6, 50, 2.2, "1.24"),
)
