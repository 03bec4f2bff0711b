"""Two folders side by side: what changed in what was asked, and in the scores."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from tests.evaluation.studies.conftest import made_up, run_mapping, score
from visgen.errors import InputError
from visgen.evaluation.options import EvaluationOptions
from visgen.evaluation.records import write_results
from visgen.evaluation.run import evaluate
from visgen.evaluation.studies.diff import diff_folders, diff_records
from visgen.evaluation.studies.folder import FAILED
from visgen.evaluation.studies.kept import Kept

pytestmark = pytest.mark.filterwarnings("ignore:FID of")


@pytest.fixture
def pair(tmp_path):
    """Writes two folders of made-up records, and compares them."""

    def compare(first, second):
        for name, records in (("a", first), ("b", second)):
            for record in records:
                path = tmp_path / name / "cells" / f"{record['cell']['name']}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(record))
        return diff_folders(tmp_path / "a", tmp_path / "b")

    return compare


def test_a_run_beside_itself_is_the_same(finished, toy):
    found = diff_folders(finished.place, finished.place / "cells")
    assert len(found.cells) == 3 and found.only_a == found.only_b == ()
    for cell in found.cells:
        assert cell.changes == {} and cell.note == "" and not cell.significant
        assert {one["value"] for one in cell.metrics.values()} == {0}
        assert all(one["method"] in ("identical", "none") for one in cell.metrics.values())
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_changed_option_and_its_paired_scores(finished, study_mapping, tmp_path):
    changes = {"output": str(tmp_path / "b"), "reconstruct": []}
    text = {"model": study_mapping["generate"][0]["model"][0], "top_k": 1, "name": None}
    changed = run_mapping(study_mapping, generate=[text], **changes)
    (name,) = changed.outcome.records
    record = changed.outcome.records[name]
    before = finished.outcome.records[name.removesuffix("-top-k-1")]
    found = diff_records("x", before, record, finished.place, changed.place)
    assert found.changes["asked.top_k"] == (None, 1)
    assert found.changes["config.sampling.top_k"] == (16, 1)
    assert "config.top_k" not in found.changes  # once is enough
    assert found.metrics["fid"]["method"] == "paired" and found.note == ""
    value = record["metrics"]["fid"]["value"] - before["metrics"]["fid"]["value"]
    assert found.metrics["fid"]["value"] == pytest.approx(value) and value != 0
    assert found.metrics["kid"]["significant"] is None


def test_other_seeds_are_compared_by_intervals(pair):
    first = made_up("x", metrics={"fid": score(5, 4.5, 5.5)})
    for low, high, better in ((2.0, 3.0, True), (4.0, 6.0, None), (8.0, 9.0, False)):
        other = made_up("x", seeds={"seed": 1}, metrics={"fid": score((low + high) / 2, low, high)})
        (cell,) = pair([first], [other]).cells
        assert cell.metrics["fid"]["method"] == "intervals" and "by intervals" in cell.note
        assert cell.metrics["fid"]["better"] is better and cell.significant is (better is not None)


def test_cells_of_one_side_and_failures_are_told(pair):
    failed = made_up("f", status=FAILED)
    found = pair([made_up("a1"), made_up("f")], [made_up("b1"), failed])
    assert (found.only_a, found.only_b) == (("a1",), ("b1",))
    (cell,) = found.cells
    assert cell.note == "failed after" and cell.metrics == {}


def test_what_cannot_be_compared_is_not(pair):
    other = made_up("x", protocol={"name": "toy", "version": 2})
    (cell,) = pair([made_up("x")], [other]).cells
    assert "protocols differ, toy v1 and toy v2" in cell.note and cell.metrics == {}
    assert cell.changes == {"protocol.version": (1, 2)}


def test_costs_that_are_counted_and_timed(pair):
    cost = {"seconds_per_image": 0.25, "nfe": 4.0, "tokens": 16.0}
    (cell,) = pair([made_up("x")], [made_up("x", cost=cost)]).cells
    assert cell.cost == {"nfe": (8.0, 4.0), "seconds_per_image": (0.5, 0.25)}


def test_rows_of_images_are_used_where_they_are(pair, tmp_path):
    rng = np.random.default_rng(0)
    values, records = rng.normal(20, 5, 100), []
    for name, shift in (("a", 0.0), ("b", 0.1)):
        mean = values.mean() + shift
        entry = score(mean, mean - 1, mean + 1, higher=True)
        records.append([made_up("x", images="images/x.safetensors", metrics={"psnr": entry})])
        (tmp_path / name / "images").mkdir(parents=True)
        rows = Kept({"psnr": (values + shift + rng.normal(0, 0.1, 100)).astype(np.float32)})
        (tmp_path / name / "images" / "x.safetensors").write_bytes(rows.to_bytes())
    (cell,) = pair(*records).cells
    assert cell.metrics["psnr"]["method"] == "paired" and cell.metrics["psnr"]["better"] is True
    (tmp_path / "b" / "images" / "x.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="cannot be read"):
        pair(*records)


def test_folders_of_results(models, pictures, toy, tmp_path):
    options = {"reference": str(pictures), "protocol": "toy", "metrics": ("fid",), "count": 6}
    for folder, seed in (("a", 0), ("b", 1)):
        records = evaluate([str(models / "text")], EvaluationOptions(**options, seed=seed))
        write_results(tmp_path / folder / "run.json", records)
    (cell,) = diff_folders(tmp_path / "a", tmp_path / "b").cells
    assert cell.name.startswith("run/") and cell.metrics["fid"]["method"] == "intervals"
    assert cell.changes["config.seed"] == (0, 1)


def test_folders_without_records_are_refused(tmp_path, finished):
    with pytest.raises(InputError, match="does not exist"):
        diff_folders(tmp_path / "no", finished.place)
    with pytest.raises(InputError, match="holds no records"):
        diff_folders(finished.place, tmp_path)
    shutil.copytree(finished.place, tmp_path / "torn")
    next((tmp_path / "torn" / "cells").iterdir()).write_text("{")
    with pytest.raises(InputError, match="no readable record"):
        diff_folders(finished.place, tmp_path / "torn")
