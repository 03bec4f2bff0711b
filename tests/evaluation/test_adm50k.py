"""The protocol `adm50k` at ten images: a tiny model, and features that are pooled colours."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.evaluation.stand_in import DIMS, ENTRY, ToyFeatures
from visgen.checkpoints.catalogue import CATALOGUE
from visgen.errors import InputError
from visgen.evaluation import EXTRACTORS, labels, subjects
from visgen.evaluation.exports.run import ExportOptions, export
from visgen.evaluation.labels import draws_labels, published_labels
from visgen.evaluation.options import EvaluationOptions
from visgen.evaluation.plan import make_plan
from visgen.evaluation.protocols import PROTOCOLS
from visgen.evaluation.references import ADM_BATCH, open_reference
from visgen.evaluation.resizing import to_size
from visgen.evaluation.run import evaluate
from visgen.evaluation.statistics import FeatureSums, frechet_distance
from visgen.evaluation.subjects import open_subject

pytestmark = pytest.mark.filterwarnings(
    "ignore:FID of", "ignore:protocol adm50k is of 50,000 images; 10 are a dry"
)

SIZE = 24  # so that models of 16 pixels are resized


@pytest.fixture
def small(monkeypatch):
    """adm50k with small features of small images."""
    monkeypatch.setitem(EXTRACTORS._entries, "toy", ENTRY)
    protocol = dataclasses.replace(
        PROTOCOLS["adm50k"], extractor="toy", feature_dims=DIMS, judged_size=SIZE, is_splits=2
    )
    monkeypatch.setitem(PROTOCOLS, "adm50k", protocol)


@pytest.fixture
def batch(tmp_path):
    """A reference batch in ADM's layout."""
    images = np.random.default_rng(0).integers(0, 256, (12, SIZE, SIZE, 3), dtype=np.uint8)
    features = ToyFeatures()(torch.from_numpy(images).permute(0, 3, 1, 2)).features
    other = FeatureSums.of(features).statistics()
    np.savez(tmp_path / ADM_BATCH, arr_0=images, mu=other.mean, sigma=other.covariance + np.eye(DIMS))
    return tmp_path / ADM_BATCH


def options(batch, **more):
    return EvaluationOptions(protocol="adm50k", reference=None if batch is None else str(batch), **more)


def test_what_the_protocol_says():
    protocol, adm = PROTOCOLS["adm50k"].to_dict(), PROTOCOLS["adm"].to_dict()
    assert {key: protocol[key] for key in adm if key != "name"} == {
        k: v for k, v in adm.items() if k != "name"
    }
    assert (protocol["count"], protocol["judged_size"]) == (50_000, 256)


@pytest.mark.usefixtures("small")
def test_one_command_draws_exports_and_scores(models, batch, tmp_path):
    asked = ExportOptions("adm", tmp_path / "out")
    done = export(str(models / "class"), asked, options(batch, count=10))
    record = done.records[0]
    assert list(record["metrics"]) == ["fid", "is", "precision", "recall"] and record["count"] == 10
    subject = open_subject(str(models / "class"), 32)
    drawn = subject.generate(range(10), list, 0)
    resized = to_size(drawn, SIZE)
    with np.load(done.place, allow_pickle=False) as found:
        assert np.array_equal(found["arr_0"], resized.permute(0, 2, 3, 1).numpy())
        assert found["arr_1"].tolist() == [0, 1, 2, 3, 4] * 2
    with np.load(batch, allow_pickle=False) as told:
        made = FeatureSums.of(ToyFeatures()(resized).features).statistics()
        fid = frechet_distance(made, type(made)(told["mu"], told["sigma"]))
    assert record["metrics"]["fid"]["value"] == pytest.approx(fid, rel=1e-9)
    plain = evaluate([str(models / "class")], options(batch, count=10))[0]
    judged = evaluate([str(done.place)], options(batch))[0]  # the export, as if from elsewhere
    assert plain["metrics"] == record["metrics"] == judged["metrics"]
    assert plain["images_sha256"] == judged["images_sha256"]


def test_resized_images_are_clamped_and_rounded():
    images = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    images[..., 2:] = 255
    found = to_size(images, 8)
    expected = torch.nn.functional.interpolate(images.double(), (8, 8), mode="bicubic")
    assert expected.min() < 0 and expected.max() > 255
    assert torch.equal(found, expected.clamp(0, 255).round().to(torch.uint8))
    assert to_size(images, 4) is images


@pytest.mark.usefixtures("small")
def test_fifty_thousand_images_are_the_default(models, batch):
    subject = open_subject(str(models / "class"), 32)
    asked = options(batch)
    plan = make_plan(asked, asked.resolve_protocol(), open_reference(str(batch)), subject)
    assert plan.count == 50_000
    with pytest.warns(UserWarning, match="10 are a dry run"):
        make_plan(options(batch, count=10), asked.resolve_protocol(), open_reference(str(batch)), subject)


@pytest.mark.usefixtures("small")
def test_the_reference_batch_is_looked_for_and_told(models, batch, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(InputError, match=r"ref_batches/imagenet/256/VIRTUAL_imagenet256_labeled\.npz"):
        evaluate([str(models / "class")], options(None, count=10))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    batch.rename(tmp_path / "hub" / "checkpoints" / ADM_BATCH)
    assert evaluate([str(models / "class")], options(None, count=10))[0]["reference"]["name"].endswith(
        ADM_BATCH
    )


@pytest.mark.usefixtures("small")
def test_only_images_of_classes_are_judged(models, batch):
    for kind in ("text", "tokenizer"):
        with pytest.raises(InputError, match=r"images of classes.*use adm"):
            evaluate([str(models / kind)], options(batch, count=10))


def test_labels_are_balanced_or_drawn_as_their_authors_drew_them(models, batch, small, monkeypatch):
    assert published_labels("var-d16", 5, 7, 0) == [0, 1, 2, 3, 4, 0, 1]
    systems = {entry.system for entry in CATALOGUE.values() if draws_labels(entry.alias)}
    assert systems == {"llamagen"}
    monkeypatch.setattr(labels, "CHUNK", 100)
    drawn = published_labels("llamagen-b", 10, 250, 1)
    assert drawn == published_labels("llamagen-b", 10, 250, 1) != published_labels("llamagen-b", 10, 250, 2)
    assert published_labels("llamagen-b", 10, 9, 1) == drawn[:9]
    counts = np.bincount(drawn, minlength=10)
    assert counts.min() > 5 and counts.max() < 50 and len(set(counts)) > 1
    monkeypatch.setattr(labels, "draws_labels", lambda name: True)
    monkeypatch.setattr(subjects, "published_labels", lambda *args: [3] * 10)
    record = evaluate([str(models / "class")], options(batch, count=10))[0]
    same = open_subject(str(models / "class"), 32)
    same.labels = [3] * 10
    from visgen.evaluation.digests import digest_of_digests, image_digests

    images = to_size(same.generate(range(10), list, 0), SIZE)
    assert record["images_sha256"] == digest_of_digests(image_digests(images))


def test_the_documentation_lists_every_official_model_of_classes():
    text = (Path(__file__).parents[2] / "docs" / "published-protocols.md").read_text()
    models = [entry for entry in CATALOGUE.values() if entry.tasks[0] == "class-to-image"]
    assert len(models) > 30
    assert [entry.alias for entry in models if f"`{entry.alias}`" not in text] == []
