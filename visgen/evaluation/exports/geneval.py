"""GenEval (arXiv 2310.11513): `00000/metadata.jsonl` and `00000/samples/0000.png` for each of its prompts.

The judge is `evaluation/evaluate_images.py` of github.com/djghosh13/geneval; the layout is from its README.
"""

from __future__ import annotations

import filecmp
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visgen.errors import InputError, shown
from visgen.evaluation.exports.layout import Layout, LayoutRequest, PictureAt, settle_bytes

SAMPLES = 4
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
PLACES = ("left of", "right of", "above", "below")
KEYS = ("tag", "include", "exclude", "prompt")


@dataclass(frozen=True)
class GenevalPrompt:
    """One line of `evaluation_metadata.jsonl`: the prompt, and the line as it stands there."""

    prompt: str
    line: str


class GenevalLayout(Layout):
    """A folder per prompt, its metadata beside its samples."""

    place, judge = "geneval", "evaluation/evaluate_images.py of GenEval"

    def __init__(self, prompts: list[GenevalPrompt], per_row: int) -> None:
        self._prompts, self.per_row = prompts, per_row
        self.rows = [one.prompt for one in prompts]

    def arrange(self, target: Path, picture: PictureAt) -> None:
        """Samples are hard links to the pictures, or copies where the file system has none."""
        for row, one in enumerate(self._prompts):
            folder = target / f"{row:05d}"
            settle_bytes(folder / "metadata.jsonl", f"{one.line}\n".encode())
            (folder / "samples").mkdir(exist_ok=True)
            for j in range(self.per_row):
                _link(picture(row, j), folder / "samples" / f"{j:04d}.png")


def _link(source: Path, target: Path) -> None:
    if target.exists():
        if not filecmp.cmp(source, target, shallow=False):
            raise InputError(f"{str(target)!r} is another picture than {str(source)!r}; move it away")
        return
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        settle_bytes(target, source.read_bytes())


def geneval_layout(request: LayoutRequest) -> GenevalLayout:
    """The layout of `--export geneval`.

    Raises:
        InputError: no file of prompts, or not GenEval's.
    """
    if request.prompts is None:
        raise InputError("--export geneval needs --prompts evaluation_metadata.jsonl, GenEval's prompts")
    return GenevalLayout(read_geneval(request.prompts), request.per_prompt or SAMPLES)


def read_geneval(path: Path) -> list[GenevalPrompt]:
    """The prompts of GenEval's `evaluation_metadata.jsonl`, each line checked.

    Raises:
        InputError: naming file, line and key.
    """
    if not path.is_file():
        raise InputError(f"--prompts {shown(str(path))} is no file; give GenEval's evaluation_metadata.jsonl")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(
            f"--prompts {shown(str(path))} is no UTF-8 ({error.reason}); save it as UTF-8"
        ) from None
    found = [_prompt(line.strip(), f"{path}, line {number}") for number, line in _filled(lines)]
    if not found:
        raise InputError(f"--prompts {shown(str(path))} is empty; give GenEval's evaluation_metadata.jsonl")
    return found


def _filled(lines: list[str]) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _prompt(line: str, where: str) -> GenevalPrompt:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: this is no JSON object ({error})") from None
    if not isinstance(data, dict):
        raise InputError(f"{where}: this is no JSON object; a line has {', '.join(KEYS)}")
    _check_keys(data, KEYS, ("tag", "include", "prompt"), where)
    if data["tag"] not in TAGS:
        raise InputError(f"{where}: tag={shown(data['tag'])} is unknown; GenEval's are {', '.join(TAGS)}")
    prompt = data["prompt"]
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError(f"{where}: prompt={shown(prompt)} must be a sentence")
    _check_objects(data["include"], "include", ("class", "count", "color", "position"), where)
    if not data["include"]:
        raise InputError(f"{where}: include is empty; name an object")
    _check_objects(data.get("exclude", []), "exclude", ("class", "count"), where)
    return GenevalPrompt(prompt, line)


def _check_keys(data: Mapping[str, Any], known: tuple[str, ...], needed: tuple[str, ...], where: str) -> None:
    for key in data:
        if key not in known:
            raise InputError(f"{where}: unknown key {shown(key)}; there are {', '.join(known)}")
    for key in needed:
        if key not in data:
            raise InputError(f"{where}: {key} is missing; add it")


def _check_objects(objects: Any, key: str, known: tuple[str, ...], where: str) -> None:
    if not isinstance(objects, list) or not all(isinstance(one, dict) for one in objects):
        raise InputError(f"{where}: {key}={shown(objects)} must be a list of objects")
    for i, one in enumerate(objects):
        place = f"{where}: {key}[{i}]"
        _check_keys(one, known, ("class", "count"), place)
        if not isinstance(one["class"], str) or not one["class"]:
            raise InputError(f"{place}.class={shown(one['class'])} must be the name of a COCO class")
        if isinstance(one["count"], bool) or not isinstance(one["count"], int) or one["count"] < 1:
            raise InputError(f"{place}.count={shown(one['count'])} must be an integer of 1 or more")
        if "color" in one and one["color"] not in COLOURS:
            raise InputError(
                f"{place}.color={shown(one['color'])} is unknown; use one of {', '.join(COLOURS)}"
            )
        if "position" in one:
            _check_position(one["position"], i, len(objects), place)


def _check_position(position: Any, i: int, count: int, place: str) -> None:
    """["left of", 0]: where it is, and beside which other object."""
    pair = isinstance(position, list) and len(position) == 2
    if not pair or position[0] not in PLACES or type(position[1]) is not int:
        raise InputError(
            f"{place}.position={shown(position)} must be [{' | '.join(PLACES)}, number of an object]"
        )
    if position[1] == i or not 0 <= position[1] < count:
        raise InputError(f"{place}.position={shown(position)} names no other object; there are {count}")
