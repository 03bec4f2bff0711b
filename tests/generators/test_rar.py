"""RAR: sessions against the full forward, orders, strategies, loss, what is refused."""

import pytest
import torch
import torch.nn.functional as F

from visgen.decoding.speculative import Speculative
from visgen.errors import InputError
from visgen.generators import GENERATORS
from visgen.generators.base import GenerationRequest
from visgen.generators.conditions import ClassCondition, TextCondition
from visgen.generators.drafter import Drafter
from visgen.generators.next_token import StrategyRequest
from visgen.generators.rar import RARGenerator
from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling, guidance_table
from visgen.tokenizers.tokens import Grid, ImageTokens, Sequence1D

CLASSES = ClassCondition(torch.tensor([1, -1, 3]))
SAMPLING = TokenSampling(guidance_scale=3.0, guidance_schedule="power_cosine:1.5")


def tiny(**changes):
    torch.manual_seed(0)
    sizes = {"grid": (3, 4), "codebook_size": 11, "num_classes": 5, "hidden_size": 32, "depth": 2}
    model = RARGenerator(**sizes | {"num_heads": 4, "mlp_size": 48} | changes).eval()
    for parameter in model.parameters():
        parameter.data = 0.2 * torch.randn_like(parameter) + (parameter.ndim == 1)
    return model


def some_ids(rows=3, length=12):
    return torch.randint(11, (rows, length), generator=torch.Generator().manual_seed(2))


def draw(model, labels, seeds, strategy=None, **sampling):
    noise = Noise.per_image([(seed, 0) for seed in seeds])
    options = TokenSampling(**{"guidance_scale": 3.0, "guidance_schedule": "power_cosine:1.5"} | sampling)
    request = GenerationRequest(ClassCondition(torch.tensor(labels)), options, noise)
    return model.generate(request, strategy=strategy)


@torch.no_grad()
@pytest.mark.parametrize("grid", [(3, 4), (12,)])
def test_a_session_gives_the_logits_of_the_full_forward(grid):
    """Windows of drafts, rows that keep different numbers of them, guidance that grows with the place."""
    model, ids = tiny(grid=grid), some_ids()
    whole, other = model(CLASSES, ids), model(CLASSES.unconditional(), ids)
    scales = F.pad(guidance_table(SAMPLING, 12), (0, 1), value=1.0)[None, :, None]
    expected = (other + scales * (whole - other))[:, :, None]
    session = model.session(CLASSES, SAMPLING, entries=3)
    assert torch.allclose(session.prefill().logits, expected[:, :1], atol=1e-4)
    done = torch.zeros(3, dtype=torch.long)
    while int(done.max()) < 9:
        window = torch.stack([row[start : start + 3] for row, start in zip(ids, done, strict=True)])
        step = session.extend(window[..., None])
        for row, start in enumerate(done):
            assert torch.allclose(step.logits[row], expected[row, start + 1 : start + 4], atol=1e-4)
        session.commit(torch.arange(3).expand(3, 3), torch.tensor([1, 3, 2]))
        done += torch.tensor([1, 3, 2])
    assert session.passes == 4


@torch.no_grad()
def test_a_tree_gives_the_logits_of_each_of_its_paths():
    model, ids = tiny(), some_ids(1)
    session = model.session(ClassCondition(torch.tensor([2])), TokenSampling(), entries=4)
    session.prefill()
    tokens, parents = torch.tensor([[3, 4, 5, 6]]), torch.tensor([[-1, 0, 0, 2]])
    step = session.extend(tokens[..., None], parents)
    for path in ([0, 1], [0, 2, 3]):
        line = ids.clone()
        line[0, : len(path)] = tokens[0, path]
        expected = model(ClassCondition(torch.tensor([2])), line)[0, len(path)]
        assert torch.allclose(step.logits[0, path[-1], 0], expected, atol=1e-4)


@torch.no_grad()
def test_later_tokens_are_not_seen():
    model, ids = tiny(), some_ids()
    orders = torch.stack([torch.randperm(12, generator=torch.Generator().manual_seed(k)) for k in range(3)])
    changed = ids.scatter(1, orders[:, 5:6], (ids.gather(1, orders[:, 5:6]) + 1) % 11)
    one, two = model(CLASSES, ids, orders), model(CLASSES, changed, orders)
    assert torch.equal(one[:, :6], two[:, :6]) and not torch.allclose(one[:, 6:], two[:, 6:], atol=1e-3)


@torch.no_grad()
def test_the_next_place_is_known():
    """Two orders with the same beginning differ where what comes next does."""
    model, ids = tiny(), some_ids(1)
    first, second = torch.arange(12)[None], torch.tensor([[0, 1, 2, 4, 3, *range(5, 12)]])
    condition = ClassCondition(torch.tensor([1]))
    one, two = model(condition, ids, first), model(condition, ids, second)
    assert torch.equal(one[:, :3], two[:, :3]) and not torch.allclose(one[:, 3], two[:, 3], atol=1e-3)


def test_an_image_does_not_depend_on_its_batch():
    model = tiny()
    both, alone = draw(model, [0, 2], [4, 5]).tokens.ids, draw(model, [2], [5]).tokens.ids
    assert torch.equal(both[1:], alone) and both.shape == (2, 12) and int(both.max()) < 11


