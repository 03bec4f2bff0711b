"""xAR: cached passes against the full forward, conditions, batches, halves, loss, what is refused."""

import pytest
import torch

from visgen.errors import InputError
from visgen.generators import GENERATORS
from visgen.generators.base import GenerationRequest
from visgen.generators.conditions import ClassCondition, PromptCondition, TextCondition
from visgen.generators.xar import XARGenerator
from visgen.generators.xar_sampling import EntityRun
from visgen.nn.entity_sampling import EntitySampling
from visgen.nn.flow import SigmaLaw
from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling
from visgen.tokenizers.tokens import Grid, ImageTokens

GRID = (4, 4)
CELLS = {"kind": "cell", "size": 2}
ENTITIES = {
    "cell": CELLS,
    "subsample": {"kind": "subsample", "size": 2},
    "scale": {"kind": "scale", "scales": [1, 2, 4]},
    "image": {"kind": "image"},
    "patch": {"kind": "patch"},
}
KINDS = {
    "class": {"num_classes": 5},
    "prompt": {"text_length": 3, "text_vocab_size": 9},
    "text": {"text_length": 3, "text_dim": 6},
}
GUIDED = EntitySampling(4, guidance_scale=3.0)


def make(kind="class", entities=CELLS, **changes):
    torch.manual_seed(0)
    sizes = {"grid": GRID, "latent_channels": 3, "hidden_size": 16, "encoder_depth": 1, "decoder_depth": 2}
    sizes |= {"num_heads": 2, "mlp_size": 24, "condition": kind, "dropout": 0.0}
    model = XARGenerator(entities=entities, **sizes | KINDS[kind] | changes).eval()
    for parameter in model.parameters():  # gates near zero would hide mistakes
        parameter.data = 0.3 * torch.randn_like(parameter)
    return model


def condition(kind="class", rows=3):
    generator = torch.Generator().manual_seed(2)
    mask = torch.tensor([[True, True, False]]).expand(rows, 3)
    if kind == "class":
        return ClassCondition(torch.arange(rows) % 5)
    if kind == "prompt":
        return PromptCondition(torch.randint(9, (rows, 3), generator=generator), mask)
    return TextCondition(torch.randn(rows, 3, 6, generator=generator), mask)


def some_tokens(rows=3):
    generator = torch.Generator().manual_seed(1)
    return ImageTokens(Grid(*GRID), latents=torch.randn(rows, 16, 3, generator=generator))


def request(cond, sampling=GUIDED, seeds=None, **options):
    noise = Noise.per_image(seeds or [(0, k) for k in range(len(cond))])
    return GenerationRequest(cond, sampling, noise, **options)


def draw(model, cond, sampling=GUIDED, seeds=None):
    return model.generate(request(cond, sampling, seeds)).tokens.latents


class ComparedRun(EntityRun):
    """Holds each prediction against one pass of the whole forward over clean entities and the noisy one."""

    def _remember(self, entity, clean):
        self.clean = [*getattr(self, "clean", []), clean]
        super()._remember(entity, clean)

    def predict(self, entity, x, t):
        made = super().predict(entity, x, t)
        halves = [self.request.condition, self.request.condition.unconditional()]
        for rows, noisy, cond in zip(made.split(self.batch_size), x.split(self.batch_size), halves):
            known = [*getattr(self, "clean", []), noisy]
            filler = torch.full((len(noisy), 64, 3), torch.pi)  # later ones, which nothing may depend on
            whole = torch.cat([*known, filler], dim=1)[:, : self.model.entities.length]
            times = torch.zeros(len(noisy), len(self.model.entities))
            times[:, entity], times[:, entity + 1 :] = t, 0.7
            full = self.model(cond, whole, times)[:, self.model.entities.slices()[entity]]
            assert torch.allclose(rows, full, atol=2e-4), (entity, t)
        return made


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("modulation", ["per_block", "shared"])
@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_cached_passes_equal_the_whole_forward(kind, modulation, schedule):
    sampling = EntitySampling(3, guidance_scale=2.0, guidance_schedule=schedule)
    result = ComparedRun(make(kind, modulation=modulation), request(condition(kind), sampling)).run()
    assert result.stats["passes"] == 4 * 3 + 3 + (kind != "class")
    assert result.tokens.latents.shape == (3, 16, 3) and result.tokens.layout == Grid(*GRID)


@torch.no_grad()
@pytest.mark.parametrize("entities", ENTITIES)
@pytest.mark.parametrize(("steps", "solver"), [(3, "sde"), (1, "ode")])
def test_every_kind_of_entity(entities, steps, solver):
    model, seen = make("prompt", ENTITIES[entities]), []
    run = ComparedRun(model, request(condition("prompt"), EntitySampling(steps, solver, 2.0)))
    result = run.run(seen.append)
    assert [step.index for step in seen] == list(range(len(model.entities)))
    last = result.tokens.latents.transpose(1, 2).unflatten(2, GRID)
    assert torch.equal(seen[-1].latents, last) and torch.isfinite(last).all()


