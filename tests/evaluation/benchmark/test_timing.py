"""Seconds and what a machine can do."""

import time

import torch

from visgen.evaluation.benchmark.machine import device_name, matmul_rate, peak_memory
from visgen.evaluation.benchmark.report import document
from visgen.evaluation.benchmark.timing import Timeline, Timing, measure

CPU = torch.device("cpu")


def test_warm_up_runs_are_not_counted():
    calls = []
    timing = measure(lambda: calls.append(1) or len(calls), CPU, repeats=3, warmup=2)
    assert (len(calls), len(timing.runs), timing.result) == (5, 3, 5)


def test_the_median_ignores_a_slow_run():
    assert Timing((1.0, 9.0, 2.0)).seconds == 2.0


def test_parts_of_one_name_add_up():
    timeline = Timeline(CPU)
    for part in ("a", "b", "a", None):
        timeline.enter(part)
        time.sleep(0.01)
    assert list(timeline.seconds) == ["a", "b"]
    assert timeline.seconds["a"] >= 0.02
    before = dict(timeline.seconds)
    timeline.enter(None)
    assert timeline.seconds == before


def test_machine():
    assert matmul_rate(torch.float32, CPU, size=64) > 0
    assert peak_memory(CPU) > 2**20
    assert device_name(CPU)


def test_a_document_says_where_and_with_what():
    found = document("generate", "toy", CPU, ["float32"], [{"name": "image"}], weights="random")
    assert found["rows"] == [{"name": "image"}]
    assert found["versions"]["torch"] == torch.__version__.split("+")[0]
    assert found["threads"] == torch.get_num_threads()
    assert (found["bench"], found["model"], found["device"], found["weights"]) == (
        "generate",
        "toy",
        "cpu",
        "random",
    )
