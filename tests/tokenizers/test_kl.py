"""The continuous tokenizer: grids, posterior, scale, both networks, types, folders, refused input."""

import pytest
import torch
import torch.nn.functional as F

from tests.pipelines.tiny_tokenizers import CONFIGS, VQ, tiny_pipe
from visgen.errors import InputError
from visgen.nn.noise import Noise
from visgen.tokenizers.kl import KLTokenizer
from visgen.tokenizers.tokens import Grid, ImageTokens, Sequence1D
from visgen.tokenizers.vq import VQTokenizer

SIZES = {
    "AutoencoderKL": CONFIGS["KLTokenizer"],
    "conv": {"image_size": 16, "network": {"kind": "conv", **VQ}},
}


@pytest.fixture(params=SIZES)
def tokenizer(request):
    torch.manual_seed(0)
    return KLTokenizer(**SIZES[request.param], scaling_factor=0.5).eval()


def images(height=16, width=16, count=2):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def noise(*ordinals):
    return Noise.per_image([(0, k) for k in ordinals])


def test_images_of_any_fitting_size_become_a_grid_and_back(tokenizer):
    assert (tokenizer.pixel_size, tokenizer.downsampling, tokenizer.layout) == (16, 4, Grid(4, 4))
    tokens = tokenizer.encode(images(8, 20))
    assert tokens.layout == Grid(2, 5) and tokens.latents.shape == (2, 10, 4)
    assert tokenizer.decode(tokens).shape == (2, 3, 8, 20)
    assert (tokenizer.codebook, tokenizer.quantizer, tokenizer.config.latent_channels) == (None, None, 4)
    with pytest.raises(InputError, match="multiples of 4"):
        tokenizer.encode(images(10, 16))


def test_tokens_are_scaled_means_in_raster_order(tokenizer):
    tokens, law = tokenizer.encode(images(8, 20)), tokenizer.posterior(images(8, 20))
    assert torch.equal(tokens.latents[:, 7], 0.5 * law.mean[:, :, 1, 2])
    assert torch.equal(tokenizer.embed_tokens(tokens), 0.5 * law.mean)
    with torch.no_grad():
        wanted = tokenizer.decode_features(law.mean)
    assert torch.allclose(tokenizer.decode(tokens), wanted, atol=1e-5)
    assert torch.allclose(tokenizer.decode_latents(0.5 * law.mean), wanted, atol=1e-5)


def test_noise_draws_from_the_posterior(tokenizer):
    law, draw = tokenizer.posterior(images()), noise(0, 1).normal(2, 4, 4, 4)
    drawn = tokenizer.embed_tokens(tokenizer.encode(images(), noise=noise(0, 1)))
    assert torch.allclose(drawn, 0.5 * (law.mean + law.std * draw), atol=1e-6)
    alone = tokenizer.encode(images()[1:], noise=noise(1)).latents
    assert torch.allclose(alone, drawn[1:].flatten(2).mT, atol=1e-5)


def test_a_batch_gives_what_its_images_give(tokenizer):
    both = tokenizer.encode(images())
    for row in range(2):
        alone = tokenizer.encode(images()[row : row + 1])
        assert torch.allclose(alone.latents, both.latents[row : row + 1], atol=1e-5)
        assert torch.allclose(tokenizer.decode(alone), tokenizer.decode(both)[row : row + 1], atol=1e-5)


def test_a_pipeline_gives_the_same_whatever_the_batch():
    pipe, pictures = tiny_pipe("KLTokenizer"), list(images(20, 24, 3))
    together = pipe(pictures, output_type="pt")
    for row, picture in enumerate(pictures):
        alone = pipe(picture, output_type="pt")
        assert torch.equal(alone.images[0], together.images[row])
        assert torch.equal(alone.tokens.latents[0], together.tokens.latents[row])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(tokenizer, dtype):
    tokens, plain = tokenizer.encode(images()), tokenizer.decode(tokenizer.encode(images()))
    half = tokenizer.to(dtype)
    found = half.encode(images())
    assert found.latents.dtype == torch.float32
    step = torch.finfo(dtype).eps
    assert (found.latents - tokens.latents).abs().max() < 20 * step * tokens.latents.abs().max()
    made = half.decode(found)
    assert made.dtype == dtype
    assert (made.float() - plain).abs().mean() < 20 * step * plain.abs().mean()


