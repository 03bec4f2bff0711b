"""Places where nothing can be written, and pictures that must stay whole until the new one is."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.robustness.conftest import Refused, Run, snapshot
from visgen.data.images import write_png
from visgen.errors import InputError

VERBS: dict[str, list[str]] = {
    "generate": ["generate", "a red circle"],
    "several": ["generate", "a red circle", "-n", "2"],
    "edit": ["edit", "in.png", "--box", "0,0,1,1"],
    "reconstruct": ["reconstruct", "in.png"],
}
PLACES: dict[str, str] = {
    "/dev/full": "no folder",
    "/dev/null": "no folder",
    "/dev/null/x.png": "no folder",
    "in.png/x.png": "no folder",
    "in.png/deeper/x.png": "no folder",
    "text.txt": "no folder",
    "/proc/nothing/x.png": "written",
    "broken/x.png": "no folder",
    "circle": "no folder",
    "": "empty",
    "out.jpg": "PNG",
    "out.JPEG": "PNG",
    "out.gif": "PNG",
    "out.webp": "PNG",
    "x" * 300 + ".png": "255 bytes",
    "🎨" * 64 + ".png": "255 bytes",
    "x" * 300 + "/x.png": "255 bytes",
}


@pytest.fixture(autouse=True)
def things(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "in.png")
    (tmp_path / "text.txt").write_text("keep me")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[:24])
def test_places_that_take_no_picture(refused: Refused, verb: str, place: str) -> None:
    told = PLACES[place]
    if os.geteuid() != 0 and place.startswith("/proc"):
        told = "-o"
    if verb == "several" and place.endswith(".png"):
        told = "one picture" if told == "PNG" else ""
    refused(*VERBS[verb], "-o", place, told=told)


def test_a_folder_that_may_not_be_written(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o500)
    if os.access(tmp_path / "shut", os.W_OK):
        pytest.skip("this user may write everywhere")
    refused("generate", "a red circle", "-o", "shut/x.png", told="shut")


def test_a_folder_named_like_a_picture(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.png").mkdir()
    result = run("generate", "a red circle", "-o", "x.png")
    assert (result.exit_code, result.stdout) == (0, "x.png/000000_0.png\n")


@pytest.mark.parametrize("verb", ["generate", "edit", "reconstruct"])
def test_a_named_picture_is_replaced_whole(run: Run, tmp_path: Path, verb: str) -> None:
    old = tmp_path / "old.png"
    old.write_bytes(b"an older picture")
    os.link(old, tmp_path / "other-name")
    assert run(*VERBS[verb], "-o", "old.png").exit_code == 0
    assert Image.open(old).size == (64, 64)
    assert (tmp_path / "other-name").read_bytes() == b"an older picture", "it was written over, not replaced"


@pytest.mark.parametrize("verb", ["generate", "edit", "reconstruct"])
def test_nothing_is_overwritten_unasked(run: Run, tmp_path: Path, verb: str) -> None:
    first = run(*VERBS[verb])
    before = snapshot(tmp_path)
    second = run(*VERBS[verb])
    assert (first.exit_code, second.exit_code) == (0, 0)
    after = snapshot(tmp_path)
    assert len(after) == len(before) + 1 and before.items() <= after.items()


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def broken_off(image: Image.Image, file: object, **_: object) -> None:
    file.write(b"half of it")  # type: ignore[attr-defined]
    full_disk()


@pytest.mark.parametrize("fail", [full_disk, broken_off])
@pytest.mark.parametrize("verb", ["generate", "edit", "reconstruct"])
def test_a_full_disk_leaves_the_old_picture(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, fail: Callable[..., None]
) -> None:
    (tmp_path / "old.png").write_bytes(b"an older picture")
    before = snapshot(tmp_path)
    monkeypatch.setattr(Image.Image, "save", fail)
    result = run(*VERBS[verb], "-o", "old.png")
    assert result.exit_code == 2 and "No space left" in result.stderr
    assert snapshot(tmp_path) == before


def test_the_library_refuses_a_nul(tmp_path: Path) -> None:
    for name in ("a\0b.png", "a\0b/c.png"):
        with pytest.raises(InputError, match="cannot be written"):
            write_png(Image.new("RGB", (1, 1)), tmp_path / name)
