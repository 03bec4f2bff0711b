"""Metrics that look through a network of their own: which one, what it is shown, what is taken from it.

A recipe stands whole in each record, with a digest of the weights: numbers of two recipes are never compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from visgen.errors import InputError, UnknownNameError
from visgen.evaluation.metrics import NETWORK_METRICS
from visgen.registry import nearest

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
Colours = tuple[float, float, float]


@dataclass(frozen=True)
class NetworkRecipe:
    """What a number means.

    Attributes:
        metric: name of the metric.
        version: raised whenever a change below would change a number.
        model: hub id of the network.
        size: of its download.
        resize: "pillow-bicubic" (bytes, antialiased) or "torch-bicubic" (floats, not antialiased).
        pixels: side of what it is shown; None = that of its configuration.
        mean, std: of the colours in [0, 1].
        measure: what is taken from it and what becomes of that, in words.
        paper: arXiv id.
    """

    metric: str
    version: int
    model: str
    size: str
    resize: str
    pixels: int | None
    mean: Colours
    std: Colours
    measure: str
    paper: str

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}


RECIPES: dict[str, NetworkRecipe] = {
    recipe.metric: recipe
    for recipe in (
        NetworkRecipe(
            "fd_dinov2",
            1,
            "facebook/dinov2-large",
            "1.2 GB",
            "pillow-bicubic",
            224,
            *IMAGENET,
            measure="Fréchet distance of normed class tokens; positions interpolated by (16 + 0.1) / 37",
            paper="2306.04675",
        ),
        NetworkRecipe(
            "cmmd",
            1,
            "openai/clip-vit-large-patch14-336",
            "1.7 GB",
            "torch-bicubic",
            None,
            *CLIP,
            measure="1000 · MMD² of unit image embeddings, Gaussian kernel of σ = 10, biased estimator",
            paper="2401.09603",
        ),
        NetworkRecipe(
            "clip_score",
            1,
            "openai/clip-vit-large-patch14",
            "1.7 GB",
            "pillow-bicubic",
            None,
            *CLIP,
            measure="mean of max(0, 100 · cos(image, caption)); captions are cut at the network's length",
            paper="2104.08718",
        ),
    )
}


class Network:
    """A network with its weights, which keeps something of each image.

    Attributes:
        recipe: what it does.
        name: hub id or folder of the weights.
        weights_sha256: digest of the weights.
        dims: of the features.
    """

    recipe: NetworkRecipe
    name: str
    weights_sha256: str
    dims: int

    def __call__(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """Rows of uint8 images (B, 3, H, W) of any size: features (B, dims), or scores (B,)."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """What decides a number, JSON-ready; the place of the weights does not."""
        return self.recipe.to_dict() | {"weights_sha256": self.weights_sha256}


def check_feature_models(models: Mapping[str, str]) -> None:
    """Refuse checkpoints for what is no metric with a network.

    Raises:
        UnknownNameError: another name.
        InputError: an empty checkpoint.
    """
    for metric, name in models.items():
        if metric not in RECIPES:
            raise UnknownNameError(
                f"--feature-model {metric}={name}: {metric!r} is no metric with a network; "
                f"{nearest(metric, list(RECIPES))}"
            )
        if not name:
            raise InputError(f"--feature-model {metric}= names no model; give a hub id or a folder")


def parse_feature_models(texts: Sequence[str]) -> dict[str, str]:
    """Metric → hub id or folder, from "METRIC=MODEL".

    Raises:
        InputError: no such pair, an unknown metric, or a metric twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        metric, equals, name = text.partition("=")
        if not equals:
            raise InputError(
                f"--feature-model {text!r} must be METRIC=MODEL with one of {', '.join(NETWORK_METRICS)}"
            )
        if metric in found:
            raise InputError(f"--feature-model {text!r}: {metric} has {found[metric]!r} already; keep one")
        found[metric] = name
    check_feature_models(found)
    return found
