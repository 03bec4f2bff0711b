"""`visgen evaluate`: scores of models and folders under a named protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visgen.cli.console import say
from visgen.cli.evaluate_answers import answer_options, ask_models, is_answer_protocol, refuse_others
from visgen.cli.options import (
    DecodeGuidance,
    DecodeSteps,
    Device,
    Dtype,
    Guidance,
    InferenceSteps,
    NumTokens,
    Offline,
    Solver,
    Strategy,
    check_device,
    given_flow,
    given_length,
    given_sampling,
    given_strategy,
)
from visgen.cli.token_options import MaxError
from visgen.errors import InputError
from visgen.evaluation.metrics import GENERATION, RECONSTRUCTION

if TYPE_CHECKING:
    from visgen.evaluation.options import EvaluationOptions
    from visgen.evaluation.records import Record


def evaluate(
    subjects: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL|FOLDER|RESULT.json…",
            help="Models, folders of images, and earlier results to put beside them.",
            show_default=False,
        ),
    ],
    reference: Annotated[
        str | None,
        typer.Option(help="scenes:SPLIT (default scenes:validation), a folder of images, or a .npz."),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="scenes, adm (what papers report) or clean; by default what fits the reference. scenes-vqa "
            "and scenes-vqa-small ask models questions."
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(GENERATION)}; tokenizers: {', '.join(RECONSTRUCTION)}.",
            metavar="NAME,NAME,…",
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option("-n", "--num-images", min=1, help="Images judged; 1000 of a model. Or questions."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Image i is drawn from (seed, i).")] = 0,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE.json", help="Where the results go; a new file."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A .txt or .jsonl to draw instead of the reference's captions."),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images at once.")] = 32,
    steps: InferenceSteps = None,
    solver: Solver = None,
    guidance_scale: Guidance = None,
    prune: Annotated[
        list[str] | None,
        typer.Option(
            "--prune",
            metavar="METHOD[:KEEP]",
            help="Of scenes-vqa: a row for a pruner of vision tokens, such as divprune:0.1; divprune:all is "
            "it at several retentions, all every method; repeatable.",
        ),
    ] = None,
    strategy: Strategy = None,
    num_tokens: NumTokens = None,
    max_error: MaxError = None,
    decode_steps: DecodeSteps = None,
    decode_guidance: DecodeGuidance = None,
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
    statistics: Annotated[
        Path | None,
        typer.Option(
            "--save-statistics", metavar="FILE.npz", help="Keep the reference's mean and covariance."
        ),
    ] = None,
    inception_weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights of protocols adm and clean.")
    ] = None,
    lpips_weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="torchvision's vgg16 weights, for lpips.")
    ] = None,
    lpips_linear: Annotated[
        Path | None, typer.Option(metavar="FILE", help="LPIPS v0.1 vgg.pth, for lpips.")
    ] = None,
) -> None:
    """Score models under a named protocol: visgen evaluate scenes-var -n 200."""
    from visgen.evaluation.metrics import parse_metrics
    from visgen.evaluation.options import EvaluationOptions, read_prompts

    names, earlier = _sort(subjects)
    _check_files(output, statistics, names)
    if device is not None:
        check_device(device)
    given_flow(steps, solver)
    given_sampling(guidance_scale=guidance_scale)
    if is_answer_protocol(protocol, prune):
        others = {
            "--metrics": metrics,
            "--prompts": prompts,
            "--strategy": strategy,
            "--num-tokens": num_tokens,
            "--steps": steps,
            "--solver": solver,
            "--guidance-scale": guidance_scale,
        }
        others |= {"--max-error": max_error, "--save-statistics": statistics}
        refuse_others(others | {"--decode-steps": decode_steps, "--decode-guidance": decode_guidance})
        asked = answer_options(protocol, reference, count, prune, seed, batch_size, device, dtype, offline)
        _show([*earlier, *ask_models(names, asked, earlier, output)], output)
        return
    given_strategy(strategy)
    given_length(num_tokens, decode_steps, decode_guidance)
    options = EvaluationOptions(
        reference=reference,
        protocol=protocol,
        metrics=None if metrics is None else parse_metrics(metrics),
        count=count,
        seed=seed,
        batch_size=batch_size,
        steps=steps,
        solver=solver,
        guidance_scale=guidance_scale,
        strategy=strategy,
        num_tokens=num_tokens,
        max_error=max_error,
        decode_steps=decode_steps,
        decode_guidance=decode_guidance,
        prompts=None if prompts is None else read_prompts(prompts),
        device=device,
        dtype=dtype,
        offline=offline,
        inception_weights=inception_weights,
        lpips_weights=lpips_weights,
        lpips_linear=lpips_linear,
    )
    made = _evaluate(names, options, earlier, output, statistics)
    if made is not None:
        _show([*earlier, *made], output)


def _sort(subjects: Sequence[str]) -> tuple[list[str], list[Record]]:
    """Names to evaluate, and the records of the result files among them, which must agree with each other."""
    from visgen.evaluation.records import check_comparable, read_results

    files = [name for name in subjects if name.endswith(".json")]
    earlier = [record for name in files for record in read_results(name)]
    for record in earlier[1:]:
        check_comparable(record, earlier[0])
    return [name for name in subjects if name not in files], earlier


def _check_files(output: Path | None, statistics: Path | None, names: Sequence[str]) -> None:
    """Refuse places that cannot be written before anything is computed."""
    from visgen.evaluation.files import check_new

    for path, option in ((output, "-o"), (statistics, "--save-statistics")):
        if path is not None:
            check_new(path, option)
            if not names:
                raise InputError(
                    f"{option} {str(path)!r}: nothing new is evaluated; give a model or a folder"
                )
    if output is not None and output.suffix != ".json":
        raise InputError(f"-o {str(output)!r} must end in .json")
    if statistics is not None and statistics.suffix != ".npz":
        raise InputError(f"--save-statistics {str(statistics)!r} must end in .npz")


def _evaluate(
    names: Sequence[str],
    options: EvaluationOptions,
    earlier: Sequence[Record],
    output: Path | None,
    statistics: Path | None,
) -> list[Record] | None:
    """The new records, written as they come; None on a process that has nothing to say."""
    if not names:
        return []
    from visgen.evaluation.records import write_results
    from visgen.evaluation.run import evaluate as run
    from visgen.processes import Processes

    made: list[Any] = []

    def keep(record: Record) -> None:
        made.append(record)
        if output is not None:
            write_results(output, made, replace=len(made) > 1)

    processes = Processes()
    path = None if statistics is None else str(statistics)
    run(names, options, beside=earlier, on_record=keep, statistics_path=path, processes=processes)
    return made if processes.is_main else None


def _show(records: Sequence[Record], output: Path | None) -> None:
    import sys

    from rich.console import Console

    from visgen.cli.models import FILE_WIDTH
    from visgen.cli.scores import score_tables

    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    for table in score_tables(records):
        console.print(table)
    if output is not None:
        say(str(output))
