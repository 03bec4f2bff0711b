"""Images of a model in the layouts of official judges: what they hold, and how a stopped job goes on."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import visgen
from visgen.data.images import read_png_metadata
from visgen.errors import InputError
from visgen.evaluation.exports import geneval
from visgen.evaluation.exports import run as exporting
from visgen.evaluation.exports.adm import AdmLayout
from visgen.evaluation.exports.run import ExportOptions, export
from visgen.evaluation.options import EvaluationOptions
from visgen.evaluation.subjects import open_subject
from visgen.pipelines.folder import generate_folder

LINES = [
    {"tag": "single_object", "include": [{"class": "circle", "count": 1}], "prompt": "a red circle"},
    {
        "tag": "position",
        "include": [
            {"class": "square", "count": 1},
            {"class": "circle", "count": 1, "position": ["above", 0]},
        ],
        "exclude": [{"class": "circle", "count": 2}],
        "prompt": "a circle above a square",
    },
]


@pytest.fixture
def metadata(tmp_path):
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


@pytest.fixture
def dpg_prompts(tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "partiprompts7.txt").write_text("a red\ncircle\n")
    (folder / "COCOval3.txt").write_text("a blue square")
    (folder / "README.md").write_text("no prompt")
    return folder


def run(models, kind, layout, folder, prompts=None, per_prompt=None, **options):
    asked = ExportOptions(layout, folder, prompts, per_prompt)
    return export(str(models / kind), asked, EvaluationOptions(batch_size=3, **options))


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def pixels(path):
    return np.asarray(Image.open(path))


def expected(models, folder, rows, count, seed=0, kind="text"):
    """The pictures of `visgen generate --prompts`, (row, j) → pixels."""
    pipe = visgen.load(str(models / kind))
    generate_folder(pipe, rows, folder, num_images=count, seed=seed, batch_size=3)
    return lambda row, j: pixels(folder / f"{row:06d}_{j}.png")


def test_geneval(models, metadata, tmp_path):
    done = run(models, "text", "geneval", tmp_path / "out", metadata, seed=5)
    place = tmp_path / "out" / "geneval"
    assert (done.place, done.total, done.made) == (place, 8, 8) and done.records == ()
    samples = [f"samples/{j:04d}.png" for j in range(4)]
    assert files(place) == [f"{i:05d}/{name}" for i in range(2) for name in ("metadata.jsonl", *samples)]
    same = expected(models, tmp_path / "same", [line["prompt"] for line in LINES], 4, seed=5)
    for i, line in enumerate(LINES):
        assert json.loads((place / f"{i:05d}" / "metadata.jsonl").read_text()) == line
        for j in range(4):
            sample = place / f"{i:05d}" / "samples" / f"{j:04d}.png"
            assert np.array_equal(pixels(sample), same(i, j))
            assert read_png_metadata(sample)["prompt"] == line["prompt"]


def test_an_export_that_was_stopped_goes_on(models, metadata, tmp_path):
    first = run(models, "text", "geneval", tmp_path / "out", metadata, per_prompt=2)
    place = tmp_path / "out"
    before = {name: (place / name).read_bytes() for name in files(place) if name.endswith((".png", "jsonl"))}
    for name in ("images/000001_0.png", "geneval/00001/samples/0000.png", "geneval/00000/metadata.jsonl"):
        os.unlink(place / name)
    again = run(models, "text", "geneval", place, metadata, per_prompt=2)
    assert (first.made, again.made, again.total) == (4, 1, 4)
    assert {name: (place / name).read_bytes() for name in before} == before
    with pytest.raises(InputError, match="another batch: seed is 0 there, 1 here"):
        run(models, "text", "geneval", place, metadata, per_prompt=2, seed=1)
    (place / "geneval/00001/samples/0001.png").unlink()
    (place / "geneval/00001/samples/0001.png").write_bytes(b"mine")
    with pytest.raises(InputError, match="another picture"):
        run(models, "text", "geneval", place, metadata, per_prompt=2)


def test_samples_are_copied_where_links_cannot_be(models, metadata, tmp_path, monkeypatch):
    def fail(*paths):
        raise OSError("no links here")

    monkeypatch.setattr(geneval.os, "link", fail)
    run(models, "text", "geneval", tmp_path / "out", metadata, per_prompt=1)
    sample = tmp_path / "out/geneval/00001/samples/0000.png"
    assert sample.stat().st_nlink == 1
    assert sample.read_bytes() == (tmp_path / "out/images/000001_0.png").read_bytes()


BAD_LINES = {
    "not json": "no JSON object",
    "[1]": "no JSON object",
    '{"tag": "colors", "prompt": "a"}': "line 2: include is missing",
    '{"tag": "colours", "include": [], "prompt": "a"}': "tag='colours' is unknown",
    '{"tag": "colors", "include": [], "prompt": "a"}': "include is empty",
    '{"tag": "colors", "include": {}, "prompt": "a"}': "must be a list",
    '{"tag": "colors", "include": [{"class": "a", "count": 1}], "prompt": " "}': "must be a sentence",
    '{"tag": "colors", "include": [{"class": "a", "count": 1}], "prompt": "a", "id": 1}': "unknown key 'id'",
    '{"tag": "colors", "include": [{"class": "a"}], "prompt": "a"}': r"include\[0\]: count is missing",
    '{"tag": "colors", "include": [{"class": "a", "count": true}], "prompt": "a"}': "1 or more",
    '{"tag": "colors", "include": [{"class": 3, "count": 1}], "prompt": "a"}': "COCO class",
    '{"tag": "colors", "include": [{"class": "a", "count": 1, "color": "teal"}], "prompt": "a"}': "'teal'",
    '{"tag": "colors", "include": [{"class": "a", "count": 1, "position": "up"}], "prompt": "a"}': "left of",
    '{"tag": "colors", "include": [{"class": "a", "count": 1, "position": ["above", 0]}], "prompt": "a"}': (
        "no other object"
    ),
    '{"tag": "colors", "include": [{"class": "a", "count": 1}], "exclude": [{"class": "a", "count": 1, '
    '"color": "red"}], "prompt": "a"}': r"exclude\[0\]: unknown key 'color'",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_metadata_is_checked_line_by_line(line, tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(f"{json.dumps(LINES[0])}\n{line}\n")
    with pytest.raises(InputError, match=BAD_LINES[line]):
        geneval.read_geneval(path)


def test_dpg(models, dpg_prompts, tmp_path):
    done = run(models, "text", "dpg", tmp_path / "out", dpg_prompts)
    assert files(done.place) == ["COCOval3.png", "partiprompts7.png"] and done.total == 8
    same = expected(models, tmp_path / "same", ["a blue square", "a red circle"], 4)
    for row, name in enumerate(("COCOval3", "partiprompts7")):
        grid = pixels(done.place / f"{name}.png")
        assert grid.shape == (32, 32, 3)
        for j, (top, left) in enumerate(((0, 0), (0, 16), (16, 0), (16, 16))):
            assert np.array_equal(grid[top : top + 16, left : left + 16], same(row, j))
    (done.place / "COCOval3.png").unlink()
    (done.place / f".{'0' * 32}.tmp").write_bytes(b"half a picture")  # as a kill leaves it
    assert run(models, "text", "dpg", tmp_path / "out", dpg_prompts).made == 0
    assert np.array_equal(pixels(done.place / "COCOval3.png")[:16, :16], same(0, 0))
    assert files(done.place) == ["COCOval3.png", "partiprompts7.png"]
    Image.new("RGB", (32, 32)).save(done.place / "partiprompts7.png")
    with pytest.raises(InputError, match="another picture"):
        run(models, "text", "dpg", tmp_path / "out", dpg_prompts)


def test_adm_of_classes(models, tmp_path):
    done = run(models, "class", "adm", tmp_path / "out", count=7, seed=2)
    subject = open_subject(str(models / "class"), 3)
    with np.load(done.place, allow_pickle=False) as found:
        assert found["arr_1"].tolist() == [0, 1, 2, 3, 4, 0, 1]
        assert found["arr_0"].shape == (7, 16, 16, 3)
        drawn = subject.generate(range(7), list, 2).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(found["arr_0"], drawn)  # image i is the evaluator's
    done.place.with_name("copy.npz").write_bytes(done.place.read_bytes())
    assert run(models, "class", "adm", tmp_path / "out", count=7, seed=2).made == 0
    np.savez(done.place, arr_0=np.zeros((7, 16, 16, 3), np.uint8))
    with pytest.raises(InputError, match="other images"):
        run(models, "class", "adm", tmp_path / "out", count=7, seed=2)


@pytest.mark.filterwarnings("ignore:FID of")
def test_adm_of_prompts_and_of_captions(models, pictures, tmp_path, toy):
    (tmp_path / "p.txt").write_text("red\nblue\n")
    told = run(models, "text", "adm", tmp_path / "told", tmp_path / "p.txt", per_prompt=2)
    same = expected(models, tmp_path / "same", ["red", "blue"], 2)
    with np.load(told.place, allow_pickle=False) as found:
        assert found.files == ["arr_0"] and np.array_equal(found["arr_0"][3], same(1, 1))
    options = {"reference": str(pictures), "protocol": "toy", "metrics": ("fid",), "count": 4}
    drawn = run(models, "text", "adm", tmp_path / "drawn", **options)
    captions = [(pictures / f"{i:03d}.txt").read_text() for i in range(4)]
    told = [json.loads(line)["prompt"] for line in (tmp_path / "drawn/images/index.jsonl").open()]
    assert told == captions and drawn.records[0]["count"] == 4


@pytest.mark.filterwarnings("ignore:FID of")
def test_an_export_is_scored_as_the_evaluator_scores_the_model(models, pictures, tmp_path, toy):
    from visgen.evaluation.run import evaluate

    options = {
        "reference": str(pictures),
        "protocol": "toy",
        "metrics": ("fid", "is"),
        "count": 10,
        "seed": 4,
    }
    done = run(models, "class", "adm", tmp_path / "out", **options)
    record = evaluate([str(models / "class")], EvaluationOptions(batch_size=3, **options))[0]
    for name in ("metrics", "images_sha256", "subject", "protocol", "reference", "count"):
        assert done.records[0][name] == record[name]
    assert done.records[0]["config"]["sampling"] == record["config"]["sampling"]


@pytest.mark.parametrize(
    ("kind", "layout", "words", "options"),
    [
        ("tokenizer", "adm", "draws nothing", {}),
        ("text", "geneval", "needs --prompts evaluation_metadata.jsonl", {}),
        ("text", "dpg", "needs --prompts FOLDER", {}),
        ("text", "dpg", "grids hold 4", {"per_prompt": 2}),
        ("class", "adm", "draws classes", {"per_prompt": 2}),
        ("text", "adm", "needs --prompts FILE", {"per_prompt": 2}),
        ("text", "adm", "did you mean adm", {}),
    ],
)
def test_what_cannot_be_exported_is_refused(models, tmp_path, kind, layout, words, options):
    with pytest.raises(InputError, match=words):
        run(models, kind, "admm" if words.startswith("did") else layout, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_classes_have_no_prompts(models, metadata, tmp_path):
    with pytest.raises(InputError, match="rows hold prompts"):
        run(models, "class", "geneval", tmp_path / "out", metadata)


def test_another_number_of_images_than_the_prompts_say_is_refused(models, metadata, tmp_path):
    with pytest.raises(InputError, match="-n 5: this export is of 8 images"):
        run(models, "text", "geneval", tmp_path / "out", metadata, count=5)


def test_one_process_fills_the_folder(models, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "Processes", lambda: SimpleNamespace(count=2))
    with pytest.raises(InputError, match="from one process"):
        run(models, "class", "adm", tmp_path / "out", count=2)


def test_a_job_that_was_killed_while_writing_the_array_leaves_nothing(models, tmp_path, monkeypatch):
    def kill(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AdmLayout, "arrange", kill)
        with pytest.raises(KeyboardInterrupt):
            run(models, "class", "adm", tmp_path / "out", count=2)
    (tmp_path / "out" / f".{'0' * 32}.tmp").write_bytes(b"half an array")
    assert run(models, "class", "adm", tmp_path / "out", count=2).made == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix) == [
        ".export.lock",
        "adm.npz",
    ]
