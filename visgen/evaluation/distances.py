"""KID, Inception Score, precision and recall: torch-fidelity's functions on features, seeded and quiet."""

from __future__ import annotations

from torch import Tensor

from visgen.evaluation.protocols import EvaluationProtocol

CHUNK = 10_000  # rows of a distance matrix at once: 0.8 GB of float64


def kid(features: Tensor, real: Tensor, protocol: EvaluationProtocol, seed: int) -> dict[str, float]:
    """Kernel Inception Distance (arXiv 1801.01401): cubic kernel, unbiased, the mean over random subsets.

    Args:
        features, real: (n, D) and (m, D).
        protocol: number and size of the subsets.
        seed: of the draws.

    Returns:
        `value`, `std` over subsets, `subset_size`.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    size = min(protocol.kid_subset_size, len(features) // 2, len(real) // 2)
    found = kid_features_to_metric(
        features.double(),
        real.double(),
        kid_subsets=protocol.kid_subsets,
        kid_subset_size=size,
        rng_seed=seed % 2**32,
        verbose=False,
    )
    return {"value": found[KEY_METRIC_KID_MEAN], "std": found[KEY_METRIC_KID_STD], "subset_size": size}


def inception_score(logits: Tensor, protocol: EvaluationProtocol, seed: int) -> dict[str, float]:
    """Inception Score (arXiv 1606.03498) of unbiased logits (n, C): `value` and `std` over splits."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    found = isc_features_to_metric(logits, protocol.is_splits, shuffle=True, rng_seed=seed % 2**32)
    return {"value": found[KEY_METRIC_ISC_MEAN], "std": found[KEY_METRIC_ISC_STD]}


def precision_recall(features: Tensor, real: Tensor, protocol: EvaluationProtocol) -> tuple[float, float]:
    """Improved precision and recall (arXiv 1904.06991) of features (n, D) against real ones (m, D)."""
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    found = prc_features_to_metric(
        features.double(),
        real.double(),
        prc_neighborhood=protocol.neighbours,
        prc_batch_size=CHUNK,
        save_cpu_ram=max(len(features), len(real)) > CHUNK,
        verbose=False,
    )
    return found[KEY_METRIC_PRECISION], found[KEY_METRIC_RECALL]
