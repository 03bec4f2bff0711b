"""Shares and their intervals; the shipped checker on drawn scenes, on damaged ones and on what is none."""

from __future__ import annotations

import pytest
import torch

from visgen.data.scenes import JUDGE, Scenes, sample_scene
from visgen.data.scenes.splits import split_of
from visgen.errors import InputError
from visgen.evaluation.scenes.adherence import evaluate_adherence, share, summarize
from visgen.evaluation.scenes.checker import SceneChecker, load_checker
from visgen.evaluation.scenes.judge import Verdict

RIGHT = Verdict(True, True, True, True, None, True, True)
WRONG = Verdict(False, True, False, True, False, True, True)


@pytest.fixture(scope="module")
def checker() -> SceneChecker:
    return load_checker()


def test_shares_count_what_was_asked() -> None:
    report = summarize([RIGHT, RIGHT, WRONG, RIGHT], ["single", "single", "relation", "pair"])
    assert report.overall.value == 0.75
    assert {k: (s.value, s.count) for k, s in report.kinds.items()} == {
        "single": (1.0, 2),
        "relation": (0.0, 1),
        "pair": (1.0, 1),
    }
    assert report.attributes["shape"].value == 0.75 and report.attributes["colour"].value == 1.0
    assert (report.attributes["relation"].value, report.attributes["relation"].count) == (0.0, 1)
    names = [name for name, _, _ in report.rows()]
    assert len(names) == len(set(names))
    assert report.to_dict()["kinds"]["single"]["count"] == 2


def test_intervals_hold_the_share_and_shrink() -> None:
    few, many = share([True, True, True, False] * 5), share([True, True, True, False] * 500)
    assert few.low < 0.75 < few.high and many.low < 0.75 < many.high
    assert many.high - many.low < (few.high - few.low) / 5
    assert share([True] * 20).low == share([True] * 20).high == 1.0


@pytest.mark.parametrize(
    ("split", "least"), [("validation", 0.98), ("test_pairs", 0.97), ("test_relations", 0.97)]
)
def test_the_shipped_checker_reads_drawn_scenes(checker: SceneChecker, split: str, least: float) -> None:
    batch = Scenes(split, balanced=True).batch(range(160))
    report = evaluate_adherence(batch.images, batch.scenes, checker)
    assert report.overall.value >= least
    assert min(share.value for share in report.kinds.values()) >= 0.95
    assert min(share.value for share in report.attributes.values()) >= 0.98


def test_the_shipped_checker_refuses_pictures_of_something_else(checker: SceneChecker) -> None:
    batch = Scenes("validation", balanced=True).batch(range(60))
    others = batch.scenes[4:] + batch.scenes[:4]  # the same kinds, other scenes
    assert evaluate_adherence(batch.images, others, checker).overall.value <= 0.05
    noise = torch.randint(0, 256, batch.images.shape, generator=torch.Generator().manual_seed(0))
    assert evaluate_adherence(noise.to(torch.uint8), batch.scenes, checker).overall.value == 0


def test_features_do_not_depend_on_the_batch(checker: SceneChecker) -> None:
    images = Scenes("validation").batch(range(40)).images
    together = checker.features(images)
    assert together.shape == (40, 128) and together.dtype == torch.float32
    assert torch.equal(torch.cat([checker.features(images[:7]), checker.features(images[7:])]), together)


@pytest.mark.parametrize("images", [torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)])
def test_other_pictures_are_refused(checker: SceneChecker, images: torch.Tensor) -> None:
    with pytest.raises(InputError, match="no scenes"):
        checker.detect(images)


def test_balanced_scenes_take_turns_and_stay_in_their_split() -> None:
    kinds = [example["scene"].kind for example in Scenes("test_pairs", length=12, balanced=True)]
    assert kinds == ["single", "relation", "pair", "count"] * 3
    assert {e["scene"].kind for e in Scenes("test_relations", length=8, balanced=True)} == {"relation"}
    with pytest.raises(InputError, match="kind='count'"):
        sample_scene("test_relations", 0, "count")


def test_a_judge_learns_held_out_combinations_but_no_validation_scene() -> None:
    splits = {split_of(sample_scene(JUDGE, index).signature) for index in range(400)}
    assert "validation" not in splits and {"train", "test_pairs", "test_relations"} <= splits
