"""Next-token prediction of image tokens in raster order (LlamaGen, arXiv 2406.06525), or along a 1-D sequence
from coarse to fine (FlexTok, arXiv 2502.13967), which may stop early.

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
from visgen.generators.prefix import ClassPrefix, CrossPrefix, Prefix, PromptPrefix, TextPrefix
from visgen.generators.raster_session import RasterSession
from visgen.generators.token_io import (
    PlainTokens,
    ShuffledTokens,
    SubCodeTokens,
    TokenIO,
    from_windows,
    to_windows,
)
from visgen.nn.cross_llama import CrossLlamaBlock, TextKeys
from visgen.nn.initial import init_matrices
from visgen.nn.llama import LlamaBlock, RMSNorm, swiglu_size
from visgen.nn.model import VisgenModel
from visgen.nn.rope import PrefixRotation, Rotation, grid_rotation, line_rotation
from visgen.nn.sampling import TokenSampling
from visgen.tokenizers.tokens import Grid, ImageTokens, Layout, Sequence1D


class RasterTransformer(VisgenModel, NextTokenGenerator):
    """Llama-style decoder over a condition and the tokens of a grid, row by row, or of a sequence.

    FlexTok's models have 64 channels per block, in heads of 64: hidden_size = 64 · depth, num_heads = depth.

    Args:
        grid: (h, w) of the token grid; None for a sequence.
        length: tokens of a sequence, with rotary embeddings of the plain index; None for a grid.
        codebook_size: V, ids per code.
        num_codes: sub-codes per position (ELM), 1 for most tokenizers.
        window: s of Token-Shuffle: s × s tokens are read and written at once; 1 = off.
        shuffle_blocks: residual MLPs on each side of Token-Shuffle.
        condition: "class", "prompt" (word ids of an own vocabulary) or "text" (features of a text encoder).
        num_classes: classes, for "class".
        text_length: positions of the text prefix; text_vocab_size: words, for "prompt"; text_dim: width of
            the features, for "text".
        text_conditioning: "prefix" = the text stands in front of the tokens; "cross" = every block reads it
            by cross-attention (FlexTok's text models), behind one learned position.
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
        grid: tuple[int, int] | None = (16, 16),
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
        length: int | None = None,
        text_conditioning: Literal["prefix", "cross"] = "prefix",
    ) -> None:
        super().__init__()
        self._init_tuples()
        _check(self.config)
        self.prefix = _prefix(self.config)
        self.tokens = _token_io(self.config)
        block = CrossLlamaBlock if text_conditioning == "cross" else LlamaBlock
        self.blocks = nn.ModuleList(
            block(
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
        init_matrices(self, nn.init.normal_)
        for module in self.modules():
            if isinstance(module, RMSNorm):
                nn.init.ones_(module.weight)
        heads = self.tokens.head if isinstance(self.tokens, SubCodeTokens) else [self.tokens.head]
        for head in heads:
            nn.init.zeros_(head.weight)
        if isinstance(self.tokens, ShuffledTokens):
            for block in [*self.tokens.shuffle, *self.tokens.unshuffle]:
                nn.init.zeros_(block.fc2.weight)
        for module in self.prefix.modules():
            if isinstance(module, PromptPrefix):
                nn.init.normal_(module.text_pos, std=0.02)
            elif isinstance(module, CrossPrefix):
                nn.init.normal_(module.start, std=0.02)

    @property
    def layout(self) -> Grid | Sequence1D:
        """Token layout of one image, of all its tokens."""
        return Grid(*self.config.grid) if self.config.grid else Sequence1D(self.config.length)

    @property
    def most_tokens(self) -> int | None:
        """Tokens of a sequence, which may stop early; None for a grid, which may not."""
        return None if self.config.grid else self.config.length

    @property
    def positions(self) -> tuple[int, int]:
        """(h, w) of the positions that are predicted one after another: the grid, or its windows; a sequence
        is one row."""
        if not self.config.grid:
            return 1, self.config.length
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
        shape = config.hidden_size // config.num_heads, config.rope_base
        make: Any = grid_rotation if config.grid else line_rotation
        # A compiler traces the function itself, and warns of the cache around it.
        make = make.__wrapped__ if torch.compiler.is_compiling() else make
        where = self.positions if config.grid else config.length
        tables = make(where, *shape, self.prefix.length, config.prefix_rotation)
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

    def text_keys(self, prefix: Prefix) -> list[dict[str, TextKeys]]:
        """What each block reads by cross-attention, as a keyword of its call; empty without a text."""
        if prefix.text is None:
            return [{}] * len(self.blocks)
        mask = None if prefix.words is None else prefix.words[:, None, None]
        return [{"text": block.cross.read(prefix.text, mask)} for block in self.blocks]

    def run_blocks(self, x: Tensor, rotation: Rotation, prefix: Prefix, *, mask: Tensor | None) -> Tensor:
        """All blocks over positions x (B, L, C)."""
        for block, text in zip(self.blocks, self.text_keys(prefix), strict=True):
            x = block(x, rotation, mask=mask, **text)
        return x

    def hidden_states(self, condition: Condition, ids_BNK: Tensor) -> Tensor:
        """States (B, P + N, C) in front of the final norm, over the condition and N positions of ids."""
        prefix = self.prefix(condition.to(self.device))
        x = torch.cat([prefix.embeddings, self.tokens.embed(ids_BNK)], dim=1)
        if self.config.token_dropout:
            x = F.dropout(x, self.config.token_dropout, self.training)
        mask = self.attention_mask(prefix, ids_BNK.shape[1])
        return self.run_blocks(x, self.rotation(0, x.shape[1]), prefix, mask=mask)

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
        if ids is None or not self._fits(tokens.layout):
            raise InputError(f"tokens of layout {tokens.layout} do not fit a generator of {self.layout}")
        codes = 1 if ids.ndim == 2 else ids.shape[2]
        if codes != config.num_codes:
            raise InputError(f"tokens of {codes} codes per position do not fit num_codes={config.num_codes}")
        ids = ids.to(self.device)
        if config.window > 1:
            return to_windows(ids.view(len(ids), -1), config.grid, config.window)
        return ids.view(len(ids), -1, codes)

    def _fits(self, layout: Layout) -> bool:
        """Whether it is this model's layout, or the beginning of its sequence."""
        most = self.most_tokens
        return layout == self.layout or (
            most is not None and isinstance(layout, Sequence1D) and 1 <= layout.n <= most
        )

    def from_positions(self, ids_BLK: Tensor) -> ImageTokens:
        """The inverse of `as_positions`."""
        if self.config.window > 1:
            ids = from_windows(ids_BLK, self.config.grid, self.config.window)
        else:
            ids = ids_BLK if self.config.num_codes > 1 else ids_BLK.squeeze(-1)
        layout = self.layout if self.config.grid else Sequence1D(ids.shape[1])
        return ImageTokens(layout, ids=ids)

    def session(
        self, condition: Condition, sampling: TokenSampling, entries: int, length: int | None = None
    ) -> RasterSession:
        """A session of one batch.

        Args:
            entries: the largest number of tokens fed at once.
            length: positions to draw; None = all.
        """
        return RasterSession(self, condition, sampling, entries, length)

    def _grid(self) -> tuple[int, int] | None:
        return self.positions if self.config.grid else None


def _check(config: Any) -> None:
    if (config.grid is None) == (config.length is None):
        raise InputError(f"give exactly one of grid={config.grid} and length={config.length}")
    if config.length is not None and config.length < 1:
        raise InputError(f"length={config.length} must be 1 or more")
    _check_heads(config)
    s = config.window
    if s < 1 or any(side % s for side in config.grid or (1,)) or config.hidden_size % s**2:
        raise InputError(
            f"window={s} must divide both sides of grid={config.grid}, and its square hidden_size"
        )
    if s > 1 and config.num_codes > 1:
        raise InputError(f"window={s} and num_codes={config.num_codes} cannot both be above 1")
    if config.condition not in ("class", "prompt", "text"):
        raise InputError(f"condition={config.condition!r} must be class, prompt or text")
    if config.text_conditioning not in ("prefix", "cross"):
        raise InputError(f"text_conditioning={config.text_conditioning!r} must be prefix or cross")
    if config.text_conditioning == "cross" and config.condition == "class":
        raise InputError("text_conditioning='cross' needs a text; with condition='class' leave it out")


def _check_heads(config: Any) -> None:
    heads, kv_heads = config.num_heads, config.num_kv_heads or config.num_heads
    if config.grid and config.hidden_size % (4 * heads):
        raise InputError(
            f"hidden_size={config.hidden_size} must be a multiple of 4 · num_heads={4 * heads}: rotary "
            "embeddings over a grid turn pairs for rows and for columns"
        )
    if config.hidden_size % (2 * heads):
        raise InputError(
            f"hidden_size={config.hidden_size} must be a multiple of 2 · num_heads={2 * heads}: rotary "
            "embeddings turn pairs"
        )
    if heads % kv_heads:
        raise InputError(f"num_heads={heads} must be a multiple of num_kv_heads={kv_heads}")


def _prefix(config: Any) -> ClassPrefix | PromptPrefix | TextPrefix | CrossPrefix:
    if config.condition == "class":
        return ClassPrefix(config.num_classes, config.hidden_size)
    text: PromptPrefix | TextPrefix
    if config.condition == "prompt":
        text = PromptPrefix(config.text_vocab_size, config.text_length, config.hidden_size)
    else:
        text = TextPrefix(config.text_dim, config.text_length, config.hidden_size)
    return CrossPrefix(text, config.hidden_size) if config.text_conditioning == "cross" else text


def _token_io(config: Any) -> TokenIO:
    size, width, eps = config.codebook_size, config.hidden_size, config.norm_eps
    if config.window > 1:
        return ShuffledTokens(size, config.window**2, width, eps, config.shuffle_blocks)
    return (
        SubCodeTokens(size, config.num_codes, width, eps)
        if config.num_codes > 1
        else PlainTokens(size, width, eps)
    )
