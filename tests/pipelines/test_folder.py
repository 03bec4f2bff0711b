"""Batches into a folder: whole, stopped and resumed, and what is refused. Kills are in tests/robustness."""

import copy
import json
import os
import warnings

import pytest
import torch
from PIL import Image

from tests.pipelines.conftest import make_generator, make_tokenizer, quiet, same
from visgen.data.images import read_png_metadata
from visgen.errors import InputError
from visgen.pipelines import folder as module
from visgen.pipelines.batch_folder import BatchFolder
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.pipelines.folder import generate_folder
from visgen.pipelines.rows import Row

PROMPTS = ["a red circle", "a blue square", "a red circle"]
NAMES = [f"{row:06d}_{j}.png" for row in range(3) for j in range(2)]


def run(pipe, folder, rows=PROMPTS, **options):
    return generate_folder(pipe, rows, folder, **{"num_images": 2, "seed": 3, "batch_size": 4, **options})


def pixels(folder):
    return {path.name: Image.open(path).tobytes() for path in sorted(folder.glob("*.png"))}


def index(folder):
    return [json.loads(line) for line in (folder / "index.jsonl").read_text(encoding="utf-8").splitlines()]


def stop_at(done):
    """A progress function that interrupts once so many images are there."""

    def report(there, total):
        if there >= done:
            raise KeyboardInterrupt

    return report


