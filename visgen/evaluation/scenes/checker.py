"""A small network that says what a 64×64 scene shows: objects with shape, colour, size and place, and the
background.

Objects are peaks of a heat map on a 16×16 grid (CenterNet, arXiv 1904.07850); what is read at a peak is that
object's look. How much its activations vary over a picture gives the features of the evaluation protocol
`scenes`: unlike their means, those feel blurred edges.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from visgen.data.scenes import BACKGROUNDS, COLOURS, IMAGE_SIZE, SHAPES, SIZES
from visgen.errors import InputError
from visgen.nn.cnn import ResBlock
from visgen.nn.model import VisgenModel

CELL = 4  # pixels per side of a grid cell
PEAK = 0.4  # least heat of an object
WINDOW = 5  # cells: two centres are at least 4.4 apart, so a window of ±2 holds one
BATCH = 32  # images at once, always: what one gives never depends on the others
HEADS = {"heat": 1, "shape": len(SHAPES), "colour": len(COLOURS), "size": len(SIZES)}
CLASSES = {"shape": SHAPES, "colour": COLOURS, "size": tuple(SIZES)}


@dataclass(frozen=True)
class DetectedObject:
    """One object that the checker sees: its look, and its centre in pixels (y grows downwards)."""

    shape: str
    colour: str
    size: str
    x: float
    y: float


@dataclass(frozen=True)
class DetectedScene:
    """All that the checker sees in one picture."""

    objects: tuple[DetectedObject, ...]
    background: str


@dataclass(frozen=True, eq=False)
class CheckerOutput:
    """Logits per cell by head, `maps[name]` (B, K, 16, 16); `background` (B, 9); `features` (B, D)."""

    maps: dict[str, Tensor]
    background: Tensor
    features: Tensor


class SceneChecker(VisgenModel):
    """Detector of the scenes world.

    Args:
        stem_size: channels at half resolution.
        hidden_size: channels on the 16×16 grid; features have `stem_size + hidden_size` dimensions.
        num_blocks: residual blocks on the grid.
        norm_groups: groups of every GroupNorm.
    """

    @register_to_config
    def __init__(
        self, stem_size: int = 32, hidden_size: int = 96, num_blocks: int = 4, norm_groups: int = 8
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, stem_size, 3, padding=1),
            ResBlock(stem_size, stem_size, norm_groups),
        )
        self.down = nn.Conv2d(stem_size, hidden_size, 4, stride=2, padding=1)
        self.blocks = nn.Sequential(
            *[ResBlock(hidden_size, hidden_size, norm_groups) for _ in range(num_blocks)]
        )
        self.norm = nn.GroupNorm(norm_groups, hidden_size)
        self.heads = nn.ModuleDict({name: nn.Conv2d(hidden_size, k, 1) for name, k in HEADS.items()})
        self.register_buffer("feature_std", torch.ones(stem_size + hidden_size))  # of drawn scenes
        self.background = nn.Sequential(
            nn.Linear(2 * hidden_size, hidden_size), nn.SiLU(), nn.Linear(hidden_size, len(BACKGROUNDS))
        )

    def forward(self, images: Tensor) -> CheckerOutput:
        """What is seen in images (B, 3, 64, 64) in [-1, 1]."""
        stem = F.silu(self.stem(images))
        grid = F.silu(self.norm(self.blocks(self.down(stem))))
        background = self.background(torch.cat([grid.mean((2, 3)), grid.amax((2, 3))], dim=1))
        features = torch.cat([stem.std((2, 3)), grid.std((2, 3))], dim=1) / self.feature_std
        return CheckerOutput({name: head(grid) for name, head in self.heads.items()}, background, features)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features (B, D) float32 of uint8 images (B, 3, 64, 64), as the protocol `scenes` compares them.

        Each is scaled to unit variance over drawn scenes, so that all count alike in a Fréchet distance.

        Raises:
            InputError: another dtype or size.
        """
        return torch.cat([out.features.float().cpu() for out in self._run(images)])

    @torch.no_grad()
    def detect(self, images: Tensor) -> list[DetectedScene]:
        """What uint8 images (B, 3, 64, 64) show. Raises `InputError` for another dtype or size."""
        return [scene for out in self._run(images) for scene in _read(out)]

    def _run(self, images: Tensor) -> Iterator[CheckerOutput]:
        """Outputs of batches of one fixed size, the last one padded."""
        if images.dtype != torch.uint8 or images.shape[1:] != (3, IMAGE_SIZE, IMAGE_SIZE):
            raise InputError(
                f"images of {images.dtype} and shape {tuple(images.shape)} are no scenes: "
                f"the checker reads uint8 (B, 3, {IMAGE_SIZE}, {IMAGE_SIZE})"
            )
        for part in images.split(BATCH):
            pixels = F.pad(part, (0, 0) * 3 + (0, BATCH - len(part)))
            out = self(pixels.to(self.device, self.dtype) / 127.5 - 1)
            yield CheckerOutput(
                {name: value[: len(part)].float().cpu() for name, value in out.maps.items()},
                out.background[: len(part)].float().cpu(),
                out.features[: len(part)],
            )


def load_checker(device: torch.device | str = "cpu") -> SceneChecker:
    """The checker that ships with the package."""
    from visgen.shipped import assets_folder

    return SceneChecker.from_pretrained(assets_folder() / "scenes-checker").to(device)


def _read(out: CheckerOutput) -> Iterator[DetectedScene]:
    """Peaks of the heat map and the look at each, per image."""
    heat = out.maps["heat"].sigmoid()
    peaks = (heat == F.max_pool2d(heat, WINDOW, 1, WINDOW // 2)) & (heat > PEAK)
    classes = {name: out.maps[name].argmax(1) for name in CLASSES}
    backgrounds = out.background.argmax(1).tolist()
    for image, background in enumerate(backgrounds):
        cells = peaks[image, 0].nonzero().tolist()
        objects = [_object(heat[image, 0], classes, image, row, column) for row, column in cells]
        yield DetectedScene(tuple(objects), tuple(BACKGROUNDS)[background])


def _object(heat: Tensor, classes: dict[str, Tensor], image: int, row: int, column: int) -> DetectedObject:
    look = {name: CLASSES[name][int(ids[image, row, column])] for name, ids in classes.items()}
    y, x = _centre(heat, row, column)
    return DetectedObject(**look, x=x, y=y)


def _centre(heat: Tensor, row: int, column: int) -> tuple[float, float]:
    """Centre of mass of the heat in the 3×3 cells around a peak, in pixels (y, x)."""
    top, left = max(row - 1, 0), max(column - 1, 0)
    window = heat[top : row + 2, left : column + 2]
    y = (window.sum(1) * torch.arange(top, top + window.shape[0])).sum() / window.sum()
    x = (window.sum(0) * torch.arange(left, left + window.shape[1])).sum() / window.sum()
    return (float(y) + 0.5) * CELL, (float(x) + 0.5) * CELL
