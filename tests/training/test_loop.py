"""The loop learns, resumes exactly, survives kills, and stops where it must. The objective is `toy.py`."""

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from toy import ToyObjective, register

from visgen.errors import InputError
from visgen.training import checkpoint, train
from visgen.training.metrics import TrainingDivergedError

register()


def recipe(output, **changes):
    return {
        "objective": "toy",
        "output": str(output),
        "steps": 6,
        "batch_size": 4,
        "data": {"source": "scenes", "split": "train"},
        "schedule": {"name": "linear", "warmup_steps": 2},
        "log_every": 4,
        "checkpoint_every": 3,
        "sample_every": 0,
        **changes,
    }


def losses(output):
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "seconds")} for line in lines]


def assert_same_run(a, b):
    assert losses(a) == losses(b)
    for name in ("objective", "ema"):
        files = [
            checkpoint.list_checkpoints(folder / "checkpoints")[-1] / f"{name}.safetensors"
            for folder in (a, b)
        ]
        first, second = (load_file(file) for file in files)
        assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture
def killed_at(monkeypatch):
    """Let the toy's step number n raise a signal (or call a function)."""

    def arrange(step, action):
        after_step = ToyObjective.after_step

        def patched(self, current):
            if current == step:
                action()
            return after_step(self, current)

        monkeypatch.setattr(ToyObjective, "after_step", patched)

    return arrange


def test_a_run_learns_and_leaves_everything_behind(tmp_path):
    out = train(recipe(tmp_path / "run", steps=60, batch_size=16, optimizer={"lr": 1e-2}, sample_every=30))
    lines = [line for line in losses(out) if "loss" in line]
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"] and lines[-1]["seen"] == 58.5  # mean of 57 to 60
    names = {"checkpoints", "log.jsonl", "model", "recipe.yaml", "samples", "training_log.json"}
    assert {path.name for path in out.iterdir()} == names
    assert [p.name for p in checkpoint.list_checkpoints(out / "checkpoints")] == [
        "step_00000057",
        "step_00000060",
    ]
    assert sorted(p.name for p in (out / "samples").iterdir()) == ["step_000030.png", "step_000060.png"]
    record = json.loads((out / "training_log.json").read_text())
    assert record["samples"] == 960 and record["recipe"]["steps"] == 60 and record["versions"]["torch"]
    assert record["final"]["loss"] == lines[-1]["loss"] and "eval_weight" in record["final"]
    assert record["curve"][-1]["step"] == 60
    model, averaged = (
        load_file(out / "model" / "model.safetensors"),
        load_file(out / "checkpoints" / "step_00000060" / "ema.safetensors"),
    )
    assert all(torch.equal(model[key], averaged[key]) for key in averaged)


@pytest.mark.parametrize("extra", [{}, {"optimizer": {"name": "muon"}, "options": {"adversary": True}}])
def test_resuming_after_an_interruption_is_exact(tmp_path, killed_at, caplog, extra):
    state = torch.get_rng_state()
    whole = train(recipe(tmp_path / "whole", **extra))
    assert torch.equal(state, torch.get_rng_state()), "the caller's generator is kept"
    handler = signal.getsignal(signal.SIGTERM)
    killed_at(1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    parts = train(recipe(tmp_path / "parts", **extra))
    assert signal.getsignal(signal.SIGTERM) is handler and "train the same recipe again" in caplog.text
    assert (
        not (parts / "model").exists()
        and checkpoint.list_checkpoints(parts / "checkpoints")[-1].name[-1] == "2"
    )
    assert train(recipe(tmp_path / "parts", **extra)) == parts
    assert_same_run(whole, parts)


def test_killed_while_writing_a_checkpoint(tmp_path, monkeypatch):
    whole, broken = train(recipe(tmp_path / "whole")), tmp_path / "broken"

    def die(folder, state):
        if state.progress["step"] == 6:
            (folder / "objective.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt
        write(folder, state)

    write = checkpoint._write
    monkeypatch.setattr(checkpoint, "_write", die)
    with pytest.raises(KeyboardInterrupt):
        train(recipe(broken))
    monkeypatch.setattr(checkpoint, "_write", write)
    assert {path.name for path in (broken / "checkpoints").iterdir()} == {
        "step_00000003",
        ".writing_step_00000006",
    }
    train(recipe(broken))
    assert_same_run(whole, broken)
    assert not list((broken / "checkpoints").glob(".*"))


def test_a_finished_run_can_be_prolonged(tmp_path):
    whole = train(recipe(tmp_path / "whole", schedule={}))
    parts = train(recipe(tmp_path / "parts", schedule={}, steps=3, log_every=2))
    train(recipe(parts, schedule={}, log_every=3))
    files = [folder / "model" / "model.safetensors" for folder in (whole, parts)]
    first, second = (load_file(file) for file in files)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_another_recipe_in_the_same_folder_is_refused(tmp_path):
    train(recipe(tmp_path / "run", steps=1))
    with pytest.raises(InputError, match=r"schedule\.warmup_steps=0"):
        train(recipe(tmp_path / "run"), ["schedule.warmup_steps=0"])
    with pytest.raises(InputError, match="holds a run"):
        train(recipe(tmp_path / "run", steps=1), resume=False)


@pytest.mark.parametrize("nan_at", [4, 5])
def test_a_loss_that_is_not_finite_stops(tmp_path, nan_at):
    out = tmp_path / "run"
    with pytest.raises(TrainingDivergedError, match=f"loss is nan at step {nan_at}"):
        train(recipe(out, options={"nan_at": nan_at}))
    (last,) = checkpoint.list_checkpoints(out / "checkpoints")
    state = checkpoint.load_checkpoint(last)
    assert state.progress["step"] == 3 and all(value.isfinite().all() for value in state.objective.values())


def test_adversary_trains_from_its_start_without_touching_the_rest(tmp_path):
    out = train(
        recipe(tmp_path / "run", options={"adversary": True}, log_every=1, ema=None, precision="bf16")
    )
    lines = losses(out)
    assert "adversary_loss" not in lines[1] and "adversary_grad_norm" in lines[2]
    state = load_file(checkpoint.list_checkpoints(out / "checkpoints")[-1] / "objective.safetensors")
    assert any(name.startswith("discriminator.") for name in state)
    assert "discriminator" not in " ".join(load_file(out / "model" / "model.safetensors"))
