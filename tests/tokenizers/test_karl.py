"""KARL: counts that depend on the wanted error, and a decoder that sees the active tokens alone."""

import pytest
import torch

from visgen.errors import InputError
from visgen.nn.building import construct
from visgen.nn.noise import Noise
from visgen.tokenizers.karl import ERROR_BINS, KARLTokenizer
from visgen.tokenizers.karl_network import pair_mask, resized_positions
from visgen.tokenizers.tokens import Grid, ImageTokens, Sequence1D

VQ = {
    "kind": "vq",
    "image_size": 16,
    "codebook_size": 32,
    "code_dim": 4,
    "latent_channels": 8,
    "ch": 8,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "norm_groups": 4,
}
VQGAN = {"kind": "vqgan", "ch": 8, "ch_mult": [1, 1], "num_res_blocks": 1, "embed_dim": 6, "groups": 4}
VAE = {
    "kind": "vae",
    "block_out_channels": [8, 8],
    "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
}
SMALL = {
    "image_size": 16,
    "base": VQ,
    "encoder_width": 24,
    "encoder_layers": 2,
    "encoder_heads": 2,
    "decoder_width": 16,
    "decoder_layers": 2,
    "decoder_heads": 2,
    "max_latents": 24,
    "num_tokens": 20,
    "codebook_size": 16,
    "code_dim": 5,
    "max_grid": 12,
    "halt_width": 16,
    "error_bins": [0.01, 0.02, 0.05, 0.1],
}


def build(**changes):
    """A tokenizer of larger random weights and a decisive halting head, so that images and errors differ."""
    torch.manual_seed(0)
    model = construct(KARLTokenizer, SMALL | changes, "model").eval()
    with torch.no_grad():
        for matrix in (p for part in (model.encoder, model.decoder) for p in part.parameters() if p.ndim > 1):
            matrix.mul_(5)
        model.encoder.halting[0].weight.mul_(10)
        model.encoder.halting[2].weight.mul_(100)
        model.encoder.halting[2].bias.fill_(1.0)
        model.encoder.errors.normal_()
    return model


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture
def images():
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_counts_differ_within_a_batch(model, images):
    tokens = model.encode(images, max_error=0.05)
    assert tokens.layout == Sequence1D(20)
    assert len(tokens.lengths.unique()) > 1
    assert tokens.lengths.min() > 0 and tokens.lengths.max() < 20
    prefix = torch.arange(20) < tokens.lengths[:, None]
    assert not torch.equal(tokens.mask, prefix)  # the active set need not be one


def test_a_batch_gives_what_its_images_give_alone(model, images):
    errors = torch.tensor([0.01, 0.05, 0.3, 0.0])
    tokens = model.encode(images, max_error=errors)
    decoded = model.decode(tokens)
    for row in range(len(images)):
        alone = model.encode(images[row : row + 1], max_error=float(errors[row]))
        assert torch.equal(alone.ids, tokens[row].ids) and torch.equal(alone.mask, tokens[row].mask)
        assert torch.allclose(model.decode(alone), decoded[row : row + 1], atol=1e-5)


def test_leaving_halted_tokens_out_is_the_official_mask(model, images):
    tokens = model.encode(images, max_error=0.02)
    codes, grid = model.embed_tokens(tokens), (8, 8)
    dense = model.decoder.dense(codes, grid, tokens.mask)
    assert torch.allclose(model.predict(codes, grid, tokens.mask), dense, atol=1e-5)
    everything = torch.ones_like(tokens.mask)
    assert torch.allclose(model.predict(codes, grid), model.decoder.dense(codes, grid, everything), atol=1e-5)
    nothing = torch.zeros_like(tokens.mask)
    assert torch.allclose(
        model.predict(codes, grid, nothing), model.decoder.dense(codes, grid, nothing), atol=1e-5
    )


def test_halted_values_do_not_matter(model, images):
    tokens = model.encode(images, max_error=0.05)
    other = tokens.ids.masked_fill(~tokens.mask, 999)  # beyond the codebook
    changed = ImageTokens(tokens.layout, ids=other, mask=tokens.mask)
    assert torch.equal(model.decode(changed), model.decode(tokens))
    active = ImageTokens(tokens.layout, ids=(tokens.ids + 1) % 16, mask=tokens.mask)
    assert not torch.allclose(model.decode(active), model.decode(tokens), atol=1e-4)


def test_halted_queries_see_themselves_alone():
    mask = pair_mask(torch.tensor([[True, False]]), 1)[0]
    assert mask.tolist() == [[True, True, False], [True, True, False], [False, False, True]]


def test_several_errors_share_what_is_seen(model, images):
    calls = []
    handle = model.base_tokenizer.cnn.encoder.register_forward_hook(lambda *_: calls.append(1))
    found = model.encode_errors(images, [0.01, 0.05, 0.1], num_tokens=12)
    handle.remove()
    assert len(calls) == 1
    for error, tokens in zip((0.01, 0.05, 0.1), found, strict=True):
        single = model.encode(images, num_tokens=12, max_error=error)
        assert torch.equal(tokens.ids, single.ids) and torch.equal(tokens.mask, single.mask)


