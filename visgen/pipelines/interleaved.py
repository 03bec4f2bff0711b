"""Conversations of texts and images: a list of both goes in, a list of both comes out (SEED-LLaMA)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from visgen.data.images import to_pil
from visgen.errors import InputError
from visgen.nn.noise import Noise, image_seed
from visgen.pipelines.base import ImagePipeline
from visgen.pipelines.batching import device_of, fixed_shape, micro_batches, wake
from visgen.pipelines.drawing import DrawPrompts, ImageWriter, check_vocabulary, decoder_of
from visgen.pipelines.flow_decoding import DECODING, decoding_request
from visgen.pipelines.interleaved_messages import (
    Codes,
    Conversation,
    InterleavedOutput,
    Message,
    codes_of,
    messages_of,
    text_of,
)
from visgen.pipelines.interleaved_spans import AnswerPlan, Wanted, write_answers
from visgen.pipelines.language_models import SeedLlama
from visgen.pipelines.options import DEFAULT, Default, override, positive
from visgen.pipelines.output import ImageOutput
from visgen.pipelines.seed_prompts import (
    ParsedAnswer,
    Turn,
    build_prompt,
    parse_answer,
    style_named,
)
from visgen.pipelines.seeds import ImageSeed, Seed, image_seeds
from visgen.pipelines.text_to_image import TextToImagePipeline
from visgen.tokenizers.base import ImageTokenizer
from visgen.tokenizers.tokens import ImageTokens

CAPTION_TOKENS, LONGEST = 64, 512


class InterleavedPipeline(ImagePipeline):
    """A language model that reads and writes images as words.

    Args:
        tokenizer: images ⇄ codes, in the model's vocabulary.
        language_model: reads and writes words and codes.
        renderer: draws the tokenizer's embeddings; None for a model that only reads images, or a tokenizer
            that decodes by itself.
        sampling: default options, `TokenSampling` or its keywords; guidance is of `draw` alone.

    Raises:
        InputError: a tokenizer of other images than the vocabulary knows.
    """

    _optional_components: ClassVar[list[str]] = ["renderer"]
    model_cpu_offload_seq = "language_model->tokenizer->renderer"

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        language_model: SeedLlama,
        renderer: Any = None,
        sampling: Any | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_vocabulary(tokenizer, language_model)
        self._set_up(sampling, tokenizer=tokenizer, language_model=language_model, renderer=renderer)

    def __call__(self, conversation: Conversation, **options: Any) -> InterleavedOutput:
        """The answer to one conversation: `pipe(["Describe this picture:", image], output="text")`.

        Args:
            conversation: texts, pictures and `ImageTokens` that the user says; or `Message`s of both sides.
            options: as for `batch`.
        """
        return self.batch([conversation], **options)[0]

    @torch.no_grad()
    def batch(
        self,
        conversations: Sequence[Conversation],
        *,
        output: Wanted = "any",
        max_new_tokens: int | None = None,
        temperature: float | Default = DEFAULT,
        top_k: int | Default | None = DEFAULT,
        top_p: float | Default | None = DEFAULT,
        seed: Seed = None,
        ordinals: Sequence[int] | None = None,
        system: str | None = None,
        constrained: bool = True,
        decoding: Any = None,
        batch_size: int = 16,
    ) -> list[InterleavedOutput]:
        """Answers to several conversations. Same seed and conversation, same answer, in any batch.

        Args:
            conversations: see `__call__`.
            output: "text" = words alone; "image" = one image, begun by `<img>` behind the prompt; "any" =
                whatever the model writes.
            max_new_tokens: longest answer, an image takes its codes and two more; None = 512, or half of the
                model's positions where that is less.
            temperature, top_k, top_p: see `TokenSampling`; None = off, `DEFAULT` = the model's.
            seed: an integer, one per conversation, or None for fresh ones.
            ordinals: as for `TextToImagePipeline`.
            system: a sentence before the conversation.
            constrained: images are whole and codes stand nowhere else; False = as the official code, broken
                images are told in `errors`.
            decoding: how a renderer that starts from noise is sampled; None = its own way.
            batch_size: answers written at once.

        Raises:
            InputError: an argument of the wrong type or range, texts that hold `<img>` or "<image>", a
                conversation that is too long, or a wish for images where nothing draws them.
        """
        options = override(self.sampling, temperature=temperature, top_k=top_k, top_p=top_p)
        longest = self._longest if max_new_tokens is None else positive("max_new_tokens", max_new_tokens)
        plan = AnswerPlan(output, longest, constrained)
        decoder = decoder_of(self.tokenizer, self.renderer)
        if output != "text" and getattr(decoder, "renderer", decoder) is None:
            raise InputError(f"output={output!r}: this model has no renderer to draw with; use output='text'")
        flow = decoding_request(decoder, decoding)
        prompts = self._prompts(conversations, system, output == "image")
        seeds = image_seeds([tuple(prompt) for prompt in prompts], seed, None, ordinals)
        size = positive("batch_size", batch_size)
        try:
            answers = self._answers(prompts, seeds, plan, options, size)
            settings = self._settings(options, output=output, constrained=constrained, system=system)
            return self._outputs(answers, seeds, flow, settings)
        finally:
            self.maybe_free_model_hooks()

    def caption(
        self,
        images: Sequence[Any],
        *,
        question: str | None = None,
        max_new_tokens: int = CAPTION_TOKENS,
        temperature: float | Default = DEFAULT,
        top_k: int | Default | None = DEFAULT,
        top_p: float | Default | None = DEFAULT,
        seed: Seed = None,
        batch_size: int = 16,
    ) -> list[str]:
        """A caption of each picture, the likeliest word at a time unless sampling is asked for.

        Args:
            images: PIL images, arrays or tensors, of any sizes.
            question: what to ask; None = the question the model's style asks captions with.
            max_new_tokens: longest caption.
            temperature, top_k, top_p: see `TokenSampling`; `DEFAULT` for all three = greedy.
            seed, batch_size: see `batch`.
        """
        asked = style_named(self.language_model.settings.style).describe if question is None else question
        given = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        given = {name: value for name, value in given.items() if value is not DEFAULT}
        made = self.batch(
            [[image, asked] if asked else [image] for image in images],
            output="text",
            max_new_tokens=max_new_tokens,
            seed=seed,
            batch_size=batch_size,
            **({"temperature": 1.0, "top_k": None, "top_p": None} | (given or {"top_k": 1})),  # type: ignore[arg-type]
        )
        return [one.text for one in made]

    def draw(self, prompt: str | Sequence[str], **options: Any) -> ImageOutput:
        """Images of prompts; options and output as for `TextToImagePipeline`, with guidance and decoding
        strategies."""
        return self.drawer()(prompt, **options)

    def drawer(self) -> TextToImagePipeline:
        """A text-to-image pipeline over the same components; nothing is copied.

        Raises:
            InputError: there is no renderer.
        """
        decoder = decoder_of(self.tokenizer, self.renderer)
        if getattr(decoder, "renderer", decoder) is None:
            raise InputError("this model has no renderer to draw with; it can caption images")
        model = self.language_model
        pipe = TextToImagePipeline(
            decoder, ImageWriter(model, self.tokenizer.layout), DrawPrompts(model), self.sampling
        )
        if self.name_or_path is not None:
            pipe.register_to_config(_name_or_path=self.name_or_path)
        pipe.card = dict(self.card)
        pipe.set_progress_bar_config(**getattr(self, "_progress_bar_config", {}))
        return pipe

    @property
    def _longest(self) -> int:
        """Of an answer, by default."""
        return min(LONGEST, self.language_model.model.config.max_position_embeddings // 2)

    def _prompts(
        self, conversations: Sequence[Conversation], system: str | None, begin: bool
    ) -> list[list[int]]:
        """Ids of each conversation."""
        said = [messages_of(one) for one in conversations]
        pictures = [p for messages in said for m in messages for p in m.parts if not isinstance(p, str)]
        codes = iter(self._codes(pictures))
        style, words = self.language_model.settings.style, self.language_model.vocabulary
        prompts = []
        for messages in said:
            turns = [Turn(message.role, text_of(message)) for message in messages]
            count = sum(not isinstance(part, str) for message in messages for part in message.parts)
            own = [next(codes) for _ in range(count)]
            prompts.append(words.encode(build_prompt(turns, style, system), own, begin=begin))
        return prompts

    def _codes(self, pictures: Sequence[Any]) -> list[Codes]:
        """Codes of each picture; those of `ImageTokens` are taken as they are."""
        pixels = [self.tokenizer.preprocess(one) for one in pictures if not isinstance(one, ImageTokens)]
        made = iter(self.encode_images(torch.cat(pixels)).ids.flatten(1).tolist() if pixels else [])
        return [codes_of(one) if isinstance(one, ImageTokens) else next(made) for one in pictures]

    def _answers(
        self,
        prompts: Sequence[Codes],
        seeds: Sequence[ImageSeed],
        plan: AnswerPlan,
        sampling: Any,
        batch_size: int,
    ) -> list[Codes]:
        wake(self.language_model)
        answers: list[Codes] = []
        for _, index in micro_batches(len(prompts), batch_size):
            noise = Noise.per_image(seeds[i] for i in index)
            answers += write_answers(self.language_model, [prompts[i] for i in index], plan, sampling, noise)
        begin = [self.language_model.vocabulary.images.begin] * (plan.wanted == "image")
        return [begin + answer for answer in answers]

    def _outputs(
        self, answers: Sequence[Codes], seeds: Sequence[ImageSeed], flow: Any, settings: dict[str, Any]
    ) -> list[InterleavedOutput]:
        """Answers as texts and pictures; all pictures are drawn together."""
        words = self.language_model.vocabulary
        parsed = [parse_answer(answer, words.images) for answer in answers]
        codes = [[list(image.codes) for image in one.images if image.decodable] for one in parsed]
        keys = [
            (image_seed(*seed), k) for seed, own in zip(seeds, codes, strict=True) for k in range(len(own))
        ]
        rows = [row for own in codes for row in own]
        tokens = ImageTokens(self.tokenizer.layout, ids=torch.tensor(rows)) if rows else None
        noise = Noise.per_image(keys, stream=DECODING) if rows else None
        pictures = [] if tokens is None else to_pil(self._decode(tokens, noise, flow))
        settings |= {"decoding": None if flow is None else asdict(flow)}
        outputs, first = [], 0
        for answer, one, own, seed in zip(answers, parsed, codes, seeds, strict=True):
            last = first + len(own)
            parts = self._parts(one, pictures[first:last])
            some = tokens[first:last] if tokens is not None and own else None
            outputs.append(InterleavedOutput(parts, list(answer), some, one.errors, seed, settings))
            first = last
        return outputs

    def _parts(self, answer: ParsedAnswer, pictures: Sequence[Image.Image]) -> list[str | Image.Image]:
        """Texts and pictures in order: an `<img>` and `</img>` side by side are an image's place."""
        words, drawn, broken = self.language_model.vocabulary, iter(pictures), iter(answer.images)
        parts: list[str | Image.Image] = []
        piece: list[int] = []

        def say() -> None:
            if text := words.decode(piece):
                parts.append(text)
            piece.clear()

        for one in answer.remaining_ids:
            ended = one == words.images.end and piece[-1:] == [words.images.begin]
            piece.append(one)
            if ended and (image := next(broken, None)) is not None and image.decodable:
                say()
                parts.append(next(drawn))
        say()
        return parts

    def _decode(self, tokens: ImageTokens, noise: Noise | None = None, sampling: Any = None) -> Tensor:
        decoder = decoder_of(self.tokenizer, self.renderer)
        wake(self.tokenizer)
        wake(self.renderer)
        device = device_of(self.tokenizer)
        if not decoder.starts_from_noise:
            return fixed_shape(lambda t: decoder.decode(t).float(), tokens.to(device), device)

        def render(some: ImageTokens, noise: Noise | None = None) -> Tensor:
            return decoder.decode(some, sampling=sampling, noise=noise).float()

        return fixed_shape(render, tokens.to(device), device, noise)


class CaptionPipeline(InterleavedPipeline):
    """The reading half of the above: texts and images in, texts out. No renderer is loaded.

    Args:
        tokenizer, language_model, sampling: as above.
    """

    renderer: Any = None
    model_cpu_offload_seq = "language_model->tokenizer"
    _optional_components: ClassVar[list[str]] = []

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        language_model: SeedLlama,
        sampling: Any | Mapping[str, Any] | None = None,
    ) -> None:
        super(InterleavedPipeline, self).__init__()
        check_vocabulary(tokenizer, language_model)
        self._set_up(sampling, tokenizer=tokenizer, language_model=language_model)


__all__ = ["CaptionPipeline", "InterleavedOutput", "InterleavedPipeline", "Message"]
