"""The drafter: its session says what the plain forward says, and decoding with it changes no greedy id."""

from __future__ import annotations

import pytest
import torch

from visgen.decoding.lantern import Lantern
from visgen.decoding.speculative import Speculative
from visgen.errors import InputError
from visgen.generators.base import GenerationRequest
from visgen.generators.conditions import PromptCondition, TextCondition
from visgen.generators.drafter import Drafter, drafter_loss
from visgen.generators.next_token import StrategyRequest
from visgen.generators.raster import RasterTransformer
from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling

SAMPLING = TokenSampling(guidance_scale=1.5, top_p=0.9)
SHAPES = {
    "dynamic": Speculative(tree="dynamic", tokens=6, depth=3, top_k=3),
    "static": Speculative(tree="static", shape="mc_sim_7b_63"),
    "chain": Speculative(tree="chain", tokens=3),
}


def drafter(**options) -> Drafter:
    sizes = {"hidden_size": 32, "mlp_size": 48, "num_heads": 4, "num_kv_heads": 2, "grid": (4, 4)}
    model = Drafter(**(sizes | {"prefix_length": 4} | options)).eval()
    torch.manual_seed(0)
    model.init_weights()
    return model


def target(**options) -> RasterTransformer:
    torch.manual_seed(1)
    sizes = {
        "grid": (4, 4),
        "codebook_size": 24,
        "hidden_size": 32,
        "depth": 2,
        "num_heads": 4,
        "mlp_size": 48,
    }
    text = {"condition": "prompt", "text_length": 5, "text_vocab_size": 11}
    model = RasterTransformer(**(sizes | text | options)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def prompts(rows=3) -> PromptCondition:
    ids = torch.arange(5 * rows).view(rows, 5) % 11
    return PromptCondition(ids, torch.arange(5) < torch.tensor([[5], [3], [4]])[:rows])


def generate(model, strategy, rows=3, first=0, drafts=None, condition=None):
    noise = Noise.per_image([(0, first + k) for k in range(rows)])
    request = GenerationRequest(condition or prompts(rows), SAMPLING, noise)
    return model.generate(request, strategy=StrategyRequest(strategy, drafter=drafts))


@pytest.mark.parametrize(
    "options", [{}, {"rope": "line", "qk_norm": "layer"}, {"depth": 2, "qk_norm": "rms"}]
)
@torch.no_grad()
def test_a_session_equals_the_forward_pass(options) -> None:
    """Prefix, drafts of a tree that are forgotten, decided tokens at each row's own pace."""
    model, rows, length = drafter(**options), 2, 16
    table, head = torch.randn(7, 32), torch.randn(32, 7)
    embed = lambda ids: table[ids[..., 0]]  # noqa: E731
    session = model.session(_Target(embed, lambda h, at: (h @ head)[:, :, None], length, 32, None), entries=6)
    hidden, ids = torch.randn(rows, 5 + length, 32), torch.randint(7, (rows, length, 1))
    step = session.start(hidden[:, :5], ids[:, 0])
    for counts in (torch.tensor([3, 1]), torch.tensor([2, 4])):
        session.extend(ids[:, :2], hidden[:, :2], 1, torch.eye(2).bool().expand(rows, 2, 2), append=False)
        start = session._counts
        index = start[:, None] + torch.arange(4)
        row = torch.arange(rows)[:, None]
        step = session.accept(ids[row, index], hidden[row, 4 + index], counts)
    embeddings = torch.cat([embed(torch.zeros(rows, 4, 1, dtype=torch.long)), embed(ids)], 1)
    expected = model(embeddings, hidden[:, : embeddings.shape[1]])
    last = 4 + session._counts - 1
    assert session._counts.tolist() == [6, 6]
    assert torch.allclose(step.hidden[:, 0], expected[torch.arange(rows), last], atol=1e-4)
    assert torch.allclose(step.logits[:, 0, 0], step.hidden[:, 0] @ head, atol=1e-4)


@torch.no_grad()
def test_a_draft_sees_its_ancestors_alone() -> None:
    """Two branches drafted level by level say what each of them says as a chain of its own."""
    model, table = drafter(), torch.randn(7, 32)
    embed, head = (lambda ids: table[ids[..., 0]]), (lambda h, at: h[:, :, None])
    hidden, ids = torch.randn(1, 5, 32), torch.tensor([[[3], [4]], [[5], [6]]])  # two levels of two branches
    tree = model.session(_Target(embed, head, 16, 32, None), 4)
    chain = model.session(_Target(embed, head, 16, 32, None), 4)
    root = tree.start(hidden, torch.tensor([[1]]))
    eye = torch.eye(2).bool()[None]
    one = tree.extend(ids[:1], root.hidden.expand(1, 2, -1), 1, eye, append=False)
    two = tree.extend(ids[1:], one.hidden, 2, torch.cat([eye, eye], 2), append=True)
    for branch in range(2):
        last = chain.start(hidden, torch.tensor([[1]]))
        for level in range(2):
            seen = torch.ones(1, 1, level + 1).bool()
            token = ids[level, branch][None, None]
            last = chain.extend(token, last.hidden, level + 1, seen, append=level > 0)
        assert torch.allclose(last.hidden[:, 0], two.hidden[:, branch], atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_decoding_with_a_drafter_is_greedy_decoding(shape) -> None:
    model, drafts = target(), drafter()
    condition, sampling = prompts(), TokenSampling(top_k=1, guidance_scale=1.5)
    results = [
        model.generate(
            GenerationRequest(condition, sampling, Noise.per_image([(0, k) for k in range(3)])),
            strategy=StrategyRequest(strategy, drafter=drafts),
        )
        for strategy in ("sequential", SHAPES[shape])
    ]
    assert torch.equal(results[0].tokens.ids, results[1].tokens.ids)
    assert results[1].stats["lossless"] and results[1].stats["draft_passes"] > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_an_image_does_not_depend_on_its_batch(shape) -> None:
    model, drafts = target(), drafter()
    together = generate(model, SHAPES[shape], drafts=drafts).tokens.ids
    alone = [
        generate(
            model,
            SHAPES[shape],
            1,
            k,
            drafts,
            PromptCondition(prompts().input_ids[k : k + 1], prompts().mask[k : k + 1]),
        )
        for k in range(3)
    ]
    assert torch.equal(together, torch.cat([one.tokens.ids for one in alone]))


def test_lantern_and_a_padded_text_condition() -> None:
    model = target(condition="text", text_dim=8, text_length=5)
    mask = torch.arange(5) >= torch.tensor([[2], [0]])
    condition = TextCondition(torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)), mask)
    noise = Noise.per_image([(0, 0), (0, 1)])
    request = GenerationRequest(condition, SAMPLING, noise)
    quantizer = type("Quantizer", (), {"embedding": torch.nn.Embedding(24, 4)})()
    strategy = StrategyRequest(Lantern(delta=0.3, k=5, tokens=6, depth=2), drafter=drafter())
    result = model.generate(request, quantizer=quantizer, strategy=strategy)
    assert result.tokens.ids.shape == (2, 16) and not result.stats["lossless"]


