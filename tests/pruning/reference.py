"""The slow reference: the whole prompt, dropped tokens masked as keys layer by layer, no cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.pruning.tiny_models import IMAGE
from visgen.pruning.report import PruneReport
from visgen.pruning.undo import Undo


def dropped(inputs: dict[str, Tensor], report: PruneReport, layer: int) -> Tensor:
    """(B, L) bool: image tokens that a layer must not see, by the report's own account."""
    hidden_BL = inputs["input_ids"] == IMAGE
    for row in range(len(hidden_BL)):
        places = hidden_BL[row].nonzero().squeeze(1)
        full = sum(report.image_tokens[row])
        final = report.counts[row][layer] == sum(map(len, report.kept[row]))
        images = (report.kept if final else report.entered)[row]
        starts = torch.tensor([0, *report.image_tokens[row]]).cumsum(0)[:-1]
        assert len(places) == full
        for start, kept in zip(starts, images, strict=True):
            hidden_BL[row, places[start + kept]] = False
    return hidden_BL


def masked_logits(model: Any, inputs: dict[str, Tensor], report: PruneReport, new_BT: Tensor) -> Tensor:
    """(B, T, V) logits before each of the new tokens, of the whole sequence under masks."""
    positions = model._prepare_position_ids_for_generation(inputs["input_ids"], dict(inputs))
    steps = new_BT.shape[1] - 1
    more = positions[..., -1:] + 1 + torch.arange(steps)
    ids = torch.cat([inputs["input_ids"], new_BT[:, :-1]], dim=1)
    valid = torch.cat([inputs["attention_mask"], torch.ones_like(new_BT[:, :-1])], dim=1)
    with Undo() as undo, torch.no_grad():
        for layer, module in enumerate(model.model.language_model.layers):
            keys = valid.bool()
            keys[:, : -steps or None] &= ~dropped(inputs, report, layer)
            undo.before(module, masking(keys))
        pixels = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
        pixels.pop("mm_token_type_ids", None)
        full = model(
            input_ids=ids,
            attention_mask=valid,
            position_ids=torch.cat([positions, more], dim=-1),
            use_cache=False,
            **pixels,
        )
    return full.logits[:, -steps - 1 :]


def masking(keys_BL: Tensor) -> Any:
    """A hook that lets a layer see these keys, causally; each token sees itself."""
    length = keys_BL.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    mask = (causal & keys_BL[:, None, None]) | torch.eye(length, dtype=torch.bool)

    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        found = mask
        if module.self_attn.config._attn_implementation == "eager":
            found = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        return args, {**kwargs, "attention_mask": found}

    return hook
