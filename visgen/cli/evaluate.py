"""`visgen evaluate`: scores of models and folders under a named protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visgen.cli.console import say
from visgen.cli.evaluate_answers import answer_options, ask_models, is_answer_protocol, refuse_others
from visgen.cli.evaluate_export import export_images, export_options
from visgen.cli.evaluate_options import (
    BatchSize,
    Export,
    FeatureModels,
    Images,
    ImageSeed,
    InceptionWeights,
    LpipsLinear,
    LpipsWeights,
    Metrics,
    PerPrompt,
    Prompts,
    Protocol,
    Prune,
    Reference,
    Results,
    Statistics,
    Subjects,
)
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

if TYPE_CHECKING:
    from visgen.evaluation.options import EvaluationOptions
    from visgen.evaluation.records import Record


def evaluate(
    subjects: Subjects,
    reference: Reference = None,
    protocol: Protocol = None,
    metrics: Metrics = None,
    count: Images = None,
    seed: ImageSeed = 0,
    output: Results = None,
    prompts: Prompts = None,
    batch_size: BatchSize = 32,
    export: Export = None,
    per_prompt: PerPrompt = None,
    steps: InferenceSteps = None,
    solver: Solver = None,
    guidance_scale: Guidance = None,
    prune: Prune = None,
    strategy: Strategy = None,
    num_tokens: NumTokens = None,
    max_error: MaxError = None,
    decode_steps: DecodeSteps = None,
    decode_guidance: DecodeGuidance = None,
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
    statistics: Statistics = None,
    feature_models: FeatureModels = None,
    inception_weights: InceptionWeights = None,
    lpips_weights: LpipsWeights = None,
    lpips_linear: LpipsLinear = None,
) -> None:
    """Score models under a named protocol: visgen evaluate scenes-var -n 200."""
    from visgen.evaluation.metrics import parse_metrics
    from visgen.evaluation.networks import parse_feature_models
    from visgen.evaluation.options import EvaluationOptions, read_prompts

    names, earlier = _sort(subjects)
    asked = export_options(export, output, prompts, per_prompt)
    _check_files(output if asked is None else None, statistics, names)
    if device is not None:
        check_device(device)
    given_flow(steps, solver)
    given_sampling(guidance_scale=guidance_scale)
    if is_answer_protocol(protocol, prune):
        others: dict[str, Any] = {
            "--metrics": metrics,
            "--prompts": prompts,
            "--export": export,
            "--strategy": strategy,
            "--num-tokens": num_tokens,
            "--steps": steps,
            "--solver": solver,
            "--guidance-scale": guidance_scale,
        }
        others |= {"--max-error": max_error, "--save-statistics": statistics}
        others |= {"--feature-model": feature_models or None}
        refuse_others(others | {"--decode-steps": decode_steps, "--decode-guidance": decode_guidance})
        questions = answer_options(
            protocol, reference, count, prune, seed, batch_size, device, dtype, offline
        )
        _show([*earlier, *ask_models(names, questions, earlier, output)], output)
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
        prompts=None if prompts is None or asked is not None else read_prompts(prompts),
        device=device,
        dtype=dtype,
        offline=offline,
        inception_weights=inception_weights,
        lpips_weights=lpips_weights,
        lpips_linear=lpips_linear,
        feature_models=parse_feature_models(feature_models) if feature_models else None,
    )
    if asked is not None:
        made = export_images(names, asked, options, {"--save-statistics": statistics, "a result": earlier})
        if made:
            _show(made, None)
        return
    judged = _evaluate(names, options, earlier, output, statistics)
    if judged is not None:
        _show([*earlier, *judged], output)


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
