"""TiTok's MaskGIT generators: loss, sampling in steps, guidance schedules, what is refused."""

import math

import pytest
import torch

from visgen.errors import InputError, UnknownNameError
from visgen.generators import GENERATORS
from visgen.generators.base import GenerationRequest
from visgen.generators.conditions import ClassCondition, TextCondition
from visgen.generators.maskgit import UNMASKED_WEIGHT, MaskGITGenerator
from visgen.nn.guidance import guidance_at, step_position
from visgen.nn.masked_sampling import MaskGITSampling, arccos_share, draw_maskgit, gumbel, remasked
from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling
from visgen.tokenizers.tokens import Grid, ImageTokens, Sequence1D

BACKBONES = ("bert", "uvit")


def tiny(backbone="bert", **changes):
    torch.manual_seed(0)
    sizes = {"num_tokens": 12, "codebook_size": 10, "num_classes": 3, "hidden_size": 16, "depth": 2}
    options = {"num_heads": 2, "mlp_size": 24, "num_inference_steps": 5}
    model = MaskGITGenerator(**sizes | options | {"backbone": backbone} | changes).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    return model


def draw(model, labels, seeds, on_step=None, sampling=None, **options):
    noise = Noise.per_image([(seed, 0) for seed in seeds])
    sampling = sampling or MaskGITSampling(**{"num_inference_steps": 5} | options)
    request = GenerationRequest(ClassCondition(torch.tensor(labels)), sampling, noise)
    return model.generate(request, on_step=on_step)


def some_tokens(rows=2):
    ids = torch.randint(0, 10, (rows, 12), generator=torch.Generator().manual_seed(2))
    return ImageTokens(Sequence1D(12), ids=ids)


@torch.no_grad()
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_token_sees_every_other(backbone):
    model, ids = tiny(backbone), some_tokens(1).ids
    condition = ClassCondition(torch.tensor([1]))
    plain = model(condition, ids)
    for place in (0, 11):
        changed = ids.clone()
        changed[:, place] = model.mask_id
        assert ((model(condition, changed) - plain).abs().amax(-1) > 1e-4).all()
    assert not torch.allclose(model(condition.unconditional(), ids), plain, atol=1e-3)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_loss_weighs_masked_tokens(backbone):
    model, given, condition = tiny(backbone), some_tokens(), ClassCondition(torch.tensor([1, -1]))
    masked = torch.rand(2, 12, generator=torch.Generator().manual_seed(0)) < 0.5
    logits = model(condition, given.ids.masked_fill(masked, model.mask_id)).log_softmax(-1)
    nll = -0.9 * logits.gather(-1, given.ids[..., None]).squeeze(-1) - 0.1 * logits.mean(-1)
    weight = masked.float() + UNMASKED_WEIGHT * (~masked)
    found = model.loss(given, condition, masked=masked)
    assert torch.allclose(found["loss"], (nll * weight).sum() / weight.sum(), atol=1e-5)
    found["loss"].backward()
    unused = {"trunk.token_type_embeddings.weight"}
    assert all(p.grad is not None for name, p in model.named_parameters() if name not in unused)


def test_training_masks():
    """Shares follow acos(u) / (π/2), mean 1 − 2/π … of at least one token."""
    model = tiny()
    masks = model.draw_mask(4000, torch.Generator().manual_seed(0))
    assert masks.any(1).all()
    u = (torch.arange(10000) + 0.5) / 10000
    expected = (u.acos() / (math.pi / 2) * 12).round().clamp_min(1).mean() / 12
    assert float(masks.float().mean()) == pytest.approx(float(expected), abs=0.01)
    assert masks.float().mean(0).std() < 0.02  # no place is preferred


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("schedule", ["constant", "maskgit_linear", "power_cosine:2"])
def test_an_image_does_not_depend_on_its_batch(backbone, schedule):
    model = tiny(backbone)
    options = {"guidance_scale": 3.0, "guidance_schedule": schedule, "annealing": True}
    both = draw(model, [0, 2], [4, 5], **options).tokens.ids
    alone = draw(model, [2], [5], **options).tokens.ids
    assert torch.equal(both[1:], alone) and both.shape == (2, 12) and int(both.max()) < 10


