"""What the authors of SEED published. From memory, unverified here: the size of the download."""

from __future__ import annotations

from visgen.checkpoints.catalogue_entry import OfficialCheckpoint

SEED_TOKENIZER_BYTES = 2.9e9  # 1.4 billion parameters in float16, the unused branch among them

SEED_ENTRIES = (
    OfficialCheckpoint(
        alias="seed-tokenizer-2",
        system="seed-tokenizer",
        tokenizer_system="seed-tokenizer",
        repo_id="AILab-CVC/seed-tokenizer-2",
        files={"tokenizer": "seed_quantizer.pt"},
        size_bytes=round(SEED_TOKENIZER_BYTES),
        licence="Apache-2.0",
        paper="2310.01218",
        parity="tiny official models (tests/golden/seed)",
        notes="32 ids per image; drawing them takes stabilityai/stable-diffusion-2-1-unclip, 5 GB more",
    ),
)
