"""VAR: next-scale prediction (arXiv 2404.02905). All tokens of a scale are predicted at once from the scales
before.

Conditioned on a class (the paper) or on text: a prefix of text positions, which every scale attends to.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.generators.base import GenerationRequest, GenerationResult, ImageGenerator, OnStep
from visgen.generators.conditions import ClassCondition, Condition, PromptCondition, TextCondition
from visgen.generators.var_sampling import NextScaleRun
from visgen.nn.adaln import AdaLNBlock, AdaLNHead, Linear32, Modulation, ModulationKind
from visgen.nn.cache import KVCache
from visgen.nn.initial import init_matrices
from visgen.nn.model import VisgenModel
from visgen.nn.quantizers.multiscale import MultiScaleVQ
from visgen.tokenizers.tokens import ImageTokens, Scales


class VARTransformer(VisgenModel, ImageGenerator):
    """Next-scale transformer.

    Args:
        scales: sides of the id maps, as in the tokenizer.
        codebook_size, latent_channels: V and C of the tokenizer's codebook.
        hidden_size, depth, num_heads, mlp_ratio, norm_eps: the transformer (VAR-d16: 1024, 16, 16, 4, 1e-6).
        modulation: adaptive layer norm "per_block", "shared" or "constant", see `AdaLNBlock`.
        qk_norm: unit-length q and k with a learned scale.
        condition: "class", "prompt" (word ids of an own vocabulary) or "text" (features of a text encoder).
        num_classes: classes, for "class".
        text_length: positions of the text prefix, for "prompt" and "text".
        text_vocab_size: words, for "prompt"; `text_dim`: width of the features, for "text".
        drop_path: largest branch-drop probability, linear over depth (training only).
    """

    @register_to_config
    def __init__(
        self,
        scales: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
        codebook_size: int = 4096,
        latent_channels: int = 32,
        hidden_size: int = 1024,
        depth: int = 16,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-6,
        modulation: ModulationKind = "per_block",
        qk_norm: bool = True,
        condition: Literal["class", "prompt", "text"] = "class",
        num_classes: int = 1000,
        text_length: int = 0,
        text_vocab_size: int = 0,
        text_dim: int = 0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self._init_tuples()
        _check(hidden_size, num_heads, modulation, condition)
        layout, c = self.layout, hidden_size
        self.pos_start = nn.Parameter(torch.zeros(1, layout.lengths[0], c))
        self.pos_1LC = nn.Parameter(torch.zeros(1, layout.length, c))
        self.lvl_embed = nn.Embedding(len(layout.sizes), c)
        self.word_embed = Linear32(latent_channels, c)
        self._init_condition()
        if modulation == "shared":
            self.shared_modulation = nn.Linear(c, 6 * c)
        rates = torch.linspace(0, drop_path, depth).tolist() if drop_path else [0.0] * depth
        self.blocks = nn.ModuleList(
            AdaLNBlock(
                c,
                num_heads,
                round(c * mlp_ratio),
                modulation=modulation,
                qk_norm=qk_norm,
                norm_eps=norm_eps,
                drop_path=rate,
            )
            for rate in rates
        )
        self.head_norm = AdaLNHead(c, modulation=modulation, norm_eps=norm_eps)
        self.head = Linear32(c, codebook_size)
        self.init_weights()

    def _init_condition(self) -> None:
        config, c = self.config, self.config.hidden_size
        if config.condition == "class":
            self.class_emb = nn.Embedding(config.num_classes + 1, c)  # the last row is unconditional
            return
        self.text_pos = nn.Parameter(torch.zeros(1, config.text_length, c))
        self.text_null = nn.Parameter(torch.zeros(1, 1, c))  # stands at every masked position
        if config.condition == "prompt":
            self.text_emb = nn.Embedding(config.text_vocab_size, c)
        else:
            self.text_proj = nn.Linear(config.text_dim, c)

    @torch.no_grad()
    def init_weights(self, gamma: float = 1e-3) -> None:
        """Random weights as in VAR's trainer; `gamma` scales the initial residual gates of adaptive layer
        norms."""
        depth, std = self.config.depth, math.sqrt(1 / (3 * self.config.hidden_size))
        init_matrices(self, nn.init.trunc_normal_, std)
        for parameter in (
            getattr(self, name, None) for name in ("pos_start", "pos_1LC", "text_pos", "text_null")
        ):
            if parameter is not None:
                nn.init.trunc_normal_(parameter, std=std)
        self.head.weight.mul_(0.02)
        for block in self.blocks:
            block.attn.proj.weight.div_(math.sqrt(2 * depth))
            block.ffn.fc2.weight.div_(math.sqrt(2 * depth))
            _init_modulation(block, self.config.modulation, self.config.hidden_size, gamma)
        for layer in (getattr(self, "shared_modulation", None), getattr(self.head_norm, "modulation", None)):
            if layer is not None:
                layer.weight.mul_(0.5)

    @property
    def layout(self) -> Scales:
        """Token layout of one image."""
        return Scales.square(self.config.scales)

    def embed_condition(self, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """(B, C) vector for adaptive layer norms and the first scale, and the text prefix (B, T, C) if there
        is one.

        Raises:
            InputError: a condition of another kind, or text of another length.
        """
        condition = condition.to(self.device)
        kind = self.config.condition
        if isinstance(condition, ClassCondition) and kind == "class":
            labels = condition.labels.where(condition.labels >= 0, self.config.num_classes)
            return self.class_emb(labels), None
        if isinstance(condition, PromptCondition) and kind == "prompt":
            return self._text_prefix(self.text_emb(condition.input_ids), condition.mask)
        if isinstance(condition, TextCondition) and kind == "text":
            return self._text_prefix(self.text_proj(condition.embeddings.to(self.dtype)), condition.words)
        raise InputError(f"{type(condition).__name__} does not fit a generator conditioned on {kind!r}")

    def _text_prefix(self, words_BTC: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        if words_BTC.shape[1] != self.config.text_length:
            raise InputError(
                f"text of {words_BTC.shape[1]} positions must have text_length={self.config.text_length}"
            )
        text = torch.where(mask_BT[..., None], words_BTC, self.text_null.to(words_BTC.dtype))
        return text.mean(dim=1), text + self.text_pos

    def modulations(self, condition_BC: Tensor) -> tuple[list[Modulation], Modulation]:
        """Adaptive layer norm vectors of all blocks and of the head: they do not change while an image is
        made."""
        shared = None
        if self.config.modulation == "shared":
            shared = self.shared_modulation(F.silu(condition_BC)).view(len(condition_BC), 1, 6, -1)
        return [block.modulations(condition_BC, shared) for block in self.blocks], self.head_norm.modulations(
            condition_BC
        )

    def positions(self) -> Tensor:
        """Level + position embedding of every token, (1, L, C)."""
        lengths = torch.tensor(self.layout.lengths, device=self.device)
        levels = torch.repeat_interleave(torch.arange(len(lengths), device=self.device), lengths)
        return self.lvl_embed(levels) + self.pos_1LC

    def run_blocks(
        self,
        x: Tensor,
        modulations: list[Modulation],
        *,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """All blocks over positions x (B, L, C); with a cache, they attend to everything in it as well."""
        for layer, (block, modulation) in enumerate(zip(self.blocks, modulations, strict=True)):
            x = block(x, modulation, mask=mask, cache=cache, layer=layer)
        if cache is not None:
            cache.advance(x.shape[1])
        return x

    def embed_inputs(self, condition_BC: Tensor, inputs_BLC: Tensor) -> Tensor:
        """Block input (B, L, C): the first scale from the condition, the others from next-scale inputs (B,
        L', Cv)."""
        start = condition_BC[:, None] + self.pos_start
        return torch.cat([start, self.word_embed(inputs_BLC).to(start.dtype)], dim=1) + self.positions()

    def attention_mask(self) -> Tensor:
        """Bool (T + L, T + L) for teacher forcing: a position sees the text, and all scales up to its own."""
        levels = [level for level, length in enumerate(self.layout.lengths) for _ in range(length)]
        level = torch.tensor([-1] * self.config.text_length + levels, device=self.device)
        return level[:, None] >= level[None, :]

    def forward(self, condition: Condition, inputs_BLC: Tensor) -> Tensor:
        """Teacher-forced logits (B, L, V) in float32 from the next-scale inputs (B, L − L_0, Cv)."""
        vector, prefix = self.embed_condition(condition)
        modulations, head_modulation = self.modulations(vector)
        x = self.embed_inputs(vector, inputs_BLC)
        if prefix is not None:
            x = torch.cat([prefix.to(x.dtype), x], dim=1)
        x = self.run_blocks(x, modulations, mask=self.attention_mask())
        return self.head(self.head_norm(x[:, self.config.text_length :], head_modulation)).float()

    def loss(
        self, tokens: ImageTokens, condition: Condition, *, quantizer: MultiScaleVQ | None = None
    ) -> dict[str, Tensor]:
        """Mean cross-entropy over all tokens ("loss") and the fraction predicted right ("accuracy")."""
        quantizer = _required(quantizer)
        if tokens.layout != self.layout or tokens.ids is None:
            raise InputError(f"tokens of layout {tokens.layout} do not fit a generator of {self.layout}")
        with torch.no_grad():
            inputs = quantizer.generator_inputs(list(tokens.per_scale()), self.layout.sizes)
        logits = self(condition, inputs)
        loss = F.cross_entropy(logits.flatten(0, 1), tokens.ids.flatten())
        return {"loss": loss, "accuracy": (logits.argmax(-1) == tokens.ids).float().mean()}

    @torch.no_grad()
    def generate(
        self,
        request: GenerationRequest,
        *,
        quantizer: MultiScaleVQ | None = None,
        strategy: object = None,
        on_step: OnStep | None = None,
    ) -> GenerationResult:
        """Generate a batch, one forward per scale (plus one for a text prefix).

        Raises:
            InputError: no quantizer, a strategy (only next-token models take one), another layout than the
                model's, or `known` tokens that do not fit.
        """
        if strategy is not None:
            raise InputError("strategy: only next-token generators accept one; VAR predicts whole scales")
        self.check_num_tokens(request.num_tokens)
        if request.layout not in (None, self.layout):
            raise InputError(f"layout={request.layout} is not the model's, {self.layout}")
        return NextScaleRun(self, request, _required(quantizer)).run(on_step)


def _check(hidden_size: int, num_heads: int, modulation: str, condition: str) -> None:
    if hidden_size % num_heads:
        raise InputError(f"hidden_size={hidden_size} must be a multiple of num_heads={num_heads}")
    if modulation not in ("per_block", "shared", "constant"):
        raise InputError(f"modulation={modulation!r} must be per_block, shared or constant")
    if condition not in ("class", "prompt", "text"):
        raise InputError(f"condition={condition!r} must be class, prompt or text")


def _required(quantizer: MultiScaleVQ | None) -> MultiScaleVQ:
    if quantizer is None:
        raise InputError(
            "quantizer=None: VAR needs its tokenizer's quantizer, pass quantizer=tokenizer.quantizer"
        )
    return quantizer


def _init_modulation(block: AdaLNBlock, kind: ModulationKind, c: int, gamma: float) -> None:
    """Gates start at `gamma` times random; constant ones at 1, as in a plain pre-norm transformer."""
    if kind == "per_block":
        block.modulation.weight[2 * c :].mul_(0.5)
        block.modulation.weight[: 2 * c].mul_(gamma)
    elif kind == "shared":
        nn.init.normal_(block.modulation_offset, std=c**-0.5)
        block.modulation_offset[:, :, 2:].mul_(0.5)
        block.modulation_offset[:, :, :2].mul_(gamma)
    else:
        nn.init.zeros_(block.modulation_offset)
        block.modulation_offset[:, :, :2].fill_(1.0)
