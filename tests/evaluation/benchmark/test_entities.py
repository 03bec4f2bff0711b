"""The benchmark of xAR: the straightforward loop draws the same latents, and rows tell what was measured."""

import json
from dataclasses import replace

import pytest
import torch

from tests.pipelines.entity_models import xar_class_pipe, xar_text_pipe
from visgen.evaluation.benchmark import entities
from visgen.evaluation.benchmark.entities import EntityBench
from visgen.evaluation.benchmark.entity_loop import straightforward_loop
from visgen.evaluation.benchmark.flops import counted_flops
from visgen.generators.base import GenerationRequest
from visgen.nn.noise import Noise

KINDS = [{"kind": "cell", "size": 2}, {"kind": "scale", "scales": (1, 2, 4)}, {"kind": "image"}]


def request(pipe, **sampling):
    subject = pipe.text.encode(["a red circle"]) if hasattr(pipe, "text") else None
    options = replace(pipe.sampling, **sampling)
    return GenerationRequest(subject, options, Noise.per_image([(0, 0)]))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["kind"])
@pytest.mark.parametrize("solver", ["sde", "ode"])
def test_the_straightforward_loop_draws_the_same_latents(kind, solver):
    pipe = xar_text_pipe(entities=kind)
    ours = pipe.generator.generate(request(pipe, solver=solver)).tokens.latents
    plain = straightforward_loop(pipe.generator, request(pipe, solver=solver))
    assert torch.allclose(ours, plain, atol=1e-4)
    other = straightforward_loop(pipe.generator, request(pipe, solver=solver, guidance_scale=1.0))
    assert not torch.allclose(ours, other, atol=1e-2)


def test_the_rows(monkeypatch):
    monkeypatch.setattr(entities, "matmul_rate", lambda dtype, device: 1e10)  # bfloat16's may be emulated
    pipe = xar_class_pipe()
    bench = EntityBench(pipe, 2, ("bfloat16", "float32"), (1, 2), repeats=1, steps=5)
    rows = list(bench.run())
    names = {name: [row for row in rows if row["dtype"] == name] for name in ("float32", "bfloat16")}
    assert [row["dtype"] for row in rows[:2]] == ["float32"] * 2
    shown = ["image", "image in a batch of 2", "matmul 1024³", "latents of an image, 5 steps"]
    shown += ["baseline: straightforward loop", "image decoder"]
    assert [row["name"] for row in names["float32"]] == shown
    assert [row["name"] for row in names["bfloat16"]] == [*shown, "against float32"]
    ours, plain = names["float32"][3:5]
    assert (ours["network_calls"], plain["network_calls"]) == (5 * 4 + 3, 5 * 4)
    assert ours["largest_latent_difference"] < 1e-4
    assert ours["gflop"] < 0.9 * plain["gflop"]  # no second half for the first cell
    assert rows[-1]["psnr_db"] > 20
    json.dumps(rows, allow_nan=False)


def test_work_is_counted_from_few_steps():
    pipe = xar_class_pipe()
    bench = EntityBench(pipe, 2, ("float32",), steps=9)
    told = bench._work(bench._latents, 1.0, 1e12)
    assert told["gflop"] == pytest.approx(counted_flops(bench._latents) / 1e9)