class CountedRun(EntityRun):
    """Notes how many rows each pass computes."""

    def _features(self, x, *rest):
        self.rows = [*getattr(self, "rows", []), len(x)]
        return super()._features(x, *rest)


@torch.no_grad()
def test_only_guided_entities_compute_both_halves():
    model, cond = make(), condition()
    linear = CountedRun(model, request(cond, EntitySampling(3, guidance_scale=2.0)))
    linear.run()
    assert linear.rows == [3, 3, 3, 6] + 2 * [6, 6, 6, 6] + [6, 6, 6]
    off = CountedRun(model, request(cond, EntitySampling(3)))
    off.run()
    assert set(off.rows) == {3}


def test_modulations_are_made_once_per_level_and_condition(monkeypatch):
    model, made = make(), []
    own = model.modulations

    def counting(vectors, times):
        made.append((len(vectors), float(times[0, 0])))
        return own(vectors, times)

    monkeypatch.setattr(model, "modulations", counting)
    cond = ClassCondition(torch.tensor([2, 2, 4, 2]))
    draw(model, cond, EntitySampling(5, guidance_scale=2.0))
    assert len(made) == 5 + 1 and {rows for rows, _ in made} == {3}  # two classes and none; t = 0 beside five
    assert len(set(made)) == len(made)


def test_modulations_that_would_not_fit_are_made_anew(monkeypatch):
    model, cond = make(), condition()
    kept = draw(model, cond)
    monkeypatch.setattr("visgen.generators.xar_sampling.KEPT_BYTES", 0)
    assert torch.equal(draw(model, cond), kept)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_does_not_depend_on_its_batch(kind):
    model, cond = make(kind), condition(kind)
    whole = draw(model, cond)
    fields = {name: value for name, value in vars(cond).items() if value is not None}
    for row in range(3):
        alone = type(cond)(**{name: value[row : row + 1] for name, value in fields.items()})
        assert torch.allclose(draw(model, alone, seeds=[(0, row)]), whole[row : row + 1], atol=1e-4)
    assert torch.equal(draw(model, cond), whole)
    assert not torch.allclose(draw(model, cond, seeds=[(1, k) for k in range(3)]), whole, atol=0.1)


def test_guidance():
    """With one entity the linear schedule guides it whole; scale 1 is the condition alone."""
    model, cond = make(entities={"kind": "image"}), condition()
    one_step = EntitySampling(1, "ode")
    c, u = (draw(model, some, one_step) for some in (cond, cond.unconditional()))
    guided = draw(model, cond, EntitySampling(1, "ode", 3.0))
    assert torch.allclose(guided, u + 3 * (c - u), atol=1e-4)


def test_float64_is_close():
    model, cond = make(), condition()
    exact = draw(model, cond, EntitySampling(4, guidance_scale=3.0, float64=True))
    assert exact.dtype == torch.float32
    assert torch.allclose(draw(model, cond), exact, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16(kind):
    model, cond = make(kind), condition(kind)
    times, noise = torch.full((3, 4), 0.5), torch.randn(3, 16, 3)
    full, _ = model.flow_loss(some_tokens().latents, cond, times, noise)
    model = model.to(torch.bfloat16)
    assert model.dtype == torch.bfloat16 and model.time_embed.mlp.linear_1.weight.dtype == torch.float32
    half, _ = model.flow_loss(some_tokens().latents, cond, times, noise)
    assert half.dtype == torch.float32 and (half - full).norm() < 0.05 * full.norm()
    made = draw(model, cond)
    assert made.dtype == torch.float32 and torch.isfinite(made).all()


@torch.no_grad()
def test_equal_noise_equal_loss():
    """The loss is the mean of `flow_loss` at the noise that its generator draws, times first."""
    model, tokens, cond = make(), some_tokens(), condition()
    seeded = model.loss(tokens, cond, noise=torch.Generator().manual_seed(3))["loss"]
    generator = torch.Generator().manual_seed(3)
    times = SigmaLaw().draw(12, generator).view(3, 4)
    noise = torch.randn(3, 16, 3, generator=generator)
    velocity, loss_BL = model.flow_loss(tokens.latents, cond, times, noise)
    assert torch.equal(loss_BL.mean(), seeded) and velocity.shape == (3, 16, 3)
    ordered = model.entities.order(tokens.latents)
    assert torch.allclose(loss_BL, (velocity - (noise - ordered)).square().mean(-1))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["class", "prompt"])
