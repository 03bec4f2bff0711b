"""`.npz` of mean and covariance: round trip, ADM's layout, and what is refused."""

import numpy as np
import pytest

from tests.evaluation.stand_in import DIMS, TOY
from visgen.errors import InputError
from visgen.evaluation.protocols import PROTOCOLS, EvaluationProtocol
from visgen.evaluation.statistics import FeatureStatistics, frechet_distance
from visgen.evaluation.statistics_file import load_statistics, save_statistics

ADM = PROTOCOLS["adm"]
SMALL_ADM = EvaluationProtocol(**{**ADM.to_dict(), "feature_dims": DIMS})


def some(dims=DIMS, count=7):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2 * dims, dims))
    return FeatureStatistics(rows.mean(0), np.cov(rows, rowvar=False), count)


def adm_file(path, statistics, **more):
    """As the official reference batches: mu, sigma and sample images in float32."""
    samples = np.zeros((2, 4, 4, 3), np.uint8)
    np.savez(path, mu=statistics.mean, sigma=statistics.covariance, arr_0=samples, **more)


def test_round_trip(tmp_path):
    origin = {"reference": "photos", "images_sha256": "ab", "weights_sha256": "cd"}
    save_statistics(tmp_path / "r.npz", some(), TOY, **origin)
    found = load_statistics(tmp_path / "r.npz", TOY, "cd")
    assert np.array_equal(found.statistics.mean, some().mean)
    assert np.array_equal(found.statistics.covariance, some().covariance)
    assert frechet_distance(found.statistics, some()) < 1e-12
    assert found.statistics.count == 7 and found.protocol == ("toy", 1)
    assert (found.reference, found.images_sha256, found.weights_sha256) == ("photos", "ab", "cd")
    with np.load(tmp_path / "r.npz", allow_pickle=False) as plain:  # readable by everybody else
        assert plain["mu"].shape == (DIMS,) and plain["sigma"].shape == (DIMS, DIMS)


def test_a_file_without_a_protocol_is_adms(tmp_path):
    adm_file(tmp_path / "adm.npz", some())
    found = load_statistics(tmp_path / "adm.npz", SMALL_ADM)
    assert found.protocol is None and found.statistics.count is None
    assert np.array_equal(found.statistics.covariance, some().covariance)
    for protocol in (TOY, PROTOCOLS["clean"], PROTOCOLS["scenes"]):
        with pytest.raises(InputError, match="names no protocol"):
            load_statistics(tmp_path / "adm.npz", protocol)
    with pytest.raises(InputError, match="2048"):
        load_statistics(tmp_path / "adm.npz", ADM)


def test_a_file_of_another_protocol_or_version_is_refused(tmp_path):
    save_statistics(tmp_path / "r.npz", some(), TOY)
    newer = EvaluationProtocol(**{**TOY.to_dict(), "version": 2})
    for protocol in (SMALL_ADM, newer):
        with pytest.raises(InputError, match=r"toy v1.*never compared"):
            load_statistics(tmp_path / "r.npz", protocol)


def test_a_file_of_other_extractor_weights_is_refused(tmp_path):
    save_statistics(tmp_path / "r.npz", some(), TOY, weights_sha256="old")
    with pytest.raises(InputError, match="other weights"):
        load_statistics(tmp_path / "r.npz", TOY, "new")


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "r.npz").write_text("mine")
    with pytest.raises(InputError, match="exists"):
        save_statistics(tmp_path / "r.npz", some(), TOY)
    assert (tmp_path / "r.npz").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["r.npz"]


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


@pytest.mark.parametrize(
    "kind", ["missing", "text", "empty", "pickle", "no sigma", "shape", "nan", "words", "count"]
)
def test_bad_files(tmp_path, kind):
    path, good = tmp_path / "r.npz", {"mu": np.zeros(DIMS), "sigma": np.eye(DIMS)}
    bad = {
        "pickle": {**good, "mu": np.array([Bomb()], dtype=object)},
        "no sigma": {"mu": good["mu"]},
        "shape": {**good, "sigma": np.eye(DIMS + 1)},
        "nan": {**good, "mu": np.full(DIMS, np.nan)},
        "words": {**good, "mu": np.array(["a"] * DIMS)},
        "count": {**good, "count": np.array(["many"])},
    }
    if kind in bad:
        np.savez(path, **bad[kind])
    elif kind != "missing":
        path.write_bytes(b"" if kind == "empty" else b"mu, sigma")
    with pytest.raises(InputError, match=r"r\.npz"):
        load_statistics(path, SMALL_ADM)
