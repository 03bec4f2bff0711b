"""Raster models: sessions against the full forward, causality, windows, conditions, training loss."""

import pytest
import torch

from visgen.errors import InputError
from visgen.generators.base import GenerationRequest
from visgen.generators.conditions import ClassCondition, PromptCondition, TextCondition
from visgen.generators.raster import RasterTransformer
from visgen.generators.token_io import from_windows, to_windows
from visgen.generators.token_shuffle import shuffled
from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling
from visgen.tokenizers.tokens import Grid, ImageTokens

SIZE = {"grid": (4, 6), "codebook_size": 11, "hidden_size": 48, "depth": 2, "num_heads": 2}
CLASSES = ClassCondition(torch.tensor([1, -1, 3]))
WORDS = PromptCondition(torch.randint(9, (3, 6)), torch.arange(6) < torch.tensor([[6], [2], [4]]))
FEATURES = TextCondition(torch.randn(3, 6, 8), torch.arange(6) >= torch.tensor([[0], [2], [4]]))
PROMPT = {"condition": "prompt", "text_length": 6, "text_vocab_size": 9, "prefix_rotation": "identity"}
TEXT = {"condition": "text", "text_length": 6, "text_dim": 8}
CASES = {
    "class": ({"num_classes": 5}, CLASSES),
    "prompt, causal": (PROMPT, WORDS),
    "prompt, full, qk_norm": (PROMPT | {"prefix_attention": "full", "qk_norm": True}, WORDS),
    "text": (TEXT, FEATURES),
    "text, grouped": (TEXT | {"num_kv_heads": 1}, FEATURES),
    "sub-codes": ({"num_classes": 5, "num_codes": 3}, CLASSES),
    "windows": ({"num_classes": 5, "window": 2}, CLASSES),
}


def random_model(**options) -> RasterTransformer:
    torch.manual_seed(0)
    model = RasterTransformer(**SIZE | options).eval()
    for parameter in model.parameters():
        parameter.data = 0.2 * torch.randn_like(parameter) + (parameter.ndim == 1)
    return model


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    options, condition = request.param
    model = random_model(**options)
    length = model.positions[0] * model.positions[1]
    return model, condition, torch.randint(11, (3, length, model.num_codes))


@torch.no_grad()
def test_a_session_gives_the_logits_of_the_full_forward(case):
    """Windows of drafts, rows that keep different numbers of them, guidance on."""
    model, condition, ids = case
    whole, other = model(condition, ids), model(condition.unconditional(), ids)
    expected = other + 2.0 * (whole - other)
    session = model.session(condition, TokenSampling(guidance_scale=2.0), entries=3)
    assert torch.allclose(session.prefill().logits, expected[:, :1], atol=1e-4)
    done = torch.zeros(3, dtype=torch.long)
    while int(done.min()) < ids.shape[1] - 4:
        window = torch.stack([row[start : start + 3] for row, start in zip(ids, done, strict=True)])
        step = session.extend(window)
        for row, start in enumerate(done):
            assert torch.allclose(step.logits[row], expected[row, start + 1 : start + 4], atol=1e-4)
        counts = torch.minimum(torch.tensor([1, 3, 2]), ids.shape[1] - 4 - done)
        session.commit(torch.arange(3).expand(3, 3), counts)
        done += counts
    assert torch.equal(session.committed, done)


@torch.no_grad()
def test_a_tree_gives_the_logits_of_each_of_its_paths(case):
    model, condition, ids = case
    session = model.session(condition, TokenSampling(), entries=5)
    session.prefill()
    tokens = torch.randint(11, (3, 5, model.num_codes))
    parents = torch.tensor([[-1, 0, 0, 1, 2], [-1, 0, 1, 2, 3], [-1, 0, 0, 0, 1]])
    paths = [[0, 1, 3], [0, 1, 2, 3, 4], [0, 3]]
    step = session.extend(tokens, parents)
    for row, path in enumerate(paths):
        line = ids.clone()
        line[row, : len(path)] = tokens[row, path]
        full = model(condition, line)[row, 1 : len(path) + 1]
        assert torch.allclose(step.logits[row, path][: len(full)], full, atol=1e-4)
    index = torch.tensor([[*path, *[0] * (5 - len(path))] for path in paths])
    session.commit(index, torch.tensor([3, 5, 2]))
    again = session.extend(ids[:, 5:6])
    line = torch.cat([tokens[1, paths[1]], ids[1, 5:]])
    full = model(condition, torch.stack([ids[0], line, ids[2]])[:, : ids.shape[1]])
    if ids.shape[1] > 6:
        assert torch.allclose(again.logits[1], full[1, 6:7], atol=1e-4)


@torch.no_grad()
def test_no_position_sees_what_comes_after_it(case):
    model, condition, ids = case
    changed = ids.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 11
    before, after = model(condition, ids), model(condition, changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4], after[:, 4])


