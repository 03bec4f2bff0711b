"""Put a trained pipeline, or the checker, into `visgen/assets`: float16 weights, and what the runs logged.

    python scripts/ship.py runs/scenes-var/model scenes-var \\
        --run runs/scenes-var-tokenizer --run runs/scenes-var
    python scripts/ship.py runs/scenes-checker/model scenes-checker --run runs/scenes-checker
    python scripts/ship.py runs/scenes-vq/model scenes-vq --run runs/scenes-vq \\
        --card recipe=recipes/scenes-vq.yaml
    python scripts/ship.py runs/scenes-ar/model scenes-ar --run runs/scenes-ar \\
        --shared tokenizer=scenes-vq/tokenizer

The model card (README.md of the folder) is written by hand, with the scores and the commands that gave them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

ASSETS = Path(__file__).parents[1] / "visgen/assets"
LIMIT = 8 * 2**20  # bytes of one model
KEPT = ("recipe", "steps", "samples", "seconds", "versions", "machine", "summary", "final", "evaluations")


def main(
    source: Annotated[Path, typer.Argument(help="Model folder that `visgen train` wrote.")],
    name: Annotated[str, typer.Argument(help="Name of the shipped model.")],
    run: Annotated[list[Path], typer.Option(help="Output folder of a training run, in order.")],
    shared: Annotated[
        list[str] | None, typer.Option(help="COMPONENT[.PART]=MODEL/COMPONENT: a shipped one, referred to.")
    ] = None,
    card: Annotated[list[str] | None, typer.Option(help="KEY=VALUE: licence, recipe, notes.")] = None,
) -> None:
    """Write visgen/assets/NAME."""
    folder = ASSETS / name
    given = {"shared": shared, "card": card}
    options = {name: dict(one.split("=", 1) for one in pairs) for name, pairs in given.items() if pairs}
    _load(source).save_pretrained(folder, dtype=torch.float16, **options)
    (folder / "training.json").write_text(json.dumps([_summary(path) for path in run], indent=1) + "\n")
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 2**20:.2f} MiB")
    raise typer.Exit(size > LIMIT)


def _load(source: Path) -> Any:
    import visgen
    from visgen.evaluation.scenes.checker import SceneChecker
    from visgen.nn.model import read_config
    from visgen.tokenizers import TOKENIZERS
    from visgen.training.reconstruction import load_tokenizer

    if (source / "model_index.json").is_file():
        return visgen.load(source)
    if read_config(source)["_class_name"] in TOKENIZERS:
        return visgen.ReconstructPipeline(load_tokenizer(str(source)))
    return SceneChecker.from_pretrained(source)


def _summary(run: Path) -> dict[str, Any]:
    """What a training log says, its loss curve thinned to 40 points."""
    log = json.loads((run / "training_log.json").read_text())
    curve = log["curve"]
    thinned = curve[:: max(1, len(curve) // 40)]
    return {key: log[key] for key in KEPT if key in log} | {"curve": thinned}


if __name__ == "__main__":
    typer.run(main)
