"""The benchmark of next-token decoding: it times what the pipeline does; its plain loop draws the same."""

import pytest
import torch

from tests.evaluation.benchmark.conftest import CODES, SAMPLING, raster_model, raster_pipe
from tests.pipelines.conftest import make_generator, make_tokenizer
from visgen.errors import InputError
from visgen.evaluation.benchmark.next_token import DecodeBench, beside
from visgen.evaluation.benchmark.plain_loop import plain_loop
from visgen.evaluation.benchmark.sessions import FirstTokens, weights_read
from visgen.evaluation.benchmark.timing import Timing
from visgen.generators.base import GenerationRequest
from visgen.generators.conditions import ClassCondition, PromptCondition, TextCondition
from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling
from visgen.pipelines.class_to_image import ClassToImagePipeline

CLASSES = ClassCondition(torch.tensor([1, 3]))
WORDS = PromptCondition(torch.arange(12).view(2, 6) % 9, torch.arange(6) < torch.tensor([[6], [2]]))
FEATURES = TextCondition(torch.linspace(-1, 1, 96).view(2, 6, 8), torch.arange(6) >= torch.tensor([[0], [4]]))
PROMPT = {"condition": "prompt", "text_length": 6, "text_vocab_size": 9, "prefix_rotation": "identity"}
TEXT = {"condition": "text", "text_length": 6, "text_dim": 8}
CASES = {
    "class": ({"num_classes": 5}, CLASSES),
    "prompt, full, qk_norm": (PROMPT | {"prefix_attention": "full", "qk_norm": True}, WORDS),
    "text, padded": (TEXT, FEATURES),
    "text, grouped keys": (TEXT | {"num_kv_heads": 1}, FEATURES),
    "sub-codes": ({"num_classes": 5, "num_codes": 3}, CLASSES),
    "windows": ({"num_classes": 5, "window": 2}, CLASSES),
}


def bench(pipe, **options):
    return DecodeBench(pipe, 3, ("bfloat16", "float32"), (1, 2), **{"repeats": 1, "tokens": 9} | options)


@pytest.fixture(scope="module")
def rows():
    return list(bench(raster_pipe()).run())


def of(rows, dtype, name):
    """Rows of a name in the part of a dtype; baselines of both parts run in float32."""
    return [row for row in rows if row["name"] == name and row.get("beside_dtype", row["dtype"]) == dtype]


@pytest.mark.parametrize(
    "options", [{}, {"guidance_scale": 3.0}, {"guidance_scale": 3.0, "guidance_steps": 4}]
)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_plain_loop_draws_the_same(case, options):
    kind, condition = case
    model, sampling = raster_model(**kind), TokenSampling(**{"top_k": 20, "top_p": 0.9} | options)
    count = model.positions[0] * model.positions[1]

    def request():
        return GenerationRequest(condition, sampling, Noise.per_image([(0, 0), (0, 1)]))

    expected = model.as_positions(model.generate(request()).tokens)
    assert torch.equal(plain_loop(model, request(), count), expected)
    assert torch.equal(plain_loop(model, request(), 3), expected[:, :3])


def test_what_is_timed_is_what_the_pipeline_draws(raster):
    run = bench(raster, tokens=16)
    drawn = raster(3, seed=0).tokens.ids
    assert torch.equal(run.decode(raster.sampling).view(1, -1), drawn)
    assert torch.equal(bench(raster).decode(raster.sampling).view(1, -1), drawn[:, :9])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("how", ["no guidance", "guidance 2"])
