"""Raster models over 1-D sequences: sessions, stopping early, text by cross-attention, strategies."""

import pytest
import torch

from visgen.errors import InputError
from visgen.evaluation.benchmark.plain_loop import plain_loop
from visgen.generators.base import GenerationRequest
from visgen.generators.conditions import ClassCondition, PromptCondition, TextCondition
from visgen.generators.drafter import Drafter
from visgen.generators.next_token import StrategyRequest
from visgen.generators.raster import RasterTransformer
from visgen.nn.building import construct
from visgen.nn.noise import Noise
from visgen.nn.rope import line_rotation, rotate
from visgen.nn.sampling import TokenSampling
from visgen.tokenizers.tokens import Grid, ImageTokens, Sequence1D

LENGTH, CODES = 10, 11
SIZE = {"grid": None, "length": LENGTH, "codebook_size": CODES, "hidden_size": 36, "depth": 2, "num_heads": 6}
GENERATOR = torch.Generator().manual_seed(0)
CLASSES = ClassCondition(torch.tensor([1, -1, 3]))
WORDS = PromptCondition(
    torch.randint(9, (3, 6), generator=GENERATOR), torch.arange(6) < torch.tensor([[6], [2], [4]])
)
FEATURES = TextCondition(
    torch.randn(3, 6, 8, generator=GENERATOR), torch.arange(6) < torch.tensor([[6], [0], [4]])
)
PROMPT = {"condition": "prompt", "text_length": 6, "text_vocab_size": 9, "prefix_rotation": "identity"}
TEXT = {"condition": "text", "text_length": 6, "text_dim": 8, "prefix_rotation": "identity"}
CROSS = {"text_conditioning": "cross"}
CASES = {
    "class": ({"num_classes": 5}, CLASSES),
    "prompt": (PROMPT | {"prefix_attention": "full", "qk_norm": True}, WORDS),
    "text": (TEXT | {"num_kv_heads": 2}, FEATURES),
    "text, cross": (TEXT | CROSS, FEATURES),
    "prompt, cross": (PROMPT | CROSS, WORDS),
    "sub-codes": ({"num_classes": 5, "num_codes": 3}, CLASSES),
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
    ids = torch.randint(CODES, (3, LENGTH, model.num_codes), generator=torch.Generator().manual_seed(1))
    return model, condition, ids


def draw(model, condition, num_tokens=None, rows=(0, 1, 2), strategy=None, **sampling) -> ImageTokens:
    noise = Noise.per_image([(7, k) for k in rows])
    request = GenerationRequest(condition, TokenSampling(**sampling), noise, num_tokens=num_tokens)
    return model.generate(request, strategy=strategy).tokens


@torch.no_grad()
def test_a_session_gives_the_logits_of_the_full_forward(case):
    """Windows of drafts, rows that keep different numbers of them, guidance on, and one position less."""
    model, condition, ids = case
    whole, other = model(condition, ids), model(condition.unconditional(), ids)
    expected = other + 2.0 * (whole - other)
    session = model.session(condition, TokenSampling(guidance_scale=2.0), entries=3, length=LENGTH - 1)
    assert session.length == LENGTH - 1
    assert torch.allclose(session.prefill().logits, expected[:, :1], atol=1e-4)
    done = torch.zeros(3, dtype=torch.long)
    while int(done.min()) < LENGTH - 4:
        window = torch.stack([row[start : start + 3] for row, start in zip(ids, done, strict=True)])
        step = session.extend(window)
        for row, start in enumerate(done):
            assert torch.allclose(step.logits[row], expected[row, start + 1 : start + 4], atol=1e-4)
        counts = torch.minimum(torch.tensor([1, 3, 2]), LENGTH - 4 - done)
        session.commit(torch.arange(3).expand(3, 3), counts)
        done += counts


@torch.no_grad()
def test_no_position_sees_what_comes_after_it(case):
    model, condition, ids = case
    changed = ids.clone()
    changed[:, 3] = (changed[:, 3] + 1) % CODES
    before, after = model(condition, ids), model(condition, changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4], after[:, 4])


