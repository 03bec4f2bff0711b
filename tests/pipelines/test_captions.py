"""Caption cleaning: the official pairs, and one case per kind of rubbish."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from visgen.pipelines import captions
from visgen.pipelines.captions import clean_caption

META = json.loads((Path(__file__).parents[1] / "golden/llamagen/meta.json").read_text())


@pytest.mark.parametrize("pair", META["captions"], ids=lambda pair: pair["raw"][:20])
def test_official_pairs(pair):
    assert clean_caption(pair["raw"]) == pair["clean"]


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("A+cat%20on+a mat", "a cat on a mat"),
        ("see http://example.org/pictures today", "see today"),
        ("<b>Bold</b> <!-- hidden --> caf&eacute;", "bold café"),
        ("photo by @some_one", "photo by"),
        ("a \N{EN DASH} b", "a - b"),
        ("one...two", "one two"),
        ("a \N{REGISTERED SIGN} brand", "a brand"),
        ("IMG 1234567", "img"),
        ("ab123 and ab12cd and 12ab34", "and and"),
        ("size 10x20", "size"),
        ("free shipping", ""),
        ("click for details", ""),
        ("red,green", "red, green"),
        ("a : b", "a: b"),
        ("'quoted'", "quoted"),
        (".hidden", ""),
        ("a-b-c", "a-b-c"),
        ("a-b-c-d-e", "a b c d e"),
        ("2 < 3 cats", "2 < 3 cats"),
    ],
)
def test_single_rules(raw, clean):
    assert clean_caption(raw) == clean


def test_clean_captions_stay_as_they_are():
    plain = "a red circle above a blue square, on green"
    assert clean_caption(plain) == plain == clean_caption(clean_caption(plain))


def test_ftfy_repairs_where_it_is_there(monkeypatch):
    monkeypatch.setattr(captions, "find_spec", lambda name: name == "ftfy")
    monkeypatch.setitem(sys.modules, "ftfy", SimpleNamespace(fix_text=lambda text: text.replace("ã", "ae")))
    assert clean_caption("Cafã noir") == "cafae noir"
    monkeypatch.setattr(captions, "find_spec", lambda name: None)
    assert clean_caption("Cafã noir") == "cafã noir"
