"""What a study asks for, as plain data. Everything is checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visgen.data.yaml_files import apply_override, read_yaml
from visgen.decoding.making import make_strategy
from visgen.errors import InputError, shown
from visgen.evaluation.metrics import GENERATION, parse_metrics
from visgen.evaluation.options import EvaluationOptions, read_prompts
from visgen.evaluation.protocols import EvaluationProtocol
from visgen.evaluation.references import open_reference
from visgen.schema import read

SCHEMA = 1
RECONSTRUCTION = ("rfid", "psnr", "ssim", "l1", "tokens")

# A value, or a list of them; null is the model's own
Names = tuple[str | None, ...] | str | None
Counts = tuple[int | None, ...] | int | None
Numbers = tuple[float | None, ...] | float | None


@dataclass(frozen=True)
class GenerateBlock:
    """Images drawn: one cell for each combination of the values listed.

    Args:
        model: what `visgen.load` takes, or folders of images.
        strategy: how next-token models decode, "NAME" or "NAME:VALUE".
        guidance_scale, temperature, top_k, top_p, steps, solver, num_tokens, decode_steps, decode_guidance:
            as in `EvaluationOptions`; null = the model's own.
        metrics, count: instead of the study's.
        name: of the cell, where the block has only one.
    """

    model: tuple[str, ...] | str
    strategy: Names = None
    guidance_scale: Numbers = None
    temperature: Numbers = None
    top_k: Counts = None
    top_p: Numbers = None
    steps: Counts = None
    solver: Names = None
    num_tokens: Counts = None
    decode_steps: Counts = None
    decode_guidance: Numbers = None
    metrics: tuple[str, ...] | None = None
    count: int | None = None
    name: str | None = None


@dataclass(frozen=True)
class ReconstructBlock:
    """The reference's images through tokenizers and back; arguments as for `GenerateBlock`.

    Args:
        model: tokenizers, or generators whose tokenizer is meant.
        max_error: mean absolute error of [0, 1] pixels, for tokenizers that choose the number of tokens.
    """

    model: tuple[str, ...] | str
    num_tokens: Counts = None
    max_error: Numbers = None
    decode_steps: Counts = None
    decode_guidance: Numbers = None
    metrics: tuple[str, ...] | None = None
    count: int | None = None
    name: str | None = None


@dataclass(frozen=True)
class StudyMetrics:
    """Metrics of generated and of reconstructed images; None = what subject and reference allow."""

    generate: tuple[str, ...] | None = None
    reconstruct: tuple[str, ...] = RECONSTRUCTION


@dataclass(frozen=True)
class Study:
    """A study.

    Args:
        title: of the report.
        output: folder of the results.
        generate, reconstruct: blocks of cells.
        about: a paragraph for the report's readers.
        reference, protocol, batch_size, device, dtype, offline, inception_weights, lpips_weights,
            lpips_linear: as in `EvaluationOptions`.
        metrics: of both kinds of cells.
        count: images N of a cell.
        seed: image i is drawn from (seed, i); of several, each makes a cell of its own.
        prompts: what image i shows, a list or a `.txt` or `.jsonl` file; None = the reference's captions.
        threads: torch threads; None = leave them.
        samples: images of each cell that the report shows, the same ones of all.

    Raises:
        InputError: a value out of range, or a study without cells.
    """

    title: str
    output: str
    generate: tuple[GenerateBlock, ...] = ()
    reconstruct: tuple[ReconstructBlock, ...] = ()
    about: str = ""
    schema: int = SCHEMA
    reference: str = "scenes:validation"
    protocol: str | None = None
    metrics: StudyMetrics = field(default_factory=StudyMetrics)
    count: int = 500
    seed: tuple[int, ...] | int = 0
    prompts: tuple[str, ...] | str | None = None
    batch_size: int = 32
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    offline: bool = False
    samples: int = 8
    inception_weights: str | None = None
    lpips_weights: str | None = None
    lpips_linear: str | None = None

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise InputError(f"schema={self.schema} is not readable by this version; use schema: {SCHEMA}")
        for name, least in (("count", 1), ("batch_size", 1), ("threads", 1), ("samples", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name}={value} is too small; use {least} or more")
        if not self.output.strip() or "\0" in self.output:
            raise InputError(f"output={self.output!r} is no folder; name one, such as output: runs/study")
        if not self.generate and not self.reconstruct:
            raise InputError("the study has no cells; list models under generate or reconstruct")
        if self.prompts == ():
            raise InputError("prompts=[] draws nothing; list some, or leave the key out")
        if not self.seeds:
            raise InputError("seed=[] names none; give one, such as seed: 0")

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds."""
        return as_values(self.seed)

    def shared_options(self) -> EvaluationOptions:
        """What all cells have in common."""
        return EvaluationOptions(
            reference=self.reference,
            protocol=self.protocol,
            batch_size=self.batch_size,
            device=self.device,
            dtype=self.dtype,
            offline=self.offline,
            inception_weights=_path(self.inception_weights),
            lpips_weights=_path(self.lpips_weights),
            lpips_linear=_path(self.lpips_linear),
        )

    def protocol_used(self) -> EvaluationProtocol:
        """The protocol asked for, or the one that fits the reference."""
        return self.shared_options().resolve_protocol()

    def prompt_list(self) -> tuple[str, ...] | None:
        """The prompts themselves; raises `InputError` for a file that cannot be read."""
        return read_prompts(Path(self.prompts)) if isinstance(self.prompts, str) else self.prompts


