"""Two models, or two ways to decode one, on the same captions: the difference in adherence, paired.

python scripts/compare_adherence.py scenes-ar scenes-ar-shuffle
python scripts/compare_adherence.py scenes-ar scenes-ar --strategies sequential,lantern
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import typer

from visgen.data.scenes import Scenes
from visgen.errors import InputError


def main(
    first: Annotated[str, typer.Argument(help="Model.")],
    second: Annotated[str, typer.Argument(help="Model.")],
    count: Annotated[int, typer.Option("-n", "--count", min=2, help="Captions.")] = 1000,
    strategies: Annotated[str, typer.Option(help="How each of the two decodes, NAME[:VALUE],….")] = "",
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 32,
) -> None:
    """Print both shares and the mean of second − first over captions, with its 95 % bootstrap interval."""
    from visgen.evaluation.bootstrap import mean_interval

    ways: list[str | None] = list(strategies.split(",")) if strategies else [None, None]
    if len(ways) != 2:
        raise InputError(f"--strategies {strategies!r} must name two, such as sequential,jacobi")
    right = [
        _right(name, strategy, count, batch_size)
        for name, strategy in zip((first, second), ways, strict=True)
    ]
    difference = right[1] - right[0]
    low, high = mean_interval(difference, seed=0)
    for name, strategy, found in zip((first, second), ways, right, strict=True):
        print(f"{name}{f' ({strategy})' if strategy else ''}: {found.mean():.1%} of {count} captions")
    print(f"difference: {difference.mean():+.2%} [{low:+.2%}, {high:+.2%}], 95 % bootstrap over captions")


def _right(name: str, strategy: str | None, count: int, batch_size: int) -> np.ndarray:
    """1.0 where a caption's picture shows all that it says, else 0.0; picture i is drawn from (0, i)."""
    import visgen
    from visgen.evaluation.scenes.adherence import verdicts

    pipe = visgen.load(name)
    pipe.set_progress_bar_config(disable=True)
    source, found = Scenes("validation", count, balanced=True), []
    for start in range(0, count, batch_size):
        batch = source.batch(range(start, min(start + batch_size, count)))
        found += verdicts(_pictures(pipe, batch.captions, start, strategy, batch_size), batch.scenes)
    return np.array([float(verdict.correct) for verdict in found])


def _pictures(pipe: Any, captions: Any, start: int, strategy: str | None, batch_size: int) -> Any:
    """uint8 (B, 3, 64, 64)."""
    import torch

    from visgen.data.images import to_uint8

    result = pipe(
        captions,
        seed=0,
        ordinals=range(start, start + len(captions)),
        output_type="pt",
        batch_size=batch_size,
        fixed_batch=True,
        **({} if strategy is None else {"strategy": strategy}),
    )
    return torch.from_numpy(to_uint8(result.images * 2 - 1)).permute(0, 3, 1, 2)


if __name__ == "__main__":
    typer.run(main)
