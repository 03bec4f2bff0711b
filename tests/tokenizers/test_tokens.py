"""`ImageTokens` and the VAR tokenizer's contract."""

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from visgen.errors import InputError
from visgen.tokenizers.tokens import Grid, ImageTokens, Scales, Sequence1D
from visgen.tokenizers.var import VARTokenizer

LAYOUTS = [Grid(2, 3), Scales.square((1, 2)), Sequence1D(4)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_shard_round_trip(layout, tmp_path):
    ids = torch.randint(9, (3, layout.length, 2))
    mask = torch.rand(3, layout.length) > 0.5
    tokens = ImageTokens(layout, ids=ids, mask=mask)
    save_file(tokens.state_dict(), tmp_path / "shard.safetensors")
    again = ImageTokens.from_state_dict(load_file(tmp_path / "shard.safetensors"))
    assert again.layout == layout
    assert torch.equal(again.ids, ids)
    assert torch.equal(again.mask, mask)
    assert again.lengths.tolist() == mask.sum(1).tolist()


def test_another_schema_is_refused():
    state = ImageTokens(Grid(1, 1), ids=torch.zeros(1, 1, dtype=torch.int64)).state_dict()
    state["header"] = torch.tensor(list(b'{"schema": 99, "layout": "{}"}'), dtype=torch.uint8)
    with pytest.raises(InputError, match="schema 99"):
        ImageTokens.from_state_dict(state)


def test_rows_and_cat():
    tokens = ImageTokens(Grid(1, 2), latents=torch.arange(6.0).view(3, 2, 1))
    joined = ImageTokens.cat([tokens[0], tokens[1:]])
    assert torch.equal(joined.latents, tokens.latents)
    masked = ImageTokens(Grid(1, 2), latents=tokens.latents, mask=torch.zeros(3, 2, dtype=torch.bool))
    assert ImageTokens.cat([tokens, masked]).lengths.tolist() == [2, 2, 2, 0, 0, 0]
    with pytest.raises(InputError, match="one layout"):
        ImageTokens.cat([tokens, ImageTokens(Grid(2, 1), latents=tokens.latents)])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ids": torch.zeros(1, 4), "latents": torch.zeros(1, 4, 1)},
        {"ids": torch.zeros(1, 3)},
        {"ids": torch.zeros(1, 4), "mask": torch.ones(1, 3, dtype=torch.bool)},
    ],
)
def test_inconsistent_tokens_are_refused(options):
    with pytest.raises(InputError):
        ImageTokens(Grid(2, 2), **options)


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    return VARTokenizer(
        scales=(1, 2, 4),
        codebook_size=16,
        latent_channels=4,
        ch=8,
        ch_mult=(1, 2),
        num_res_blocks=1,
        norm_groups=4,
        patch_size=2,
        mid_blocks=False,
        attention=False,
    ).eval()


def test_round_trip_shapes(tokenizer):
    images = tokenizer.preprocess([Image.new("RGB", (30, 50)), Image.new("L", (16, 16))])
    assert images.shape == (2, 3, 16, 16)
    tokens = tokenizer.encode(images)
    assert tokens.layout == Scales.square((1, 2, 4))
    assert tokenizer.decode(tokens).shape == images.shape
    steps = tokenizer.progressive_decode(tokens)
    assert len(steps) == 3
    assert torch.equal(steps[-1], tokenizer.decode(tokens))


def test_training_pass_reaches_every_part(tokenizer):
    images = torch.randn(2, 3, 16, 16)
    out = tokenizer(images)
    (out.reconstruction.square().mean() + out.quantization.loss).backward()
    unused = {name for name, parameter in tokenizer.named_parameters() if parameter.grad is None}
    assert unused == {"vq.phi.1.weight", "vq.phi.1.bias"}  # three scales use φ 0, 2 and 3 of four
    tokenizer.zero_grad()
    official = tokenizer(images, joint=False)
    official.reconstruction.square().mean().backward()
    assert tokenizer.codebook.grad is None  # the paper's straight-through reaches the encoder alone
    assert tokenizer.encoder.conv_in.weight.grad is not None
    tokenizer.zero_grad()


@pytest.mark.parametrize("options", [{"num_tokens": 3}, {"max_error": 0.1}])
def test_knobs_it_lacks_are_refused(tokenizer, options):
    with pytest.raises(InputError, match="fixed number"):
        tokenizer.encode(torch.zeros(1, 3, 16, 16), **options)


def test_sizes_that_do_not_fit_are_refused(tokenizer):
    with pytest.raises(InputError, match="multiples of 4"):
        tokenizer.encode(torch.zeros(1, 3, 18, 18))
    with pytest.raises(InputError, match="16×16"):
        tokenizer.encode(torch.zeros(1, 3, 32, 32))
    assert tokenizer.encode(torch.zeros(1, 3, 32, 16), scales=(1, (3, 2), (8, 4))).layout.length == 39
