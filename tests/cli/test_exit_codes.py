"""0 done, 1 internal, 2 bad input, 130 interrupted; one line on stderr, a traceback only with --debug."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from tests.cli.conftest import StubPipeline
from visgen.errors import InputError, UnknownNameError

Run = Callable[..., Result]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("top_k=0 must be\nat least 1"), 2, "visgen: top_k=0 must be at least 1"),
        (UnknownNameError("unknown model 'x'"), 2, "visgen: unknown model 'x'"),
        (
            FileNotFoundError(2, "No such file or directory", "a.yaml"),
            2,
            "visgen: a.yaml: No such file or directory",
        ),
        (PermissionError(13, "Permission denied", "/etc/x"), 2, "visgen: /etc/x: Permission denied"),
        (
            ModuleNotFoundError("no", name="accelerate"),
            2,
            "visgen: this needs accelerate: pip install 'visgen[eval]'",
        ),
        (KeyboardInterrupt(), 130, "visgen: interrupted"),
        (
            OSError(28, "No space left on device"),
            1,
            "visgen: internal error: OSError: [Errno 28] No space left on device",
        ),
        (RuntimeError("boom"), 1, "visgen: internal error: RuntimeError: boom"),
        (ValueError("not ours"), 1, "visgen: internal error: ValueError: not ours"),
        (RuntimeError("b" * 9999), 1, f"visgen: internal error: RuntimeError: {'b' * 486}… (`visgen"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_is_one_line_and_a_code(
    run: Run, stub: StubPipeline, error: BaseException, code: int, line: str
) -> None:
    stub.error = error
    result = run("generate", "a red circle")
    assert result.exit_code == code
    assert result.stderr.splitlines()[0].startswith(line)
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_an_internal_error_points_to_debug(run: Run, stub: StubPipeline) -> None:
    stub.error = RuntimeError("boom")
    assert "--debug" in run("generate", "x").stderr


@pytest.mark.parametrize(("error", "code"), [(RuntimeError("boom"), 1), (InputError("bad"), 2)])
def test_debug_shows_the_traceback(run: Run, stub: StubPipeline, error: Exception, code: int) -> None:
    stub.error = error
    result = run("--debug", "generate", "x")
    assert result.exit_code == code
    assert "Traceback (most recent call last)" in result.stderr
    assert "Traceback" not in run("generate", "x").stderr  # the option lasts for one command


@pytest.mark.parametrize(
    "words",
    [
        ["paint"],
        ["generate", "x", "--no-such-option"],
        ["generate", "x", "-n", "0"],
        ["generate", "x", "-n", "many"],
        ["generate", "x", "--top-k", "some"],
        ["generate"],
        ["generate", "x", "--label", "3"],
        ["generate", "--label", "3", "--negative", "x"],
        ["generate", "x", "y", "-o", "one.png"],
        ["generate", "x", "-n", "2", "-o", "one.png"],
        ["generate", "x", "-o", "x.jpg"],
        ["generate", "x", "--device", "abacus"],
        ["--threads", "0", "models"],
        ["edit"],
        ["edit", "missing.png", "--box", "0,0,1,1"],
        ["edit", "in.png", "--box", "0,0,1"],
        ["edit", "in.png", "--box", "a,b,c,d"],
        ["edit", "in.png", "--mask", "missing.png"],
        ["reconstruct", "missing.png"],
        ["reconstruct", "text.png"],
        ["reconstruct", "in.png", "in.png", "-o", "one.png"],
        ["info", "missing.png"],
        ["info", "text.png"],
        ["train", "missing.yaml"],
    ],
    ids=" ".join,
)
def test_bad_input_ends_with_2(run: Run, stub: StubPipeline, tmp_path: Path, words: list[str]) -> None:
    from tests.cli.conftest import squares

    squares(1)[0].save(tmp_path / "in.png")
    (tmp_path / "text.png").write_text("no picture")
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert result.stderr != ""
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "text.png"]


def test_a_warning_is_one_line(run: Run, stub: StubPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(self: StubPipeline, *_: object, **__: object) -> None:
        warnings.warn("this model does not know\n'dog'", UserWarning, stacklevel=2)
        warnings.warn("old", DeprecationWarning, stacklevel=2)
        raise InputError("enough")

    monkeypatch.setattr(type(stub), "__call__", warn)
    lines = run("generate", "a red dog").stderr.splitlines()
    assert lines == ["visgen: warning: this model does not know 'dog'", "visgen: enough"]


def test_threads(run: Run, stub: StubPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("MKL_NUM_THREADS", "2")
    before = torch.get_num_threads()
    try:
        assert run("--threads", 1, "generate", "x").exit_code == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
