"""What a study may say, which cells it comes to, and what is refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from visgen.errors import InputError
from visgen.evaluation.studies.cells import cells_of, slug
from visgen.evaluation.studies.study import load_study, read_study, study_text

BASE = {"title": "t", "output": "out", "generate": [{"model": "a"}]}
SHIPPED = sorted((Path(__file__).parents[3] / "recipes/studies").glob("*.yaml"))


def study(**changes):
    return load_study(BASE | changes)


def names(**changes):
    return [cell.name for cell in cells_of(study(**changes))]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"titel": "x"}, "unknown key 'titel'"),
        ({"generate": [{"modle": "a"}]}, "unknown key 'generate[0].modle'"),
        ({"generate": [{}]}, "generate[0].model is missing"),
        ({"generate": [{"model": 3}]}, "generate[0].model=3"),
        ({"generate": []}, "no cells"),
        ({"generate": [{"model": "a", "strategy": []}]}, "generate[0].strategy=[] leaves no cell"),
        ({"generate": [{"model": "a", "strategy": "spd"}]}, "spd"),
        ({"generate": [{"model": "a", "steps": 0}]}, "generate[0].steps=0"),
        ({"generate": [{"model": "a", "max_error": 0.1}]}, "unknown key 'generate[0].max_error'"),
        ({"reconstruct": [{"model": "a", "strategy": "sjd"}]}, "unknown key 'reconstruct[0].strategy'"),
        ({"reconstruct": [{"model": "a", "metrics": ["fid"]}]}, "fid judges generated images"),
        ({"metrics": {"reconstruct": ["adherence"]}}, "adherence judges generated images"),
        ({"metrics": {"generate": ["fidd"]}}, "unknown metric 'fidd'"),
        ({"protocol": "scene"}, "unknown protocol 'scene'"),
        ({"reference": "scenes:all"}, "is no split"),
        ({"count": 0}, "count=0"),
        ({"count": "many"}, "count='many'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"threads": 0}, "threads=0"),
        ({"samples": -1}, "samples=-1"),
        ({"seed": []}, "seed=[]"),
        ({"output": " "}, "output=' '"),
        ({"schema": 2}, "schema=2"),
    ],
)
def test_bad_studies_are_refused(changes, told):
    with pytest.raises(InputError) as refused:
        study(**changes)
    assert told in str(refused.value)


def test_cells_are_all_combinations_in_order():
    blocks = [{"model": ["a", "b"], "strategy": [None, "sjd:16"], "guidance_scale": [1, 2.5]}]
    found = cells_of(study(generate=blocks, count=7, seed=3))
    labels = [cell.label for cell in found]
    assert labels[:4] == [
        "a · guidance 1",
        "a · guidance 2.5",
        "a · sjd:16 · guidance 1",
        "a · sjd:16 · guidance 2.5",
    ]
    assert len(found) == 8 and found[3].name == "generate-a-sjd-16-guidance-2.5"
    assert found[3].options.strategy == "sjd:16" and found[3].options.guidance_scale == 2.5
    assert all(cell.options.count == 7 and cell.options.seed == 3 for cell in found)
    assert found[0].parameters == {"guidance_scale": 1.0} and found[0].options.strategy is None


def test_options_of_a_block_reach_its_cells():
    blocks = [{"model": "a", "temperature": 0.9, "top_k": 5, "steps": 4, "count": 9, "metrics": ["is"]}]
    (cell,) = cells_of(study(generate=blocks))
    assert cell.options.sampling == {"num_inference_steps": 4, "temperature": 0.9, "top_k": 5}
    assert cell.options.count == 9 and cell.options.metrics == ("is",)
    rebuilt = cells_of(study(reconstruct=[{"model": "k", "num_tokens": [1, 4], "decode_steps": 2}]))[1:]
    labels = [cell.label.removesuffix(" · 2 decoder steps") for cell in rebuilt]
    assert labels == ["k · 1 token", "k · 4 tokens"]
    assert rebuilt[1].options.num_tokens == 4 and rebuilt[1].options.decoding == {"num_inference_steps": 2}


def test_several_seeds_make_cells_of_their_own():
    assert names(seed=[0, 1]) == ["generate-a-seed-0", "generate-a-seed-1"]
    assert [cell.options.seed for cell in cells_of(study(seed=[4, 5]))] == [4, 5]


def test_prompts_are_for_generated_images(tmp_path):
    (tmp_path / "p.txt").write_text("a dog\na cat\n")
    for prompts in (["a dog", "a cat"], str(tmp_path / "p.txt")):
        drawn, rebuilt = cells_of(study(prompts=prompts, reconstruct=[{"model": "k"}]))
        assert drawn.options.prompts == ("a dog", "a cat") and rebuilt.options.prompts is None


def test_a_cell_stands_once():
    with pytest.raises(InputError, match="'a' and 'A' would have the same name"):
        names(generate=[{"model": "a"}, {"model": ["b", "A"]}])
    assert names(generate=[{"model": "a"}, {"model": "a", "name": "again"}]) == [
        "generate-a",
        "generate-again",
    ]
    with pytest.raises(InputError, match="name='x' is for 2 cells"):
        names(generate=[{"model": ["a", "b"], "name": "x"}])


def test_names_are_good_file_names():
    assert slug("generate ../runs/m ö· sjd:3") == "generate-..-runs-m-sjd-3"
    with pytest.raises(InputError, match="too long"):
        slug("x" * 300)


def test_overrides_and_what_the_folder_keeps(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("# mine\ntitle: t\noutput: o\ngenerate: [{model: a}]\nmetrics: {generate: [is]}\n")
    found, mapping = read_study(path)
    assert study_text(path, mapping, []) == path.read_bytes() and found.count == 500
    found, mapping = read_study(path, ["count=20", "metrics.reconstruct=[psnr]"])
    assert found.count == 20 and found.metrics.reconstruct == ("psnr",) and found.metrics.generate == ("is",)
    (tmp_path / "copy.yaml").write_bytes(study_text(path, mapping, ["count=20"]))
    assert read_study(tmp_path / "copy.yaml")[0] == found


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_studies_are_valid(path):
    found, _ = read_study(path)
    assert len(cells_of(found)) >= 7 and found.protocol == "scenes"
