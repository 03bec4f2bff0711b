"""`visgen prune`: which patches of a picture a pruner keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from visgen.cli.answering import ANSWER_MODEL, Prune, check_pruner
from visgen.cli.console import say
from visgen.cli.options import Device, Dtype, Model, Offline, open_model
from visgen.errors import InputError

QUESTION = "how many objects are there?"


def prune(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", show_default=False)],
    method: Prune = None,
    question: Annotated[
        str, typer.Option("--question", metavar="TEXT", help="What is asked; some methods look at it.")
    ] = QUESTION,
    model: Model = ANSWER_MODEL,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE.png", help="Where the picture goes.")
    ] = Path("kept.png"),
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
) -> None:
    """Draw which patches stay: visgen prune picture.png --prune divprune:0.1 -o kept.png."""
    from visgen.data.images import read_image, write_png
    from visgen.data.overlay import token_overlay
    from visgen.pipelines.token_map import map_tokens

    if method is None:
        raise InputError("--prune is missing; give a method, such as --prune divprune:0.1")
    if output.suffix.lower() != ".png":
        raise InputError(f"-o {str(output)!r} must end in .png")
    check_pruner(method)
    picture = read_image(image)
    pipe = open_model(model, "answer", dtype, device, offline)
    found = map_tokens(pipe, picture, question, prune=method)
    facts = {"visgen_model": model, "visgen_prune": method, "visgen_question": question}
    write_png(token_overlay(found.picture, found.grid, found.stay), output, facts)
    kept, total = len(found.report.kept[0][0]), len(found.stay)
    say(
        f"{output}: {kept} of {total} tokens reached the last layer, {100 * found.report.flops_ratio:.0f} % "
        f"of the decoder's work; {question} {found.output.answers[0]}"
    )
