"""The options of `visgen evaluate` that no other verb has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from visgen.evaluation.exports import LAYOUTS
from visgen.evaluation.metrics import GENERATION, NETWORK_METRICS, RECONSTRUCTION

Subjects = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL|FOLDER|RESULT.json…",
        help="Models, folders or a .npz of images, and earlier results to put beside them.",
        show_default=False,
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(help="scenes:SPLIT (default scenes:validation), a folder of images, or a .npz."),
]
Protocol = Annotated[
    str | None,
    typer.Option(
        help="scenes, adm (what papers report), adm50k (the same of 50,000 images of classes) or clean; by "
        "default what fits the reference. scenes-vqa and scenes-vqa-small ask models questions."
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        help=f"{', '.join(GENERATION)}; tokenizers: {', '.join(RECONSTRUCTION)}.", metavar="NAME,NAME,…"
    ),
]
Images = Annotated[
    int | None,
    typer.Option(
        "-n",
        "--num-images",
        min=1,
        help="Images judged; 1000 of a model, 50,000 of adm50k and exports of adm. Or questions.",
    ),
]
ImageSeed = Annotated[int, typer.Option("--seed", help="Image i is drawn from (seed, i).")]
Results = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE.json|DIR",
        help="Where the results go, a new file; with --export the folder, where a stopped job goes on.",
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="A .txt or .jsonl to draw instead of the reference's captions; see --export."
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Images at once.")]
Prune = Annotated[
    list[str] | None,
    typer.Option(
        "--prune",
        metavar="METHOD[:KEEP]",
        help="Of scenes-vqa: a row for a pruner of vision tokens, such as divprune:0.1; divprune:all is "
        "it at several retentions, all every method; repeatable.",
    ),
]
Export = Annotated[
    str | None,
    typer.Option(
        "--export",
        metavar="|".join(LAYOUTS.names()),
        help="Draw into -o DIR as an official judge reads it: geneval (--prompts evaluation_metadata.jsonl), "
        "dpg (--prompts FOLDER of .txt) or adm (one .npz). Scored here only with --metrics, --protocol or "
        "--reference.",
    ),
]
PerPrompt = Annotated[
    int | None,
    typer.Option("--images-per-prompt", min=1, metavar="N", help="Of an export; 4 of geneval and dpg."),
]
Statistics = Annotated[
    Path | None,
    typer.Option("--save-statistics", metavar="FILE.npz", help="Keep the reference's mean and covariance."),
]
FeatureModels = Annotated[
    list[str] | None,
    typer.Option(
        "--feature-model",
        metavar="METRIC=MODEL",
        help=f"Hub id or folder of another network for {', '.join(NETWORK_METRICS)}; repeatable.",
    ),
]
InceptionWeights = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Weights of protocols adm, adm50k and clean.")
]
LpipsWeights = Annotated[
    Path | None, typer.Option(metavar="FILE", help="torchvision's vgg16 weights, for lpips.")
]
LpipsLinear = Annotated[Path | None, typer.Option(metavar="FILE", help="LPIPS v0.1 vgg.pth, for lpips.")]
