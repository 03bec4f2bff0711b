"""Strategies side by side: the rows tell what the pipeline's own stats tell."""

import math
import statistics
from dataclasses import dataclass

import pytest

from tests.evaluation.benchmark.conftest import SAMPLING, raster_pipe, scenes_pipe
from tests.pipelines.conftest import make_generator, make_tokenizer
from visgen.decoding import STRATEGIES
from visgen.decoding.sequential import Sequential
from visgen.errors import InputError
from visgen.evaluation.benchmark.quality import Quality
from visgen.evaluation.benchmark.strategies import StrategyBench
from visgen.evaluation.subjects import ModelSubject
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.pipelines.reconstruct import ReconstructPipeline

IMAGES = 3


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def rows(raster, told):
    names = ("sjd:5", "jacobi")
    return list(StrategyBench(raster, names, IMAGES, positions=True, say=told.append).run())


def test_sequential_is_a_row_of_the_run_and_comes_first(rows):
    assert [row["name"] for row in rows] == ["sequential", "sjd:5", "jacobi"]
    assert rows[0]["speedup"] == 1 and rows[0]["passes"] == 16 and rows[0]["tokens_per_pass"] == 1
    for row in rows:
        assert row["speedup"] == rows[0]["seconds"] / row["seconds"]
        assert row["lossless"] is True and row["adherence"] is None and row["fid"] is None
        assert 0 < row["decoding_seconds"] < row["seconds"] and row["images"] == IMAGES


def test_passes_are_those_of_the_images(rows, raster):
    for row in rows:
        passes = [
            raster(i, seed=0, ordinals=[i], strategy=row["name"]).stats["passes"][0] for i in range(IMAGES)
        ]
        assert row["passes"] == statistics.mean(passes)
        assert row["tokens_per_pass"] == pytest.approx(16 * IMAGES / sum(passes))


def test_positions_count_every_kept_token_once(rows):
    for row in rows[1:]:
        assert len(row["tested"]) == len(row["accepted"]) == 16
        # a token is a draft that was accepted or drawn after a pass; after an image's last pass none may be
        drawn = 16 * IMAGES - sum(row["accepted"])
        assert 0 <= round(row["passes"] * IMAGES) - drawn <= IMAGES
        assert all(
            accepted <= tested for accepted, tested in zip(row["accepted"], row["tested"], strict=True)
        )


def test_positions_only_on_request(raster):
    assert "tested" not in next(StrategyBench(raster, ("sequential",), 1).run())


@dataclass(frozen=True)
class Choosy(Sequential):
    """Runs nothing."""

    def __call__(self, session, law, noise, resources=None):
        raise InputError("drafter=None: choosy needs one")


def test_all_means_those_that_can_run(raster, monkeypatch):
    monkeypatch.setattr(STRATEGIES, "_entries", {"choosy": f"{__name__}:Choosy", **two_strategies()})
    told = []
    rows = list(StrategyBench(raster, ("all", "sjd:4"), 1, say=told.append).run())
    assert [row["name"] for row in rows] == ["sequential", "sjd:4", "sjd"]
    assert any(line.startswith("choosy is left out: drafter=None") for line in told)
    with pytest.raises(InputError, match="choosy needs one"):
        list(StrategyBench(raster, ("choosy",), 1).run())


def two_strategies():
    return {name: STRATEGIES._entries[name] for name in ("sequential", "sjd")}


@pytest.mark.parametrize("name", ["sjdd", "sjd:few", "sequential:4"])
def test_bad_names_are_refused_before_anything_runs(raster, name):
    with pytest.raises(InputError):
        StrategyBench(raster, (name,))


def test_models_without_tokens_in_a_row_are_refused():
    var = ClassToImagePipeline(make_tokenizer(), make_generator(num_classes=5), SAMPLING)
    for pipe in (var, ReconstructPipeline(make_tokenizer())):
        with pytest.raises(InputError, match="next-token"):
            StrategyBench(pipe)


def test_quality_is_that_of_an_evaluation():
    pipe = scenes_pipe()
    quality = Quality(4, "toy", batch_size=2)
    [row, other] = StrategyBench(pipe, ("sjd:4",), 1, quality=quality).run()
    for one in (row, other):
        assert 0 <= one["adherence"] <= 1 and math.isfinite(one["fid"]) and one["quality_images"] == 4
    assert row["fid"] != other["fid"]  # other draws, of the same law
    assert quality(pipe, "sequential")["fid"] == pytest.approx(row["fid"])


def test_quality_needs_a_scenes_model(raster):
    with pytest.raises(InputError, match="--quality-images 4"):
        StrategyBench(raster, quality=Quality(4, "toy"))


def test_a_subject_decodes_under_its_strategy(raster, monkeypatch):
    calls = []
    original = type(raster).__call__
    monkeypatch.setattr(
        type(raster), "__call__", lambda self, *a, **k: calls.append(k) or original(self, *a, **k)
    )
    images = [
        ModelSubject("toy", raster_pipe(), 2, name).generate([0, 1], None, 0) for name in (None, "sjd:3")
    ]
    assert [call.get("strategy") for call in calls] == [None, "sjd:3"]
    assert images[0].shape == images[1].shape and not images[0].equal(images[1])


def test_a_tokenizer_decodes_nothing():
    with pytest.raises(InputError, match="--strategy 'sjd'"):
        ModelSubject("toy", ReconstructPipeline(make_tokenizer()), 2, "sjd")
