"""Folders of training images with something wrong in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.robustness.conftest import Refused
from tests.robustness.test_malformed_recipes import RECIPE
from visgen.data.folder import ImageFolder
from visgen.errors import InputError

Prepare = Callable[[Path], object]


def pictures(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), "red").save(root / name, "PNG")


def lines(*texts: str | bytes) -> Prepare:
    """Two pictures and a captions.jsonl."""

    def prepare(root: Path) -> None:
        pictures(root, "a.png", "b.png")
        data = [text if isinstance(text, bytes) else text.encode() for text in texts]
        (root / "captions.jsonl").write_bytes(b"\n".join(data))

    return prepare


def texts(first: bytes) -> Prepare:
    """Two pictures, of which the second has a good caption."""

    def prepare(root: Path) -> None:
        pictures(root, "a.png", "b.png")
        (root / "a.txt").write_bytes(first)
        (root / "b.txt").write_text("a red circle")

    return prepare


A, B = '{"file_name": "a.png", "text": "a"}', '{"file_name": "b.png", "text": "b"}'
FOLDERS: dict[str, tuple[Prepare, str]] = {
    "missing": (lambda root: root.rmdir(), "is not a folder"),
    "file": (lambda root: (root.rmdir(), root.write_text("x")), "is not a folder"),
    "empty": (lambda root: None, "holds no images"),
    "only text": (lambda root: (root / "a.txt").write_text("x"), "holds no images"),
    "hidden": (lambda root: pictures(root, ".a.png"), "holds no images"),
    "circular": (lambda root: (root / "again").symlink_to(root), "holds no images"),
    "empty class": (lambda root: (pictures(root, "a/x.png"), (root / "b").mkdir()), "class folder"),
    "loose beside classes": (lambda root: pictures(root, "x.png", "a/y.png"), "no class for 'x.png'"),
    "caption missing": (
        lambda root: (pictures(root, "a.png", "b.png"), (root / "a.txt").write_text("a")),
        "b.png",
    ),
    "caption empty": (texts(b""), "'a.png' in"),
    "caption of spaces": (texts(b" \n\t"), "'a.png' in"),
    "caption not utf-8": (texts(b"\xff\xfe\x00"), "use UTF-8"),
    "lines missing": (lines(A), "'b.png'"),
    "lines empty": (lines(""), "no caption"),
    "lines broken": (lines(A, B[:-1]), "line 2"),
    "lines of text": (lines("a.png: a", B), "line 1"),
    "lines not utf-8": (lines(A, b'{"file_name": "b.png", "text": "\xff"}'), "use UTF-8"),
    "lines of lists": (lines(A, "[1, 2]"), "line 2"),
    "lines of numbers": (lines(A, "3"), "line 2"),
    "lines deep": (lines(A, "[" * 100_000), "line 2"),
    "other keys": (lines(A, '{"file": "b.png", "caption": "b"}'), "line 2"),
    "number as text": (lines(A, '{"file_name": "b.png", "text": 3}'), "line 2"),
    "list of numbers": (lines(A, '{"file_name": "b.png", "text": [3]}'), "line 2"),
    "number as name": (lines(A, '{"file_name": 3, "text": "b"}'), "line 2"),
    "empty text": (lines(A, '{"file_name": "b.png", "text": ""}'), "'b.png'"),
    "no such image": (lines(A, B, '{"file_name": "c.png", "text": "c"}'), "'c.png'"),
    "outside": (lines(A, B, '{"file_name": "../c.png", "text": "c"}'), "'../c.png'"),
    "two files": (lambda root: (lines(A, B)(root), (root / "metadata.jsonl").write_text(A)), "holds both"),
    "captions is a folder": (
        lambda root: (pictures(root, "a.png"), (root / "captions.jsonl").mkdir()),
        "UTF-8",
    ),
    "captions is a pipe": (
        lambda root: (pictures(root, "a.png"), os.mkfifo(root / "captions.jsonl")),
        "UTF-8",
    ),
    "caption is a pipe": (lambda root: (pictures(root, "a.png"), os.mkfifo(root / "a.txt")), "UTF-8"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders(refused: Refused, tmp_path: Path, kind: str) -> None:
    prepare, told = FOLDERS[kind]
    (tmp_path / "images").mkdir()
    prepare(tmp_path / "images")
    (tmp_path / "r.yaml").write_text(RECIPE)
    refused("train", "r.yaml", "data={source: folder, root: images, image_size: 64}", told=told)


def damage(path: Path) -> None:
    os.truncate(path, 40)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": damage,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no picture"),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "broken link": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_image_among_good_ones(tmp_path: Path, kind: str) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    DAMAGES[kind](tmp_path / "b.png")
    folder = ImageFolder(tmp_path, image_size=16)
    assert len(folder) == 3 and folder.batch([0, 2]).images.shape == (2, 3, 16, 16)
    with pytest.raises(InputError, match=r"b\.png"):
        folder.batch([0, 1, 2])


def test_training_names_the_damaged_image(refused: Refused, tmp_path: Path) -> None:
    pictures(tmp_path / "images", "a.png", "b.png")
    damage(tmp_path / "images/b.png")
    damage(tmp_path / "images/a.png")
    folder = ImageFolder(tmp_path / "images", image_size=64)
    with pytest.raises(InputError, match=r"a\.png"):
        folder[0]


def test_long_images_are_cut(tmp_path: Path) -> None:
    for name, size in (("wide.png", (20_000, 1)), ("high.png", (1, 20_000)), ("dot.png", (1, 1))):
        Image.new("RGB", size, "red").save(tmp_path / name)
    images = ImageFolder(tmp_path, image_size=16).batch([0, 1, 2]).images
    assert images.shape == (3, 3, 16, 16) and (images[:, 0] == 255).all() and (images[:, 1:] == 0).all()


ARGUMENTS = [
    {"image_size": 0},
    {"image_size": -16},
    {"condition": "words"},
    {"split": "tset"},
    {"validation_fraction": 1.0},
    {"validation_fraction": -0.1},
    {"validation_fraction": float("nan")},
    {"split": "validation"},
    {"condition": "class"},
    {"condition": "caption"},
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_arguments(tmp_path: Path, arguments: dict[str, object]) -> None:
    pictures(tmp_path, "a.png")
    with pytest.raises(InputError):
        ImageFolder(tmp_path, **{"image_size": 16, **arguments})  # type: ignore[arg-type]
