"""Tars of samples: what is found in them, what is refused, and that equal samples make equal bytes."""

import io
import tarfile

import pytest
from PIL import Image

from visgen.data.image_set import open_image_set, read_piece
from visgen.data.webdataset import list_samples, list_tars, read_member, write_samples
from visgen.errors import InputError

pytest.importorskip("webdataset")


def png(level=0, size=(4, 4)):
    file = io.BytesIO()
    Image.new("RGB", size, (level,) * 3).save(file, format="PNG")
    return file.getvalue()


def tar_of(path, samples):
    with open(path, "wb") as file:
        write_samples(file, samples)
    return path


def plain_tar(path, files):
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_samples_come_back(tmp_path):
    samples = [("0001", {"png": png(1), "json": b"{}"}), ("a/b", {"jpg": b"x", "seg.png": b"y"})]
    path = tar_of(tmp_path / "a.tar", samples)
    found = list_samples(path)
    assert [sample.key for sample in found] == ["0001", "a/b"]
    with path.open("rb") as file:
        read = [{k: read_member(file, place) for k, place in sample.files.items()} for sample in found]
    assert read == [files for _, files in samples]
    assert path.read_bytes() == tar_of(tmp_path / "b.tar", samples).read_bytes()


def test_the_library_reads_what_is_written(tmp_path):
    import webdataset

    path = tar_of(tmp_path / "a.tar", [("0001", {"png": png(1), "json": b'{"x": 1}'})])
    (sample,) = webdataset.WebDataset(str(path), shardshuffle=False)
    assert (sample["__key__"], sample["png"], sample["json"]) == ("0001", png(1), b'{"x": 1}')


def test_names_without_samples_are_left_out(tmp_path):
    files = [
        ("README", b"x"),
        ("__info__.json", b"{}"),
        (".hidden", b"x"),
        ("one.PNG", png()),
        ("one.txt", b"a"),
    ]
    (sample,) = list_samples(plain_tar(tmp_path / "a.tar", files))
    assert sample.key == "one" and set(sample.files) == {"png", "txt"}


@pytest.mark.parametrize("content", [b"", b"no tar", b"x" * 2048])
def test_what_is_no_tar_is_refused(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        list_samples(tmp_path / "a.tar")


def test_a_tar_that_ends_early_is_refused(tmp_path):
    whole = tar_of(tmp_path / "a.tar", [("1", {"png": b"x" * 5000}), ("2", {"png": b"y" * 5000})])
    (tmp_path / "b.tar").write_bytes(whole.read_bytes()[:8000])
    with pytest.raises(InputError, match="cannot be read"):
        list_samples(tmp_path / "b.tar")


def test_two_files_of_one_name_are_refused(tmp_path):
    plain_tar(tmp_path / "a.tar", [("one.png", png()), ("one.png", png())])
    with pytest.raises(InputError, match="two files"):
        list_samples(tmp_path / "a.tar")


def test_braces_and_stars(tmp_path):
    for n in (0, 1, 2):
        tar_of(tmp_path / f"{n:02d}.tar", [(str(n), {"png": png()})])
    names = [path.name for path in list_tars(tmp_path / "{00..01}.tar")]
    assert names == ["00.tar", "01.tar"]
    assert [path.name for path in list_tars(tmp_path / "*.tar")] == ["00.tar", "01.tar", "02.tar"]
    for pattern in ("{00..03}.tar", "x*.tar", "{00.tar"):
        with pytest.raises(InputError, match="tar"):
            list_tars(tmp_path / pattern)


@pytest.fixture
def tars(tmp_path):
    """Seven images in three tars, with captions and labels."""
    for n, count in enumerate((3, 1, 3)):
        samples = [
            (f"{n}_{k}", {"png": png(10 * n + k), "txt": f" image {n}{k}\n".encode(), "cls": str(k).encode()})
            for k in range(count)
        ]
        tar_of(tmp_path / f"{n}.tar", samples)
    return tmp_path / "{0..2}.tar"


def level(example):
    return example.image.getpixel((0, 0))[0]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pieces_are_the_whole(tars, size):
    images = open_image_set(tars)
    pieces = [images.piece(range(start, min(start + size, 7))) for start in range(0, 7, size)]
    found = [example for piece in pieces for example in read_piece(piece)]
    assert [example.name for example in found] == images.names
    assert images.names == ["0_0", "0_1", "0_2", "1_0", "2_0", "2_1", "2_2"]
    assert [level(example) for example in found] == [0, 1, 2, 10, 20, 21, 22]
    assert (found[4].caption, found[5].label) == ("image 20", 1)


def test_a_folder_is_an_image_set(tmp_path):
    (tmp_path / "sub").mkdir()
    for n, name in enumerate(("b.png", "sub/a.png", "a.png")):
        (tmp_path / name).write_bytes(png(n))
    images = open_image_set(tmp_path)
    assert images.names == ["a.png", "b.png", "sub/a.png"]
    assert [level(example) for example in read_piece(images.piece(range(1, 3)))] == [0, 1]


def test_captions_and_labels_of_json(tmp_path):
    told = [b'{"prompt": "a cat", "label": 3}', b'{"caption": "x", "prompt": "y", "label": true}', b"[1]"]
    tar_of(tmp_path / "a.tar", [(str(k), {"png": png(), "json": text}) for k, text in enumerate(told)])
    images = open_image_set(tmp_path / "a.tar")
    found = [(one.caption, one.label) for one in read_piece(images.piece(range(3)))]
    assert found == [("a cat", 3), ("x", None), (None, None)]


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        ([("1", {"txt": b"a"})], "has 0 images"),
        ([("1", {"png": b"", "jpg": b""})], "has 2 images"),
        ([("../1", {"png": b""})], "leads elsewhere"),
        ([("/1", {"png": b""})], "leads elsewhere"),
        (
            [("1", {"png": b""}), ("2", {"png": b""}), ("1", {"png": b""})],
            "'1' is in the tars more than once",
        ),
        ([], "cannot be read|no samples"),
    ],
)
def test_what_is_no_set_of_images(tmp_path, samples, told):
    plain = [(f"{key}.{kind}", content) for key, files in samples for kind, content in files.items()]
    plain_tar(tmp_path / "a.tar", plain)
    with pytest.raises(InputError, match=told):
        open_image_set(tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"png": b"no image"}, "cannot be read"),
        ({"png": png(), "cls": b"seven"}, "caption or label cannot be read"),
        ({"png": png(), "json": b"{"}, "caption or label cannot be read"),
        ({"png": png(), "txt": b"\xff"}, "caption or label cannot be read"),
    ],
)
def test_what_cannot_be_read_names_tar_and_key(tmp_path, files, told):
    tar_of(tmp_path / "a.tar", [("key7", files)])
    images = open_image_set(tmp_path / "a.tar")
    with pytest.raises(InputError, match=rf"a\.tar: key7.*{told}"):
        list(read_piece(images.piece(range(1))))
