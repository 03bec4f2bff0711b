"""The judge of `scripts/check_relations.py`: it accepts drawn scenes, and nothing else."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image, ImageOps

from visgen.data.scenes.splits import HELD_OUT_PAIRS, HELD_OUT_RELATIONS
from visgen.data.scenes.vocabulary import INVERSE

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_relations.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_relations", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_forty_prompts_ten_per_relation(script: ModuleType) -> None:
    cases = script.make_cases()
    assert cases == script.make_cases()
    assert len({case.prompt for case in cases}) == 40
    assert Counter(case.signature.relation for case in cases) == dict.fromkeys(INVERSE, 10)


def test_no_prompt_is_held_out(script: ModuleType) -> None:
    for case in script.make_cases():
        first, second = case.signature.looks
        assert first.colour != second.colour and first.shape != second.shape
        assert not {(look.colour, look.shape) for look in case.signature.looks} & HELD_OUT_PAIRS
        assert (first.shape, case.signature.relation, second.shape) not in HELD_OUT_RELATIONS


def test_drawn_scenes_are_right(script: ModuleType) -> None:
    cases = script.make_cases()
    images = script.draw_real(cases, seed=1)
    assert all(script.judge(image, case.signature).correct for image, case in zip(images, cases, strict=True))


def test_turned_scenes_are_wrong(script: ModuleType) -> None:
    cases = script.make_cases()
    for image, case in zip(script.draw_real(cases, seed=1), cases, strict=True):
        for turned in (image.rotate(90), image.rotate(180), Image.new("RGB", image.size, "white")):
            assert not script.judge(turned, case.signature).correct
        opposite = replace(case.signature, relation=INVERSE[case.signature.relation])
        turn = ImageOps.flip if case.signature.relation in ("above", "below") else ImageOps.mirror
        assert script.judge(turn(image), opposite).correct
