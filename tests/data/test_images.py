"""Image files and tensors: round trips, unusual modes, metadata."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from visgen.data.images import (
    image_grid,
    prepare_batch,
    read_image,
    read_png_metadata,
    resize_center_crop,
    to_pil,
    to_tensor,
    to_uint8,
    write_png,
)
from visgen.errors import InputError


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8))


def read_back(image, path, **options):
    image.save(path, **options)
    return np.asarray(read_image(path))


def test_png_round_trip_with_metadata(picture, tmp_path):
    path = tmp_path / "new" / "a.png"
    metadata = {"prompt": "ein rötes 心 ❤", "seed": "0", "long": "x" * 5000, "empty": ""}
    write_png(picture, path, metadata)
    assert np.array_equal(read_image(path), picture)
    assert read_png_metadata(path) == metadata
    write_png(picture.rotate(180), path)
    assert read_png_metadata(path) == {} and os.listdir(path.parent) == ["a.png"]


def test_failed_write_leaves_the_old_file(picture, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_png(picture, path)
    monkeypatch.setattr(Image.Image, "save", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(InputError, match="disk full"):
        write_png(picture.rotate(180), path)
    monkeypatch.undo()
    assert np.array_equal(read_image(path), picture) and os.listdir(tmp_path) == ["a.png"]


def test_unwritable_places_and_keys(picture, tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "a.png", tmp_path):
        with pytest.raises(InputError, match="cannot be written"):
            write_png(picture, path)
    with pytest.raises(InputError, match="key"):
        write_png(picture, tmp_path / "a.png", {"k" * 80: "v"})


def test_transparency_is_laid_on_white(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = 255, 0, 0, 255
    rgba[1, 1] = 0, 0, 0, 128
    got = read_back(Image.fromarray(rgba), tmp_path / "a.png")
    assert got[0, 0].tolist() == [255, 0, 0] and got[0, 1].tolist() == [255] * 3
    assert abs(int(got[1, 1, 0]) - 127) <= 1
    la = Image.fromarray(rgba).convert("LA")
    assert read_back(la, tmp_path / "la.png")[0, 1].tolist() == [255] * 3
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 255, 9, 9, 9])
    palette.putpixel((1, 0), 1)
    assert read_back(palette, tmp_path / "p.png", transparency=1).tolist() == [[[0, 0, 255], [255, 255, 255]]]


def test_sixteen_bit_gray_keeps_its_range(tmp_path):
    image = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))
    assert read_back(image, tmp_path / "a.png")[0, :, 1].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    "mode, suffix", [("L", "png"), ("1", "png"), ("CMYK", "jpg"), ("P", "gif"), ("L", "webp")]
)
def test_other_modes_become_rgb(mode, suffix, tmp_path):
    got = read_back(Image.new("RGB", (8, 8), "white").convert(mode), tmp_path / f"a.{suffix}")
    assert got.shape == (8, 8, 3) and got.min() > 250


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees
    picture = Image.new("RGB", (4, 2), "red")
    assert read_back(picture, tmp_path / "a.png", exif=exif).shape == (4, 2, 3)


def test_unreadable_files(tmp_path, picture):
    (tmp_path / "text.png").write_text("no image")
    picture.resize((200, 200)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:3000])
    for name, word in (
        ("none.png", "does not exist"),
        ("text.png", "cannot be read"),
        ("cut.png", "cannot be read"),
    ):
        with pytest.raises(InputError, match=word):
            read_image(tmp_path / name)
    picture.save(tmp_path / "a.jpg")
    for name, word in (("none.png", "does not exist"), ("a.jpg", "as a PNG")):
        with pytest.raises(InputError, match=word):
            read_png_metadata(tmp_path / name)


def test_all_bytes_survive_the_tensor_round_trip():
    array = np.arange(256, dtype=np.uint8).reshape(16, 16)
    tensor = to_tensor(array)
    assert tensor.shape == (1, 3, 16, 16) and (tensor.min(), tensor.max()) == (-1, 1)
    assert np.array_equal(to_uint8(tensor)[0, :, :, 2], array)


def test_to_tensor_accepts_every_kind(picture):
    expected, array = to_tensor(picture), np.asarray(picture)
    chw = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for same in (array, array[None], chw, chw[None], expected, expected[0], [picture], (array / 255)):
        assert torch.allclose(to_tensor(same), expected, atol=1e-6)
    assert to_tensor([picture, array, chw]).shape == (3, 3, 6, 5)
    assert np.array_equal(to_pil(expected)[0], picture)
    assert to_tensor(expected.double()).dtype == torch.float32


@pytest.mark.parametrize(
    "bad, word",
    [
        ("a.png", "str"),
        ([], "sizes"),
        (np.zeros((4, 4, 4), np.uint8), "shape"),
        (np.full((4, 4, 3), 200.0), "leaves"),
        (torch.zeros(4, 4), "shape"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "int64"),
        ([np.zeros((2, 2), np.uint8), np.zeros((3, 2), np.uint8)], "sizes"),
    ],
)
def test_to_tensor_refuses(bad, word):
    with pytest.raises(InputError, match=word):
        to_tensor(bad)


def test_to_uint8_clamps_and_rounds():
    values = torch.tensor([-3.0, -1.0, 0.0, 1.0, 7.0, 0.999])
    assert to_uint8(values.reshape(1, 1, 1, 6).expand(1, 3, 1, 6))[0, 0, :, 0].tolist() == [
        0,
        0,
        128,
        255,
        255,
        255,
    ]
    with pytest.raises(InputError):
        to_uint8(torch.zeros(3, 4, 4))


@pytest.mark.parametrize("size", [(10, 7), (7, 10), (100, 31), (3, 3), (31, 1)])
def test_resize_center_crop_is_square_and_centred(size):
    image = Image.new("RGB", size, "white")
    assert resize_center_crop(image, 8).size == (8, 8)
    wide = Image.new("RGB", (24, 8), "red")
    wide.paste("lime", (8, 0, 16, 8))
    assert resize_center_crop(wide, 8).getcolors() == [(64, (0, 255, 0))]


def test_prepare_batch_agrees_over_kinds_and_sizes(picture):
    smooth = picture.resize((90, 60), Image.Resampling.BICUBIC)
    expected = to_tensor(resize_center_crop(smooth, 32))
    assert torch.equal(prepare_batch([smooth, np.asarray(smooth)], 32), expected.repeat(2, 1, 1, 1))
    tensor = prepare_batch(to_tensor(smooth), 32)
    assert tensor.shape == expected.shape and (tensor - expected).abs().mean() < 0.02
    mixed = prepare_batch([picture, smooth, to_tensor(smooth), np.zeros((7, 9))], 16)
    assert mixed.shape == (4, 3, 16, 16) and mixed.dtype == torch.float32
    ready = torch.randn(2, 3, 8, 8)
    assert torch.equal(prepare_batch(ready, 8), ready)
    with pytest.raises(InputError, match="size=0"):
        prepare_batch(picture, 0)


def test_image_grid():
    images = [Image.new("RGB", (4, 3), colour) for colour in ("red", "lime", "blue", "black", "gray")]
    assert image_grid(images).size == (3 * 4 + 2 * 2, 2 * 3 + 2)
    row = image_grid(images, columns=9, padding=0)
    assert row.size == (20, 3) and row.getpixel((5, 1)) == (0, 255, 0)
    assert image_grid(images, columns=1, padding=1).getpixel((0, 3)) == (255, 255, 255)
    for arguments in (([],), (images, 0), (images, 2, -1)):
        with pytest.raises(InputError, match="grid"):
            image_grid(*arguments)
