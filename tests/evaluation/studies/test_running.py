"""Running: a cell once, again when something changed, failed ones reported and retried; what is written."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.evaluation.studies.conftest import run_mapping
from visgen.errors import InputError
from visgen.evaluation import setting
from visgen.evaluation.protocols import PROTOCOLS
from visgen.evaluation.setting import Memory
from visgen.evaluation.studies import keys as keys_module
from visgen.evaluation.studies import running
from visgen.evaluation.studies.cells import cells_of
from visgen.evaluation.studies.folder import DONE, FAILED, StudyFolder
from visgen.evaluation.studies.kept import read_kept
from visgen.evaluation.studies.keys import Keys
from visgen.evaluation.studies.running import each_warning_once, stored
from visgen.evaluation.studies.study import load_study
from visgen.evaluation.studies.table import tables, to_csv
from visgen.evaluation.studies.writing import write_report
from visgen.nn.threads import torch_threads

# Six images in twelve dimensions.
pytestmark = pytest.mark.filterwarnings("ignore:FID of")


@pytest.fixture
def calls(monkeypatch):
    """Names of the models that were evaluated, in order."""
    seen, plain = [], running.evaluate

    def evaluate(names, options, **more):
        seen.extend(name.rsplit("/", 1)[-1] for name in names)
        return plain(names, options, **more)

    monkeypatch.setattr(running, "evaluate", evaluate)
    return seen


def test_a_study_from_end_to_end(finished):
    outcome, lines, place = finished
    assert outcome.ran == [cell.name for cell in outcome.cells] and not outcome.failed
    assert [line.split("]")[0] for line in lines] == ["[1/3", "[2/3", "[3/3"]
    assert " left" not in lines[0] and lines[2].endswith(" left")
    text, _, tokenizer = outcome.records.values()
    assert json.loads((place / "cells" / f"{text['cell']['name']}.json").read_text()) == text
    assert (text["status"], text["count"], len(text["key"])) == (DONE, 6, 64)
    assert list(text["metrics"]) == ["fid", "kid"] and text["metrics"]["fid"]["interval"] is not None
    # the tiny VAR: a pass for each scale and one for the caption
    cost = text["cost"]
    assert cost["seconds_per_image"] > 0 and cost["images_at_once"] == 4 and cost["decoder_steps"] == 0
    assert cost["passes"] == cost["nfe"] > 1 and cost["tokens"] == tokenizer["cost"]["tokens"] > 1
    assert tokenizer["cost"]["passes"] is None
    assert tokenizer["metrics"]["tokens"]["value"] == tokenizer["cost"]["tokens"]


def test_what_is_kept_of_each_image_gives_the_scores(finished):
    outcome, _, place = finished
    text, _, tokenizer = outcome.records.values()
    rows = read_kept(place / text["images"]).rows
    assert rows["features.generated"].shape == (6, 12)
    rows = read_kept(place / tokenizer["images"]).rows
    assert set(rows) == {"features.reconstructed", "psnr", "l1", "tokens"}
    for name in ("psnr", "l1", "tokens"):
        assert rows[name].mean() == pytest.approx(tokenizer["metrics"][name]["value"], rel=1e-5)
    assert text["statistics"] == tokenizer["statistics"]
    assert (place / text["statistics"]).is_file()


def test_samples_are_the_first_images(finished):
    outcome, _, place = finished
    text, classes, tokenizer = outcome.records.values()
    assert text["samples"]["count"] == 2 and len(text["samples"]["subjects"]) == 2
    assert classes["samples"]["subjects"] == ["class 0", "class 1"]
    with Image.open(place / tokenizer["samples"]["originals"]) as originals:
        assert originals.size == (32, 16)
        pixels = np.asarray(originals).astype(float) / 255
    with Image.open(place / tokenizer["samples"]["file"]) as rebuilt:
        error = np.abs(np.asarray(rebuilt).astype(float) / 255 - pixels)
    kept = read_kept(place / tokenizer["images"]).rows["l1"]
    assert [error[:, :16].mean(), error[:, 16:].mean()] == pytest.approx(list(kept[:2]), rel=1e-5)


def test_a_finished_cell_is_not_run_again(finished, rerun, calls):
    again = rerun()
    assert calls == [] and again.lines == [] and again.outcome.ran == []
    assert again.outcome.records == finished.outcome.records


def keys_of(mapping, samples=2, **changes):
    keys = Keys(Memory(), samples)
    return [keys.of(cell) for cell in cells_of(load_study(mapping | changes))]


@pytest.mark.parametrize(
    ("changes", "runs"),
    [
        ({}, 0),
        ({"seed": 1}, 3),
        ({"count": 5}, 3),
        ({"batch_size": 5}, 3),
        ({"samples": 1}, 3),
        ({"metrics": {"generate": ["fid"], "reconstruct": ["rfid", "psnr", "l1", "tokens"]}}, 2),
        ({"prompts": ["a red circle"] * 6}, 2),
        ({"title": "another", "about": "words", "offline": True, "output": "elsewhere"}, 0),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_changes_a_result_changes_the_key(study_mapping, changes, runs):
    before, after = keys_of(study_mapping), keys_of(study_mapping, **changes)
    assert sum(one != other for one, other in zip(before, after, strict=True)) == runs


def test_threads_versions_and_protocol_are_part_of_the_key(study_mapping, monkeypatch, toy):
    before = keys_of(study_mapping)
    with torch_threads(torch.get_num_threads() + 1):
        assert set(keys_of(study_mapping)).isdisjoint(before)
    monkeypatch.setitem(PROTOCOLS, "toy", dataclasses.replace(toy, version=2))
    assert set(keys_of(study_mapping)).isdisjoint(before)
    monkeypatch.setitem(PROTOCOLS, "toy", toy)
    monkeypatch.setattr(keys_module, "versions", lambda packages: {"torch": "3.0"})
    assert set(keys_of(study_mapping)).isdisjoint(before)
    monkeypatch.undo()


def test_a_warning_is_given_once():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with each_warning_once():
            for text in ("few images", "few images", "no wifi", "few images"):
                warnings.warn(text, UserWarning, stacklevel=1)
        warnings.warn("few images", UserWarning, stacklevel=1)
    assert [str(one.message) for one in told] == ["few images", "no wifi", "few images"]


def test_a_new_cell_alone_is_run(study_mapping, rerun, calls):
    blocks = study_mapping["generate"]
    outcome = rerun(generate=[*blocks, {"model": blocks[0]["model"][0], "guidance_scale": 2.0}]).outcome
    assert calls == ["text"] and len(outcome.records) == 4
    text, guided = (r for r in outcome.records.values() if r["cell"]["model"].endswith("text"))
    assert text["key"] != guided["key"] and guided["config"]["sampling"]["guidance_scale"] == 2.0


def test_changed_weights_and_pictures_are_seen(study_mapping, models, pictures, tmp_path):
    for name, source in (("m", models / "text"), ("p", pictures)):
        shutil.copytree(source, tmp_path / name)
    blocks = {"generate": [{"model": str(tmp_path / "m")}], "reconstruct": []}
    mapping = study_mapping | blocks | {"reference": str(tmp_path / "p")}
    seen = [*keys_of(mapping), *keys_of(mapping)]
    Image.new("RGB", (20, 16)).save(tmp_path / "p" / "003.png")
    seen += keys_of(mapping)
    shutil.copytree(models / "class", tmp_path / "m", dirs_exist_ok=True)
    seen += keys_of(mapping)
    assert seen[0] == seen[1] and len(set(seen)) == 3


def test_a_failed_cell_holds_up_no_other_and_is_tried_again(study_mapping, rerun, calls):
    blocks = [{"model": "no-such-model"}, *study_mapping["generate"]]
    outcome, lines, place = rerun(generate=blocks)
    assert [record["status"] for record in outcome.records.values()] == [FAILED, DONE, DONE, DONE]
    (failed,) = outcome.failed
    assert "no-such-model" in failed["reason"] and any("failed: " in line for line in lines)
    assert json.loads((place / "cells/generate-no-such-model.json").read_text()) == failed
    again = run_mapping(study_mapping, generate=blocks).outcome
    assert again.ran == outcome.ran == ["generate-no-such-model"] and len(again.failed) == 1


def test_a_crash_inside_a_cell_is_a_failure_and_then_mended(study_mapping, rerun, monkeypatch):
    plain = running.evaluate

    def broken(names, options, **more):
        raise RuntimeError("out of\nmemory")

    changes = {"generate": [{"model": study_mapping["generate"][0]["model"][0], "top_k": 3}]}
    monkeypatch.setattr(running, "evaluate", broken)
    crashed = rerun(**changes).outcome
    assert [one["reason"] for one in crashed.failed] == ["RuntimeError: out of memory"]
    monkeypatch.setattr(running, "evaluate", plain)
    mended = run_mapping(study_mapping, **changes).outcome
    assert mended.ran == crashed.ran and not mended.failed


def test_an_interrupt_ends_the_run_and_keeps_what_is_finished(study_mapping, rerun, monkeypatch):
    def interrupted(names, options, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rerun(generate=[{"model": study_mapping["generate"][0]["model"], "top_k": 3}])
    names = sorted(path.name for path in (Path(study_mapping["output"]) / "cells").iterdir())
    assert len(names) == 3
    assert run_mapping(study_mapping).outcome.ran == []


def test_the_reference_is_looked_at_once(study_mapping, monkeypatch):
    seen, plain = [], setting.look_at_reference
    monkeypatch.setattr(setting, "look_at_reference", lambda *a: seen.append(a[1:3]) or plain(*a))
    run_mapping(study_mapping, metrics={"generate": ["fid"], "reconstruct": ["rfid"]})
    assert len(seen) == 1


def test_what_is_stored_needs_no_model(study_mapping, finished, monkeypatch):
    shutil.copytree(finished.place, study_mapping["output"])
    monkeypatch.setattr(Keys, "of", None)
    study = load_study(study_mapping)
    with StudyFolder(study.output) as folder:
        assert len(stored(study, folder).records) == 3
        assert stored(load_study(study_mapping | {"seed": 1}), folder).records == {}


def test_images_made_elsewhere_are_a_cell_without_costs(study_mapping, tmp_path):
    (tmp_path / "made").mkdir()
    for i in range(6):
        Image.new("RGB", (16, 16), (40 * i,) * 3).save(tmp_path / "made" / f"{i}.png")
    block = {"model": str(tmp_path / "made"), "name": "elsewhere"}
    outcome, _, place = run_mapping(study_mapping, generate=[block], reconstruct=[])
    (record,) = outcome.records.values()
    assert record["status"] == DONE and set(record["cost"].values()) <= {None, 0}
    assert record["samples"]["subjects"] == []
    with StudyFolder(place) as folder:
        page = write_report(load_study(study_mapping), outcome, folder, "visgen").read_text()
    assert "elsewhere" in page and "s / image" not in page
    Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / "made" / "3.png")
    assert run_mapping(study_mapping, generate=[block], reconstruct=[]).outcome.ran == ["generate-elsewhere"]


def test_folders_of_others_are_left_alone(study_mapping, tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"holds thesis\.tex but no study\.yaml"):
        run_mapping(study_mapping)
    assert [path.name for path in (tmp_path / "study").iterdir()] == ["thesis.tex"]


def test_one_run_at_a_time(study_mapping):
    with StudyFolder(study_mapping["output"]) as folder:
        folder.replace("study.yaml", b"")
        with pytest.raises(InputError, match="another run"):
            run_mapping(study_mapping)


def test_the_csv_has_a_line_for_each_cell(study_mapping, rerun):
    blocks = [*study_mapping["generate"], {"model": "no-such-model", "strategy": "sjd"}]
    outcome = rerun(generate=blocks).outcome
    lines = list(csv.DictReader(io.StringIO(to_csv(outcome))))
    assert [line["status"] for line in lines] == [DONE, DONE, FAILED, DONE]
    assert lines[2]["strategy"] == "sjd" and "no-such-model" in lines[2]["reason"] and lines[2]["fid"] == ""
    first = next(iter(outcome.records.values()))
    assert float(lines[0]["fid"]) == first["metrics"]["fid"]["value"]
    assert float(lines[0]["cost_nfe"]) == first["cost"]["nfe"]
    assert [table.kind for table in tables(outcome)] == ["generate", "reconstruct"]
