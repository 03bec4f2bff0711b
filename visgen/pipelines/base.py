"""The base of every pipeline: diffusers' `DiffusionPipeline`, saved and loaded through our registries."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

import visgen
from visgen.errors import InputError, shown
from visgen.generators.base import GenerationRequest, GenerationResult
from visgen.generators.conditions import Condition
from visgen.nn.flow import FlowSampling
from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling
from visgen.pipelines.batching import device_of, fixed_shape, micro_batches, wake
from visgen.pipelines.fitting import check_fit
from visgen.pipelines.flow_decoding import DECODING
from visgen.pipelines.model_index import (
    INDEX_NAME,
    LIBRARY,
    SLOTS,
    ModelIndex,
    register_component,
    save_component,
)
from visgen.pipelines.options import changed_options
from visgen.pipelines.output import Callback, Images, join_images
from visgen.pipelines.seeds import ImageSeed
from visgen.pipelines.steps import StepReporter
from visgen.pipelines.strategies import merged_stats
from visgen.tokenizers.tokens import ImageTokens

Pipeline = TypeVar("Pipeline", bound="ImagePipeline")


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that one call generates.

    Attributes:
        condition: rows → what they show.
        seeds: (seed, ordinal) of each image.
        sampling: resolved options.
        finish: (pixels (B, 3, H, W) on the CPU, their rows) → images of the wanted type.
        batch_size: images generated at once.
        fixed_batch: pad the last micro-batch to `batch_size`.
        callback: `callback(pipe, step, total, state)` after each step.
        known: (source tokens (N, L), keep mask (N or 1, h, w)) for editing.
        strategy: how next-token models decode, see `strategy_request`; None = one token after another.
        num_tokens: stop after so many tokens; None = all.
        decoding: how a decoder that starts from noise is sampled; None = the tokenizer's own way.
    """

    condition: Callable[[list[int]], Condition]
    seeds: Sequence[ImageSeed]
    sampling: Any
    finish: Callable[[Tensor, range], Images]
    batch_size: int
    fixed_batch: bool = False
    callback: Callback | None = None
    known: tuple[ImageTokens, Tensor] | None = None
    strategy: Any = None
    num_tokens: int | None = None
    decoding: FlowSampling | None = None

    def rows_at_once(self, generator: Any, device: torch.device) -> int:
        """Rows of a micro-batch. One with `smooth`, and on a CPU of a generator of latents: their pixels are
        made of floats, which show the shape of a batch."""
        latents = getattr(generator, "continuous", False) and device.type == "cpu"
        alone = (latents or getattr(self.sampling, "smooth", False)) and not self.fixed_batch
        return 1 if alone else self.batch_size


