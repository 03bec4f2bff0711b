"""What a model is asked for under the protocols `scenes-vqa` and `scenes-vqa-small`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from visgen.data.scenes import SPLITS
from visgen.errors import InputError, shown
from visgen.evaluation.protocols import get_answer_protocol
from visgen.evaluation.references import DEFAULT_REFERENCE, SCENES
from visgen.pruning.making import parse_pruner

ALL = "all"
# Shares of the vision tokens; 33, 22 and 11 % are the papers'
RETENTIONS = (1.0, 0.5, 0.33, 0.22, 0.11, 0.05)
DEFAULT_COUNT = 2100  # 300 of each of the seven kinds
LONGEST = 16  # tokens of an answer; models that were not trained here write sentences


@dataclass(frozen=True)
class AnswerOptions:
    """What is asked for.

    Attributes:
        protocol: a name of `ANSWER_PROTOCOLS`.
        split: of the scenes.
        count: number of questions.
        prune: methods, each a row of its own beside the whole model; "METHOD:all" is a method at each of
            `RETENTIONS`, "all" is every registered one that fits the model.
        seed: of the bootstrap.
        batch_size: questions answered at once.
        device, dtype, offline: as for `visgen.load`.
    """

    protocol: str = "scenes-vqa"
    split: str = "validation"
    count: int = DEFAULT_COUNT
    prune: tuple[str, ...] = ()
    seed: int = 0
    batch_size: int = 32
    device: str | None = None
    dtype: str | None = None
    offline: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "prune", tuple(m for method in self.prune for m in _expanded(method)))
        get_answer_protocol(self.protocol)
        if self.count < 1 or self.batch_size < 1:
            raise InputError(f"count={self.count} and batch_size={self.batch_size} must be 1 or more")
        for method in self.prune:
            if method != ALL:
                parse_pruner(method)


def split_of(reference: str | None) -> str:
    """The split of a reference "scenes:SPLIT"; None = the default one.

    Raises:
        InputError: another kind of reference.
    """
    name = reference or DEFAULT_REFERENCE
    if name.removeprefix(SCENES) not in SPLITS:
        raise InputError(
            f"--reference {shown(name)}: questions are about scenes; use {SCENES}SPLIT with one of "
            f"{', '.join(SPLITS)}"
        )
    return name.removeprefix(SCENES)


def at_all_retentions(names: Iterable[str]) -> list[str]:
    """Each method at each of `RETENTIONS`; at 1.0 only those that merge in the vision tower, as the others
    are the whole model there, which is asked anyway."""
    written = [(f"{name}:{keep}", keep) for name in names for keep in RETENTIONS]
    return [method for method, keep in written if keep < 1 or parse_pruner(method).merges]


def _expanded(method: str) -> list[str]:
    name, _, value = method.rpartition(":")
    return at_all_retentions([name]) if name and value == ALL else [method]
