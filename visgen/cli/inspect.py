"""`visgen inspect`: how much of a picture each tokenizer keeps with how many tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visgen.cli.bench_tables import print_table
from visgen.cli.console import say
from visgen.cli.options import DecodeGuidance, DecodeSteps, Device, Dtype, Offline, Output, given, open_model
from visgen.cli.outputs import fresh, is_picture, shortened
from visgen.cli.token_options import DecodeSeed, given_decoding
from visgen.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from visgen.evaluation.rate import RatePoint

Curves = dict[str, "list[RatePoint]"]


def inspect(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", show_default=False)],
    tokenizers: Annotated[
        list[str] | None,
        typer.Option(
            "-t",
            "--tokenizer",
            "-m",
            "--model",
            help="Repeatable; without it all that ship.",
            metavar="MODEL",
        ),
    ] = None,
    seed: DecodeSeed = None,
    decode_steps: DecodeSteps = None,
    decode_guidance: DecodeGuidance = None,
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
    output: Output = None,
) -> None:
    """Plot the error of reconstructions against the number of tokens, and print the table."""
    from visgen.data.images import read_image
    from visgen.evaluation.rate import rate_points, shipped_tokenizers

    path = _path(output, image)
    drawing = given(seed=seed) | given_decoding(decode_steps, decode_guidance)
    source = read_image(image)
    curves: Curves = {}
    used = False
    for name in tokenizers or shipped_tokenizers():
        pipe = open_model(name, "reconstruct", dtype, device, offline)
        draws = pipe.tokenizer.starts_from_noise
        curves[name] = rate_points(pipe, source, **(drawing if draws else {}))
        used = used or draws
    if drawing and not used:
        raise InputError(
            f"--seed, --decode-steps: none of {', '.join(curves)} decodes from noise; leave them out"
        )
    _save(curves, path, image.name)
    print_table(table(curves))
    say(str(path))


def _path(output: Path | None, image: Path) -> Path:
    name = f"{shortened(image.stem)}-inspection.png"
    if output is None:
        return fresh(Path(name))
    return output if is_picture(output) else output / name


def _save(curves: Curves, path: Path, title: str) -> None:
    from visgen.cli.chart import Panel, draw_chart
    from visgen.data.images import write_png

    def column(value: Any) -> dict[str, list[tuple[float, float]]]:
        return {name: [(point.tokens, value(point)) for point in points] for name, points in curves.items()}

    panels = [
        Panel("mean absolute error of [0, 1] pixels", column(lambda point: point.l1)),
        Panel("PSNR, dB", column(lambda point: point.psnr)),
    ]
    write_png(draw_chart(f"{title}: error against number of tokens", "tokens", panels), path)


def table(curves: Curves) -> Table:
    """A line per reconstruction, a rule between tokenizers."""
    from rich import box
    from rich.table import Table

    out = Table("tokenizer", "asked for", "tokens", "bits", "L1", "PSNR", box=box.SIMPLE)
    for name, points in curves.items():
        for point in points:
            asked = ", ".join(f"{knob}={value:g}" for knob, value in point.knobs.items())
            bits = "" if point.bits is None else f"{point.bits:.0f}"
            cells = (asked, str(point.tokens), bits, f"{point.l1:.4f}", f"{point.psnr:.2f} dB")
            out.add_row(name, *cells, end_section=point is points[-1])
    return out
