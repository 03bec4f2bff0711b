"""ELM's binary autoencoder: bits and ids, drawn bits, what is refused, saving."""

import pytest
import torch

from visgen.errors import InputError
from visgen.nn.noise import Noise
from visgen.nn.quantizers.binary import BinaryQuantizer, bits_to_ids, ids_to_bits
from visgen.tokenizers import TOKENIZERS
from visgen.tokenizers.bae import BAETokenizer
from visgen.tokenizers.tokens import Grid, ImageTokens, Sequence1D

TINY = {"image_size": 16, "attention_sizes": (8,), "channels": 8, "ch": 8, "ch_mult": (1, 2)}


def tiny(**changes):
    torch.manual_seed(0)
    options = {"num_codes": 2, "code_bits": 3, "num_res_blocks": 1, "norm_groups": 4}
    return BAETokenizer(**TINY | options | changes).eval()


def images(count=2, side=16):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_first_bit_is_the_most_significant():
    bits = torch.tensor([1, 0, 0, 0, 1, 1], dtype=torch.bool).view(1, 6, 1, 1)
    assert bits_to_ids(bits, 2).tolist() == [[[4, 3]]]
    assert bits_to_ids(bits, 1).tolist() == [[[35]]]
    assert bits_to_ids(bits, 3).tolist() == [[[2, 0, 3]]]


@pytest.mark.parametrize("codes", [1, 2, 4])
def test_ids_hold_all_bits(codes):
    bits = torch.rand(3, 24, 2, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    ids = bits_to_ids(bits, codes)
    assert ids.shape == (3, 10, codes) and torch.equal(ids_to_bits(ids, 24 // codes, (2, 5)), bits)


def test_wide_codes_need_no_table():
    bits = torch.ones(1, 40, 1, 1, dtype=torch.bool)
    assert bits_to_ids(bits, 1).item() == 2**40 - 1
    assert torch.equal(ids_to_bits(bits_to_ids(bits, 1), 40, (1, 1)), bits)


def test_codes_are_sums_of_vectors():
    quantizer = BinaryQuantizer(3, 4)
    bits = torch.tensor([True, False, True]).view(1, 3, 1, 1)
    expected = quantizer.embed.weight[0] + quantizer.embed.weight[2]
    assert torch.allclose(quantizer.lookup(bits).flatten(), expected)


def test_gradients_pass_the_bits():
    quantizer = BinaryQuantizer(3, 4)
    features = torch.randn(1, 4, 2, 2, requires_grad=True)
    out = quantizer(features)
    p = quantizer.probabilities(features)
    weight = torch.randn(1, 4, 2, 2)
    (found,) = torch.autograd.grad((out.fhat * weight).sum(), features, retain_graph=True)
    (expected,) = torch.autograd.grad((quantizer.lookup(p) * weight).sum(), features)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(out.fhat, quantizer.lookup(out.bits), atol=1e-6)


def test_encode_is_deterministic_unless_noise_is_given():
    model, batch = tiny(), images()
    tokens = model.encode(batch)
    assert tokens.layout == model.layout == Grid(8, 8) and tokens.ids.shape == (2, 64, 2)
    assert torch.equal(model.encode(batch).ids, tokens.ids)
    drawn, again = (model.encode(batch, noise=Noise.per_image([(0, 0), (0, 1)])).ids for _ in range(2))
    assert torch.equal(drawn, again) and not torch.equal(drawn, tokens.ids)
    alone = model.encode(batch[1:], noise=Noise.per_image([(0, 1)])).ids
    assert torch.equal(alone, drawn[1:])


def test_bits_are_drawn_with_their_probability():
    model = tiny()
    p = model.quantizer.probabilities(model.features(images(1))).detach()
    draws = [model.quantizer.bits(p, Noise.per_image([(seed, 0)])).float() for seed in range(400)]
    assert torch.allclose(torch.stack(draws).mean(0), p, atol=0.12)


def test_one_code_per_position_has_flat_ids():
    model = tiny(num_codes=1, code_bits=6)
    tokens = model.encode(images())
    assert tokens.ids.shape == (2, 64) and int(tokens.ids.max()) < model.codebook_size == 64
    assert torch.equal(
        model.decode(tokens), model.decode(ImageTokens(tokens.layout, ids=tokens.ids[..., None]))
    )


def test_pixels_are_symmetric_around_zero_outside():
    """The networks see [0, 1]: what they give as 0.5 is 0 outside."""
    model = tiny()
    with torch.no_grad():
        model.decoder.conv_out.weight.zero_()
        model.decoder.conv_out.bias.fill_(0.5)
    assert torch.equal(model.decode(model.encode(images())), torch.zeros(2, 3, 16, 16))


def test_other_sizes_carry_their_grid():
    model = tiny()
    tokens = model.encode(torch.zeros(1, 3, 12, 20))
    assert tokens.layout == Grid(6, 10) and model.decode(tokens).shape == (1, 3, 12, 20)


def test_training_pass():
    model = tiny().train()
    out = model(images(), Noise.per_image([(0, 0), (0, 1)]))
    out.reconstruction.mean().backward()
    assert model.encoder.conv_in.weight.grad.abs().sum() > 0
    assert model.quantizer.embed.weight.grad.abs().sum() > 0
    assert 0.19 < out.quantization.loss < 0.25  # σ(p) (1 − σ(p)) of p in [0, 1]


def test_bad_input():
    model = tiny()
    ids = torch.zeros(1, 64, 2, dtype=torch.long)
    for tokens, told in (
        (ImageTokens(Sequence1D(64), ids=ids), "Grid"),
        (ImageTokens(Grid(8, 8), latents=torch.zeros(1, 64, 2)), "decodes ids"),
        (ImageTokens(Grid(8, 8), ids=ids[..., :1]), "num_codes=2"),
        (ImageTokens(Grid(8, 8), ids=ids + 8), "from 8 to 8"),
        (ImageTokens(Grid(8, 8), ids=ids, mask=ids[..., 0] > 0), "mask"),
    ):
        with pytest.raises(InputError, match=told):
            model.decode(tokens)
    with pytest.raises(InputError, match="multiples of 2"):
        model.encode(torch.zeros(1, 3, 15, 16))
    with pytest.raises(InputError, match="num_tokens"):
        model.encode(images(), num_tokens=3)
    with pytest.raises(InputError, match="code_bits=63"):
        tiny(code_bits=63)
    with pytest.raises(InputError, match="num_codes=0"):
        tiny(num_codes=0)


def test_saving(tmp_path):
    model = tiny(decoder_blocks=2, norm_first=False)
    model.save_pretrained(tmp_path)
    loaded = TOKENIZERS.load("BAETokenizer").from_pretrained(tmp_path)
    tokens = model.encode(images())
    assert torch.equal(loaded.encode(images()).ids, tokens.ids)
    assert torch.equal(loaded.decode(tokens), model.decode(tokens))


def test_the_quantizer_stays_float32():
    model = tiny().to(torch.bfloat16)
    assert model.quantizer.embed.weight.dtype == torch.float32 and model.dtype == torch.bfloat16
    assert model.decode(model.encode(images())).dtype == torch.bfloat16
