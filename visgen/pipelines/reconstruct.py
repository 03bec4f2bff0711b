"""Images become tokens and images again: what a tokenizer keeps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visgen.data.images import ImageInput, to_tensor
from visgen.errors import InputError
from visgen.pipelines.base import ImagePipeline
from visgen.pipelines.batching import device_of, fixed_shape, wake
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
    """

    model_cpu_offload_seq = "tokenizer"

    def __init__(self, tokenizer: ImageTokenizer) -> None:
        super().__init__()
        self._set_up(None, tokenizer=tokenizer)

    @torch.no_grad()
    def __call__(
        self,
        images: ImageInput,
        *,
        tile: bool = False,
        progressive: bool = False,
        output_type: OutputType = "pil",
    ) -> ImageOutput:
        """Reconstruct one image or several.

        Args:
            images: Pillow images, arrays or tensors.
            tile: keep each image's size, in tiles of the model's size, mirrored beyond its edges;
                False resizes and crops to the model's square.
            progressive: also give the image after each scale, in `ImageOutput.progressive`.
            output_type: "pil", "np" (float (B, H, W, 3) in [0, 1]) or "pt" (float (B, 3, H, W) in [0, 1]);
                with `tile` a list of single ones.

        Returns:
            Images and tokens; with `tile`, the tokens of all tiles, row by row, image after image.

        Raises:
            InputError: no image, or `progressive` for a tokenizer without scales.
        """
        check_output_type(output_type)
        if progressive and not hasattr(self.tokenizer, "progressive_decode"):
            raise InputError(
                f"progressive=True: {type(self.tokenizer).__name__} has no coarse images; leave it out"
            )
        sources = as_image_list(images, "images")
        run = self._tiled if tile else self._squares
        parts = []
        for source in self.progress_bar(sources):
            parts.append(run(source, progressive))
        self.maybe_free_model_hooks()
        return _output(parts, tile, progressive, output_type, self._settings(tile=tile))

    def _squares(self, image: Any, progressive: bool) -> tuple[ImageTokens, list[Tensor]]:
        tokens = self.encode_images(self.tokenizer.preprocess(image))
        return tokens, self._images_of(tokens, progressive)

    def _tiled(self, image: Any, progressive: bool) -> tuple[ImageTokens, list[Tensor]]:
        pixels = to_tensor(image)
        size = self.tokenizer.pixel_size
        tokens = self.encode_images(cut_tiles(pixels, size))
        height, width = pixels.shape[-2:]
        grid = tile_grid(height, width, size)
        return tokens, [
            lay_tiles(made, grid)[..., :height, :width] for made in self._images_of(tokens, progressive)
        ]

    def _images_of(self, tokens: ImageTokens, progressive: bool) -> list[Tensor]:
        """The final image, or the image after each scale."""
        if not progressive:
            return [self._decode(tokens)]
        wake(self.tokenizer)
        device = device_of(self.tokenizer)

        def all_scales(some: ImageTokens) -> Tensor:
            return torch.stack([made.float() for made in self.tokenizer.progressive_decode(some)], dim=1)

        return list(fixed_shape(all_scales, tokens.to(device), device).unbind(1))


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
