"""Dropping image tokens between decoder layers: hidden states, positions, masks and attention rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.families import Anatomy
from visgen.pruning.reading import Reading
from visgen.pruning.report import Clock
from visgen.pruning.rows import attention_rows
from visgen.pruning.stages import Stage, attention_mask, gather_entries
from visgen.pruning.undo import Undo
from visgen.pruning.views import LayerView

Hook = Callable[..., Any]


class Inside:
    """Hooks of the decoder layers, for the prompt that is being read or decoded.

    Args:
        anatomy: of the model.
        parts: the pruners.
        compact: whether positions are counted anew at each stage.
        clock: for the work of the pruners.

    Attributes:
        reading: the prompt, or None where nothing is pruned.

    Raises:
        InputError: layers that the model does not have, or that two pruners claim.
    """

    def __init__(
        self, anatomy: Anatomy, parts: Sequence[VisionTokenPruner], compact: bool, clock: Clock
    ) -> None:
        self.anatomy, self.compact, self.clock = anatomy, compact, clock
        self.owners = _owners(parts, len(anatomy.layers))
        self.reading: Reading | None = None
        self._attention_inputs: dict[str, Any] = {}
        self._rotary: tuple[int, tuple[Tensor, Tensor]] | None = None

    def attach(self, undo: Undo) -> None:
        """Put the hooks in place; none where no pruner acts here."""
        if not self.owners:
            return
        for number, layer in enumerate(self.anatomy.layers):
            undo.before(layer, self._before_layer(number))
            if number in self.owners:
                undo.after(layer, self._after_layer(number))
                undo.before(layer.self_attn, self._before_attention)
        if self.anatomy.family.deepstack:
            process = self.anatomy.language._deepstack_process
            undo.override(self.anatomy.language, "_deepstack_process", self._deepstack(process))

    def start(self, reading: Reading | None) -> None:
        """Another prompt, or one in which nothing is pruned."""
        self.reading, self._attention_inputs, self._rotary = reading, {}, None

    @property
    def _prefilling(self) -> bool:
        return self.reading is not None and not self.reading.cache_stages

    def _before_layer(self, layer: int) -> Hook:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if self.reading is None:
                return None
            if self._prefilling:
                return args, self._prefill_arguments(self.reading, layer, args, kwargs)
            return args, self._step_arguments(self.reading, layer, args, kwargs)

        return hook

    def _prefill_arguments(
        self, reading: Reading, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Rotary embeddings and mask of what is left; a first stage has the model's own."""
        number = reading.read_stages[layer]
        if number == 0:
            return kwargs
        stage, hidden = reading.stages[number], args[0]
        if self._rotary is None or self._rotary[0] != number:
            self._rotary = (number, self._stage_rotary(reading, stage, hidden, kwargs))
        mask = self._mask(stage, stage.length, 0, hidden.dtype)
        return {**kwargs, **_to(hidden.device, self._rotary[1], mask)}

    def _stage_rotary(
        self, reading: Reading, stage: Stage, hidden: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        if self.compact:
            return self.anatomy.language.rotary_emb(hidden, stage.ranks_BL.to(hidden.device))
        index_BM = reading.stages[0].find(stage)
        cos, sin = kwargs["position_embeddings"]
        return gather_entries(cos, index_BM), gather_entries(sin, index_BM)

    def _step_arguments(
        self, reading: Reading, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Mask and position of a token for a layer whose cache holds another stage than the first layer's."""
        if reading.cache_stages[layer] == reading.cache_stages[0]:
            return kwargs
        stage, hidden = reading.stages[reading.cache_stages[layer]], args[0]
        rotary = kwargs["position_embeddings"]
        if self.compact:
            rotary = self.anatomy.language.rotary_emb(hidden, reading.position(layer).to(hidden.device))
        mask = self._mask(stage, 1, reading.new, hidden.dtype)
        return {**kwargs, **_to(hidden.device, rotary, mask)}

    def _mask(self, stage: Stage, queries: int, new: int, dtype: torch.dtype) -> Tensor | None:
        implementation = self.anatomy.language.config._attn_implementation
        return attention_mask(stage, queries, new, implementation, dtype)

    def _before_attention(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._prefilling:
            hidden = args[0] if args else kwargs["hidden_states"]
            cache = kwargs.get("cache", kwargs.get("past_key_values"))
            rotary = kwargs["position_embeddings"]
            self._attention_inputs = {"module": module, "hidden": hidden, "rotary": rotary, "cache": cache}

    def _after_layer(self, layer: int) -> Hook:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            if not self._prefilling:
                return None
            assert self.reading is not None
            hidden_BLD = output[0] if isinstance(output, tuple) else output
            with self.clock.selecting():
                rows = self._left(self.reading, layer, hidden_BLD)
            self._attention_inputs = {}
            stage, index_BM = self.reading.stages[-1].take(rows)
            self.reading.stages.append(stage)
            later = len(self.reading.read_stages) - layer - 1
            self.reading.read_stages[layer + 1 :] = [len(self.reading.stages) - 1] * later
            hidden_BMD = gather_entries(hidden_BLD, index_BM)
            return (hidden_BMD, *output[1:]) if isinstance(output, tuple) else hidden_BMD

        return hook

    def _left(self, reading: Reading, layer: int, hidden_BLD: Tensor) -> list[Tensor]:
        """Of each row the entries that go on: all text, and the image tokens that the pruner keeps."""
        owner, stage = self.owners[layer], reading.stages[-1]
        token_BL = (reading.stages[0].image_BL.cumsum(1) - 1).gather(1, reading.stages[0].find(stage))
        rows = []
        for row in range(len(stage.valid_BL)):
            stays_L = stage.valid_BL[row] & ~stage.image_BL[row]
            at_N = stage.image_BL[row].nonzero().squeeze(1)
            if len(at_N):
                attention = self._attention(owner, stage, row, at_N)
                hidden_ND, token_N = hidden_BLD[row, at_N.to(hidden_BLD.device)], token_BL[row, at_N]
                view = self._view(reading, layer, row, attention, hidden_ND, token_N, at_N)
                stays_L[at_N[_checked(owner.filter(view), len(view)).to(at_N.device)]] = True
            rows.append(stays_L.nonzero().squeeze(1))
        return rows

    def _view(
        self,
        reading: Reading,
        layer: int,
        row: int,
        attention_HTN: Tensor | None,
        hidden_ND: Tensor,
        token_N: Tensor,
        at_N: Tensor,
    ) -> LayerView:
        owner, places_N = self.owners[layer], reading.stages[-1].prompt_BL[row, at_N]
        image_N = torch.zeros_like(places_N)
        for ordinal, image in enumerate(reading.images[row]):
            image_N[torch.isin(places_N, image.positions_N)] = ordinal
        own_layers = sorted(number for number, other in self.owners.items() if other is owner)
        return LayerView(
            layer=layer,
            stage=own_layers.index(layer),
            num_layers=len(self.anatomy.layers),
            attention_HTN=attention_HTN,
            hidden_ND=hidden_ND,
            token_N=token_N,
            image_N=image_N,
            num_tokens=int(reading.stages[0].image_BL[row].sum()),
            sample=row,
            notes=reading.notes[row],
        )

    def _attention(self, owner: VisionTokenPruner, stage: Stage, row: int, tokens_N: Tensor) -> Tensor | None:
        """(H, T, N) probabilities of the rows that the pruner looks at."""
        if owner.attention_rows is None:
            return None
        text_L = stage.valid_BL[row] & ~stage.image_BL[row]
        text_L[: tokens_N[0]] = False
        if owner.attention_rows == "last" or not text_L.any():
            text_L[:-1], text_L[-1] = False, True  # padding is on the left
        rows_T = text_L.nonzero().squeeze(1)
        inputs = self._attention_inputs
        cos, sin = (x.expand(len(stage.valid_BL), -1, -1)[row] for x in inputs["rotary"])
        module, cache = inputs["module"], inputs["cache"]
        keys_HLD = None if cache is None else cache.layers[module.layer_idx].keys[row]
        hidden_LD = inputs["hidden"][row]
        probabilities_HTL = attention_rows(
            module, hidden_LD, (cos, sin), rows_T, stage.valid_BL[row], keys_HLD
        )
        return probabilities_HTL[:, :, tokens_N]

    def _deepstack(self, process: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def processed(hidden_states: Tensor, visual_pos_masks: Tensor, visual_embeds: Tensor) -> Tensor:
            if not self._prefilling or len(self.reading.stages) == 1:  # type: ignore[union-attr]
                return process(hidden_states, visual_pos_masks, visual_embeds)
            first, stage = self.reading.stages[0], self.reading.stages[-1]  # type: ignore[union-attr]
            number_BL = first.image_BL.flatten().cumsum(0).view(first.image_BL.shape) - 1
            rows = number_BL.gather(1, first.find(stage))[stage.image_BL]
            return process(hidden_states, stage.image_BL, visual_embeds[rows.to(visual_embeds.device)])

        return processed


def _owners(parts: Sequence[VisionTokenPruner], num_layers: int) -> dict[int, VisionTokenPruner]:
    """Decoder layer → the pruner that filters after it."""
    owners: dict[int, VisionTokenPruner] = {}
    for part in parts:
        for layer in part.layers(num_layers):
            if not 0 <= layer < num_layers - 1:
                raise InputError(
                    f"{type(part).__name__} prunes after layer {layer}, but the language model's layers are "
                    f"0 … {num_layers - 1} and the last has none behind it; name a layer below it"
                )
            if layer in owners:
                raise InputError(f"two pruners of the chain prune after layer {layer}; move one of them")
            owners[layer] = part
    return owners


def _checked(index_K: Tensor, total: int) -> Tensor:
    """A mistake of a pruner, not of its user."""
    if not len(index_K) or int(index_K.min()) < 0 or int(index_K.max()) >= total:
        raise ValueError(f"a filter of {len(index_K)} entries out of {total} must name 1 … {total} of them")
    return index_K


def _to(device: torch.device, rotary: tuple[Tensor, Tensor], mask: Tensor | None) -> dict[str, Any]:
    """Arguments of a layer; its plain position ids only serve to find packed prompts: gaps are no borders."""
    cos, sin = rotary
    mask = None if mask is None else mask.to(device)
    return {
        "position_embeddings": (cos.to(device), sin.to(device)),
        "attention_mask": mask,
        "position_ids": None,
    }
