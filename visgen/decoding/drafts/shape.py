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
# A GPU scores the published 58 drafts in the time of one; on a CPU each costs, and so does every draft pass.
DEFAULTS = {"cpu": {"tokens": 8, "line": 3, "depth": 3, "top_k": 4}}
ELSEWHERE = {"tokens": 58, "line": 5, "depth": 5, "top_k": 10}


@dataclass(frozen=True)
class DraftShape:
    """Form and size of the drafts of one pass.

    Args:
        tree: "chain" = one line, drawn; "dynamic" = what the drafter holds most probable; "static" = a fixed
            tree, drawn.
        tokens: drafts of a chain (None = 3 on a CPU and 5 elsewhere) or a dynamic tree (8 and 58).
        depth: drafts on the longest path of a dynamic tree; None = 3 on a CPU and 5 elsewhere.
        top_k: children looked at below a draft of a dynamic tree, and drafts of its beam; None = 4 on a CPU
            and 10 elsewhere.
        shape: name of a static tree.

    Raises:
        InputError: a value out of range.
    """

    tree: Kind
    tokens: int | None
    depth: int | None
    top_k: int | None
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
        return 1 + (self.tokens or ELSEWHERE["line" if self.tree == "chain" else "tokens"])

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
        default = DEFAULTS.get(session.device.type, ELSEWHERE)
        if self.tree == "chain":
            line = self.tokens or default["line"]
            return ChainSource(drafter.session(session, line + 1), line)
        depth, top_k = self.depth or default["depth"], self.top_k or default["top_k"]
        beam = drafter.session(session, max((depth - 1) * top_k, depth + 1))
        return DynamicTreeSource(beam, depth, top_k, self.tokens or default["tokens"])
