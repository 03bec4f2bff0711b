"""The checker's objective: targets mark the centres, and a few steps learn to find them."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from visgen.data.scenes import COLOURS, Scenes
from visgen.errors import InputError
from visgen.evaluation.scenes.checker import SceneChecker
from visgen.training import train
from visgen.training.checker import heat_loss, make_targets


def test_targets_peak_at_the_centres() -> None:
    scenes = Scenes("train").batch(range(16)).scenes
    targets = make_targets(scenes)
    for row, scene in enumerate(scenes):
        assert int((targets.heat[row] == 1).sum()) == scene.count
        for one in scene.objects:
            cell = int(one.y / 4), int(one.x / 4)
            assert targets.heat[row, 0][cell] == 1
            assert targets.classes["colour"][row][cell] == COLOURS.index(one.colour)


def test_heat_loss_is_least_at_the_targets() -> None:
    heat = make_targets(Scenes("train").batch(range(4)).scenes).heat
    right = torch.where(heat == 1, 8.0, -8.0)
    assert heat_loss(right, heat) < 0.01 < heat_loss(torch.zeros_like(heat), heat) < heat_loss(-right, heat)


def test_training_learns_and_exports(tmp_path) -> None:
    recipe = {
        "objective": "scenes-checker",
        "output": str(tmp_path / "run"),
        "steps": 40,
        "batch_size": 8,
        "data": {"source": "scenes", "split": "judge"},
        "model": {"stem_size": 8, "hidden_size": 16, "num_blocks": 1, "norm_groups": 4},
        "options": {"validation_scenes": 16},
        "optimizer": {"lr": 3e-3},
        "log_every": 10,
        "sample_every": 40,
    }
    folder = train(recipe)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    assert 0 <= next(line["eval_all"] for line in lines if "eval_all" in line) <= 1
    assert SceneChecker.from_pretrained(folder / "model").config.hidden_size == 16


def test_only_scenes_have_ground_truth(tmp_path) -> None:
    for index in range(8):
        Image.new("RGB", (64, 64), (index * 20, 0, 0)).save(tmp_path / f"{index}.png")
    recipe = {
        "objective": "scenes-checker",
        "output": str(tmp_path / "run"),
        "steps": 1,
        "batch_size": 4,
        "data": {"source": "folder", "root": str(tmp_path), "image_size": 64},
    }
    with pytest.raises(InputError, match="no ground truth"):
        train(recipe)