def test_rows_of_a_dtype(rows, dtype, how):
    [row], [plain] = (
        of(rows, dtype, f"9 tokens, {how}"),
        of(rows, dtype, f"baseline: plain float32 loop, {how}"),
    )
    assert row["tokens"] == plain["tokens"] == 9
    assert row["tokens_per_second"] == pytest.approx(9 / row["seconds"])
    assert row["speedup"] == pytest.approx(plain["seconds"] / row["seconds"])
    assert plain["dtype"] == "float32"
    reading = 9 * row["weight_bytes_per_pass"] / row["seconds"]
    rates = [other["bytes_per_second"] for other in rows if "bytes_per_second" in other]
    assert any(row["fraction_of_reading"] == pytest.approx(reading / rate) for rate in rates)
    assert 0 < row["fraction_of_matmul"] < 1
    if dtype == "float32":
        assert row["same_tokens"] == 9


def test_float32_comes_first(rows):
    assert rows[0]["dtype"] == "float32" and rows[-1].get("beside_dtype") == "bfloat16"
    for name in ("image", "image in a batch of 2"):
        assert len(of(rows, "float32", name)) == len(of(rows, "bfloat16", name)) == 1


def test_half_the_bytes_in_bfloat16_and_twice_the_work_with_guidance(rows):
    sizes = {dtype: of(rows, dtype, "9 tokens, no guidance")[0]["weight_bytes_per_pass"] for dtype in DTYPES}
    assert sizes["float32"] == 2 * sizes["bfloat16"]
    work = [of(rows, "float32", f"9 tokens, {how}")[0] for how in ("no guidance", "guidance 2")]
    flops = [row["gflops_per_second"] * row["seconds"] for row in work]
    assert 1.8 < flops[1] / flops[0] < 2  # the head reads one row either way


DTYPES = ("float32", "bfloat16")


def test_weights_of_a_pass_are_blocks_and_head():
    model = raster_model(num_classes=5)
    session = model.session(CLASSES, TokenSampling(), 1)
    with torch.no_grad():
        session.prefill()
        read = weights_read(model, lambda: session.extend(torch.zeros(2, 1, 1, dtype=torch.long)))
    tokens = [p for name, p in model.tokens.named_parameters() if not name.startswith("embedding")]
    assert read == 4 * sum(p.numel() for p in [*model.blocks.parameters(), *tokens])
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_short_image_has_the_guidance_of_the_whole_one():
    model, sampling = (
        raster_model(num_classes=5),
        TokenSampling(guidance_scale=3.0, guidance_schedule="linear"),
    )
    short, whole = (model.session(CLASSES, sampling, 1) for _ in range(2))
    cut = FirstTokens(short, 5)
    assert (cut.length, cut.vocab_size, cut.batch_size) == (5, CODES, 2)
    fed = torch.zeros(2, 1, 1, dtype=torch.long)
    with torch.no_grad():
        for session in (cut, whole):
            session.prefill()
        assert torch.equal(cut.extend(fed).logits, whole.extend(fed).logits)


def test_tokens_are_the_same_up_to_the_first_other_one():
    ours, plain = torch.tensor([[[1], [2], [3], [4]]]), torch.tensor([[[1], [2], [9], [4]]])
    assert beside(Timing((2.0,), ours), Timing((3.0,), plain)) == {"speedup": 1.5, "same_tokens": 2}
    assert beside(Timing((2.0,), ours), Timing((3.0,), ours))["same_tokens"] == 4


@pytest.mark.slow
def test_compiled_blocks_decode_the_same():
    run = DecodeBench(raster_pipe(), 3, ("float32",), (1,), repeats=1, compiled=True, tokens=9)
    rows = [row for row in run.run() if row["name"].endswith("compiled blocks")]
    assert [row["name"] for row in rows] == [
        f"9 tokens, {how}, compiled blocks" for how in ("no guidance", "guidance 2")
    ]
    for row in rows:
        assert row["largest_logit_difference"] < 1e-3
        assert row["first_seconds"] > row["seconds"]


def test_a_next_scale_model_is_refused():
    pipe = ClassToImagePipeline(make_tokenizer(), make_generator(num_classes=5), SAMPLING)
    with pytest.raises(InputError, match="VARTransformer is no next-token model"):
        DecodeBench(pipe, 3)
