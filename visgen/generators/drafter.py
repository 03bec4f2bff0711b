"""Drafters of speculative decoding in EAGLE's layout (arXiv 2401.15077; LANTERN, 2410.03355).

A drafter guesses a target model's next final hidden state from its last one and the token that was drawn from
it; the target's own head turns the guess into logits. So it is one small layer, and learns by regression.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.nn.llama import LlamaBlock
from visgen.nn.model import VisgenModel
from visgen.nn.rope import PrefixRotation, Rotation, grid_rotation
from visgen.nn.slot_cache import SlotCache


class HeadNorm(nn.Module):
    """Layer norm over the channels of a head, scale and shift per head (Chameleon, arXiv 2405.09818)."""

    def __init__(self, num_heads: int, head_size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_heads, head_size))
        self.bias = nn.Parameter(torch.zeros(num_heads, head_size))

    def forward(self, x_BHLD: Tensor) -> Tensor:
        return (
            F.layer_norm(x_BHLD, x_BHLD.shape[-1:], eps=self.eps) * self.weight[:, None] + self.bias[:, None]
        )


class Drafter(VisgenModel):
    """`fc([E(x_{t+1}); f_t])`, decoder layers, no final norm: an estimate of f_{t+1}.

    Input t pairs the final hidden state f_t of the target with the embedding of the token after it, so a
    sequence of P condition positions and L tokens has P − 1 + L inputs, of which P − 1 are the condition's.

    Args:
        hidden_size: of the target.
        mlp_size, depth, num_heads, num_kv_heads, norm_eps, dropout: layers of the target's family.
        fc_bias: whether the first linear layer has a bias.
        first_norm: whether layer 0 has an input norm (LlamaGen's drafter has none, Chameleon's has).
        qk_norm: on queries and keys of a head: "none", "rms" (`RMSNorm`) or "layer" (`HeadNorm`).
        rope: "grid" = rotary of a token grid, as in `RasterTransformer`; "line" = of the plain index.
        rope_base: base of the rotary frequencies.
        grid: (h, w) of the positions, for "grid".
        prefix_length: inputs in front of the first token's, P − 1, and how they are turned, for "grid".
        vocab_size: rows of an embedding table of its own, as in the official files; 0 = the target's is used.

    Raises:
        InputError: sizes that do not divide each other.
    """

    @register_to_config
    def __init__(
        self,
        hidden_size: int = 1280,
        mlp_size: int = 3584,
        depth: int = 1,
        num_heads: int = 20,
        num_kv_heads: int = 20,
        norm_eps: float = 1e-6,
        fc_bias: bool = True,
        first_norm: bool = False,
        qk_norm: Literal["none", "rms", "layer"] = "none",
        rope: Literal["grid", "line"] = "grid",
        rope_base: float = 10000.0,
        grid: tuple[int, int] = (16, 16),
        prefix_length: int = 119,
        prefix_rotation: PrefixRotation = "zero",
        vocab_size: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self._init_tuples()
        _check(hidden_size, num_heads, num_kv_heads)
        if vocab_size:
            self.embedding = nn.Embedding(vocab_size, hidden_size)
        self.fc = nn.Linear(2 * hidden_size, hidden_size, bias=fc_bias)
        self.layers = nn.ModuleList(self._layer(first_norm or index > 0) for index in range(depth))

    def _layer(self, input_norm: bool) -> LlamaBlock:
        config = self.config
        block = LlamaBlock(
            config.hidden_size,
            config.num_heads,
            config.num_kv_heads,
            config.mlp_size,
            norm_eps=config.norm_eps,
            qk_norm=config.qk_norm == "rms",
            dropout=config.dropout,
        )
        if not input_norm:
            block.norm1 = nn.Identity()  # type: ignore[assignment]
        if config.qk_norm == "layer":
            size = config.hidden_size // config.num_heads
            block.attn.q_norm = HeadNorm(config.num_heads, size)  # type: ignore[assignment]
            block.attn.k_norm = HeadNorm(config.num_kv_heads, size)  # type: ignore[assignment]
        return block

    @torch.no_grad()
    def init_weights(self) -> None:
        """Random weights that pass the last hidden state on: normal of deviation 0.02 around that."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        size = self.config.hidden_size
        self.fc.weight[:, size:] += torch.eye(size)

    def forward(
        self,
        embeddings_RNC: Tensor,
        hidden_RNC: Tensor,
        positions_RN: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        cache: SlotCache | None = None,
    ) -> Tensor:
        """Estimates (R, N, C) of the target's next final hidden states.

        Args:
            embeddings_RNC: embeddings of the tokens x_{t+1}.
            hidden_RNC: final hidden states f_t of the target, or estimates of them.
            positions_RN: int64 index t of each input; None = 0, 1, 2, …
            mask: bool (R or 1, 1, N, …), True = may attend; with neither mask nor cache, causal.
            cache: filled and read; its owner has called `begin`, whose mask this is.
        """
        r, n = hidden_RNC.shape[:2]
        if positions_RN is None:
            positions_RN = torch.arange(n, device=hidden_RNC.device).expand(r, n)
        if cache is None and mask is None:
            mask = torch.ones(n, n, dtype=torch.bool, device=hidden_RNC.device).tril()
        rotation = self._rotation(positions_RN)
        x = self.fc(torch.cat([embeddings_RNC, hidden_RNC], dim=-1))
        for index, layer in enumerate(self.layers):
            x = layer(x, rotation, mask=mask, cache=cache, layer=index)
        return x

    def _rotation(self, positions_RN: Tensor) -> Rotation:
        config = self.config
        size = config.hidden_size // config.num_heads
        if config.rope == "grid":
            tables = grid_rotation(
                config.grid, size, config.rope_base, config.prefix_length, config.prefix_rotation
            )
            index = positions_RN.clamp(max=len(tables[0]) - 1)  # beyond the end as the last: never used
            return tables[0].to(index.device)[index], tables[1].to(index.device)[index]
        frequencies = config.rope_base ** (
            -torch.arange(0, size, 2, device=positions_RN.device).float() / size
        )
        angles = positions_RN[..., None] * frequencies
        return angles.cos(), angles.sin()

    def session(self, target: Any, entries: int) -> Any:
        """A `DrafterSession` beside a target's session.

        Args:
            target: the session that is drafted for, a `DraftTarget`.
            entries: drafted inputs that the cache must hold beyond the decided tokens.

        Raises:
            InputError: a target of another width, or one without final hidden states.
        """
        from visgen.generators.drafter_session import DrafterSession

        return DrafterSession.beside(self, target, entries)


