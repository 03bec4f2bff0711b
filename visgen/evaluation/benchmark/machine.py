"""What this machine can do, measured: rates of matmul and of reading memory, peak memory, its name."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import torch

from visgen.evaluation.benchmark.timing import measure

MATMUL_SIZE = 1024


def matmul_rate(dtype: torch.dtype, device: torch.device, size: int = MATMUL_SIZE) -> float:
    """FLOP/s of a size³ matmul, the median of 15: what blocks and convolutions are held against."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty(size, size, device=device, dtype=dtype)
    timing = measure(lambda: torch.mm(a, b, out=out), device, repeats=15, warmup=3)
    return 2 * size**3 / timing.seconds


def read_rate(size: int, device: torch.device) -> float:
    """Bytes/s of reading `size` bytes once (a sum), the median of 7: what reading weights is held against.

    Of the size of a model's weights, so that caches help here as far as they help there.
    """
    buffer = torch.ones(max(1, size // 4), device=device)
    timing = measure(buffer.sum, device, repeats=7, warmup=2)
    return 4 * buffer.numel() / timing.seconds


def forget_peak(device: torch.device) -> None:
    """Start counting peak memory anew, where that can be done (CUDA)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """Bytes: on CUDA since `forget_peak`, on a CPU of the whole process so far; None where nobody knows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024  # elsewhere in KiB


def device_name(device: torch.device) -> str:
    """The product's name, as exactly as the system tells."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
