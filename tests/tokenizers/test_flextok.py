"""FlexTok: prefixes, the reductions against the dense computation, batches, noise, precision, errors."""

from itertools import pairwise

import pytest
import torch

from visgen.errors import InputError
from visgen.nn.flow import FlowSampling
from visgen.nn.noise import Noise
from visgen.tokenizers import TOKENIZERS
from visgen.tokenizers.flextok import FlexTokTokenizer
from visgen.tokenizers.tokens import Grid, ImageTokens, Sequence1D

R = 12
LATENTS = {
    "kind": "AutoencoderKL",
    "latent_channels": 4,
    "block_out_channels": [8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 4,
}
SIZE = {"width": 32, "depth": 2, "head_dim": 16, "position_sizes": [8, 8]}
GUIDED = FlowSampling(3, 2.5)


def build(**changes):
    torch.manual_seed(0)
    config = {
        "image_size": 32,
        "latents": LATENTS,
        "encoder_sizes": SIZE,
        "decoder_sizes": SIZE,
        "levels": (8, 8, 5),
        "num_registers": R,
        "sampling": {"num_inference_steps": 2, "guidance_scale": 3.0, "guidance": "apg"},
    }
    model = FlexTokTokenizer(**config | changes)
    for name, parameter in model.named_parameters():  # fresh heads and gates are zero
        if (parameter.requires_grad and parameter.ndim > 1) or "token" in name:
            torch.nn.init.normal_(parameter, std=0.3 if name.startswith("encoder") else 0.15)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def images():
    coarse = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, scale_factor=8).clamp(-1, 1)


@pytest.fixture(scope="module")
def tokens(model, images):
    return model.encode(images)


def first(tokens, count, rows=slice(None)):
    return ImageTokens(Sequence1D(count), ids=tokens.ids[rows, :count])


def test_tokens_tell_images_apart(model, tokens):
    assert tokens.layout == model.layout == Sequence1D(R) and tokens.mask is None
    assert (
        len(tokens.ids.unique(dim=0)) == 3
        and len(tokens.ids.unique()) > R
        and tokens.ids.max() < model.quantizer.codebook_size
    )
    assert model.codebook.shape == (320, 3)
    assert torch.equal(model.codebook[tokens.ids], model.fsq.codes(tokens.ids))


@pytest.mark.parametrize("count", [1, 5, R])
def test_fewer_tokens_are_the_first_ones(model, images, tokens, count):
    made = model.encode(images, num_tokens=count)
    assert made.layout == Sequence1D(count) and torch.equal(made.ids, tokens.ids[:, :count])


@pytest.mark.parametrize("count", range(R + 1))
@pytest.mark.parametrize("guidance", ["cfg", "apg"])
def test_one_masked_register_counts_as_all(model, tokens, count, guidance):
    sampling = FlowSampling(2, 3.0, guidance)
    some = first(tokens, count)
    made = model.decode_latents(some, sampling=sampling)
    dense = model.decode_latents(some, sampling=sampling, collapse=False)
    torch.testing.assert_close(made, dense, atol=1e-5, rtol=1e-5)
    assert made.std() > 0.1


def test_each_token_changes_the_image(model, tokens):
    images = [model.decode_latents(first(tokens, count), sampling=GUIDED) for count in range(R + 1)]
    for fewer, more in pairwise(images):
        assert (fewer - more).abs().max() > 1e-3


@pytest.mark.parametrize("collapse", [True, False])
def test_a_batch_of_mixed_lengths_gives_what_its_images_give_alone(model, tokens, collapse):
    counts = [1, R, 7]
    mask = torch.arange(R) < torch.tensor(counts)[:, None]
    ids = tokens.ids.masked_fill(~mask, 10**6)  # what stands behind a prefix does not matter
    noise = Noise.per_image([(0, k) for k in range(3)])
    together = model.decode_latents(
        ImageTokens(Sequence1D(R), ids=ids, mask=mask), sampling=GUIDED, noise=noise, collapse=collapse
    )
    for row, count in enumerate(counts):
        alone = model.decode_latents(
            first(tokens, count, [row]), sampling=GUIDED, noise=Noise.per_image([(0, row)])
        )
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-5)