def drafter_loss(
    predicted_BLC: Tensor, target_BLC: Tensor, head: Any, *, law_weight: float = 0.1
) -> dict[str, Tensor]:
    """EAGLE's loss over positions: SmoothL1 of hidden states + `law_weight` × soft cross-entropy of laws.

    Args:
        predicted_BLC, target_BLC: estimates and the target's final hidden states, where they count.
        head: frozen map from hidden states to logits (…, V).

    Returns:
        "loss" = their sum, "regression", "cross_entropy", and "overlap": mean Σ min(p, q), the probability
        that a draft drawn from the estimate's law would be accepted.
    """
    regression = F.smooth_l1_loss(predicted_BLC.float(), target_BLC.float())
    found = head(predicted_BLC).float().log_softmax(dim=-1)
    with torch.no_grad():
        wanted = head(target_BLC).float().softmax(dim=-1)
    cross_entropy = -(wanted * found).sum(dim=-1).mean()
    overlap = torch.minimum(wanted, found.detach().exp()).sum(dim=-1).mean()
    return {
        "loss": regression + law_weight * cross_entropy,
        "regression": regression.detach(),
        "cross_entropy": cross_entropy.detach(),
        "overlap": overlap,
    }


def _check(hidden_size: int, num_heads: int, num_kv_heads: int) -> None:
    if hidden_size % (4 * num_heads):
        raise InputError(
            f"hidden_size={hidden_size} must be a multiple of 4 · num_heads={4 * num_heads}: rotary "
            "embeddings turn pairs for rows and for columns"
        )
    if num_heads % num_kv_heads:
        raise InputError(f"num_heads={num_heads} must be a multiple of num_kv_heads={num_kv_heads}")
