"""The VQ tokenizer of one grid."""

import pytest
import torch

from visgen.errors import InputError
from visgen.nn.quantizers.vq import VectorQuantizer
from visgen.tokenizers.tokens import Grid, ImageTokens, Scales
from visgen.tokenizers.vq import VQTokenizer

SMALL = {
    "image_size": 16,
    "codebook_size": 32,
    "code_dim": 4,
    "latent_channels": 8,
    "ch": 8,
    "ch_mult": (1, 2),
    "num_res_blocks": 1,
    "norm_groups": 4,
}


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    return VQTokenizer(**SMALL).eval()


def test_images_of_any_fitting_size_become_a_grid_and_back(tokenizer):
    tokens = tokenizer.encode(torch.rand(2, 3, 16, 24) * 2 - 1)
    assert tokens.layout == Grid(8, 12)
    assert tokenizer.decode(tokens).shape == (2, 3, 16, 24)
    assert tokenizer.layout == Grid(8, 8)
    with pytest.raises(InputError, match="multiples of 2"):
        tokenizer.encode(torch.zeros(1, 3, 15, 16))


def test_codes_are_looked_up_at_unit_length_whatever_is_stored(tokenizer):
    tokenizer.vq.embedding.weight.data *= 3.0
    codes = tokenizer.embed_tokens(ImageTokens(Grid(1, 2), ids=torch.tensor([[3, 31]])))
    assert torch.allclose(codes.norm(dim=1), torch.ones(1, 1, 2))


def test_the_nearest_code_is_the_one_of_largest_cosine():
    torch.manual_seed(0)
    vq = VectorQuantizer(32, 4)
    f = torch.randn(2, 4, 3, 5)
    cosine = torch.nn.functional.normalize(f, dim=1).permute(0, 2, 3, 1) @ vq.codes.T
    assert torch.equal(vq.encode(f), cosine.argmax(-1).flatten(1))


def test_a_training_pass_reaches_encoder_and_codebook(tokenizer):
    out = tokenizer(torch.rand(2, 3, 16, 16) * 2 - 1, joint=False)
    (out.reconstruction.square().mean() + out.quantization.loss).backward()
    assert tokenizer.encoder.conv_in.weight.grad.abs().sum() > 0
    assert tokenizer.vq.embedding.weight.grad.abs().sum() > 0


def test_the_entropy_term_prefers_even_use():
    torch.manual_seed(0)
    vq = VectorQuantizer(8, 4, entropy_ratio=1.0)
    even = vq.codes[torch.arange(8)].T.reshape(1, 4, 2, 4)
    one = vq.codes[:1].expand(8, 4).T.reshape(1, 4, 2, 4)
    assert vq(even).terms["entropy"] < vq(one).terms["entropy"]


@pytest.mark.parametrize(
    "tokens",
    [
        ImageTokens(Scales.square((1, 2)), ids=torch.zeros(1, 5, dtype=torch.long)),
        ImageTokens(Grid(1, 2), ids=torch.tensor([[0, 32]])),
        ImageTokens(Grid(1, 2), ids=torch.zeros(1, 2, 2, dtype=torch.long)),
    ],
    ids=["scales", "id beyond the codebook", "sub-codes"],
)
def test_tokens_that_do_not_fit_are_refused(tokenizer, tokens):
    with pytest.raises(InputError):
        tokenizer.decode(tokens)


def test_a_folder_round_trips(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = VQTokenizer.from_pretrained(tmp_path)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(again.encode(images).ids, tokenizer.encode(images).ids)
    assert again.to(torch.bfloat16).vq.embedding.weight.dtype == torch.float32