@torch.no_grad()
def test_every_condition_is_heard(case):
    model, condition, ids = case
    assert not torch.allclose(model(condition, ids)[0], model(condition.unconditional(), ids)[0])


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_a_shorter_sequence_is_the_beginning_of_a_longer_one(case, schedule):
    """Whatever the guidance schedule, whose end is that of the whole sequence."""
    model, condition, _ = case
    options = {"guidance_scale": 3.0, "guidance_schedule": schedule, "top_p": 0.9}
    whole = draw(model, condition, **options)
    assert whole.layout == Sequence1D(LENGTH)
    for count in (1, 4, LENGTH):
        part = draw(model, condition, num_tokens=count, **options)
        assert part.layout == Sequence1D(count)
        assert torch.equal(part.ids, whole.ids[:, :count])


def rows_of(condition, rows):
    """Some rows of a condition."""
    return type(condition)(*[None if t is None else t[rows] for t in vars(condition).values()])


def test_generation_is_the_same_alone_and_in_a_batch(case):
    model, condition, _ = case
    together = draw(model, condition, num_tokens=5, guidance_scale=2.0)
    alone = draw(model, rows_of(condition, [1]), num_tokens=5, rows=[1], guidance_scale=2.0)
    assert torch.equal(together.ids[1:2], alone.ids)


@torch.no_grad()
def test_the_benchmarks_plain_loop_draws_the_same(case):
    model, condition, _ = case
    noise = [Noise.per_image([(7, k) for k in range(3)]) for _ in range(2)]
    sampling = TokenSampling(guidance_scale=2.0)
    plain = plain_loop(model, GenerationRequest(condition, sampling, noise[0]), 6)
    ids = model.generate(GenerationRequest(condition, sampling, noise[1], num_tokens=6)).tokens
    assert torch.equal(plain, model.as_positions(ids))


@pytest.mark.parametrize("strategy", ["sjd:4", "jacobi:4", "jacobi:4:coupling=shared", "recycling"])
def test_strategies_that_need_no_grid_decode_sequences(strategy):
    model = random_model(num_classes=5)
    greedy = draw(model, CLASSES, top_k=1)
    assert torch.equal(draw(model, CLASSES, strategy=strategy, top_k=1).ids, greedy.ids)
    short = draw(model, CLASSES, num_tokens=4, strategy=strategy, top_k=1)
    assert torch.equal(short.ids, greedy.ids[:, :4])


@pytest.mark.parametrize("init", ["left", "above", "law-above"])
def test_initial_drafts_from_a_neighbour_need_a_grid(init):
    with pytest.raises(InputError, match=f"init='{init}' needs a grid of tokens"):
        draw(random_model(num_classes=5), CLASSES, strategy=f"sjd:4:init={init}")


def test_a_drafter_drafts_a_sequence():
    model = random_model(num_classes=5, hidden_size=48, num_heads=2)
    drafter = Drafter(48, 64, 1, 2, 2, rope="grid", grid=model.positions, prefix_length=0).eval()
    torch.manual_seed(0)
    drafter.init_weights()
    request = StrategyRequest("speculative", None, drafter)
    greedy = draw(model, CLASSES, top_k=1)
    assert torch.equal(draw(model, CLASSES, strategy=request, top_k=1).ids, greedy.ids)
    assert torch.equal(draw(model, CLASSES, num_tokens=5, strategy=request, top_k=1).ids, greedy.ids[:, :5])


def test_the_loss_of_a_new_model_is_that_of_a_uniform_law(case):
    model, condition, ids = case
    model.init_weights()
    for length in (LENGTH, 4):
        tokens = model.from_positions(ids[:, :length])
        assert torch.allclose(model.loss(tokens, condition)["loss"], torch.tensor(11.0).log(), atol=1e-5)


