"""What a pruner sees and answers: tokens of an image before the language model, of a sample inside it.

An *image token* is one entry of the sequence that the language model reads in place of an image, line ends
(LLaVA-NeXT's `image_newline`) included. Everything here belongs to one prefill.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from visgen.errors import InputError
from visgen.pruning.scoring import cls_products

Modality = Literal["image", "video"]


@dataclass(frozen=True, eq=False)
class TowerView:
    """What the vision tower computed for one image of T tiles (1, or a thumbnail and crops), N patches each.

    Attributes:
        hidden_TNC: the projector's input, without CLS.
        queries_TLC, keys_TLC: outputs of the last layer's `q_proj` and `k_proj`, biases included, heads not
            split, not scaled; L = N, plus one in front with a CLS token.
        num_heads: of that layer.
        has_cls: whether entry 0 of queries and keys is a CLS token.
        patch_N: int64, for every place of the image in the sequence the patch that it shows, numbered over
            all tiles (tile × N + patch); −1 for line ends.
        project: the family's projector, (…, N, C) → (…, N, D).
        canvas: (rows, columns) of the crops' grid, (1, 1) for one tile.
        image_size: (height, width) in pixels before cutting, or None where the model is not told.
        newline: (D,) the line end's embedding, or None.
    """

    hidden_TNC: Tensor
    queries_TLC: Tensor
    keys_TLC: Tensor
    num_heads: int
    has_cls: bool
    patch_N: Tensor
    project: Callable[[Tensor], Tensor]
    canvas: tuple[int, int] = (1, 1)
    image_size: tuple[int, int] | None = None
    newline: Tensor | None = None

    def cls_logits(self) -> Tensor:
        """(T, N) float32: the CLS token's attention logits, scaled by head_dim^-0.5, mean over heads.

        Raises:
            InputError: a tower without CLS.
        """
        return self._cls_products().mean(dim=1)[:, 1:]

    def cls_attention(self) -> Tensor:
        """(T, N) float32: the CLS token's attention probabilities, mean over heads; rows sum to less than 1,
        as CLS attends to itself too.

        Raises:
            InputError: a tower without CLS.
        """
        return self._cls_products().softmax(dim=-1).mean(dim=1)[:, 1:]

    def _cls_products(self) -> Tensor:
        if not self.has_cls:
            raise InputError("this vision tower has no CLS token; use scores, the attention a token receives")
        return cls_products(self.queries_TLC, self.keys_TLC, self.num_heads)


@dataclass(frozen=True, eq=False)
class ImageView:
    """The tokens of one image (with scope="sample": of all images of a sample) before the language model.

    Attributes:
        features_ND: as they stand in the language model's input.
        slots_N: int64, which of the image's places in the sequence each token stands for; 0 … N − 1, unless
            tokens were merged in the tower or dropped by an earlier pruner of a chain.
        num_slots: places of the image in the sequence, N of an image that nothing touched.
        sample, ordinal: row of the batch, and which image of that row.
        modality: "image" or "video".
        scores_N: float32, CLS attention of the tower's last layer, or the mean attention a token receives in
            a tower without CLS; −inf for line ends. Only with "scores" in the pruner's `needs`.
        tower: only with "tower" in `needs`.
        text_TD: the language model's input embeddings of the sample's text tokens, padding left out. Only
            with "text" in `needs`.
        text_ids_T: their ids.
        notes: the sample's own, from `select` to `filter`: what a method remembers between its stages.
    """

    features_ND: Tensor
    slots_N: Tensor
    num_slots: int
    sample: int
    ordinal: int
    modality: Modality = "image"
    scores_N: Tensor | None = None
    tower: TowerView | None = None
    text_TD: Tensor | None = None
    text_ids_T: Tensor | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    changed: bool = False  # whether features differ from what the model would read at these places

    def __len__(self) -> int:
        return len(self.features_ND)

    def take(self, selection: Selection) -> ImageView:
        """The image as a selection leaves it, in the selection's order; the tower's view stays whole."""
        index = selection.index_K
        merged = selection.features_KD
        return replace(
            self,
            features_ND=self.features_ND[index] if merged is None else merged.to(self.features_ND),
            slots_N=self.slots_N[index],
            scores_N=None if self.scores_N is None else self.scores_N[index],
            changed=self.changed or merged is not None,
        )


@dataclass(frozen=True, eq=False)
class Selection:
    """What stays of a view, most important first where the method has a rank.

    Attributes:
        index_K: int64, 1 ≤ K ≤ N, entries of the view; entry i of the result stands where `index_K[i]` stood.
        features_KD: what stands there instead, for methods that merge; None = the view's own features.
    """

    index_K: Tensor
    features_KD: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Merged:
    """What a merge inside the vision tower leaves.

    Attributes:
        hidden_BLD: shorter hidden states, CLS first where the tower has one.
        source_BM: int64, for each patch that is left (CLS not counted) the patch whose place it takes.
    """

    hidden_BLD: Tensor
    source_BM: Tensor


@dataclass(frozen=True, eq=False)
class LayerView:
    """The N image tokens that one sample still has after a decoder layer.

    Attributes:
        layer: index of that layer.
        stage: which of the pruner's `layers` it is.
        num_layers: of the language model.
        attention_HTN: float32 probabilities of that layer: heads × text rows × image tokens; T = 1 for
            `attention_rows = "last"` (the prompt's last token), for "text" every text token behind the
            sample's first image token, or the last token where there is none. None for a pruner without
            `attention_rows`.
        hidden_ND: the layer's output at the image tokens.
        token_N: int64, each token's number among those that entered the language model, ascending.
        image_N: int64, which image of the sample it belongs to.
        num_tokens: image tokens of the sample that entered the language model.
        sample: row of the batch.
        notes: those of the sample's `ImageView`s.
    """

    layer: int
    stage: int
    num_layers: int
    attention_HTN: Tensor | None
    hidden_ND: Tensor
    token_N: Tensor
    image_N: Tensor
    num_tokens: int
    sample: int
    notes: dict[str, Any]

    def __len__(self) -> int:
        return len(self.hidden_ND)
