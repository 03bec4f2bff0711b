"""DINOv2 and CLIP of the transformers library as the networks of metrics.

Pictures are prepared here and not by the checkpoints' processors, whose resizing has changed with the
library's versions and backends.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.evaluation.digests import module_digest
from visgen.evaluation.extractors import at_fixed_shape
from visgen.evaluation.networks import RECIPES, Network, NetworkRecipe
from visgen.evaluation.resizing import pillow_bicubic_bytes, torch_bicubic

logger = logging.getLogger(__name__)

ROWS = 8  # images at once, always
OFFSET = 0.1  # what DINOv2's own code adds to the grid when it interpolates positions
RESIZES = {"pillow-bicubic": pillow_bicubic_bytes, "torch-bicubic": torch_bicubic}


class _Shown:
    """uint8 images → what a network is shown, float32 (B, 3, pixels, pixels)."""

    def __init__(self, recipe: NetworkRecipe, pixels: int) -> None:
        self._resize, self._pixels = RESIZES[recipe.resize], pixels
        self._mean, self._std = (torch.tensor(one).view(3, 1, 1) for one in (recipe.mean, recipe.std))

    def __call__(self, images: Tensor) -> Tensor:
        return (self._resize(images.cpu(), self._pixels) / 255 - self._mean) / self._std


class DinoFeatures(Network):
    """Class tokens (B, D) of a `Dinov2Model`."""

    def __init__(self, name: str, device: str, offline: bool) -> None:
        self.recipe, self.name = RECIPES["fd_dinov2"], name
        self._model = _load("fd_dinov2", "Dinov2Model", name, offline).to(device)
        self.weights_sha256 = module_digest(self._model)
        self.dims = self._model.config.hidden_size
        pixels = self.recipe.pixels or self._model.config.image_size
        fit_positions(self._model.embeddings, pixels // self._model.config.patch_size)
        self._shown, self._device = _Shown(self.recipe, pixels), device

    @torch.no_grad()
    def __call__(self, images: Tensor, captions: Sequence[str] = ()) -> Tensor:
        """Class tokens; captions say nothing."""
        return at_fixed_shape(self._tokens, self._shown(images), ROWS)

    def _tokens(self, shown: Tensor) -> Tensor:
        return self._model(pixel_values=shown.to(self._device)).last_hidden_state[:, 0]


def fit_positions(embeddings: nn.Module, grid: int) -> None:
    """Bring the position embeddings of DINOv2 to `grid` × `grid` patches, as the authors' code does.

    It scales by (grid + 0.1) / old, bicubic, where transformers scales by grid / old.
    """
    positions = embeddings.position_embeddings.detach()
    old = round((positions.shape[1] - 1) ** 0.5)
    if old == grid:
        return
    square = positions[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    factor = (grid + OFFSET) / old
    square = F.interpolate(square, scale_factor=(factor, factor), mode="bicubic")
    patches = square.permute(0, 2, 3, 1).reshape(1, grid * grid, -1)
    embeddings.position_embeddings = nn.Parameter(torch.cat([positions[:, :1], patches], dim=1), False)


class ClipFeatures(Network):
    """Unit image embeddings (B, D) of a CLIP."""

    def __init__(self, name: str, device: str, offline: bool) -> None:
        self.recipe, self.name = RECIPES["cmmd"], name
        self._model = _load("cmmd", "CLIPModel", name, offline).to(device)
        self.weights_sha256 = module_digest(self._model)
        self.dims = self._model.config.projection_dim
        self._shown = _Shown(self.recipe, self._model.config.vision_config.image_size)
        self._device = device

    @torch.no_grad()
    def __call__(self, images: Tensor, captions: Sequence[str] = ()) -> Tensor:
        """Embeddings; captions say nothing."""
        return F.normalize(at_fixed_shape(self._embeddings, self._shown(images), ROWS), dim=1)

    def _embeddings(self, shown: Tensor) -> Tensor:
        return image_embeddings(self._model, shown.to(self._device))


class ClipScore(Network):
    """max(0, 100 · cosine) of images and their captions, (B,), under a `CLIPModel`."""

    dims = 1

    def __init__(self, name: str, device: str, offline: bool) -> None:
        self.recipe, self.name = RECIPES["clip_score"], name
        self._model = _load("clip_score", "CLIPModel", name, offline).to(device)
        self._tokenizer = _from_pretrained("clip_score", "AutoTokenizer", name, offline)
        self.weights_sha256 = module_digest(self._model)
        config = self._model.config
        self._shown = _Shown(self.recipe, config.vision_config.image_size)
        self._length, self._device = config.text_config.max_position_embeddings, device

    @torch.no_grad()
    def __call__(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """Scores in [0, 100]."""
        pictures = at_fixed_shape(self._pictures, self._shown(images), ROWS)
        inputs = self._tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=self._length,
            return_tensors="pt",
        )
        pairs = torch.stack([inputs.input_ids, inputs.attention_mask], dim=1)
        texts = at_fixed_shape(self._texts, pairs, ROWS)
        return (100 * F.cosine_similarity(pictures, texts)).clamp(min=0)

    def _pictures(self, shown: Tensor) -> Tensor:
        return image_embeddings(self._model, shown.to(self._device))

    def _texts(self, pairs: Tensor) -> Tensor:
        ids, mask = pairs.to(self._device).unbind(1)
        pooled = self._model.text_model(input_ids=ids, attention_mask=mask).pooler_output
        return self._model.text_projection(pooled)


def image_embeddings(clip: Any, shown: Tensor) -> Tensor:
    """What a `CLIPModel` makes of (B, 3, s, s), (B, D), not yet of unit length."""
    return clip.visual_projection(clip.vision_model(pixel_values=shown).pooler_output)


CLASSES: dict[str, type] = {"fd_dinov2": DinoFeatures, "cmmd": ClipFeatures, "clip_score": ClipScore}


def load_network(metric: str, name: str | None = None, device: str = "cpu", offline: bool = False) -> Network:
    """The network of a metric, from the hub's cache, the hub, or a folder.

    Args:
        metric: a name of `RECIPES`.
        name: hub id or folder of another checkpoint of the same class; None = the recipe's.
        device: where to run it, in float32.
        offline: never download.

    Raises:
        InputError: weights that are nowhere, or that do not fill the network.
    """
    return CLASSES[metric](name or RECIPES[metric].model, device, offline)


def _load(metric: str, class_name: str, name: str, offline: bool) -> Any:
    """A model in float32 and evaluation mode, every weight of it read."""
    options = {"output_loading_info": True, "weights_only": True, "dtype": torch.float32}
    model, info = _from_pretrained(metric, class_name, name, offline, **options)
    unread = sorted(str(key) for key in (*info["missing_keys"], *info["mismatched_keys"]))
    if unread:
        raise InputError(
            f"metric {metric}: {name!r} has no fitting {unread[0]} ({len(unread)} weights in all); give the "
            f"whole checkpoint of a {class_name}"
        )
    return model.eval().requires_grad_(False)


def _from_pretrained(metric: str, class_name: str, name: str, offline: bool, **options: Any) -> Any:
    import transformers

    recipe = RECIPES[metric]
    try:
        return getattr(transformers, class_name).from_pretrained(name, local_files_only=offline, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = "--offline" if offline else (str(error) or type(error).__name__).strip().splitlines()[0]
        raise InputError(
            f"metric {metric} needs {name!r}, which is not here whole and could not be fetched ({reason}); "
            f"get it with `hf download {recipe.model}` ({recipe.size}), or give "
            f"--feature-model {metric}=FOLDER"
        ) from error
