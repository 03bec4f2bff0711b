"""The passes over one subject: its generated images, and its reconstructions of the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from visgen.evaluation.bootstrap import FID_MAX_DIMS
from visgen.evaluation.metrics import ERROR_METRICS, ROW_METRICS
from visgen.evaluation.network_rows import keep_made
from visgen.evaluation.network_scores import network_scores
from visgen.evaluation.pairs import l1, psnr, ssim
from visgen.evaluation.passes import Part, Pass, run_pass
from visgen.evaluation.plan import Plan
from visgen.evaluation.real import RealSide, keep_features
from visgen.evaluation.references import SCENES
from visgen.evaluation.resizing import to_size
from visgen.evaluation.scores import (
    Entries,
    adherence_entry,
    beside_fid,
    error_scores,
    generation_scores,
    reconstruction_scores,
    tokens_entry,
)
from visgen.evaluation.setting import Setting
from visgen.evaluation.subjects import Subject
from visgen.nn.quantizers.codebook import code_counts


def see_generated(subject: Subject, plan: Plan, setting: Setting) -> Pass | None:
    """Generate the images 0 … N − 1 and keep what the metrics need of them; None when none looks at them."""
    if not plan.generated:
        return None
    compared, networks = plan.wants("fid", *ROW_METRICS), setting.networks(plan)
    rows = plan.wants(*ROW_METRICS) or setting.protocol.feature_dims <= FID_MAX_DIMS

    def captions(indices: Sequence[int]) -> Sequence[str]:
        prompts = setting.options.prompts
        return setting.reference.captions(indices) if prompts is None else [prompts[i] for i in indices]

    def work(indices: list[int], part: Part) -> None:
        images = subject.generate(indices, captions, setting.options.seed)
        images = to_size(images, setting.protocol.size_of(images.shape[-1]))
        part.keep_images(images, whole=plan.wants("adherence"))
        if compared or plan.wants("is"):
            found = setting.extractor(images)
            if compared:
                keep_features(part, indices, found.features, rows)
            if plan.wants("is") and found.logits is not None:
                part.keep(logits=found.logits)
        keep_made(part, images, captions(indices) if plan.wants("clip_score") else (), networks)

    return run_pass(plan.count, work, setting.processes, setting.options.batch_size, subject.name)


def see_reconstructed(subject: Subject, plan: Plan, setting: Setting) -> Pass | None:
    """Reconstruct the reference's images 0 … N − 1; None when no metric looks at them."""
    if not plan.reconstructed:
        return None
    rows = setting.protocol.feature_dims <= FID_MAX_DIMS

    def work(indices: list[int], part: Part) -> None:
        real = setting.reference.images(indices, subject.image_size)
        made, tokens = subject.reconstruct(real)
        part.keep_images(made, whole=plan.wants("adherence"))
        if plan.wants("rfid"):
            keep_features(part, indices, setting.extractor(made).features, rows)
        part.keep(**_similarity(made, real, plan, setting))
        if plan.wants("tokens"):
            part.keep(tokens=tokens.lengths)
        if plan.wants("codebook") and tokens.ids is not None and subject.codebook_size is not None:
            part.add(codes=code_counts(_present(tokens.ids, tokens.mask), subject.codebook_size).long())

    title = f"{subject.name} reconstructs"
    return run_pass(plan.count, work, setting.processes, setting.options.batch_size, title)


def _similarity(made: Tensor, real: Tensor, plan: Plan, setting: Setting) -> dict[str, Tensor]:
    """The per-image metrics that are asked for."""
    measures = {"psnr": psnr, "ssim": ssim}
    values = {name: measure(made, real) for name, measure in measures.items() if plan.wants(name)}
    if plan.wants("lpips"):
        values["lpips"] = setting.lpips(made, real)
    if plan.wants(*ERROR_METRICS):
        values["l1"] = l1(made, real)
    return values


def _present(ids: Tensor, mask: Tensor | None) -> Tensor:
    """The ids that are decoded: what stands where a token was switched off is never seen."""
    return ids if mask is None else ids[mask]


def _objects(plan: Plan, setting: Setting) -> Tensor | None:
    """Number of objects of the images 0 … N − 1, (N,); None unless the reference knows scenes."""
    if not setting.reference.name.startswith(SCENES):
        return None
    scenes = setting.reference.scenes(range(plan.count))
    return torch.tensor([len(scene.objects) for scene in scenes])


def score(
    plan: Plan,
    setting: Setting,
    real: RealSide | None,
    made: Pass | None,
    pairs: Pass | None,
    image_size: int,
) -> Entries:
    """All entries of a result, in the order in which they were asked for.

    What adherence says of each image becomes a row of `made`, "adherence" (N,) bool.
    """
    entries: Entries = {}
    seed = setting.options.seed
    if made is not None:
        entries |= generation_scores(plan, made, real, setting.protocol, seed)
        entries |= network_scores(plan, made, real, seed)
    if pairs is not None:
        entries |= reconstruction_scores(plan, pairs, real, seed)
        entries |= error_scores(plan, pairs, setting.options.max_error, seed)
        if plan.wants("tokens"):
            entries["tokens"] = tokens_entry(pairs, _objects(plan, setting), seed)
    beside_fid(entries, real)
    if made is not None and plan.wants("adherence"):
        entries["adherence"] = _adherence(plan, setting, made, pairs, image_size)
    return {name: entries[name] for name in plan.metrics}


def _adherence(
    plan: Plan, setting: Setting, made: Pass, pairs: Pass | None, image_size: int
) -> dict[str, Any]:
    """Adherence of the generated images, beside that of real ones and of reconstructions."""
    from visgen.evaluation.scenes.adherence import verdicts

    scenes = setting.reference.scenes(range(plan.count))
    found = {"generated": verdicts(made.rows["images"], scenes)}
    found["real"] = setting.real_verdicts(plan.count, image_size)
    if pairs is not None:
        found["reconstruction"] = verdicts(pairs.rows["images"], scenes)
    made.rows["adherence"] = torch.tensor([one.correct for one in found["generated"]])
    return adherence_entry(found, scenes)
