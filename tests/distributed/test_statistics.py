"""Statistics of folders and WebDatasets: those that an evaluation finds, whatever the parts."""

import numpy as np
import pytest

from tests.distributed.conftest import PICTURES, close
from tests.evaluation.stand_in import DIMS, ENTRY, TOY, ToyFeatures
from visgen.distributed.statistics import image_statistics
from visgen.errors import InputError
from visgen.evaluation import EXTRACTORS
from visgen.evaluation.digests import digest_of_digests, image_digests
from visgen.evaluation.protocols import PROTOCOLS
from visgen.evaluation.references import FolderReference
from visgen.evaluation.statistics import FeatureSums
from visgen.evaluation.statistics_file import load_statistics, save_statistics

pytest.importorskip("webdataset")
SIZE = 16


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(EXTRACTORS._entries, "toy", ENTRY)
    monkeypatch.setitem(PROTOCOLS, "toy", TOY)


@pytest.fixture
def images(folder):
    return FolderReference(str(folder)).images(range(PICTURES), SIZE)


@pytest.mark.parametrize("part_size", [1, 2, 7, 100])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_they_are_those_of_all_images_at_once(folder, images, part_size, batch_size):
    told = []
    found = image_statistics(
        folder,
        "toy",
        image_size=SIZE,
        part_size=part_size,
        batch_size=batch_size,
        on_progress=lambda *seen: told.append(seen),
    )
    assert close(found.statistics, FeatureSums.of(ToyFeatures()(images).features).statistics())
    assert found.statistics.count == PICTURES and found.statistics.mean.shape == (DIMS,)
    assert found.images_sha256 == digest_of_digests(image_digests(images))
    assert told[0] == (0, PICTURES) and told[-1] == (PICTURES, PICTURES)


def test_a_webdataset(tars, folder):
    first, second = (image_statistics(one, "toy", image_size=SIZE).statistics for one in (tars, folder))
    assert close(first, second)  # in another order of the images


def test_parts_are_added_in_their_order(folder):
    one, two = (image_statistics(folder, "toy", image_size=SIZE, part_size=2) for _ in range(2))
    assert np.array_equal(one.statistics.covariance, two.statistics.covariance)


def test_they_are_a_reference(folder, tmp_path):
    found = image_statistics(folder, "toy", image_size=SIZE)
    path = tmp_path / "a.npz"
    save_statistics(path, found.statistics, found.protocol, weights_sha256=found.weights_sha256)
    assert close(load_statistics(path, TOY, "toy").statistics, found.statistics)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "image_size is missing"),
        ({"image_size": 0}, "image_size=0"),
        ({"image_size": 16, "part_size": 0}, "part_size=0"),
        ({"protocol": "scenes", "image_size": 32}, "takes 64 only"),
        ({"protocol": "fid"}, "unknown protocol 'fid'"),
    ],
)
def test_bad_arguments(folder, options, told):
    with pytest.raises(InputError, match=told):
        image_statistics(folder, **{"protocol": "toy", **options})


def test_one_image_has_no_covariance(folder, tmp_path):
    (tmp_path / "a.png").write_bytes((folder / "a" / "0.png").read_bytes())
    with pytest.raises(InputError, match="needs two or more"):
        image_statistics(tmp_path, "toy", image_size=SIZE)
