"""Prompts become images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from visgen.errors import InputError
from visgen.generators.base import ImageGenerator
from visgen.nn.flow import FlowSampling
from visgen.pipelines.base import ImagePipeline, Job
from visgen.pipelines.conditioning import (
    as_negatives,
    as_prompts,
    condition_kind,
    repeat_each,
    text_condition,
)
from visgen.pipelines.flow_decoding import check_length, decoding_request, length_facts
from visgen.pipelines.options import DEFAULT, Default, OutputType, check_output_type, override, positive
from visgen.pipelines.output import Callback, ImageOutput, convert_images
from visgen.pipelines.seeds import Generators, Seed, image_seeds
from visgen.pipelines.strategies import strategy_facts, strategy_request
from visgen.tokenizers.base import ImageTokenizer


class TextToImagePipeline(ImagePipeline):
    """Text to image.

    Args:
        tokenizer: turns tokens into images.
        generator: predicts tokens from a prompt.
        text: turns prompts into what the generator is conditioned on (`WordVocabulary`, `TextFeatures`).
        sampling: default options, the generator's `sampling_family` (most: `TokenSampling`) or its keywords;
            None = no guidance and no filters.
        drafter: a small model that drafts tokens for the strategies "speculative" and "lantern", or None.
    """

    _optional_components: ClassVar[list[str]] = ["drafter"]

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        generator: ImageGenerator,
        text: Any,
        sampling: Any | Mapping[str, Any] | None = None,
        drafter: Any = None,
    ) -> None:
        super().__init__()
        if condition_kind(generator, "prompt") == "class":
            raise InputError("generator is conditioned on classes, not on text; use ClassToImagePipeline")
        check_text_length(text, generator)
        self._set_up(sampling, tokenizer=tokenizer, generator=generator, text=text, drafter=drafter)

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
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
        """Generate images of one prompt or several. Same seed and prompt, same image, in any batch.

        Args:
            prompt: what to show; "" is unconditional.
            negative_prompt: what guidance leads away from, one or one per prompt; None = the empty prompt.
            num_images_per_prompt: images of a prompt stand together in the output.
            seed: an integer, one per image, or None for a fresh one (reported in the output).
            generator: a torch generator to draw the seeds from, or one per image; instead of `seed`.
            ordinals: image i is drawn from (its seed, ordinals[i]), one per image, 0 or more; None counts the
                images of each prompt.
            guidance_scale: 1 = off; higher follows the prompt more closely.
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
            InputError: an argument of the wrong type or range, or a prompt that is too long.
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
        prompts = as_prompts(prompt)
        negatives = as_negatives(negative_prompt, len(prompts))
        prompts, negatives = (
            repeat_each(prompts, count),
            None if negatives is None else repeat_each(negatives, count),
        )
        seeds = image_seeds(prompts, seed, generator, ordinals)
        job = Job(
            condition=text_condition(self.text, prompts, negatives, self._execution_device),
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
        settings = self._settings(options, negative_prompt=negative_prompt, **told)
        return ImageOutput(images, tokens, prompts=prompts, seeds=list(seeds), settings=settings, stats=stats)


def check_text_length(text: Any, generator: Any) -> None:
    """Raise `InputError` when the text component and the generator disagree on the number of words."""
    expected, found = getattr(generator.config, "text_length", None), getattr(text, "length", None)
    if expected is not None and found is not None and expected != found:
        raise InputError(f"text component gives {found} words, but the generator was made for {expected}")
