"""`visgen statistics`: mean and covariance of the features of a set of images, a reference for FID."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from visgen.cli.console import say
from visgen.cli.engine_options import EngineName, Workers, make_engine
from visgen.cli.options import Device, Offline, check_device
from visgen.cli.progress import image_bar
from visgen.errors import InputError


def statistics(
    source: Annotated[
        str,
        typer.Argument(metavar="FOLDER|TARS", help="Images, or a WebDataset: 'data/{000000..000009}.tar'."),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE.npz", help="Where they go; a new file.")
    ],
    protocol: Annotated[str, typer.Option(help="adm (what papers report), clean or scenes.")] = "adm",
    image_size: Annotated[
        int | None,
        typer.Option("--image-size", min=1, metavar="N", help="Side of the images they are compared with."),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images at once.")] = 32,
    engine: EngineName = None,
    workers: Workers = None,
    device: Device = None,
    offline: Offline = False,
    inception_weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights of protocols adm and clean.")
    ] = None,
) -> None:
    """Keep what FID compares with: visgen statistics photos -o photos.npz --image-size 256."""
    from visgen.evaluation.files import check_new

    check_new(output, "-o")
    if output.suffix != ".npz":
        raise InputError(f"-o {str(output)!r} must end in .npz")
    where = make_engine(engine, workers, device)
    if device is not None and engine != "ray":
        check_device(device)
    from visgen.distributed.statistics import image_statistics
    from visgen.evaluation.extractors import ExtractorOptions
    from visgen.evaluation.statistics_file import save_statistics

    options = ExtractorOptions(device or "cpu", inception_weights, offline)
    with image_bar() as show:
        found = image_statistics(
            source,
            protocol,
            image_size=image_size,
            engine=where,
            options=options,
            batch_size=batch_size,
            on_progress=show,
        )
    origin = {"images_sha256": found.images_sha256, "weights_sha256": found.weights_sha256}
    save_statistics(output, found.statistics, found.protocol, reference=source, **origin)
    say(f"{output}: {found.statistics.count} images, protocol {found.protocol.label}")
