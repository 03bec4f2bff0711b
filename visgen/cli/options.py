"""Options that several verbs share. An absent option is not passed on, so the model's own default holds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from visgen.errors import InputError, shown

DEFAULT_MODEL = "scenes-var"
SOLVERS = ("sde", "ode")


class Off:
    """The word `none` on the command line: switches a filter off, where absence keeps the model's default."""

    def __repr__(self) -> str:
        return "none"


OFF = Off()


def _number_or_none(text: str) -> int | Off:
    return OFF if text.lower() == "none" else int(text)


def _fraction_or_none(text: str) -> float | Off:
    return OFF if text.lower() == "none" else float(text)


def _place(text: str) -> Path:
    """A path; the empty one, which an unset variable of a shell leaves, would be the current folder."""
    if not text:
        raise typer.BadParameter("it is empty; give a .png or a folder")
    return Path(text)


def given(**options: Any) -> dict[str, Any]:
    """The options that were on the command line: absent ones (None) are left out, `none` becomes None."""
    return {
        name: None if isinstance(value, Off) else value
        for name, value in options.items()
        if value is not None and value != []
    }


Model = Annotated[
    str, typer.Option("-m", "--model", help="Name from `visgen models`, hub id, or folder.", metavar="MODEL")
]
Count = Annotated[
    int, typer.Option("-n", "--num-images", min=1, max=100_000, help="Images per prompt or label.")
]
Labels = Annotated[
    list[int] | None, typer.Option("--label", help="Class label, for class models; repeatable.")
]
Negative = Annotated[str | None, typer.Option("--negative", help="Prompt that guidance leads away from.")]
Seed = Annotated[int | None, typer.Option("--seed", help="The same seed gives the same image.")]
Guidance = Annotated[float | None, typer.Option("--guidance-scale", help="1 is off.")]
TopK = Annotated[
    Any,
    typer.Option(
        "--top-k", parser=_number_or_none, metavar="K|none", help="Draw from the K likeliest tokens."
    ),
]
TopP = Annotated[
    Any,
    typer.Option(
        "--top-p", parser=_fraction_or_none, metavar="P|none", help="Draw from this much probability."
    ),
]
Temperature = Annotated[float | None, typer.Option("--temperature", help="Above 0; below 1 is bolder.")]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", help="float32, bfloat16, float16, or auto: as stored.", metavar="DTYPE"),
]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps.", metavar="DEVICE")]
Output = Annotated[
    Any,
    typer.Option(
        "-o",
        "--output",
        parser=_place,
        help="A .png for one picture, else a folder; pictures of these names are replaced.",
        metavar="PATH",
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Use only what is on this machine already.")]
Strategy = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        metavar="NAME[:VALUE]",
        help="How next-token models decode: sequential, sjd:16, jacobi, speculative, lantern, recycling; "
        "other options follow as :KEY=VALUE.",
    ),
]
NumTokens = Annotated[
    int | None,
    typer.Option(
        "--num-tokens", min=1, metavar="N", help="Stop after N tokens, for models of 1-D tokens: coarser."
    ),
]
InferenceSteps = Annotated[
    int | None,
    typer.Option("--steps", min=1, metavar="N", help="Flow steps per entity, for xAR: more is slower."),
]
Solver = Annotated[
    str | None, typer.Option("--solver", metavar="sde|ode", help="How xAR follows the flow; ode draws less.")
]
DecodeSteps = Annotated[
    int | None,
    typer.Option("--decode-steps", min=1, metavar="N", help="Steps of a decoder that starts from noise."),
]
DecodeGuidance = Annotated[
    float | None, typer.Option("--decode-guidance", metavar="S", help="Guidance of such a decoder; 1 is off.")
]
Progressive = Annotated[bool, typer.Option("--progressive", help="A strip: the image after each scale.")]


def given_sampling(**options: Any) -> dict[str, Any]:
    """As `given`, for options of `TokenSampling`, whose ranges are checked before a model is loaded.

    Raises:
        InputError: a value out of range.
    """
    from visgen.nn.sampling import TokenSampling

    kept = given(**options)
    TokenSampling(**kept)
    return kept


def given_flow(steps: int | None, solver: str | None) -> dict[str, Any]:
    """As `given`, for how models of latents are sampled.

    Raises:
        InputError: an unknown solver.
    """
    if solver not in (None, *SOLVERS):
        raise InputError(f"--solver {shown(solver)} must be {' or '.join(SOLVERS)}")
    return given(num_inference_steps=steps, solver=solver)


def given_strategy(strategy: str | None) -> dict[str, Any]:
    """As `given`, for a decoding strategy, whose name and value are checked before a model is loaded.

    Raises:
        InputError: an unknown name, or a value that the strategy does not take.
    """
    if strategy is not None:
        from visgen.decoding.making import make_strategy

        make_strategy(strategy)
    return given(strategy=strategy)


def given_length(
    num_tokens: int | None, decode_steps: int | None, decode_guidance: float | None
) -> dict[str, Any]:
    """As `given`, for the number of tokens and how they are decoded, checked before a model is loaded.

    Raises:
        InputError: a value out of range.
    """
    flow = given(num_inference_steps=decode_steps, guidance_scale=decode_guidance)
    if flow:
        from visgen.nn.flow import FlowSampling

        FlowSampling(**flow)
    return given(num_tokens=num_tokens, decoding=flow or None)


def open_model(name: str, task: str, dtype: str | None, device: str | None, offline: bool = False) -> Any:
    """The pipeline of `visgen.load`, with only the options that were given; its bar shows on a terminal
    only."""
    import visgen

    if device is not None:
        check_device(device)
    pipe = visgen.load(name, task=task, **given(dtype=dtype, device=device, local_files_only=offline or None))
    pipe.set_progress_bar_config(disable=not sys.stderr.isatty(), leave=False)
    return pipe


def check_device(device: str) -> None:
    """Refuse a device that this machine has not, before anything is loaded or fetched."""
    import torch

    try:
        there = torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"--device {shown(device)} is not there ({str(error).splitlines()[0]}); cpu always is"
        ) from error
    if there.is_meta:
        raise InputError("--device 'meta' computes nothing; cpu always works")
