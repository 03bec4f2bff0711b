"""RAR (arXiv 2411.00776, `bytedance/1d-tokenizer`): a next-token model that is trained in random orders and
draws in raster order.

The input is a start token, the class, and the tokens in order π; every token carries the embedding of its own
place and that of the place that is predicted next.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from visgen.decoding.base import DecodingStrategy
from visgen.errors import InputError
from visgen.generators.base import GenerationRequest, GenerationResult, OnStep
from visgen.generators.class_tokens import class_tokens, vocabulary_size
from visgen.generators.conditions import Condition
from visgen.generators.next_token import NextTokenGenerator, StrategyRequest
from visgen.generators.rar_blocks import RARBlock, RARHead
from visgen.generators.rar_session import RARSession
from visgen.nn.initial import init_matrices
from visgen.nn.model import VisgenModel
from visgen.nn.sampling import TokenSampling
from visgen.tokenizers.tokens import Grid, ImageTokens, Sequence1D

PREFIX = 2  # start token, class


class RARGenerator(VisgenModel, NextTokenGenerator):
    """Decoder-only transformer whose blocks are modulated by class and step.

    Args:
        grid: (h, w) of the tokens, or (n,) for tokens without a place in the image.
        codebook_size: V, ids.
        num_classes: classes.
        hidden_size, depth, num_heads, mlp_size: the transformer (B: 768, 24, 16, 3072).
        dropout: on both branches of a block, in training.

    Raises:
        InputError: heads that do not divide the width, or another grid.
    """

    @register_to_config
    def __init__(
        self,
        grid: tuple[int, ...] = (16, 16),
        codebook_size: int = 1024,
        num_classes: int = 1000,
        hidden_size: int = 768,
        depth: int = 24,
        num_heads: int = 16,
        mlp_size: int = 3072,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self._init_tuples()
        if num_heads < 1 or hidden_size % num_heads:
            raise InputError(f"num_heads={num_heads} must divide hidden_size={hidden_size}")
        if len(grid) not in (1, 2) or min(grid) < 1:
            raise InputError(f"grid={grid} must be (h, w), or (n,) for tokens without a place in the image")
        length = self.layout.length
        self.cls_token = nn.Parameter(torch.zeros(1, 1, hidden_size))
        self.embeddings = nn.Embedding(vocabulary_size(codebook_size, num_classes), hidden_size)
        self.place = nn.Parameter(torch.zeros(PREFIX + length, hidden_size))
        self.next_place = nn.Parameter(torch.zeros(length, hidden_size))
        self.step = nn.Parameter(torch.zeros(PREFIX + length, hidden_size))
        self.blocks = nn.ModuleList(RARBlock(hidden_size, num_heads, mlp_size, dropout) for _ in range(depth))
        self.head = RARHead(hidden_size, codebook_size)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """A truncated normal law of 0.02, zero biases; modulations zero, so that blocks start as the
        identity."""
        init_matrices(self, nn.init.trunc_normal_)
        for table in (self.cls_token, self.place, self.next_place, self.step):
            nn.init.trunc_normal_(table, std=0.02)
        for part in [*self.blocks, self.head]:
            nn.init.zeros_(part.modulation.weight)

    @property
    def layout(self) -> Grid | Sequence1D:
        """Token layout of one image."""
        sides = self.config.grid
        return Grid(*sides) if len(sides) == 2 else Sequence1D(*sides)

    @property
    def num_codes(self) -> int:
        """Ids per position."""
        return 1

    def _grid(self) -> tuple[int, int] | None:
        layout = self.layout
        return (layout.h, layout.w) if isinstance(layout, Grid) else None

    def class_vectors(self, condition: Condition) -> Tensor:
        """Embeddings (B, C) of the classes."""
        ids = class_tokens(condition.to(self.device), self.config.codebook_size, self.config.num_classes)
        return self.embeddings(ids)

    def next_places(self, places_BN: Tensor) -> Tensor:
        """Embeddings (B, N, C) of the places that are predicted next; zero for none, which is L or more."""
        last = len(self.next_place) - 1
        return self.next_place[places_BN.clamp_max(last)] * (places_BN <= last)[..., None]

    def forward(self, condition: Condition, ids_BL: Tensor, orders_BL: Tensor | None = None) -> Tensor:
        """Teacher-forced logits (B, L + 1, V) float32; the last ones, after all tokens, predict nothing.

        Args:
            ids_BL: in raster order.
            orders_BL: π: logits i predict the token at place π_i; None = raster order.
        """
        b, length = ids_BL.shape
        if orders_BL is None:
            orders_BL = torch.arange(length, device=ids_BL.device).expand(b, -1)
        vectors = self.class_vectors(condition)
        tokens = self.embeddings(ids_BL.gather(1, orders_BL))
        x = torch.cat([self.cls_token.expand(b, -1, -1), vectors[:, None], tokens], dim=1)
        places = torch.cat([self.place[:PREFIX].expand(b, -1, -1), self.place[PREFIX + orders_BL]], dim=1)
        ahead = self.next_places(F.pad(orders_BL, (0, 1), value=length))
        x = x + places + F.pad(ahead, (0, 0, 1, 0))
        steps = vectors[:, None] + self.step
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        for block in self.blocks:
            x = block(x, steps, mask=mask)
        return self.head(self.head.features(x[:, 1:], steps[:, 1:]))

    def loss(
        self,
        tokens: ImageTokens,
        condition: Condition,
        *,
        quantizer: object = None,
        random_share: float = 0.0,
        orders: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Mean cross-entropy ("loss") and the fraction predicted right ("accuracy").

        Args:
            random_share: probability that an image is read in a random order; the paper goes from 1 to 0 over
                the third quarter of training.
            orders: (B, L) permutations instead; None draws them.
        """
        ids = self.as_positions(tokens).squeeze(-1)
        orders = self.draw_orders(len(ids), random_share) if orders is None else orders
        orders = orders.to(ids.device)
        logits = self(condition, ids, orders)[:, :-1]
        targets = ids.gather(1, orders)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return {"loss": loss, "accuracy": (logits.argmax(-1) == targets).float().mean()}

    def draw_orders(self, rows: int, random_share: float, generator: torch.Generator | None = None) -> Tensor:
        """Orders (B, L): each row's random with probability `random_share`, else that of the raster."""
        if not 0 <= random_share <= 1:
            raise InputError(f"random_share={random_share} must be in [0, 1]")
        raster = torch.arange(self.layout.length).expand(rows, -1)
        random = torch.rand(rows, self.layout.length, generator=generator).argsort(dim=1)
        return torch.where(torch.rand(rows, 1, generator=generator) < random_share, random, raster)

    def as_positions(self, tokens: ImageTokens) -> Tensor:
        """Ids (B, L, 1) of tokens.

        Raises:
            InputError: another layout, sub-codes, latents, or a mask.
        """
        if tokens.ids is None or tokens.layout != self.layout or tokens.ids.ndim != 2:
            raise InputError(f"tokens of layout {tokens.layout} do not fit a generator of {self.layout}")
        if tokens.mask is not None and not bool(tokens.mask.all()):
            raise InputError("tokens: a mask that leaves tokens out does not fit a generator of fixed length")
        return tokens.ids.to(self.device)[..., None]

    def from_positions(self, ids_BLK: Tensor) -> ImageTokens:
        """The inverse of `as_positions`."""
        return ImageTokens(self.layout, ids=ids_BLK.squeeze(-1))

    @torch.no_grad()
    def generate(
        self,
        request: GenerationRequest,
        *,
        quantizer: Any = None,
        strategy: StrategyRequest | DecodingStrategy | str | None = None,
        on_step: OnStep | None = None,
    ) -> GenerationResult:
        """As every next-token generator does. The official code first draws once per image, whether its label
        were to be dropped in training, and what a seed gives depends on it."""
        request.noise.uniform(len(request.condition))
        return super().generate(request, quantizer=quantizer, strategy=strategy, on_step=on_step)

    def session(self, condition: Condition, sampling: TokenSampling, entries: int) -> RARSession:
        """A session of one batch; `entries` is the largest number of tokens fed at once."""
        return RARSession(self, condition, sampling, entries)
