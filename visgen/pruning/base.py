"""The contract of vision-token pruners: what a method overrides, and how it is applied to a model.

    with DivPrune(keep=0.11)(model) as run:
        ids = model.generate(**inputs)
    run.report

A method is a frozen dataclass of plain options. It may act at three places, and overrides only those it uses:
inside the vision tower (`tower_layer`, `merge`), before the language model (`select`), and inside it
(`layers`, `filter`). Hooks and bookkeeping are `visgen.pruning.run`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from visgen.errors import InputError, shown
from visgen.pruning.views import ImageView, LayerView, Merged, Selection

if TYPE_CHECKING:
    from visgen.pruning.run import PruneRun

Need = Literal["scores", "tower", "text"]
AttentionRows = Literal["last", "text"]
CHOICES = {"positions": ("preserve", "compact"), "order": ("index", "rank"), "scope": ("image", "sample")}


def count_kept(keep: int | float, total: int) -> int:
    """How many of `total` tokens `keep` means: a float is a fraction (Python's rounding, at least 1 token),
    an int a count (at most `total`)."""
    wanted = keep if isinstance(keep, int) else round(keep * total)
    return max(1, min(wanted, total))


@dataclass(frozen=True)
class VisionTokenPruner:
    """Base of all pruners; itself it keeps every token.

    Args:
        keep: fraction (float in (0, 1]) or count (int ≥ 1) of image tokens that stay; None = the method's own
            criterion, where it has one.
        positions: "preserve" keeps the rotary positions that tokens had in the whole prompt, and equals
            attention to the whole prompt with the dropped tokens masked; "compact" counts 0, 1, 2 … anew
            after each pruning, as the papers' LLaVA forks do.
        order: "index" keeps the order of the image, "rank" the order of the selection.
        scope: whether `keep` counts for each "image" or for all images of a "sample" together.
    """

    keep: int | float | None = 1.0
    positions: Literal["preserve", "compact"] = "preserve"
    order: Literal["index", "rank"] = "index"
    scope: Literal["image", "sample"] = "image"

    needs: ClassVar[frozenset[Need]] = frozenset()  # parts of `ImageView` that cost something
    attention_rows: ClassVar[AttentionRows | None] = None  # of the layers after which `filter` is asked
    own_criterion: ClassVar[bool] = False  # whether the method decides how many stay when `keep` is None
    main_option: ClassVar[str | None] = "keep"  # what METHOD:VALUE sets

    def __post_init__(self) -> None:
        check_keep(self.keep, self.own_criterion)
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name}={shown(getattr(self, name))} must be one of {', '.join(known)}")

    def __call__(self, model: Any) -> AbstractContextManager[PruneRun]:
        """Prune whatever the model reads inside the `with` block.

        Args:
            model: a …ForConditionalGeneration of transformers of one of `visgen.pruning.families.FAMILIES`.

        Raises:
            InputError: another model, a model that is being pruned already, or later a call that cannot be
                pruned: static caches, chunked prefill, assisted decoding, a second turn on a pruned cache.
        """
        from visgen.pruning.run import prune

        return prune(model, self)

    @property
    def parts(self) -> tuple[VisionTokenPruner, ...]:
        """The pruners that act, one after another; a chain has several."""
        return (self,)

    @property
    def merges(self) -> bool:
        """Whether tokens are merged inside the vision tower, where pictures of a batch share one length."""
        return any(part.tower_layer is not None for part in self.parts)

    @property
    def tower_layer(self) -> int | None:
        """Layer of the vision tower after which `merge` is called; None = none."""
        return None

    def merge(self, hidden_BLD: Tensor) -> Merged:
        """Shorten the tower's hidden states, each tile by the same number of patches."""
        raise NotImplementedError(f"{type(self).__name__} names a tower layer and must merge")

    def select(self, images: Sequence[ImageView]) -> Sequence[Selection] | None:
        """What stays of each view before the language model; None = everything.

        Views are those of the whole batch, so that images of equal length can be worked on at once; nothing
        that is selected of one may depend on another. How many stay is `self.budget(len(view))`.
        """
        return None

    def layers(self, num_layers: int) -> Collection[int]:
        """Decoder layers after which `filter` is asked; empty = none."""
        return ()

    def filter(self, view: LayerView) -> Tensor:
        """(K,) int64, K ≥ 1: which of the view's image tokens go on to the next layer, in any order."""
        raise NotImplementedError(f"{type(self).__name__} names decoder layers and must filter")

    def cut_cache(self, num_layers: int) -> Collection[int]:
        """Layers whose cache is cut, after the prefill, to the tokens that reached the last layer."""
        return ()

    def budget(self, total: int) -> int:
        """How many of `total` tokens stay, 1 … total."""
        if self.keep is None:
            raise InputError(
                f"{type(self).__name__} needs keep, a fraction such as 0.25 or a count such as 64"
            )
        return count_kept(self.keep, total)


def check_keep(keep: object, optional: bool = False) -> None:
    """Refuse what is no fraction in (0, 1] and no count.

    Raises:
        InputError: naming the value.
    """
    if keep is None and optional:
        return
    fraction = isinstance(keep, float) and 0 < keep <= 1
    count = isinstance(keep, int) and not isinstance(keep, bool) and keep >= 1
    if not (fraction or count):
        raise InputError(
            f"keep={shown(keep)} must be a fraction in (0, 1], such as 0.25, or a count from 1 on, such as 64"
        )
