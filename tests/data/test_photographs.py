"""Real photographs, of any size, shape and mode, pass through every registered tokenizer."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from PIL import Image

from tests.pipelines.tiny_tokenizers import CONFIGS, OTHERS, tiny_pipe
from visgen.data.images import read_image
from visgen.tokenizers import TOKENIZERS

SMALL = (1, 1), (16, 9), (3, 200), (200, 3)  # pixels (width, height) that photographs are squeezed into


@lru_cache
def photographs() -> dict[str, Image.Image]:
    """Those that lie in the packages of scikit-image and scikit-learn; none is downloaded."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    arrays = dict(zip(("china", "flower"), load_sample_images().images, strict=True))
    for name in ("astronaut", "camera", "chelsea", "coffee", "moon", "page", "text"):
        arrays[name] = getattr(data, name)()
    return {name: Image.fromarray(array) for name, array in arrays.items()}


@lru_cache
def shapes() -> dict[str, Image.Image]:
    """Other sizes and modes, made of photographs."""
    china = photographs()["china"]
    made = {f"{w}x{h}": china.resize((w, h)) for w, h in SMALL}
    made |= {"tall": china.crop((0, 0, 40, 400)), "wide": china.crop((0, 0, 600, 30))}
    small = china.resize((32, 24))
    clear = small.convert("RGBA")
    clear.putalpha(small.convert("L"))
    palette = small.convert("P")
    deep = Image.fromarray(np.asarray(small.convert("L"), np.uint16) * 257)
    return made | {"rgba": clear, "palette": palette, "grey with alpha": clear.convert("LA"), "16 bits": deep}


def test_every_registered_tokenizer_is_here() -> None:
    assert set(TOKENIZERS.names()) == {*CONFIGS, *OTHERS}, "give the new tokenizer a tiny configuration"


@pytest.mark.parametrize("name", TOKENIZERS.names())
def test_photographs_pass_through_every_tokenizer(name: str) -> None:
    pipe = tiny_pipe(name)
    pictures = photographs() | shapes()
    assert len({picture.size for picture in pictures.values()}) > 8
    assert {picture.mode for picture in pictures.values()} >= {"RGB", "L", "RGBA", "LA", "P"}
    side = pipe.renderer.pixel_size if pipe.renderer else pipe.tokenizer.pixel_size
    out = pipe(list(pictures.values()))
    assert len(out) == len(out.tokens) == len(pictures)
    assert {image.size for image in out.images} == {(side, side)}
    assert len({image.tobytes() for image in out.images}) > 1, "every photograph came out the same"


@pytest.mark.parametrize("name", TOKENIZERS.names())
def test_photographs_pass_tile_by_tile(name: str) -> None:
    pipe = tiny_pipe(name)
    for picture in (photographs()["china"].crop((0, 0, 40, 21)), shapes()["16x9"], shapes()["1x1"]):
        (made,) = pipe(picture, tile=True).images
        assert made.size == picture.size


@pytest.mark.parametrize("name", ["rgba", "16 bits", "palette", "1x1"])
def test_they_read_from_files_as_they_are(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    path = tmp_path_factory.mktemp("photographs") / "x.png"
    shapes()[name].save(path)
    pipe = tiny_pipe("VQTokenizer")
    assert pipe(read_image(path)).images[0].tobytes() == pipe(shapes()[name]).images[0].tobytes()
