"""Tokenizers that choose how many tokens an image gets: errors, counts, and what is asked of them."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from typer.testing import CliRunner

import visgen
from tests.pipelines.tiny_tokenizers import tiny_pipe
from visgen.cli.main import app
from visgen.cli.scores import number
from visgen.data.scenes import Scenes
from visgen.errors import InputError
from visgen.evaluation import judging, run, scores
from visgen.evaluation.metrics import GENERATION, RECONSTRUCTION, parse_metrics
from visgen.evaluation.options import EvaluationOptions
from visgen.evaluation.pairs import l1
from visgen.evaluation.references import open_reference
from visgen.evaluation.run import evaluate
from visgen.evaluation.subjects import ModelSubject, Subject
from visgen.nn.quantizers.codebook import code_counts
from visgen.tokenizers.tokens import ImageTokens, Sequence1D

COUNT = 12
NEW = "l1,l1_p90,within,tokens"


@pytest.fixture(scope="module")
def karl():
    return tiny_pipe("KARLTokenizer")


@pytest.fixture(scope="module")
def folder(karl, tmp_path_factory):
    root = tmp_path_factory.mktemp("karl")
    karl.save_pretrained(root / "model")
    return root / "model"


def options(reference, metrics, **more):
    return EvaluationOptions(reference=str(reference), protocol="toy", metrics=parse_metrics(metrics), **more)


def entries_of(name, asked):
    return evaluate([str(name)], asked)[0]["metrics"]


def direct(pipe, reference, **knobs):
    """Errors (N,) and tokens of the reference's images, computed without the evaluation."""
    real = open_reference(str(reference)).images(range(COUNT), 16)
    made = pipe(list(real), **knobs)
    bytes_made = np.stack([np.asarray(image) for image in made.images]).astype(np.float64)
    errors = np.abs(bytes_made - real.permute(0, 2, 3, 1).numpy()).mean((1, 2, 3)) / 255
    return errors, made.tokens


@pytest.mark.parametrize("knobs", [{"max_error": 0.3}, {"max_error": 0.1, "num_tokens": 5}])
def test_scores_are_those_of_a_direct_computation(karl, folder, pictures, toy, knobs):
    errors, tokens = direct(karl, pictures, **knobs)
    wanted = float(np.sort(errors)[7])  # eight of twelve are not above it
    assert len(set(tokens.lengths.tolist())) > 1
    found = entries_of(folder, options(pictures, f"{NEW},codebook", **knobs))
    values = {name: score["value"] for name, score in found.items()}
    assert values["l1"] == pytest.approx(errors.mean(), rel=1e-12)
    assert values["l1_p90"] == pytest.approx(np.quantile(errors, 0.9), rel=1e-12)
    assert values["within"] == (errors <= knobs["max_error"]).mean()
    assert values["tokens"] == tokens.lengths.double().mean().item()
    assert found["codebook"]["used"] == len(tokens.ids[tokens.mask].unique())
    assert "objects" not in found["tokens"] and all(score["count"] == COUNT for score in found.values())
    judged = torch.from_numpy(errors)
    assert scores.error_scores(Only("within"), Kept(l1=judged), wanted, 0)["within"]["value"] == 8 / 12


class Only:
    """A plan of some metrics."""

    def __init__(self, *names):
        self.names = names

    def wants(self, *names):
        return bool(set(names) & set(self.names))


class Kept:
    """A pass that kept these rows."""

    def __init__(self, **rows):
        self.rows, self.count = rows, len(next(iter(rows.values())))


def test_intervals_hold_the_value_and_nothing_impossible():
    generator = torch.Generator().manual_seed(0)
    errors = torch.rand(40, generator=generator, dtype=torch.float64)
    errors[:38] /= 100
    found = scores.error_scores(Only("l1", "l1_p90", "within"), Kept(l1=errors), 0.2, seed=3)
    for score in found.values():
        low, high = score["interval"]
        assert 0 <= low < score["value"] < high
    assert found["within"]["interval"][1] <= 1 and found["within"]["higher_is_better"]
    all_of_them = scores.error_scores(Only("within"), Kept(l1=errors), 1.0, seed=3)["within"]
    assert all_of_them["value"] == 1 and all_of_them["interval"] == [1, 1]
    counts = torch.randint(1, 9, (40,), generator=generator)
    low, high = scores.tokens_entry(Kept(tokens=counts), None, seed=3)["interval"]
    assert low < counts.double().mean() < high


