"""TokenFLEX (arXiv 2504.03154): a projector that gives a picture any square number of visual tokens.

The paper publishes no code. Norm and width of the SwiGLU block are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.nn.llama import SwiGLU
from visgen.nn.model import VisgenModel
from visgen.nn.noise import Noise


class TokenFlexProjector(VisgenModel):
    """Average pooling to n × n, then norm and SwiGLU to the language model's width, no residual.

    Args:
        vision_size: width of the vision features.
        text_size: width of the language model.
        ratio: hidden width of SwiGLU over `vision_size`.
        token_counts: square numbers that training draws from; any other square works too.

    Raises:
        InputError: a token count that is no square.
    """

    @register_to_config
    def __init__(
        self,
        vision_size: int = 1024,
        text_size: int = 4096,
        ratio: float = 4.0,
        token_counts: Sequence[int] = (64, 144, 256),
    ) -> None:
        super().__init__()
        self._init_tuples()
        for count in token_counts:
            square_side(count)
        self.norm = nn.LayerNorm(vision_size)
        hidden_size = int(ratio * vision_size)
        self.ffn = SwiGLU(vision_size, hidden_size)
        self.ffn.down = nn.Linear(hidden_size, text_size, bias=False)  # to another width than it came from

    def forward(
        self, features_BNC: Tensor, num_tokens: int | None = None, *, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """(B, num_tokens, D) visual tokens.

        Args:
            features_BNC: patches in raster order, without CLS.
            num_tokens: a square number; None = the largest of `token_counts`.
            grid: rows and columns of the patches; None = a square.

        Raises:
            InputError: no square number, or patches that do not fill the grid.
        """
        side = square_side(num_tokens or max(self.config.token_counts))
        return self.ffn(self.norm(pooled(features_BNC, side, grid)))

    def draw_count(self, noise: Noise, weights: Sequence[float] | None = None) -> int:
        """The number of tokens of a training step, the same for its whole batch.

        Args:
            noise: of one row.
            weights: of `token_counts`, not negative; None = equal ones.

        Raises:
            InputError: weights that are not one for each count.
        """
        counts = self.config.token_counts
        weights = [1.0] * len(counts) if weights is None else weights
        if len(weights) != len(counts) or min(weights) < 0 or not sum(weights) > 0:
            raise InputError(f"weights={tuple(weights)} must be {len(counts)} numbers ≥ 0, not all of them 0")
        return counts[int(noise.categorical(torch.tensor([[list(weights)]])))]


def pooled(features_BNC: Tensor, side: int, grid: tuple[int, int] | None = None) -> Tensor:
    """(B, side², C): means over side × side regions of the grid; the grid itself where it is as large."""
    b, n, c = features_BNC.shape
    rows, columns = grid or (math.isqrt(n), math.isqrt(n))
    if rows * columns != n:
        raise InputError(f"grid={grid} does not hold {n} patches; give their rows and columns")
    map_BCHW = features_BNC.mT.reshape(b, c, rows, columns)
    return F.adaptive_avg_pool2d(map_BCHW, side).flatten(2).mT


def square_side(count: int) -> int:
    """The side of a square of tokens.

    Raises:
        InputError: `count` is no square number.
    """
    side = math.isqrt(max(count, 0))
    if side == 0 or side**2 != count:
        raise InputError(f"num_tokens={count} is no square number; use one such as 64, 144 or 256")
    return side
