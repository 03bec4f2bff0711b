"""The part of lmms-eval that the adapter touches: the real package where it is installed, else a fake."""

from __future__ import annotations

import importlib.util
import logging
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

INSTALLED = importlib.util.find_spec("lmms_eval") is not None


class FakeLmms:
    """`lmms_eval.api.model.lmms` of 0.7."""

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}
        self.cache_hook = FakeHook()


class FakeHook:
    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        pass


@dataclass(frozen=True)
class FakeManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass
class FakeResult:
    text: Any
    token_counts: Any = None


class FakeInstance:
    def __init__(
        self, request_type: str, arguments: tuple[Any, ...], idx: int, metadata: dict[str, Any]
    ) -> None:
        self.args = arguments


def provide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `import lmms_eval` work."""
    if INSTALLED:
        return
    parts = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.model": {"lmms": FakeLmms},
        "lmms_eval.api.instance": {"Instance": FakeInstance, "GenerationResult": FakeResult},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": FakeManifest},
        "loguru": {"logger": logging.getLogger("visgen.lmms")},
    }
    for name, values in parts.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "visgen.evaluation.lmms_eval.model", raising=False)


def request(arguments: tuple[Any, ...], kind: str = "generate_until") -> Any:
    """An `Instance` of it."""
    from lmms_eval.api.instance import Instance

    return Instance(kind, arguments, 0, {"task": "scenes", "doc_id": 0, "repeats": 1})