def test_guidance():
    model = tiny()
    plain, off = draw(model, [0], [1]), draw(model, [0], [1], guidance_scale=1.0)
    assert torch.equal(plain.tokens.ids, off.tokens.ids)
    null = draw(model, [-1], [1], choice_temperature=0.0).tokens.ids
    assert torch.equal(draw(model, [0], [1], choice_temperature=0.0, guidance_scale=0.0).tokens.ids, null)


def test_schedules():
    """As the official code has them, with its g: 1 + g s/S, and 1 + (s − 1)(1 − cos π(s/S)^p) / 2."""
    linear = [guidance_at(5.5, "maskgit_linear", step_position("maskgit_linear", k, 8)) for k in range(8)]
    assert linear == pytest.approx([1 + 4.5 * k / 8 for k in range(8)])
    name = "power_cosine:2.75"
    cosine = [guidance_at(16.0, name, step_position(name, k, 256)) for k in range(256)]
    assert cosine == pytest.approx(
        [1 + 15 * (1 - math.cos(math.pi * (k / 256) ** 2.75)) / 2 for k in range(256)]
    )
    assert guidance_at(3.0, "power_cosine", 0.5) == pytest.approx(2.0)
    for bad in ("power_cosine:x", "power_cosine:-1", "power_cosine:inf", "linear:2", "power_cosine:"):
        with pytest.raises(InputError, match="power"):
            TokenSampling(guidance_schedule=bad)
    with pytest.raises(UnknownNameError, match="power_cosine"):
        TokenSampling(guidance_schedule="power_cosin:2")


def test_without_heat_the_likeliest_ids_are_taken():
    """All at once: the ids of the largest logits; and the seed does not matter."""
    model = tiny()
    one = draw(model, [0, 1], [1, 2], choice_temperature=0.0, num_inference_steps=1).tokens.ids
    with torch.no_grad():
        masked = torch.full((2, 12), model.mask_id)
        assert torch.equal(one, model(ClassCondition(torch.tensor([0, 1])), masked).argmax(-1))
    first, second = (draw(model, [0], [seed], choice_temperature=0.0).tokens.ids for seed in (3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(draw(model, [0], [3]).tokens.ids, draw(model, [0], [4]).tokens.ids)


def test_heat_and_annealing_of_a_draw():
    """r = 1/2 and T = 2: ids follow softmax(l / (0.5 + 0.4)) at the heat 2 · 1/2 = 1."""
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5])
    sampling = MaskGITSampling(choice_temperature=2.0, annealing=True)
    rows = 4000
    noise, ids = Noise.shared(0), torch.full((rows, 1), 9)
    drawn, _ = draw_maskgit(logits.expand(rows, 1, 4), ids, 9, noise, sampling, 0.5)
    found = torch.bincount(drawn.flatten(), minlength=4) / rows
    assert torch.allclose(found, (logits / 0.9).softmax(-1), atol=0.03)


def test_known_ids_are_sure():
    ids = torch.tensor([[3, 9, 9]])
    drawn, sure = draw_maskgit(
        torch.randn(1, 3, 9), ids, 9, Noise.shared(0), MaskGITSampling(choice_temperature=0.0), 0.5
    )
    assert drawn[0, 0] == 3 and torch.isinf(sure[0, 0]) and sure[0, 1:].isfinite().all()
    again = remasked(drawn, sure, 9, 0.1)
    assert again[0, 0] == 3 and int((again == 9).sum()) == 1  # two were masked, so one is again


