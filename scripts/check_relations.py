"""Does the model put things where the prompt says? Nothing learned judges the pictures.

    python scripts/check_relations.py                  # 40 prompts x 2 seeds of scenes-var
    python scripts/check_relations.py --real           # the same check on drawn scenes: the ceiling

Each prompt names two objects of different colours and shapes and one relation, ten prompts per relation.
Pixels go to the nearest palette colour; a picture is right when both colours cover enough of it and the
offset between their centres points the way the relation says, further than across it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from visgen.data.scenes import BACKGROUNDS, COLOURS, PALETTE, RELATIONS, SHAPES
from visgen.data.scenes.scene import Look, Signature
from visgen.data.scenes.splits import split_of
from visgen.data.scenes.vocabulary import DEFAULT_BACKGROUND, DEFAULT_SIZE, RELATION_PHRASES

if TYPE_CHECKING:
    from PIL.Image import Image

PER_RELATION = 10
MIN_AREA = 40  # pixels of 4096; a small circle covers about 150, a medium ring about 270
_DIRECTION = {
    "above": (0, -1),
    "below": (0, 1),
    "left of": (-1, 0),
    "right of": (1, 0),
}  # of the first, (x, y)


@dataclass(frozen=True)
class Case:
    """One prompt and what it says."""

    signature: Signature

    @property
    def prompt(self) -> str:
        first, second = self.signature.looks
        return f"{_named(first)} {RELATION_PHRASES[self.signature.relation][0]} {_named(second)}"


@dataclass(frozen=True)
class Verdict:
    """Whether a picture shows what was asked, and what was measured."""

    correct: bool
    areas: tuple[int, int]
    offset: tuple[float, float]

    def __str__(self) -> str:
        x, y = self.offset
        mark = "ok   " if self.correct else "WRONG"
        return f"{mark} areas {self.areas[0]:4d} {self.areas[1]:4d}  first - second ({x:+6.1f}, {y:+6.1f}) px"


def _named(look: Look) -> str:
    return f"{'an' if look.colour[0] in 'aeiou' else 'a'} {look.colour} {look.shape}"


def make_cases(seed: int = 0) -> list[Case]:
    """The prompts, always the same: seen combinations only, on the default background, none twice."""
    rng = random.Random(seed)
    cases: list[Case] = []
    for relation in RELATIONS:
        found: list[Case] = []
        while len(found) < PER_RELATION:
            case = _draw(rng, relation)
            if case not in found and split_of(case.signature) in ("train", "validation"):
                found.append(case)
        cases += found
    return cases


def _draw(rng: random.Random, relation: str) -> Case:
    colours, shapes = rng.sample(COLOURS, 2), rng.sample(SHAPES, 2)
    looks = [Look(shape, colour, DEFAULT_SIZE) for shape, colour in zip(shapes, colours, strict=True)]
    return Case(Signature("relation", tuple(looks), relation, DEFAULT_BACKGROUND, 2))


def nearest_colour(pixels: np.ndarray) -> np.ndarray:
    """Index into PALETTE of each pixel of (H, W, 3) uint8; the background comes last."""
    colours = np.array([*PALETTE.values(), BACKGROUNDS[DEFAULT_BACKGROUND][0]], np.float32)
    distances = np.linalg.norm(pixels[:, :, None].astype(np.float32) - colours, axis=-1)
    return distances.argmin(axis=-1)


def judge(image: Image, signature: Signature) -> Verdict:
    """Compare the centres of the two colours' pixels."""
    nearest = nearest_colour(np.asarray(image.convert("RGB")))
    masks = [nearest == COLOURS.index(look.colour) for look in signature.looks]
    areas = tuple(int(mask.sum()) for mask in masks)
    if min(areas) < MIN_AREA:
        return Verdict(False, areas, (0.0, 0.0))
    centres = [np.argwhere(mask).mean(axis=0)[::-1] for mask in masks]
    x, y = (float(d) for d in centres[0] - centres[1])
    dx, dy = _DIRECTION[signature.relation]
    along, across = (x * dx, y) if dx else (y * dy, x)
    return Verdict(along > abs(across), areas, (x, y))


def draw_real(cases: Sequence[Case], seed: int) -> list[Image]:
    """Scenes that show exactly what is asked."""
    from visgen.data.images import to_pil, to_tensor
    from visgen.data.scenes import render
    from visgen.data.scenes.sampling import place

    rng = random.Random(seed)
    return to_pil(to_tensor(render([place(case.signature, rng) for case in cases])))


def main(
    model: Annotated[str, typer.Option(help="Name, hub id or folder.")] = "scenes-var",
    minimum: Annotated[int, typer.Option(help="Fewer right pictures end with exit code 1.")] = 56,
    seeds: Annotated[int, typer.Option(min=1, help="Pictures per prompt.")] = 2,
    real: Annotated[bool, typer.Option("--real", help="Judge drawn scenes instead of a model's.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="One line per picture.")] = False,
) -> None:
    """Check spatial relations of two-object prompts."""
    cases = make_cases()
    if not real:
        import visgen

        pipe = visgen.load(model, task="text-to-image")
    right = 0
    for seed in range(seeds):
        images = draw_real(cases, seed) if real else pipe([case.prompt for case in cases], seed=seed).images
        for case, image in zip(cases, images, strict=True):
            verdict = judge(image, case.signature)
            right += verdict.correct
            if verbose:
                print(f"{verdict}  seed {seed}  {case.prompt}")
    print(f"{right}/{seeds * len(cases)}")
    raise typer.Exit(right < minimum)


if __name__ == "__main__":
    typer.run(main)