@pytest.mark.parametrize("entities", ["cell", "scale"])
def test_clean_context(kind, entities):
    """Entities that see clean ones predict what they predict behind clean ones in an ordinary pass."""
    model, cond = make(kind, ENTITIES[entities]), condition(kind)
    latents, count = some_tokens().latents, len(model.entities)
    clean = model.entities.order(latents)
    times, noise = torch.full((3, count), 0.6), torch.randn_like(clean)
    velocity, _ = model.flow_loss(latents, cond, times, noise, context_noise=False)
    noisy = 0.6 * noise + 0.4 * clean
    for entity, place in enumerate(model.entities.slices()):
        behind, levels = clean.clone(), torch.zeros(3, count)
        behind[:, place], levels[:, entity] = noisy[:, place], 0.6
        assert torch.allclose(velocity[:, place], model(cond, behind, levels)[:, place], atol=1e-4)


def test_a_prefix_is_seen_and_sees_no_image():
    model, cond = make("prompt"), condition("prompt")
    x, times = torch.randn(3, 16, 3), torch.rand(3, 4)
    other = PromptCondition((cond.input_ids + 1) % 9, cond.mask)
    assert not torch.allclose(model(cond, x, times), model(other, x, times), atol=1e-2)
    hidden = PromptCondition((cond.input_ids + 3 * ~cond.mask) % 9, cond.mask)  # words behind the mask
    assert torch.equal(model(cond, x, times), model(hidden, x, times))


@pytest.mark.parametrize("rows", [1, 4])
def test_loss_goes_down(rows):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2, "mlp_size": 64}
    model = XARGenerator(GRID, 3, CELLS, **sizes, num_classes=5, dropout=0.0).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    generator, losses = torch.Generator().manual_seed(0), []
    for _ in range(20):
        loss = model.loss(some_tokens(rows), condition(rows=rows), noise=generator)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_every_weight_learns():
    for kind in KINDS:
        model = make(kind, modulation="shared").train()
        model.loss(some_tokens(), condition(kind))["loss"].backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_dropout_works_in_training_alone():
    model, tokens, cond = make(dropout=0.5), some_tokens(), condition()
    times, noise = torch.full((3, 4), 0.5), torch.randn(3, 16, 3)
    first, second = (model.flow_loss(tokens.latents, cond, times, noise)[0] for _ in range(2))
    assert torch.equal(first, second)
    model.train()
    first, second = (model.flow_loss(tokens.latents, cond, times, noise)[0] for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("entities", ENTITIES)
def test_saved_and_loaded(entities, tmp_path):
    model = make("prompt", ENTITIES[entities])
    model.save_pretrained(tmp_path)
    loaded = GENERATORS.load("XARGenerator").from_pretrained(tmp_path)
    assert loaded.entities == model.entities
    made = [draw(one, condition("prompt"), EntitySampling(1, "ode", 2.0)) for one in (loaded, model)]
    assert torch.equal(*made)


def test_a_failed_generation_leaves_nothing_behind():
    model, cond = make(), condition()
    before, kept = draw(model, cond), {name: id(module) for name, module in model.named_modules()}

    def fail(step):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        model.generate(request(cond), on_step=fail)
    assert {name: id(module) for name, module in model.named_modules()} == kept
    assert torch.equal(draw(model, cond), before)


def test_what_does_not_fit_is_refused():
    model, cond = make(), condition()
    known = (some_tokens(), torch.ones(1, *GRID, dtype=torch.bool))
    for options, told in (
        ({"known": known}, "known"),
        ({"num_tokens": 4}, "num_tokens=4"),
        ({"layout": Grid(2, 2)}, "layout"),
    ):
        with pytest.raises(InputError, match=told):
            model.generate(request(cond, **options))
    with pytest.raises(InputError, match="strategy"):
        model.generate(request(cond), strategy="sjd")
    with pytest.raises(InputError, match="TokenSampling"):
        model.generate(request(cond, TokenSampling()))
    with pytest.raises(InputError, match="PromptCondition"):
        model.generate(request(condition("prompt")))
    with pytest.raises(InputError, match="text_length=3"):
        make("text")(TextCondition(torch.zeros(1, 4, 6), torch.ones(1, 4).bool()), torch.zeros(1, 16, 3), 0)
    with pytest.raises(InputError, match="3 channels"):
        model.loss(ImageTokens(Grid(*GRID), latents=torch.zeros(3, 16, 4)), cond)
    with pytest.raises(InputError, match="do not fit"):
        model.loss(ImageTokens(Grid(*GRID), ids=torch.zeros(3, 16, dtype=torch.int64)), cond)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 18},
        {"num_heads": 0},
        {"modulation": "constant"},
        {"condition": "word"},
        {"entities": {"kind": "cell", "size": 3}},
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes):
    with pytest.raises(InputError, match="must"):
        XARGenerator(**{"grid": GRID, "entities": CELLS, "hidden_size": 16, "num_heads": 2} | changes)
