"""`.npz` of images: written and read one by one, readable by numpy, judged as a subject and a reference."""

import io
import zipfile

import numpy as np
import pytest
import torch

from tests.evaluation.stand_in import ToyFeatures
from visgen.errors import InputError
from visgen.evaluation import image_array
from visgen.evaluation.image_array import ImageArray, write_image_array
from visgen.evaluation.options import EvaluationOptions
from visgen.evaluation.protocols import PROTOCOLS
from visgen.evaluation.references import open_reference
from visgen.evaluation.run import evaluate
from visgen.evaluation.statistics import FeatureSums, frechet_distance
from visgen.evaluation.statistics_file import load_statistics

pytestmark = pytest.mark.filterwarnings("ignore:FID of")


def some(count, size=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture
def batch(tmp_path):
    """As ADM's: images, and statistics of other ones."""
    images = some(12)
    other = FeatureSums.of(ToyFeatures()(as_tensor(some(40, seed=3))).features).statistics()
    np.savez(tmp_path / "batch.npz", arr_0=images, mu=other.mean, sigma=other.covariance)
    return tmp_path / "batch.npz", images, other


def as_tensor(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@pytest.mark.parametrize("labels", [None, [4, 0, 2]])
def test_numpy_reads_what_is_written(tmp_path, labels):
    images = some(3)
    write_image_array(tmp_path / "a.npz", iter(images), images.shape, labels)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        assert found["arr_0"].dtype == np.uint8 and np.array_equal(found["arr_0"], images)
        assert sorted(found.files) == (["arr_0"] if labels is None else ["arr_0", "arr_1"])
        if labels is not None:
            assert found["arr_1"].dtype == np.int64 and found["arr_1"].tolist() == labels


def test_images_are_asked_for_one_by_one(tmp_path):
    written = []

    class File(io.BytesIO):
        def write(self, content):
            written.append(len(bytes(content)))
            return super().write(content)

    def images():
        for image in some(5):
            yield image
            assert max(written) <= 16 * 16 * 3  # nothing is held back and written together

    image_array._write_images(File(), images(), (5, 16, 16, 3))
    assert written.count(16 * 16 * 3) == 5


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_are_read_in_any_order(tmp_path, save):
    images = some(6)
    save(tmp_path / "a.npz", other=np.zeros(3), arr_0=images)
    array = ImageArray(tmp_path / "a.npz")
    assert array.shape == (6, 16, 16, 3) and len(array) == 6
    for indices in ([0, 2, 5], [4, 1], [3]):
        assert torch.equal(array.read(indices), as_tensor(images[indices]))


@pytest.mark.parametrize(
    ("images", "shape", "words"),
    [
        (some(2), (3, 16, 16, 3), "2 images came"),
        (some(3, 8), (3, 16, 16, 3), r"image 0 is uint8 \(8, 8, 3\)"),
    ],
)
def test_what_does_not_fit_is_not_written(tmp_path, images, shape, words):
    with pytest.raises(InputError, match=words):
        write_image_array(tmp_path / "a.npz", iter(images), shape)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "a.npz").write_text("mine")
    with pytest.raises(InputError, match="exists"):
        write_image_array(tmp_path / "a.npz", iter(some(2)), (2, 16, 16, 3))
    assert (tmp_path / "a.npz").read_text() == "mine"


@pytest.mark.parametrize(
    "content",
    [
        {"arr_0": np.zeros((2, 4, 4, 3), np.float32)},
        {"arr_0": np.zeros((2, 4, 4), np.uint8)},
        {"arr_0": np.zeros((0, 4, 4, 3), np.uint8)},
        {"other": np.zeros(3)},
        {"arr_0": np.asfortranarray(some(2))},
    ],
)
def test_files_without_images_are_refused(tmp_path, content):
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(InputError, match=r"arr_0 must be uint8 \(N, H, W, 3\)"):
        ImageArray(tmp_path / "a.npz")


def test_broken_files_are_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="no readable"):
        ImageArray(tmp_path / "a.npz")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (9, 4, 4, 3)}
    )
    with zipfile.ZipFile(tmp_path / "short.npz", "w") as archive:
        archive.writestr("arr_0.npy", header.getvalue() + bytes(60))
    array = ImageArray(tmp_path / "short.npz")
    assert array.read([0]).shape == (1, 3, 4, 4)
    with pytest.raises(InputError, match="broken at image 7"):
        array.read([7])


def test_an_array_is_judged_as_the_folder_of_its_images(tmp_path, pictures, toy):
    images = some(8)
    np.savez(tmp_path / "a.npz", arr_0=images)
    options = EvaluationOptions(reference=str(pictures), protocol="toy", metrics=("fid", "precision"))
    record = evaluate([str(tmp_path / "a.npz")], options)[0]
    sides = [
        FeatureSums.of(ToyFeatures()(one).features).statistics()
        for one in (as_tensor(images), open_reference(str(pictures)).images(range(12), 16))
    ]
    assert record["metrics"]["fid"]["value"] == pytest.approx(frechet_distance(*sides), rel=1e-9)
    assert record["count"] == 8 and record["subject"]["kind"] == "folder"


def test_fid_takes_the_statistics_of_a_batch_and_precision_its_images(batch, models, toy, monkeypatch):
    path, images, other = batch
    monkeypatch.setattr(type(toy), "statistics_of", property(lambda self: ("adm", 1)))
    record = evaluate(
        [str(models / "class")],
        EvaluationOptions(reference=str(path), protocol="toy", metrics=("fid", "precision"), count=10),
    )[0]
    from visgen.evaluation.distances import precision_recall
    from visgen.evaluation.subjects import open_subject

    made = ToyFeatures()(open_subject(str(models / "class"), 32).generate(range(10), list, 0)).features
    fid = frechet_distance(FeatureSums.of(made).statistics(), other)
    assert record["metrics"]["fid"]["value"] == pytest.approx(fid, rel=1e-9)
    precision = precision_recall(made, ToyFeatures()(as_tensor(images)).features, toy)[0]
    assert record["metrics"]["precision"]["value"] == precision
    assert load_statistics(path, PROTOCOLS["toy"]).protocol is None
    with pytest.raises(InputError, match="16×16 pixels, not 8×8"):
        open_reference(str(path)).images([0], 8)


def test_an_array_without_statistics_is_a_reference_of_images(tmp_path, models, toy):
    images = some(12)
    np.savez(tmp_path / "a.npz", arr_0=images)
    asked = EvaluationOptions(reference=str(tmp_path / "a.npz"), protocol="toy", metrics=("fid",), count=8)
    record = evaluate([str(models / "class")], asked)[0]
    assert record["reference"]["count"] == 12
