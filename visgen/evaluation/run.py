"""`evaluate`: subjects in, result records out."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from visgen.errors import InputError
from visgen.evaluation.judging import score, see_generated, see_reconstructed
from visgen.evaluation.options import EvaluationOptions
from visgen.evaluation.passes import Pass
from visgen.evaluation.plan import Plan, make_plan
from visgen.evaluation.protocols import SampledProtocol
from visgen.evaluation.real import RealSide
from visgen.evaluation.records import SCHEMA, Record, check_comparable, versions
from visgen.evaluation.setting import Memory, Setting
from visgen.evaluation.statistics_file import save_statistics
from visgen.evaluation.subjects import Subject, open_subject
from visgen.evaluation.watching import Watcher
from visgen.processes import Processes


def evaluate(
    names: Sequence[str | Subject],
    options: EvaluationOptions | None = None,
    *,
    beside: Sequence[Record] = (),
    on_record: Callable[[Record], None] | None = None,
    statistics_path: str | None = None,
    processes: Processes | None = None,
    memory: Memory | None = None,
    watcher: Watcher | None = None,
) -> list[Record]:
    """Judge models and folders of images under one protocol.

    Under `accelerate launch` each process does its share; the numbers do not depend on how many there are.

    Args:
        names: what `visgen.load` takes, folders or a `.npz` of images, or subjects that are open already.
        options: what is asked for; None = all defaults.
        beside: earlier records that the new ones must be comparable with.
        on_record: called with each record as soon as it is there, on the first process.
        statistics_path: where to write the reference's mean and covariance, a `.npz`.
        processes: this process among the others; None = as it was launched.
        memory: what earlier calls saw of references and loaded for them; this call adds to it.
        watcher: looks on and adds to the records.

    Returns:
        One JSON-ready record per name; none on other processes than the first.

    Raises:
        InputError: anything that cannot be evaluated, or not compared. Each name is refused before images of
            it are generated.
    """
    options = options or EvaluationOptions()
    setting = Setting(options, processes or Processes(), memory)
    watcher = watcher or Watcher()
    first, records = next(iter(beside), None), []
    for name in names:
        clock = Clock()
        with clock("load"):
            subject = name if isinstance(name, Subject) else open_named(name, options, setting.device)
            subject = watcher.subject(subject)
            plan = make_plan(options, setting.protocol, setting.reference, subject)
            if isinstance(setting.protocol, SampledProtocol):
                subject.choose_labels(plan.count, options.seed)
        with clock("reference"):
            real = setting.real(plan, setting.protocol.size_of(subject.image_size))
        head = _head(subject, plan, setting, real)
        check_comparable(head, first or head)
        if statistics_path is not None and first is None:
            _save(statistics_path, setting, real)
        first = first or head
        if setting.processes.is_main and plan.wants("fid", "rfid"):
            _warn_if_few(plan, setting)
        body = _judge(subject, plan, setting, real, clock, watcher)
        if setting.processes.is_main:
            records.append(head | body)
            if on_record is not None:
                on_record(records[-1])
    return records


def open_named(name: str, options: EvaluationOptions, device: str | None = None) -> Subject:
    """The subject of a name under some options, on another device than theirs if one is given.

    Raises:
        InputError: as `open_subject`.
    """
    return open_subject(
        name,
        options.batch_size,
        options.dtype,
        device or options.device,
        options.offline,
        options.strategy,
        options.num_tokens,
        options.decoding,
        options.max_error,
        options.sampling,
    )


def _judge(
    subject: Subject, plan: Plan, setting: Setting, real: RealSide | None, clock: Clock, watcher: Watcher
) -> dict[str, Any]:
    """Do the passes, all processes together, and score what they kept, on the first one."""
    with clock("generate"):
        made = see_generated(subject, plan, setting)
    with clock("reconstruct"):
        pairs = see_reconstructed(subject, plan, setting)
    if not setting.processes.is_main:
        return {}
    with clock("score"):
        entries = score(plan, setting, real, made, pairs, subject.image_size)
    facts = _images(made, pairs) | _facts(subject, plan, setting, clock)
    return {"metrics": entries, **facts, **watcher.judged(plan, setting, real, made, pairs)}


def _head(subject: Subject, plan: Plan, setting: Setting, real: RealSide | None) -> dict[str, Any]:
    """What decides whether a record may stand beside another one."""
    reference = None if real is None else {"name": real.name, "digest": real.digest, "count": real.count}
    looked = plan.features or plan.wants("is")
    return {
        "schema": SCHEMA,
        "subject": {
            "name": subject.name,
            "kind": subject.kind,
            "image_size": subject.image_size,
            "checkpoint_sha256": subject.checkpoint_sha256,
        },
        "protocol": setting.protocol.to_dict(),
        "extractor_sha256": setting.extractor.weights_sha256 if looked else None,
        "networks": {metric: network.facts() for metric, network in setting.networks(plan).items()},
        "reference": reference,
        "count": plan.count,
    }


def _images(made: Pass | None, pairs: Pass | None) -> dict[str, Any]:
    """Digests of the images that were judged, and how many of them differ from all others."""
    return {
        "images_sha256": None if made is None else made.images_sha256,
        "distinct_images": None if made is None else made.distinct,
        "reconstructions_sha256": None if pairs is None else pairs.images_sha256,
    }


def _facts(subject: Subject, plan: Plan, setting: Setting, clock: Clock) -> dict[str, Any]:
    """How the record came about."""
    options, processes = setting.options, setting.processes
    config = {
        name: value if isinstance(value, (int, float)) else value and str(value)
        for name, value in _plain(options)
    }
    config |= {"metrics": list(plan.metrics), "count": plan.count, "reference": options.reference_name}
    config |= {"protocol": setting.protocol.name, "prompts_sha256": _prompts_digest(options.prompts)}
    return {
        "config": config | {"sampling": subject.sampling},
        "seeds": {"seed": options.seed, "rule": "image i is drawn from (seed, i)"},
        "versions": versions(),
        "device": subject.device or setting.device or "cpu",
        "dtype": subject.dtype or None,
        "threads": torch.get_num_threads(),
        "processes": processes.count,
        "seconds": clock.seconds(),
    }


def _plain(options: EvaluationOptions) -> Iterator[tuple[str, Any]]:
    """The single-valued options."""
    return ((name, value) for name, value in asdict(options).items() if name not in ("metrics", "prompts"))


def _prompts_digest(prompts: Sequence[str] | None) -> str | None:
    return None if prompts is None else hashlib.sha256("\n".join(prompts).encode()).hexdigest()


def _save(path: str, setting: Setting, real: RealSide | None) -> None:
    if real is None or real.statistics is None:
        raise InputError("--save-statistics: no metric looks at features of the reference; ask for fid")
    if setting.processes.is_main:
        origin = {"reference": real.name, "images_sha256": real.digest}
        weights = setting.extractor.weights_sha256
        save_statistics(path, real.statistics, setting.protocol, **origin, weights_sha256=weights)


def _warn_if_few(plan: Plan, setting: Setting) -> None:
    dims = setting.protocol.feature_dims
    if plan.count <= dims:
        warnings.warn(
            f"FID of {plan.count} images in {dims} dimensions: the covariance is singular, FID biased; "
            f"use -n above {dims}",
            UserWarning,
            stacklevel=3,
        )


class Clock:
    """Seconds by name, and in all."""

    def __init__(self) -> None:
        self._start, self._parts = time.perf_counter(), dict[str, float]()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a block."""
        start = time.perf_counter()
        yield
        self._parts[name] = time.perf_counter() - start

    def seconds(self) -> dict[str, float]:
        """Rounded to milliseconds; "total" counts from the making of the clock."""
        total = time.perf_counter() - self._start
        return {name: round(value, 3) for name, value in (self._parts | {"total": total}).items()}
