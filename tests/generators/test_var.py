"""The VAR transformer: cache against teacher forcing, conditions, editing, batch invariance."""

import pytest
import torch

from visgen.errors import InputError
from visgen.generators.base import GenerationRequest
from visgen.generators.conditions import ClassCondition, PromptCondition, TextCondition
from visgen.generators.var import VARTransformer
from visgen.nn.noise import Noise
from visgen.nn.quantizers.multiscale import MultiScaleVQ
from visgen.nn.sampling import TokenSampling
from visgen.tokenizers.tokens import ImageTokens, Scales

SCALES = (1, 2, 3)
KINDS = {
    "class": {"num_classes": 5},
    "prompt": {"text_length": 4, "text_vocab_size": 9},
    "text": {"text_length": 4, "text_dim": 6},
}


def make(kind="class", **options):
    torch.manual_seed(0)
    config = {"hidden_size": 16, "depth": 2, "num_heads": 2, "codebook_size": 12, "latent_channels": 4}
    model = VARTransformer(scales=SCALES, condition=kind, **config, **KINDS[kind], **options).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # gates near zero would hide mistakes
    return model


@pytest.fixture(scope="module")
def quantizer():
    torch.manual_seed(1)
    return MultiScaleVQ(12, 4, len(SCALES))


def condition(kind, batch=3):
    generator = torch.Generator().manual_seed(2)
    mask = torch.tensor([[True, True, False, False]]).expand(batch, 4)
    if kind == "class":
        return ClassCondition(torch.arange(batch) % 5)
    if kind == "prompt":
        return PromptCondition(torch.randint(9, (batch, 4), generator=generator), mask)
    return TextCondition(torch.randn(batch, 4, 6, generator=generator), mask)


