"""How much attention each patch gets in the last layer of a vision tower, from its queries and keys alone.

CLS attention where there is a CLS token: one row per head. Otherwise the mean attention that a patch receives
from all patches, in chunks of rows: never an N × N map at once.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.pruning.families import Anatomy
from visgen.pruning.scoring import attention_received, cls_products
from visgen.pruning.undo import Undo


class TowerWatch:
    """Queries and keys of the last layer of a tower whose tiles are a batch (CLIP, SigLIP, InternViT).

    Attributes:
        queries_TLC, keys_TLC: of the last pass, as the projections give them (normed where the tower norms).
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self.attention: Any = anatomy.tower_attention
        self.has_cls = anatomy.tower is not None and anatomy.tower.has_cls
        self.queries_TLC = self.keys_TLC = torch.empty(0)

    def attach(self, undo: Undo) -> None:
        """Watch the projections."""
        undo.after(self.attention.q_proj, self._queries)
        undo.after(self.attention.k_proj, self._keys)

    @property
    def num_heads(self) -> int:
        """Of the watched layer."""
        return self.attention.num_heads

    def scores(self) -> Tensor:
        """(T, L) float32: attention that each entry gets, the CLS token's own among them."""
        if self.has_cls:
            products = cls_products(self.queries_TLC, self.keys_TLC, self.num_heads)
            return products.softmax(dim=-1).mean(dim=1)
        split = (*self.keys_TLC.shape[:2], self.num_heads, -1)
        tiles = zip(self.queries_TLC.view(split), self.keys_TLC.view(split), strict=True)
        return torch.stack([attention_received(q_NHD, k_NHD) for q_NHD, k_NHD in tiles])

    def _queries(self, module: Any, args: Any, kwargs: Any, output: Tensor) -> None:
        self.queries_TLC = _normed(self.attention, "q_norm", output.detach())

    def _keys(self, module: Any, args: Any, kwargs: Any, output: Tensor) -> None:
        self.keys_TLC = _normed(self.attention, "k_norm", output.detach())


class PackedTowerWatch:
    """Attention of the last block of a Qwen tower, where all images are one sequence of patches."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.vision = anatomy.vision
        self.attention: Any = anatomy.tower_attention
        self.qkv_SC = torch.empty(0)
        self.call: dict[str, Any] = {}
        self.window_index: Tensor | None = None

    def attach(self, undo: Undo) -> None:
        """Watch the last block, and the order in which a windowed tower puts its patches."""
        undo.before(self.attention, self._before)
        undo.after(self.attention.qkv, self._qkv)
        permute = getattr(self.vision, "permute_input_for_window_attn", None)
        if permute is not None:
            undo.override(self.vision, "permute_input_for_window_attn", self._permuting(permute))
        elif hasattr(self.vision.config, "window_size"):
            raise InputError(
                "this version of transformers does not tell how its windowed tower orders patches; "
                "scores of Qwen2.5-VL need transformers 5.24 or newer"
            )

    def scores(self) -> Tensor:
        """(M,) float32: attention that each token receives from its image or frame, mean over the patches
        that are merged to it, in the order of the features."""
        q_SHD, k_SHD = self._rotated()
        steps = self.call["cu_seqlens"].diff().tolist()
        parts = zip(q_SHD.split(steps), k_SHD.split(steps), strict=True)
        received_S = torch.cat([attention_received(q_NHD, k_NHD) for q_NHD, k_NHD in parts])
        merge = self.vision.spatial_merge_size**2
        received_M = received_S.view(-1, merge).mean(dim=1)
        return received_M if self.window_index is None else received_M[self.window_index.argsort()]

    def _rotated(self) -> tuple[Tensor, Tensor]:
        length = self.qkv_SC.shape[0]
        q, k, _ = self.qkv_SC.view(length, 3, self.attention.num_heads, -1).unbind(1)
        rotate = sys.modules[type(self.attention).__module__].apply_rotary_pos_emb_vision  # type: ignore[attr-defined]
        return rotate(q, k, *self.call["position_embeddings"])

    def _before(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.call = {name: kwargs[name] for name in ("cu_seqlens", "position_embeddings")}

    def _qkv(self, module: Any, args: Any, kwargs: Any, output: Tensor) -> None:
        self.qkv_SC = output.detach()

    def _permuting(self, permute: Any) -> Any:
        def watched(input_tensor: Tensor, window_index: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            self.window_index = window_index
            return permute(input_tensor, window_index, *args, **kwargs)

        return watched


def _normed(attention: Any, name: str, output: Tensor) -> Tensor:
    norm = getattr(attention, name, None)
    return output if norm is None else norm(output)