@pytest.fixture(scope="module")
def whole(text_pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("batches") / "whole"
    run(text_pipe, folder)
    return folder


def test_every_picture_is_there_and_says_what_it_is(text_pipe, whole):
    assert sorted(pixels(whole)) == NAMES
    lines = index(whole)
    assert [line["file"] for line in lines] == NAMES
    assert lines[3] == {
        "row": 1,
        "j": 1,
        "file": "000001_1.png",
        "prompt": "a blue square",
        "seed": 3,
        "ordinal": 3,
        "bytes": (whole / "000001_1.png").stat().st_size,
    }
    told = read_png_metadata(whole / "000001_1.png")
    assert (told["prompt"], told["seed"], told["ordinal"]) == ("a blue square", "3", "3")
    assert json.loads(told["settings"])["sampling"]["guidance_scale"] == 2.0


def test_image_j_of_a_row_is_drawn_from_its_place(text_pipe, whole):
    result = text_pipe(PROMPTS, num_images_per_prompt=2, seed=3, ordinals=range(6))
    assert same(result.images, [Image.open(whole / name) for name in NAMES])


def test_a_row_may_have_its_own_seed(text_pipe, tmp_path):
    run(text_pipe, tmp_path / "out", [Row("a red circle"), Row("a blue square", seed=9)])
    result = text_pipe(["a blue square"] * 2, seed=9, ordinals=[2, 3])
    made = [Image.open(tmp_path / "out" / f"000001_{j}.png") for j in range(2)]
    assert same(result.images, made)
    assert [line["seed"] for line in index(tmp_path / "out")] == [3, 3, 9, 9]


def test_labels(class_pipe, tmp_path):
    assert run(class_pipe, tmp_path / "out", [4, -1]).total == 4
    result = class_pipe([4, -1], num_images_per_prompt=2, seed=3, ordinals=range(4))
    assert same(result.images, [Image.open(path) for path in sorted((tmp_path / "out").glob("*.png"))])
    assert [line["label"] for line in index(tmp_path / "out")] == [4, 4, -1, -1]


@pytest.mark.parametrize("stops", [[0], [2], [2, 4], [0, 2, 4]])
def test_a_stopped_run_goes_on(text_pipe, whole, tmp_path, stops):
    folder, before = tmp_path / "out", {}
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            run(text_pipe, folder, batch_size=2, on_progress=stop_at(stop))
        assert sorted(pixels(folder)) == NAMES[:stop] == [line["file"] for line in index(folder)]
        before = {name: (folder / name).stat() for name in NAMES[:stop]}
    told = []
    result = run(text_pipe, folder, batch_size=3, on_progress=lambda *seen: told.append(seen))
    assert (result.total, result.made) == (6, 6 - stops[-1])
    assert told[0] == (stops[-1], 6) and told[-1] == (6, 6)
    assert pixels(folder) == pixels(whole) and index(folder) == index(whole)
    assert {name: (folder / name).stat() for name in before} == before, "a finished picture was touched"


def test_stopped_in_the_middle_of_writing(text_pipe, whole, tmp_path, monkeypatch):
    written = []

    def write(image, path, metadata):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        write_png(image, path, metadata)

    write_png = module.write_png
    monkeypatch.setattr(module, "write_png", write)
    with pytest.raises(KeyboardInterrupt):
        run(text_pipe, tmp_path / "out")
    monkeypatch.setattr(module, "write_png", write_png)
    assert index(tmp_path / "out") == [] and len(pixels(tmp_path / "out")) == 3
    assert run(text_pipe, tmp_path / "out").made == 3
    assert pixels(tmp_path / "out") == pixels(whole) and index(tmp_path / "out") == index(whole)


def test_a_finished_batch_stays_as_it_is(text_pipe, tmp_path):
    run(text_pipe, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert run(text_pipe, tmp_path / "out").made == 0
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_what_a_crash_leaves_is_mended(text_pipe, whole, tmp_path):
    folder = tmp_path / "out"
    run(text_pipe, folder)
    (folder / NAMES[0]).write_bytes(b"")
    (folder / NAMES[1]).write_bytes((folder / NAMES[1]).read_bytes()[:-20])
    (folder / NAMES[4]).unlink()
    with (folder / "index.jsonl").open("a") as file:
        file.write('{"row": 2, "fi')
    ours = [f".{'0123456789abcdef' * 2}.tmp", f".{'f' * 32}.tmp"]
    theirs = ["notes.tmp", f".other.png.{'0' * 32}.tmp", f".{NAMES[4]}.tmp"]
    for name in [*ours, *theirs]:
        (folder / name).write_text("half")
    assert run(text_pipe, folder).made == 3
    assert pixels(folder) == pixels(whole) and index(folder) == index(whole)
    assert not any((folder / name).exists() for name in ours)
    assert all((folder / name).read_text() == "half" for name in theirs)


def test_batches_are_cut_as_they_were(text_pipe, whole, tmp_path, monkeypatch):
    def call(self, prompts, **options):
        calls.append(options["ordinals"])
        return original(self, prompts, **options)

    calls, original = [], type(text_pipe).__call__
    monkeypatch.setattr(type(text_pipe), "__call__", call)
    for lost in ([], NAMES[1:2], NAMES[3:5]):
        for name in lost:
            (tmp_path / "out" / name).unlink()
        assert run(text_pipe, tmp_path / "out").made == len(lost or NAMES)
    assert calls == [[0, 1, 2, 3], [4, 5], [0, 1, 2, 3], [0, 1, 2, 3], [4, 5]]
    assert pixels(tmp_path / "out") == pixels(whole)


def test_an_absent_seed_is_drawn_once(text_pipe, tmp_path):
    seeds = [run(text_pipe, tmp_path / name, seed=None).seed for name in ("a", "a", "b")]
    assert seeds[0] == seeds[1] != seeds[2]
    assert {line["seed"] for line in index(tmp_path / "a")} == {seeds[0]}
    assert run(text_pipe, tmp_path / "a", seed=seeds[0]).made == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rows": [*PROMPTS[:2], "a red square"]}, "other prompts"),
        ({"rows": PROMPTS[:2]}, "rows is 3 there, 2 here"),
        ({"rows": [*PROMPTS[:2], Row(PROMPTS[2], seed=4)]}, "other prompts"),
        ({"num_images": 1}, "num_images is 2 there, 1 here"),
        ({"seed": 4}, "seed is 3 there, 4 here"),
        ({"top_k": 5}, "top_k is 16 there, 5 here"),
        ({"guidance_scale": 3.0}, "guidance_scale is 2.0 there, 3.0 here"),
        ({"negative_prompt": "blue"}, "negative_prompt is None there, 'blue' here"),
    ],
)
def test_another_batch_is_refused(text_pipe, whole, change, told):
    before = {path: path.read_bytes() for path in whole.iterdir()}
    with pytest.raises(InputError, match=told):
        run(text_pipe, whole, **change)
    assert {path: path.read_bytes() for path in whole.iterdir()} == before


def test_other_weights_are_refused_and_another_name_is_not(text_pipe, whole):
    renamed = type(text_pipe).from_pipe(text_pipe)
    renamed.register_to_config(_name_or_path="elsewhere/model")
    assert run(renamed, whole).made == 0
    generator = copy.deepcopy(text_pipe.generator)
    with torch.no_grad():
        generator.head.bias[0] += 1e-3
    trained = type(text_pipe).from_pipe(text_pipe, generator=generator)
    with pytest.raises(InputError, match="other weights"):
        run(trained, whole)


