"""Images into shards without Ray: what is in them, stopping and going on, and what is refused."""

import io
import json

import pytest
from PIL import Image

from tests.distributed.conftest import contents
from tests.pipelines.conftest import make_generator, make_tokenizer
from visgen.data.webdataset import list_samples, read_member, write_samples
from visgen.distributed import generation
from visgen.distributed.engines import Engine, do_tasks
from visgen.distributed.generation import generate_shards
from visgen.distributed.models import ModelSource
from visgen.distributed.shard_folder import ShardFolder, cut, key_of, shard_name
from visgen.errors import InputError
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.pipelines.folder import generate_folder
from visgen.pipelines.rows import Row

pytest.importorskip("webdataset")
ROWS = [Row(0), Row(1, seed=9), Row(0), Row(4), Row(-1)]
OPTIONS = {"num_images": 3, "seed": 3, "batch_size": 2, "shard_size": 4}  # 15 images: 4, 4, 4, 3
NAMES = [shard_name(n) for n in range(4)]


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "out"
    generate_shards(model, ROWS, folder, **OPTIONS)
    return folder


def written(path):
    """Which file it is, and when it was last written."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def samples(folder):
    """(key, pixels, facts) of every sample, in order."""
    for name in sorted(path.name for path in folder.glob("*.tar")):
        with (folder / name).open("rb") as file:
            for sample in list_samples(folder / name):
                image = Image.open(io.BytesIO(read_member(file, sample.files["png"])))
                yield sample.key, image.tobytes(), json.loads(read_member(file, sample.files["json"]))


def test_every_image_is_there_and_says_what_it_is(whole):
    found = list(samples(whole))
    assert [key for key, _, _ in found] == [key_of(n) for n in range(15)]
    assert found[4][2] == {"index": 4, "row": 1, "j": 1, "label": 1, "seed": 9, "ordinal": 4}
    index = json.loads((whole / "index.json").read_text())
    assert index["images"] == 15 and [one["shard"] for one in index["shards"]] == NAMES
    assert index["shards"][3] == {
        "shard": "000003.tar",
        "first": 12,
        "images": 3,
        "bytes": (whole / NAMES[3]).stat().st_size,
    }


def test_pictures_are_those_of_the_other_folder(model, whole, tmp_path):
    pipe = ModelSource.of(model, "class-to-image").open("cpu")
    generate_folder(pipe, ROWS, tmp_path, num_images=3, seed=3, batch_size=2)
    pictures = [Image.open(path).tobytes() for path in sorted(tmp_path.glob("*.png"))]
    assert pictures == [pixels for _, pixels, _ in samples(whole)]


def test_the_same_call_again_touches_nothing(model, whole):
    before = {path: written(path) for path in whole.glob("*.*")}
    assert generate_shards(model, ROWS, whole, **OPTIONS).made == 0
    assert {path: written(path) for path in before} == before


@pytest.mark.parametrize("stops", [[0], [4], [4, 12]])
def test_a_stopped_job_goes_on(model, whole, tmp_path, stops):
    def stop(done, total):
        if done >= at:
            raise KeyboardInterrupt

    for at in stops:
        with pytest.raises(KeyboardInterrupt):
            generate_shards(model, ROWS, tmp_path / "out", **OPTIONS, on_progress=stop)
        assert set(contents(tmp_path / "out")) == {"batch.json", *NAMES[: at // 4]}
    result = generate_shards(model, ROWS, tmp_path / "out", **OPTIONS)
    assert (result.total, result.made, result.shards) == (15, 15 - stops[-1], 4)
    assert contents(tmp_path / "out") == contents(whole)


def test_stopped_in_the_middle_of_a_shard(model, whole, tmp_path, monkeypatch):
    def draw_twice(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return draw(*arguments)

    calls, draw = [], generation.draw
    monkeypatch.setattr(generation, "draw", draw_twice)
    with pytest.raises(KeyboardInterrupt):
        generate_shards(model, ROWS, tmp_path / "out", **OPTIONS)
    monkeypatch.setattr(generation, "draw", draw)
    assert set(contents(tmp_path / "out")) == {"batch.json", NAMES[0]}, "half a shard was left"
    assert generate_shards(model, ROWS, tmp_path / "out", **OPTIONS).made == 11
    assert contents(tmp_path / "out") == contents(whole)


def test_what_a_crash_leaves_is_mended(model, whole, tmp_path):
    place = tmp_path / "out"
    generate_shards(model, ROWS, place, **OPTIONS)
    (place / NAMES[0]).write_bytes(b"")
    (place / NAMES[1]).write_bytes((place / NAMES[1]).read_bytes()[:3000])
    (place / NAMES[3]).unlink()
    (place / f".{'f' * 32}.tmp").write_text("half")
    assert generate_shards(model, ROWS, place, **OPTIONS).made == 11
    assert contents(place) == contents(whole)


def test_another_shard_is_not_overwritten(model, whole, tmp_path):
    place = tmp_path / "out"
    generate_shards(model, ROWS, place, **OPTIONS)
    strange = (place / NAMES[0]).read_bytes()
    (place / NAMES[1]).write_bytes(strange)
    with pytest.raises(InputError, match=r"000001\.tar is no shard of this batch"):
        generate_shards(model, ROWS, place, **OPTIONS)
    assert (place / NAMES[1]).read_bytes() == strange


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rows": ROWS[:4]}, "rows is 5 there, 4 here"),
        ({"rows": [*ROWS[:4], Row(2)]}, "other prompts"),
        ({"shard_size": 5}, "shard_size is 4 there, 5 here"),
        ({"batch_size": 3}, "batch_size is 2 there, 3 here"),
        ({"engine": Engine(threads=2)}, "threads is 1 there, 2 here"),
        ({"guidance_scale": 3.0}, "guidance_scale is 1.0 there, 3.0 here"),
        ({"seed": 4}, "seed is 3 there, 4 here"),
        ({"dtype": "bfloat16"}, "dtype is 'float32' there, 'bfloat16' here"),
    ],
)
def test_another_job_is_refused(model, whole, change, told):
    before = contents(whole)
    rows = change.pop("rows", ROWS)
    with pytest.raises(InputError, match=told):
        generate_shards(model, rows, whole, **{**OPTIONS, **change})
    assert contents(whole) == before


def test_other_weights_are_refused(model, whole, tmp_path):
    import torch

    generator = make_generator(num_classes=5)
    with torch.no_grad():
        generator.head.bias[0] += 1e-3
    ClassToImagePipeline(make_tokenizer(), generator).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="holds another batch: model is"):
        generate_shards(str(tmp_path / "other"), ROWS, whole, **OPTIONS)
    digest = json.loads((whole / "batch.json").read_text())["weights"]
    with pytest.raises(InputError, match="other weights than the job"):
        ModelSource.of(str(tmp_path / "other"), "class-to-image").open_same(digest)
    ModelSource.of(model, "class-to-image").open_same(digest)


def test_a_folder_of_pictures_and_one_of_shards_keep_apart(model, whole, tmp_path):
    pipe = ModelSource.of(model, "class-to-image").open("cpu")
    with pytest.raises(InputError, match="holds another batch"):
        generate_folder(pipe, ROWS, whole, num_images=3, seed=3, batch_size=2)
    generate_folder(pipe, ROWS, tmp_path / "png", num_images=3, seed=3, batch_size=2)
    with pytest.raises(InputError, match="holds another batch"):
        generate_shards(model, ROWS, tmp_path / "png", **OPTIONS)


def test_foreign_tars_are_left_alone(model, tmp_path):
    with (tmp_path / NAMES[0]).open("wb") as file:
        write_samples(file, [("mine", {"png": b"x"})])
    with pytest.raises(InputError, match="so no batch made it"):
        generate_shards(model, ROWS, tmp_path, **OPTIONS)


def test_two_jobs_at_once(model, tmp_path):
    with ShardFolder(tmp_path / "out"), pytest.raises(InputError, match="being filled by another run"):
        generate_shards(model, ROWS, tmp_path / "out", **OPTIONS)


def test_a_task_that_was_done_is_not_done_again(model, whole, tmp_path):
    pipe = ModelSource.of(model, "class-to-image").open("cpu")
    job = generation.GenerationJob(str(tmp_path), 3, 2, 3, {"batch_size": 2, "fixed_batch": True})
    worker = generation.GenerationWorker(pipe, job)
    task = {"shard": 1, "first": 4, "end": 8, "first_row": 1, "rows": [[1, 9], [0, None]]}
    worker(task)
    first = written(tmp_path / NAMES[1])
    worker(task)
    assert written(tmp_path / NAMES[1]) == first
    assert (tmp_path / NAMES[1]).read_bytes() == (whole / NAMES[1]).read_bytes()


@pytest.mark.parametrize("total", [1, 7, 8, 9])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_shards_cover_every_image_once(total, size):
    shards = cut(total, size)
    assert [image for shard in shards for image in shard] == list(range(total))
    assert all(len(shard) == size for shard in shards[:-1])


def test_the_caller_keeps_its_threads():
    import torch

    before, seen = torch.get_num_threads(), []

    def worker(task):
        seen.append(torch.get_num_threads())
        return json.dumps(task).encode()

    results = list(do_tasks(lambda: worker, [{"a": 1}, {"a": 2}], Engine(threads=before + 1)))
    assert [json.loads(result) for result in results] == [{"a": 1}, {"a": 2}]
    assert seen == [before + 1] * 2 and torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("options", "told"),
    [({"name": "spark"}, "engine 'spark'"), ({"threads": 0}, "threads=0"), ({"workers": 2}, "one process")],
)
def test_engines_that_are_none(options, told):
    with pytest.raises(InputError, match=told):
        Engine(**options)
