"""Folders of images: classes, captions, splits, crops, and errors that name the file."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from visgen.data import SOURCES
from visgen.data.folder import ImageFolder
from visgen.errors import InputError


def make(root, names, size=(20, 14)):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    return root


def write_lines(path, records):
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n", encoding="utf-8")


def test_classes_are_sorted_subfolders(tmp_path):
    make(tmp_path, ["dog/b.png", "cat/a.jpg", "dog/deep/c.PNG", ".cache/x.png"])
    (tmp_path / "dog" / "notes.md").touch()
    data = ImageFolder(tmp_path, 8)
    assert (data.condition, data.classes, data.files) == (
        "class",
        ["cat", "dog"],
        ["cat/a.jpg", "dog/b.png", "dog/deep/c.PNG"],
    )
    batch = data.batch([2, 0])
    assert batch.labels == [1, 0] and batch.captions is None
    assert batch.images.shape == (2, 3, 8, 8) and batch.images.dtype == torch.uint8
    assert [item["label"] for item in data] == [0, 1, 1] and data.length == len(data) == 3


def test_captions_from_text_files(tmp_path):
    make(tmp_path, ["a.png", "sub/b.png"])
    (tmp_path / "a.txt").write_text("ein  Bär\n", encoding="utf-8")
    (tmp_path / "sub" / "b.txt").write_text("two")
    data = ImageFolder(tmp_path, 8)
    assert data.condition == "caption" and data.batch([0, 1]).captions == ["ein Bär", "two"]
    assert data[0]["caption"] == "ein Bär" and data.batch([0]).labels is None
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(InputError, match=r"'a\.png'.*no caption"):
        ImageFolder(tmp_path, 8)


@pytest.mark.parametrize("name", ["captions.jsonl", "metadata.jsonl"])
def test_captions_from_lines(tmp_path, name):
    make(tmp_path, ["a.png", "sub/b.png"])
    records = [
        {"file_name": "./a.png", "text": "one"},
        {"file_name": "sub/b.png", "text": ["two", "zwei"], "x": 1},
    ]
    write_lines(tmp_path / name, records)
    data = ImageFolder(tmp_path, 8)
    assert [data.batch([0, 1], epoch=e).captions for e in (0, 1)] == [["one", "two"], ["one", "zwei"]]


@pytest.mark.parametrize(
    "lines, word",
    [
        (['{"file_name": "a.png"}'], "line 1"),
        (['{"file_name": "a.png", "text": "x"}', "nonsense"], "line 2"),
        (['{"file_name": "a.png", "text": 3}'], "text"),
        (['{"file_name": "a.png", "text": "x"}', '{"file_name": "z.png", "text": "x"}'], "z.png"),
        ([], "no caption"),
    ],
)
def test_broken_caption_lines(tmp_path, lines, word):
    make(tmp_path, ["a.png"])
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match=word):
        ImageFolder(tmp_path, 8)


def test_two_caption_files_are_refused(tmp_path):
    make(tmp_path, ["a.png"])
    for name in ("captions.jsonl", "metadata.jsonl"):
        write_lines(tmp_path / name, [{"file_name": "a.png", "text": "x"}])
    with pytest.raises(InputError, match="both"):
        ImageFolder(tmp_path, 8)


def test_unconditional(tmp_path):
    make(tmp_path, ["a.png", "b.png"])
    batch = ImageFolder(tmp_path, 8).batch([0, 1])
    assert batch.captions is None and batch.labels is None
    make(tmp_path, ["c/d.png"])
    assert len(ImageFolder(tmp_path, 8, condition=None)) == 3
    for condition in ("auto", "class"):
        with pytest.raises(InputError, match=r"a\.png.*sub-folder"):
            ImageFolder(tmp_path, 8, condition=condition)


def test_crops_follow_seed_epoch_and_index(tmp_path):
    data = ImageFolder(make(tmp_path, ["a.png", "b.png"], size=(90, 40)), 32)
    crops = [data.batch([0], epoch=e).images for e in range(6)]
    assert torch.equal(crops[3], data.batch([1, 0], epoch=3).images[1:])
    assert torch.equal(crops[0][0], data[0]["image"])
    assert len({crop.numpy().tobytes() for crop in crops}) > 3
    other = ImageFolder(tmp_path, 32, seed=1)
    assert any(not torch.equal(crop, other.batch([0], epoch=e).images) for e, crop in enumerate(crops))


def test_crops_without_augmentation_and_in_validation_are_fixed(tmp_path):
    make(tmp_path, ["a.png", "b.png"], size=(40, 32))
    plain = ImageFolder(tmp_path, 32, augment=False)
    whole = np.asarray(Image.open(tmp_path / plain.files[0]))[:, 4:36]
    assert np.array_equal(plain.batch([0], epoch=5).images[0].permute(1, 2, 0), whole)
    held = ImageFolder(tmp_path, 32, split="validation", validation_fraction=0.5)
    assert torch.equal(held.batch([0], epoch=0).images, held.batch([0], epoch=1).images)


def test_validation_split_is_exact_stable_and_disjoint(tmp_path):
    make(tmp_path, [f"{c}/{i}.png" for c in "ab" for i in range(10)], size=(4, 4))
    train = ImageFolder(tmp_path, 4, validation_fraction=0.2)
    held = ImageFolder(tmp_path, 4, validation_fraction=0.2, split="validation", seed=9)
    assert len(held) == 4 and not set(train.files) & set(held.files) and len(train) == 16
    assert train.classes == held.classes == ["a", "b"]
    assert len(ImageFolder(tmp_path, 4, validation_fraction=0.001, split="validation")) == 1


@pytest.mark.parametrize(
    "options, word",
    [
        ({"condition": "text"}, "condition='text'"),
        ({"split": "test"}, "split='test'"),
        ({"split": "validation"}, "validation_fraction=0.0"),
        ({"validation_fraction": 1.0}, "validation_fraction=1.0"),
        ({"image_size": 0}, "image_size=0"),
    ],
)
def test_bad_options(tmp_path, options, word):
    make(tmp_path, ["a.png"])
    with pytest.raises(InputError, match=word):
        ImageFolder(tmp_path, **{"image_size": 8, **options})


def test_bad_folders(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        ImageFolder(tmp_path / "none", 8)
    with pytest.raises(InputError, match="no images"):
        ImageFolder(tmp_path, 8)
    make(tmp_path, ["a/x.png"])
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match=r"b' holds no images"):
        ImageFolder(tmp_path, 8)


def test_a_broken_file_is_named_and_indices_are_checked(tmp_path):
    make(tmp_path, ["a.png"])
    (tmp_path / "b.png").write_bytes(b"broken")
    data = ImageFolder(tmp_path, 8)
    with pytest.raises(InputError, match=r"b\.png"):
        data.batch([1])
    for index in (2, -1):
        with pytest.raises(IndexError):
            data.batch([index])


def test_sources_load_by_name_and_listing_needs_no_torch():
    assert SOURCES.names() == ["folder", "scenes", "tokens"] and SOURCES.load("folder") is ImageFolder
    code = "import sys, visgen.data, visgen.data.scenes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
