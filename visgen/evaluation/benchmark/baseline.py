"""The straightforward next-scale loop, as the published implementation writes it: what ours is held against.

Adaptive layer norm vectors are computed anew at every scale, keys and values concatenated, the bias of q, k
and v put together in every call, both halves of guidance go through the head, top-p sorts all ids, and the
image decoder runs in float32. The ids are those of `VARTransformer.generate` for the same draws.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visgen.generators.base import GenerationRequest
from visgen.nn.attention import attend
from visgen.nn.guidance import guidance_at, guide
from visgen.nn.sampling import TokenSampling


def float32_decoder(tokenizer: Any) -> Any:
    """A float32 copy of a tokenizer for `published_loop`, whose parameters need no gradients."""
    return copy.deepcopy(tokenizer).float().requires_grad_(False)


@torch.no_grad()
def published_loop(model: Any, tokenizer: Any, request: GenerationRequest) -> tuple[Tensor, Tensor]:
    """Generate a batch; both halves of guidance are computed even where it is off, as in the published code.

    Args:
        model: a `VARTransformer`.
        tokenizer: from `float32_decoder`.
        request: see `GenerationRequest`; smooth sampling and known tokens are not for it.

    Returns:
        ids (B, L) and images (B, 3, H, W), unclamped.
    """
    sizes, quantizer, sampling = model.layout.sizes, tokenizer.quantizer, request.sampling
    condition = request.condition
    halves = [model.embed_condition(half) for half in (condition, condition.unconditional())]
    vector = torch.cat([vector for vector, _ in halves])
    caches: list[tuple[Tensor, ...]] = [()] * len(model.blocks)
    if halves[0][1] is not None:
        _blocks(model, torch.cat([prefix for _, prefix in halves]), vector, caches)
    fhat, drawn = torch.zeros((), device=model.device), []
    x = vector[:, None] + model.pos_start
    for index, size in enumerate(sizes):
        if index > 0:
            x = model.word_embed(quantizer.next_input(fhat, size)).to(model.dtype).repeat(2, 1, 1)
        x = x + model.positions().split(model.layout.lengths, dim=1)[index]
        features = model.head_norm(_blocks(model, x, vector, caches), model.head_norm.modulations(vector))
        position = index / (len(sizes) - 1) if len(sizes) > 1 else 1.0
        scale = guidance_at(sampling.guidance_scale, sampling.guidance_schedule, position)
        conditional, unconditional = model.head(features).chunk(2)
        logits = guide(conditional, unconditional, scale)
        drawn.append(request.noise.categorical(filtered(logits, sampling).softmax(dim=-1)))
        fhat = fhat + quantizer.contribution(quantizer.embed(drawn[-1]), index, sizes)
    with torch.enable_grad():  # without gradients, our decoder would take its faster layout
        return torch.cat(drawn, dim=1), tokenizer.decoder(tokenizer.post_quant_conv(fhat))


def _blocks(model: Any, x: Tensor, vector: Tensor, caches: list[tuple[Tensor, ...]]) -> Tensor:
    for layer, (block, modulation) in enumerate(zip(model.blocks, model.modulations(vector)[0], strict=True)):
        gamma1, gamma2, scale1, scale2, shift1, shift2 = modulation
        h = F.layer_norm(x, x.shape[-1:], eps=block.norm_eps) * (1 + scale1) + shift1
        h, caches[layer] = _attention(block.attn, h, caches[layer])
        x = x + h * gamma1
        h = F.layer_norm(x, x.shape[-1:], eps=block.norm_eps) * (1 + scale2) + shift2
        x = x + block.ffn(h) * gamma2
    return x


def _attention(attn: nn.Module, x: Tensor, cache: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    b, length, c = x.shape
    bias = torch.cat([attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias])
    qkv = F.linear(x, attn.qkv.weight, bias).view(b, length, 3, attn.num_heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    scale = 0.25 / math.sqrt(q.shape[-1])
    if attn.scale_mul_1H11 is not None:
        q = F.normalize(q, dim=-1) * attn.scale_mul_1H11.clamp_max(math.log(100.0)).exp().to(q.dtype)
        k, scale = F.normalize(k, dim=-1), 1.0
    if cache:
        k, v = torch.cat([cache[0], k], dim=2), torch.cat([cache[1], v], dim=2)
    out = attend(q, k.to(q.dtype), v, scale=scale)
    return attn.proj(out.transpose(1, 2).reshape(b, length, c)), (k, v)


def filtered(logits: Tensor, sampling: TokenSampling) -> Tensor:
    """Temperature, top-k and top-p as the published loops write them: by sorting and filling all ids."""
    logits = logits.float() / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        kth = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if sampling.top_p is not None and sampling.top_p < 1:
        ascending, order = logits.sort(dim=-1, stable=True)
        removed = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - sampling.top_p
        removed[..., -1] = False
        logits = logits.masked_fill(removed.scatter(-1, order, removed), -torch.inf)
    return logits