def test_a_number_of_tokens_alone_is_a_fixed_length(model, images):
    tokens = model.encode(images, num_tokens=7)
    assert tokens.layout == Sequence1D(7) and tokens.lengths.tolist() == [7] * 4
    assert model.encode(images).layout == Sequence1D(20)
    assert model.encode(images, num_tokens=24).layout == Sequence1D(24)


@pytest.mark.parametrize("base", [VQ, VQ | {"predict": "latents"}, VQGAN, VAE])
@pytest.mark.parametrize("quantize", [True, False])
def test_every_base_and_kind_of_code(base, quantize, images, tmp_path):
    model = build(base=base, quantize=quantize)
    tokens = model.encode(images, max_error=0.05)
    assert (tokens.ids is None) != quantize
    assert (model.codebook is not None) == quantize
    decoded = model.decode(tokens)
    assert decoded.shape == images.shape
    model.save_pretrained(tmp_path)
    again = KARLTokenizer.from_pretrained(tmp_path)
    assert torch.equal(again.decode(again.encode(images, max_error=0.05)), decoded)
    half = KARLTokenizer.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert torch.isfinite(half.decode(half.encode(images, max_error=0.05))).all()


def test_a_posterior_is_sampled_only_with_noise(images):
    model = build(base=VAE)
    mean, again = model.see(images).features, model.see(images).features
    assert torch.equal(mean, again)
    noise = Noise.per_image([(0, k) for k in range(4)])
    assert not torch.allclose(model.see(images, noise).features, mean)


def test_images_that_are_not_square(model):
    tokens = model.encode(torch.zeros(1, 3, 8, 24))
    assert model.decode(tokens, grid=(4, 12)).shape == (1, 3, 8, 24)
    with pytest.raises(InputError, match="13 positions is beyond 12"):
        model.encode(torch.zeros(1, 3, 16, 26))
    with pytest.raises(InputError, match="multiples of 2"):
        model.encode(torch.zeros(1, 3, 15, 16))


def test_positions_are_picked_from_the_table():
    table = torch.arange(400.0).view(1, 20, 20)
    rows = torch.tensor([i * 20 // 16 for i in range(16)])
    assert torch.equal(resized_positions(table, (16, 16)).flatten(), table[0][rows][:, rows].flatten())


def test_a_wanted_error_is_the_smallest_bin_above_in_float32():
    model = build(error_bins=list(ERROR_BINS))
    values = torch.tensor([0.0, 0.005, 0.0051, 0.01, 0.02, 0.38, 7.0])
    assert model.bins(values).tolist() == [0, 0, 1, 1, 2, 18, 18]


def test_calibrated_bins_stay_below_the_wanted_error():
    model = build(bin_errors=[0.03, 0.03, 0.06, 0.2])
    wanted = torch.tensor([0.0, 0.03, 0.05, 0.06, 0.1, 0.2, 1.0])
    assert model.wanted_bins(wanted).tolist() == [0, 1, 1, 2, 2, 3, 3]
    assert model.bins(wanted).tolist() == [0, 2, 2, 3, 3, 3, 3]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"num_tokens": 0}, "num_tokens=0"),
        ({"num_tokens": 25}, "has 24"),
        ({"max_error": -0.1}, "max_error=-0.1"),
        ({"max_error": float("nan")}, "max_error=nan"),
        ({"max_error": torch.zeros(3)}, "one per image"),
    ],
)
def test_knobs_out_of_range(model, images, arguments, told):
    with pytest.raises(InputError, match=told):
        model.encode(images, **arguments)


@pytest.mark.parametrize(
    "tokens",
    [
        ImageTokens(Grid(2, 2), ids=torch.zeros(1, 4, dtype=torch.int64)),
        ImageTokens(Sequence1D(25), ids=torch.zeros(1, 25, dtype=torch.int64)),
        ImageTokens(Sequence1D(2), ids=torch.full((1, 2), 16)),
        ImageTokens(Sequence1D(2), ids=torch.zeros(1, 2, 1, dtype=torch.int64)),
        ImageTokens(Sequence1D(2), latents=torch.zeros(1, 2, 5)),
    ],
)
def test_other_tokens_are_refused(model, tokens):
    with pytest.raises(InputError):
        model.decode(tokens)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"base": {"kind": "vqvae"}}, "base.kind='vqvae'"),
        ({"base": {"kind": []}}, "base.kind"),
        ({"base": VQGAN | {"depth": 3}}, "unknown key"),
        ({"base": VQ | {"predict": "pixels"}}, "predict"),
        ({"base": VQ | {"normalize_codes": False}}, "normalize_codes"),
        ({"base": VAE | {"down_block_types": ["None"]}}, "makes no"),
        ({"num_tokens": 25}, "num_tokens=25"),
        ({"error_bins": [0.1, 0.1]}, "ascending"),
        ({"error_bins": []}, "ascending"),
        ({"bin_errors": [0.1]}, "per bin"),
        ({"encoder_heads": 5}, "heads=5"),
        ({"encoder_width": 4}, "encoder width 4"),
        ({"image_size": 17}, "image_size=17"),
        ({"max_grid": 4}, "image_size=16"),
    ],
)
def test_configurations_that_do_not_fit(changes, told):
    with pytest.raises(InputError, match=told):
        construct(KARLTokenizer, SMALL | changes, "model")
