"""Images become tokens and images again: what a tokenizer keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from torch import Tensor

from visgen.data.images import ImageInput, to_tensor
from visgen.errors import InputError
from visgen.nn.noise import Noise
from visgen.pipelines.base import ImagePipeline
from visgen.pipelines.batching import device_of, fixed_shape, wake
from visgen.pipelines.flow_decoding import DECODING, decoding_request
from visgen.pipelines.options import OutputType, check_output_type
from visgen.pipelines.output import ImageOutput, Images, convert_images, join_images
from visgen.pipelines.pictures import as_image_list
from visgen.pipelines.tiles import cut_tiles, lay_tiles, tile_grid
from visgen.tokenizers.base import ImageTokenizer
from visgen.tokenizers.tokens import ImageTokens


class ReconstructPipeline(ImagePipeline):
    """Encode and decode. `ReconstructPipeline.from_pipe(pipe)` takes the tokenizer of another pipeline.

    Args:
        tokenizer: any image tokenizer.
        renderer: makes images of the embeddings of a tokenizer that has no decoder of its own (SEED).
    """

    _optional_components: ClassVar[list[str]] = ["renderer"]
    model_cpu_offload_seq = "tokenizer->renderer"

    def __init__(self, tokenizer: ImageTokenizer, renderer: Any = None) -> None:
        super().__init__()
        self._set_up(None, tokenizer=tokenizer, renderer=renderer)

    @torch.no_grad()
    def __call__(
        self,
        images: ImageInput,
        *,
        num_tokens: int | None = None,
        max_error: float | None = None,
        seed: int | None = None,
        decoding: Any = None,
        tile: bool = False,
        progressive: bool = False,
        output_type: OutputType = "pil",
    ) -> ImageOutput:
        """Reconstruct one image or several.

        Args:
            images: Pillow images, arrays or tensors.
            num_tokens: of each image, for tokenizers of flexible length; None = the tokenizer's own.
            max_error: mean absolute error of [0, 1] pixels that may be made, for tokenizers that choose the
                number of tokens by it; None = the tokenizer's own.
            seed: of decoders that start from noise; every image is drawn from (seed, 0), its tiles from
                (seed, 1) and so on. None = the decoder's own draw, the same for every image.
            decoding: a `FlowSampling`, or keywords to replace in the decoder's own; None = its own.
            tile: keep each image's size, in tiles of the model's size, mirrored beyond its edges;
                False resizes and crops to the model's square.
            progressive: also give the image after each scale, in `ImageOutput.progressive`.
            output_type: "pil", "np" (float (B, H, W, 3) in [0, 1]) or "pt" (float (B, 3, H, W) in [0, 1]);
                with `tile` a list of single ones.

        Returns:
            Images and tokens; with `tile`, the tokens of all tiles, row by row, image after image.

        Raises:
            InputError: no image, `progressive` for a tokenizer without scales, a knob that the tokenizer
                lacks, or `seed` or `decoding` for a decoder that does not start from noise.
        """
        check_output_type(output_type)
        if progressive and not hasattr(self.tokenizer, "progressive_decode"):
            raise InputError(
                f"progressive=True: {type(self.tokenizer).__name__} has no coarse images; leave it out"
            )
        knobs = self.checked_knobs(num_tokens, max_error)
        drawing = self.checked_drawing(seed, decoding)
        sources = as_image_list(images, "images")
        run = self._tiled if tile else self._squares
        parts = []
        for source in self.progress_bar(sources):
            parts.append(run(source, progressive, knobs, drawing))
        self.maybe_free_model_hooks()
        settings = self.settings_of(drawing, tile=tile, **knobs)
        return _output(parts, tile, progressive, output_type, settings)

    def settings_of(self, drawing: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """How images were made, for `ImageOutput.settings` and text chunks; `drawing` as `checked_drawing`
        gives it."""
        told = {name: asdict(value) if name == "decoding" else value for name, value in drawing.items()}
        return self._settings(**more, **told)

    def checked_knobs(self, num_tokens: int | None = None, max_error: float | None = None) -> dict[str, Any]:
        """The knobs that were given; raises `InputError` for one that the tokenizer lacks or out of range."""
        self.tokenizer.check_knobs(num_tokens, max_error)
        knobs = {"num_tokens": num_tokens, "max_error": max_error}
        return {name: value for name, value in knobs.items() if value is not None}

    def checked_drawing(self, seed: int | None = None, decoding: Any = None) -> dict[str, Any]:
        """`seed` and `decoding` as they were given, the latter resolved; raises `InputError` for a decoder
        that draws nothing, and for bad values."""
        if seed is not None and not self.tokenizer.starts_from_noise:
            raise InputError(
                f"seed={seed!r}: a {type(self.tokenizer).__name__} decodes without noise; leave it out"
            )
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise InputError(f"seed={seed!r} must be an integer, or None for the decoder's own draw")
        flow = decoding_request(self._decoder(), decoding)
        return {k: v for k, v in {"seed": seed, "decoding": flow}.items() if v is not None}

    def _decoder(self) -> Any:
        """The tokenizer, or it and its renderer as one."""
        if self.renderer is None:
            return self.tokenizer
        from visgen.pipelines.drawing import decoder_of  # which imports language models

        return decoder_of(self.tokenizer, self.renderer)

    @torch.no_grad()
    def encode_images(
        self, pixels: Tensor, num_tokens: int | None = None, max_error: float | None = None
    ) -> ImageTokens:
        """Tokens of pixels (B, 3, H, W) in [-1, 1], on the CPU; knobs as for the call."""
        wake(self.tokenizer)
        device, knobs = device_of(self.tokenizer), self.checked_knobs(num_tokens, max_error)
        pixels = pixels.to(device, self.tokenizer.dtype)
        return fixed_shape(lambda x: self.tokenizer.encode(x, **knobs), pixels, device)

    @torch.no_grad()
    def decode_tokens(self, tokens: ImageTokens, *, seed: int | None = None, decoding: Any = None) -> Tensor:
        """Pixels (B, 3, H, W) in about [-1, 1] of tokens, on the CPU.

        Args:
            tokens: of B images.
            seed, decoding: as for the call.
        """
        drawing = self.checked_drawing(seed, decoding)
        return self._decode(tokens, _noise(drawing, [0] * len(tokens)), drawing.get("decoding"))

    def _decode(self, tokens: ImageTokens, noise: Noise | None = None, sampling: Any = None) -> Tensor:
        if self.renderer is None:
            return super()._decode(tokens, noise, sampling)
        wake(self.tokenizer)
        wake(self.renderer)
        device = device_of(self.tokenizer)

        decoder = self._decoder()

        def render(some: ImageTokens, noise: Noise | None = None) -> Tensor:
            return decoder.decode(some, sampling=sampling, noise=noise).float()

        return fixed_shape(render, tokens.to(device), device, noise)

    def _squares(
        self, image: Any, progressive: bool, knobs: dict[str, Any], drawing: dict[str, Any]
    ) -> tuple[ImageTokens, list[Tensor]]:
        tokens = self.encode_images(self.tokenizer.preprocess(image), **knobs)
        return tokens, self._images_of(tokens, progressive, drawing)

    def _tiled(
        self, image: Any, progressive: bool, knobs: dict[str, Any], drawing: dict[str, Any]
    ) -> tuple[ImageTokens, list[Tensor]]:
        pixels = to_tensor(image)
        size = self.tokenizer.pixel_size
        tokens = self.encode_images(cut_tiles(pixels, size), **knobs)
        height, width = pixels.shape[-2:]
        grid = tile_grid(height, width, size)
        return tokens, [
            lay_tiles(made, grid)[..., :height, :width]
            for made in self._images_of(tokens, progressive, drawing)
        ]

    def _images_of(self, tokens: ImageTokens, progressive: bool, drawing: dict[str, Any]) -> list[Tensor]:
        """The final image, or the image after each scale."""
        if not progressive:
            return [self._decode(tokens, _noise(drawing, range(len(tokens))), drawing.get("decoding"))]
        wake(self.tokenizer)
        device = device_of(self.tokenizer)

        def all_scales(some: ImageTokens) -> Tensor:
            return torch.stack([made.float() for made in self.tokenizer.progressive_decode(some)], dim=1)

        return list(fixed_shape(all_scales, tokens.to(device), device).unbind(1))


def _noise(drawing: Mapping[str, Any], ordinals: Iterable[int]) -> Noise | None:
    """A row per image; None where no seed was given."""
    if "seed" not in drawing:
        return None
    return Noise.per_image([(drawing["seed"], ordinal) for ordinal in ordinals], DECODING)


def _output(
    parts: list, tile: bool, progressive: bool, output_type: OutputType, settings: dict
) -> ImageOutput:
    finals: list[Images] = [convert_images(made[-1], output_type) for _, made in parts]
    images = [one for final in finals for one in final] if tile else join_images(finals)
    steps = [join_images([convert_images(one, output_type) for one in made]) for _, made in parts]
    return ImageOutput(
        images,
        ImageTokens.cat([tokens for tokens, _ in parts]),
        seeds=[None] * len(parts),
        settings=settings,
        progressive=steps if progressive else None,
    )
