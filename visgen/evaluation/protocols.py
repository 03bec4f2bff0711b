"""Named protocols: everything between an image and a score that has made published numbers disagree.

A protocol stands whole in every result. Numbers under two protocols are never put side by side.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from visgen.errors import InputError, UnknownNameError
from visgen.registry import nearest


@dataclass(frozen=True)
class EvaluationProtocol:
    """What a number means.

    Attributes:
        name: what `--protocol` takes.
        version: raised whenever a change below would change a number.
        extractor: feature extractor, a name of `EXTRACTORS`.
        weights: the extractor's weights, in words.
        resize: how images reach the extractor's size: "tensorflow1-bilinear", "pillow-bicubic" or "none".
        rounding: how decoded pixels x in [-1, 1] become the bytes that are scored (those of a PNG).
        feature_dims: dimensions D of the features.
        has_logits: whether class logits come with them, as the Inception Score needs.
        image_size: the only side in pixels it takes; None = any.
        kid_subsets: random subsets that KID is the mean over.
        kid_subset_size: images of a subset; half of the images where there are fewer than twice as many.
        neighbours: k of the k-nearest-neighbour balls of precision and recall.
        is_splits: parts that the Inception Score is the mean over.
    """

    name: str
    version: int
    extractor: str
    weights: str
    resize: str
    feature_dims: int
    has_logits: bool
    image_size: int | None = None
    rounding: str = "round((clip(x, -1, 1) + 1) / 2 * 255) to uint8"
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    neighbours: int = 3
    is_splits: int = 10

    @property
    def label(self) -> str:
        """Name and version, for tables and messages: "adm v1"."""
        return f"{self.name} v{self.version}"

    @property
    def statistics_of(self) -> tuple[str, int]:
        """Name and version of the protocol whose precomputed statistics are this one's."""
        return self.name, self.version

    def size_of(self, image_size: int) -> int:
        """Side in pixels at which images of `image_size` pixels are judged."""
        return image_size

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class SampledProtocol(EvaluationProtocol):
    """A protocol that also says which images are drawn, and at what size they are judged.

    Attributes:
        count: images; another number is a dry run.
        labels: which classes: image i shows class i mod their number, or a random one where the authors of an
            official model drew labels at random (`labels.RANDOM_LABELS`).
        judged_size: side in pixels.
        judged_resize: how images of another size are brought to it, behind the rounding to bytes.
    """

    count: int = 50_000
    labels: str = "balanced, or random where the authors drew them so"
    judged_size: int = 256
    judged_resize: str = "bicubic (a = -0.75), no antialiasing, rounded to uint8"

    @property
    def statistics_of(self) -> tuple[str, int]:
        """Those of ADM: features are the same."""
        return "adm", PROTOCOLS["adm"].version

    def size_of(self, image_size: int) -> int:
        """Always `judged_size`."""
        return self.judged_size


_INCEPTION: dict[str, Any] = {
    "extractor": "inception",
    "weights": "InceptionV3 of 2015-12-05 (TensorFlow), as converted by torch-fidelity",
    "feature_dims": 2048,
    "has_logits": True,
}

PROTOCOLS: dict[str, EvaluationProtocol] = {
    protocol.name: protocol
    for protocol in (
        # ADM's and torch-fidelity's: no half-pixel centres, no antialiasing (torchmetrics: antialias=False)
        EvaluationProtocol("adm", 1, resize="tensorflow1-bilinear", **_INCEPTION),
        # clean-fid's (arXiv 2104.11222): Pillow bicubic in float, channel by channel, with antialiasing
        EvaluationProtocol("clean", 1, resize="pillow-bicubic", **_INCEPTION),
        # ADM's of 50,000 class-conditional images: what papers call FID-50K
        SampledProtocol("adm50k", 1, resize="tensorflow1-bilinear", **_INCEPTION),
        EvaluationProtocol(
            "scenes",
            1,
            extractor="scenes-checker",
            weights="scenes-checker, which ships with visgen",
            resize="none",
            feature_dims=128,
            has_logits=False,
            image_size=64,
        ),
    )
}


@dataclass(frozen=True)
class AnswerProtocol:
    """What an accuracy means.

    Attributes:
        name: what `--protocol` takes.
        version: raised whenever a change would change a number.
        small: objects are drawn at half their size, and no sizes are asked for.
        image_size: pixels a side; models scale pictures as they do for anyone.
        answer: what counts as right.
    """

    name: str
    version: int
    small: bool
    image_size: int = 96
    answer: str = "the text holds the right answer and no other answer of its kind; greedy, 16 tokens"

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.name} v{self.version}"


ANSWER_PROTOCOLS = {
    one.name: one
    for one in (AnswerProtocol("scenes-vqa", 1, False), AnswerProtocol("scenes-vqa-small", 1, True))
}


def get_protocol(name: str) -> EvaluationProtocol:
    """The protocol of a name; raises `UnknownNameError` listing the nearest ones."""
    if name in ANSWER_PROTOCOLS:
        raise InputError(
            f"protocol {name!r} scores answers, not images; use `visgen evaluate --protocol {name}` or "
            "visgen.evaluation.answering.evaluate_answers"
        )
    if name not in PROTOCOLS:
        known = [*PROTOCOLS, *ANSWER_PROTOCOLS]
        raise UnknownNameError(f"unknown protocol {name!r}: {nearest(name, known)}")
    return PROTOCOLS[name]


def get_answer_protocol(name: str) -> AnswerProtocol:
    """The protocol of questions of a name; raises `UnknownNameError` listing the nearest ones."""
    if name not in ANSWER_PROTOCOLS:
        raise UnknownNameError(f"unknown protocol {name!r}: {nearest(name, list(ANSWER_PROTOCOLS))}")
    return ANSWER_PROTOCOLS[name]
