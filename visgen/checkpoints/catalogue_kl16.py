"""The tokenizer under MAR and xAR. From memory, unverified here: the place of the file in its repository."""

from __future__ import annotations

from visgen.checkpoints.catalogue_entry import OfficialCheckpoint

KL16_REPO, KL16_FILE = "jadechoghari/mar", "vae/kl16.ckpt"  # a copy on the hub; MAR's own link is no hub
KL16_PARAMETERS = 66.46e6

KL16_ENTRIES = (
    OfficialCheckpoint(
        alias="kl16",
        system="kl16-tokenizer",
        tokenizer_system="kl16-tokenizer",
        repo_id=KL16_REPO,
        files={"tokenizer": KL16_FILE},
        size_bytes=round(4 * KL16_PARAMETERS),
        licence="MIT",
        paper="2406.11838",
        parity="tiny official models (tests/golden/klvae16)",
        notes="the continuous tokenizer of MAR and xAR: 16 channels, a position per 16×16 pixels",
    ),
)