def as_values(value: Any) -> tuple[Any, ...]:
    """A value, or several, as a tuple."""
    return value if isinstance(value, tuple) else (value,)


def read_study(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Study, dict[str, Any]]:
    """The study in a YAML file with "dotted.key=value" overrides applied, and the mapping it was read from.

    Raises:
        InputError: unreadable file, unknown key (naming the nearest), wrong type, or value out of range; a
            protocol, reference, metric or strategy that there is not.
    """
    mapping = read_yaml(Path(path), "study")
    for override in overrides:
        apply_override(mapping, override)
    return load_study(mapping), mapping


def load_study(mapping: Mapping[str, Any]) -> Study:
    """A study from a mapping; raises `InputError` as `read_study` does."""
    study = read(Study, mapping)
    study.protocol_used()
    open_reference(study.reference)
    for place, block in _blocks(study):
        _check_block(place, block)
    for name in ("generate", "reconstruct"):
        if (metrics := getattr(study.metrics, name)) is not None:
            _check_metrics(f"metrics.{name}", metrics, name == "generate")
    return study


def _blocks(study: Study) -> list[tuple[str, GenerateBlock | ReconstructBlock]]:
    """(dotted place, block) of all blocks."""
    found: list[tuple[str, GenerateBlock | ReconstructBlock]] = []
    found += [(f"generate[{i}]", block) for i, block in enumerate(study.generate)]
    found += [(f"reconstruct[{i}]", block) for i, block in enumerate(study.reconstruct)]
    return found


def _check_block(place: str, block: GenerateBlock | ReconstructBlock) -> None:
    if block.count is not None and block.count < 1:
        raise InputError(f"{place}.count={block.count} is too small; use 1 or more")
    for name in ("steps", "num_tokens", "decode_steps", "top_k"):
        for value in as_values(getattr(block, name, None)):
            if value is not None and value < 1:
                raise InputError(f"{place}.{name}={value} is too small; use 1 or more")
    for field_name, value in vars(block).items():
        if value == ():
            raise InputError(f"{place}.{field_name}=[] leaves no cell; list a value, or leave the key out")
    for strategy in as_values(getattr(block, "strategy", None)):
        if strategy is not None:
            make_strategy(strategy)
    if block.metrics is not None:
        _check_metrics(f"{place}.metrics", block.metrics, isinstance(block, GenerateBlock))


def _check_metrics(place: str, metrics: tuple[str, ...], generated: bool) -> None:
    """Reconstructions have no metric of generated images; the other way round they show a ceiling."""
    wrong = [name for name in parse_metrics(metrics) if not generated and name in GENERATION]
    if wrong:
        raise InputError(f"{place}={shown(list(metrics))}: {wrong[0]} judges generated images; leave it out")


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def study_text(path: str | Path, mapping: Mapping[str, Any], overrides: Sequence[str]) -> bytes:
    """What a study's folder keeps of it: the file as it is, or with overrides the mapping that they made."""
    if not overrides:
        return Path(path).read_bytes()
    import yaml

    return yaml.safe_dump(dict(mapping), sort_keys=False, allow_unicode=True).encode()
