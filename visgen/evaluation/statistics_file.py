"""Precomputed statistics on disk: `.npz` with `mu` and `sigma`, the layout of ADM's reference batches."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visgen.errors import InputError
from visgen.evaluation.files import write_once
from visgen.evaluation.protocols import EvaluationProtocol
from visgen.evaluation.statistics import FeatureStatistics

PathLike = str | os.PathLike[str]
_TEXTS = ("reference", "images_sha256", "weights_sha256")
_KEYS = ("mu", "sigma", "count", "protocol", "protocol_version", *_TEXTS)
_BROKEN = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, eq=False)
class StatisticsFile:
    """What a file holds: statistics, and where they are from when visgen wrote them.

    Attributes:
        statistics: mean, covariance and, in our files, count.
        protocol: (name, version), or None in a file of somebody else.
        reference: name of the reference the statistics are of; "" if the file does not say.
        images_sha256: digest of its images; "" if the file does not say.
        weights_sha256: digest of the feature extractor; "" if the file does not say.
    """

    statistics: FeatureStatistics
    protocol: tuple[str, int] | None = None
    reference: str = ""
    images_sha256: str = ""
    weights_sha256: str = ""


def save_statistics(
    path: PathLike, statistics: FeatureStatistics, protocol: EvaluationProtocol, **origin: str
) -> None:
    """Write a `.npz` with `mu`, `sigma`, `count`, the protocol, and where they are from.

    Args:
        path: a new file.
        statistics: what to write.
        protocol: they were made under.
        origin: `reference`, `images_sha256` and `weights_sha256`, as in `StatisticsFile`.

    Raises:
        InputError: the file exists, or the place cannot be written.
    """
    content: dict[str, Any] = {
        "mu": statistics.mean,
        "sigma": statistics.covariance,
        "count": np.int64(-1 if statistics.count is None else statistics.count),
        "protocol": np.str_(protocol.name),
        "protocol_version": np.int64(protocol.version),
        **{name: np.str_(origin.get(name, "")) for name in _TEXTS},
    }
    write_once(path, lambda file: np.savez(file, **content))


def load_statistics(path: PathLike, protocol: EvaluationProtocol, weights_sha256: str = "") -> StatisticsFile:
    """Read a `.npz` with `mu` (D,) and `sigma` (D, D); other arrays, such as ADM's samples, are not read.

    Raises:
        InputError: no such file, a broken one, one of another protocol, of other dimensions or of another
            extractor than `weights_sha256`, or one that names no protocol while `protocol` is not "adm", the
            one of official files.
    """
    found = _read(Path(path))
    _check_protocol(found, path, protocol)
    dims = len(found.statistics.mean)
    if dims != protocol.feature_dims:
        raise InputError(
            f"reference {str(path)!r} has {dims} dimensions; protocol {protocol.name} has "
            f"{protocol.feature_dims}"
        )
    if found.weights_sha256 and weights_sha256 and found.weights_sha256 != weights_sha256:
        raise InputError(
            f"reference {str(path)!r} was made with other weights of the feature extractor; make it anew "
            "with --save-statistics"
        )
    return found


def statistics_digest(statistics: FeatureStatistics) -> str:
    """SHA-256 (hex) of mean and covariance."""
    return hashlib.sha256(statistics.mean.tobytes() + statistics.covariance.tobytes()).hexdigest()


def _check_protocol(found: StatisticsFile, path: PathLike, protocol: EvaluationProtocol) -> None:
    if found.protocol is None and protocol.statistics_of[0] != "adm":
        raise InputError(
            f"reference {str(path)!r} names no protocol, so it is taken for ADM's; use --protocol adm, "
            f"or make one for {protocol.name} with --save-statistics"
        )
    if found.protocol not in (None, protocol.statistics_of):
        name, version = found.protocol or ("", 0)
        raise InputError(
            f"reference {str(path)!r} was made under protocol {name} v{version}, not {protocol.label}; "
            "numbers under different protocols are never compared"
        )


def _read(path: Path) -> StatisticsFile:
    if not path.is_file():
        raise InputError(f"reference {str(path)!r} does not exist; give a .npz with mu and sigma")
    try:
        with np.load(path, allow_pickle=False) as archive:
            values = {key: archive[key] for key in _KEYS if key in archive.files}
        count = int(values.get("count", -1))
        version = int(values.get("protocol_version", 0))
    except (*_BROKEN, AttributeError, TypeError) as error:  # an array, not an archive; not one number
        raise InputError(f"reference {str(path)!r} is no readable .npz ({error})") from error
    statistics = FeatureStatistics(*_gaussian(values, path), count if count >= 0 else None)
    protocol = (str(values["protocol"]), version) if "protocol" in values else None
    return StatisticsFile(statistics, protocol, *(str(values.get(name, "")) for name in _TEXTS))


def _gaussian(values: dict[str, np.ndarray], path: Path) -> tuple[np.ndarray, np.ndarray]:
    mean, covariance = (values.get(name) for name in ("mu", "sigma"))
    if mean is None or covariance is None:
        raise InputError(f"reference {str(path)!r} has no mu and sigma; give a .npz with both")
    square = mean.ndim == 1 and covariance.shape == (len(mean), len(mean))
    if not square or mean.dtype.kind != "f" or covariance.dtype.kind != "f":
        raise InputError(
            f"reference {str(path)!r} holds mu {mean.shape} and sigma {covariance.shape}; floats (D,) and "
            "(D, D) would do"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise InputError(f"reference {str(path)!r} holds NaN or infinity in mu or sigma; make it anew")
    return mean.astype(np.float64), covariance.astype(np.float64)
