"""`visgen tokenize`: pictures into files of tokens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visgen.cli.console import say
from visgen.cli.engine_options import EngineName, Workers, make_engine
from visgen.cli.options import DEFAULT_MODEL, Device, Dtype, Offline, check_device, given, open_model
from visgen.cli.outputs import fresh, shortened
from visgen.cli.progress import resumable_bar
from visgen.cli.token_options import MaxError, Place, TokenCount, Tokenizer, check_folder
from visgen.errors import InputError, shown

if TYPE_CHECKING:
    from visgen.distributed.engines import Engine
    from visgen.pipelines.tokenize import TokenizeResult

SUFFIX, TARS = ".safetensors", ".tar"


def tokenize(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE|FOLDER|TARS",
            help="An image, a folder of them, or a WebDataset: 'data/{000000..000009}.tar'.",
            show_default=False,
        ),
    ],
    tokenizer: Tokenizer = DEFAULT_MODEL,
    num_tokens: TokenCount = None,
    max_error: MaxError = None,
    output: Place = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Images read at once; encoded at once on a GPU.")
    ] = 16,
    shard_size: Annotated[
        int, typer.Option("--shard-size", min=1, help="Images of a file in a folder.")
    ] = 512,
    engine: EngineName = None,
    workers: Workers = None,
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
) -> None:
    """Turn an image into a file of tokens, or many into shards; goes on where it stopped."""
    knobs = given(num_tokens=num_tokens, max_error=max_error)
    place = make_engine(engine, workers, device)
    tars = source.suffix == TARS and not os.path.isdir(source)
    if tars or (place is not None and os.path.isdir(source)):
        options = {"batch_size": batch_size, "shard_size": shard_size, "dtype": dtype, "device": device}
        folder = _folder(output, source.with_name(source.stem.split("{")[0] or "shards") if tars else source)
        return _share_out(tokenizer, source, folder, place, offline=offline, **options, **knobs)
    if place is not None:
        raise InputError(f"--engine {engine}: {str(source)!r} is one image; give a folder, or tars")
    if os.path.isdir(source):
        folder = _folder(output, source)
        pipe = open_model(tokenizer, "reconstruct", dtype, device, offline)
        return _fill(pipe, source, folder, batch_size=batch_size, shard_size=shard_size, **knobs)
    path = _file(output, source)
    from visgen.data.images import read_image

    image = read_image(source)
    _write(open_model(tokenizer, "reconstruct", dtype, device, offline), image, source.name, path, knobs)


def _folder(output: Path | None, source: Path) -> Path:
    if output is None:
        return Path(f"{shortened(source.resolve().name)}-tokens")
    if output.suffix == SUFFIX or os.path.isfile(output):
        raise InputError(
            f"-o {shown(str(output))} is one file, but {str(source)!r} is a folder; name a folder"
        )
    check_folder(output)
    return output


def _file(output: Path | None, source: Path) -> Path:
    """Where the tokens of one image go."""
    if output is None:
        return fresh(Path(f"{shortened(source.stem)}{SUFFIX}"))
    if os.path.isdir(output) or output.suffix != SUFFIX:
        output = output / f"{shortened(source.stem)}{SUFFIX}"
    check_folder(output.parent)
    return output


def _write(pipe: Any, image: Any, name: str, path: Path, knobs: dict[str, Any]) -> None:
    from visgen.data.files import replacing
    from visgen.pipelines.token_shards import shard_bytes
    from visgen.pipelines.tokenize import bits_per_token, origin_of, tokenize_image

    tokens = tokenize_image(pipe, image, **knobs)
    with replacing(path) as file:
        file.write(shard_bytes([name], tokens, origin_of(pipe, **knobs)))
    count, bits = int(tokens.lengths[0]), bits_per_token(pipe.tokenizer, tokens)
    say(f"{path}: {count} tokens{'' if bits is None else f', {count * bits:.0f} bits'}")


def _fill(pipe: Any, source: Path, folder: Path, **options: Any) -> None:
    from visgen.pipelines.tokenize import tokenize_folder

    pipe.set_progress_bar_config(disable=True)
    with resumable_bar(folder) as show:
        result = tokenize_folder(pipe, source, folder, on_progress=show, **options)
    say(summary(result))


def _share_out(tokenizer: str, source: Path, folder: Path, engine: Engine | None, **options: Any) -> None:
    from visgen.distributed.tokenization import tokenize_images

    if options["device"] is not None and (engine is None or engine.name == "local"):
        check_device(options["device"])
    with resumable_bar(folder) as show:
        result = tokenize_images(tokenizer, source, folder, engine=engine, on_progress=show, **options)
    say(summary(result))


def summary(result: TokenizeResult) -> str:
    """One line on what a run left."""
    count = f"{result.most} tokens each"
    if result.fewest < result.most:
        count = f"{result.fewest} to {result.most} tokens, {result.mean:.1f} on average"
    bits = "" if result.bits is None else f", {result.bits:.0f} bits an image"
    rate = f"; {result.made / result.seconds:.1f} images/s" if result.made else ""
    return f"{result.folder}: {result.total} images, {result.made} of them new; {count}{bits}{rate}"