def test_below_float32_the_batch_shape_is_fixed(tmp_path):
    pipe = quiet(ClassToImagePipeline(make_tokenizer(), make_generator(num_classes=5))).to(torch.bfloat16)
    run(pipe, tmp_path / "whole", [0, 1, 2])
    with pytest.raises(KeyboardInterrupt):
        run(pipe, tmp_path / "parts", [0, 1, 2], on_progress=stop_at(4))
    with pytest.raises(InputError, match="batch_size is 4 there, 2 here"):
        run(pipe, tmp_path / "parts", [0, 1, 2], batch_size=2)
    assert run(pipe, tmp_path / "parts", [0, 1, 2]).made == 2
    assert pixels(tmp_path / "whole") == pixels(tmp_path / "parts")


def test_two_runs_at_once(text_pipe, tmp_path):
    with BatchFolder(tmp_path / "out"), pytest.raises(InputError, match="being filled by another run"):
        run(text_pipe, tmp_path / "out")
    assert run(text_pipe, tmp_path / "out").made == 6


def test_pictures_of_no_batch_are_left_alone(text_pipe, tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / NAMES[0])
    with pytest.raises(InputError, match="so no batch made it"):
        run(text_pipe, tmp_path)
    assert os.listdir(tmp_path) == [NAMES[0]]


def test_a_foreign_picture_is_not_overwritten(text_pipe, tmp_path):
    run(text_pipe, tmp_path / "out")
    strange = (tmp_path / "out" / NAMES[0]).read_bytes()
    (tmp_path / "out" / NAMES[1]).write_bytes(strange)
    with pytest.raises(InputError, match=r"000000_1\.png is another picture: its ordinal is '0', not '1'"):
        run(text_pipe, tmp_path / "out")
    assert (tmp_path / "out" / NAMES[1]).read_bytes() == strange


@pytest.mark.parametrize("text", ["half a rec", "[]", '{"schema": 2}', ""])
def test_a_record_of_something_else(text_pipe, tmp_path, text):
    (tmp_path / "batch.json").write_text(text)
    with pytest.raises(InputError, match=r"batch\.json is no"):
        run(text_pipe, tmp_path)
    assert (tmp_path / "batch.json").read_text() == text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rows": []}, "rows="),
        ({"rows": "a red circle"}, "rows="),
        ({"rows": [1.5]}, r"rows\[0\]: 1.5"),
        ({"rows": ["a", 3]}, r"rows\[1\]: a label where rows\[0\] has a prompt"),
        ({"rows": [3]}, "rows hold labels, but TextToImagePipeline takes prompts"),
        ({"rows": ["a", "a red circle a red circle a"]}, "7 words"),
        ({"negative_prompt": "a red circle a red circle a"}, "7 words"),
        ({"num_images": 0}, "num_images=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"seed": "7"}, "seed='7'"),
        ({"top_k": 0}, "top_k"),
        ({"steps": 4}, "steps=4"),
    ],
)
def test_bad_arguments_write_nothing(text_pipe, tmp_path, options, told):
    with pytest.raises(InputError, match=told):
        run(text_pipe, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "told"), [({"rows": [5]}, "label=5"), ({"rows": [1], "negative_prompt": "a"}, "for prompts")]
)
def test_bad_arguments_of_a_class_model(class_pipe, tmp_path, options, told):
    with pytest.raises(InputError, match=told):
        run(class_pipe, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_another_kind_of_pipeline_is_refused(edit_pipe, tmp_path):
    with pytest.raises(InputError, match="pipe is a EditPipeline"):
        run(edit_pipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_folder_can_be_there(text_pipe, tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="cannot be used"):
            run(text_pipe, place)
    assert (tmp_path / "file").read_text() == "mine"


def test_prompts_of_any_text(text_pipe, tmp_path):
    rows = ["", "ein Kreis – rot", "🔴\n\r\t x", "a\x00b", "ÿ\x80"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = [run(text_pipe, tmp_path / "out", rows, num_images=1).made for _ in range(2)]
    assert made == [5, 0]
    assert [line["prompt"] for line in index(tmp_path / "out")] == rows


def test_unknown_words_are_told_once(text_pipe, tmp_path):
    rows = ["a red dog", "a cat", "a red dog"]
    with pytest.warns(UserWarning) as caught:
        run(text_pipe, tmp_path / "out", rows, batch_size=1)
    assert len(caught) == 1 and "'dog', 'cat'" in str(caught[0].message)