def test_an_image_does_not_depend_on_the_order_of_its_batch(model, tokens):
    def decode(rows):
        noise = Noise.per_image([(5, row) for row in rows])
        return model.decode(ImageTokens(Sequence1D(R), ids=tokens.ids[rows]), noise=noise)

    torch.testing.assert_close(decode([0, 1, 2]), decode([2, 0, 1])[[1, 2, 0]], atol=1e-5, rtol=1e-5)


def test_without_noise_every_image_starts_from_the_same_draw(model, tokens):
    twice = ImageTokens(Sequence1D(R), ids=tokens.ids[[0, 0]])
    a, b = model.decode(twice)
    torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(model.decode(twice[0])[0], a, atol=1e-5, rtol=1e-5)
    other = model.decode(twice[0], noise=Noise.per_image([(1, 0)]))
    assert (other[0] - a).abs().max() > 1e-2


def test_sampling_is_the_models_own_unless_given(model, tokens):
    own = FlowSampling(2, 3.0, "apg")
    torch.testing.assert_close(model.decode(tokens), model.decode(tokens, sampling=own))
    assert not torch.allclose(model.decode(tokens), model.decode(tokens, sampling=FlowSampling(2)))


def test_no_tokens_are_not_no_condition(model, tokens):
    none = model.decode_latents(first(tokens, 0), sampling=FlowSampling(2))
    codes = model.fsq.codes(tokens.ids)
    null = torch.ones(3, dtype=torch.bool)
    x, times = torch.ones(3, 4, 16, 16), model.decoder.time_vectors(torch.ones(1))
    masked = model.decoder(x, model.decoder.registers(codes, 0), times)
    dropped = model.decoder(x, model.decoder.registers(codes, R, null), times)
    assert (masked - dropped).abs().max() > 1e-3 and none.isfinite().all()
    for count in (0, 5):  # the null condition is the same whatever is kept
        again = model.decoder(x, model.decoder.registers(codes, count, null), times)
        torch.testing.assert_close(again, dropped, atol=1e-5, rtol=1e-5)


def test_both_passes_in_one_batch_are_both_passes(model, tokens, monkeypatch):
    one = first(tokens, 3, [0])
    apart = model.decode_latents(one, sampling=GUIDED)
    monkeypatch.setattr("visgen.tokenizers.flextok.TOGETHER", 0)
    torch.testing.assert_close(model.decode_latents(one, sampling=GUIDED), apart, atol=1e-5, rtol=1e-5)


def test_images_of_other_sides_encode(model, images):
    wide = model.encode(images[..., :16, :])
    assert wide.ids.shape == (3, R)
    with pytest.raises(InputError, match="multiples"):
        model.encode(images[..., :30, :])
    with pytest.raises(InputError, match="position table"):
        model.encode(images.repeat(1, 1, 2, 2))


def test_a_resized_position_table_takes_any_size(images):
    interpolating = build(encoder_sizes=SIZE | {"position_scaling": "interpolate"})
    assert interpolating.encode(images.repeat(1, 1, 2, 1)).ids.shape == (3, R)


@pytest.mark.parametrize("kind", ["learnable_sum", "learnable_prod"])
def test_learned_positions_and_shared_modulation(images, kind):
    size = SIZE | {"positions": kind}
    model = build(encoder_sizes=size, decoder_sizes=size | {"register_positions": None, "adaln_expansion": 1})
    tokens = model.encode(images)
    made, dense = (model.decode_latents(first(tokens, 5), sampling=GUIDED, collapse=c) for c in (True, False))
    torch.testing.assert_close(made, dense, atol=1e-5, rtol=1e-5)


def test_noise_draws_latents_from_the_posterior(model, images, tokens):
    drawn = model.encode(images, noise=Noise.per_image([(0, k) for k in range(3)]))
    again = model.encode(images[1:2], noise=Noise.per_image([(0, 1)]))
    assert not torch.equal(drawn.ids, tokens.ids) and torch.equal(drawn.ids[1], again.ids[0])


def test_training_pass_at_one_count_is_that_of_counts(model, images):
    latents = model.codec.encode(images)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(2))
    sigma, null = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([False, True, False])
    one = model(latents, noise, sigma, 4, null)
    counts = model(latents, noise, sigma, torch.tensor([4, 4, 4]), null)
    torch.testing.assert_close(one.losses, counts.losses)
    assert one.ids.shape == (3, 4) and one.velocity.shape == latents.shape
    mixed = model(latents, noise, sigma, torch.tensor([4, 1, R]), null)
    torch.testing.assert_close(mixed.losses[:2], one.losses[:2], atol=1e-5, rtol=1e-5)


