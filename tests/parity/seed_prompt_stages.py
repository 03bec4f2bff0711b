"""SEED-LLaMA's prompts and answers: the cases of `prompts.json`, through the public functions."""

from __future__ import annotations

import json
import re
from typing import Any

import torch

from tests.parity.report import Golden
from visgen.pipelines.seed_prompts import (
    ImageIds,
    Role,
    Turn,
    build_prompt,
    full_prompt,
    parse_answer,
)

FILE = "prompts.json"
ROLES: dict[str, Role] = {"USER": "user", "ASSISTANT": "assistant", "[INST]": "user", "[/INST]": "assistant"}
VOCABULARY = re.compile(r"(\d+)\s*\+\s*code.*?<img>\s*=\s*(\d+).*?</img>\s*=\s*(\d+)")


def check_prompts(golden: Golden) -> None:
    """Compare every prompt and every answer of the file; texts and lists must be equal."""
    cases = json.loads((golden.folder / FILE).read_text(encoding="utf-8"))
    for index, case in enumerate(cases["prompts"]):
        _check_prompt(golden, f"prompts.{index}.{case['style']}", case)
    where = _vocabulary(cases["note"])
    for case in cases["parse"]:
        _check_answer(golden, f"parse.{case['name']}", case, where)


def _vocabulary(note: str) -> ImageIds:
    """Ids of images as the file's note tells them; codes end where `<img>` begins."""
    found = VOCABULARY.search(note)
    if found is None:
        raise ValueError(f"{FILE}: its note does not tell the ids of images: {note!r}")
    first, begin, end = map(int, found.groups())
    return ImageIds(first, begin - first, begin, end)


def _check_prompt(golden: Golden, stage: str, case: dict[str, Any]) -> None:
    turns = [Turn(ROLES[turn["role"]], turn["text"]) for turn in case["turns"]]
    images = [codes for turn in case["turns"] for codes in turn["image_codes"]]
    prompt = build_prompt(turns, case["style"], case.get("system"))
    made = {
        "prompt_text": prompt,
        "full_prompt": full_prompt(prompt, images),
        "full_prompt_forced_image": full_prompt(prompt, images, force_image=True),
    }
    for name, text in made.items():
        _equal(golden, f"{stage}.{name}", text, case[name])


def _check_answer(golden: Golden, stage: str, case: dict[str, Any], where: ImageIds) -> None:
    found = parse_answer(case["ids"], where)
    images = [{"codes": list(one.codes), "decodable": one.decodable} for one in found.images]
    _equal(golden, f"{stage}.images", images, case["images"])
    _equal(golden, f"{stage}.remaining_ids", list(found.remaining_ids), case["remaining_ids"])
    _equal(golden, f"{stage}.errors", list(found.errors), case["errors"])


def _equal(golden: Golden, stage: str, found: Any, expected: Any) -> None:
    golden.compare(stage, found == expected, torch.tensor(True))
