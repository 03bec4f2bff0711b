"""Files of tokens: what a shard says, folders that go on where they stopped, pictures made of them again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.pipelines.conftest import random_picture
from tests.pipelines.tiny_tokenizers import tiny_pipe
from visgen.data.images import read_image, read_png_metadata
from visgen.errors import InputError
from visgen.pipelines.detokenize import detokenize_folder, open_tokens, picture_names, warn_of_other_weights
from visgen.pipelines.reconstruct import ReconstructPipeline
from visgen.pipelines.token_folder import INDEX_NAME, TokenFolder, shard_name
from visgen.pipelines.token_shards import KIND, TokenOrigin, read_header, read_shard, shard_bytes
from visgen.pipelines.tokenize import bits_per_token, read_token_shards, tokenize_folder, tokenize_image
from visgen.tokenizers.tokens import Grid, ImageTokens, Scales, Sequence1D

ORIGIN = TokenOrigin("toy", "ab12", "float32", num_tokens=3)
IDS = torch.arange(6).view(2, 3)
KINDS = ["FlexTokTokenizer", "KARLTokenizer", "KLTokenizer", "VARTokenizer", "VQTokenizer", "BAETokenizer"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Seven pictures, one in a subfolder."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for n in range(7):
        random_picture(20 + n, 16, seed=n).save(folder / f"{'sub/' if n == 6 else ''}{n}.png")
    return folder


@pytest.fixture(scope="module")
def pipe() -> ReconstructPipeline:
    return tiny_pipe("KARLTokenizer")


def fill(pipe: ReconstructPipeline, images: Path, folder: Path, **options: Any) -> Any:
    return tokenize_folder(pipe, images, folder, **{"shard_size": 3, "max_error": 0.2} | options)


TOKENS = {
    "masked sequence": ImageTokens(Sequence1D(3), ids=IDS, mask=torch.tensor([[1, 0, 1], [1, 1, 1]]).bool()),
    "grid of sub-codes": ImageTokens(Grid(1, 3), ids=IDS[..., None].expand(-1, -1, 2)),
    "scales": ImageTokens(Scales(((1, 1), (1, 2))), ids=IDS),
    "latents": ImageTokens(Sequence1D(3), latents=IDS[..., None].float()),
}


@pytest.mark.parametrize("kind", TOKENS)
def test_a_shard_comes_back(tmp_path: Path, kind: str) -> None:
    tokens, names = TOKENS[kind], ["a/ö.png", "b\udcff.png"]
    (tmp_path / "x").write_bytes(shard_bytes(names, tokens, ORIGIN))
    header, back = read_shard(tmp_path / "x")
    assert header.names == tuple(names) and header.origin == ORIGIN
    assert header.lengths == tuple(tokens.lengths.tolist())
    assert back.layout == tokens.layout and torch.equal(back.values, tokens.values)
    assert set(load_file(tmp_path / "x")) == set(tokens.state_dict()), "the tensors are those of state_dict"


@pytest.mark.parametrize(
    "name", ["", "../x.png", "/etc/x.png", "a/../../x.png", "a//b.png", "./a.png", "a\0b.png", "."]
)
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_bytes(shard_bytes([name, "b.png"], TOKENS["scales"], ORIGIN))
    with pytest.raises(InputError, match="relative path"):
        read_header(tmp_path / "x")


HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "another schema": ({"schema": 2}, "schema 2: this version reads schema 1"),
    "no names": ({"names": ...}, "cannot be read"),
    "names of numbers": ({"names": [1, 2]}, "names"),
    "fewer names": ({"names": ["a.png"]}, "1 names for 2 images"),
    "none at all": ({"names": [], "lengths": []}, "0 names"),
    "no origin": ({"origin": [1]}, "cannot be read"),
    "an unknown origin": ({"origin": {"model": "x", "weights": "y", "dtype": "z", "spell": 1}}, "spell"),
    "other lengths": ({"lengths": [1, 1]}, "other images than its rows"),
}


def relabelled(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Write a shard whose header is another one."""
    header = json.loads(metadata(shard_bytes(["a.png", "b.png"], TOKENS["scales"], ORIGIN))[KIND])
    save_file(TOKENS["scales"].state_dict(), path, {KIND: json.dumps(change(header))})


def metadata(content: bytes) -> dict[str, str]:
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size])["__metadata__"]


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_that_do_not_fit(tmp_path: Path, kind: str) -> None:
    changes, told = HEADERS[kind]
    relabelled(tmp_path / "x", lambda header: {k: v for k, v in (header | changes).items() if v is not ...})
    with pytest.raises(InputError, match=told):
        read_shard(tmp_path / "x")


@pytest.mark.parametrize("header", [[], 3, None, "text"])
def test_headers_that_are_no_mapping(tmp_path: Path, header: Any) -> None:
    relabelled(tmp_path / "x", lambda _: header)
    with pytest.raises(InputError, match="cannot be read"):
        read_header(tmp_path / "x")


