"""Tiny models in folders, and pictures in a folder and in tars."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.pipelines.conftest import make_generator, make_tokenizer, random_picture
from visgen.data.webdataset import write_samples
from visgen.pipelines.class_to_image import ClassToImagePipeline

PICTURES = 7


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Folder of a class model of 16×16 pixels and five classes."""
    folder = tmp_path_factory.mktemp("model")
    ClassToImagePipeline(make_tokenizer(), make_generator(num_classes=5)).save_pretrained(folder)
    return str(folder)


def picture_bytes(number):
    """Smooth enough for features to be about anything, and all of them different."""
    picture = random_picture(4, 4, seed=number).resize((20 + number, 16), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Seven pictures in sub-folders of two classes."""
    root = tmp_path_factory.mktemp("pictures")
    for number in range(PICTURES):
        (root / "ab"[number % 2]).mkdir(exist_ok=True)
        (root / "ab"[number % 2] / f"{number}.png").write_bytes(picture_bytes(number))
    return root


@pytest.fixture(scope="session")
def tars(tmp_path_factory):
    """The same pictures in two tars, four and three, with captions and labels."""
    root = tmp_path_factory.mktemp("tars")
    for tar, numbers in enumerate((range(4), range(4, PICTURES))):
        samples = [
            (f"k{n}", {"png": picture_bytes(n), "txt": f"picture {n}".encode(), "cls": str(n % 2).encode()})
            for n in numbers
        ]
        with (root / f"{tar}.tar").open("wb") as file:
            write_samples(file, samples)
    return root / "{0..1}.tar"


def contents(folder):
    """Bytes of all files of a folder but its lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".lock")}


def close(first, second):
    """Whether two Gaussians are one, up to the rounding of sums."""
    return np.allclose(first.mean, second.mean, atol=1e-12) and np.allclose(
        first.covariance, second.covariance, atol=1e-12
    )
