"""File names of pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visgen.cli.outputs import SLUG_BYTES, fresh, picture_paths, slug
from visgen.errors import InputError


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a red circle", "a-red-circle"),
        ("  Two  rings! ", "two-rings"),
        ("../../etc/passwd", "etc-passwd"),
        ("ein grüner Ring", "ein-grüner-ring"),
        ("???", "image"),
        ("", "image"),
    ],
)
def test_slug(text: str, name: str) -> None:
    assert slug(text) == name


@given(st.text())
def test_a_slug_is_a_short_plain_name(text: str) -> None:
    name = slug(text)
    assert 0 < len(name.encode()) <= SLUG_BYTES
    assert name == Path(name).name
    assert not name.startswith((".", "-"))


def test_fresh_counts_on(tmp_path: Path) -> None:
    for expected in ("a.png", "a-2.png", "a-3.png"):
        path = fresh(tmp_path / "a.png")
        assert path.name == expected
        path.touch()


def test_a_folder_may_end_in_png(tmp_path: Path) -> None:
    folder = tmp_path / "x.png"
    folder.mkdir()
    assert picture_paths(folder, "a", 1, 2) == [folder / "000000_0.png", folder / "000000_1.png"]


@pytest.mark.parametrize("name", ["x.jpg", "x.WEBP", "x.tiff"])
def test_other_formats_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="PNG"):
        picture_paths(Path(name), "a", 1, 1)
