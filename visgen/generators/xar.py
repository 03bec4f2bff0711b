"""xAR: next-X prediction (arXiv 2502.20388). An image of continuous latents is cut into entities; each is
made by a flow that sees all entities before.

In training every entity is noisy, each at a level of its own, and one pass predicts all velocities (noisy
context learning); when images are made, the entities before are clean. Conditioned on a class (the paper) or
on text: a prefix of text positions, which every entity attends to, and their mean in the adaptive norms.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.generators.base import GenerationRequest, GenerationResult, ImageGenerator, OnStep
from visgen.generators.conditions import Condition
from visgen.generators.entities import EntityLayout
from visgen.generators.prefix import ClassPrefix, ProjectedPrefix, PromptPrefix
from visgen.generators.xar_blocks import NORM_EPS, TimeEmbedding, XARBlock, XARModulation, spread
from visgen.generators.xar_geometry import whole_pass
from visgen.generators.xar_sampling import EntityRun
from visgen.nn.adaln import Linear32, Modulation
from visgen.nn.cache import KVCache
from visgen.nn.entity_sampling import EntitySampling
from visgen.nn.flow import SigmaLaw, flow_pair
from visgen.nn.initial import init_matrices
from visgen.nn.llama import RMSNorm
from visgen.nn.model import VisgenModel
from visgen.nn.rope import Rotation
from visgen.tokenizers.tokens import Grid, ImageTokens

CELLS_OF_8 = {"kind": "cell", "size": 8}  # the published models
LOGIT_NORMAL = SigmaLaw()


class XARGenerator(VisgenModel, ImageGenerator):
    """Two stacks of transformer blocks, one after the other, over the positions of all entities.

    Args:
        grid: (h, w) of the latents.
        latent_channels: C of the latents, which have a deviation of about 1.
        entities: {"kind": "patch"}, {"kind": "cell" or "subsample", "size": k}, {"kind": "scale", "scales":
            (1, 2, …)} or {"kind": "image"}; see `EntityLayout`.
        hidden_size, encoder_depth, decoder_depth, num_heads, mlp_size: the transformer (xAR-B: 768, 8, 8, 12,
            2048; L: 1024, 16, 16, 16, 2730; H: 1280, 20, 20, 16, 3413).
        modulation: adaptive norms "per_block" (published) or "shared", see `XARBlock`.
        condition: "class", "prompt" (word ids of an own vocabulary) or "text" (features of a text encoder).
        num_classes: classes, for "class".
        text_length: positions of the text prefix, for "prompt" and "text".
        text_vocab_size: words, for "prompt"; `text_dim`: width of the features, for "text".
        dropout: in training, see `XARBlock`.

    Raises:
        InputError: entities that do not fit the grid, heads that do not divide the width into multiples of 4,
            or an unknown kind of condition or modulation.
    """

    sampling_family: ClassVar[type] = EntitySampling
    continuous: ClassVar[bool] = True

    @register_to_config
    def __init__(
        self,
        grid: tuple[int, int] = (16, 16),
        latent_channels: int = 16,
        entities: dict[str, Any] = CELLS_OF_8,
        hidden_size: int = 768,
        encoder_depth: int = 8,
        decoder_depth: int = 8,
        num_heads: int = 12,
        mlp_size: int = 2048,
        modulation: XARModulation = "per_block",
        condition: Literal["class", "prompt", "text"] = "class",
        num_classes: int = 1000,
        text_length: int = 0,
        text_vocab_size: int = 0,
        text_dim: int = 0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self._init_tuples()
        _check(hidden_size, num_heads, modulation, condition)
        c = hidden_size
        self.entities = EntityLayout.from_config(self.config.entities, self.config.grid)
        self.encoder_pos = nn.Parameter(torch.zeros(1, self.entities.length, c))
        self.decoder_pos = nn.Parameter(torch.zeros(1, self.entities.length, c))
        self._init_condition()
        self.time_embed = TimeEmbedding(c)
        if modulation == "shared":
            self.shared_modulation = nn.Linear(c, 6 * c)
        self.z_proj = Linear32(latent_channels, c)
        self.z_proj_ln = RMSNorm(c, NORM_EPS)
        block = (c, num_heads, mlp_size, modulation, dropout)
        self.encoder_blocks = nn.ModuleList(XARBlock(*block) for _ in range(encoder_depth))
        self.encoder_norm = RMSNorm(c, NORM_EPS)
        self.decoder_embed = nn.Linear(c, c)
        self.decoder_blocks = nn.ModuleList(XARBlock(*block) for _ in range(decoder_depth))
        self.decoder_norm = RMSNorm(c, NORM_EPS)
        self.pred = Linear32(c, latent_channels)
        self.init_weights()

    def _init_condition(self) -> None:
        config, c = self.config, self.config.hidden_size
        if config.condition == "class":
            self.condition_embed: nn.Module = ClassPrefix(config.num_classes, c)
        elif config.condition == "prompt":
            self.condition_embed = PromptPrefix(config.text_vocab_size, config.text_length, c)
        else:
            self.condition_embed = ProjectedPrefix(config.text_dim, config.text_length, c)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Random weights as in xAR's trainer: Xavier's uniform law for matrices, normal ones of 0.02 for
        tables, zero biases. Adaptive norms do not start from zero."""
        init_matrices(self, nn.init.normal_)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        tables = ("encoder_pos", "decoder_pos", "text_pos", "text_null")
        for name, parameter in self.named_parameters():
            if name.rpartition(".")[2] in tables:
                nn.init.normal_(parameter, std=0.02)

    @property
    def layout(self) -> Grid:
        """Token layout of one image."""
        return Grid(*self.config.grid)

    @property
    def text_length(self) -> int:
        """Positions of the text prefix, 0 for classes."""
        return 0 if self.config.condition == "class" else self.config.text_length

    @property
    def head_size(self) -> int:
        """Channels of an attention head."""
        return self.config.hidden_size // self.config.num_heads

    @property
    def depth(self) -> int:
        """Blocks of both stacks."""
        return len(self.encoder_blocks) + len(self.decoder_blocks)

    def embed_condition(self, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """(B, C) vector for adaptive norms, and the text prefix (B, T, C) if there is one.

        Raises:
            InputError: a condition of another kind, or text of another length.
        """
        made = self.condition_embed(condition.to(self.device)).embeddings
        return (made[:, 0], None) if self.config.condition == "class" else (made.mean(dim=1), made)

    def modulations(self, condition_BC: Tensor, times_BE: Tensor) -> list[Tensor]:
        """Six vectors (B, E, 6, C) of entities at noise levels t, for each block of both stacks."""
        c = condition_BC[:, None] + self.time_embed(times_BE).to(condition_BC.dtype)
        shared = None
        if self.config.modulation == "shared":
            shared = self.shared_modulation(F.silu(c)).unflatten(-1, (6, -1))
        return [block.modulations(c, shared) for block in (*self.encoder_blocks, *self.decoder_blocks)]

    def embed_latents(self, x_BLC: Tensor, positions_1LC: Tensor) -> Tensor:
        """Noisy latents as the blocks read them, before the first norm."""
        return self.z_proj(x_BLC).to(positions_1LC.dtype) + positions_1LC

    def trunk(
        self,
        x: Tensor,
        modulations: list[Modulation],
        decoder_pos: Tensor | float,
        rotation: Rotation,
        *,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """What the velocity is a linear function of, (B, L, C); with a cache, positions attend to everything
        in it as well, and stand behind it until the next call."""
        x = self.z_proj_ln(x)
        for layer, block in enumerate(self.encoder_blocks):
            x = block(x, modulations[layer], rotation, mask=mask, cache=cache, layer=layer)
        x = self.decoder_embed(self.encoder_norm(x)) + decoder_pos
        for layer, block in enumerate(self.decoder_blocks, len(self.encoder_blocks)):
            x = block(x, modulations[layer], rotation, mask=mask, cache=cache, layer=layer)
        return self.decoder_norm(x)

    def forward(
        self, condition: Condition, x_BLC: Tensor, times_BE: Tensor, clean_BLC: Tensor | None = None
    ) -> Tensor:
        """Velocities (B, L, C) float32 of all entities in one pass.

        Args:
            condition: what the images show.
            x_BLC: noisy latents in the order of entities, see `EntityLayout.order`.
            times_BE: noise level of each entity, 0 = clean.
            clean_BLC: clean latents in the same order, which entities see of those before them instead of the
                noisy ones; twice the work.
        """
        vector, prefix = self.embed_condition(condition)
        doubled = clean_BLC is not None
        around = whole_pass(self.entities, self.head_size, self.text_length, doubled, self.device)
        encoder_pos, decoder_pos = self.encoder_pos, self.decoder_pos
        if clean_BLC is not None:
            x_BLC, times_BE = torch.cat([clean_BLC, x_BLC], 1), F.pad(times_BE, (times_BE.shape[1], 0))
            encoder_pos, decoder_pos = encoder_pos.repeat(1, 2, 1), decoder_pos.repeat(1, 2, 1)
        x = self.embed_latents(x_BLC, encoder_pos)
        if prefix is not None:
            x, times_BE = torch.cat([prefix.to(x.dtype), x], dim=1), F.pad(times_BE, (1, 0))
            decoder_pos = F.pad(decoder_pos, (0, 0, prefix.shape[1], 0))
        modulations = [spread(vectors, around.lengths) for vectors in self.modulations(vector, times_BE)]
        x = self.trunk(x, modulations, decoder_pos, around.rotation, mask=around.mask)
        return self.pred(x[:, -self.entities.length :]).float()

    def flow_loss(
        self,
        latents_BLC: Tensor,
        condition: Condition,
        times_BE: Tensor,
        noise_BLC: Tensor,
        *,
        context_noise: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Velocities (B, L, C) and the squared error of each position (B, L), at given noise.

        Args:
            latents_BLC: clean, in raster order.
            condition: what the images show.
            times_BE: noise level of each entity.
            noise_BLC: standard normal, in the order of entities.
            context_noise: entities see the noisy ones before them; False: clean ones.
        """
        clean = self.entities.order(latents_BLC)
        times_BL = times_BE[:, self.entities.entity_ids().to(times_BE.device)]
        pair = flow_pair(clean.flatten(0, 1), noise_BLC.flatten(0, 1), times_BL.flatten())
        x, target = (part.view_as(clean) for part in pair)
        velocity = self(condition, x, times_BE, None if context_noise else clean)
        return velocity, (velocity - target).square().mean(dim=-1)

    def loss(
        self,
        tokens: ImageTokens,
        condition: Condition,
        *,
        quantizer: object = None,
        noise: torch.Generator | None = None,
        law: SigmaLaw = LOGIT_NORMAL,
        context_noise: bool = True,
    ) -> dict[str, Tensor]:
        """Mean squared error of the velocities of all positions ("loss").

        Args:
            tokens: clean latents on the grid.
            condition: what the images show.
            quantizer: not used.
            noise: a CPU generator of noise levels and noise; None = torch's own.
            law: of the noise level, drawn for each entity of each image by itself.
            context_noise: entities see the noisy ones before them (the paper); False: clean ones.
        """
        latents = self._latents(tokens)
        rows, count = len(latents), len(self.entities)
        times = law.draw(rows * count, noise).view(rows, count)
        eps = torch.randn(rows, self.entities.length, latents.shape[-1], generator=noise)
        times, eps = times.to(latents.device), eps.to(latents.device)
        _, loss_BL = self.flow_loss(latents, condition, times, eps, context_noise=context_noise)
        return {"loss": loss_BL.mean()}

    def _latents(self, tokens: ImageTokens) -> Tensor:
        """Latents (B, h·w, C) float32 of tokens that fit."""
        latents, channels = tokens.latents, self.config.latent_channels
        if tokens.layout != self.layout or latents is None or latents.shape[-1] != channels:
            raise InputError(
                f"tokens of layout {tokens.layout} and shape {tuple(tokens.values.shape)} do not fit a "
                f"generator of {self.layout} with latents of {channels} channels"
            )
        return latents.float().to(self.device)

    @torch.no_grad()
    def generate(
        self,
        request: GenerationRequest,
        *,
        quantizer: object = None,
        strategy: object = None,
        on_step: OnStep | None = None,
    ) -> GenerationResult:
        """Generate a batch, entity by entity, `num_inference_steps` passes each and one more to remember it.

        Raises:
            InputError: a strategy (only next-token models take one), another layout or number of tokens,
                `known` ones, or a sampling of another family.
        """
        if strategy is not None:
            raise InputError("strategy: only next-token generators accept one; xAR predicts whole entities")
        self.check_num_tokens(request.num_tokens)
        if request.layout not in (None, self.layout):
            raise InputError(f"layout={request.layout} is not the model's, {self.layout}")
        if request.known is not None:
            raise InputError("known: xAR makes latents, of which no part can be kept; use a model of ids")
        return EntityRun(self, request).run(on_step)


def _check(hidden_size: int, num_heads: int, modulation: str, condition: str) -> None:
    if num_heads < 1 or hidden_size % (4 * num_heads):
        raise InputError(f"hidden_size={hidden_size} must be a multiple of 4 · num_heads={num_heads}")
    if modulation not in ("per_block", "shared"):
        raise InputError(f"modulation={modulation!r} must be per_block or shared")
    if condition not in ("class", "prompt", "text"):
        raise InputError(f"condition={condition!r} must be class, prompt or text")