def test_how_many_are_masked_again():
    sure = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    drawn = torch.zeros(2, 12, dtype=torch.long)
    for ratio in (0.25, 0.5, 0.75):
        counts = (remasked(drawn, sure, 9, ratio) == 9).sum(1).tolist()
        assert counts == [int(12 * arccos_share(ratio))] * 2
    assert arccos_share(0.5) == pytest.approx(2 / 3)


def test_gumbel_noise_is_finite():
    draws = gumbel(Noise.replayed([torch.tensor([[0.0, 1.0, 0.5]])]), torch.zeros(1, 3))
    assert draws.isfinite().all() and float(draws[0, 2]) == pytest.approx(-math.log(math.log(2)))


def test_a_plain_sampling_means_the_models_recipe():
    model = tiny(num_inference_steps=3, choice_temperature=0.0)
    plain = draw(model, [0], [1], sampling=TokenSampling(guidance_scale=2.0))
    own = MaskGITSampling(num_inference_steps=3, choice_temperature=0.0, guidance_scale=2.0)
    assert plain.stats["passes"] == 3
    assert torch.equal(plain.tokens.ids, draw(model, [0], [1], sampling=own).tokens.ids)


def test_steps_report_and_add_up():
    model, steps = tiny(), []
    result = draw(model, [0, 1], [1, 2], on_step=steps.append, num_inference_steps=4)
    assert [step.index for step in steps] == [0, 1, 2, 3] and result.stats["passes"] == 4
    assert torch.equal(steps[-1].ids, result.tokens.ids)


def test_more_steps_than_tokens():
    result = draw(tiny(), [0], [1], num_inference_steps=30)
    assert result.tokens.ids.shape == (1, 12) and int(result.tokens.ids.max()) < 10


@pytest.mark.parametrize("backbone", BACKBONES)
def test_saving(tmp_path, backbone):
    model = tiny(backbone)
    model.save_pretrained(tmp_path)
    loaded = GENERATORS.load("MaskGITGenerator").from_pretrained(tmp_path)
    assert torch.equal(draw(loaded, [0], [1]).tokens.ids, draw(model, [0], [1]).tokens.ids)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_depths_of_uvit(depth):
    """An odd number counts the block in the middle."""
    model = tiny("uvit", depth=depth)
    assert len(model.trunk.in_blocks) == len(model.trunk.out_blocks) == depth // 2
    assert model(ClassCondition(torch.tensor([0])), some_tokens(1).ids).shape == (1, 12, 10)


def test_bad_input():
    model = tiny()
    condition, noise = ClassCondition(torch.tensor([0])), Noise.per_image([(0, 0)])
    request = GenerationRequest(condition, TokenSampling(), noise)
    with pytest.raises(InputError, match="next-token"):
        model.generate(request, strategy="sjd")
    with pytest.raises(InputError, match="layout"):
        model.generate(GenerationRequest(condition, TokenSampling(), noise, layout=Grid(3, 4)))
    with pytest.raises(InputError, match="no place"):
        known = (some_tokens(1), torch.ones(1, 3, 4, dtype=torch.bool))
        model.generate(GenerationRequest(condition, TokenSampling(), noise, known=known))
    with pytest.raises(InputError, match="num_tokens=4"):
        model.generate(GenerationRequest(condition, TokenSampling(), noise, num_tokens=4))
    with pytest.raises(InputError, match="layout"):
        model.loss(ImageTokens(Grid(3, 4), ids=some_tokens().ids), condition)
    with pytest.raises(InputError, match="below num_classes=3"):
        draw(model, [3], [0])
    text = TextCondition(torch.zeros(1, 2, 4), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(InputError, match="TextCondition"):
        model(text, some_tokens(1).ids)
    for changes, told in (
        ({"num_heads": 3}, "num_heads=3"),
        ({"backbone": "gpt"}, "backbone"),
        ({"num_inference_steps": 0}, "num_inference_steps=0"),
    ):
        with pytest.raises(InputError, match=told):
            tiny(**changes)
