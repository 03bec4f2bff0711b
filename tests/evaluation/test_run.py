"""`evaluate` from end to end, on tiny models under a toy protocol."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.evaluation.conftest import write_pictures
from tests.evaluation.stand_in import ToyFeatures
from visgen.data.scenes import Scenes
from visgen.errors import InputError
from visgen.evaluation.metrics import parse_metrics
from visgen.evaluation.options import EvaluationOptions
from visgen.evaluation.real import RealWants, look_at_reference
from visgen.evaluation.references import FolderReference, open_reference
from visgen.evaluation.run import evaluate
from visgen.evaluation.statistics import FeatureSums, frechet_distance
from visgen.evaluation.statistics_file import load_statistics
from visgen.evaluation.subjects import ModelSubject
from visgen.processes import Processes

# Twelve images or fewer, in twelve dimensions.
pytestmark = pytest.mark.filterwarnings("ignore:FID of")

ALL = "fid,kid,is,precision,recall,rfid,psnr,ssim,codebook"


def options(reference, metrics="fid", **more):
    return EvaluationOptions(reference=str(reference), protocol="toy", metrics=parse_metrics(metrics), **more)


def value(record, name):
    return record["metrics"][name]["value"]


@pytest.fixture
def seen(models, pictures, toy):
    return evaluate([str(models / "text")], options(pictures, ALL, seed=3))[0]


def test_a_record_says_how_it_came_about(seen, toy, pictures):
    json.dumps(seen, allow_nan=False)
    assert list(seen["metrics"]) == ALL.split(",")
    assert seen["protocol"] == toy.to_dict() and seen["extractor_sha256"] == "toy"
    assert seen["reference"]["count"] == seen["count"] == seen["distinct_images"] == 12
    assert seen["seeds"]["seed"] == seen["config"]["seed"] == 3
    assert seen["config"]["sampling"]["top_k"] == 16 and seen["config"]["metrics"] == ALL.split(",")
    assert (seen["device"], seen["dtype"], seen["processes"]) == ("cpu", "float32", 1)
    assert seen["threads"] == torch.get_num_threads() and seen["seconds"]["total"] > 0
    for digest in ("images_sha256", "reconstructions_sha256"):
        assert len(seen[digest]) == 64
    assert seen["subject"]["kind"] == "text" and len(seen["subject"]["checkpoint_sha256"]) == 64
    for name in ("fid", "rfid", "psnr", "ssim"):
        low, high = seen["metrics"][name]["interval"]
        assert low <= value(seen, name) <= high
    assert seen["metrics"]["kid"]["interval"] is None and not seen["metrics"]["kid"]["higher_is_better"]


def test_batch_size_changes_nothing_and_the_seed_all(seen, models, pictures, toy):
    again = evaluate([str(models / "text")], options(pictures, ALL, seed=3, batch_size=5))[0]
    assert again["images_sha256"] == seen["images_sha256"]
    for name in ALL.split(","):
        assert value(again, name) == pytest.approx(value(seen, name), rel=1e-6), name
    other = evaluate([str(models / "text")], options(pictures, "fid", seed=4))[0]
    assert other["images_sha256"] != seen["images_sha256"]
    assert other["subject"] == seen["subject"] and other["reference"] == seen["reference"]


def test_fid_stands_between_floor_and_ceiling(seen, pictures, toy):
    beside = seen["metrics"]["fid"]["beside"]
    assert beside["reconstruction"] == value(seen, "rfid") and beside["real_counts"] == [6, 6]
    halves = [features(FolderReference(str(pictures)).images(range(k, 12, 2), 16)) for k in (0, 1)]
    assert beside["real"] == pytest.approx(frechet_distance(*halves), rel=1e-9)


def features(images):
    return FeatureSums.of(ToyFeatures()(images).features).statistics()


def test_a_folder_of_the_reference_itself_scores_perfectly(tmp_path, toy):
    folder = write_pictures(tmp_path, 12, (16, 16))
    record = evaluate([str(folder)], options(folder, "fid,kid,precision,recall"))[0]
    assert value(record, "fid") < 1e-9 and value(record, "kid") < 0
    assert value(record, "precision") == value(record, "recall") == 1
    assert record["images_sha256"] == record["reference"]["digest"]
    assert record["subject"]["checkpoint_sha256"] is None and record["dtype"] is None


def test_images_that_came_out_twice_are_counted(tmp_path, pictures, toy):
    folder = write_pictures(tmp_path, 6, (16, 16))
    (folder / "009.png").write_bytes((folder / "000.png").read_bytes())
    record = evaluate([str(folder)], options(pictures))[0]
    assert (record["count"], record["distinct_images"]) == (7, 6)


def test_statistics_stand_for_the_images_they_are_of(tmp_path, models, pictures, toy):
    path, model = tmp_path / "r.npz", str(models / "class")
    first = evaluate([model], options(pictures, "fid", count=8), statistics_path=str(path))[0]
    again = evaluate([model], options(path, "fid", count=8), beside=[first])[0]
    assert value(again, "fid") == value(first, "fid")
    assert again["reference"]["digest"] == first["reference"]["digest"]
    assert load_statistics(path, toy).reference == str(pictures)


def test_statistics_need_features(tmp_path, models, pictures, toy):
    with pytest.raises(InputError, match="--save-statistics"):
        evaluate([str(models / "text")], options(pictures, "psnr"), statistics_path=str(tmp_path / "r.npz"))


def test_prompts_take_the_place_of_captions(models, pictures, toy):
    captions = [(pictures / f"{i:03d}.txt").read_text() for i in range(12)]
    model = str(models / "text")
    told = evaluate([model], options(pictures, prompts=tuple(captions)))[0]
    own, other = (
        evaluate([model], one)[0]
        for one in (options(pictures), options(pictures, prompts=tuple(captions[::-1])))
    )
    assert told["images_sha256"] == own["images_sha256"] != other["images_sha256"]
    assert own["config"]["prompts_sha256"] is None
    assert told["config"]["prompts_sha256"] != other["config"]["prompts_sha256"]


def test_what_cannot_be_compared_is_refused_before_it_is_generated(
    models, pictures, toy, tmp_path, monkeypatch
):
    first = evaluate([str(models / "class")], options(pictures, count=6))[0]
    monkeypatch.setattr(ModelSubject, "generate", None)  # calling it would be a TypeError
    others = write_pictures(tmp_path, 12, (16, 16), seed=9)
    for asked in (options(pictures, count=7), options(others, count=6)):
        with pytest.raises(InputError, match="cannot be compared"):
            evaluate([str(models / "class")], asked, beside=[first])


def test_records_come_one_by_one(models, pictures, toy):
    names, seen = [str(models / kind) for kind in ("text", "class")], []
    records = evaluate(names, options(pictures, count=6), on_record=seen.append)
    assert records == seen and [one["subject"]["name"] for one in seen] == names
    assert [one["reference"] for one in seen] == [seen[0]["reference"]] * 2


def test_too_few_images_for_the_dimensions_are_told(models, pictures, toy):
    with pytest.warns(UserWarning, match="-n above 12"):
        evaluate([str(models / "text")], options(pictures))


def test_lpips(models, pictures, toy, tmp_path):
    vgg16 = pytest.importorskip("torchvision.models").vgg16
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in vgg16(weights=None).state_dict().items()}
    shapes = {key: shape for key, shape in shapes.items() if key.startswith("features.")}
    torch.save(
        {k: torch.randn(s) * (0.05 if len(s) == 4 else 0) for k, s in shapes.items()}, tmp_path / "v.pth"
    )
    asked = options(pictures, "lpips", count=3, lpips_weights=tmp_path / "v.pth")
    score = evaluate([str(models / "tokenizer")], asked)[0]["metrics"]["lpips"]
    assert score["value"] > 0 and not score["higher_is_better"] and score["interval"][0] < score["value"]


def test_adherence_stands_beside_its_ceilings(tmp_path, monkeypatch, toy):
    from visgen.evaluation.scenes import adherence

    scenes = Scenes("validation", balanced=True)
    images = scenes.batch(range(5)).images
    images[4] = 255 - images[4]
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")

    def share(pictures, asked):
        right = (pictures == scenes.batch(range(len(asked))).images).flatten(1).all(1).float().mean().item()
        assert list(asked) == [scenes[i]["scene"] for i in range(len(asked))]
        overall = {"value": right, "interval": [right, right], "count": len(asked)}
        return SimpleNamespace(to_dict=lambda: {"overall": overall})

    monkeypatch.setattr(adherence, "evaluate_adherence", share)
    asked = EvaluationOptions(protocol="toy", metrics=("fid", "adherence"))
    record = evaluate([str(tmp_path)], asked)[0]
    score = record["metrics"]["adherence"]
    assert score["value"] == pytest.approx(0.8) and score["count"] == 5
    assert score["ceilings"]["real"]["overall"]["value"] == 1 and "reconstruction" not in score["ceilings"]


def test_an_endless_reference_is_other_images_than_those_that_are_judged():
    reference = open_reference("scenes:validation")
    wants = RealWants(floor=True)
    found = look_at_reference(reference, 20, 64, ToyFeatures(), wants, Processes(), batch_size=7)
    sides = [features(reference.images(range(k, k + 20), 64)) for k in (0, 20)]
    assert found.floor == pytest.approx(frechet_distance(*sides), rel=1e-9)
    assert found.floor_counts == (20, 20) and found.count == 20 and found.features is None
    np.testing.assert_allclose(found.statistics.mean, sides[1].mean)
