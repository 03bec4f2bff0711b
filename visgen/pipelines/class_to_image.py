"""Class labels become images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from visgen.errors import InputError
from visgen.generators.base import ImageGenerator
from visgen.nn.flow import FlowSampling
from visgen.pipelines.base import ImagePipeline, Job
from visgen.pipelines.conditioning import (
    Labels,
    as_labels,
    class_condition,
    condition_kind,
    random_labels,
    repeat_each,
)
from visgen.pipelines.flow_decoding import check_length, decoding_request, length_facts
from visgen.pipelines.options import DEFAULT, Default, OutputType, check_output_type, override, positive
from visgen.pipelines.output import Callback, ImageOutput, convert_images
from visgen.pipelines.seeds import Generators, ImageSeed, Seed, image_seeds
from visgen.pipelines.strategies import strategy_facts, strategy_request
from visgen.tokenizers.base import ImageTokenizer


class ClassToImagePipeline(ImagePipeline):
    """Class to image.

    Args:
        tokenizer: turns tokens into images.
        generator: predicts tokens from a class.
        sampling: default options, the generator's `sampling_family` (most: `TokenSampling`) or its keywords;
            None = no guidance and no filters.
        drafter: a small model that drafts tokens for the strategies "speculative" and "lantern", or None.
    """

    _optional_components: ClassVar[list[str]] = ["drafter"]

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        generator: ImageGenerator,
        sampling: Any | Mapping[str, Any] | None = None,
        drafter: Any = None,
    ) -> None:
        super().__init__()
        condition = condition_kind(generator, "class")
        if condition != "class":
            raise InputError(
                f"generator is conditioned on {condition}, not on classes; use TextToImagePipeline"
            )
        self._set_up(sampling, tokenizer=tokenizer, generator=generator, drafter=drafter)

    @property
    def num_classes(self) -> int:
        """Labels run from 0 to this less one."""
        return self.generator.config.num_classes

    def __call__(
        self,
        label: Labels = None,
        *,
        num_images_per_prompt: int = 1,
        seed: Seed = None,
        generator: Generators = None,
        ordinals: Sequence[int] | None = None,
        guidance_scale: float | Default = DEFAULT,
        guidance_schedule: str | Default = DEFAULT,
        temperature: float | Default = DEFAULT,
        top_k: int | Default | None = DEFAULT,
        top_p: float | Default | None = DEFAULT,
        smooth: bool | Default = DEFAULT,
        num_inference_steps: int | Default = DEFAULT,
        solver: str | Default = DEFAULT,
        strategy: Any = None,
        strategy_options: Mapping[str, Any] | None = None,
        num_tokens: int | None = None,
        decoding: FlowSampling | Mapping[str, Any] | None = None,
        output_type: OutputType = "pil",
        batch_size: int = 16,
        fixed_batch: bool = False,
        callback_on_step_end: Callback | None = None,
    ) -> ImageOutput:
        """Generate images of one class or several. Same seed and class, same image, in any batch.

        Args:
            label: a class or several; -1 = unconditional; None = classes drawn at random, from the seed.
            num_images_per_prompt: images of each label (of None: images in all).
            seed: an integer, one per image, or None for a fresh one (reported in the output).
            generator: a torch generator to draw the seeds from, or one per image; instead of `seed`.
            ordinals: image i is drawn from (its seed, ordinals[i]), one per image, 0 or more; None counts the
                images of each label.
            guidance_scale: 1 = off; higher follows the class more closely.
            guidance_schedule: "constant", or "linear" from 1 at the first step.
            temperature, top_k, top_p, smooth: see `TokenSampling`; None = off, `DEFAULT` = the model's.
            num_inference_steps, solver: of models that make latents by a flow, see `EntitySampling`.
            strategy: how next-token models decode: a name of `visgen.decoding.STRATEGIES`, "NAME:VALUE", or a
                `DecodingStrategy`; None = one token after another. strategy_options: its keywords.
            num_tokens: models of 1-D sequences stop after so many tokens: a coarser image; None = all.
            decoding: how a decoder that starts from noise is sampled, a `FlowSampling` or some of its
                keywords; None = the tokenizer's own way.
            output_type: "pil", "np" (float (B, H, W, 3) in [0, 1]) or "pt" (float (B, 3, H, W) in [0, 1]).
            batch_size: images generated at once (one with `smooth`, and on a CPU by generators of latents,
                unless `fixed_batch`).
            fixed_batch: always compute `batch_size` rows, so that half precision does not show the batch.
            callback_on_step_end: `callback(pipe, step, total, state)` after each step; `state.images()` gives
                the images so far.

        Raises:
            InputError: an argument of the wrong type or range.
        """
        check_output_type(output_type)
        options = override(
            self.sampling,
            guidance_scale=guidance_scale,
            guidance_schedule=guidance_schedule,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            smooth=smooth,
            num_inference_steps=num_inference_steps,
            solver=solver,
        )
        check_length(self.generator, self.tokenizer, num_tokens)
        flow = decoding_request(self.tokenizer, decoding)
        count = positive("num_images_per_prompt", num_images_per_prompt)
        labels, seeds = self._labels_and_seeds(label, count, seed, generator, ordinals)
        job = Job(
            condition=class_condition(labels),
            seeds=seeds,
            sampling=options,
            finish=lambda pixels, rows: convert_images(pixels, output_type),
            batch_size=positive("batch_size", batch_size),
            fixed_batch=fixed_batch,
            callback=callback_on_step_end,
            strategy=strategy_request(self, strategy, strategy_options),
            num_tokens=num_tokens,
            decoding=flow,
        )
        images, tokens, stats = self.generate_images(job)
        told = strategy_facts(strategy, strategy_options) | length_facts(num_tokens, flow)
        settings = self._settings(options, **told)
        return ImageOutput(images, tokens, labels=labels, seeds=list(seeds), settings=settings, stats=stats)

    def _labels_and_seeds(
        self,
        label: Labels,
        count: int,
        seed: Seed,
        generator: Generators,
        ordinals: Sequence[int] | None,
    ) -> tuple[list[int], list[ImageSeed]]:
        if label is not None:
            labels = repeat_each(as_labels(label, self.num_classes), count)
            return labels, image_seeds(labels, seed, generator, ordinals)
        drawn = image_seeds([None] * count, seed, generator, ordinals)
        labels = random_labels(drawn, self.num_classes)
        seeds = [one for one, _ in drawn]
        return labels, image_seeds(labels, seeds, ordinals=ordinals)  # as if these labels had been asked for