def test_a_drafter_of_another_width_is_refused() -> None:
    with pytest.raises(InputError, match="hidden_size=32 does not fit a target of 64"):
        generate(target(hidden_size=64), SHAPES["chain"], drafts=drafter())
    windows = target(window=2, codebook_size=24)
    with pytest.raises(InputError, match="final hidden states"):
        generate(windows, SHAPES["chain"], drafts=drafter())


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="multiple of 4"):
        Drafter(hidden_size=36, num_heads=6, num_kv_heads=6)
    with pytest.raises(InputError, match="num_kv_heads=3"):
        Drafter(hidden_size=32, num_heads=4, num_kv_heads=3)


def test_loss_is_least_at_the_target() -> None:
    torch.manual_seed(0)
    states, matrix = torch.randn(2, 5, 8), torch.randn(8, 6)
    head = lambda hidden: hidden @ matrix  # noqa: E731
    right = drafter_loss(states, states, head)
    wrong = drafter_loss(states + 0.5, states, head)
    assert right["regression"] == 0 and right["overlap"] > 0.999 > wrong["overlap"]
    assert right["loss"] < wrong["loss"]
    assert torch.allclose(wrong["loss"], wrong["regression"] + 0.1 * wrong["cross_entropy"])


class _Target:
    """What a drafter asks of a target's session."""

    def __init__(self, embed, head, length, hidden_size, padding):
        self.embed, self.head, self.length = embed, head, length
        self.hidden_size, self.padding = hidden_size, padding