def test_windows_follow_the_worked_example():
    ids = torch.arange(16)[None]
    windows = to_windows(ids, (4, 4), 2)
    assert windows[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@pytest.mark.parametrize(("grid", "window"), [((4, 6), 2), ((6, 9), 3), ((2, 8), 2), ((3, 5), 1)])
def test_windows_round_trip(grid, window):
    ids = torch.randint(99, (2, grid[0] * grid[1]))
    windows = to_windows(ids, grid, window)
    assert windows.shape == (2, ids.shape[1] // window**2, window**2)
    assert torch.equal(from_windows(windows, grid, window), ids)


@torch.no_grad()
def test_a_fresh_shuffle_keeps_the_compressed_channels():
    """Compression and expansion by the first channels, residual MLPs the identity: what went in comes out."""
    model = RasterTransformer(**SIZE, num_classes=5, window=2)
    io, part = model.tokens, 12
    io.compress.weight.copy_(torch.eye(part, 48))
    io.expand.weight.copy_(torch.eye(48, part))
    io.compress.bias.zero_(), io.expand.bias.zero_()
    io.norm = torch.nn.Identity()
    ids = torch.randint(11, (2, 6, 4))
    out = io.features(io.embed(ids))
    assert torch.allclose(out[..., :part], io.embedding(ids)[..., :part], atol=1e-6)
    assert not out[..., part:].any()


def test_a_window_of_one_is_the_plain_model():
    torch.manual_seed(0)
    plain = RasterTransformer(**SIZE)
    torch.manual_seed(0)
    assert {k: v.shape for k, v in RasterTransformer(**SIZE, window=1).state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }


def test_a_trained_model_becomes_one_of_windows():
    plain = random_model(num_classes=5)
    model = shuffled(plain, 2, num_blocks=1)
    assert model.positions == (2, 3)
    assert model.num_codes == 4
    assert torch.equal(model.blocks[1].ffn.down.weight, plain.blocks[1].ffn.down.weight)
    assert torch.equal(model.tokens.head.weight, plain.tokens.head.weight)
    tokens = ImageTokens(Grid(4, 6), ids=torch.randint(11, (3, 24)))
    assert model.loss(tokens, CLASSES)["loss"].isfinite()
    with pytest.raises(InputError, match="one token per position"):
        shuffled(model, 2)


def test_the_loss_of_a_new_model_is_that_of_a_uniform_law(case):
    model, condition, ids = case
    model.init_weights()
    tokens = model.from_positions(ids)
    assert torch.allclose(model.loss(tokens, condition)["loss"], torch.tensor(11.0).log(), atol=1e-5)
    assert torch.equal(model.as_positions(tokens), ids)


def test_masked_tokens_do_not_count_in_the_loss():
    model = random_model(num_classes=5)
    ids = torch.randint(11, (3, 24))
    mask = torch.ones(3, 24, dtype=torch.bool)
    mask[1] = False
    half = model.loss(ImageTokens(Grid(4, 6), ids=ids, mask=mask), CLASSES)["loss"]
    rows = [0, 2]
    alone = model.loss(ImageTokens(Grid(4, 6), ids=ids[rows]), ClassCondition(CLASSES.labels[rows]))["loss"]
    assert torch.allclose(half, alone, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden_size": 44}, "hidden_size=44"),
        ({"window": 4}, "window=4"),
        ({"window": 2, "num_codes": 2}, "cannot both"),
        ({"num_kv_heads": 3}, "num_kv_heads=3"),
        ({"condition": "smell"}, "condition='smell'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        RasterTransformer(**SIZE | options)


def test_known_tokens_stay_and_only_the_others_are_drawn():
    model = random_model(num_classes=5)
    source = ImageTokens(Grid(4, 6), ids=torch.randint(11, (3, 24)))
    keep = torch.zeros(1, 4, 6, dtype=torch.bool)
    keep[:, 1:3] = True
    noise = Noise.per_image([(0, k) for k in range(3)])
    request = GenerationRequest(CLASSES, TokenSampling(), noise, known=(source, keep))
    ids = model.generate(request).tokens.ids
    kept = keep.flatten(1).expand(3, -1)
    assert torch.equal(ids[kept], source.ids[kept])
    assert not torch.equal(ids[~kept], source.ids[~kept])


def test_known_tokens_stay_inside_windows_and_of_sub_codes():
    """A window may be kept in part; a position of sub-codes is kept whole."""
    keep = torch.zeros(1, 4, 6, dtype=torch.bool)
    keep[:, :3, 1:] = True
    kept = keep.flatten(1).expand(3, -1)
    for options, shape in (({"window": 2}, (3, 24)), ({"num_codes": 2}, (3, 24, 2))):
        model = random_model(num_classes=5, **options)
        source = ImageTokens(Grid(4, 6), ids=torch.randint(11, shape))
        for strategy in (None, "jacobi:4"):
            noise = Noise.per_image([(0, k) for k in range(3)])
            request = GenerationRequest(CLASSES, TokenSampling(), noise, known=(source, keep))
            ids = model.generate(request, strategy=strategy).tokens.ids
            assert torch.equal(ids[kept], source.ids[kept])
            assert not torch.equal(ids[~kept], source.ids[~kept])


def test_generation_is_the_same_alone_and_in_a_batch():
    model = random_model(num_classes=5)

    def draw(rows):
        noise = Noise.per_image([(7, k) for k in rows])
        return model.generate(
            GenerationRequest(ClassCondition(CLASSES.labels[rows]), TokenSampling(top_k=5), noise)
        ).tokens.ids

    together = draw([0, 1, 2])
    assert torch.equal(together[1:2], draw([1]))
    assert torch.equal(together[[2, 0]], draw([2, 0]))
