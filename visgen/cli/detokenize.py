"""`visgen detokenize`: files of tokens into pictures again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from visgen.cli.console import say
from visgen.cli.options import DecodeGuidance, DecodeSteps, Device, Dtype, Offline, Output, given, open_model
from visgen.cli.outputs import fresh, is_picture, shortened
from visgen.cli.progress import resumable_bar
from visgen.cli.token_options import DecodeSeed, given_decoding
from visgen.errors import InputError, shown


def detokenize(
    source: Annotated[
        Path, typer.Argument(metavar="FILE|FOLDER", help="What visgen tokenize wrote.", show_default=False)
    ],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "-t", "--tokenizer", "-m", "--model", help="If not the one that made them.", metavar="MODEL"
        ),
    ] = None,
    seed: DecodeSeed = None,
    decode_steps: DecodeSteps = None,
    decode_guidance: DecodeGuidance = None,
    output: Output = None,
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
) -> None:
    """Turn tokens into pictures again, under the names of the images they were made of."""
    from visgen.pipelines.detokenize import open_tokens, warn_of_other_weights

    drawing = given(seed=seed) | given_decoding(decode_steps, decode_guidance)
    tokens = open_tokens(source)
    alone = len(tokens.names) == 1 and not os.path.isdir(source)
    place = _place(output, source, tokens.names[0] if alone else None)
    pipe = open_model(tokenizer or tokens.origin.model, "reconstruct", dtype, device, offline)
    warn_of_other_weights(pipe, tokens.origin)
    if alone:
        return _draw(pipe, tokens, place, drawing)
    _fill(pipe, tokens, place, drawing)


def _place(output: Path | None, source: Path, name: str | None) -> Path:
    """A PNG for the image `name`; a folder where there are several."""
    if name is None:
        if output is not None and is_picture(output):
            raise InputError(
                f"-o {shown(str(output))} is one picture, but {str(source)!r} holds more; name a folder"
            )
        return output or Path(f"{shortened(source.resolve().stem)}-images")
    stem = shortened(Path(name).stem)
    if output is None:
        return fresh(Path(f"{stem}.png"))
    return output if is_picture(output) else output / f"{stem}.png"


def _draw(pipe: Any, tokens: Any, path: Path, drawing: dict[str, Any]) -> None:
    from visgen.data.images import to_pil, write_png
    from visgen.pipelines.detokenize import picture_chunks
    from visgen.pipelines.token_shards import read_shard

    held = read_shard(tokens.shards[0])[1]
    settings = pipe.settings_of(pipe.checked_drawing(**drawing))
    image = to_pil(pipe.decode_tokens(held, **drawing))[0]
    write_png(image, path, picture_chunks(tokens.names[0], held, settings))
    say(str(path))


def _fill(pipe: Any, tokens: Any, folder: Path, drawing: dict[str, Any]) -> None:
    from visgen.pipelines.detokenize import detokenize_folder

    with resumable_bar(folder) as show:
        new = detokenize_folder(pipe, tokens, folder, on_progress=show, **drawing)
    say(f"{folder}: {len(tokens.names)} images, {new} of them new")
