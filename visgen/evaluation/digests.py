"""Digests that say two evaluations saw the same images, or used the same weights."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from visgen.pipelines.fingerprint import add_tensors


def image_digests(images: Tensor) -> Tensor:
    """SHA-256 of each uint8 image (B, 3, H, W), its bytes in (H, W, 3) order as in a PNG: uint8 (B, 32)."""
    rows = images.permute(0, 2, 3, 1).contiguous().numpy()
    return torch.tensor([list(hashlib.sha256(row.tobytes()).digest()) for row in rows], dtype=torch.uint8)


def digest_of_digests(digests: Tensor) -> str:
    """SHA-256 (hex) over the digests (N, 32) in index order: one text for all images."""
    return hashlib.sha256(digests.numpy().tobytes()).hexdigest()


def module_digest(module: nn.Module) -> str:
    """SHA-256 (hex) over a module's tensors in the order of their names."""
    digest = hashlib.sha256()
    add_tensors(digest, module)
    return digest.hexdigest()
