"""Token shards that are none, tokens that no tokenizer decodes, and arrays that are no pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.pipelines.conftest import SCALES, make_tokenizer
from visgen.errors import InputError
from visgen.pipelines.reconstruct import ReconstructPipeline
from visgen.tokenizers.tokens import Grid, ImageTokens, Scales
from visgen.tokenizers.var import VARTokenizer

Shard = dict[str, Any]
LAYOUT = Scales.square(SCALES)


def header(**changes: object) -> Tensor:
    """The header of a good shard with some keys changed."""
    good = {"schema": 1, "layout": json.dumps({"kind": "scales", "sizes": LAYOUT.sizes})}
    return as_bytes(json.dumps({k: v for k, v in (good | changes).items() if v is not ...}))


def as_bytes(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def layout(**content: object) -> Tensor:
    return header(layout=json.dumps(content))


SHARDS: dict[str, tuple[Shard, str]] = {
    "no header": ({"header": ...}, "no readable header"),
    "empty header": ({"header": torch.zeros(0, dtype=torch.uint8)}, "no readable header"),
    "float header": ({"header": torch.zeros(4)}, "no readable header"),
    "square header": ({"header": torch.zeros(2, 2, dtype=torch.uint8)}, "no readable header"),
    "big header": ({"header": torch.tensor([1000])}, "no readable header"),
    "no json": ({"header": as_bytes("{")}, "no readable header"),
    "a list": ({"header": as_bytes("[1]")}, "no readable header"),
    "deep": ({"header": as_bytes("[" * 100_000)}, "no readable header"),
    "no schema": ({"header": header(schema=...)}, "no readable header"),
    "next schema": ({"header": header(schema=2)}, "schema 2"),
    "no layout": ({"header": header(layout=...)}, "no readable header"),
    "unknown layout": ({"header": layout(kind="spiral")}, "spiral"),
    "layout of os": ({"header": layout(kind="os.system")}, "os.system"),
    "no kind": ({"header": layout(h=2, w=2)}, "cannot be read"),
    "number as layout": ({"header": header(layout=3)}, "cannot be read"),
    "surplus side": ({"header": layout(kind="grid", h=3, w=7, d=1)}, "cannot be read"),
    "text as side": ({"header": layout(kind="grid", h="3", w=7)}, "cannot be read"),
    "negative side": ({"header": layout(kind="grid", h=-3, w=-7)}, "no positive integers"),
    "half a side": ({"header": layout(kind="grid", h=10.5, w=2)}, "cannot be read"),
    "no scales": ({"header": layout(kind="scales", sizes=[])}, "cannot be read"),
    "number as scales": ({"header": layout(kind="scales", sizes=4)}, "cannot be read"),
    "other length": ({"header": layout(kind="grid", h=3, w=5)}, "do not fit the layout"),
    "no tokens": ({"ids": ...}, "exactly one"),
    "both": ({"latents": torch.zeros(1, 21, 4)}, "exactly one"),
    "surplus": ({"extra": torch.zeros(1)}, "'extra'"),
    "float ids": ({"ids": torch.zeros(1, 21)}, "ids are torch.float32"),
    "short ids": ({"ids": torch.zeros(1, 21, dtype=torch.int32)}, "ids are torch.int32"),
    "boolean ids": ({"ids": torch.zeros(1, 21, dtype=torch.bool)}, "ids are torch.bool"),
    "flat ids": ({"ids": torch.zeros(21, dtype=torch.int64)}, "of shape (21,)"),
    "one id": ({"ids": torch.tensor(3)}, "of shape ()"),
    "deep ids": ({"ids": torch.zeros(1, 21, 1, 1, dtype=torch.int64)}, "of shape (1, 21, 1, 1)"),
    "fewer ids": ({"ids": torch.zeros(1, 20, dtype=torch.int64)}, "20 tokens do not fit"),
    "mask of numbers": ({"mask": torch.ones(1, 21)}, "mask is torch.float32"),
    "short mask": ({"mask": torch.ones(1, 20, dtype=torch.bool)}, "mask of shape"),
    "integer latents": ({"ids": ..., "latents": torch.zeros(1, 21, 4, dtype=torch.int64)}, "latents are"),
    "flat latents": ({"ids": ..., "latents": torch.zeros(1, 21)}, "latents are"),
}


def good_shard() -> Shard:
    return ImageTokens(LAYOUT, ids=torch.zeros(1, 21, dtype=torch.int64)).state_dict()


@pytest.mark.parametrize("kind", SHARDS)
def test_shards(kind: str) -> None:
    changes, told = SHARDS[kind]
    shard = {key: value for key, value in (good_shard() | changes).items() if value is not ...}
    with pytest.raises(InputError) as caught:
        ImageTokens.from_state_dict(shard)
    assert told in str(caught.value) and len(str(caught.value)) < 600


@pytest.fixture(scope="module")
def tokenizer() -> VARTokenizer:
    return make_tokenizer()


def ids(value: int) -> ImageTokens:
    out = torch.zeros(1, 21, dtype=torch.int64)
    out[0, -1] = value
    return ImageTokens(LAYOUT, ids=out)


TOKENS: dict[str, tuple[Callable[[], ImageTokens], str]] = {
    "beyond": (lambda: ids(32), "ids run from 0 to 32"),
    "far beyond": (lambda: ids(2**62), "ids run from 0"),
    "negative": (lambda: ids(-1), "ids run from -1"),
    "latents": (lambda: ImageTokens(LAYOUT, latents=torch.zeros(1, 21, 4)), "decodes ids"),
    "grid": (lambda: ImageTokens(Grid(3, 7), ids=ids(0).ids), "Scales layout"),
    "sub-codes": (lambda: ImageTokens(LAYOUT, ids=torch.zeros(1, 21, 2, dtype=torch.int64)), "decodes ids"),
    "holes": (lambda: ImageTokens(LAYOUT, ids=ids(0).ids, mask=torch.zeros(1, 21, dtype=torch.bool)), "mask"),
}


@pytest.mark.parametrize("kind", TOKENS)
@pytest.mark.parametrize("method", ["decode", "progressive_decode"])
def test_tokens_that_are_not_decoded(tokenizer: VARTokenizer, kind: str, method: str) -> None:
    make, told = TOKENS[kind]
    with pytest.raises(InputError, match=told):
        getattr(tokenizer, method)(make())


PICTURES: dict[str, Any] = {
    "none": None,
    "path": "picture.png",
    "number": 3,
    "empty list": [],
    "list of paths": ["a.png"],
    "list in a list": [[]],
    "flat array": np.zeros(12, np.uint8),
    "array of four channels": np.zeros((8, 8, 4), np.uint8),
    "empty array": np.zeros((0, 0, 3), np.uint8),
    "bright floats": np.full((8, 8, 3), 255.0),
    "nan": np.full((8, 8, 3), np.nan),
    "text array": np.array([["a", "b"]]),
    "integers": np.zeros((8, 8, 3), np.int64),
    "tensor of one channel": torch.zeros(1, 8, 8),
    "empty tensor": torch.zeros(3, 0, 0),
    "boolean tensor": torch.zeros(3, 8, 8, dtype=torch.bool),
    "nan tensor": torch.full((3, 16, 16), float("nan")),
    "complex tensor": torch.zeros(3, 8, 8, dtype=torch.complex64),
    "empty picture": Image.new("RGB", (0, 0)),
}


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("tile", [False, True])
def test_arguments_that_are_no_picture(tokenizer: VARTokenizer, kind: str, tile: bool) -> None:
    pipe = ReconstructPipeline(tokenizer)
    pipe.set_progress_bar_config(disable=True)
    with pytest.raises(InputError):
        pipe(PICTURES[kind], tile=tile)