def test_errors_are_of_bytes_and_exact():
    real = torch.zeros(2, 3, 2, 2, dtype=torch.uint8)
    made = real.clone()
    made[0, :, 0] = 51  # half of the pixels by a fifth
    assert l1(made, real).tolist() == [0.1, 0.0] and l1(real, made).tolist() == [0.1, 0.0]
    assert l1(torch.full_like(real, 255), real).tolist() == [1.0, 1.0]


def test_a_larger_error_takes_other_tokens_and_is_told(karl, folder, pictures, toy):
    asked = [options(pictures, "psnr,tokens", max_error=error) for error in (0.05, 0.4)]
    records = [evaluate([str(folder)], one)[0] for one in asked]
    assert [one["config"]["max_error"] for one in records] == [0.05, 0.4]
    assert records[0]["reconstructions_sha256"] != records[1]["reconstructions_sha256"]
    for record, error in zip(records, (0.05, 0.4), strict=True):
        expected = direct(karl, pictures, max_error=error)[1].lengths.double().mean().item()
        assert record["metrics"]["tokens"]["value"] == expected
    own = evaluate([str(folder)], options(pictures, "tokens"))[0]
    assert own["config"]["max_error"] is None
    fixed = evaluate([str(folder)], options(pictures, "tokens", num_tokens=5))[0]["metrics"]["tokens"]
    assert fixed["value"] == 5 and fixed["interval"] == [5, 5]


def test_what_is_not_asked_for_is_not_computed(folder, pictures, toy, monkeypatch):
    monkeypatch.setattr(judging, "l1", None)  # calling it would be a TypeError
    monkeypatch.setattr(ImageTokens, "lengths", property(lambda tokens: pytest.fail("tokens were counted")))
    assert list(entries_of(folder, options(pictures, "psnr", count=2, max_error=0.2))) == ["psnr"]


def test_batch_size_changes_nothing(folder, pictures, toy):
    found = [
        evaluate([str(folder)], options(pictures, f"{NEW},codebook", max_error=0.2, batch_size=size))[0]
        for size in (32, 5)
    ]
    assert found[0]["metrics"] == found[1]["metrics"]


class Counting(Subject):
    """Knows the first 40 scenes by sight: about five tokens for each object, and a little darker."""

    name, kind, image_size = "counting", "tokenizer", 64

    def __init__(self):
        self.scenes = Scenes("validation", balanced=True).batch(range(40))

    def generate(self, indices, captions, seed):
        raise NotImplementedError

    def reconstruct(self, images):
        seen = [(self.scenes.images == image).flatten(1).all(1).nonzero().item() for image in images]
        mask = torch.arange(64) < torch.tensor([self.count(index) for index in seen])[:, None]
        ids = torch.where(mask, 3, 7)
        return images - images.clamp(max=2), ImageTokens(Sequence1D(64), ids=ids, mask=mask)

    def count(self, index):
        return 5 * len(self.scenes.scenes[index].objects) + 4 * index % 11

    @property
    def codebook_size(self):
        return 8


@pytest.fixture
def counting(monkeypatch):
    monkeypatch.setattr(run, "open_subject", lambda *args: Counting())


def test_tokens_stand_beside_the_number_of_objects(counting, toy):
    found = entries_of("counting", options("scenes:validation", "tokens,codebook", count=40, batch_size=7))
    subject = Counting()
    objects, counts = (
        [len(scene.objects) for scene in subject.scenes.scenes],
        [*map(subject.count, range(40))],
    )
    expected = spearmanr(counts, objects).statistic
    assert found["tokens"]["objects"] == pytest.approx(expected, abs=1e-12) and 0.5 < expected < 1
    assert found["tokens"]["value"] == pytest.approx(np.mean(counts))
    assert found["codebook"]["used"] == 1  # 7 stands only where tokens are switched off


def test_a_fixed_number_of_tokens_goes_with_no_number_of_objects():
    kept = Kept(tokens=torch.full((6,), 8))
    assert scores.tokens_entry(kept, torch.arange(6), 0)["objects"] == 0.0


