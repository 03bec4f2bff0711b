"""What a drafter proposes in a pass: the options that strategies with a drafter share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from visgen.decoding.base import Resources, Session
from visgen.decoding.drafts.eagle import ChainSource, DynamicTreeSource, EagleSource, StaticTreeSource
from visgen.decoding.drafts.static_tree import StaticTree
from visgen.decoding.trees import static_paths
from visgen.errors import InputError

Kind = Literal["dynamic", "static", "chain"]
KINDS = ("dynamic", "static", "chain")
# Drafts per pass of a dynamic tree. A GPU scores the published 58 in the time of one, a CPU does not.
CPU_TOKENS, GPU_TOKENS = 12, 58


@dataclass(frozen=True)
class DraftShape:
    """Form and size of the drafts of one pass.

    Args:
        tree: "dynamic" = what the drafter holds most probable; "static" = a fixed tree, drawn; "chain" = one
            line, drawn.
        tokens: drafts of a dynamic tree; None = 12 on a CPU and 58 elsewhere.
        depth: drafts on the longest path, for "dynamic" and "chain".
        top_k: children looked at below a draft, and drafts of the beam, for "dynamic".
        shape: name of a static tree.

    Raises:
        InputError: a value out of range.
    """

    tree: Kind
    tokens: int | None
    depth: int
    top_k: int
    shape: str

    def __post_init__(self) -> None:
        if self.tree not in KINDS:
            raise InputError(f"tree={self.tree!r} is unknown; use one of {', '.join(KINDS)}")
        for name in ("tokens", "depth", "top_k"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}={value} is too small; use 1 or more")
        if self.tree == "static":
            static_paths(self.shape)

    @property
    def entries(self) -> int:
        """Entries of a pass of the target, the root included."""
        if self.tree == "static":
            return 1 + len(static_paths(self.shape))
        return 1 + (self.depth if self.tree == "chain" else self.tokens or GPU_TOKENS)

    def source(self, session: Session, resources: Resources | None, strategy: str) -> EagleSource:
        """Drafts for a session.

        Raises:
            InputError: no drafter, or one that does not fit the model.
        """
        if resources is None or resources.drafter is None:
            raise InputError(
                f"drafter=None: strategy {strategy!r} needs a drafter trained for this model; "
                "'jacobi' and 'sjd' need none"
            )
        drafter = resources.drafter
        if self.tree == "static":
            tree = StaticTree.from_paths(static_paths(self.shape))
            if tree.width > session.vocab_size:
                raise InputError(
                    f"shape={self.shape!r} draws {tree.width} different ids, and the model has "
                    f"{session.vocab_size}; use tree='dynamic'"
                )
            return StaticTreeSource(drafter.session(session, len(tree.parents) + 1), tree)
        if self.tree == "chain":
            return ChainSource(drafter.session(session, self.depth + 1), self.depth)
        tokens = self.tokens or (CPU_TOKENS if session.device.type == "cpu" else GPU_TOKENS)
        entries = max((self.depth - 1) * self.top_k, self.depth + 1)
        return DynamicTreeSource(drafter.session(session, entries), self.depth, self.top_k, tokens)
