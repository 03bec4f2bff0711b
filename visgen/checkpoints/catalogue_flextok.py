"""FlexTok's published tokenizers (arXiv 2502.13967). Ids and sizes are from memory of the hub pages."""

from __future__ import annotations

from visgen.checkpoints.catalogue_entry import OfficialCheckpoint

FILE = "model.safetensors"  # its header holds the configuration, so that nothing else is fetched
LICENCE = "Apple ML Research (research only)"
AUTOENCODER_PARAMETERS = 84e6


def _flextok(size: str, data: str, parameters: float) -> OfficialCheckpoint:
    """`size` as in "d18-d28": blocks of encoder and decoder."""
    in1k = data == "in1k"
    return OfficialCheckpoint(
        alias=f"flextok-{size}" + ("" if in1k else f"-{data}"),
        system="flextok",
        tokenizer_system="flextok",
        repo_id=f"EPFL-VILAB/flextok_{size.replace('-', '_')}_{data}",
        files={"tokenizer": FILE},
        size_bytes=round(4 * (parameters + AUTOENCODER_PARAMETERS)),
        licence=LICENCE,
        paper="2502.13967",
        parity="tiny official model (tests/golden/flextok)",
        notes=f"1 to 256 tokens of 256×256 pixels; trained on {'ImageNet-1k' if in1k else 'DFN'}",
    )


FLEXTOK_ENTRIES = (
    _flextok("d12-d12", "in1k", 257e6),
    _flextok("d18-d18", "in1k", 866e6),
    _flextok("d18-d28", "in1k", 2457e6),
    _flextok("d18-d28", "dfn", 2457e6),
)
