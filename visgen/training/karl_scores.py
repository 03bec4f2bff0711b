"""How well KARL's counts and errors do on held-out images, and the calibration of its errors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from visgen.data.batch import Batch
from visgen.evaluation.rank import spearman
from visgen.tokenizers.karl import KARLTokenizer
from visgen.training.reconstruction import to_pixels


def mean_error(recon: Tensor, images: Tensor) -> Tensor:
    """Mean absolute error of each image on [0, 1] pixels (B,), of images in [-1, 1]."""
    return (recon.float() - images.float()).abs().flatten(1).mean(1) / 2


@torch.no_grad()
def count_scores(
    model: KARLTokenizer, batches: Sequence[Batch], errors: Sequence[float], tokens: Sequence[int] = ()
) -> dict[str, float]:
    """Scores on images, by name.

    For each wanted error e: "count@e" and "error@e" (means), "met@e" (share of images not above e), and,
    where the source knows scenes, "objects@e" (Spearman of count and number of objects). For each fixed
    count T: "error@T" and "met@e@T" beside it.
    """
    found: dict[str, list[Tensor]] = {}
    for batch in batches:
        images = to_pixels(batch.images.to(model.device))
        for error, encoded in zip(errors, model.encode_errors(images, errors), strict=True):
            found.setdefault(f"count@{error:g}", []).append(encoded.lengths.float().cpu())
            found.setdefault(f"error@{error:g}", []).append(_error(model, encoded, images))
        for count in tokens:
            encoded = model.encode(images, num_tokens=count)
            found.setdefault(f"error@{count}", []).append(_error(model, encoded, images))
    joined = {name: torch.cat(parts) for name, parts in found.items()}
    scores = {name: float(values.mean()) for name, values in joined.items()}
    objects = _objects(batches)
    for error in errors:
        scores[f"met@{error:g}"] = float((joined[f"error@{error:g}"] <= error).float().mean())
        for count in tokens:
            scores[f"met@{error:g}@{count}"] = float((joined[f"error@{count}"] <= error).float().mean())
        if objects is not None:
            scores[f"objects@{error:g}"] = spearman(joined[f"count@{error:g}"], objects)
    return scores


def _error(model: KARLTokenizer, encoded: object, images: Tensor) -> Tensor:
    return mean_error(model.decode(encoded), images).cpu()  # type: ignore[arg-type]


def _objects(batches: Sequence[Batch]) -> Tensor | None:
    scenes = [scene for batch in batches for scene in batch.scenes or ()]
    return torch.tensor([float(len(scene.objects)) for scene in scenes]) if scenes else None


@torch.no_grad()
def calibrate_errors(
    tokenizer: KARLTokenizer, images: Tensor, share: float = 0.9, batch_size: int = 64
) -> tuple[float, ...]:
    """`bin_errors` of a tokenizer: per bin, the error that `share` of the images stay below when it is asked
    for, made ascending.

    Args:
        tokenizer: set its config with `tokenizer.register_to_config(bin_errors=…)` afterwards.
        images: (N, 3, H, W) in [-1, 1], not those that are scored later.
        share: of images, in (0, 1].
        batch_size: of a pass.
    """
    found = [_errors_by_bin(tokenizer, part.to(tokenizer.device)) for part in images.split(batch_size)]
    measured = torch.cat(found, dim=1).quantile(share, dim=1)
    return tuple(measured.cummax(0).values.tolist())


def _errors_by_bin(tokenizer: KARLTokenizer, images: Tensor) -> Tensor:
    """Errors (bins, B) of images asked for at each bin."""
    seen, rows = tokenizer.see(images), []
    for index in range(len(tokenizer.config.error_bins)):
        bins = torch.full((len(images),), index, device=images.device)
        out = tokenizer.tokenize(seen, bins, tokenizer.config.num_tokens)
        recon = tokenizer.base_tokenizer.decode(
            tokenizer.predict(out.codes, seen.grid, out.active), seen.grid
        )
        rows.append(mean_error(recon, images).cpu())
    return torch.stack(rows)
