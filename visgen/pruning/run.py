"""Applying pruners to a model: the context, its checks, and the report.

`PruneRun` watches three forwards. The base model's tells whether a prompt is read or a token is decoded, and
with which prompt; the language model's is given the pruned sequence (`visgen.pruning.reading`); its layers
drop more (`visgen.pruning.inside`). All state is that of the prompt last read.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import Cache, DynamicCache

from visgen.errors import InputError, shown
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.encoding import Encoded, Encoder, plain
from visgen.pruning.families import Anatomy, locate
from visgen.pruning.flops import DecoderShape
from visgen.pruning.inside import Inside
from visgen.pruning.reading import Incoming, Reading, read_prompt
from visgen.pruning.report import Clock, PruneReport
from visgen.pruning.undo import Undo

MARK = "_visgen_prune_run"  # on a model that is being pruned
ONE_BY_ONE = (
    "inside a pruner a prompt is read whole and then one token at a time; chunked prefill, assisted decoding "
    "and a further turn on a pruned cache do not work: give the whole conversation as one prompt"
)


class PruneRun:
    """What goes on inside `with pruner(model) as run`.

    Attributes:
        pruner: as it was given.
    """

    def __init__(self, model: Any, pruner: VisionTokenPruner, seen: Encoder | None = None) -> None:
        self.pruner = pruner
        self.anatomy: Anatomy = locate(model)
        self._parts = pruner.parts
        self._compact = _compact(self.anatomy, self._parts)
        self._clock = Clock(self.anatomy.base.device)
        self._encoder = Encoder(self.anatomy, self._parts, self._clock, seen)
        self._inside = Inside(self.anatomy, self._parts, self._compact, self._clock)
        self._incoming: Incoming | None = None
        self._reading: Reading | None = None
        self._report: PruneReport | None = None
        self._caches: weakref.WeakSet[Cache] = weakref.WeakSet()

    @property
    def report(self) -> PruneReport:
        """What became of the prompts last read.

        Raises:
            InputError: no prompt with an image was read yet.
        """
        if self._report is None:
            raise InputError("run.report: nothing was pruned yet; call the model with a picture first")
        return self._report

    def attach(self, undo: Undo) -> None:
        """Put all hooks in place."""
        self._encoder.attach(undo)
        undo.before(self.anatomy.model, self._refuse_labels)
        undo.before(self.anatomy.base, self._before_base)
        undo.after(self.anatomy.base, self._after_base)
        undo.before(self.anatomy.language, self._before_language)
        undo.after(self.anatomy.language, self._after_language)
        self._inside.attach(undo)

    def close(self) -> None:
        """Let go of the last prompt, and make pruned caches say what they are."""
        for cache in self._caches:
            cache.update = _refuse_update  # type: ignore[method-assign]
        self._incoming = self._reading = None
        self._inside.start(None)

    def _refuse_labels(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs.get("labels") is not None:
            raise InputError(
                "labels do not fit a pruned sequence; compute the loss from logits and run.report.entries_BL"
            )

    def _before_base(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        cache, self._incoming = _cache_of(kwargs), None
        if cache is not None and cache.get_seq_length() > 0:
            self._check_step(cache, args, kwargs)
            return
        _check_cache(cache)
        mask = kwargs.get("attention_mask")
        if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
            raise InputError("attention_mask must be (B, L), ones and zeros, for a prompt that is pruned")
        ids = args[0] if args else kwargs.get("input_ids")
        if ids is None:
            raise InputError("input_ids is missing: inputs_embeds alone do not tell where images stand")
        self._incoming = Incoming(ids, mask, kwargs.get("mm_encoder_outputs") or {})
        self._clock.start()

    def _after_base(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._incoming is None:
            return
        self._incoming = None
        self._clock.stop()
        if self._reading is not None:
            shape = DecoderShape.of(self.anatomy.language.config)
            self._report = self._reading.report(self._clock, shape)
        self._clock.reset()

    def _before_language(
        self, module: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        if self._incoming is not None:
            encoded = self._encoded(self._incoming)
            self._reading = None  # of the prompt before
            found = read_prompt(
                self._incoming, encoded, kwargs, self.anatomy, self._parts, self._compact, self._clock
            )
            self._reading = None if found is None else found[0]
            self._inside.start(self._reading)
            return None if found is None else (args, found[1])
        if self._reading is not None:
            return args, self._reading.step(kwargs)
        return None

    def _after_language(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._incoming is None or self._reading is None:
            return
        cache = _cache_of(output)
        cuts = {layer for part in self._parts for layer in part.cut_cache(len(self.anatomy.layers))}
        self._reading.finish(cache, cuts)
        if cache is not None:
            self._caches.add(cache)

    def _encoded(self, incoming: Incoming) -> dict[str, Encoded]:
        """What was seen of the features that this prompt is given."""
        known = {}
        for modality in self.anatomy.placeholder_ids():
            last, given = self._encoder.last.get(modality), incoming.features.get(modality)
            if given is None or (last is not None and last.outputs is given):
                known[modality] = last
            else:
                known[modality] = plain(given)
        return {modality: encoded for modality, encoded in known.items() if encoded is not None}

    def _check_step(self, cache: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """One more token on the cache that the last prompt left, or on one that holds no image."""
        reading = self._reading
        pictures = kwargs.get("mm_encoder_outputs") or kwargs.get("pixel_values") is not None
        if reading is None and cache not in self._caches and not pictures:
            return
        ids = args[0] if args else kwargs.get("input_ids")
        steps = kwargs["inputs_embeds"].shape[1] if ids is None else ids.shape[1]
        if reading is None or cache is not reading.cache or steps != 1 or not reading.untouched():
            raise InputError(ONE_BY_ONE)


@contextmanager
def prune(model: Any, pruner: VisionTokenPruner, seen: Encoder | None = None) -> Iterator[PruneRun]:
    """Prune whatever `model` reads inside the block; afterwards the model is as it was.

    Args:
        model, pruner: see `VisionTokenPruner.__call__`.
        seen: what was seen of the pictures that will be read, where they are shared (`visgen.pruning.sight`).

    Raises:
        InputError: see `VisionTokenPruner.__call__`.
    """
    run = PruneRun(model, pruner, seen)
    if MARK in vars(model):
        raise InputError(
            f"model is being pruned by {shown(vars(model)[MARK].pruner)} already; "
            "combine pruners with PrunerChain, or leave that block first"
        )
    with Undo() as undo:
        undo.override(model, MARK, run)
        undo.callback(run.close)
        run.attach(undo)
        yield run


def _cache_of(mapping: Any) -> Any:
    """The cache among keyword arguments or outputs, under its name before and since transformers 5.24."""
    found = mapping.get("cache")
    return mapping.get("past_key_values") if found is None else found


def _check_cache(cache: Any) -> None:
    growing = isinstance(cache, DynamicCache) and not getattr(cache, "offloading", False)
    if cache is not None and not growing:
        raise InputError(
            f"the cache is a {type(cache).__name__}; layers of a pruned prompt have caches of different "
            "lengths, which need a DynamicCache that is not offloaded: leave cache_implementation out"
        )


def _compact(anatomy: Anatomy, parts: Sequence[VisionTokenPruner]) -> bool:
    """Whether positions are counted anew; parts of a chain must agree."""
    wanted = {part.positions for part in parts}
    if len(wanted) > 1:
        raise InputError("positions differ among the pruners of the chain; give all of them the same")
    if "compact" in wanted and anatomy.family.mrope:
        raise InputError(
            f"positions='compact' has no meaning for a {type(anatomy.model).__name__}, whose image tokens "
            "have places in time, height and width; use positions='preserve'"
        )
    return "compact" in wanted


def _refuse_update(*args: Any, **kwargs: Any) -> Any:
    raise InputError(
        "this cache was filled by a pruned prompt and cannot go on outside the pruner's block; "
        "start from the whole conversation with a new cache"
    )
