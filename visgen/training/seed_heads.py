"""Linear layers beside a small SEED tokenizer in training, which are thrown away afterwards.

From random weights the embedding's error alone stalls once it knows the background: no query has learned
where to look, and there is nothing to see there yet. These layers say both, and `place_queries` helps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.tokenizers.seed import SEEDPass, SEEDTokenizer

SHARPNESS = 3.0  # of cross-attention's first weights: more of it then falls on the own cell than by chance


class AuxiliaryHeads(nn.Module):
    """Squared errors of linear layers that predict the target.

    "readout": from all quantised vectors to the whole embedding. "local": from each run of Q / cells
    quantised vectors to its cell, one layer for all cells, so that a query gets a place and a code one
    meaning everywhere. "vision": from the patches of each cell to the cell, one layer.

    Args:
        model: the tokenizer.
        grid: cells of the target along each side, None for a target without cells.
        weights: name → weight; 0 leaves a head out.

    Raises:
        InputError: "local" or "vision" for a target without cells, or numbers that do not divide.
    """

    def __init__(self, model: SEEDTokenizer, grid: int | None, weights: dict[str, float]) -> None:
        super().__init__()
        config = model.config
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self.grid = grid or 1
        if grid is None and self.weights.keys() - {"readout"}:
            raise InputError("options.local_weight and vision_weight need a target with cells: kind: scenes")
        cells, side = self.grid**2, config.image_size // config.patch_size
        if ("local" in self.weights and config.num_queries % cells) or (
            "vision" in self.weights and side % self.grid
        ):
            raise InputError(
                f"options.target.grid={grid}: num_queries={config.num_queries} must be a multiple of {cells} "
                f"for local_weight, and {side} patches of {self.grid} for vision_weight"
            )
        part = config.embedding_dim // cells
        sizes = {
            "readout": (config.num_queries * config.code_dim, config.embedding_dim),
            "local": (config.num_queries * config.code_dim // cells, part),
            "vision": ((side // self.grid) ** 2 * config.vision_width, part),
        }
        self.heads = nn.ModuleDict({name: nn.Linear(*sizes[name]) for name in self.weights})

    def forward(self, out: SEEDPass, passed: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Errors by name.

        Args:
            out: the training pass.
            passed: (B, Q, C) vectors as the de-tokenizer gets them, of about unit variance.
            target: (B, D).
        """
        inputs = {"readout": lambda: passed.flatten(1), "local": lambda: self._runs(passed)}
        inputs["vision"] = lambda: self._patches(out.features)
        return {
            name: F.mse_loss(head(inputs[name]()).float().flatten(1), target)
            for name, head in self.heads.items()
        }

    def total(self, values: dict[str, Tensor]) -> Tensor | float:
        """Weighted sum of the errors."""
        return sum(weight * values[name] for name, weight in self.weights.items())

    def _runs(self, passed: Tensor) -> Tensor:
        """(B, cells, Q / cells · C)."""
        return passed.reshape(len(passed), self.grid**2, -1)

    def _patches(self, features: Tensor) -> Tensor:
        """(B, cells, patches per cell · C) of features (B, 1 + N, C)."""
        b, n, c = features.shape
        side = int((n - 1) ** 0.5)
        step = side // self.grid
        x = features[:, 1:].reshape(b, self.grid, step, self.grid, step, c)
        return x.transpose(2, 3).reshape(b, self.grid**2, -1)


@torch.no_grad()
def place_queries(model: SEEDTokenizer, grid: int) -> None:
    """Start each run of Q / grid² queries at the position of its cell, and let cross-attention compare
    positions: its keys start as its queries do.

    Raises:
        InputError: queries of another width than the features, or a grid that does not divide.
    """
    positions = model.visual_encoder.pos_embed[0, 1:]
    side, queries = int(len(positions) ** 0.5), model.query_tokens
    if queries.shape[-1] != positions.shape[-1] or queries.shape[1] % grid**2 or side % grid:
        raise InputError(
            f"options.local_weight needs hidden_size = vision_width, and target.grid={grid} that divides "
            f"{side} patches and whose square divides {queries.shape[1]} queries"
        )
    step = side // grid
    cells = positions.view(grid, step, grid, step, -1).mean((1, 3)).flatten(0, 1)
    queries += cells.repeat_interleave(queries.shape[1] // grid**2, 0)
    for layer in model.qformer.encoder.layer:
        if layer.has_cross_attention:
            attention = layer.crossattention.attention
            attention.query.weight.mul_(SHARPNESS)
            attention.key.weight.copy_(attention.query.weight)
