"""Result documents, and which records may stand side by side."""

import copy
import json

import pytest

from visgen.errors import InputError
from visgen.evaluation.protocols import PROTOCOLS
from visgen.evaluation.records import check_comparable, read_results, versions, write_results

RECORD = {
    "schema": 1,
    "subject": {"name": "a", "kind": "text"},
    "metrics": {"fid": {"value": 1.5, "interval": [1.0, 2.0], "higher_is_better": False, "count": 10}},
    "protocol": PROTOCOLS["adm"].to_dict(),
    "extractor_sha256": "w1",
    "reference": {"name": "photos", "digest": "d1", "count": 12},
    "count": 10,
}


def changed(**parts):
    record = copy.deepcopy(RECORD)
    for path, value in parts.items():
        inside, keys = record, path.split("__")
        for key in keys[:-1]:
            inside = inside[key]
        inside[keys[-1]] = value
    return record


def test_round_trip_and_no_overwriting(tmp_path):
    path = tmp_path / "deep" / "r.json"
    write_results(path, [RECORD])
    assert read_results(path) == [RECORD]
    assert json.loads(path.read_text())["schema"] == 1
    with pytest.raises(InputError, match="exists"):
        write_results(path, [])
    write_results(path, [RECORD, RECORD], replace=True)
    assert len(read_results(path)) == 2
    assert [one.name for one in path.parent.iterdir()] == ["r.json"]


def test_the_same_setting_may_be_compared():
    check_comparable(changed(subject__name="b", metrics={}), RECORD)
    check_comparable(changed(reference__name="moved/photos"), RECORD)
    check_comparable(changed(extractor_sha256=None, reference=None), RECORD)


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ({"protocol": PROTOCOLS["clean"].to_dict()}, "protocols differ, adm v1 and clean v1"),
        ({"protocol__version": 2}, "protocols differ, adm v1 and adm v2"),
        ({"protocol__kid_subset_size": 7}, "protocols differ"),
        ({"extractor_sha256": "w2"}, "weights of the feature extractor differ"),
        ({"reference__digest": "d2"}, "references differ, photos"),
        ({"reference": {"name": "other", "digest": None}}, "references differ"),
        ({"count": 11}, "image counts differ, 10 and 11"),
    ],
)
def test_another_setting_is_refused(difference, words):
    with pytest.raises(InputError, match=words):
        check_comparable(changed(**difference), RECORD)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "nonsense",
        '{"schema": 1, "kind": "bench", "results": []}',
        '{"schema": 99, "kind": "visgen-evaluation", "results": []}',
        '{"schema": 1, "kind": "visgen-evaluation", "results": [{}]}',
        '{"schema": 1, "kind": "visgen-evaluation", "results": 3}',
        "[" * 100_000,
    ],
    ids=range(9),
)
def test_files_that_are_no_results(tmp_path, content):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(InputError, match=r"r\.json"):
        read_results(tmp_path / "r.json")


@pytest.mark.parametrize("part", ["metrics", "protocol", "reference", "count", "subject"])
def test_broken_records(tmp_path, part):
    write_results(tmp_path / "r.json", [changed(**{part: "x"})])
    with pytest.raises(InputError, match="lacks parts"):
        read_results(tmp_path / "r.json")


def test_versions_name_what_decides_a_number():
    assert {"python", "visgen", "torch", "torchmetrics", "torch_fidelity", "numpy"} == set(versions())
    assert versions()["torch"].startswith("2.")
