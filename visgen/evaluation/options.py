"""What an evaluation is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visgen.errors import InputError
from visgen.evaluation.protocols import EvaluationProtocol, SampledProtocol, get_protocol
from visgen.evaluation.references import DEFAULT_REFERENCE, SCENES, adm_batch
from visgen.pipelines.rows import read_rows


@dataclass(frozen=True)
class EvaluationOptions:
    """What is asked for. None means the default.

    Attributes:
        reference: "scenes:SPLIT", a folder of images or a `.npz`; None = "scenes:validation".
        protocol: a name of `PROTOCOLS`; None = "scenes" for a scenes reference, else "adm".
        metrics: names of `METRICS`; None = what the subject and the reference allow.
        count: images N; None = all of a folder, 1000 of a model (fewer where captions or images end before).
        seed: image i is drawn from (seed, i).
        batch_size: images at once; always that many, the last ones padded.
        steps, solver: flow steps and solver of models that make latents; None = the model's own.
        guidance_scale, temperature, top_k, top_p: of generated images; None = the model's own.
        strategy: how next-token models decode, a name or "NAME:VALUE"; None = one token after another.
        num_tokens: of each image, generated and reconstructed, for models of 1-D tokens; None = all.
        max_error: mean absolute error of [0, 1] pixels that reconstructions may have, for tokenizers that
            choose the number of tokens by it; None = the tokenizer's own.
        decode_steps, decode_guidance: of decoders that start from noise; None = the tokenizer's own.
        prompts: what image i shows, for text models; None = the captions of the reference's images i.
        device, dtype, offline: as for `visgen.load`; device None = the CPU, or this process's own one.
        inception_weights: weights of protocols adm and clean; None = torch hub's cache, then a download.
        lpips_weights: torchvision's vgg16 state dict, for lpips.
        lpips_linear: LPIPS v0.1 `vgg.pth`; None weighs all channels by 1.
        feature_models: metric → hub id or folder of another network than that of `networks.RECIPES`.
    """

    reference: str | None = None
    protocol: str | None = None
    metrics: tuple[str, ...] | None = None
    count: int | None = None
    seed: int = 0
    batch_size: int = 32
    steps: int | None = None
    solver: str | None = None
    guidance_scale: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    strategy: str | None = None
    num_tokens: int | None = None
    max_error: float | None = None
    decode_steps: int | None = None
    decode_guidance: float | None = None
    prompts: tuple[str, ...] | None = None
    device: str | None = None
    dtype: str | None = None
    offline: bool = False
    inception_weights: Path | None = None
    lpips_weights: Path | None = None
    lpips_linear: Path | None = None
    feature_models: Mapping[str, str] | None = None

    @property
    def sampling(self) -> dict[str, Any]:
        """Sampling options of a pipeline's call that were asked for."""
        asked: dict[str, Any] = {"num_inference_steps": self.steps, "solver": self.solver}
        asked |= {name: getattr(self, name) for name in ("guidance_scale", "temperature", "top_k", "top_p")}
        return {name: value for name, value in asked.items() if value is not None}

    @property
    def decoding(self) -> dict[str, Any] | None:
        """Keywords of `FlowSampling` that were asked for; None = none."""
        asked = {"num_inference_steps": self.decode_steps, "guidance_scale": self.decode_guidance}
        return {name: value for name, value in asked.items() if value is not None} or None

    @property
    def reference_name(self) -> str:
        """The reference asked for, or the default one; `InputError` where that is not here."""
        if self.reference is None and isinstance(self.resolve_protocol(), SampledProtocol):
            return adm_batch()
        return self.reference or DEFAULT_REFERENCE

    def resolve_protocol(self) -> EvaluationProtocol:
        """The protocol asked for, or the one that fits the reference."""
        name = self.reference or DEFAULT_REFERENCE
        return get_protocol(self.protocol or ("scenes" if name.startswith(SCENES) else "adm"))


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a file, `.txt` or `.jsonl`, for `EvaluationOptions.prompts`.

    Raises:
        InputError: a file that cannot be read, or rows with labels or seeds: image i is drawn from (seed, i).
    """
    rows = read_rows(path)
    for number, row in enumerate(rows):
        if not isinstance(row.subject, str) or row.seed is not None:
            raise InputError(
                f"--prompts {str(path)!r}: row {number} must be a prompt without a label or seed"
            )
    return tuple(str(row.subject) for row in rows)
