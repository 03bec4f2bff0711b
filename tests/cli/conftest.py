"""A pipeline that paints plain squares instead of running a model, and a way to type commands at it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import visgen
from visgen.cli.main import app

SIZE = 16
STEPS = 3


class StubPipeline:
    """Records how it was loaded and called; image number i is a square of grey level 10 · i."""

    def __init__(self) -> None:
        self.loaded: tuple[Any, dict[str, Any]] = (None, {})
        self.called: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        self.error: BaseException | None = None
        self.has_steps = True

    def load(self, name: str, **options: Any) -> StubPipeline:
        self.loaded = (name, options)
        return self

    def set_progress_bar_config(self, **options: Any) -> None:
        pass

    def __call__(self, first: Any, **options: Any) -> Any:
        self.called = ((first,), options)
        if self.error is not None:
            raise self.error
        if self.loaded[1]["task"] == "reconstruct":
            return self._reconstructed(first, options)
        subjects = (
            [options.get("prompt") or options.get("label")] if isinstance(first, Image.Image) else first
        )
        subjects = [one for one in subjects for _ in range(options["num_images_per_prompt"])]
        callback = options.get("callback_on_step_end")
        if callback and self.has_steps:
            for step in range(STEPS):
                callback(self, step, STEPS, StubState(len(subjects)))
        return self._output(squares(len(subjects)), subjects, options.get("seed"))

    def _reconstructed(self, image: Image.Image, options: dict[str, Any]) -> Any:
        made = image if options.get("tile") else image.resize((SIZE, SIZE))
        steps = [squares(1) for _ in range(STEPS)] if options.get("progressive") else None
        return self._output([made], [None], None, progressive=[[s[0] for s in steps]] if steps else None)

    def _output(self, images: list[Image.Image], subjects: list[Any], seed: int | None, **more: Any) -> Any:
        from visgen.pipelines.output import ImageOutput

        named = {}
        if isinstance(subjects[0], str):
            named = {"prompts": subjects}
        elif isinstance(subjects[0], int):
            named = {"labels": subjects}
        seeds = [None if seed is None else (seed, k) for k in range(len(images))]
        return ImageOutput(images, None, seeds=seeds, settings={"sampling": {"top_k": 9}}, **named, **more)


class StubState:
    """What a step callback sees."""

    def __init__(self, count: int) -> None:
        self.rows = range(count)

    def images(self) -> list[Image.Image]:
        return squares(len(self.rows))


def squares(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (SIZE, SIZE), (10 * i,) * 3) for i in range(count)]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> StubPipeline:
    """`visgen.load` gives a `StubPipeline`."""
    pipeline = StubPipeline()
    monkeypatch.setattr(visgen, "load", pipeline.load, raising=False)
    return pipeline


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Types a `visgen` command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words], prog_name="visgen")
