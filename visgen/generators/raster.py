"""Next-token prediction of image tokens in raster order (LlamaGen, arXiv 2406.06525).

ELM's sub-codes (arXiv 2410.16257) and Token-Shuffle's windows (arXiv 2504.17789) are options of the model.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.generators.conditions import Condition
from visgen.generators.next_token import NextTokenGenerator
from visgen.generators.prefix import ClassPrefix, Prefix, PromptPrefix, TextPrefix
from visgen.generators.raster_session import RasterSession
from visgen.generators.token_io import (
    PlainTokens,
    ShuffledTokens,
    SubCodeTokens,
    TokenIO,
    from_windows,
    to_windows,
)
from visgen.nn.llama import LlamaBlock, RMSNorm, swiglu_size
from visgen.nn.model import VisgenModel
from visgen.nn.rope import PrefixRotation, Rotation, grid_rotation
from visgen.nn.sampling import TokenSampling
from visgen.nn.slot_cache import SlotCache
from visgen.tokenizers.tokens import Grid, ImageTokens


class RasterTransformer(VisgenModel, NextTokenGenerator):
    """Llama-style decoder over a condition and the tokens of a grid, row by row.

    Args:
        grid: (h, w) of the token grid.
        codebook_size: V, ids per code.
        num_codes: sub-codes per position (ELM), 1 for most tokenizers.
        window: s of Token-Shuffle: s × s tokens are read and written at once; 1 = off.
        shuffle_blocks: residual MLPs on each side of Token-Shuffle.
        condition: "class", "prompt" (word ids of an own vocabulary) or "text" (features of a text encoder).
        num_classes: classes, for "class".
        text_length: positions of the text prefix; text_vocab_size: words, for "prompt"; text_dim: width of
            the features, for "text".
        hidden_size, depth, num_heads, num_kv_heads, mlp_size, norm_eps, rope_base: the transformer
            (LlamaGen-B: 768, 12, 12). None: as many key as query heads; 8/3 of hidden_size, in 256s.
        qk_norm: RMSNorm on queries and keys.
        prefix_rotation: "zero" = queries and keys of the condition vanish, as in the official models: nothing
            attends to it selectively; "identity" = they are plain ones.
        prefix_attention: "causal", or "full": the condition's positions see each other.
        token_dropout, dropout: on input vectors and on both branches of a block; z_loss: weight of
            logsumexp². Training only.

    Raises:
        InputError: sizes that do not divide each other.
    """

    @register_to_config
    def __init__(
        self,
        grid: tuple[int, int] = (16, 16),
        codebook_size: int = 16384,
        num_codes: int = 1,
        window: int = 1,
        shuffle_blocks: int = 2,
        condition: Literal["class", "prompt", "text"] = "class",
        num_classes: int = 1000,
        text_length: int = 0,
        text_vocab_size: int = 0,
        text_dim: int = 0,
        hidden_size: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        num_kv_heads: int | None = None,
        mlp_size: int | None = None,
        norm_eps: float = 1e-5,
        rope_base: float = 10000.0,
        qk_norm: bool = False,
        prefix_rotation: PrefixRotation = "zero",
        prefix_attention: Literal["causal", "full"] = "causal",
        token_dropout: float = 0.0,
        dropout: float = 0.0,
        z_loss: float = 0.0,
    ) -> None:
        super().__init__()
        self._init_tuples()
        _check(self.config)
        self.prefix = _prefix(self.config)
        self.tokens = _token_io(self.config)
        self.blocks = nn.ModuleList(
            LlamaBlock(
                hidden_size,
                num_heads,
                num_kv_heads or num_heads,
                mlp_size or swiglu_size(hidden_size),
                norm_eps=norm_eps,
                qk_norm=qk_norm,
                dropout=dropout,
            )
            for _ in range(depth)
        )
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """N(0, 0.02) for matrices and tables; heads, and what makes residual MLPs the identity, zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
                if getattr(module, "bias", None) is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, RMSNorm):
                nn.init.ones_(module.weight)
        heads = self.tokens.head if isinstance(self.tokens, SubCodeTokens) else [self.tokens.head]
        for head in heads:
            nn.init.zeros_(head.weight)
        if isinstance(self.tokens, ShuffledTokens):
            for block in [*self.tokens.shuffle, *self.tokens.unshuffle]:
                nn.init.zeros_(block.fc2.weight)
        if isinstance(self.prefix, PromptPrefix):
            nn.init.normal_(self.prefix.text_pos, std=0.02)

    @property
    def layout(self) -> Grid:
        """Token layout of one image."""
        return Grid(*self.config.grid)

    @property
    def positions(self) -> tuple[int, int]:
        """(h, w) of the positions that are predicted one after another: the grid, or its windows."""
        h, w = self.config.grid
        return h // self.config.window, w // self.config.window

    @property
    def num_codes(self) -> int:
        """Ids per position: sub-codes, or s² of a window."""
        return self.tokens.num_codes

    def rotation(self, start: int, stop: int) -> Rotation:
        """Rotary tables of sequence positions start … stop − 1, condition first."""
        cos, sin = self._rotations()
        return cos[start:stop], sin[start:stop]

    def _rotations(self) -> Rotation:
        config = self.config
        # A compiler traces the function itself, and warns of the cache around it.
        make = grid_rotation.__wrapped__ if torch.compiler.is_compiling() else grid_rotation
        tables = make(
            self.positions,
            config.hidden_size // config.num_heads,
            config.rope_base,
            self.prefix.length,
            config.prefix_rotation,
        )
        return tables[0].to(self.device), tables[1].to(self.device)

    def prefix_mask(self, prefix: Prefix) -> Tensor:
        """Bool (B or 1, P, P): which condition positions see which; each sees itself."""
        length = prefix.embeddings.shape[1]
        seen = torch.ones(1, length, length, dtype=torch.bool, device=prefix.embeddings.device)
        if self.config.prefix_attention == "causal":
            seen = seen.tril()
        if prefix.visible is None:
            return seen
        own = torch.eye(length, dtype=torch.bool, device=seen.device)
        return (seen & prefix.visible[:, None]) | own

    def attention_mask(self, prefix: Prefix, length: int) -> Tensor:
        """Bool (B or 1, 1, P + L, P + L) for teacher forcing over `length` tokens."""
        total = prefix.embeddings.shape[1] + length
        device = prefix.embeddings.device
        start = total - length
        mask = torch.ones(1, total, total, dtype=torch.bool, device=device).tril()
        if prefix.visible is not None:
            mask = mask.repeat(len(prefix.visible), 1, 1)
            mask[:, :, :start] &= prefix.visible[:, None]
        mask[:, :start, :start] = self.prefix_mask(prefix)
        return mask[:, None]

    def run_blocks(
        self, x: Tensor, rotation: Rotation, *, mask: Tensor | None, cache: SlotCache | None = None
    ) -> Tensor:
        """All blocks over positions x (B, L, C)."""
        for layer, block in enumerate(self.blocks):
            x = block(x, rotation, mask=mask, cache=cache, layer=layer)
        return x

    def hidden_states(self, condition: Condition, ids_BNK: Tensor) -> Tensor:
        """States (B, P + N, C) in front of the final norm, over the condition and N positions of ids."""
        prefix = self.prefix(condition.to(self.device))
        x = torch.cat([prefix.embeddings, self.tokens.embed(ids_BNK)], dim=1)
        if self.config.token_dropout:
            x = F.dropout(x, self.config.token_dropout, self.training)
        mask = self.attention_mask(prefix, ids_BNK.shape[1])
        return self.run_blocks(x, self.rotation(0, x.shape[1]), mask=mask)

    def forward(self, condition: Condition, ids_BLK: Tensor) -> Tensor:
        """Teacher-forced logits (B, L, K, V) in float32 of positions of ids (B, L, K)."""
        hidden = self.hidden_states(condition, ids_BLK[:, :-1])
        return self.tokens.logits(self.tokens.features(hidden[:, self.prefix.length - 1 :]))

    def loss(
        self, tokens: ImageTokens, condition: Condition, *, quantizer: object = None
    ) -> dict[str, Tensor]:
        """Mean cross-entropy over all ids ("loss") and the fraction predicted right ("accuracy"); positions
        that the tokens' mask leaves out do not count."""
        ids = self.as_positions(tokens)
        logits = self(condition, ids)
        entropy = F.cross_entropy(logits.flatten(0, 2), ids.flatten(), reduction="none").view(ids.shape)
        weight = self._weights(tokens, ids)
        loss = (entropy * weight).sum() / weight.sum().clamp_min(1)
        if self.config.z_loss:
            loss = loss + self.config.z_loss * (logits.logsumexp(-1).square() * weight).sum() / weight.sum()
        right = ((logits.argmax(-1) == ids) * weight).sum() / weight.sum().clamp_min(1)
        return {"loss": loss, "accuracy": right}

    def _weights(self, tokens: ImageTokens, ids_BLK: Tensor) -> Tensor:
        if tokens.mask is None:
            return torch.ones_like(ids_BLK, dtype=torch.float32)
        return self.mask_positions(tokens.mask.to(ids_BLK.device)).expand_as(ids_BLK).float()

    def mask_positions(self, mask_BL: Tensor) -> Tensor:
        if self.config.window > 1:
            return to_windows(mask_BL, self.config.grid, self.config.window)
        return mask_BL[..., None]

    def as_positions(self, tokens: ImageTokens) -> Tensor:
        """Ids (B, L, K) of tokens, by position.

        Raises:
            InputError: another layout, or another number of sub-codes.
        """
        ids, config = tokens.ids, self.config
        if ids is None or tokens.layout != self.layout:
            raise InputError(f"tokens of layout {tokens.layout} do not fit a generator of {self.layout}")
        codes = 1 if ids.ndim == 2 else ids.shape[2]
        if codes != config.num_codes:
            raise InputError(f"tokens of {codes} codes per position do not fit num_codes={config.num_codes}")
        ids = ids.to(self.device)
        if config.window > 1:
            return to_windows(ids.view(len(ids), -1), config.grid, config.window)
        return ids.view(len(ids), -1, codes)

    def from_positions(self, ids_BLK: Tensor) -> ImageTokens:
        """The inverse of `as_positions`."""
        if self.config.window > 1:
            ids = from_windows(ids_BLK, self.config.grid, self.config.window)
        else:
            ids = ids_BLK if self.config.num_codes > 1 else ids_BLK.squeeze(-1)
        return ImageTokens(self.layout, ids=ids)

    def session(self, condition: Condition, sampling: TokenSampling, entries: int) -> RasterSession:
        """A session of one batch; `entries` is the largest number of tokens fed at once."""
        return RasterSession(self, condition, sampling, entries)


