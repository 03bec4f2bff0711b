"""The benchmark of generation: what it says it measures is what the pipeline does."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.pipelines.conftest import SCALES, class_pipe, make_generator, make_tokenizer, text_pipe
from visgen.errors import InputError
from visgen.evaluation.benchmark.baseline import float32_decoder, published_loop
from visgen.evaluation.benchmark.compiling import compiled_blocks, largest_difference
from visgen.evaluation.benchmark.flops import block_flops
from visgen.evaluation.benchmark.generate import GenerateBench, psnr
from visgen.evaluation.benchmark.parts import DECODER, Parts
from visgen.evaluation.benchmark.timing import Timeline
from visgen.nn.attention import attention_backend
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.pipelines.reconstruct import ReconstructPipeline

__all__ = ["class_pipe", "text_pipe"]

PROMPT = "a red circle above blue"
FILTERED = {"guidance_scale": 3.0, "guidance_schedule": "linear", "top_k": 20, "top_p": 0.9}


def filtered_pipe():
    """A pipeline of its own, because a benchmark leaves it in the last dtype."""
    made = ClassToImagePipeline(make_tokenizer(), make_generator(num_classes=5), FILTERED)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def rows():
    return list(GenerateBench(filtered_pipe(), 3, ("bfloat16", "float32"), (1, 3), repeats=2).run())


def of(rows, dtype, name):
    found = [row for row in rows if row["dtype"] == dtype and row["name"] == name]
    assert len(found) == 1, name
    return found[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_of_a_dtype(rows, dtype):
    names = [row["name"] for row in rows if row["dtype"] == dtype]
    for name in ("first image", "image", "image in a batch of 3", "baseline: published loop", "head"):
        assert of(rows, dtype, name)["seconds"] > 0
    for name in ("sampling", "quantizer and resize", DECODER, "set-up", "blocks"):
        assert of(rows, dtype, name)["seconds"] > 0
    assert [name for name in names if name.startswith("blocks, ")] == [
        f"blocks, {side}×{side}" for side in SCALES
    ]


def test_float32_comes_first_and_the_others_are_held_against_it(rows):
    assert rows[0]["dtype"] == "float32"
    against = of(rows, "bfloat16", "against float32")
    assert against["speedup"] > 0 and against["matmul_speedup"] > 0
    assert 30 < against["psnr_db"] < 90


def test_parts_add_up_to_the_image_and_leave_no_hook(class_pipe):
    bench = GenerateBench(class_pipe, 3)
    seconds, flops, rate = bench._parts()
    assert rate > 0
    assert all(value > 0 for value in seconds.values())
    assert set(flops) == {"blocks 0", "blocks 1", "blocks 2", DECODER}
    for module in (*class_pipe.generator.modules(), *class_pipe.tokenizer.modules()):
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_hooks_go_when_a_generation_fails(class_pipe):
    with (
        pytest.raises(RuntimeError),
        Parts(class_pipe, Timeline(torch.device("cpu"))).watched(),
    ):
        raise RuntimeError
    assert not class_pipe.generator.blocks[0]._forward_pre_hooks


def test_flops_are_those_that_torch_counts(class_pipe):
    generator, tokenizer = class_pipe.generator, class_pipe.tokenizer
    modulations, _ = generator.modulations(torch.randn(2, 16))
    with torch.no_grad(), attention_backend("explicit"), FlopCounterMode(display=False) as counter:
        generator.run_blocks(torch.randn(2, 7, 16), modulations)
    assert block_flops(generator.config, rows=2, positions=7, keys=7) == counter.get_total_flops()
    parts = Parts(class_pipe, Timeline(torch.device("cpu")))
    with parts.watched(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        tokenizer.decoder(torch.randn(1, 4, 4, 4))
    assert parts.flops[DECODER] == counter.get_flop_counts()["Global"][torch.ops.aten.convolution]


@pytest.mark.parametrize("kind", ["class", "text"])
def test_the_published_loop_draws_the_same(kind, class_pipe, text_pipe):
    pipe, subject = (class_pipe, 3) if kind == "class" else (text_pipe, PROMPT)
    bench = GenerateBench(pipe, subject)
    expected = bench.draw(1)
    ids, pixels = published_loop(pipe.generator, float32_decoder(pipe.tokenizer), bench._request())
    assert torch.equal(ids, expected.tokens.ids)
    assert torch.allclose((pixels.clamp(-1, 1) + 1) / 2, expected.images, atol=1e-5)
    assert not pixels.requires_grad


def test_the_published_loop_filters_the_same():
    pipe = filtered_pipe()
    bench = GenerateBench(pipe, 3)
    ids, _ = published_loop(pipe.generator, float32_decoder(pipe.tokenizer), bench._request())
    assert torch.equal(ids, bench.draw(1).tokens.ids)


def test_compiled_blocks_are_put_back(class_pipe):
    blocks = class_pipe.generator.blocks
    with pytest.raises(RuntimeError), compiled_blocks(class_pipe.generator):
        assert class_pipe.generator.blocks is not blocks
        raise RuntimeError
    assert class_pipe.generator.blocks is blocks


@pytest.mark.slow
def test_compiled_blocks_draw_the_same():
    rows = list(GenerateBench(filtered_pipe(), 3, ("float32",), (1,), repeats=1, compiled=True).run())
    row = of(rows, "float32", "image, compiled blocks")
    assert row["largest_logit_difference"] < 1e-3
    assert row["first_seconds"] > row["seconds"]


def test_differences_count_up_to_the_first_other_id():
    def step(identity, logit):
        return torch.tensor([identity]), torch.tensor([float(logit)])

    eager = [step(1, 0), step(2, 1), step(3, 5)]
    assert largest_difference(eager, [step(1, 0), step(7, 1.5), step(3, 9)]) == 0.5
    assert largest_difference(eager, eager) == 0.0


def test_a_model_that_cannot_draw_is_refused():
    with pytest.raises(InputError, match="ReconstructPipeline"):
        GenerateBench(ReconstructPipeline(make_tokenizer()), 0)


def test_psnr():
    image = torch.zeros(1, 3, 4, 4)
    assert psnr(image, image) is None
    assert math.isclose(psnr(image + 0.02, image), 40.0, abs_tol=1e-5)
