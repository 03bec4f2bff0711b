"""The official renderer of SEED-2: Stable Diffusion 2.1 unCLIP (arXiv 2204.06125), from diffusers' parts."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    SchedulerMixin,
    StableUnCLIPImg2ImgPipeline,
    UNet2DConditionModel,
)
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.nn.guidance import guide
from visgen.nn.noise import Noise
from visgen.tokenizers.renderers.base import Renderer, same_draw

HUB_ID = "stabilityai/stable-diffusion-2-1-unclip"
# Parts of `StableUnCLIPImg2ImgPipeline` that an embedding needs; its CLIP vision model is not among them
PARTS = (
    "image_normalizer",
    "image_noising_scheduler",
    "tokenizer",
    "text_encoder",
    "unet",
    "scheduler",
    "vae",
)
SEEDS = 2**24  # as many as a float32 draw tells apart


@dataclass(frozen=True)
class UnCLIPSampling:
    """How the diffusion model is sampled; the defaults are SEED's.

    Args:
        num_inference_steps: steps of the scheduler.
        guidance_scale: u + s (c − u); 1 is off and costs no second pass.
        noise_level: how much noise the embedding gets, a step of the noising scheduler. Level 0 is a little.

    Raises:
        InputError: a value out of range.
    """

    num_inference_steps: int = 20
    guidance_scale: float = 10.0
    noise_level: int = 0

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise InputError(f"num_inference_steps={self.num_inference_steps} must be 1 or more")
        if not 0 <= self.guidance_scale < float("inf"):
            raise InputError(f"guidance_scale={self.guidance_scale} must be a number from 0; 1 is off")
        if self.noise_level < 0:
            raise InputError(f"noise_level={self.noise_level} must be 0 or more")


def noised_embeddings(
    embeddings: Tensor, noise: Tensor, level: int, alphas_cumprod: Tensor, mean: Tensor, std: Tensor
) -> Tensor:
    """Class embeddings (B, 2D): normalised, noised, denormalised embeddings, and the level's sinusoids.

    Args:
        embeddings, noise: (B, D).
        level: step of the noising schedule.
        alphas_cumprod: (T,) of that schedule.
        mean, std: (1, D) of embeddings.

    Raises:
        InputError: a level beyond the schedule.
    """
    if not 0 <= level < len(alphas_cumprod):
        raise InputError(f"noise_level={level} must be in 0 … {len(alphas_cumprod) - 1}")
    kept = alphas_cumprod[level].to(embeddings)
    noised = kept.sqrt() * (embeddings - mean) / std + (1 - kept).sqrt() * noise
    levels = torch.full((len(embeddings),), level, device=embeddings.device)
    told = get_timestep_embedding(levels, embeddings.shape[1], flip_sin_to_cos=True, downscale_freq_shift=0)
    return torch.cat([noised * std + mean, told.to(embeddings.dtype)], dim=1)


def guidance_rows(positive: Tensor, negative: Tensor | None) -> Tensor:
    """(2B, 2D) class embeddings, unconditional rows first: zeros, the level's part too, or `negative`."""
    return torch.cat([torch.zeros_like(positive) if negative is None else negative, positive])


