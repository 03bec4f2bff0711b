"""KL-16: encoder, moments, posterior, its KL divergence, latents, decoder, bytes; the clamp of variances."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.parity.report import Golden
from visgen.checkpoints import from_official
from visgen.data.images import to_uint8
from visgen.nn.noise import Noise
from visgen.nn.posterior import Posterior
from visgen.tokenizers.kl import KLTokenizer
from visgen.tokenizers.tokens import Grid, ImageTokens

INPUTS = ("*pixels", "*eps", "*gen_latent_scaled", "*clamp.moments")
Tensors = dict[str, Tensor]


@torch.no_grad()
def check(golden: Golden) -> None:
    """Every stage that the folder holds."""
    weights, io = golden.load("weights.safetensors"), golden.load("tensors.safetensors")
    state = {key.removeprefix("weights."): tensor for key, tensor in weights.items()}
    model = from_official("kl16-tokenizer", state, golden.meta["config"])
    found: dict[str, Any] = {}
    if "pixels" in io:
        found |= encoding(model, io["pixels"], io.get("eps"))
    if "gen_latent_scaled" in io:
        made = model.decode(as_tokens(io["gen_latent_scaled"]))
        found |= {"gen_decoded": made, "gen_uint8_hwc": torch.from_numpy(to_uint8(made))}
    if "clamp.moments" in io:
        found |= {
            f"clamp.{name}": t for name, t in described(Posterior.of_moments(io["clamp.moments"])).items()
        }
    for name, tensor in found.items():
        if name in io:
            golden.compare(name, tensor, io[name])
    golden.finish(io, INPUTS)


def encoding(model: KLTokenizer, pixels: Tensor, eps: Tensor | None) -> Tensors:
    """From pixels to tokens, means and draws, and back."""
    features = model.features(pixels)
    found = {"encoder_out": features, "moments": model.moments(features)}
    found |= described(model.posterior(pixels))
    found["recon_mode"] = model.decode(model.encode(pixels))
    if eps is not None:
        drawn = model.encode(pixels, noise=Noise.replayed([eps]))
        found["sample"] = model.posterior(pixels).sample(Noise.replayed([eps]))
        found |= {"scaled_latent": model.embed_tokens(drawn), "recon_sample": model.decode(drawn)}
    return found


def described(law: Posterior) -> Tensors:
    """What a posterior says."""
    return {"mean": law.mean, "logvar": law.logvar, "std": law.std, "kl": law.kl()}


def as_tokens(latents: Tensor) -> ImageTokens:
    """A generator's tokens of a map (B, C, h, w)."""
    return ImageTokens(Grid(*latents.shape[-2:]), latents=latents.flatten(2).transpose(1, 2))
