"""Whole images as a user gets them: one at a time, and several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from visgen.evaluation.benchmark.machine import peak_memory
from visgen.evaluation.benchmark.report import Row
from visgen.evaluation.benchmark.timing import measure
from visgen.pipelines.batching import device_of
from visgen.pipelines.conditioning import class_condition, condition_kind, text_condition


def draw_images(pipe: Any, subject: int | str, count: int) -> Any:
    """`count` images of a class or a prompt in one batch."""
    return pipe(subject, num_images_per_prompt=count, batch_size=count, seed=0, output_type="pt")


def dtype_name(pipe: Any) -> str:
    """ "float32" of a pipeline in torch.float32."""
    return str(pipe.dtype).removeprefix("torch.")


def subject_condition(pipe: Any, subject: int | str) -> Callable[[list[int]], Any]:
    """Rows → the condition of a class, or of a prompt."""
    if condition_kind(pipe.generator, "class") == "class":
        return class_condition([int(subject)])
    return text_condition(pipe.text, [str(subject)], None, device_of(pipe.generator))


def image_rows(
    draw: Callable[[int], Any],
    sizes: Sequence[int],
    device: torch.device,
    repeats: int,
    say: Callable[[str], None],
) -> Iterator[Row]:
    """A row per batch size, 1 among them: seconds of an image, images per second, peak memory."""
    for size in dict.fromkeys((1, *sizes)):
        say(f"batch of {size}")
        timing = measure(partial(draw, size), device, repeats=repeats, warmup=0)
        each = timing.seconds / size
        yield {
            "name": "image" if size == 1 else f"image in a batch of {size}",
            "seconds": each,
            "batch_size": size,
            "images_per_second": 1 / each,
            "peak_memory_bytes": peak_memory(device),
        }


def rates(rate: float, machine: float | None = None) -> Row:
    """FLOP/s as a row tells them, with their share of what the machine's matmul reaches."""
    row: Row = {"gflops_per_second": rate / 1e9}
    return row if machine is None else row | {"fraction_of_matmul": rate / machine}
