"""Pictures that are none, and pictures of every odd kind, for every verb that reads one."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.robustness.conftest import Refused, Run
from visgen.data.images import read_image, read_png_metadata
from visgen.errors import InputError

Make = Callable[[Path], object]
VERBS: dict[str, list[str]] = {
    "reconstruct": ["reconstruct", "bad.png"],
    "edit": ["edit", "bad.png", "--box", "0,0,1,1"],
    "mask": ["edit", "good.png", "--mask", "bad.png"],
    "info": ["info", "bad.png"],
}


def noise(width: int = 40, height: int = 30) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def cut(kind: str, share: float) -> Make:
    """The first part of an image file."""
    whole = encoded(noise(), kind)
    return lambda path: path.write_bytes(whole[: int(share * len(whole))])


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be huge."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def inflating_text() -> bytes:
    """A PNG whose compressed text would fill 64 MB."""
    text = chunk(b"zTXt", b"prompt\0\0" + zlib.compress(b"a" * 2**26))
    whole = encoded(noise(), "PNG")
    return whole[:33] + text + whole[33:]


def flipped(kind: str) -> bytes:
    """An image file with every tenth byte after the header turned over."""
    data = bytearray(encoded(noise(), kind))
    for place in range(40, len(data), 10):
        data[place] ^= 255
    return bytes(data)


BROKEN: dict[str, Make] = {
    "missing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "one byte": lambda path: path.write_bytes(b"\x89"),
    "text": lambda path: path.write_text("a red circle"),
    "signature": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"),
    "png tenth": cut("PNG", 0.1),
    "png half": cut("PNG", 0.5),
    "png bytes": lambda path: path.write_bytes(flipped("PNG")),
    "bomb": lambda path: path.write_bytes(bomb(60_000, 60_000)),
    "bomb of the format": lambda path: path.write_bytes(bomb(2**31 - 1, 2**31 - 1)),
    "no width": lambda path: path.write_bytes(bomb(0, 10)),
    "postscript": lambda path: path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    ),
    "svg": lambda path: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "pickle": lambda path: path.write_bytes(b"\x80\x04cposix\nsystem\n."),
    "folder": lambda path: path.mkdir(),
    "broken link": lambda path: path.symlink_to("nowhere.png"),
    "circular link": lambda path: path.symlink_to(path.name),
    "pipe": lambda path: os.mkfifo(path),
    "null device": lambda path: path.symlink_to("/dev/null"),
    "endless device": lambda path: path.symlink_to("/dev/zero"),
}
OTHER_BROKEN: dict[str, Make] = {  # no PNG at all, so `info` has nothing of its own to say
    "jpeg start": cut("JPEG", 0.1),
    "jpeg half": cut("JPEG", 0.5),
    "gif half": cut("GIF", 0.5),
    "webp half": cut("WEBP", 0.5),
    "tiff half": cut("TIFF", 0.5),
    "bmp half": cut("BMP", 0.5),
    "tiff bytes": lambda path: path.write_bytes(flipped("TIFF")[:200]),
    "not a number": lambda path: Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(path, "TIFF"),
    "bright floats": lambda path: Image.fromarray(np.full((9, 9), 1e9, np.float32)).save(path, "TIFF"),
}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    noise(64, 64).save(tmp_path / "good.png")
    return tmp_path / "good.png"


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_picture_is_refused(
    refused: Refused, good: Path, tmp_path: Path, kind: str, verb: str
) -> None:
    BROKEN[kind](tmp_path / "bad.png")
    assert "bad.png" in refused(*VERBS[verb], told="image ")


@pytest.mark.parametrize("verb", ["reconstruct", "mask"])
@pytest.mark.parametrize("kind", OTHER_BROKEN)
def test_other_formats_broken(refused: Refused, good: Path, tmp_path: Path, kind: str, verb: str) -> None:
    OTHER_BROKEN[kind](tmp_path / "bad.png")
    assert "bad.png" in refused(*VERBS[verb], told="image ")


def test_text_that_inflates(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(inflating_text())
    refused("info", "bad.png", told="bad.png")


def animated(path: Path, kind: str) -> None:
    noise().save(path, kind, save_all=True, append_images=[noise().rotate(180)], duration=50)


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise().save(path, "JPEG", exif=exif)


def transparent_palette(path: Path) -> None:
    noise().convert("P").save(path, "PNG", transparency=0)


def sixteen_bit(path: Path) -> None:
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50).save(path, "PNG")


STRANGE: dict[str, Make] = {
    "one pixel": lambda path: noise(1, 1).save(path),
    "20000×1": lambda path: noise(20_000, 1).save(path),
    "1×20000": lambda path: noise(1, 20_000).save(path),
    "cmyk jpeg": lambda path: noise().convert("CMYK").save(path, "JPEG"),
    "16 bit": sixteen_bit,
    "transparent palette": transparent_palette,
    "grey with alpha": lambda path: noise().convert("LA").save(path, "PNG"),
    "alpha": lambda path: noise().convert("RGBA").save(path, "PNG"),
    "one bit": lambda path: noise().convert("1").save(path, "PNG"),
    "float tiff": lambda path: Image.fromarray(np.full((30, 40), 0.5, np.float32)).save(path, "TIFF"),
    "animated gif": lambda path: animated(path, "GIF"),
    "animated png": lambda path: animated(path, "PNG"),
    "animated webp": lambda path: animated(path, "WEBP"),
    "turned by exif": turned,
}


@pytest.mark.parametrize("kind", STRANGE)
def test_odd_pictures_are_read(run: Run, good: Path, tmp_path: Path, kind: str) -> None:
    STRANGE[kind](tmp_path / "odd.png")
    result = run("reconstruct", "odd.png", "-o", "out.png")
    assert result.exit_code == 0 and result.stderr == "", result.output
    assert Image.open(tmp_path / "out.png").size == (64, 64)
    result = run("edit", "good.png", "--mask", "odd.png", "--invert", "-o", "out.png")
    assert result.exit_code in (0, 2) and len(result.stderr.splitlines()) <= 1, result.output


def test_a_long_picture_in_tiles(run: Run, tmp_path: Path) -> None:
    noise(1, 2000).save(tmp_path / "long.png")
    assert run("reconstruct", "long.png", "--tile", "-o", "out.png").exit_code == 0
    assert Image.open(tmp_path / "out.png").size == (1, 2000)


def test_floats_of_a_tiff_keep_their_meaning(tmp_path: Path) -> None:
    for name, value in (("unit", 0.5), ("bytes", 128.0)):
        path = tmp_path / f"{name}.tif"
        Image.fromarray(np.full((2, 2), value, np.float32)).save(path)
        assert read_image(path).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize(
    "name", ["a\nb.png", "Schön 🎨.png", "-n.png", "x" * 250 + ".png", "🎨" * 60 + ".png", b"\xff\xfe.png"]
)
def test_odd_names(run: Run, tmp_path: Path, name: str | bytes) -> None:
    name = os.fsdecode(name)
    noise(64, 64).save(tmp_path / name, "PNG")
    assert run("reconstruct", "-o", "out.png", "--", name).exit_code == 0
    result = run("reconstruct", "--", name)
    assert result.exit_code == 0, result.output
    assert len(list(tmp_path.iterdir())) == 3
    assert run("info", "--", name).exit_code == 0
    assert run("edit", "--box", "0,0,1,1", "--", name).exit_code == 0


BOXES = ["", "0", "0,0,1", "0,0,1,1,1", "a,b,c,d", "nan,0,1,1", "0,0,inf,1", "1,0,0,1", "0,0.5,1,0.5"]
BOXES += ["-1,0,1,1", "0,0,2,1", "0,0,1e-9,1e-9", "0;0;1;1", "0," * 10_000]


@pytest.mark.parametrize("box", BOXES, ids=lambda box: box[:20])
def test_boxes(refused: Refused, good: Path, box: str) -> None:
    refused("edit", "good.png", f"--box={box}", told="box")


def test_regions_that_mean_nothing(refused: Refused, good: Path, tmp_path: Path) -> None:
    Image.new("L", (64, 64)).save(tmp_path / "black.png")
    Image.new("L", (3, 500), 255).save(tmp_path / "white.png")
    refused("edit", "good.png", told="--box and --mask")
    refused("edit", "good.png", "--box", "0,0,1,1", "--mask", "black.png", told="exactly one")
    refused("edit", "good.png", "--mask", "black.png", told="covers no token")
    refused("edit", "good.png", "--mask", "white.png", "--invert", told="keeps the whole image")
    refused("edit", "good.png", "--box", "0,0,1,1", "--label", "3", told="label=3")


def test_files_with_random_damage(tmp_path: Path) -> None:
    """A few hundred files with flipped, lost and added bytes: each is read or refused."""
    dice, refusals, path = random.Random(0), 0, tmp_path / "damaged.png"
    kinds = [encoded(noise(), kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "PPM")]
    for _ in range(400):
        data = bytearray(dice.choice(kinds))
        for _ in range(dice.choice([1, 3, 10])):
            place = dice.randrange(min(len(data), dice.choice([60, 4000])))
            data[place : place + dice.randrange(3)] = dice.randbytes(dice.randrange(3))
        path.write_bytes(data)
        for read in (read_image, read_png_metadata):
            try:
                read(path)
            except InputError as error:
                refusals += 1
                assert path.name in str(error)
    assert refusals > 100
