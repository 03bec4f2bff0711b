"""What all tokenizers of one grid do alike."""

import pytest
import torch

from tests.pipelines.tiny_tokenizers import CONFIGS
from visgen.errors import InputError
from visgen.tokenizers import TOKENIZERS
from visgen.tokenizers.grid import CodeGridTokenizer, GridTokenizer
from visgen.tokenizers.tokens import Grid, ImageTokens, Sequence1D


@pytest.fixture(params=["BAETokenizer", "MaskGITTokenizer", "VQTokenizer"])
def tokenizer(request):
    torch.manual_seed(0)
    model = TOKENIZERS.load(request.param)(**CONFIGS[request.param]).eval()
    assert isinstance(model, GridTokenizer)
    return model


def images(height, width):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_tokens_carry_the_grid_of_their_image(tokenizer):
    assert (tokenizer.pixel_size, tokenizer.downsampling, tokenizer.layout) == (16, 4, Grid(4, 4))
    tokens = tokenizer.encode(images(8, 20))
    assert tokens.layout == Grid(2, 5)
    assert tokenizer.decode(tokens).shape == (2, 3, 8, 20)


def test_decoding_draws_the_embedded_tokens(tokenizer):
    tokens = tokenizer.encode(images(8, 20))
    codes = tokenizer.embed_tokens(tokens)
    assert codes.is_contiguous() or not isinstance(tokenizer, CodeGridTokenizer)
    assert torch.equal(tokenizer.decode(tokens), tokenizer.decode_latents(codes))


def test_codes_stand_in_raster_order(tokenizer):
    first, second = (tokenizer.encode(images(8, 20)).ids[:1, i : i + 1] for i in (0, 1))
    alone = [tokenizer.embed_tokens(ImageTokens(Grid(1, 1), ids=ids)) for ids in (first, second)]
    row = tokenizer.embed_tokens(ImageTokens(Grid(1, 2), ids=torch.cat([first, second], dim=1)))
    column = tokenizer.embed_tokens(ImageTokens(Grid(2, 1), ids=torch.cat([first, second], dim=1)))
    assert torch.equal(row, torch.cat(alone, dim=3)) and torch.equal(column, torch.cat(alone, dim=2))


def test_what_does_not_fit_is_refused_by_name(tokenizer):
    name, tokens = type(tokenizer).__name__, tokenizer.encode(images(8, 8))
    some = torch.ones(2, 4, dtype=torch.bool)
    some[0, 3] = False
    with pytest.raises(InputError, match=f"{name} decodes whole images"):
        tokenizer.decode(ImageTokens(tokens.layout, ids=tokens.ids, mask=some))
    assert tokenizer.decode(ImageTokens(tokens.layout, ids=tokens.ids, mask=some | True)).shape[0] == 2
    with pytest.raises(InputError, match=f"{name} decodes ids"):
        tokenizer.decode(ImageTokens(Sequence1D(4), ids=tokens.ids))
    with pytest.raises(InputError, match="max_error"):
        tokenizer.encode(images(8, 8), max_error=0.1)