@pytest.mark.parametrize("strategy", ["jacobi:4", "sjd:4", "recycling"])
def test_greedy_ids_are_the_same_by_every_strategy(strategy):
    model = tiny()
    plain = draw(model, [0, 2], [4, 5], top_k=1)
    other = draw(model, [0, 2], [4, 5], strategy, top_k=1)
    assert torch.equal(plain.tokens.ids, other.tokens.ids)
    assert max(other.stats["passes"]) <= max(plain.stats["passes"])


@pytest.mark.parametrize("strategy", ["jacobi:4", "sjd:4"])
def test_drafted_images_do_not_depend_on_their_batch_either(strategy):
    model = tiny()
    both = draw(model, [0, 2], [4, 5], strategy)
    assert torch.equal(both.tokens.ids[1:], draw(model, [2], [5], strategy).tokens.ids)
    assert both.stats["lossless"] and min(both.stats["passes"]) < 12


def test_a_drafter_changes_no_greedy_id():
    model = tiny()
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "mlp_size": 48, "num_heads": 4, "num_kv_heads": 2}
    drafter = Drafter(**sizes, grid=(3, 4), prefix_length=1).eval()
    chain = StrategyRequest(Speculative(tree="chain", tokens=3), drafter=drafter)
    found = draw(model, [0, 2], [4, 5], chain, top_k=1)
    assert torch.equal(found.tokens.ids, draw(model, [0, 2], [4, 5], top_k=1).tokens.ids)
    assert found.stats["draft_passes"] > 0


def test_known_tokens_stay():
    model = tiny()
    source = ImageTokens(Grid(3, 4), ids=some_ids(1))
    keep = torch.zeros(1, 3, 4, dtype=torch.bool)
    keep[:, :2] = True
    noise = Noise.per_image([(0, 0)])
    request = GenerationRequest(ClassCondition(torch.tensor([1])), SAMPLING, noise, known=(source, keep))
    assert torch.equal(model.generate(request).tokens.ids[:, :8], source.ids[:, :8])


def test_loss_is_the_entropy_along_the_order():
    model, ids = tiny(), some_ids()
    tokens = ImageTokens(Grid(3, 4), ids=ids)
    orders = torch.stack([torch.randperm(12, generator=torch.Generator().manual_seed(k)) for k in range(3)])
    logits = model(CLASSES, ids, orders)[:, :-1].log_softmax(-1)
    expected = -logits.gather(-1, ids.gather(1, orders)[..., None]).mean()
    found = model.loss(tokens, CLASSES, orders=orders)["loss"]
    assert torch.allclose(found, expected, atol=1e-6)
    found.backward()
    assert all(p.grad is not None for p in model.parameters())
    plain = model.loss(tokens, CLASSES)["loss"]
    assert torch.equal(plain, model.loss(tokens, CLASSES, orders=torch.arange(12).expand(3, -1))["loss"])


def test_shares_of_random_orders():
    model, generator = tiny(), torch.Generator().manual_seed(0)
    raster = torch.arange(12)
    half = model.draw_orders(400, 0.5, generator)
    assert torch.equal(half.sort(dim=1).values, raster.expand(400, -1))
    assert float((half == raster).all(1).float().mean()) == pytest.approx(0.5, abs=0.08)
    assert not (model.draw_orders(50, 1.0, generator) == raster).all(1).any()
    assert (model.draw_orders(50, 0.0, generator) == raster).all()
    with pytest.raises(InputError, match=r"random_share=1\.5"):
        model.draw_orders(1, 1.5)


def test_saving(tmp_path):
    model = tiny(grid=(12,))
    model.save_pretrained(tmp_path)
    loaded = GENERATORS.load("RARGenerator").from_pretrained(tmp_path)
    assert loaded.layout == Sequence1D(12)
    assert torch.equal(draw(loaded, [0], [1]).tokens.ids, draw(model, [0], [1]).tokens.ids)


def test_a_fresh_model_is_trainable():
    """Its blocks start as the identity; one step changes what they say."""
    torch.manual_seed(0)
    model = RARGenerator((2, 2), 7, 3, 16, 1, 2, 24, dropout=0.0)
    tokens, condition = ImageTokens(Grid(2, 2), ids=some_ids(4, 4) % 7), ClassCondition(torch.arange(4) % 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        losses.append(model.loss(tokens, condition)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_bad_input():
    model = tiny()
    with pytest.raises(InputError, match="num_heads=3"):
        tiny(num_heads=3)
    with pytest.raises(InputError, match="grid"):
        tiny(grid=(1, 2, 3))
    with pytest.raises(InputError, match="layout"):
        model.loss(ImageTokens(Sequence1D(12), ids=some_ids()), CLASSES)
    with pytest.raises(InputError, match="mask"):
        model.loss(
            ImageTokens(Grid(3, 4), ids=some_ids(), mask=torch.zeros(3, 12, dtype=torch.bool)), CLASSES
        )
    with pytest.raises(InputError, match="below num_classes=5"):
        draw(model, [5], [0])
    text = TextCondition(torch.zeros(1, 2, 4), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(InputError, match="TextCondition"):
        model(text, some_ids(1))