def test_masked_ids_are_not_counted():
    ids, mask = (
        torch.tensor([[0, 1, 2], [0, 3, 3]]),
        torch.tensor([[True, True, False], [True, False, False]]),
    )
    assert code_counts(judging._present(ids, mask), 4).tolist() == [2, 1, 0, 0]
    assert code_counts(judging._present(ids, None), 4).tolist() == [2, 1, 1, 2]
    pairs_of_codes = ids[..., None].repeat(1, 1, 2)
    assert code_counts(judging._present(pairs_of_codes, mask), 4).tolist() == [4, 2, 0, 0]


def command(*words):
    return CliRunner().invoke(app, ["evaluate", "--protocol", "toy", *map(str, words)], prog_name="visgen")


def test_the_command_shows_and_writes_them(folder, pictures, toy, tmp_path):
    words = (folder, "--reference", pictures, "--max-error", "0.3", "--num-tokens", "6", "--metrics", NEW)
    result = command(*words, "-o", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "r.json").read_text())["results"][0]
    assert (record["config"]["max_error"], record["config"]["num_tokens"]) == (0.3, 6)
    for heading in ("l1 ↓", "l1_p90 ↓", "within ↑", "tokens ↓"):
        assert heading in result.stdout
    for name, score in record["metrics"].items():
        assert number(name, score["value"]) in result.stdout
    assert number("within", record["metrics"]["within"]["value"]).endswith("%")
    assert "number of objects" not in result.stdout


def test_the_command_shows_the_correlation(counting, toy):
    result = command("counting", "--metrics", "tokens", "-n", 40)
    assert result.exit_code == 0, result.output
    assert "tokens of an image" in result.stdout and "number of objects" in result.stdout


def refused(result, words):
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if "warning" not in line]
    assert len(lines) == 1 and words in lines[0], result.stderr


REFUSED = [
    ("KARL", ("--metrics", "within"), "within needs --max-error"),
    ("KARL", ("--max-error", "-1"), "max_error=-1.0 must be 0 or more"),
    ("KARL", ("--max-error", "nan"), "max_error=nan must be 0 or more"),
    ("KARL", ("--max-error", "0.1", "--num-tokens", "9"), "num_tokens=9"),
    ("KARL", ("--max-error", "0.1", "--metrics", "fid"), "only reconstructs; ask for rfid"),
    ("tokenizer", ("--max-error", "0.1"), "max_error=0.1: VARTokenizer does not take it"),
    ("text", ("--max-error", "0.1"), "max_error=0.1: VARTokenizer does not take it"),
    ("PICTURES", ("--max-error", "0.1"), "--max-error 0.1: "),
]


@pytest.mark.parametrize(("name", "words", "told"), REFUSED)
def test_what_cannot_be_is_one_line(name, words, told, folder, models, pictures, toy, monkeypatch):
    for method in ("reconstruct", "generate"):
        monkeypatch.setattr(ModelSubject, method, lambda *args: pytest.fail("something was computed"))
    places = {"KARL": folder, "PICTURES": pictures}
    refused(command(places.get(name, models / name), "--reference", pictures, *words), told)


def test_generation_does_not_go_with_an_error(karl, pictures, toy, monkeypatch):
    """A model that draws into such a tokenizer: the images that it draws do not depend on what is asked."""

    class TextToImagePipeline(type(karl)):
        """The tokenizer posing as a model of text."""

        class generator:
            check_num_tokens = staticmethod(lambda count: None)

    drawer = TextToImagePipeline(karl.tokenizer)
    monkeypatch.setattr(visgen, "load", lambda *args, **more: drawer)
    monkeypatch.setattr("visgen.evaluation.subjects.is_image_folder", lambda name: False)
    with pytest.raises(InputError, match=r"--max-error 0.1 is for reconstructions, and metric fid judges"):
        evaluate(["drawer"], options(pictures, "l1,fid", max_error=0.1))
    found = evaluate(["drawer"], options(pictures, "l1,within", max_error=0.1, count=2))[0]
    assert found["subject"]["kind"] == "text" and list(found["metrics"]) == ["l1", "within"]


def test_help_lists_all_metrics():
    text = " ".join(CliRunner().invoke(app, ["evaluate", "--help"], terminal_width=200).stdout.split())
    assert all(name in text for name in (*GENERATION, *RECONSTRUCTION))
