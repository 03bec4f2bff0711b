"""Recipes are read strictly, overridden by dotted keys, and compared on resuming."""

import pytest

from visgen.errors import InputError
from visgen.training.recipe import ScheduleSpec, check_resumable, load_recipe, save_recipe
from visgen.training.schedule import lr_factor

BASE = {"objective": "toy", "output": "out", "steps": 10, "batch_size": 4, "data": {"source": "scenes"}}


def test_overrides_are_yaml_values_at_dotted_keys():
    overrides = [
        "optimizer.lr=1e-3",
        "model.depths=[1, 2]",
        "ema=null",
        "options.loss.gan=0.5",
        "precision=bf16",
    ]
    recipe = load_recipe(BASE, overrides)
    assert recipe.optimizer.lr == 1e-3 and recipe.ema is None and recipe.precision == "bf16"
    assert recipe.model == {"depths": [1, 2]} and recipe.options == {"loss": {"gan": 0.5}}
    assert BASE.keys() == {"objective", "output", "steps", "batch_size", "data"}, "the caller's mapping stays"


def test_resolved_recipe_reads_back_equal(tmp_path):
    recipe = load_recipe(BASE, ["optimizer.name=muon", "optimizer.betas=[0.8, 0.9]", "schedule.name=cosine"])
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.lrr=1", ["optimizer.lrr", "did you mean lr"]),
        ("batchsize=1", ["batchsize", "batch_size"]),
        ("steps=many", ["steps", "many", "int"]),
        ("steps=true", ["steps", "int"]),
        ("steps=0", ["steps=0", "1 or more"]),
        ("precision=fp16", ["precision", "fp16", "bf16"]),
        ("schedule.name=step", ["schedule.name", "cosine"]),
        ("schedule.flat=2", ["schedule.flat", "fraction"]),
        ("optimizer.lr=-1", ["optimizer.lr", "above 0"]),
        ("optimizer.betas=[0.9]", ["optimizer.betas", "2"]),
        ("ema.decay=1.5", ["ema.decay"]),
        ("schema=2", ["schema=2"]),
        ("data={}", ["data.source"]),
        ("optimizer=3", ["optimizer", "mapping"]),
        ("steps.x=3", ["steps.x=3"]),
        ("steps", ["'steps'", "key=value"]),
        ("model=[", ["model=["]),
    ],
)
def test_bad_values_are_named(override, words):
    with pytest.raises(InputError) as caught:
        load_recipe(BASE, [override])
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_missing_keys_and_files_are_named(tmp_path):
    with pytest.raises(InputError, match="objective is missing"):
        load_recipe({key: value for key, value in BASE.items() if key != "objective"})
    with pytest.raises(InputError, match="does not exist"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(InputError, match="not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")


def test_resuming_another_recipe_names_the_key():
    saved = load_recipe(BASE).to_dict()
    check_resumable(saved, load_recipe(BASE, ["steps=20", "log_every=1", "output=moved"]), step=10)
    for override, key in [
        ("optimizer.lr=1", "optimizer.lr"),
        ("model.d=2", "model.d"),
        ("ema=null", "ema"),
        ("seed=1", "seed"),
    ]:
        with pytest.raises(InputError, match=key):
            check_resumable(saved, load_recipe(BASE, [override]), step=5)
    with pytest.raises(InputError, match="steps=4"):
        check_resumable(saved, load_recipe(BASE, ["steps=4"]), step=5)


def factors(steps=101, **kwargs):
    schedule = ScheduleSpec(**kwargs)
    return [lr_factor(schedule, step, steps) for step in range(steps + 1)]


def test_schedules():
    assert set(factors(name="constant")) == {1.0}
    linear = factors(name="linear", flat=0.3, final=0.1)
    assert (
        linear[30] == 1.0
        and linear[65] == pytest.approx(0.55)
        and linear[100] == linear[101] == pytest.approx(0.1)
    )
    cosine = factors(name="cosine")
    assert cosine[50] == pytest.approx(0.5) and cosine[100] == 0.0 and cosine == sorted(cosine, reverse=True)
    warm = factors(name="linear", warmup_steps=10)
    assert warm[0] == 0.1 and warm[9] == warm[10] == 1.0 and warm[100] == 0.0
    lin0 = factors(name="lin0", warmup_steps=20, final=0.1)
    assert lin0[0] == 0.005 and lin0[10] == pytest.approx(0.5025) and lin0[24] == 1.0 and lin0[25] < 1
    assert lin0[60] == pytest.approx(0.1 + 0.9 * 0.5 / 0.95) and lin0[100] == pytest.approx(0.1)
    assert factors(steps=1, name="linear", warmup_steps=5)[0] == 0.2