class UnCLIPRenderer(nn.Module, Renderer):
    """Diffusion of 768 pixels, given a CLIP ViT-H image embedding and an empty prompt.

    Args:
        unet, vae: the diffusion model, and the autoencoder of its latents.
        scheduler: of the diffusion; copied for every call.
        image_normalizer: mean and standard deviation of embeddings.
        image_noising_scheduler: of the noise that embeddings get.
        text_encoder, tokenizer: CLIP's, for the empty prompt.

    Raises:
        InputError: parts that do not fit each other.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        scheduler: SchedulerMixin,
        image_normalizer: StableUnCLIPImageNormalizer,
        image_noising_scheduler: DDPMScheduler,
        text_encoder: Any,
        tokenizer: Any,
    ) -> None:
        super().__init__()
        self.unet, self.vae, self.image_normalizer = unet, vae, image_normalizer
        self.text_encoder, self.tokenizer = text_encoder, tokenizer
        self.scheduler, self.image_noising_scheduler = scheduler, image_noising_scheduler
        self.sampling = UnCLIPSampling()
        wanted = unet.config.projection_class_embeddings_input_dim
        if wanted != 2 * self.embedding_dim:
            raise InputError(
                f"unet takes class embeddings of {wanted} channels; "
                f"twice the normalizer's {self.embedding_dim} are needed"
            )

    @property
    def embedding_dim(self) -> int:
        return self.image_normalizer.mean.shape[1]

    @property
    def pixel_size(self) -> int:
        return self.unet.config.sample_size * self._downsampling

    @property
    def device(self) -> torch.device:
        """Of the diffusion model."""
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the diffusion model."""
        return self.unet.dtype

    @property
    def _downsampling(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def render(
        self,
        embeddings: Tensor,
        *,
        negative: Tensor | None = None,
        sampling: UnCLIPSampling | None = None,
        noise: Noise | None = None,
    ) -> Tensor:
        """Images of embeddings (B, D), see `Renderer.render`; one draw of 2 D + 4 h w normals per image, and
        one number more for schedulers that draw."""
        self.check_embeddings(embeddings, negative)
        sampling = self.sampling if sampling is None else sampling
        if not isinstance(sampling, UnCLIPSampling):
            raise InputError(f"sampling is a {type(sampling).__name__}; UnCLIPRenderer takes UnCLIPSampling")
        b, guided = len(embeddings), sampling.guidance_scale != 1
        noise = noise or same_draw(b)
        labels = self.class_labels(embeddings, negative, noise, sampling.noise_level)
        labels = guidance_rows(*labels) if guided else labels[0]
        side, channels = self.unet.config.sample_size, self.unet.config.in_channels
        scheduler = copy.deepcopy(self.scheduler)  # it counts its steps
        scheduler.set_timesteps(sampling.num_inference_steps, device=self.device)
        x = noise.normal(b, channels, side, side, device=self.device).to(self.dtype)
        x = x * scheduler.init_noise_sigma
        prompt = self._empty_prompt().expand(len(labels), -1, -1)
        extra = _step_options(scheduler, noise, b)
        for t in scheduler.timesteps:
            both = scheduler.scale_model_input(torch.cat([x, x]) if guided else x, t)
            predicted = self.unet(both, t, encoder_hidden_states=prompt, class_labels=labels).sample
            if guided:
                away, towards = predicted.chunk(2)
                predicted = guide(towards, away, sampling.guidance_scale)
            x = scheduler.step(predicted, t, x, **extra).prev_sample
        return self.vae.decode(x.to(self.vae.dtype) / self.vae.config.scaling_factor).sample

    def class_labels(
        self, embeddings: Tensor, negative: Tensor | None, noise: Noise, level: int = 0
    ) -> tuple[Tensor, Tensor | None]:
        """Class embeddings (B, 2D) of embeddings and of `negative`, each (B, D), with noise of their own."""
        rows = [embeddings] if negative is None else [embeddings, negative]
        draws = noise.normal(len(embeddings), 2, self.embedding_dim, device=self.device)
        mean, std = (p.float() for p in (self.image_normalizer.mean, self.image_normalizer.std))
        alphas = self.image_noising_scheduler.alphas_cumprod.to(self.device)
        made = [
            noised_embeddings(row.to(self.device).float(), draws[:, i], level, alphas, mean, std)
            for i, row in enumerate(rows)
        ]
        return made[0].to(self.dtype), made[1].to(self.dtype) if negative is not None else None

    def _empty_prompt(self) -> Tensor:
        """Text states (1, T, E) of ""."""
        told = self.tokenizer(
            "", padding="max_length", max_length=self.tokenizer.model_max_length, return_tensors="pt"
        )
        return self.text_encoder(told.input_ids.to(self.device))[0].to(self.dtype)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        dtype: torch.dtype | str | None = None,
        local_files_only: bool = True,
    ) -> UnCLIPRenderer:
        """Load a folder of diffusers' `StableUnCLIPImg2ImgPipeline`; its CLIP vision model is left out.

        Args:
            folder: local folder, or with `local_files_only=False` the name of a hub repository (`HUB_ID`).
            dtype: None = float32, or a torch dtype; "auto" is float32 too.

        Raises:
            InputError: no such pipeline, or files that cannot be read.
        """
        if local_files_only and not (Path(folder) / "model_index.json").is_file():
            raise InputError(f"{str(folder)!r} is no folder of a StableUnCLIPImg2ImgPipeline")
        try:
            pipe = StableUnCLIPImg2ImgPipeline.from_pretrained(
                str(folder),
                torch_dtype=dtype if isinstance(dtype, torch.dtype) else torch.float32,
                image_encoder=None,
                feature_extractor=None,
                use_safetensors=True,
                local_files_only=local_files_only,
            )
        except Exception as error:  # diffusers raises plain ones on what it cannot read
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{str(folder)!r} holds no readable unCLIP pipeline ({reason})") from error
        return cls(**{name: getattr(pipe, name) for name in PARTS}).eval()

    def save_pretrained(self, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> None:
        """Write a folder that `from_pretrained` and diffusers read; floats as `dtype`, None = theirs."""
        parts: Mapping[str, Any] = {name: getattr(self, name) for name in PARTS}
        if dtype is not None:
            parts = {n: _cast(p, dtype) for n, p in parts.items()}
        pipe = StableUnCLIPImg2ImgPipeline(image_encoder=None, feature_extractor=None, **parts)
        pipe.save_pretrained(str(folder), safe_serialization=True)


def _step_options(scheduler: Any, noise: Noise, count: int) -> dict[str, Any]:
    """Generators per image, for schedulers that draw at every step."""
    if "generator" not in inspect.signature(scheduler.step).parameters:
        return {}
    seeds = (noise.uniform(count).double() * SEEDS).long().tolist()
    return {"generator": [torch.Generator().manual_seed(seed) for seed in seeds]}


def _cast(part: Any, dtype: torch.dtype) -> Any:
    """A copy of a module as `dtype`; the normalizer's own `to` takes other arguments than a module's."""
    return nn.Module.to(copy.deepcopy(part), dtype) if isinstance(part, nn.Module) else part
