"""Options of the verbs on tokens: which tokenizer, how many tokens, and lists of numbers with an ellipsis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from visgen.cli.outputs import is_picture
from visgen.errors import InputError, shown

Number = TypeVar("Number", int, float)

Tokenizer = Annotated[
    str,
    typer.Option(
        "-t",
        "--tokenizer",
        "-m",
        "--model",
        help="Name from `visgen models`, hub id, or folder.",
        metavar="MODEL",
    ),
]
TokenCount = Annotated[
    int | None,
    typer.Option(
        "--num-tokens", min=1, metavar="N", help="Tokens of an image, for tokenizers that can choose."
    ),
]
MaxError = Annotated[
    float | None,
    typer.Option(
        "--max-error", metavar="E", help="As many tokens as this mean absolute error of [0, 1] pixels needs."
    ),
]
TokenCounts = Annotated[
    str | None,
    typer.Option("--num-tokens", metavar="N,…", help="A labelled strip: 1,2,4,…,256 doubles up to the last."),
]
MaxErrors = Annotated[
    str | None, typer.Option("--max-error", metavar="E,…", help="The same for wanted errors: 0.02,0.05.")
]
Place = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="PATH", help="A .safetensors for one image, else a folder."),
]
DecodeSeed = Annotated[
    int | None,
    typer.Option("--seed", help="Of a decoder that starts from noise: another image of the tokens."),
]


def check_folder(folder: Path) -> None:
    """Refuse a place where no folder of tokens can be written, before anything is computed for it."""
    if is_picture(folder):
        raise InputError(f"-o {shown(str(folder))} is a picture; tokens go into a .safetensors or a folder")


def counts(text: str | None, option: str = "--num-tokens") -> list[int] | None:
    """Whole numbers of "1,2,4,…,256" (… or ... doubles the number before it up to the one behind it).

    Raises:
        InputError: anything else.
    """
    if text is None:
        return None
    words = [word.strip() for word in text.replace("...", "…").split(",")]
    out: list[int] = []
    for place, word in enumerate(words):
        if word == "…" and out and place + 1 < len(words):
            last = _number(words[place + 1], int, text, option)
            while 2 * out[-1] < last:
                out.append(2 * out[-1])
        else:
            out.append(_number(word, int, text, option))
    return list(dict.fromkeys(out))


def errors(text: str | None, option: str = "--max-error") -> list[float] | None:
    """Numbers of "0.02,0.05"; raises `InputError` for anything else."""
    if text is None:
        return None
    return list(dict.fromkeys(_number(word.strip(), float, text, option) for word in text.split(",")))


def _number(word: str, kind: Callable[[str], Number], text: str, option: str) -> Number:
    like = "1,2,4,…,256" if kind is int else "0.02,0.05"
    try:
        number = kind(word)
    except ValueError:
        number = kind("-1")
    if not 0 < number < 1_000_000:
        raise InputError(f"{option} {shown(text)} must be numbers above 0, such as {like}")
    return number


def given_decoding(steps: int | None, guidance: float | None) -> dict[str, Any]:
    """Keywords of `FlowSampling` that were given, checked before a model is loaded; raises `InputError`."""
    from visgen.cli.options import given_length

    return given_length(None, steps, guidance)