class ImagePipeline(DiffusionPipeline):
    """Components and what all pipelines do with them.

    `.to(device, dtype)`, `enable_model_cpu_offload()`, `set_progress_bar_config(disable=True)` and
    `from_pipe` work as in diffusers.

    Attributes:
        sampling: the model's default options; a call's options replace single ones.
        card: what people want to know: licence, recipe, parity, notes.
    """

    model_cpu_offload_seq = "generator->tokenizer"

    def _set_up(self, sampling: Any, **modules: Any) -> None:
        check_fit(modules.get("tokenizer"), modules.get("generator"), modules.get("text"))
        self.register_modules(**modules)
        family = getattr(modules.get("generator"), "sampling_family", TokenSampling)
        self.sampling = _as_sampling(sampling, family)
        self.card: dict[str, str] = {}

    def register_modules(self, **modules: Any) -> None:
        """As in diffusers, but the config names our registries' entries instead of modules."""
        for name, module in modules.items():
            self.register_to_config(
                **{name: (None, None) if module is None else (LIBRARY, type(module).__name__)}
            )
            setattr(self, name, module)

    @classmethod
    def from_components(cls: type[Pipeline], components: Mapping[str, Any], sampling: Any = None) -> Pipeline:
        """Build this pipeline from those of `components` that it uses.

        Raises:
            InputError: a component that it needs is missing.
        """
        missing = [slot for slot in required_slots(cls) if components.get(slot) is None]
        if missing:
            raise InputError(
                f"{cls.__name__} needs a {' and a '.join(missing)}, which this model does not have"
            )
        own = {slot: components.get(slot) for slot in all_slots(cls)}
        return cls(**own, **({"sampling": sampling} if "sampling" in _parameters(cls) else {}))

    @classmethod
    def from_pipe(cls: type[Pipeline], pipeline: ImagePipeline, **components: Any) -> Pipeline:  # type: ignore[override]
        """Another pipeline over the same components; nothing is copied, moved or converted.

        Args:
            pipeline: where components and default sampling come from.
            components: components to use instead, by name.
        """
        new = cls.from_components({**pipeline.components, **components}, pipeline.sampling)
        if pipeline.name_or_path is not None:
            new.register_to_config(_name_or_path=pipeline.name_or_path)
        new.card = dict(pipeline.card)
        new.set_progress_bar_config(**getattr(pipeline, "_progress_bar_config", {}))
        return new

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls: type[Pipeline],
        name_or_path: str | os.PathLike[str],
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        local_files_only: bool = False,
    ) -> Pipeline:
        """Load a model as this pipeline (`ImagePipeline`: as the one its folder names).

        Arguments and errors as for `visgen.load`.
        """
        from visgen.pipelines.loading import load_as

        return load_as(cls, name_or_path, dtype=dtype, device=device, local_files_only=local_files_only)

    def save_pretrained(  # type: ignore[override]
        self,
        folder: str | os.PathLike[str],
        *,
        dtype: torch.dtype | None = None,
        shared: Mapping[str, str] | None = None,
        card: Mapping[str, str] | None = None,
    ) -> None:
        """Write `model_index.json` and a subfolder per component.

        Args:
            folder: where; made if missing.
            dtype: of the stored weights; None keeps theirs.
            shared: component, or part of one such as "tokenizer.codec.cnn", → "MODEL/COMPONENT" of a shipped
                model, to refer to instead of writing it.
            card: licence, recipe, parity, notes; None keeps the model's own.

        Raises:
            InputError: a component that is not of our registries, or a reference to nothing.
        """
        folder, shared = Path(folder), shared or {}
        components = {}
        for slot, module in self.components.items():
            if module is not None:
                components[slot] = register_component(slot, module, shared.get(slot))
        for slot, component in components.items():
            if component.shared is None:
                parts = {k.removeprefix(f"{slot}."): v for k, v in shared.items() if k.startswith(f"{slot}.")}
                save_component(self.components[slot], folder / slot, dtype, parts)
        folder.mkdir(parents=True, exist_ok=True)
        index = ModelIndex(type(self).__name__, components, changed_options(self.sampling), card or self.card)
        (folder / INDEX_NAME).write_text(
            index.to_json(), encoding="utf-8"
        )  # last: an index means a whole folder

    @torch.no_grad()
    def generate_images(self, job: Job) -> tuple[Images, ImageTokens, dict[str, Any]]:
        """Run a job: images as `job.finish` makes them, tokens on the CPU, and what generating them took."""
        at_once = job.rows_at_once(self.generator, device_of(self.generator))
        batches = list(micro_batches(len(job.seeds), at_once, job.fixed_batch))
        images, tokens, stats = [], [], []
        try:
            with StepReporter(self, len(batches), self._decode_latents, job.callback) as reporter:
                for rows, index in batches:
                    result = self._generate(job, rows, index, reporter)
                    images.append(job.finish(self._decode_result(result, job, rows), rows))
                    tokens.append(result.tokens[: len(rows)].to("cpu"))
                    stats.append(result.stats)
        finally:
            self.maybe_free_model_hooks()
        counts = [len(rows) for rows, _ in batches]
        return join_images(images), ImageTokens.cat(tokens), merged_stats(stats, counts)

    def _generate(self, job: Job, rows: range, index: list[int], reporter: StepReporter) -> GenerationResult:
        def on_step(step: Any) -> None:
            reporter.on_step(step, rows)
            wake(self.generator)  # a callback that decodes may have offloaded it

        wake(self.generator)
        device = device_of(self.generator)
        condition = job.condition(index).to(device)
        noise = Noise.per_image(job.seeds[i] for i in index)
        request = GenerationRequest(
            condition,
            job.sampling,
            noise,
            known=_known_rows(job.known, index, device),
            num_tokens=job.num_tokens,
        )
        quantizer = self._quantizer(device)
        return self.generator.generate(request, quantizer=quantizer, strategy=job.strategy, on_step=on_step)

    def _quantizer(self, device: torch.device) -> Any:
        """The tokenizer's quantizer, or a copy where the generator is while the tokenizer is offloaded."""
        quantizer = self.tokenizer.quantizer
        if quantizer is None or device_of(quantizer).type == device.type:
            return quantizer
        return copy.deepcopy(quantizer).to(device)

    def _decode_result(self, result: GenerationResult, job: Job, rows: range) -> Tensor:
        if result.latents is not None:
            return self._decode_latents(result.latents[: len(rows)])
        # Of a stream of its own: how many draws the tokens took differs with their number and the strategy,
        # and with some strategies with the batch.
        noise = Noise.per_image((job.seeds[row] for row in rows), stream=DECODING)
        return self._decode(result.tokens[: len(rows)], noise, job.decoding)

    def _decode(self, tokens: ImageTokens, noise: Noise | None = None, sampling: Any = None) -> Tensor:
        """Pixels (B, 3, H, W) of tokens, on the CPU.

        Args:
            tokens: of B images.
            noise: a row per image, for decoders that start from noise (others draw none); None = the same
                draw for every image.
            sampling: a `FlowSampling` for such decoders; None = the tokenizer's own.
        """
        wake(self.tokenizer)
        device = device_of(self.tokenizer)
        if not self.tokenizer.starts_from_noise:
            return fixed_shape(lambda t: self.tokenizer.decode(t).float(), tokens.to(device), device)

        def decode(some: ImageTokens, noise: Noise | None = None) -> Tensor:
            return self.tokenizer.decode(some, sampling=sampling, noise=noise).float()

        return fixed_shape(decode, tokens.to(device), device, noise)

    def _decode_latents(self, latents: Tensor) -> Tensor:
        wake(self.tokenizer)
        device = device_of(self.tokenizer)
        with torch.no_grad():
            return fixed_shape(lambda f: self.tokenizer.decode_latents(f).float(), latents.to(device), device)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> ImageTokens:
        """Tokens of pixels (B, 3, H, W) in [-1, 1], on the CPU."""
        wake(self.tokenizer)
        device = device_of(self.tokenizer)
        dtype = self.tokenizer.dtype
        return fixed_shape(lambda x: self.tokenizer.encode(x), pixels.to(device, dtype), device)

    def _settings(self, sampling: Any = None, **more: Any) -> dict[str, Any]:
        """How the images of a call were made, for `ImageOutput.settings`."""
        return {
            "model": self.name_or_path,
            "pipeline": type(self).__name__,
            "sampling": None if sampling is None else asdict(sampling),
            **more,
            "device": str(self._execution_device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "visgen_version": visgen.__version__,
        }


def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(cls.__init__).parameters  # type: ignore[misc]


def all_slots(cls: type[ImagePipeline]) -> list[str]:
    """Components that a pipeline class takes."""
    return [name for name in _parameters(cls) if name in SLOTS]


def required_slots(cls: type[ImagePipeline]) -> list[str]:
    """Components that a pipeline class cannot do without."""
    return [name for name in all_slots(cls) if _parameters(cls)[name].default is inspect.Parameter.empty]


def _known_rows(known: tuple[ImageTokens, Tensor] | None, index: list[int], device: torch.device) -> Any:
    if known is None:
        return None
    tokens, keep = known
    return tokens[index].to(device), (keep if len(keep) == 1 else keep[index]).to(device)


def _as_sampling(sampling: Any, family: type) -> Any:
    """Default options of a family of models, from its dataclass or keywords of it."""
    if sampling is None:
        return family()
    if not isinstance(sampling, Mapping):
        return sampling
    try:
        return family(**sampling)
    except TypeError as error:
        raise InputError(
            f"sampling={shown(dict(sampling))} does not fit {family.__name__} ({error})"
        ) from error
