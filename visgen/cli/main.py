"""The `visgen` command. Nothing here imports torch: verbs import what they need when they run."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from visgen.cli.ask import ask
from visgen.cli.bench import bench
from visgen.cli.caption import caption
from visgen.cli.compare import compare
from visgen.cli.console import OneLineErrors, guarded, say, settings
from visgen.cli.detokenize import detokenize
from visgen.cli.edit import edit
from visgen.cli.evaluate import evaluate
from visgen.cli.generate import generate
from visgen.cli.info import info
from visgen.cli.inspect import inspect
from visgen.cli.models import models
from visgen.cli.prune import prune
from visgen.cli.reconstruct import reconstruct
from visgen.cli.statistics import statistics
from visgen.cli.tokenize import tokenize
from visgen.cli.train import train

app = typer.Typer(
    name="visgen",
    cls=OneLineErrors,
    help="Autoregressive visual models: generate, edit, reconstruct, train.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        import visgen

        say(f"visgen {visgen.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and library warnings.")] = False,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, max=1024, help="CPU threads to use.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Autoregressive visual models: generate, edit, reconstruct, train."""
    settings.debug, settings.threads = debug, threads
    if threads is not None:
        _limit_threads(threads)


def _limit_threads(threads: int) -> None:
    """Through the environment, which torch reads when a verb imports it; directly where it is loaded
    already."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


for verb in (
    generate,
    edit,
    reconstruct,
    tokenize,
    detokenize,
    inspect,
    caption,
    ask,
    prune,
    evaluate,
    statistics,
    compare,
    models,
    train,
    info,
):
    app.command()(guarded(verb))
app.add_typer(bench, name="bench")


def main() -> None:
    """Entry point of the `visgen` command."""
    app(prog_name="visgen")
