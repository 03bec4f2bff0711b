"""Recipes that are broken, harmful or nonsense. None of them starts a training."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from tests.robustness.conftest import Refused, Run
from visgen.errors import InputError
from visgen.training.recipe import load_recipe

RECIPE = """\
objective: multiscale-tokenizer
output: out
steps: 1
batch_size: 1
threads: 1
data: {source: scenes, split: train}
model:
  {scales: [1, 2, 4], codebook_size: 8, latent_channels: 4, ch: 8, ch_mult: [1, 1], norm_groups: 4,
   patch_size: 8}
"""
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [*{before}, *{before}, *{before}, *{before}, *{before}, *{before}, *{before}]\n"
    for before, name in zip("abcdefghijklmno", "bcdefghijklmnop", strict=True)
)
FILES: dict[str, str | bytes] = {
    "empty": "",
    "comment": "# nothing\n",
    "text": "train me",
    "list": "[1, 2]",
    "number": "3",
    "open bracket": "data: {source: scenes",
    "tabs": "data:\n\tsource: scenes",
    "two documents": RECIPE + "---\n" + RECIPE,
    "binary": b"\x80\x04\x95\xff\xfe",
    "utf-16": RECIPE.encode("utf-16"),
    "latin": b"objective: \xe9\xe8",
    "nul": "objective: a\0b",
    "python object": "!!python/object/apply:os.mkdir [exploded]",
    "python value": RECIPE + "seed: !!python/object/apply:os.mkdir [exploded]\n",
    "python name": RECIPE + "seed: !!python/name:os.system\n",
    "python module": RECIPE + "seed: !!python/module:os\n",
    "python new": RECIPE + "seed: !!python/object/new:os.mkdir {args: [exploded]}\n",
    "unknown tag": RECIPE + "seed: !include other.yaml\n",
    "billion laughs": LAUGHS + "data: *p\n",
    "circle": RECIPE + "options: &o {a: *o}\n",
    "deep": "data: " + "[" * 100_000,
    "deep mapping": "{a: " * 5_000,
    "long number": RECIPE + "seed: " + "9" * 9_999 + "\n",
    "no date": RECIPE + "seed: 2026-99-99\n",
    "list as a key": RECIPE + "? [a]\n: b\n",
}


def write(tmp_path: Path, content: str | bytes = RECIPE) -> None:
    (tmp_path / "r.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_no_recipe(refused: Refused, tmp_path: Path, kind: str) -> None:
    write(tmp_path, FILES[kind])
    refused("train", "r.yaml")


def test_places_that_hold_no_recipe(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    for place in ("nowhere.yaml", "folder", "pipe", "circle", "/dev/zero", "x" * 300, ""):
        refused("train", place, told="recipe")


OVERRIDES: dict[str, str] = {
    "step": "key=value",
    "=3": "key=value",
    "": "key=value",
    ".=3": "unknown key",
    "steps.x=3": "is a value",
    "setps=3": "did you mean steps",
    "model=[": "no YAML value",
    "seed=!!python/object/apply:os.mkdir [exploded]": "no YAML value",
    "seed=*a": "no YAML value",
    "steps=0": "steps=0",
    "steps=-5": "steps=-5",
    "steps=1.5": "steps=1.5",
    "steps=many": "steps='many'",
    "steps=null": "steps=None",
    "steps=true": "steps=True",
    "batch_size=0": "batch_size=0",
    "batch_size=-1": "batch_size=-1",
    "schema=7": "schema=7",
    "objective=os.system": "unknown training objective",
    "objective=[a]": "objective=['a']",
    "output=": "output",
    "output=''": "output=''",
    "precision=int8": "precision='int8'",
    "threads=0": "threads=0",
    "seed=99999999999999999999": "seed=",
    "data=3": "data=3",
    "data={}": "data.source",
    "data.source=web": "unknown data source 'web'",
    "data.source=[a]": "data.source",
    "data.split=tset": "tset",
    "data.splt=train": "did you mean split",
    "data.length=-1": "length=-1",
    "data.length=ten": "data.length='ten'",
    "data={source: scenes, split: train, 3: 4}": "unknown key",
    "data={source: folder, root: /nowhere, image_size: 64}": "'/nowhere' is not a folder",
    "data={source: folder, image_size: 64}": "data.root is missing",
    "data={source: folder, root: ., image_size: -1}": "image_size=-1",
    "data={source: folder, root: 3, image_size: 64}": "data.root=3",
    "data={source: folder, root: ., image_size: 64, condition: words}": "data.condition='words'",
    "optimizer.name=sgd": "optimizer.name='sgd'",
    "optimizer.lr=0": "optimizer.lr=0",
    "optimizer.lr=.nan": "not a finite number",
    "optimizer.lr=.inf": "not a finite number",
    "optimizer.betas=[0.9, 2]": "optimizer.betas",
    "optimizer.eps=-1": "optimizer.eps=-1",
    "optimizer.weight_decay=-1": "optimizer.weight_decay=-1",
    "optimizer.grad_clip=-1": "optimizer.grad_clip=-1",
    "schedule.warmup_steps=-1": "schedule.warmup_steps=-1",
    "schedule.final=7": "schedule.final=7",
    "ema.decay=1": "ema.decay",
    "log_every=0": "log_every=0",
    "model=3": "model=3",
    "model.scales=[]": "scales=() must be 1 or more",
    "model.scales=3": "model.scales=3",
    "model.ch=-8": "model",
    "model.ch=0": "ch=0 must be 1 or more",
    "model.ch=eight": "model.ch='eight'",
    "model.ch=99999999999999": "model",
    "model.chn=8": "did you mean ch",
    "model.norm_groups=3": "model makes no VARTokenizer",
    "model.patch_size=4": "does not fit the model",
    "options.quantizer_weight=heavy": "options.quantizer_weight='heavy'",
    "options.init=nowhere": "nowhere is no model folder",
    "options.quntizer_weight=1": "did you mean quantizer_weight",
}


@pytest.mark.parametrize("override", OVERRIDES, ids=lambda text: text[:50])
def test_overrides(refused: Refused, tmp_path: Path, override: str) -> None:
    write(tmp_path)
    refused("train", "r.yaml", override, told=OVERRIDES[override])


GENERATOR: dict[str, str] = {
    "options={}": "options.tokenizer is missing",
    "options.tokenizer=nowhere": "unknown model 'nowhere'",
    "options.tokenizer=/dev/null": "is no model",
    "model.num_heads=3": "multiple of num_heads=3",
    "model.num_heads=0": "VARTransformer",
    "model.hidden_size=-16": "model.hidden_size=-16 is negative",
    "model.condition=smell": "model.condition='smell'",
    "model.depth=-1": "depth",
    "options.words=[two words]": "'two words' is not one word",
    "options.text_length=0": "model_max_length=0",
    "options.sampling={heat: 3}": "unknown key 'options.sampling.heat'",
    "options.sampling={top_p: 7}": "top_p=7",
    "options.condition_dropout=.nan": "not a finite number",
}


@pytest.mark.parametrize("override", GENERATOR)
def test_overrides_of_a_generator(refused: Refused, tmp_path: Path, override: str) -> None:
    write(tmp_path, RECIPE[: RECIPE.index("model:")].replace("multiscale-tokenizer", "next-scale-generator"))
    model = [
        "model={condition: prompt, hidden_size: 16, depth: 1, num_heads: 2}",
        "options.tokenizer=scenes-var",
    ]
    refused("train", "r.yaml", *model, override, told=GENERATOR[override])


def test_outputs_below_a_file(refused: Refused, tmp_path: Path) -> None:
    write(tmp_path)
    for place in ("r.yaml", "r.yaml/out", "/dev/null/out", "/dev/full", "x" * 300):
        refused("train", "r.yaml", f"output={place}", told=place[:30])


def test_yaml_of_the_library_has_no_aliases() -> None:
    from visgen.data.yaml_files import parse_yaml

    assert parse_yaml("a: 1e-3\nb: [&anchor 2]") == {"a": 1e-3, "b": [2]}
    with pytest.raises(yaml.YAMLError, match="alias \\*anchor"):
        parse_yaml("a: &anchor 2\nb: *anchor")


def test_mappings_from_python() -> None:
    for mapping in ({}, {"objective": 3}, {3: 4}, {"steps": object()}):
        with pytest.raises(InputError):
            load_recipe(mapping)  # type: ignore[arg-type]


def test_the_recipe_itself_is_good(run: Run, tmp_path: Path) -> None:
    """What is refused above is refused for the one thing that was changed."""
    write(tmp_path)
    result = run("train", "r.yaml")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out/model/config.json").is_file()
