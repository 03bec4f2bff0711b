"""Several questions about one image in one sequence: `<s>`, the image, then segments blind to each other.

The image is read once for all its questions. Each segment holds a question, its answer and `</s>`, padded to
one width, and its positions begin behind the image; so a segment is computed as if it stood there alone, as
at inference, and every batch has the same shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from visgen.data.scenes.questions import Question
from visgen.errors import InputError
from visgen.nn.grid_pooling import pool_grid

WIDTH = 13  # ids of the longest question of the scenes, its answer and `</s>`


@dataclass(frozen=True, eq=False)
class Packed:
    """Ids int64 (B, Q, W) of Q questions per image, and which are answers or `</s>`, bool (B, Q, W)."""

    ids_BQW: Tensor
    answers_BQW: Tensor


class PackedPass(NamedTuple):
    """Logits (B, Q, W, V) of the id after each; the tower's CLS output (B, C) and patches (B, N, C), None
    without an image."""

    logits: Tensor
    pooled: Tensor | None
    patches: Tensor | None


def pack_questions(tokenizer: Any, asked: Sequence[Sequence[Question]], width: int = WIDTH) -> Packed:
    """The segments of a batch, as many questions for each image.

    Raises:
        InputError: a question that is longer than `width` with its answer, or has words that are unknown.
    """
    texts = [text for row in asked for one in row for text in (one.text, one.answer)]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    rows = [_segment(tokenizer, q, a, width) for q, a in zip(ids[::2], ids[1::2], strict=True)]
    shape = (len(asked), -1, width)
    return Packed(
        torch.tensor([r for r, _ in rows]).view(shape), torch.tensor([m for _, m in rows]).view(shape)
    )


def _segment(
    tokenizer: Any, question: list[int], answer: list[int], width: int
) -> tuple[list[int], list[bool]]:
    ids = [*question, *answer, tokenizer.eos_token_id]
    if len(ids) > width:
        raise InputError(f"a question and its answer have {len(ids)} ids; options.width={width} is too short")
    if tokenizer.unk_token_id in ids:
        raise InputError("a question has words that the model does not know; start from another model")
    padding = width - len(ids)
    answers = [False] * len(question) + [True] * (len(answer) + 1)
    return ids + [tokenizer.pad_token_id] * padding, answers + [False] * padding


def packed_mask(prefix: int, count: int, width: int, device: Any = None) -> Tensor:
    """Bool (1, 1, L, L), True = may be seen: the prefix and the segments are causal, segments see the prefix
    and themselves."""
    segment = torch.arange(count, device=device).repeat_interleave(width)
    number = torch.cat([torch.full((prefix,), -1, device=device), segment])
    causal = torch.ones(len(number), len(number), dtype=torch.bool, device=device).tril()
    own = (number[:, None] == number) | (number == -1)
    return (causal & own)[None, None]


def packed_positions(prefix: int, count: int, width: int, device: Any = None) -> Tensor:
    """Int64 (1, L): every segment goes on where the prefix ends."""
    behind = prefix + torch.arange(width, device=device)
    return torch.cat([torch.arange(prefix, device=device), behind.repeat(count)])[None]


def packed_logits(
    model: Any, pixels: Tensor | None, ids_BQW: Tensor, num_tokens: int | None = None
) -> PackedPass:
    """One pass over images and all their questions.

    Args:
        model: a LLaVA that reads its tower's last layer without CLS, as `VisionLanguageModel.build` makes it.
        pixels: (B, 3, H, H) in [-1, 1]; None = questions alone, for a reference that is blind.
        ids_BQW: see `pack_questions`.
        num_tokens: pool the patches to so many, a square; None = all.
    """
    base, (batch, count, width) = model.model, ids_BQW.shape
    embed = base.get_input_embeddings()
    start = torch.full((batch, 1), model.config.text_config.bos_token_id, device=ids_BQW.device)
    parts, pooled, patches = [embed(start)], None, None
    if pixels is not None:
        seen = base.vision_tower(pixel_values=pixels)
        pooled, patches = seen.pooler_output, seen.last_hidden_state[:, 1:]
        kept = patches if num_tokens is None else pool_grid(patches, num_tokens)
        parts.append(base.multi_modal_projector(kept))
    prefix = sum(part.shape[1] for part in parts)
    hidden = base.language_model(
        inputs_embeds=torch.cat([*parts, embed(ids_BQW.flatten(1))], 1),
        attention_mask=packed_mask(prefix, count, width, ids_BQW.device),
        position_ids=packed_positions(prefix, count, width, ids_BQW.device),
        use_cache=False,
    ).last_hidden_state
    logits = model.lm_head(hidden[:, prefix:]).unflatten(1, (count, width))
    return PackedPass(logits, pooled, patches)
