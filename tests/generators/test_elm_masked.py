"""ELM's masked transformer: loss, iterative sampling, sub-codes, what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F

from visgen.errors import InputError
from visgen.generators import GENERATORS
from visgen.generators.base import GenerationRequest
from visgen.generators.conditions import ClassCondition
from visgen.generators.elm_masked import ELMMaskedTransformer
from visgen.nn.masking import MaskedSampling, masked_again
from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling
from visgen.tokenizers.tokens import Grid, ImageTokens


def tiny(**changes):
    torch.manual_seed(0)
    options = {"grid": (3, 4), "codebook_size": 10, "hidden_size": 16, "depth": 2, "num_heads": 2}
    model = ELMMaskedTransformer(**options | {"mlp_size": 24, "num_classes": 3} | changes).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    return model


def draw(model, labels, seeds, known=None, on_step=None, **options):
    sampling = MaskedSampling(**{"num_inference_steps": 5} | options)
    noise = Noise.per_image([(seed, 0) for seed in seeds])
    request = GenerationRequest(ClassCondition(torch.tensor(labels)), sampling, noise, known=known)
    return model.generate(request, on_step=on_step)


def tokens(model, rows=2):
    shape = (rows, model.layout.length, model.config.num_codes)
    ids = torch.randint(0, 10, shape, generator=torch.Generator().manual_seed(2))
    return ImageTokens(model.layout, ids=ids.squeeze(-1) if shape[2] == 1 else ids)


def test_masked_tokens_are_not_seen():
    model, given = tiny(), tokens(tiny())
    masked = torch.zeros(2, 12, dtype=torch.bool)
    masked[:, 5] = True
    other = given.ids.clone()
    other[:, 5] = (other[:, 5] + 1) % 10
    ids = [one[..., None].masked_fill(masked[..., None], model.mask_id) for one in (given.ids, other)]
    condition = ClassCondition(torch.tensor([0, 2]))
    first, second = (model(condition, one) for one in ids)
    assert torch.equal(first, second)
    assert not torch.allclose(first, model(condition, given.ids[..., None]), atol=1e-3)


@pytest.mark.parametrize("codes", [1, 2])
def test_loss_is_over_masked_tokens(codes):
    model = tiny(num_codes=codes)
    given, condition = tokens(model), ClassCondition(torch.tensor([1, -1]))
    masked = torch.rand(2, 12, generator=torch.Generator().manual_seed(0)) < 0.5
    ids = given.ids.view(2, 12, codes)
    logits = model(condition, ids.masked_fill(masked[..., None], model.mask_id)).log_softmax(-1)
    nll = -logits.gather(-1, ids[..., None]).squeeze(-1)
    expected = (0.9 * nll - 0.1 * logits.mean(-1))[masked].mean()
    found = model.loss(given, condition, masked=masked)
    assert torch.allclose(found["loss"], expected, atol=1e-5)
    torch.manual_seed(3)
    losses = [model.loss(given, condition)["loss"].item() for _ in range(3)]
    assert len(set(losses)) == 3  # another mask each time


@pytest.mark.parametrize("codes", [1, 2])
def test_an_image_does_not_depend_on_its_batch(codes):
    model = tiny(num_codes=codes)
    options = {"guidance_scale": 3.0, "guidance_schedule": "elm_linear"}
    both = draw(model, [0, 2], [4, 5], **options).tokens.ids
    alone = draw(model, [2], [5], **options).tokens.ids
    assert torch.equal(both[1:], alone) and int(both.max()) < 10
    assert both.shape == ((2, 12) if codes == 1 else (2, 12, 2))


def test_guidance():
    model = tiny()
    plain, off = draw(model, [0], [1]).tokens.ids, draw(model, [0], [1], guidance_scale=1.0).tokens.ids
    assert torch.equal(plain, off)
    assert torch.equal(
        draw(model, [0], [1], guidance_scale=0.0).tokens.ids, draw(model, [-1], [1]).tokens.ids
    )


def test_steps_report_and_add_up():
    model, steps = tiny(), []
    result = draw(model, [0, 1], [1, 2], on_step=steps.append, num_inference_steps=4)
    assert [step.index for step in steps] == [0, 1, 2, 3] and result.stats["passes"] == 4
    assert torch.equal(steps[-1].ids, result.tokens.ids)


def test_a_single_step_draws_from_the_law():
    """One pass, everything masked: frequencies are those of the softmax."""
    model = tiny(grid=(1, 1))
    ids = torch.cat([draw(model, [1], [seed], num_inference_steps=1).tokens.ids for seed in range(600)])
    with torch.no_grad():
        law = model(ClassCondition(torch.tensor([1])), torch.full((1, 1, 1), model.mask_id)).softmax(-1)
    found = torch.bincount(ids.flatten(), minlength=10) / 600
    assert torch.allclose(found, law.flatten(), atol=0.07)


def test_known_tokens_stay():
    model = tiny()
    given = tokens(model, 1)
    keep = torch.zeros(1, 3, 4, dtype=torch.bool)
    keep[:, :2] = True
    out = draw(model, [0], [3], known=(given, keep)).tokens.ids
    assert torch.equal(out[:, :8], given.ids[:, :8])
    everything = draw(model, [0], [3], known=(given, torch.ones_like(keep))).tokens.ids
    assert torch.equal(everything, given.ids)


def test_how_many_aremasked_again():
    sure = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    for ratio in (0.25, 0.5, 0.75):
        again = masked_again(sure, ratio)
        assert again.sum(1).tolist() == [int(12 * math.cos(math.pi / 2 * ratio))] * 2
        assert sure[again].max() <= sure[~again].max()
    assert masked_again(sure, 1.0).sum(1).tolist() == [1, 1]
    sure[0, 3:] = torch.inf  # three were masked: at most two are again
    assert masked_again(sure, 0.1).sum(1).tolist() == [2, 11]


def test_bad_input():
    model = tiny()
    request = GenerationRequest(ClassCondition(torch.tensor([0])), TokenSampling(), Noise.per_image([(0, 0)]))
    with pytest.raises(InputError, match="next-token"):
        model.generate(request, strategy="sjd")
    with pytest.raises(InputError, match="sub-codes"):
        model.loss(ImageTokens(Grid(3, 3), ids=torch.zeros(1, 9, dtype=torch.long)), request.condition)
    with pytest.raises(InputError, match="num_inference_steps=0"):
        MaskedSampling(num_inference_steps=0)
    with pytest.raises(InputError, match="choice_temperature"):
        MaskedSampling(choice_temperature=-1.0)
    with pytest.raises(InputError, match="num_heads"):
        tiny(num_heads=8)


def test_saving(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path)
    loaded = GENERATORS.load("ELMMaskedTransformer").from_pretrained(tmp_path)
    assert torch.equal(draw(loaded, [0], [1]).tokens.ids, draw(model, [0], [1]).tokens.ids)


def test_gradients_reach_the_table_only_through_the_input():
    """The head multiplies with the embedding table but does not train it, as in the official code."""
    model = tiny(depth=0)
    masked = torch.ones(2, 12, dtype=torch.bool)
    model.loss(tokens(model), ClassCondition(torch.tensor([0, 1])), masked=masked)["loss"].backward()
    grad = model.embed.weight.grad
    assert F.normalize(grad[:-1], dim=0).abs().max() == 0 and grad[-1].abs().max() > 0