def _check(config: Any) -> None:
    heads, kv_heads = config.num_heads, config.num_kv_heads or config.num_heads
    if config.hidden_size % (4 * heads):
        raise InputError(
            f"hidden_size={config.hidden_size} must be a multiple of 4 · num_heads={4 * heads}: rotary "
            "embeddings over a grid turn pairs for rows and for columns"
        )
    if heads % kv_heads:
        raise InputError(f"num_heads={heads} must be a multiple of num_kv_heads={kv_heads}")
    s = config.window
    if s < 1 or any(side % s for side in config.grid) or config.hidden_size % s**2:
        raise InputError(
            f"window={s} must divide both sides of grid={config.grid}, and its square hidden_size"
        )
    if s > 1 and config.num_codes > 1:
        raise InputError(f"window={s} and num_codes={config.num_codes} cannot both be above 1")
    if config.condition not in ("class", "prompt", "text"):
        raise InputError(f"condition={config.condition!r} must be class, prompt or text")


def _prefix(config: Any) -> ClassPrefix | PromptPrefix | TextPrefix:
    if config.condition == "class":
        return ClassPrefix(config.num_classes, config.hidden_size)
    if config.condition == "prompt":
        return PromptPrefix(config.text_vocab_size, config.text_length, config.hidden_size)
    return TextPrefix(config.text_dim, config.text_length, config.hidden_size)


def _token_io(config: Any) -> TokenIO:
    size, width, eps = config.codebook_size, config.hidden_size, config.norm_eps
    if config.window > 1:
        return ShuffledTokens(size, config.window**2, width, eps, config.shuffle_blocks)
    return (
        SubCodeTokens(size, config.num_codes, width, eps)
        if config.num_codes > 1
        else PlainTokens(size, width, eps)
    )
