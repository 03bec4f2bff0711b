"""What an evaluation comes to once the subject is known: metrics and number of images, all of it possible."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from visgen.errors import InputError
from visgen.evaluation.metrics import METRICS, RECONSTRUCTION, listed
from visgen.evaluation.networks import check_feature_models
from visgen.evaluation.options import EvaluationOptions
from visgen.evaluation.protocols import EvaluationProtocol, SampledProtocol
from visgen.evaluation.references import SCENES, Reference, StatisticsReference
from visgen.evaluation.subjects import Subject

DEFAULT_COUNT = 1000


@dataclass(frozen=True)
class Plan:
    """What will be done with one subject: metrics in order, and the number of images."""

    metrics: tuple[str, ...]
    count: int

    def wants(self, *names: str) -> bool:
        """Whether one of these metrics is asked for."""
        return any(name in self.metrics for name in names)

    @property
    def generated(self) -> bool:
        """Whether images are generated (or read)."""
        return any(METRICS[name].generated for name in self.metrics)

    @property
    def reconstructed(self) -> bool:
        """Whether the reference's images are reconstructed."""
        return any(not METRICS[name].generated for name in self.metrics)

    @property
    def features(self) -> bool:
        """Whether features are compared with the reference's."""
        return any(METRICS[name].features for name in self.metrics)

    @property
    def needs_reference(self) -> bool:
        """Whether the reference is looked at."""
        return any(METRICS[name].features or METRICS[name].real_images for name in self.metrics)

    @property
    def needs_images(self) -> bool:
        """Whether the reference's images themselves are looked at."""
        return any(METRICS[name].real_images for name in self.metrics)


def make_plan(
    options: EvaluationOptions, protocol: EvaluationProtocol, reference: Reference, subject: Subject
) -> Plan:
    """Resolve metrics and count for a subject, and refuse what cannot be.

    Raises:
        InputError: metrics that subject, protocol or reference do not allow, or too many or too few images.
    """
    check_feature_models(options.feature_models or {})
    metrics = options.metrics or default_metrics(subject.kind, reference, protocol)
    most = protocol.count if isinstance(protocol, SampledProtocol) else DEFAULT_COUNT
    plan = Plan(metrics, _count(options, reference, metrics, subject, most))
    if isinstance(protocol, SampledProtocol):
        _check_sampled(plan, protocol, subject)
    _check_subject(plan, reference, subject, options)
    for name in metrics:
        _check_metric(name, plan, protocol, reference, subject, options)
    return plan


def default_metrics(
    kind: str, reference: Reference, protocol: EvaluationProtocol | None = None
) -> tuple[str, ...]:
    """What is worth knowing of a subject beside a reference."""
    if isinstance(protocol, SampledProtocol):
        images = not isinstance(reference, StatisticsReference)
        return ("fid", "is", *(("precision", "recall") if images else ()))
    if kind == "tokenizer":
        return ("rfid", "psnr", "ssim", "codebook")
    if isinstance(reference, StatisticsReference):
        return ("fid",)
    scenes = kind == "text" and reference.name.startswith(SCENES)
    return ("fid", "kid", "precision", "recall", *(("adherence",) if scenes else ()))


def _count(
    options: EvaluationOptions, reference: Reference, metrics: tuple[str, ...], subject: Subject, most: int
) -> int:
    """The number of images asked for, or that there are, of a model at `most`; refused when it is more than
    there are."""
    ends = dict(_ends(options, reference, metrics, subject))
    if options.count is None:
        return min([*ends.values(), *([] if subject.kind == "folder" else [most])])
    for what, end in ends.items():
        if options.count > end:
            raise InputError(f"-n {options.count}: {what} {end}; use at most that many")
    return options.count


def _ends(
    options: EvaluationOptions, reference: Reference, metrics: tuple[str, ...], subject: Subject
) -> Iterator[tuple[str, int]]:
    """What ends somewhere: (words, number of images)."""
    if subject.length is not None:
        yield f"the images of {subject.name!r} are", subject.length
    told = subject.kind == "folder" and any(METRICS[name].captions for name in metrics)
    captioned = told or (subject.kind == "text" and any(METRICS[name].generated for name in metrics))
    if captioned and options.prompts is not None:
        yield "the prompts of --prompts are", len(options.prompts)
    paired = any(not METRICS[name].generated for name in metrics)
    if (paired or (captioned and options.prompts is None)) and reference.length is not None:
        yield f"the images of --reference {reference.name!r} are", reference.length


