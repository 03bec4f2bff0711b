"""The straightforward next-token loop, as it is written from the description: what ours is held against.

Keys and values are concatenated at every step, a mask is made for every step, gate and up are two matrices,
norms and rotations are written out, the head reads all ids of both halves of guidance, and filters sort or
fill all of them (LlamaGen, arXiv 2406.06525). The ids are those of `RasterTransformer.generate` for the
same draws.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visgen.evaluation.benchmark.baseline import filtered
from visgen.generators.base import GenerationRequest
from visgen.generators.prefix import Prefix
from visgen.nn.attention import attend
from visgen.nn.cross_llama import TextKeys
from visgen.nn.guidance import guide
from visgen.nn.rope import Rotation
from visgen.nn.sampling import guidance_table

Cache = list[tuple[Tensor, Tensor] | None]  # keys and values (R, H, S, D) of each layer


@torch.no_grad()
def plain_loop(model: Any, request: GenerationRequest, count: int) -> Tensor:
    """Draw the first `count` positions of a batch: ids (B, count, K).

    Rows are doubled where guidance is on anywhere, as in the published code.

    Args:
        model: a `RasterTransformer`.
        request: see `GenerationRequest`; known tokens are not for it.
        count: positions, at most those of an image.
    """
    sampling, (rows, columns) = request.sampling, model.positions
    scales = guidance_table(sampling, rows * columns)
    guided = bool((scales != 1).any())
    prefix = _prefix(model, request.condition, guided)
    x, visible, text = prefix.embeddings, prefix.visible, model.text_keys(prefix)
    mask = model.prefix_mask(prefix)[:, None]
    caches: Cache = [None] * len(model.blocks)
    start, drawn = 0, list[Tensor]()
    for position in range(count):
        rotation = model.rotation(start, start + x.shape[1])
        hidden = _blocks(model, x, rotation, mask, caches, text)[:, -1:]
        start += x.shape[1]
        logits = model.tokens.logits(model.tokens.features(hidden))
        if guided:
            conditional, unconditional = logits.chunk(2)
            logits = guide(conditional, unconditional, float(scales[position]))
        drawn.append(request.noise.categorical(filtered(logits, sampling).softmax(dim=-1)))
        x = model.tokens.embed(drawn[-1].repeat(2 if guided else 1, 1, 1))
        mask = _visible_row(visible, start + 1, x.device)
    return torch.cat(drawn, dim=1)


def _prefix(model: Any, condition: Any, guided: bool) -> Prefix:
    """The condition's R rows, the unconditional ones behind the others."""
    halves = [condition, condition.unconditional()] if guided else [condition]
    return Prefix.cat([model.prefix(half.to(model.device)) for half in halves])


def _visible_row(visible: Tensor | None, length: int, device: torch.device) -> Tensor:
    """What one new position sees, bool (R or 1, 1, 1, length): all but hidden words."""
    if visible is None:
        return torch.ones(1, 1, 1, length, dtype=torch.bool, device=device)
    return F.pad(visible, (0, length - visible.shape[1]), value=True)[:, None, None]


def _blocks(
    model: Any, x: Tensor, rotation: Rotation, mask: Tensor, caches: Cache, text: list[dict[str, TextKeys]]
) -> Tensor:
    for layer, block in enumerate(model.blocks):
        out, caches[layer] = _attention(block.attn, _norm(block.norm1, x), rotation, mask, caches[layer])
        x = x + out
        if text[layer]:
            x = x + block.cross(_norm(block.norm_text, x), **text[layer])
        h = _norm(block.norm2, x)
        gate, up = block.ffn.gate_up.weight.chunk(2)
        x = x + F.linear(F.silu(F.linear(h, gate)) * F.linear(h, up), block.ffn.down.weight)
    return x


def _attention(
    attn: nn.Module, x: Tensor, rotation: Rotation, mask: Tensor, cache: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    rows, length, width = x.shape
    heads, own = attn.num_heads, attn.num_kv_heads
    qkv = F.linear(x, attn.qkv.weight).view(rows, length, heads + 2 * own, attn.head_size)
    q, k, v = (part.transpose(1, 2) for part in qkv.split([heads, own, own], dim=2))
    if attn.q_norm is not None:
        q, k = _norm(attn.q_norm, q), _norm(attn.k_norm, k)
    q, k = _turn(q, rotation), _turn(k, rotation)
    if cache is not None:
        k, v = torch.cat([cache[0], k], dim=2), torch.cat([cache[1], v], dim=2)
    keys, values = (one.repeat_interleave(heads // own, dim=1) if own < heads else one for one in (k, v))
    out = attend(q, keys, values, mask=mask)
    return F.linear(out.transpose(1, 2).reshape(rows, length, width), attn.proj.weight), (k, v)


def _norm(norm: nn.Module, x: Tensor) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.eps)).to(x.dtype) * norm.weight


def _turn(x: Tensor, rotation: Rotation) -> Tensor:
    cos, sin = rotation
    pairs = x.float().reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2).to(x.dtype)
