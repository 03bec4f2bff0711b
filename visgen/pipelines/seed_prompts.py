"""Prompts and answers of SEED-LLaMA (arXiv 2310.01218): pure functions of texts and ids, no model needed.

In a text, "<image>" stands for an image. In a sequence, an image is `<img>`, its codes, `</img>`; the id of a
code is `first_code + code`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from visgen.errors import InputError, shown

IMAGE, BEGIN, END, BOS = "<image>", "<img>", "</img>", "<s>"
Role = Literal["user", "assistant"]
Problem = Literal["boi_eoi_mismatch", "bad_length", "code_out_of_range"]


@dataclass(frozen=True)
class Turn:
    """What one side says; "<image>" in the text stands for an image."""

    role: Role
    text: str


@dataclass(frozen=True)
class Style:
    """How a family of models was trained to talk.

    Attributes:
        user: template of a user's turn.
        assistant: template of the model's earlier turns.
        closing: what asks for an answer.
        describe: the question that asks for a caption of an image; "" = the image alone.
        draw: template of the wish for an image.
    """

    user: str
    assistant: str
    closing: str
    describe: str
    draw: str


DESCRIBE = "Please provide an accurate and concise description of the given image."

# "vicuna" is SEED-LLaMA 8B, "llama2" 14B; "plain" continues a sequence, as pretraining writes it
STYLES = {
    "vicuna": Style("USER: {text}\n", "ASSISTANT: {text}\n", "ASSISTANT:", DESCRIBE, "{prompt}"),
    "llama2": Style("[INST] {text} [/INST]\n", "{text}\n", "", DESCRIBE, "{prompt}"),
    "plain": Style("{text}", "{text}", "", "", "{prompt}"),
}


@dataclass(frozen=True)
class ImageIds:
    """Where images stand in a vocabulary of words and codes.

    Attributes:
        first_code: id of code 0; codes follow in line.
        num_codes: size of the codebook.
        begin, end: ids of `<img>` and `</img>`.
        length: codes of an image.
    """

    first_code: int
    num_codes: int
    begin: int
    end: int
    length: int = 32


@dataclass(frozen=True)
class AnsweredImage:
    """An image of an answer: its codes, as they are, and whether they are an image at all."""

    codes: tuple[int, ...]
    decodable: bool


@dataclass(frozen=True)
class ParsedAnswer:
    """What a generated sequence says.

    Attributes:
        images: in order, broken ones among them.
        remaining_ids: the sequence without what stands between `<img>` and `</img>`; both stay.
        errors: labels of what is wrong.
    """

    images: tuple[AnsweredImage, ...]
    remaining_ids: tuple[int, ...]
    errors: tuple[Problem, ...]


def style_named(name: str) -> Style:
    """A style of `STYLES`; raises `InputError` with the known names."""
    if name not in STYLES:
        raise InputError(f"style={shown(name)} is unknown; it must be one of {', '.join(STYLES)}")
    return STYLES[name]


def build_prompt(turns: Sequence[Turn], style: str, system: str | None = None) -> str:
    """The text of a conversation that asks for an answer, "<image>" still in place.

    Args:
        turns: what was said so far.
        style: a name of `STYLES`.
        system: a sentence before everything, on a line of its own.

    Raises:
        InputError: an unknown style or role.
    """
    form = style_named(style)
    templates = {"user": form.user, "assistant": form.assistant}
    for turn in turns:
        if turn.role not in templates:
            raise InputError(f"role={shown(turn.role)} must be 'user' or 'assistant'")
    said = "".join(templates[turn.role].replace("{text}", turn.text) for turn in turns)
    return f"{system}\n{said}{form.closing}" if system else f"{said}{form.closing}"


def image_text(codes: Sequence[int]) -> str:
    """An image written out: `<img><img_02915>…</img>`."""
    return f"{BEGIN}{''.join(f'<img_{code:05d}>' for code in codes)}{END}"


def fill_images(prompt: str, images: Sequence[Sequence[int]]) -> str:
    """A prompt with each "<image>" replaced by the codes of an image, in order.

    Raises:
        InputError: more or fewer images than places.
    """
    pieces = prompt.split(IMAGE)
    if len(pieces) - 1 != len(images):
        raise InputError(
            f"prompt {shown(prompt)} has {len(pieces) - 1} places {IMAGE} for {len(images)} images"
        )
    written = [image_text(codes) for codes in images]
    return pieces[0] + "".join(image + piece for image, piece in zip(written, pieces[1:], strict=True))


def full_prompt(prompt: str, images: Sequence[Sequence[int]], *, force_image: bool = False) -> str:
    """What the tokenizer reads, with `add_special_tokens=False`: `<s>`, the prompt with its images, and
    `<img>` where an image is to follow."""
    return f"{BOS}{fill_images(prompt, images)}{BEGIN if force_image else ''}"


def insert_codes(ids: Sequence[int], images: Sequence[Sequence[int]], where: ImageIds) -> list[int]:
    """Ids of a prompt whose images are empty (`<img></img>`), with the ids of their codes put in.

    The same as tokenising the text of `fill_images`, without the detour of 34 strings per image.

    Raises:
        InputError: more or fewer places than images, or a code outside the codebook.
    """
    places = [i for i in range(len(ids) - 1) if ids[i] == where.begin and ids[i + 1] == where.end]
    if len(places) != len(images) or sum(one == where.begin for one in ids) != len(images):
        raise InputError(f"prompt has {len(places)} places for {len(images)} images; texts hold no {BEGIN}")
    out, done = list[int](), 0
    for place, codes in zip(places, images, strict=True):
        if any(not 0 <= code < where.num_codes for code in codes):
            raise InputError(f"image holds a code outside 0 … {where.num_codes - 1}")
        out += [*ids[done : place + 1], *(where.first_code + code for code in codes)]
        done = place + 1
    return [*out, *ids[done:]]


def parse_answer(ids: Sequence[int], where: ImageIds) -> ParsedAnswer:
    """Split generated ids into images and the rest, as the official server does.

    The k-th `<img>` belongs to the k-th `</img>`; delimiters without a partner are an error, and stay.
    """
    begins = [i for i, one in enumerate(ids) if one == where.begin]
    ends = [i for i, one in enumerate(ids) if one == where.end]
    errors: list[Problem] = ["boi_eoi_mismatch"] if len(begins) != len(ends) else []
    images, inside = [], set[int]()
    for begin, end in zip(begins, ends, strict=False):
        codes = tuple(one - where.first_code for one in ids[begin + 1 : end])
        inside.update(range(begin + 1, end))
        problem = _problem(codes, where)
        errors += [problem] if problem else []
        images.append(AnsweredImage(codes, problem is None))
    rest = tuple(one for i, one in enumerate(ids) if i not in inside)
    return ParsedAnswer(tuple(images), rest, tuple(errors))


def _problem(codes: Sequence[int], where: ImageIds) -> Problem | None:
    if len(codes) != where.length:
        return "bad_length"
    return None if all(0 <= code < where.num_codes for code in codes) else "code_out_of_range"