def _check_subject(plan: Plan, reference: Reference, subject: Subject, options: EvaluationOptions) -> None:
    kind, name = subject.kind, subject.name
    captioned = kind == "text" or (kind == "folder" and plan.wants("clip_score"))
    if options.prompts is not None and not captioned:
        raise InputError(f"--prompts is for models that draw text, which {name!r} does not; leave it out")
    for metric, model in (options.feature_models or {}).items():
        if not plan.wants(metric):
            raise InputError(f"--feature-model {metric}={model}: add {metric} to --metrics, or leave it out")
    if kind == "tokenizer" and plan.generated:
        raise InputError(f"{name!r} only reconstructs; ask for {listed(RECONSTRUCTION, 'or')}")
    if kind == "folder" and plan.reconstructed:
        raise InputError(f"{name!r} is a folder of images; {listed(RECONSTRUCTION, 'and')} need a model")
    if options.max_error is not None and plan.generated:
        drawn = next(metric for metric in plan.metrics if METRICS[metric].generated)
        raise InputError(
            f"--max-error {options.max_error} is for reconstructions, and metric {drawn} judges generated "
            f"images; ask for {listed(RECONSTRUCTION, 'or')} alone"
        )
    if kind == "class" and plan.needs_reference and reference.name.startswith(SCENES):
        raise InputError(
            f"--reference {reference.name!r}: {name!r} draws classes, no scenes; give a folder of images "
            "or a .npz"
        )
    if plan.wants("codebook") and subject.codebook_size is None:
        raise InputError(f"metric codebook: {name!r} has no codebook; leave it out")


def _check_metric(
    name: str,
    plan: Plan,
    protocol: EvaluationProtocol,
    reference: Reference,
    subject: Subject,
    options: EvaluationOptions,
) -> None:
    metric = METRICS[name]
    if plan.count < metric.minimum:
        raise InputError(f"-n {plan.count}: metric {name} needs {metric.minimum} images or more")
    if metric.real_images and isinstance(reference, StatisticsReference):
        raise InputError(
            f"metric {name} needs the reference's images; {reference.name!r} holds statistics; give a folder"
        )
    if metric.captions:
        _check_captions(name, reference, subject, options)
    compares = metric.features or (metric.network and metric.real_images)
    if compares and (reference.length or plan.count) < metric.minimum:
        raise InputError(f"--reference {reference.name!r} has too few images; {name} needs {metric.minimum}")
    if name == "is" and not protocol.has_logits:
        raise InputError(
            f"metric is needs class logits, which protocol {protocol.name} does not have; use adm or clean"
        )
    if name == "lpips" and options.lpips_weights is None:
        raise InputError("metric lpips needs --lpips-weights PATH, torchvision's vgg16 state dict")
    if name == "within" and options.max_error is None:
        raise InputError("metric within needs --max-error E, the error that images may have; or ask for l1")
    if name == "adherence":
        reference.scenes([0])
        if options.prompts is not None:
            raise InputError("metric adherence judges the reference's own captions; leave --prompts out")


def _check_captions(name: str, reference: Reference, subject: Subject, options: EvaluationOptions) -> None:
    """What each image should show must be known before one is drawn."""
    if subject.kind == "class":
        raise InputError(f"metric {name} judges captions, but {subject.name!r} draws classes; leave it out")
    if options.prompts is None:
        reference.captions([0])


def _check_sampled(plan: Plan, protocol: SampledProtocol, subject: Subject) -> None:
    """Such a protocol is of images of classes, as many as it says."""
    if subject.kind not in ("class", "folder"):
        raise InputError(
            f"protocol {protocol.name} is of images of classes, which {subject.name!r} does not draw; use adm"
        )
    if plan.count != protocol.count:
        warnings.warn(
            f"protocol {protocol.name} is of {protocol.count:,} images; {plan.count:,} are a dry run",
            UserWarning,
            stacklevel=4,
        )