def generate(model, quantizer, cond, sampling=None, seeds=None, **options):
    noise = Noise.per_image(seeds or [(0, k) for k in range(len(cond))])
    request = GenerationRequest(cond, sampling or TokenSampling(), noise, **options)
    steps = []
    result = model.generate(request, quantizer=quantizer, on_step=steps.append)
    return result, steps


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("modulation", ["per_block", "shared", "constant"])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_cached_steps_equal_teacher_forcing(kind, modulation, qk_norm, quantizer):
    model = make(kind, modulation=modulation, qk_norm=qk_norm)
    result, steps = generate(model, quantizer, condition(kind))
    inputs = quantizer.generator_inputs(list(result.tokens.per_scale()), model.layout.sizes)
    forced = model(condition(kind), inputs)
    assert torch.allclose(torch.cat([step.logits for step in steps], dim=1), forced, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_mixes_the_two_halves(kind, quantizer):
    model, cond = make(kind), condition(kind)
    plain, _ = generate(model, quantizer, cond, TokenSampling(top_k=1))
    same, _ = generate(model, quantizer, cond, TokenSampling(top_k=1, guidance_scale=1.0))
    assert torch.equal(plain.tokens.ids, same.tokens.ids)
    _, guided = generate(model, quantizer, cond, TokenSampling(top_k=1, guidance_scale=3.0))
    _, c = generate(model, quantizer, cond, TokenSampling(top_k=1))
    _, u = generate(model, quantizer, cond.unconditional(), TokenSampling(top_k=1))
    expected = u[0].logits + 3 * (c[0].logits - u[0].logits)
    assert torch.allclose(guided[0].logits, expected, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_same_image_alone_in_a_batch_and_reversed(kind, quantizer):
    model, cond = make(kind), condition(kind, 7)
    seeds = [(3, k) for k in range(7)]
    together, _ = generate(model, quantizer, cond, TokenSampling(guidance_scale=2.0), seeds)
    fields = {name: value for name, value in vars(cond).items() if value is not None}
    for k in range(7):
        alone = type(cond)(**{name: value[k : k + 1] for name, value in fields.items()})
        result, _ = generate(model, quantizer, alone, TokenSampling(guidance_scale=2.0), seeds[k : k + 1])
        assert torch.equal(result.tokens.ids[0], together.tokens.ids[k])
    backwards = type(cond)(**{name: value.flip(0) for name, value in fields.items()})
    result, _ = generate(model, quantizer, backwards, TokenSampling(guidance_scale=2.0), seeds[::-1])
    assert torch.equal(result.tokens.ids.flip(0), together.tokens.ids)


def test_masked_words_do_not_count(quantizer):
    model, cond = make("prompt"), condition("prompt")
    other = PromptCondition(torch.where(cond.mask, cond.input_ids, 8 - cond.input_ids), cond.mask)
    inputs = torch.zeros(3, model.layout.length - 1, 4)
    assert torch.equal(model(cond, inputs), model(other, inputs))
    assert not torch.allclose(model(cond, inputs), model(cond.unconditional(), inputs))


def test_negative_prompt_replaces_the_empty_one(quantizer):
    model, cond = make("prompt"), condition("prompt")
    negative = PromptCondition(cond.input_ids, cond.mask, cond.input_ids, cond.mask)
    _, guided = generate(model, quantizer, negative, TokenSampling(top_k=1, guidance_scale=5.0))
    _, plain = generate(model, quantizer, cond, TokenSampling(top_k=1))
    assert torch.allclose(
        guided[0].logits, plain[0].logits, atol=1e-4
    )  # c − u = 0: nothing to guide away from


@pytest.mark.parametrize("smooth", [False, True])
def test_known_tokens_are_kept(quantizer, smooth):
    model = make()
    source = ImageTokens(Scales.square(SCALES), ids=torch.randint(12, (3, 14)))
    keep = torch.zeros(1, 3, 3, dtype=torch.bool)
    keep[:, :, 0] = True
    result, _ = generate(
        model, quantizer, condition("class"), TokenSampling(smooth=smooth), known=(source, keep)
    )
    last = result.tokens.ids[:, 5:].view(3, 3, 3)
    assert torch.equal(last[:, :, 0], source.ids[:, 5:].view(3, 3, 3)[:, :, 0])
    assert torch.equal(result.tokens.ids[:, 0], source.ids[:, 0])  # the 1×1 scale is kept whole
    everything = torch.ones(1, 3, 3, dtype=torch.bool)
    result, _ = generate(model, quantizer, condition("class"), known=(source, everything))
    assert torch.equal(result.tokens.ids, source.ids)


def test_bfloat16_runs_and_keeps_the_head_in_float32(quantizer):
    model = make().to(torch.bfloat16)
    assert model.head.weight.dtype == torch.float32
    result, steps = generate(model, quantizer, condition("class"), TokenSampling(guidance_scale=2.0))
    assert steps[0].logits.dtype == torch.float32
    assert result.tokens.ids.shape == (3, 14)


def test_loss_goes_down(quantizer):
    model = make("prompt")
    model.init_weights()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    tokens = ImageTokens(Scales.square(SCALES), ids=torch.randint(12, (3, 14)))
    losses = []
    for _ in range(40):
        loss = model.loss(tokens, condition("prompt"), quantizer=quantizer)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


def test_single_scale_is_guided(quantizer):
    torch.manual_seed(0)
    model = VARTransformer(
        scales=(2,), codebook_size=12, latent_channels=4, hidden_size=16, depth=1, num_heads=2
    )
    noise = Noise.per_image([(0, 0)])
    request = GenerationRequest(
        ClassCondition(torch.tensor([1])),
        TokenSampling(guidance_scale=2.0, guidance_schedule="linear"),
        noise,
    )
    assert model.generate(request, quantizer=quantizer).tokens.ids.shape == (1, 4)


def test_what_does_not_fit_is_refused(quantizer):
    model, noise = make(), Noise.per_image([(0, 0)])
    request = GenerationRequest(ClassCondition(torch.tensor([1])), TokenSampling(), noise)
    with pytest.raises(InputError, match="quantizer"):
        model.generate(request)
    with pytest.raises(InputError, match="strategy"):
        model.generate(request, quantizer=quantizer, strategy="sjd")
    with pytest.raises(InputError, match="PromptCondition"):
        generate(model, quantizer, condition("prompt"))
    with pytest.raises(InputError, match="num_heads"):
        VARTransformer(hidden_size=10, num_heads=3)


def test_labels(quantizer):
    model, inputs = make(), torch.zeros(1, 13, 4)
    unconditional = [model(ClassCondition(torch.tensor([label])), inputs) for label in (-1, -7, 5)]
    assert torch.equal(unconditional[0], unconditional[1])
    assert torch.equal(unconditional[0], unconditional[2])  # the official code's own name for it
    with pytest.raises(IndexError):
        model(ClassCondition(torch.tensor([6])), inputs)


def test_a_failed_generation_leaves_nothing_behind(quantizer):
    model, cond = make(), condition("class")
    before, _ = generate(model, quantizer, cond)

    def fail(step):
        raise RuntimeError("stop")

    request = GenerationRequest(cond, TokenSampling(), Noise.per_image([(0, k) for k in range(3)]))
    with pytest.raises(RuntimeError):
        model.generate(request, quantizer=quantizer, on_step=fail)
    after, _ = generate(model, quantizer, cond)
    assert torch.equal(before.tokens.ids, after.tokens.ids)