def test_a_mask_of_lengths_counts_only_what_is_there():
    model = random_model(num_classes=5)
    ids = torch.randint(CODES, (2, LENGTH), generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([1, 2])
    mask = torch.arange(LENGTH) < torch.tensor([[LENGTH], [4]])
    both = model.loss(ImageTokens(Sequence1D(LENGTH), ids=ids, mask=mask), ClassCondition(labels))["loss"]
    parts = [
        n
        * model.loss(ImageTokens(Sequence1D(n), ids=ids[r : r + 1, :n]), ClassCondition(labels[r : r + 1]))[
            "loss"
        ]
        for r, n in enumerate((LENGTH, 4))
    ]
    assert torch.allclose(both, sum(parts) / (LENGTH + 4), atol=1e-5)


def test_known_tokens_stay_and_only_the_others_are_drawn():
    """The coarse tokens of an image kept, the fine ones made anew: a variation."""
    model = random_model(num_classes=5)
    source = ImageTokens(Sequence1D(LENGTH), ids=torch.arange(3 * LENGTH).view(3, LENGTH) % CODES)
    keep = (torch.arange(LENGTH) < 4)[None, None]
    noise = Noise.per_image([(0, k) for k in range(3)])
    ids = model.generate(GenerationRequest(CLASSES, TokenSampling(), noise, known=(source, keep))).tokens.ids
    assert torch.equal(ids[:, :4], source.ids[:, :4])
    assert not torch.equal(ids[:, 4:], source.ids[:, 4:])


def test_scores_of_rotated_vectors_depend_on_their_distance():
    q, k = torch.randn(2, 1, 1, 6, 8, generator=torch.Generator().manual_seed(0))
    cos, sin = line_rotation(9, 8, 100.0, 2, "identity")
    assert torch.equal(cos[:3], torch.ones(3, 4))
    assert not sin[:3].any()

    def scores(start):
        rows = slice(start, start + 6)
        return rotate(q, (cos[rows], sin[rows])) @ rotate(k, (cos[rows], sin[rows])).mT

    assert torch.allclose(scores(2), scores(5), atol=1e-5)


def test_a_row_without_words_reads_the_null_features():
    """Attention to nothing would not be a number."""
    model = random_model(**TEXT, **CROSS)
    ids = torch.zeros(3, LENGTH, 1, dtype=torch.long)
    nothing = TextCondition(FEATURES.embeddings, torch.zeros(3, 6, dtype=torch.bool)).unconditional()
    assert model(nothing, ids).isfinite().all()
    other = TextCondition(FEATURES.embeddings + 1, FEATURES.mask).unconditional()
    assert torch.equal(model(FEATURES.unconditional(), ids), model(other, ids))


def test_configurations_survive_saving(case, tmp_path):
    model, condition, ids = case
    model.save_pretrained(tmp_path)
    again = RasterTransformer.from_pretrained(tmp_path)
    assert again.layout == Sequence1D(LENGTH)
    with torch.no_grad():
        assert torch.equal(again(condition, ids), model(condition, ids))


@pytest.mark.parametrize("count", [0, LENGTH + 1, True, 2.0])
def test_numbers_of_tokens_out_of_range_are_refused(count):
    with pytest.raises(InputError, match=f"num_tokens={count} must be an integer from 1 to {LENGTH}"):
        draw(random_model(num_classes=5), CLASSES, num_tokens=count)


def test_grids_do_not_stop_early():
    torch.manual_seed(0)
    model = RasterTransformer(**SIZE | {"grid": (2, 3), "length": None, "num_heads": 3}, num_classes=5)
    with pytest.raises(InputError, match="only generators over 1-D sequences can stop early"):
        draw(model, CLASSES, num_tokens=3)


@pytest.mark.parametrize("layout", [Sequence1D(LENGTH + 1), Grid(2, 5)])
def test_tokens_of_another_layout_are_refused(layout):
    tokens = ImageTokens(layout, ids=torch.zeros(3, layout.length, dtype=torch.long))
    with pytest.raises(InputError, match="do not fit a generator of Sequence1D"):
        random_model(num_classes=5).loss(tokens, CLASSES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grid": (2, 5)}, "exactly one of grid=\\(2, 5\\) and length=10"),
        ({"length": None}, "exactly one of grid=None and length=None"),
        ({"length": 0}, "length=0 must be 1 or more"),
        ({"window": 2}, "window=2"),
        ({"hidden_size": 42}, "multiple of 2 · num_heads=12"),
        ({"text_conditioning": "beside"} | PROMPT, "text_conditioning"),
        ({"text_conditioning": "cross"}, "needs a text"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        construct(RasterTransformer, SIZE | options, "model")
