"""What measures sessions: the first tokens only, the logits of each pass, the weights that a pass reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from visgen.decoding.base import Session, Step


class _Wrapped(Session):
    """All that another session does."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def prefill(self) -> Step:
        return self._session.prefill()

    def extend(self, tokens_BNK: Tensor, parents_BN: Tensor | None = None) -> Step:
        return self._session.extend(tokens_BNK, parents_BN)

    def commit(self, index_BM: Tensor, counts_B: Tensor) -> None:
        self._session.commit(index_BM, counts_B)


class FirstTokens(_Wrapped):
    """An image that ends after `length` tokens; guidance schedules are those of the whole one."""

    def __init__(self, session: Session, length: int) -> None:
        super().__init__(session)
        self.length = length


class RecordingSession(_Wrapped):
    """Adds the logits of every pass to a list, on the CPU."""

    def __init__(self, session: Session, record: list[Tensor]) -> None:
        super().__init__(session)
        self._record = record

    def prefill(self) -> Step:
        return self._keep(super().prefill())

    def extend(self, tokens_BNK: Tensor, parents_BN: Tensor | None = None) -> Step:
        return self._keep(super().extend(tokens_BNK, parents_BN))

    def _keep(self, step: Step) -> Step:
        self._record.append(step.logits.cpu())
        return step


def weights_read(model: nn.Module, call: Callable[[], Any]) -> int:
    """Bytes of the weights that a call reads whole: of every module that runs, but not of embedding tables,
    of which it reads a row."""
    read: dict[int, Tensor] = {}

    def note(module: nn.Module, inputs: Any) -> None:
        if not isinstance(module, nn.Embedding):
            read.update({id(p): p for p in module.parameters(recurse=False)})

    handles = [module.register_forward_pre_hook(note) for module in model.modules()]
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    return sum(p.numel() * p.element_size() for p in read.values())