def test_tokens_without_a_header(tmp_path: Path) -> None:
    save_file(TOKENS["scales"].state_dict(), tmp_path / "x")
    with pytest.raises(InputError, match="no tokens with a header"):
        read_header(tmp_path / "x")


@pytest.mark.parametrize("content", [b"", b"text", b"\xff" * 100])
def test_files_that_are_no_shards(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        read_header(tmp_path / "x")
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(InputError, match="no regular file"):
            read_header(path)


@pytest.mark.parametrize("name", KINDS)
def test_a_folder_holds_what_single_images_give(name: str, images: Path, tmp_path: Path) -> None:
    pipe = tiny_pipe(name)
    result = tokenize_folder(pipe, images, tmp_path / "out", shard_size=3, batch_size=2)
    assert (result.total, result.made) == (7, 7)
    found = dict(read_token_shards(tmp_path / "out"))
    assert list(found) == [*(f"{n}.png" for n in range(6)), "sub/6.png"]
    for image, tokens in found.items():
        alone = tokenize_image(pipe, read_image(images / image))
        assert torch.equal(tokens.values, alone.values) and tokens.layout == alone.layout
        assert tokens.lengths.tolist() == alone.lengths.tolist()


def test_the_index_and_the_summary(pipe: ReconstructPipeline, images: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = fill(pipe, images, tmp_path / "out", on_progress=lambda *now: seen.append(now))
    index = json.loads((tmp_path / "out" / INDEX_NAME).read_text())
    lengths = [int(tokens.lengths) for _, tokens in read_token_shards(tmp_path / "out")]
    assert [image["tokens"] for image in index["images"]] == lengths and len(set(lengths)) > 1
    assert index["origin"]["max_error"] == 0.2 and index["complete"] is True
    assert [(image["shard"], image["row"]) for image in index["images"]][3:5] == [
        (shard_name(1), 0),
        (shard_name(1), 1),
    ]
    assert (result.fewest, result.most) == (min(lengths), max(lengths))
    assert result.mean == pytest.approx(sum(lengths) / 7) and result.bits == pytest.approx(
        4 * sum(lengths) / 7
    )
    assert seen[0] == (0, 7) and seen[-1] == (7, 7) and len(seen) == 8


def test_a_killed_run_goes_on(pipe: ReconstructPipeline, images: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fill(pipe, images, whole)

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(pipe, images, parts, on_progress=stop)
    assert [path.name for path in parts.glob("shard*")] == [shard_name(0)]
    with pytest.raises(InputError, match="unfinished"):
        next(read_token_shards(parts))
    (parts / f".{'0' * 32}.tmp").write_bytes(b"half")
    (parts / shard_name(1)).write_bytes((whole / shard_name(1)).read_bytes()[:-7])  # the machine crashed
    before = (parts / shard_name(0)).stat().st_mtime_ns
    assert fill(pipe, images, parts).made == 4
    assert (parts / shard_name(0)).stat().st_mtime_ns == before, "a finished shard was made again"
    files = {path.name: path.read_bytes() for path in whole.iterdir()}
    assert {path.name: path.read_bytes() for path in parts.iterdir()} == files


def test_other_images_of_the_same_folder(pipe: ReconstructPipeline, images: Path, tmp_path: Path) -> None:
    fill(pipe, images, tmp_path / "out")
    random_picture(seed=9).save(images / "35.png")  # among the second shard's
    assert fill(pipe, images, tmp_path / "out").made == 5
    for path in [*images.glob("[3-9]*.png"), *images.glob("sub/*")]:
        path.unlink()
    assert fill(pipe, images, tmp_path / "out").made == 0
    assert [name for name, _ in read_token_shards(tmp_path / "out")] == ["0.png", "1.png", "2.png"]
    assert len(list((tmp_path / "out").glob("shard*"))) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_error": 0.3}, "max_error is 0.2 there, 0.3 here"),
        ({"max_error": None, "num_tokens": 2}, "num_tokens is None there, 2 here"),
        ({"shard_size": 4}, "shard_size is 3 there, 4 here"),
    ],
)
def test_another_run_is_refused(
    pipe: ReconstructPipeline, images: Path, tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    fill(pipe, images, tmp_path / "out")
    with pytest.raises(InputError, match=told):
        fill(pipe, images, tmp_path / "out", **options)
    with pytest.raises(InputError, match="source is"):
        fill(pipe, images / "sub", tmp_path / "out")
    other = tiny_pipe("KARLTokenizer")
    torch.nn.init.normal_(next(other.tokenizer.parameters()))
    with pytest.raises(InputError, match="other weights"):
        fill(other, images, tmp_path / "out")


def test_foreign_folders_are_refused(pipe: ReconstructPipeline, images: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / shard_name(0)).write_bytes(b"someone's")
    with pytest.raises(InputError, match=f"but no {INDEX_NAME}"):
        fill(pipe, images, tmp_path / "shards")
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / INDEX_NAME).write_text('{"schema": 1}')
    with pytest.raises(InputError, match="no index of tokens"):
        fill(pipe, images, tmp_path / "index")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be used"):
        fill(pipe, images, tmp_path / "file")


def test_two_runs_at_once_are_refused(pipe: ReconstructPipeline, images: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out" / TokenFolder.lock_name),
        pytest.raises(InputError, match="being filled by another run"),
    ):
        fill(pipe, images, tmp_path / "out")


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"shard_size": 0}, {"num_tokens": 9}, {"max_error": -1.0}]
)
def test_bad_arguments_leave_nothing(
    pipe: ReconstructPipeline, images: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(InputError):
        fill(pipe, images, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_an_unreadable_image_is_named_and_can_be_mended(
    pipe: ReconstructPipeline, images: Path, tmp_path: Path
) -> None:
    (images / "4.png").write_text("no picture")
    with pytest.raises(InputError, match=r"4\.png"):
        fill(pipe, images, tmp_path / "out")
    (images / "4.png").unlink()
    assert fill(pipe, images, tmp_path / "out").made == 3  # the first shard was done


HEAD = '"schema": 1, "kind": "visgen-tokens", "complete": true'
BAD_INDEX = {
    "no json": "{",
    "another schema": '{"schema": 7, "kind": "visgen-tokens"}',
    "a shard elsewhere": f'{{{HEAD}, "images": [{{"shard": "../x"}}]}}',
    "no origin": f'{{{HEAD}, "images": []}}',
}


@pytest.mark.parametrize("kind", BAD_INDEX)
def test_indices_that_cannot_be_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / INDEX_NAME).write_text(BAD_INDEX[kind])
    with pytest.raises(InputError):
        list(read_token_shards(tmp_path))
    with pytest.raises(InputError, match="holds no tokens"):
        list(read_token_shards(tmp_path / "missing"))


@pytest.mark.parametrize("name", ["KARLTokenizer", "FlexTokTokenizer", "KLTokenizer"])
def test_pictures_come_back(name: str, images: Path, tmp_path: Path) -> None:
    pipe = tiny_pipe(name)
    tokenize_folder(pipe, images, tmp_path / "tokens", shard_size=3)
    source, out = open_tokens(tmp_path / "tokens"), tmp_path / "out"
    assert detokenize_folder(pipe, source, out) == 7
    for image in (images / "1.png", images / "sub/6.png"):
        made = pipe(read_image(image)).images[0]
        again = Image.open(out / image.relative_to(images))
        assert np.array_equal(np.asarray(made), np.asarray(again))
    assert read_png_metadata(out / "sub/6.png")["image"] == "sub/6.png"
    os.unlink(out / "1.png")
    assert detokenize_folder(pipe, source, out) == 1
    if name == "FlexTokTokenizer":  # another seed makes other pictures of the same names
        before = (out / "0.png").read_bytes()
        assert detokenize_folder(pipe, source, out, seed=3) == 7 and (out / "0.png").read_bytes() != before


def test_strangers_pictures_are_left(pipe: ReconstructPipeline, images: Path, tmp_path: Path) -> None:
    fill(pipe, images, tmp_path / "tokens")
    with pytest.raises(InputError, match="another picture"):
        detokenize_folder(pipe, open_tokens(tmp_path / "tokens"), images)


def test_picture_names() -> None:
    assert picture_names(["a/x.jpg", "b/x.png", "y.webp"]) == ["a/x.png", "b/x.png", "y.png"]
    assert picture_names(["x.jpg", "x.png"]) == ["x.jpg.png", "x.png.png"]
    with pytest.raises(InputError, match="x"):
        picture_names(["x.png", "x.png"])


def test_other_weights_are_told_of(pipe: ReconstructPipeline, recwarn: pytest.WarningsRecorder) -> None:
    from visgen.pipelines.tokenize import origin_of

    warn_of_other_weights(pipe, origin_of(pipe))
    assert not recwarn.list
    with pytest.warns(UserWarning, match="other weights"):
        warn_of_other_weights(pipe, ORIGIN)


def test_bits() -> None:
    wanted = {"VQTokenizer": 5.0, "FlexTokTokenizer": np.log2(15), "KARLTokenizer": 4.0, "SEEDTokenizer": 4.0}
    wanted |= {"BAETokenizer": 3.0 * 2, "VARTokenizer": 5.0, "TransformersVQ": np.log2(24)}
    picture = random_picture()
    for name, bits in wanted.items():
        pipe = tiny_pipe(name)
        assert bits_per_token(pipe.tokenizer, tokenize_image(pipe, picture)) == pytest.approx(bits), name
    assert bits_per_token(tiny_pipe("VQTokenizer").tokenizer, TOKENS["latents"]) is None