def test_gradients_reach_encoder_and_tokens_but_not_the_autoencoder(images):
    model = build().train()
    latents = model.codec.encode(images)
    null = torch.tensor([False, True, False])
    model(latents, torch.randn_like(latents), torch.full((3,), 0.5), 4, null).losses.sum().backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert all(p.grad is None for p in model.codec.parameters())
    assert model.encoder.registers.grad[:4].abs().min(dim=1).values.max() > 0
    assert not model.encoder.registers.grad[4:].any()


def test_saved_and_loaded_it_is_the_same(model, images, tokens, tmp_path):
    model.save_pretrained(tmp_path)
    again = TOKENIZERS.load("FlexTokTokenizer").from_pretrained(tmp_path)
    assert torch.equal(again.encode(images).ids, tokens.ids)
    assert torch.equal(again.decode(tokens), model.decode(tokens))
    assert {k: v for k, v in again.config.items() if k[0] != "_"} == {
        k: v for k, v in model.config.items() if k[0] != "_"
    }


def test_bfloat16_leaves_fsq_in_float32(images, tokens):
    half = build().to(torch.bfloat16)
    made = half.encode(images.bfloat16())
    with torch.no_grad():
        z = half.encoder(half.codec.encode(images), R)
    assert z.dtype == torch.bfloat16 and torch.equal(made.ids, half.fsq(z.float()).ids)
    assert half.fsq(z).codes.dtype == torch.float32
    assert float((made.ids == tokens.ids).float().mean()) > 0.5
    assert half.decode_latents(made).dtype == torch.float32


def test_untrained_defaults_are_the_official_sizes():
    with torch.device("meta"):
        model = FlexTokTokenizer()
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert counts["encoder"] == pytest.approx(85e6, rel=0.01)
    assert counts["decoder"] == pytest.approx(172e6, rel=0.01)
    assert model.sampling == FlowSampling(20, 7.5, "apg") and model.layout.n == 256


def bad_tokens(tokens):
    holes = torch.ones(3, R, dtype=torch.bool)
    holes[0, 3] = False
    return {
        "Sequence1D": ImageTokens(Grid(3, 4), ids=tokens.ids),
        "ids": ImageTokens(Sequence1D(R), latents=torch.zeros(3, R, 3)),
        "more than the 12": ImageTokens(Sequence1D(R + 1), ids=torch.zeros(1, R + 1, dtype=torch.long)),
        "mask": ImageTokens(Sequence1D(R), ids=tokens.ids, mask=holes),
        "codebook": ImageTokens(Sequence1D(1), ids=torch.tensor([[320]])),
    }


@pytest.mark.parametrize("told", ["Sequence1D", "ids", "more than the 12", "mask", "codebook"])
def test_tokens_of_another_kind_are_refused(model, tokens, told):
    with pytest.raises(InputError, match=told):
        model.decode(bad_tokens(tokens)[told])


def test_knobs_and_sampling_are_checked(model, images, tokens):
    for options in ({"num_tokens": 0}, {"num_tokens": R + 1}, {"max_error": 0.1}):
        with pytest.raises(InputError, match=next(iter(options))):
            model.encode(images, **options)
    with pytest.raises(InputError, match="FlowSampling"):
        model.decode(tokens, sampling={"num_inference_steps": 2})


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": 33},
        {"num_registers": 0},
        {"levels": ()},
        {"latents": {"kind": "unknown"}},
        {"encoder_sizes": SIZE | {"head_dim": 24}},
        {"encoder_sizes": SIZE | {"patch_size": 0}},
        {"encoder_sizes": SIZE | {"depths": 2}},
        {"decoder_sizes": SIZE | {"adaln_expansion": 3}},
        {"decoder_sizes": SIZE | {"max_timestep": 0.0}},
        {"decoder_sizes": SIZE | {"position_sizes": [0, 8]}},
        {"sampling": {"num_inference_steps": 0}},
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes):
    with pytest.raises(InputError):
        build(**changes)
