"""What a SEED pipeline says of held-out scenes, and what a linear probe reads from its ids; one JSON line.

python scripts/score_seed.py scenes-seed -n 1000
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

BATCH = 50


def main(
    model: Annotated[str, typer.Argument(help="An interleaved model: alias, hub id, or folder.")],
    count: Annotated[int, typer.Option("-n", "--num-images", min=1, help="Held-out scenes.")] = 1000,
    probe_images: Annotated[int, typer.Option(help="Single objects that the probe learns from.")] = 4096,
) -> None:
    """Print F1 of captions by attribute, and accuracies of a probe of colour and shape."""
    import visgen
    from visgen.data.scenes import Scenes
    from visgen.evaluation.scenes.captions import score_captions
    from visgen.training.reconstruction import to_pixels
    from visgen.training.seed_probe import probe_accuracy

    pipe = visgen.load(model)
    pipe.set_progress_bar_config(disable=True)
    source, captions, scenes = Scenes("validation", count, balanced=True), [], []
    for start in range(0, count, BATCH):
        batch = source.batch(range(start, min(start + BATCH, count)))
        captions += pipe.caption(list(to_pixels(batch.images)), batch_size=BATCH)
        scenes += batch.scenes or []
    score = score_captions(captions, scenes)
    found = {"count": score.count, "f1": score.f1, "exact": score.exact, "readable": score.readable}
    found |= {f"f1_{name}": value for name, value in score.attributes.items()}
    found |= probe_accuracy(pipe.tokenizer, probe_images, test_count=1000)
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))


if __name__ == "__main__":
    typer.run(main)
