"""Which classes a class-conditional model draws under a protocol that says so."""

from __future__ import annotations

from pathlib import Path

from visgen.checkpoints.catalogue import CATALOGUE
from visgen.nn.noise import Noise
from visgen.pipelines.official import find_official

# Systems whose authors drew the labels of their 50,000 images at random; the others take 50 of each class.
RANDOM_LABELS = ("llamagen",)
CHUNK = 1000  # generators at once: 2.5 kB each


def published_labels(name: str, num_classes: int, count: int, seed: int) -> list[int]:
    """The class of each of `count` images: i mod `num_classes`, or random ones where the authors drew theirs.

    Args:
        name: what the model was loaded by.
        num_classes: of the model.
        count: of images.
        seed: label i is drawn from (seed, i).
    """
    if not draws_labels(name):
        return [i % num_classes for i in range(count)]
    labels: list[int] = []
    for start in range(0, count, CHUNK):
        pairs = [(seed, i) for i in range(start, min(start + CHUNK, count))]
        labels += Noise.per_image(pairs, "labels").labels(num_classes, len(pairs)).tolist()
    return labels


def draws_labels(name: str) -> bool:
    """Whether a catalogue name, or the path of official files, is of a system of `RANDOM_LABELS`."""
    if name in CATALOGUE:
        return CATALOGUE[name].system in RANDOM_LABELS
    files = find_official(Path(name))
    return files is not None and files.systems.get("generator") in RANDOM_LABELS
