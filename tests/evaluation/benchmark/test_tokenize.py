"""`visgen bench tokenize`: rows of each tokenizer, the straightforward way beside ours where it does less."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tests.cli.conftest import run  # noqa: F401 # a fixture
from tests.pipelines.tiny_tokenizers import tiny_pipe
from visgen.errors import InputError, UnknownNameError
from visgen.evaluation.benchmark.random_tokenizers import SIZES, random_tokenizer
from visgen.evaluation.benchmark.tokenize import TokenizeBench
from visgen.tokenizers import TOKENIZERS

Run = Callable[..., Result]


def bench(kind: str, **options: Any) -> list[dict[str, Any]]:
    return list(TokenizeBench("toy", tiny_pipe(kind), **{"batch_sizes": (1,), "repeats": 1} | options).run())


@pytest.mark.parametrize("kind", TOKENIZERS.names())
def test_every_tokenizer_has_rows(kind: str) -> None:
    rows = bench(kind, batch_sizes=(1, 2))
    names = [row["name"] for row in rows]
    assert {"toy: encode", "toy: decode"} <= set(names)
    assert {row["batch_size"] for row in rows} == {1, 2}
    assert all(row["seconds"] > 0 and row["images_per_second"] == 1 / row["seconds"] for row in rows)
    assert all(row["dtype"] == "float32" for row in rows)
    assert any("baseline" in name for name in names) == (kind in ("FlexTokTokenizer", "KARLTokenizer"))


@pytest.mark.parametrize("kind", ["FlexTokTokenizer", "KARLTokenizer"])
def test_the_straightforward_way_gives_the_same(kind: str) -> None:
    rows = [row for row in bench(kind, lengths=[1, 3, 8]) if "decode" in row["name"]]
    ours, dense = rows[0::2], rows[1::2]
    assert [row["tokens"] for row in ours] == [row["tokens"] for row in dense] == [1, 3, 8]
    assert all(row["largest_pixel_difference"] < 1e-4 for row in ours)
    assert all(("flow_speedup" in row) == (kind == "FlexTokTokenizer") for row in ours)
    pairs = zip(ours, dense, strict=True)
    assert all(one["speedup"] == pytest.approx(two["seconds"] / one["seconds"]) for one, two in pairs)
    assert all("baseline" in row["name"] and "speedup" not in row for row in dense)


def test_steps_and_lengths() -> None:
    rows = bench("FlexTokTokenizer", steps=3)
    assert {row["steps"] for row in rows if "decode" in row["name"]} == {3}
    assert [row["tokens"] for row in rows if row["name"] == "toy: decode"] == [1, 4, 8]
    assert [row["tokens"] for row in rows if row["name"] == "toy: encode"] == [8, 1]
    assert [row["tokens"] for row in rows if "autoencoder" in row["name"]] == [None]
    assert {row.get("steps") for row in bench("SEEDTokenizer", steps=3)} >= {3}


def test_what_cannot_be_asked() -> None:
    with pytest.raises(InputError, match="always makes 16 tokens"):
        bench("VQTokenizer", lengths=[1])
    with pytest.raises(InputError, match="makes 1 to 8"):
        bench("KARLTokenizer", lengths=[9])


@pytest.mark.parametrize("name", SIZES)
def test_random_sizes_are_official(name: str) -> None:
    """Built without memory: widths and depths fit each other."""
    import torch

    kind, config = SIZES[name]
    with torch.device("meta"):
        tokenizer = TOKENIZERS.load(kind)(**config)
    assert tokenizer.pixel_size == 256
    with pytest.raises(UnknownNameError, match="did you mean"):
        random_tokenizer("flextok-d12")


def test_the_command(run: Run, tmp_path: Path) -> None:  # noqa: F811
    for name, kind in {"flextok": "FlexTokTokenizer", "vq": "VQTokenizer"}.items():
        tiny_pipe(kind).save_pretrained(tmp_path / name)
    words = ("flextok", "vq", "--batch-size", "1,2", "--repeats", 1, "--decode-steps", 2)
    result = run("bench", "tokenize", *words)
    assert result.exit_code == 0, result.output
    *lines, last = result.stdout.splitlines()
    found = json.loads(last)
    assert (found["bench"], found["model"], found["dtype"]) == ("tokenize", "flextok,vq", ["float32"])
    assert set(found) >= {"schema", "device", "threads", "versions", "rows", "repeats"}
    assert any("× the baseline" in line for line in lines) and any("vq: decode" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--batch-size", "0"], "--batch-size"),
        (["--num-tokens", "x"], "--num-tokens"),
        (["--random", "flextok-d13"], "flextok-d12-d12"),
        (["scenes-vq", "--num-tokens", "4"], "scenes-vq"),
        (["--device", "abacus"], "abacus"),
        (["no-such-model"], "no-such-model"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_bad_input_is_one_line(run: Run, words: list[str], told: str) -> None:  # noqa: F811
    result = run("bench", "tokenize", *words)
    assert result.exit_code == 2, result.output
    assert told in result.stderr.splitlines()[-1]
