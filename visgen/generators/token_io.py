"""How a next-token model reads and writes the ids of a position: one code, sub-codes, or a window of codes.

All take ids (B, N, K), give one input vector per position, and turn hidden states (B, N, C) into *features*
(B, N, Kf, C) whose logits (B, N, K, V) a linear head gives: guidance may mix features instead of logits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visgen.nn.llama import RMSNorm


def apply_head(head: nn.Module, features_BNKC: Tensor) -> Tensor:
    """Logits (B, N, K, V) in float32, in one matrix product: on slices of a sequence torch would copy the
    head's weight for every row (9 s instead of 0.06 for 64 rows of 4,096 ids in bfloat16)."""
    rows = features_BNKC.reshape(-1, features_BNKC.shape[-1])
    return head(rows).float().view(*features_BNKC.shape[:-1], -1)


class PlainTokens(nn.Module):
    """One id per position (K = 1): embedding, final norm, head."""

    num_codes = 1

    def __init__(self, codebook_size: int, hidden_size: int, norm_eps: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, hidden_size)
        self.norm = RMSNorm(hidden_size, norm_eps)
        self.head = nn.Linear(hidden_size, codebook_size, bias=False)

    def embed(self, ids_BNK: Tensor) -> Tensor:
        """Input vectors (B, N, C)."""
        return self.embedding(ids_BNK.squeeze(-1))

    def features(self, hidden_BNC: Tensor) -> Tensor:
        """(B, N, 1, C)."""
        return self.norm(hidden_BNC)[:, :, None]

    def logits(self, features_BNKC: Tensor) -> Tensor:
        """Float32 (B, N, K, V)."""
        return apply_head(self.head, features_BNKC)


class SubCodeTokens(nn.Module):
    """K sub-codes per position (ELM, arXiv 2410.16257): tables whose vectors are joined, a head for each.

    The sub-codes of a position are predicted side by side, independent given the hidden state.
    """

    def __init__(self, codebook_size: int, num_codes: int, hidden_size: int, norm_eps: float) -> None:
        super().__init__()
        self.num_codes = num_codes
        self.embedding = nn.ModuleList(nn.Embedding(codebook_size, hidden_size) for _ in range(num_codes))
        self.join = nn.Linear(num_codes * hidden_size, hidden_size, bias=False)
        self.norm = RMSNorm(hidden_size, norm_eps)
        self.head = nn.ModuleList(nn.Linear(hidden_size, codebook_size, bias=False) for _ in range(num_codes))

    def embed(self, ids_BNK: Tensor) -> Tensor:
        """Input vectors (B, N, C)."""
        parts = [table(ids) for table, ids in zip(self.embedding, ids_BNK.unbind(-1), strict=True)]
        return self.join(torch.cat(parts, dim=-1))

    def features(self, hidden_BNC: Tensor) -> Tensor:
        """(B, N, 1, C), which all heads read."""
        return self.norm(hidden_BNC)[:, :, None]

    def logits(self, features_BN1C: Tensor) -> Tensor:
        """Float32 (B, N, K, V)."""
        return torch.cat([apply_head(head, features_BN1C) for head in self.head], dim=2)


class ResidualMLP(nn.Module):
    """x + W₂ GELU(W₁ norm(x)); starts as the identity."""

    def __init__(self, size: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = RMSNorm(size, norm_eps)
        self.fc1 = nn.Linear(size, size)
        self.fc2 = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


class ShuffledTokens(nn.Module):
    """A window of K = s² ids per position (Token-Shuffle, arXiv 2504.17789).

    Reading: every id's vector is compressed to C / K channels, the K of a window are joined and refined by
    residual MLPs. Writing: MLPs, K chunks, each expanded to C; norm and head are shared by all.
    """

    def __init__(
        self, codebook_size: int, num_codes: int, hidden_size: int, norm_eps: float, num_blocks: int = 2
    ) -> None:
        super().__init__()
        self.num_codes = num_codes
        part = hidden_size // num_codes
        self.embedding = nn.Embedding(codebook_size, hidden_size)
        self.compress = nn.Linear(hidden_size, part)
        self.shuffle = nn.ModuleList(ResidualMLP(hidden_size, norm_eps) for _ in range(num_blocks))
        self.unshuffle = nn.ModuleList(ResidualMLP(hidden_size, norm_eps) for _ in range(num_blocks))
        self.expand = nn.Linear(part, hidden_size)
        self.norm = RMSNorm(hidden_size, norm_eps)
        self.head = nn.Linear(hidden_size, codebook_size, bias=False)

    def embed(self, ids_BNK: Tensor) -> Tensor:
        """Input vectors (B, N, C)."""
        x = self.compress(self.embedding(ids_BNK)).flatten(2)
        for block in self.shuffle:
            x = block(x)
        return x

    def features(self, hidden_BNC: Tensor) -> Tensor:
        """(B, N, K, C)."""
        x = hidden_BNC
        for block in self.unshuffle:
            x = block(x)
        return self.norm(self.expand(x.unflatten(-1, (self.num_codes, -1))))

    def logits(self, features_BNKC: Tensor) -> Tensor:
        """Float32 (B, N, K, V)."""
        return apply_head(self.head, features_BNKC)


TokenIO = PlainTokens | SubCodeTokens | ShuffledTokens


def to_windows(ids_BL: Tensor, grid: tuple[int, int], window: int) -> Tensor:
    """Raster ids (B, h·w) → (B, h·w / s², s²): windows in raster order, raster order inside each."""
    h, w = grid
    x = ids_BL.unflatten(1, (h // window, window, w // window, window))
    return x.permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)


def from_windows(ids_BFK: Tensor, grid: tuple[int, int], window: int) -> Tensor:
    """The inverse of `to_windows`: (B, h·w) in raster order."""
    h, w = grid
    x = ids_BFK.unflatten(1, (h // window, w // window)).unflatten(3, (window, window))
    return x.permute(0, 1, 3, 2, 4).flatten(1)
