"""The tokenizers inside Janus and Emu3: their own ids and pixels, behind our contract."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.generators.transformers.models import chameleon, emu3, janus
from visgen.errors import InputError
from visgen.tokenizers.tokens import Grid, ImageTokens
from visgen.tokenizers.transformers_vq import TransformersVQ


def test_janus_decodes_as_the_model_does() -> None:
    model = janus()
    tokenizer = TransformersVQ(model.model.vqmodel)
    assert tokenizer.layout == Grid(4, 4) and tokenizer.pixel_size == 8
    ids = torch.randint(24, (2, 16))
    pixels = tokenizer.decode(ImageTokens(Grid(4, 4), ids=ids))
    with torch.no_grad():
        wanted = model.decode_image_tokens(ids).permute(0, 3, 1, 2)
    assert torch.equal(pixels, wanted) and pixels.shape == (2, 3, 8, 8)


def test_emu3_decodes_as_the_model_does() -> None:
    """Its own function wants words, line ends and three trailing tokens; ours the codes."""
    model = emu3()
    tokenizer = TransformersVQ(model.model.vqmodel, Grid(3, 4))
    ids = torch.randint(24, (2, 12))
    words = torch.cat([ids.view(2, 3, 4) + 40, torch.full((2, 3, 1), 6)], dim=2).flatten(1)
    sequence = torch.cat([words, torch.zeros(2, 3, dtype=torch.long)], dim=1)
    wanted = model.decode_image_tokens(image_tokens=sequence, height=3, width=4)
    pixels = tokenizer.decode(ImageTokens(Grid(3, 4), ids=ids))
    assert torch.equal(pixels, wanted) and pixels.shape == (2, 3, 6, 8)


def test_encoding_is_the_models() -> None:
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    model = janus().model.vqmodel
    tokens = TransformersVQ(model).encode(images)
    with torch.no_grad():
        assert tokens.ids is not None
        assert tokens.ids.flatten().tolist() == model.encode(images).image_tokens.flatten().tolist()
    emu = emu3().model.vqmodel
    tokens = TransformersVQ(emu).encode(images[:, :, :6])
    assert tokens.layout == Grid(3, 4) and tokens.ids is not None and len(tokens.ids.unique()) > 1


@pytest.mark.parametrize("make", [janus, emu3])
def test_saved_and_loaded(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    model = make().model.vqmodel
    grid = Grid(4, 4)
    tokenizer = TransformersVQ(model, grid)
    tokenizer.save_pretrained(tmp_path)
    loaded = TransformersVQ.from_pretrained(tmp_path)
    tokens = ImageTokens(grid, ids=torch.arange(16)[None])
    assert torch.equal(loaded.decode(tokens), tokenizer.decode(tokens)) and loaded.layout == grid
    assert torch.equal(loaded.codebook, tokenizer.codebook) and loaded.config.codebook_size == 24


def test_refusals(tmp_path: Path) -> None:
    tokenizer = TransformersVQ(janus().model.vqmodel)
    with pytest.raises(InputError, match="decodes one size"):
        tokenizer.decode(ImageTokens(Grid(2, 2), ids=torch.zeros(1, 4, dtype=torch.long)))
    with pytest.raises(InputError, match="0 … 23"):
        tokenizer.decode(ImageTokens(Grid(4, 4), ids=torch.full((1, 16), 24)))
    with pytest.raises(InputError, match="decodes one size"):
        TransformersVQ(janus().model.vqmodel, Grid(2, 2))
    with pytest.raises(InputError, match="fixed number"):
        tokenizer.encode(torch.zeros(1, 3, 8, 8), num_tokens=4)
    with pytest.raises(InputError, match="multiples of 2"):
        tokenizer.encode(torch.zeros(1, 3, 7, 8))
    with pytest.raises(InputError, match="ChameleonVQVAE"):
        TransformersVQ(chameleon().model.vqmodel)
    with pytest.raises(InputError, match=r"config\.json"):
        TransformersVQ.from_pretrained(tmp_path)
