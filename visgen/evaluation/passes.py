"""One pass over images by index, shared out over processes: no image twice, none left out, and verified."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from visgen.evaluation.digests import digest_of_digests, image_digests
from visgen.processes import Processes


@dataclass(eq=False)
class Part:
    """What is kept of some images.

    Attributes:
        indices: of the images.
        rows: name → one row per image.
        sums: name → something that `+` merges.
    """

    indices: list[int] = field(default_factory=list)
    rows: dict[str, list[Tensor]] = field(default_factory=dict)
    sums: dict[str, Any] = field(default_factory=dict)

    def keep_images(self, images: Tensor, whole: bool = False) -> None:
        """Keep the digests of uint8 images (B, 3, H, W), and if wanted `whole` the images themselves."""
        self.keep(digests=image_digests(images), **({"images": images} if whole else {}))

    def keep(self, **rows: Tensor) -> None:
        """Keep rows, one per image."""
        for name, values in rows.items():
            self.rows.setdefault(name, []).append(values)

    def add(self, **sums: Any) -> None:
        """Add to sums."""
        for name, value in sums.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value


@dataclass(frozen=True, eq=False)
class Pass:
    """What a whole pass kept, the same whatever the number of processes.

    Attributes:
        count: number of images.
        rows: name → rows in index order.
        sums: name → sum over all images.
    """

    count: int
    rows: dict[str, Tensor]
    sums: dict[str, Any]

    @property
    def images_sha256(self) -> str:
        """One digest of all images in index order."""
        return digest_of_digests(self.rows["digests"])

    @property
    def distinct(self) -> int:
        """Number of different images; fewer than `count` means that some came out twice."""
        return len(torch.unique(self.rows["digests"], dim=0))


def run_pass(
    count: int,
    work: Callable[[list[int], Part], None],
    processes: Processes,
    batch_size: int,
    title: str,
) -> Pass:
    """Do `work` for the images 0 … count − 1: this process those of its rank, rank + K, ….

    Args:
        count: number of images.
        work: fills a part with what is kept of some indices.
        processes: whom to share with.
        batch_size: indices handed out at once.
        title: of the progress bar.

    Raises:
        RuntimeError: an image came twice or not at all.
    """
    part, own = Part(), range(processes.rank, count, processes.count)
    with _bar(len(own), title, processes.is_main) as bar:
        for start in range(0, len(own), batch_size):
            indices = list(own[start : start + batch_size])
            work(indices, part)
            part.indices += indices
            bar.update(len(indices))
    return join(processes.gather([part]), count)


def join(parts: list[Part], count: int) -> Pass:
    """Parts in any order as one pass; raises `RuntimeError` unless they hold 0 … count − 1 once each."""
    indices = torch.tensor([i for part in parts for i in part.indices], dtype=torch.int64)
    order = indices.argsort()
    if not torch.equal(indices[order], torch.arange(count)):
        raise RuntimeError(f"images 0 … {count - 1} are wanted once each, but {_fault(indices, count)}")
    rows: dict[str, list[Tensor]] = {}
    whole = Part()
    for part in parts:
        whole.add(**part.sums)
        for name, values in part.rows.items():
            rows.setdefault(name, []).extend(values)
    return Pass(count, {name: torch.cat(values)[order] for name, values in rows.items()}, whole.sums)


def _fault(indices: Tensor, count: int) -> str:
    values, times = indices.unique(return_counts=True)
    twice = values[times > 1].tolist()
    missing = sorted(set(range(count)) - set(values.tolist()))
    return f"{twice[:5]} came more than once and {missing[:5]} not at all ({len(indices)} in all)"


def _bar(total: int, title: str, shown: bool) -> Any:
    from tqdm import tqdm

    # None: only where stderr is a terminal
    return tqdm(total=total, desc=title, unit="img", leave=False, disable=None if shown else True)