def test_a_folder_round_trips(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = KLTokenizer.from_pretrained(tmp_path)
    tokens = tokenizer.encode(images())
    assert again.config.scaling_factor == 0.5 and again.config.latent_channels == 4
    assert torch.equal(again.encode(images()).latents, tokens.latents)
    assert torch.equal(again.decode(tokens), tokenizer.decode(tokens))


def test_without_variance_every_log_variance_is_1():
    torch.manual_seed(0)
    model = KLTokenizer(**SIZES["AutoencoderKL"], variational=False).eval()
    law = model.posterior(images())
    assert model.quant_conv.out_channels == 4
    assert torch.equal(law.logvar, torch.ones_like(law.mean))
    assert law.std.detach().flatten()[0] == pytest.approx(1.64872)  # exp(1 / 2)


def test_convolutions_are_those_of_a_vq_tokenizer():
    """Features are its unit vectors times sqrt(C); the length of what is decoded does not count."""
    torch.manual_seed(0)
    base, model = VQTokenizer(**VQ).eval(), KLTokenizer(**SIZES["conv"]).eval()
    model.autoencoder.take(base)
    assert torch.equal(model.features(images()), base.latents(images()) * 2)
    assert model.features(images()).norm(dim=1).allclose(torch.tensor(2.0))
    z = torch.randn(1, 4, 4, 4)
    with torch.no_grad():
        unit = F.normalize(model.post_quant_conv(z), dim=1)
        assert torch.allclose(model.decode_features(z), base.decode_features(unit), atol=1e-6)
    names = {key.split(".")[1] for key in model.state_dict() if key.startswith("autoencoder.")}
    assert names == {"cnn"}, "shipped convolutions are named by this prefix"


def test_more_channels_than_the_network_has():
    model = KLTokenizer(**SIZES["AutoencoderKL"], latent_channels=6).eval()
    tokens = model.encode(images())
    assert tokens.latents.shape == (2, 16, 6) and model.decode(tokens).shape == (2, 3, 16, 16)


def test_a_training_pass_reaches_both_sides(tokenizer):
    out = tokenizer(images(), torch.ones(2, 4, 4, 4))
    out.reconstruction.square().mean().backward()
    law = tokenizer.posterior(images())
    with torch.no_grad():
        assert torch.allclose(out.reconstruction, tokenizer.decode_features(law.mean + law.std), atol=1e-5)
    trained = [n for n, p in tokenizer.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert {"quant_conv.weight", "post_quant_conv.weight"} <= set(trained)
    assert any("encoder.conv_in.weight" in name for name in trained)


def test_a_frozen_encoder_keeps_no_gradients(tokenizer):
    plain = tokenizer(images(), torch.ones(2, 4, 4, 4)).reconstruction
    out = tokenizer(images(), torch.ones(2, 4, 4, 4), frozen=True)
    assert torch.allclose(out.reconstruction, plain, atol=1e-5)
    out.reconstruction.square().mean().backward()
    assert all(p.grad is None for n, p in tokenizer.named_parameters() if ".encoder." in n)
    assert tokenizer.quant_conv.weight.grad.abs().sum() > 0


TOKENS = {
    "ids": (ImageTokens(Grid(2, 2), ids=torch.zeros(1, 4, dtype=torch.long)), "decodes latents"),
    "a sequence": (ImageTokens(Sequence1D(4), latents=torch.zeros(1, 4, 4)), "Grid"),
    "channels": (ImageTokens(Grid(2, 2), latents=torch.zeros(1, 4, 5)), "5 channels must have 4"),
    "a mask": (
        ImageTokens(Grid(1, 2), latents=torch.zeros(1, 2, 4), mask=torch.tensor([[True, False]])),
        "whole images",
    ),
}


@pytest.mark.parametrize("kind", TOKENS)
def test_tokens_that_do_not_fit_are_refused(tokenizer, kind):
    tokens, told = TOKENS[kind]
    with pytest.raises(InputError, match=told):
        tokenizer.decode(tokens)


@pytest.mark.parametrize("knob", ["num_tokens", "max_error"])
def test_it_has_no_knobs(tokenizer, knob):
    with pytest.raises(InputError, match=knob):
        tokenizer.encode(images(), **{knob: 1})


CONFIGURATIONS = {
    "another kind": ({"network": {"kind": "VAE"}}, "AutoencoderKL and conv are known"),
    "no kind": ({"network": {}}, "kind='None'"),
    "an unknown keyword": ({"network": {"kind": "AutoencoderKL", "heat": 1}}, "heat"),
    "an unknown size": ({"network": {"kind": "conv", "heat": 1}}, r"network\.heat|heat"),
    "the tokenizer's own": ({"network": {"kind": "AutoencoderKL", "scaling_factor": 1.0}}, "beside network"),
    "long codes": ({"network": {"kind": "conv", **VQ, "normalize_codes": False}}, "network.normalize_codes"),
    "a size between": ({"image_size": 18}, "multiple of 4"),
    "no channels": ({"latent_channels": 0}, "latent_channels=0"),
    "no scale": ({"scaling_factor": 0.0}, "above 0"),
}


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_configurations_that_do_not_fit(kind):
    change, told = CONFIGURATIONS[kind]
    with pytest.raises(InputError, match=told):
        KLTokenizer(**SIZES["AutoencoderKL"] | change)
