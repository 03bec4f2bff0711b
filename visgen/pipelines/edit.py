"""Part of an image made anew: in-painting, out-painting, and editing towards a prompt or a class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from visgen.data.images import ImageInput
from visgen.errors import InputError
from visgen.generators.base import ImageGenerator
from visgen.generators.conditions import Condition
from visgen.nn.flow import FlowSampling
from visgen.pipelines.base import ImagePipeline, Job
from visgen.pipelines.conditioning import (
    UNCONDITIONAL,
    Labels,
    as_labels,
    as_negatives,
    as_prompts,
    class_condition,
    condition_kind,
    repeat_each,
    text_condition,
)
from visgen.pipelines.flow_decoding import decoding_request, length_facts
from visgen.pipelines.masks import Box, MaskInput, Region, box_region, finest_grid, mask_region
from visgen.pipelines.options import DEFAULT, Default, OutputType, check_output_type, override, positive
from visgen.pipelines.output import Callback, ImageOutput, Images, convert_images
from visgen.pipelines.pictures import as_image_list, image_size
from visgen.pipelines.seeds import Generators, Seed, image_seeds
from visgen.pipelines.strategies import strategy_facts, strategy_request
from visgen.pipelines.text_to_image import check_text_length
from visgen.tokenizers.base import ImageTokenizer


class EditPipeline(ImagePipeline):
    """Keeps the tokens of a part of an image and generates the others.

    `EditPipeline.from_pipe(pipe)` edits with the model of another pipeline.

    Args:
        tokenizer: turns images into tokens and back.
        generator: predicts tokens.
        text: needed by generators that are conditioned on text.
        sampling: default options, `TokenSampling` or its keywords; None = no guidance and no filters.
        drafter: as for `TextToImagePipeline`.
    """

    _optional_components: ClassVar[list[str]] = ["text", "drafter"]

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        generator: ImageGenerator,
        text: Any = None,
        sampling: Any | Mapping[str, Any] | None = None,
        drafter: Any = None,
    ) -> None:
        super().__init__()
        if getattr(generator, "continuous", False):
            raise InputError(
                f"{type(generator).__name__} makes latents, of which no part can be kept; edit with a "
                "model of ids, such as scenes-var"
            )
        condition = condition_kind(generator, "class" if text is None else "prompt")
        if condition != "class" and text is None:
            raise InputError(f"generator is conditioned on {condition}; give a text component too")
        if text is not None:
            check_text_length(text, generator)
        text = None if condition == "class" else text
        self._set_up(sampling, tokenizer=tokenizer, generator=generator, text=text, drafter=drafter)

    def __call__(
        self,
        image: ImageInput,
        prompt: str | Sequence[str] | None = None,
        *,
        label: Labels = None,
        box: Box | None = None,
        mask: MaskInput | None = None,
        invert: bool = False,
        paste: bool = False,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        seed: Seed = None,
        generator: Generators = None,
        guidance_scale: float | Default = DEFAULT,
        guidance_schedule: str | Default = DEFAULT,
        temperature: float | Default = DEFAULT,
        top_k: int | Default | None = DEFAULT,
        top_p: float | Default | None = DEFAULT,
        smooth: bool | Default = DEFAULT,
        strategy: Any = None,
        strategy_options: Mapping[str, Any] | None = None,
        decoding: FlowSampling | Mapping[str, Any] | None = None,
        output_type: OutputType = "pil",
        batch_size: int = 16,
        fixed_batch: bool = False,
        callback_on_step_end: Callback | None = None,
    ) -> ImageOutput:
        """Make the box or the white of the mask anew; the rest keeps its tokens (its pixels change a little).

        Args:
            image: one image or several; the square that the model sees is the centre crop.
            prompt: for text models, one or one per image; None = unconditional, plain in-painting.
            label: for class models, one or one per image; None = unconditional.
            box: (x0, y0, x1, y1) in fractions of the square; what is inside is made anew.
            mask: white = made anew, as in diffusers; laid over the whole image, of any size and mode.
            invert: keep what is inside and make the outside anew: out-painting.
            paste: put the source pixels of the kept part back over the result.
            negative_prompt: what guidance leads away from; None = the empty prompt.
            num_images_per_prompt: variants of each image.
            seed: an integer, one per result, or None for a fresh one (reported in the output).
            generator: a torch generator to draw the seeds from, or one per result; instead of `seed`.
            guidance_scale, guidance_schedule, temperature, top_k, top_p, smooth: see `TokenSampling`.
            output_type: "pil", "np" (float (B, H, W, 3) in [0, 1]) or "pt" (float (B, 3, H, W) in [0, 1]).
            strategy, strategy_options, decoding, batch_size, fixed_batch, callback_on_step_end: as for
                `TextToImagePipeline`.

        Raises:
            InputError: not exactly one of box and mask, a region without a token, or another bad argument.
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
        )
        flow = decoding_request(self.tokenizer, decoding)
        count, batch_size = (
            positive("num_images_per_prompt", num_images_per_prompt),
            positive("batch_size", batch_size),
        )
        images = as_image_list(image)
        sources, subjects = _pair_up(len(images), self._subjects(prompt, label))
        negatives = as_negatives(negative_prompt, len(subjects))
        sources, subjects = repeat_each(sources, count), repeat_each(subjects, count)
        seeds = image_seeds(list(zip(sources, subjects, strict=True)), seed, generator)
        condition = self._condition(subjects, None if negatives is None else repeat_each(negatives, count))
        region = self._region(images, box, mask, invert)
        pixels = torch.cat([self.tokenizer.preprocess(one) for one in images]).float().cpu()

        def finish(made: Tensor, rows: range) -> Images:
            own = [sources[row] for row in rows]
            if paste:
                made = torch.where(region.rows(own).keep_pixels, pixels[own], made)
            return convert_images(made, output_type)

        job = Job(
            condition=condition,
            seeds=seeds,
            sampling=options,
            finish=finish,
            batch_size=batch_size,
            fixed_batch=fixed_batch,
            callback=callback_on_step_end,
            strategy=strategy_request(self, strategy, strategy_options),
            decoding=flow,
            known=(self.encode_images(pixels)[sources], region.rows(sources).keep),
        )
        made, tokens, stats = self.generate_images(job)
        told = {
            "box": None if box is None else tuple(box),
            "mask": mask is not None,
            "invert": invert,
            "paste": paste,
            **strategy_facts(strategy, strategy_options),
            **length_facts(None, flow),
        }
        settings = self._settings(options, negative_prompt=negative_prompt, **told)
        named = {"labels": subjects} if self.text is None else {"prompts": subjects}
        return ImageOutput(made, tokens, seeds=list(seeds), settings=settings, stats=stats, **named)

    def _subjects(self, prompt: str | Sequence[str] | None, label: Labels) -> list[Any]:
        """Prompts or labels, whichever the model reads."""
        if self.text is None:
            if prompt is not None:
                raise InputError(f"prompt={prompt!r}: this model knows classes, not words; give label")
            return as_labels(UNCONDITIONAL if label is None else label, self.generator.config.num_classes)
        if label is not None:
            raise InputError(f"label={label!r}: this model reads text, not classes; give prompt")
        return as_prompts("" if prompt is None else prompt)

    def _condition(
        self, subjects: list[Any], negatives: list[str] | None
    ) -> Callable[[list[int]], Condition]:
        if self.text is not None:
            return text_condition(self.text, subjects, negatives, self._execution_device)
        if negatives is not None:
            raise InputError("negative_prompt is for models that read text; this one knows classes")
        return class_condition(subjects)

    def _region(self, images: list[Any], box: Box | None, mask: MaskInput | None, invert: bool) -> Region:
        if (box is None) == (mask is None):
            raise InputError("give exactly one of box and mask, to say which part is made anew")
        grid, size = finest_grid(self.tokenizer.layout), self.tokenizer.pixel_size
        if box is not None:
            return box_region(box, grid, size, invert)
        masks = list(mask) if isinstance(mask, (list, tuple)) else [mask]
        return mask_region(masks, [image_size(one) for one in images], grid, size, invert)


def _pair_up(images: int, subjects: list[Any]) -> tuple[list[int], list[Any]]:
    """Which image goes with which prompt or label: one of either serves all of the other."""
    if 1 not in (images, len(subjects)) and images != len(subjects):
        raise InputError(
            f"{images} images with {len(subjects)} prompts or labels; give one, or one per image"
        )
    total = max(images, len(subjects))
    return (list(range(images)) if images > 1 else [0] * total), subjects * (total // len(subjects))
