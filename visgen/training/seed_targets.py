"""What SEED's image embedding is distilled from: CLIP (arXiv 2310.01218, section 3.2), or for scenes the
features of the checker that ships."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visgen.data.scenes import BACKGROUNDS
from visgen.errors import InputError
from visgen.evaluation.scenes.checker import CLASSES, load_checker
from visgen.nn.pretrained import load_pretrained
from visgen.tokenizers.seed_images import CLIP_MEAN, CLIP_STD, normalized

MEASURED = 256  # pictures whose scene features give mean and standard deviation
CELL_CHANNELS = 3 + sum(len(names) for names in CLASSES.values()) + len(BACKGROUNDS)  # 30


@dataclass(frozen=True)
class TargetSpec:
    """What the image embedding should be.

    Args:
        kind: "scenes", the checker's features, or "clip", `image_embeds` of a CLIP vision model.
        path: folder of transformers' `CLIPVisionModelWithProjection`, for "clip" (SEED-2: ViT-H/14 of LAION).
        grid: cells of "scenes", along each side; it divides 16.
        background: standard deviation of the background's channels of "scenes", the others have 1. The
            background stands in every cell: at 1 it is much of the variance, and is learned before all else.
    """

    kind: Literal["scenes", "clip"] = "scenes"
    path: str | None = None
    grid: int = 4
    background: float = 1.0


class EmbeddingTarget(nn.Module):
    """A frozen function from images to embeddings.

    Attributes:
        dim: channels of the embeddings.
        grid: cells along each side that an embedding consists of, or None.
    """

    dim: int
    grid: int | None = None

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Embeddings (B, D), float32, of images (B, 3, H, W) in [-1, 1]."""

    def measure(self, data: Any) -> None:
        """Take what it needs of a training source, once."""


class SceneEmbedding(EmbeddingTarget):
    """What the checker sees in each of grid × grid cells of a scene: an object's presence, place, shape,
    colour and size; and the background.

    Per cell: heat h, its moments h·dx and h·dy about the cell's middle, h · p(class) for the classes of
    shape, colour and size, all averaged over the checker's finer cells; then p(class) of the background, the
    same in every cell, so that an embedding falls into equal parts. The 30 channels of a cell have
    zero mean and unit variance over the first pictures of a source (`measure`); one mean per dimension, but
    one variance per channel, so that rare places do not count more than others.

    Args:
        grid: cells along each side, a divisor of 16.
        background: see `TargetSpec`.

    Raises:
        InputError: another grid, or a background that is not above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, grid: int, background: float = 1.0) -> None:
        super().__init__()
        if grid < 1 or 16 % grid:
            raise InputError(f"options.target.grid={grid} must divide 16")
        if not background > 0:
            raise InputError(f"options.target.background={background} must be above 0")
        self.background = background
        self.grid, self.checker = grid, load_checker().requires_grad_(False)
        self.dim = grid * grid * CELL_CHANNELS
        self.register_buffer("mean", torch.zeros(self.dim))
        self.register_buffer("std", torch.ones(self.dim))

    @torch.no_grad()
    def measure(self, data: Any) -> None:
        """Mean and variance of the first pictures of `data`."""
        images = data.batch(range(MEASURED)).images.to(self.mean.device)
        raw = torch.cat([self._raw(part.float() / 127.5 - 1) for part in images.split(64)])
        cells = raw.view(len(raw), -1, CELL_CHANNELS)
        spread = (cells - cells.mean(0)).square().mean((0, 1)).sqrt().clamp_min(1e-4)
        spread[-len(BACKGROUNDS) :] /= self.background
        self.mean.copy_(cells.mean(0).flatten())
        self.std.copy_(spread.repeat(self.dim // CELL_CHANNELS))

    def forward(self, images: Tensor) -> Tensor:
        return (self._raw(images) - self.mean) / self.std

    @torch.no_grad()
    def _raw(self, images: Tensor) -> Tensor:
        out = self.checker(images)
        heat = out.maps["heat"].float().sigmoid()
        looks = [heat * out.maps[name].float().softmax(1) for name in CLASSES]
        step = heat.shape[-1] // self.grid
        offset = (torch.arange(step, device=heat.device) + 0.5) / step - 0.5
        dx = offset.repeat(self.grid).view(1, 1, 1, -1)
        dy = offset.repeat(self.grid).view(1, 1, -1, 1)
        maps = F.avg_pool2d(torch.cat([heat, heat * dx, heat * dy, *looks], dim=1), step)
        background = out.background.float().softmax(1)[:, :, None, None].expand(-1, -1, self.grid, self.grid)
        return torch.cat([maps, background], dim=1).permute(0, 2, 3, 1).flatten(1)


class CLIPEmbedding(EmbeddingTarget):
    """`image_embeds` of a CLIP vision model, from images squeezed to its size.

    Args:
        folder: of `CLIPVisionModelWithProjection`, safetensors.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.model = load_pretrained("CLIPVisionModelWithProjection", folder).requires_grad_(False)
        self.dim = self.model.config.projection_dim

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        side = self.model.config.image_size
        if images.shape[-2:] != (side, side):
            images = F.interpolate(images, (side, side), mode="bicubic", antialias=True)
        return self.model(normalized(images, CLIP_MEAN, CLIP_STD)).image_embeds.float()


def build_target(spec: TargetSpec) -> EmbeddingTarget:
    """The target of a recipe, not yet measured.

    Raises:
        InputError: "clip" without a path, or no readable model there.
    """
    if spec.kind == "clip":
        if spec.path is None:
            raise InputError("options.target.path is missing: the folder of a CLIPVisionModelWithProjection")
        return CLIPEmbedding(spec.path)
    return SceneEmbedding(spec.grid, spec.background)
