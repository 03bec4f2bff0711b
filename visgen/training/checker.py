"""Training of the scenes checker: a heat map of centres, and the look of each object, from drawn scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from visgen.data.batch import Batch
from visgen.data.scenes import BACKGROUNDS, IMAGE_SIZE, JUDGE, Scenes
from visgen.data.scenes.scene import Scene
from visgen.errors import InputError
from visgen.evaluation.scenes.adherence import evaluate_adherence
from visgen.evaluation.scenes.checker import CELL, CLASSES, SceneChecker
from visgen.schema import read
from visgen.training.objective import Objective
from visgen.training.recipe import Recipe
from visgen.training.reconstruction import to_pixels, validation_source

GRID = IMAGE_SIZE // CELL
SPREAD = 0.9  # cells: standard deviation of an object's heat
NEAR = 0.3  # heat from which on a cell learns the look
_BLUR = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16


@dataclass(frozen=True)
class CheckerOptions:
    """How the checker is hardened and scored.

    Args:
        blur: largest share of a 5×5 binomial blur mixed in; half of the rows stay as drawn.
        noise: largest standard deviation of pixel noise, on [-1, 1].
        validation_scenes: held-out scenes scored with the sample grids, 0 = none.
    """

    blur: float = 0.8
    noise: float = 0.05
    validation_scenes: int = 0


@dataclass(frozen=True, eq=False)
class Targets:
    """`heat` (B, 1, 16, 16), class index per cell by name (B, 16, 16), background (B,)."""

    heat: Tensor
    classes: dict[str, Tensor]
    background: Tensor


class SceneCheckerObjective(Objective):
    """Find the objects of a scene and name their looks.

    Args:
        model: what is trained.
        options: see `CheckerOptions`.
        validation: a source of held-out scenes, or None.
    """

    def __init__(self, model: SceneChecker, options: CheckerOptions, validation: Any = None) -> None:
        super().__init__()
        self.model, self.options, self.validation = model, options, validation

    @classmethod
    def from_recipe(cls, recipe: Recipe, data: Any) -> SceneCheckerObjective:
        options = read(CheckerOptions, recipe.options, "options")
        return cls(
            SceneChecker(**recipe.model), options, validation_source(recipe, options.validation_scenes)
        )

    def loss(self, batch: Batch, step: int, noise_seed: int) -> dict[str, Tensor]:
        if batch.scenes is None:
            raise InputError("data has no ground truth: the checker trains on data.source=scenes alone")
        targets = make_targets(batch.scenes)
        out = self.model(self._worsened(to_pixels(batch.images)))
        values = {"heat": heat_loss(out.maps["heat"].float(), targets.heat)}
        for name, classes in targets.classes.items():
            values[name] = _masked_cross_entropy(out.maps[name].float(), classes, targets.heat[:, 0])
        values["background"] = F.cross_entropy(out.background.float(), targets.background)
        return {"loss": torch.stack(list(values.values())).sum(), **values}

    def _worsened(self, images: Tensor) -> Tensor:
        """Half of the rows blurred, noisy and a little lighter or darker: models do not draw perfectly."""
        rows = torch.rand(len(images), 1, 1, 1) < 0.5
        amounts = rows * torch.rand(4, len(images), 1, 1, 1)
        blurred = torch.lerp(images, _blur(images), self.options.blur * amounts[0])
        noisy = blurred + self.options.noise * amounts[1] * torch.randn(images.shape)
        return noisy * (1 + 0.05 * (amounts[2] - amounts[3]))

    def evaluate(self, model: SceneChecker, step: int) -> dict[str, float]:
        """Accuracy on held-out scenes: everything right, and by attribute."""
        if self.validation is None:
            return {}
        batch = self.validation.batch(range(self.options.validation_scenes))
        report = evaluate_adherence(batch.images, batch.scenes, model)
        return {"all": report.overall.value, **{k: s.value for k, s in report.attributes.items()}}

    def export(self, folder: Path, model: SceneChecker) -> None:
        """The model with its features scaled to unit variance over drawn scenes."""
        scale_features(model)
        super().export(folder, model)


@torch.no_grad()
def scale_features(model: SceneChecker, count: int = 2048) -> None:
    """Measure how much each feature varies over the first `count` scenes that a judge trains on."""
    source, device = Scenes(JUDGE, balanced=True), model.device
    model.feature_std.fill_(1.0)
    found = [model.features(source.batch(range(i, i + 256)).images) for i in range(0, count, 256)]
    model.feature_std.copy_(torch.cat(found).std(dim=0).clamp_min(1e-6).to(device))


def make_targets(scenes: Sequence[Scene]) -> Targets:
    """What the heads should say of scenes."""
    centres = torch.arange(GRID) + 0.5
    heat = torch.zeros(len(scenes), 1, GRID, GRID)
    classes = {name: torch.zeros(len(scenes), GRID, GRID, dtype=torch.long) for name in CLASSES}
    for row, scene in enumerate(scenes):
        for one in scene.objects:
            squares = (centres[:, None] - one.y / CELL) ** 2 + (centres[None] - one.x / CELL) ** 2
            near = torch.exp(-squares / (2 * SPREAD**2))
            near[int(one.y / CELL), int(one.x / CELL)] = 1.0
            nearest = near > heat[row, 0]
            heat[row, 0] = torch.maximum(heat[row, 0], near)
            for name, names in CLASSES.items():
                classes[name][row][nearest] = names.index(getattr(one, name))
    background = torch.tensor([list(BACKGROUNDS).index(scene.background) for scene in scenes])
    return Targets(heat, classes, background)


def heat_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """CornerNet's focal loss (arXiv 1808.01244): cells around a centre are forgiven by (1 − heat)⁴."""
    law = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    found = heat == 1
    positive = (1 - law).square() * law.log() * found
    negative = (1 - heat) ** 4 * law.square() * (1 - law).log() * ~found
    return -(positive.sum() + negative.sum()) / found.sum()


def _masked_cross_entropy(logits: Tensor, classes: Tensor, heat: Tensor) -> Tensor:
    near = (heat > NEAR).float()
    return (F.cross_entropy(logits, classes, reduction="none") * near).sum() / near.sum()


def _blur(images: Tensor) -> Tensor:
    kernel = torch.outer(_BLUR, _BLUR).expand(3, 1, 5, 5)
    with torch.autocast(images.device.type, enabled=False):
        return F.conv2d(F.pad(images, (2, 2, 2, 2), mode="replicate"), kernel, groups=3)
