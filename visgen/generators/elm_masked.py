"""ELM's masked transformer (arXiv 2410.16257, section 3): all tokens are predicted at once, the surest are
kept, the others are masked again.

It is the Llama-style transformer of the next-token models with full attention. The sub-codes of a position
are positions of their own in the sequence, and share one table of embeddings with the mask.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.generators.base import (
    GenerationRequest,
    GenerationResult,
    GenerationStep,
    OnStep,
)
from visgen.generators.conditions import Condition
from visgen.generators.masked import MaskedGenerator
from visgen.generators.prefix import ClassPrefix
from visgen.nn.guidance import guidance_at, guide, step_position
from visgen.nn.initial import init_matrices
from visgen.nn.llama import LlamaBlock, RMSNorm
from visgen.nn.masking import MaskedSampling, draw_masked, masked_again
from visgen.nn.rope import grid_rotation
from visgen.nn.sampling import TokenSampling
from visgen.tokenizers.tokens import Grid, ImageTokens


class MaskedHead(nn.Module):
    """Linear, GELU, LayerNorm, product with the embedding table, bias."""

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__()
        self.fc = nn.Linear(hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, eps=1e-5)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, x: Tensor, table_VC: Tensor) -> Tensor:
        return F.linear(self.norm(F.gelu(self.fc(x))), table_VC, self.bias)


class ELMMaskedTransformer(MaskedGenerator):
    """Masked transformer over a grid of tokens, conditioned on a class.

    Args:
        grid: (h, w) of the token grid.
        codebook_size: V, ids of a sub-code; id V is the mask.
        num_codes: K, sub-codes per position.
        hidden_size, depth, num_heads, mlp_size, norm_eps, rope_base: the transformer (L: 1024, 24, 16, 2816).
        num_classes: classes.
        label_smoothing: of the training loss.
    """

    @register_to_config
    def __init__(
        self,
        grid: tuple[int, int] = (16, 16),
        codebook_size: int = 65536,
        num_codes: int = 1,
        hidden_size: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        mlp_size: int = 2816,
        norm_eps: float = 1e-5,
        rope_base: float = 10000.0,
        num_classes: int = 1000,
        label_smoothing: float = 0.1,
    ) -> None:
        super().__init__()
        self._init_tuples()
        if hidden_size % (4 * num_heads):
            raise InputError(f"hidden_size={hidden_size} must be a multiple of 4 · num_heads={num_heads}")
        self.condition = ClassPrefix(num_classes, hidden_size)
        self.embed = nn.Embedding(codebook_size + 1, hidden_size)
        self.blocks = nn.ModuleList(
            LlamaBlock(hidden_size, num_heads, num_heads, mlp_size, norm_eps=norm_eps) for _ in range(depth)
        )
        self.norm = RMSNorm(hidden_size, norm_eps)
        self.head = MaskedHead(hidden_size, codebook_size + 1)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Random weights as in the official code: N(0, 0.02)."""
        init_matrices(self, nn.init.normal_)

    @property
    def layout(self) -> Grid:
        """Token layout of one image."""
        return Grid(*self.config.grid)

    def forward(self, condition: Condition, ids_BLK: Tensor) -> Tensor:
        """Logits (B, L, K, V) float32 of all tokens from ids, `mask_id` where they are to be predicted."""
        codes = self.config.num_codes
        start = self.condition(condition.to(self.device)).embeddings.repeat_interleave(codes, dim=1)
        x = torch.cat([start, self.embed(ids_BLK.flatten(1))], dim=1)
        tables = grid_rotation(
            self.config.grid,
            self.config.hidden_size // self.config.num_heads,
            self.config.rope_base,
            1,
            "zero",
        )
        cos, sin = (table.repeat_interleave(codes, dim=0).to(x.device) for table in tables)
        for block in self.blocks:
            x = block(x, (cos, sin))
        logits = self.head(self.norm(x[:, codes:]), self.embed.weight.detach())
        return logits[..., :-1].float().unflatten(1, (-1, codes))

    def loss(
        self,
        tokens: ImageTokens,
        condition: Condition,
        *,
        quantizer: object = None,
        masked: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Cross-entropy with label smoothing over the masked tokens ("loss"), and how many are right.

        `masked` (B, L) bool, True = to be predicted; None draws it: one rate cos(π/2 · u) for the batch, u
        uniform, and positions of each image at random.
        """
        ids = self._ids(tokens)
        if masked is None:
            masked = self._draw_mask(len(ids))
        masked = masked.to(ids.device)[:, :, None].expand_as(ids)
        logits = self(condition, ids.masked_fill(masked, self.mask_id))[masked]
        loss = F.cross_entropy(logits, ids[masked], label_smoothing=self.config.label_smoothing)
        return {"loss": loss, "accuracy": (logits.argmax(-1) == ids[masked]).float().mean()}

    def _draw_mask(self, rows: int) -> Tensor:
        count = max(1, int(self.layout.length * math.cos(math.pi / 2 * float(torch.rand(())))))
        order = torch.rand(rows, self.layout.length).argsort(dim=1)
        return order < count

    def _ids(self, tokens: ImageTokens) -> Tensor:
        """Ids (B, L, K) of tokens that fit."""
        codes = self.config.num_codes
        ids = None if tokens.ids is None else tokens.ids.view(*tokens.ids.shape[:2], -1)
        if tokens.layout != self.layout or ids is None or ids.shape[2] != codes:
            raise InputError(
                f"tokens of layout {tokens.layout} do not fit a generator of {self.layout}, {codes} sub-codes"
            )
        return ids.to(self.device)

    @torch.no_grad()
    def generate(
        self,
        request: GenerationRequest,
        *,
        quantizer: object = None,
        strategy: object = None,
        on_step: OnStep | None = None,
    ) -> GenerationResult:
        """Generate a batch in `num_inference_steps` passes.

        `known` tokens of the request are given from the start. A plain `TokenSampling` means the defaults of
        `MaskedSampling` for the rest.

        Raises:
            InputError: a strategy (only next-token models take one), another layout, or `known` that do not
                fit.
        """
        self.check_request(request, strategy)
        sampling = request.sampling
        steps = getattr(sampling, "num_inference_steps", MaskedSampling.num_inference_steps)
        ids = self._start(request)
        for step in range(steps):
            position = step_position(sampling.guidance_schedule, step, steps)
            logits = self._guided(request.condition, ids, sampling, position)
            drawn, sure = draw_masked(logits, ids, self.mask_id, request.noise, sampling)
            if on_step is not None:
                on_step(GenerationStep(step, steps, self._values(drawn), None, logits))
            temperature = getattr(sampling, "choice_temperature", MaskedSampling.choice_temperature)
            gumbel = -request.noise.exponential(*sure.shape[:2], device=sure.device).log()
            ratio = (step + 1) / steps
            again = masked_again(sure.mean(-1) + temperature * (1 - ratio) * gumbel, ratio)
            ids = drawn.masked_fill(again[:, :, None], self.mask_id)
        tokens = ImageTokens(self.layout, ids=self._values(drawn))
        return GenerationResult(tokens, {"passes": steps, "tokens": self.layout.length})

    def _values(self, ids_BLK: Tensor) -> Tensor:
        return ids_BLK.squeeze(-1) if self.config.num_codes == 1 else ids_BLK

    def _start(self, request: GenerationRequest) -> Tensor:
        """Ids (B, L, K), masked where they are to be made."""
        shape = (len(request.condition), self.layout.length, self.config.num_codes)
        ids = torch.full(shape, self.mask_id, device=self.device)
        if request.known is None:
            return ids
        tokens, keep = request.known
        if keep.ndim != 3 or tuple(keep.shape[1:]) != tuple(self.config.grid):
            raise InputError(f"known: keep_mask {tuple(keep.shape)} must be (B or 1, *{self.config.grid})")
        return torch.where(keep.to(self.device).flatten(1)[..., None], self._ids(tokens), ids)

    def _guided(self, condition: Condition, ids: Tensor, sampling: TokenSampling, position: float) -> Tensor:
        scale = guidance_at(sampling.guidance_scale, sampling.guidance_schedule, position)
        logits = self(condition, ids)
        return logits if scale == 1.0 else guide(logits, self(condition.unconditional(), ids), scale)
