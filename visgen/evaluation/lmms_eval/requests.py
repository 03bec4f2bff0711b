"""What lmms-eval asks for: pictures and a text, how an answer is to be written, and where it ends."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from visgen.errors import InputError, shown

logger = logging.getLogger(__name__)
MAX_NEW_TOKENS = 1024  # of tasks that name no limit
READ = ("max_new_tokens", "until", "do_sample", "temperature", "top_p", "top_k", "num_beams")


@dataclass(frozen=True, eq=False)
class Asked:
    """One request: a text and the pictures that it is about, which may be none."""

    text: str
    images: tuple[Image.Image, ...] = ()


@dataclass(frozen=True)
class Writing:
    """How an answer is written.

    Attributes:
        max_new_tokens: longest answer.
        until: texts that end an answer, and are left out of it.
        temperature: of the draws; None = the likeliest token each time.
        top_p, top_k: filters of the draws; None = off.
        num_beams: of a beam search; 1 = none.
    """

    max_new_tokens: int = MAX_NEW_TOKENS
    until: tuple[str, ...] = ()
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    num_beams: int = 1

    def cut(self, text: str) -> str:
        """The text up to the first of `until` behind its beginning."""
        text = text.strip()
        ends = [end for stop in self.until if (end := text.find(stop)) >= 0]
        return text[: min(ends, default=len(text))].rstrip()


def read_writing(options: Mapping[str, Any]) -> Writing:
    """A task's `generation_kwargs`. What they say of other things than writing is ignored, and logged.

    Raises:
        InputError: a value of another kind, or draws beside beams.
    """
    ignored = sorted(set(options) - set(READ))
    if ignored:
        logger.debug("generation options that say nothing here: %s", ", ".join(ignored))
    temperature = options.get("temperature") or None
    if options.get("do_sample") is False:
        temperature = None
    elif options.get("do_sample") and "temperature" not in options:
        temperature = 1.0
    until = options.get("until") or ()
    made = Writing(
        max_new_tokens=_count("max_new_tokens", options.get("max_new_tokens") or MAX_NEW_TOKENS),
        until=tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop),
        temperature=temperature,
        top_p=options.get("top_p"),
        top_k=options.get("top_k") or None,
        num_beams=_count("num_beams", options.get("num_beams") or 1),
    )
    if made.temperature is not None and made.num_beams > 1:
        raise InputError(f"num_beams={made.num_beams} and temperature={temperature}: give one of them")
    return made


def pictures(visuals: Iterable[Any] | None) -> tuple[Image.Image, ...]:
    """What a task's `doc_to_visual` gave, as pictures.

    Raises:
        InputError: something else than pictures, such as the path of a video.
    """
    found: list[Image.Image] = []
    for visual in visuals or ():
        if isinstance(visual, (list, tuple)):
            found += pictures(visual)
        elif isinstance(visual, Image.Image):
            found.append(visual.convert("RGB"))
        else:
            raise InputError(
                f"visual {shown(visual)} is no picture; tasks of videos and sounds are not served"
            )
    return tuple(found)


def message(asked: Asked, placeholder: str | None) -> list[dict[str, str]]:
    """The parts of a user's message.

    Pictures stand where the text has `placeholder`, if it has as many as there are pictures; else in front of
    it, and placeholders are taken out.
    """
    pieces = asked.text.split(placeholder) if placeholder else [asked.text]
    if len(pieces) != len(asked.images) + 1:
        if len(pieces) > 1:
            logger.warning(
                "a text has %d times %s for %d pictures, which now stand in front of it",
                len(pieces) - 1,
                placeholder,
                len(asked.images),
            )
        pieces = [""] * len(asked.images) + ["".join(pieces)]
    parts: list[dict[str, str]] = []
    for number, piece in enumerate(pieces):
        parts += [{"type": "image"}] if number else []
        parts += [{"type": "text", "text": piece}] if piece else []
    return parts


def batches(keys: Sequence[tuple[Any, int]], size: int) -> list[list[int]]:
    """Requests in batches: those of equal first keys together, the longest (second key) first.

    So memory runs out at once or never.
    """
    groups: dict[Any, list[int]] = {}
    for number, (key, _) in enumerate(keys):
        groups.setdefault(key, []).append(number)
    made = []
    for numbers in groups.values():
        numbers.sort(key=lambda number: -keys[number][1])
        made += [numbers[start : start + size] for start in range(0, len(numbers), size)]
    return made


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or int(value) != value or value < 1:
        raise InputError(f"{name}={shown(value)} must be a whole number from 1 on")
    return int(value)
