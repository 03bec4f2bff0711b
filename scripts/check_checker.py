"""How far can the checker be trusted? Its verdicts on drawn scenes that it has not seen, which are all right.

python scripts/check_checker.py                           # 1,000 scenes of each held-out split
"""

from __future__ import annotations

from typing import Annotated

import typer

from visgen.data.scenes import SPLITS, Scenes

BATCH = 250


def main(count: Annotated[int, typer.Option(min=1, help="Scenes of each split.")] = 1000) -> None:
    """Print the share of right verdicts, in all, by kind of scene and by attribute."""
    from visgen.evaluation.scenes.adherence import summarize, verdicts
    from visgen.evaluation.scenes.checker import load_checker

    checker = load_checker()
    for split in SPLITS[1:]:
        source, found, kinds = Scenes(split, balanced=True), [], []
        for start in range(0, count, BATCH):
            batch = source.batch(range(start, min(start + BATCH, count)))
            found += verdicts(batch.images, batch.scenes, checker)
            kinds += [scene.kind for scene in batch.scenes]
        shares = summarize(found, kinds).rows()
        print(f"{split}, {count} scenes:", ", ".join(f"{name} {value:.1%}" for name, value, _ in shares))


if __name__ == "__main__":
    typer.run(main)
