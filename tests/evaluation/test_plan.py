"""What an evaluation comes to, and what is refused before anything is computed."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from visgen.errors import InputError, UnknownNameError
from visgen.evaluation.metrics import METRICS, parse_metrics
from visgen.evaluation.options import EvaluationOptions, read_prompts
from visgen.evaluation.plan import DEFAULT_COUNT, make_plan
from visgen.evaluation.protocols import PROTOCOLS, get_protocol
from visgen.evaluation.references import open_reference

SCENES = ("fid", "kid", "precision", "recall")


def subject(kind, length=None, codes=8):
    return SimpleNamespace(kind=kind, name="it", length=length, codebook_size=codes, image_size=64)


def plan(kind, reference="scenes:validation", length=None, codes=8, **options):
    if isinstance(options.get("metrics"), str):
        options["metrics"] = parse_metrics(options["metrics"])
    options = EvaluationOptions(reference=str(reference), **options)
    found = open_reference(options.reference_name)
    return make_plan(options, options.resolve_protocol(), found, subject(kind, length, codes))


@pytest.fixture
def npz(tmp_path):
    np.savez(tmp_path / "r.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    return tmp_path / "r.npz"


def test_defaults(pictures, npz):
    assert EvaluationOptions().reference_name == "scenes:validation"
    assert EvaluationOptions().resolve_protocol() is PROTOCOLS["scenes"]
    assert EvaluationOptions(reference="photos").resolve_protocol() is PROTOCOLS["adm"]
    assert plan("text").metrics == (*SCENES, "adherence") and plan("text").count == DEFAULT_COUNT
    assert plan("folder", length=37).metrics == SCENES and plan("folder", length=37).count == 37
    assert plan("tokenizer").metrics == ("rfid", "psnr", "ssim", "codebook")
    assert plan("class", pictures).metrics == SCENES
    assert plan("class", npz).metrics == ("fid",)


def test_the_number_of_images_ends_where_captions_prompts_or_pairs_do(pictures):
    assert plan("text", pictures).count == 12
    assert plan("text", pictures, prompts=("a", "b"), metrics="fid").count == 2
    assert plan("class", pictures).count == DEFAULT_COUNT
    assert plan("class", pictures, metrics="fid,rfid").count == 12
    assert plan("folder", pictures, length=5000).count == 5000


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("text", {"reference": "folder", "count": 13}, "are 12; use at most"),
        ("text", {"prompts": ("a",), "count": 2}, "--prompts are 1"),
        ("folder", {"length": 5, "count": 6}, "are 5"),
        ("class", {"reference": "folder", "metrics": "psnr", "count": 13}, "are 12"),
        ("class", {}, "draws classes"),
        ("class", {"reference": "npz", "metrics": "fid,kid"}, "kid needs the reference's images"),
        ("class", {"reference": "npz", "metrics": "rfid"}, "rfid needs the reference's images"),
        ("class", {"reference": "folder", "metrics": "adherence"}, "scenes:validation"),
        ("class", {"reference": "folder", "prompts": ("a",)}, "--prompts"),
        ("text", {"metrics": "is"}, "protocol scenes does not have; use adm"),
        ("text", {"metrics": "lpips"}, "--lpips-weights"),
        ("text", {"metrics": "fid", "count": 1}, "needs 2"),
        ("text", {"metrics": "kid", "count": 3}, "needs 4"),
        ("text", {"prompts": ("a",) * 9, "metrics": "adherence"}, "leave --prompts out"),
        ("tokenizer", {"metrics": "fid"}, "only reconstructs"),
        ("tokenizer", {"metrics": "codebook", "codes": None}, "no codebook"),
        ("tokenizer", {"metrics": "fid"}, "rfid, psnr, .*l1.* or tokens"),
        ("folder", {"length": 9, "metrics": "psnr"}, "need a model"),
        ("folder", {"length": 9, "metrics": "l1,tokens"}, "codebook, .*l1.* and tokens need a model"),
        ("tokenizer", {"metrics": "l1,within"}, "within needs --max-error"),
        ("class", {"reference": "npz", "metrics": "tokens"}, "tokens needs the reference's images"),
        ("text", {"max_error": 0.1}, "--max-error 0.1 is for reconstructions, and metric fid judges"),
        ("text", {"max_error": 0.1, "metrics": "l1,adherence"}, "metric adherence judges generated images"),
    ],
)
def test_what_cannot_be_is_refused(kind, options, words, pictures, npz):
    places = {"folder": pictures, "npz": npz}
    reference = options.pop("reference", None) if "reference" in options else None
    options = dict(options)
    with pytest.raises(InputError, match=words):
        plan(kind, places.get(reference, "scenes:validation"), **options)


def test_metrics_and_protocols_by_name():
    assert parse_metrics(" FID, kid,fid ") == ("fid", "kid")
    with pytest.raises(UnknownNameError, match="rfid"):
        parse_metrics("rfidd")
    with pytest.raises(InputError, match="psnr"):
        parse_metrics(" , ")
    with pytest.raises(UnknownNameError, match="adm"):
        get_protocol("amd")
    assert {name for name, metric in METRICS.items() if not metric.higher_is_better} == {
        *("fid", "kid", "rfid", "lpips", "l1", "l1_p90", "tokens", "fd_dinov2", "cmmd")
    }


def test_protocols_differ_where_numbers_do():
    adm, clean = PROTOCOLS["adm"].to_dict(), PROTOCOLS["clean"].to_dict()
    assert {key for key in adm if adm[key] != clean[key]} == {"name", "resize"}
    assert all(protocol.version >= 1 and "255" in protocol.rounding for protocol in PROTOCOLS.values())


def test_prompts_of_a_file(tmp_path):
    (tmp_path / "p.txt").write_text("a red circle\n\na blue square\n")
    assert read_prompts(tmp_path / "p.txt") == ("a red circle", "a blue square")
    for name, line in (("label", '{"label": 3}'), ("seed", '{"prompt": "a", "seed": 3}')):
        path = Path(tmp_path / f"{name}.jsonl")
        path.write_text(line)
        with pytest.raises(InputError, match="row 0"):
            read_prompts(path)
