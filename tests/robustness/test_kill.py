"""`kill -9`, three times at different moments, then resume: nothing is lost, repeated or different."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.robustness.killing import Forked, Start, Started, finish, kill_when
from visgen.tokenizers.var import VARTokenizer

SCENES = [
    "a red circle",
    "a blue square above a green star",
    "three yellow hearts at night",
    "two pink rings",
]
SCALES = [1, 2, 4]
CODES = {"scales": SCALES, "codebook_size": 32, "latent_channels": 4}
TOKENIZER = CODES | {"ch": 8, "ch_mult": [1, 1], "num_res_blocks": 1, "norm_groups": 4, "patch_size": 8}
GENERATOR = {"condition": "prompt", "hidden_size": 16, "depth": 1, "num_heads": 2}

quick = partial(pytest.param, Forked)
thorough = partial(pytest.param, Started, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("start", "rows", "count", "size", "moments"),
    [quick(8, 3, 4, (1, 9, 17), id="24"), thorough(125, 4, 16, (9, 230, 390), id="500")],
)
def test_a_batch_killed_three_times(
    tmp_path: Path, start: Start, rows: int, count: int, size: int, moments: tuple[int, ...]
) -> None:
    prompts, total = tmp_path / "prompts.txt", rows * count
    prompts.write_text("\n".join(SCENES[row % len(SCENES)] for row in range(rows)))
    words = ["--threads", 1, "generate", "--prompts", prompts, "-n", count, "--seed", 5]
    words += ["--batch-size", size]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finish(start, [*words, "-o", whole])
    for moment in moments:
        kill_when(partial(has_pictures, parts, moment), start, [*words, "-o", parts])
        assert moment <= len(pictures(parts)) < total
        assert listed(parts) <= pictures(parts).keys()
    before = {path: path.stat().st_mtime_ns for path in parts.glob("*.png")}
    finish(start, [*words, "-o", parts])
    assert {path: path.stat().st_mtime_ns for path in before} == before, "a finished picture was made again"
    assert pictures(parts) == pictures(whole) and len(pictures(whole)) == total
    lines = [json.loads(line) for line in (parts / "index.jsonl").read_text().splitlines()]
    assert [line["ordinal"] for line in lines] == list(range(total))
    assert (parts / "index.jsonl").read_bytes() == (whole / "index.jsonl").read_bytes()
    assert {path.name for path in parts.iterdir()} == {path.name for path in whole.iterdir()}


def has_pictures(folder: Path, count: int) -> bool:
    return len(names_of(folder)) >= count


def pictures(folder: Path) -> dict[str, bytes]:
    """What each picture of a folder holds, pixels and text."""
    return {name: (folder / name).read_bytes() for name in names_of(folder)}


def names_of(folder: Path) -> list[str]:
    """Pictures, without what is being written."""
    names = os.listdir(folder) if folder.is_dir() else []
    return [name for name in names if name.endswith(".png")]


def listed(folder: Path) -> set[str]:
    """Files of the whole lines of an index."""
    text = (folder / "index.jsonl").read_text()
    return {json.loads(line)["file"] for line in text.splitlines(keepends=True) if line.endswith("\n")}


def tokenizer_recipe(tmp_path: Path) -> dict[str, Any]:
    options = {"restart_every": 3, "adversarial": {"weight": 0.1, "start_step": 4, "hidden_size": 8}}
    return {"objective": "multiscale-tokenizer", "model": TOKENIZER, "options": options}


def generator_recipe(tmp_path: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    VARTokenizer(**TOKENIZER).save_pretrained(tmp_path / "tokenizer")
    options = {"tokenizer": str(tmp_path / "tokenizer"), "text_length": 24}
    return {"objective": "next-scale-generator", "model": GENERATOR, "options": options}


@pytest.mark.parametrize(
    ("start", "make", "steps"),
    [
        quick(tokenizer_recipe, 36, id="tokenizer"),
        thorough(tokenizer_recipe, 160, id="tokenizer-160"),
        thorough(generator_recipe, 160, id="generator-160"),
    ],
)
def test_a_training_killed_three_times(
    tmp_path: Path, start: Start, make: Callable[[Path], dict[str, Any]], steps: int
) -> None:
    common = {
        "schema": 1,
        "steps": steps,
        "batch_size": 4,
        "threads": 1,
        "checkpoint_every": 4,
        "log_every": 3,
    }
    data = {"source": "scenes", "split": "train"}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**common, "sample_every": 8, "data": data, **make(tmp_path)}))
    words = ["--threads", 1, "train", recipe]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finish(start, [*words, f"output={whole}"])
    for moment in (before_a_checkpoint, while_writing, late):
        kill_when(partial(moment, parts, steps), start, [*words, f"output={parts}"])
        assert not (parts / "model").exists()
    finish(start, [*words, f"output={parts}"])
    assert weights(parts / "model") == weights(whole / "model")
    assert weights(parts / "checkpoints") == weights(whole / "checkpoints")
    assert logged(parts) == logged(whole) and logged(whole)[-1]["step"] == steps


def before_a_checkpoint(output: Path, steps: int) -> bool:
    """A line has been logged, nothing has been saved."""
    return len(logged(output)) > 0


def while_writing(output: Path, steps: int) -> bool:
    """A checkpoint of the first half is being written (or that was missed and it is there)."""
    names = {path.name for path in output.glob("checkpoints/*")}
    return any(name.startswith(".") for name in names) or max(names, default="") >= f"step_{steps // 2:08d}"


def late(output: Path, steps: int) -> bool:
    """Two thirds of the steps are logged."""
    return any(line["step"] >= steps * 2 // 3 for line in logged(output))


def logged(output: Path) -> list[dict[str, Any]]:
    """Whole lines of the log, less what the clock says."""
    log = output / "log.jsonl"
    texts = log.read_text().splitlines(keepends=True) if log.exists() else []
    lines = [json.loads(text) for text in texts if text.endswith("\n")]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "seconds")} for line in lines]


def weights(folder: Path) -> dict[str, bytes]:
    """Every file of weights below a folder."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}
    assert files, f"{folder} holds no weights"
    return files
