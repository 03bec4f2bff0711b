"""Words on the command line that mean nothing: verbs, models, devices, numbers, prompts, labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.robustness.conftest import Refused, Run
from visgen.data.images import read_png_metadata

WORDS: list[list[str]] = [
    ["paint", "a red circle"],
    ["Generate", "a red circle"],
    ["", "x"],
    ["--no-such-option"],
    ["--threads", "0", "models"],
    ["--threads", "-3", "models"],
    ["--threads", "1000000000", "models"],
    ["--threads", "two", "models"],
    ["models", "--yaml"],
    ["models", "scenes-var"],
    ["info"],
    ["edit"],
    ["edit", "a.png", "b.png"],
    ["reconstruct"],
    ["train"],
    ["generate"],
    ["generate", "-o"],
    ["generate", "x", "--sed", "3"],
    ["generate", "-x"],
    ["generate", "-o", "one.png", "--", "-x", "--label"],  # two prompts
]

NUMBERS: dict[str, list[str]] = {
    "-n": ["0", "-1", "1.5", "many", "", "1e3", "nan", "99999999999"],
    "--seed": ["text", "1.5", "", "nan", "0x10"],
    "--label": ["cat", "1.5", ""],
    "--guidance-scale": ["nan", "inf", "-inf", "1e308", "big", ""],
    "--temperature": ["0", "-1", "nan", "inf", "1e-300", "hot", ""],
    "--top-k": ["0", "-5", "1.5", "all", "", "nan"],
    "--top-p": ["0", "1.5", "-0.1", "nan", "inf", "half", ""],
    "--dtype": ["int8", "float33", "torch.float32", "", "float32 "],
    "--device": ["abacus", "", "cuda:999", "meta", "cpu:x", "-1", "cuda:0; rm"],
}
MODELS = [
    "",
    " ",
    "no-such-model",
    "scenes-vra",
    "Scenes-Var",
    "scenes-var/",
    "a/b/c",
    "./nowhere",
    "../..",
    "/",
    "/dev/null",
    "/etc/passwd",
    "~nobody-at-all/model",
    "os.system",
    "a\nb",
    "a\0b",
    "🎨",
    "x" * 300,
    "x/" * 3000,
    "somebody/some-model",
    "FoundationVision/var",
]


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_words(refused: Refused, words: list[str]) -> None:
    refused(*words)


@pytest.mark.parametrize(
    ("option", "value"), [(option, value) for option, values in NUMBERS.items() for value in values]
)
def test_values(refused: Refused, option: str, value: str) -> None:
    words = [] if option == "--label" else ["a red circle"]
    line = refused("generate", *words, f"{option}={value}" if option[1] == "-" else option + value)
    assert option in line or option.strip("-").replace("-", "_") in line or "dtype" in line


@pytest.mark.parametrize("name", MODELS, ids=lambda name: name[:20])
def test_models(refused: Refused, name: str) -> None:
    refused("generate", "a red circle", "-m", name)


@pytest.mark.parametrize(
    "words",
    [
        ["--seed", "-1"],
        ["--seed", str(2**70)],
        ["--top-k", str(2**40)],
        ["--top-k", "NONE", "--top-p", "1"],
        ["--top-p", "1e-300"],
        ["--temperature", "1e-6"],
        ["--temperature", "1e30"],
        ["--guidance-scale", "1e6"],
        ["--guidance-scale", "-3"],
        ["--guidance-scale", "0"],
        ["--dtype", "auto"],
        ["--negative", ""],
    ],
    ids=" ".join,
)
def test_values_at_the_edge_are_drawn(run: Run, tmp_path: Path, words: list[str]) -> None:
    result = run("generate", "a red circle", "-o", "out.png", *words)
    assert result.exit_code == 0 and result.stderr == "", result.output
    assert Image.open(tmp_path / "out.png").size == (64, 64)


LONG: dict[str, str] = {
    "10,000 words": "red " * 10_000,
    "25 words": "red " * 25,
    "a megabyte of words": "red " * 2**18,
    "a megabyte in one word": "r" * 2**20,
    "a megabyte of spaces": " " * 2**20,
    "no unicode": "red \udcff circle",
}


@pytest.mark.parametrize("kind", LONG)
@pytest.mark.parametrize("option", ["prompt", "--negative"])
def test_prompts_beyond_the_model(refused: Refused, kind: str, option: str) -> None:
    words = [LONG[kind]] if option == "prompt" else ["a red circle", "--negative", LONG[kind]]
    line = refused("generate", *words, "-o", "out.png")
    assert "prompt" in line and len(line) < 400


PROMPTS: dict[str, tuple[str, int]] = {  # what is typed, and warnings of unknown words
    "empty": ("", 0),
    "spaces": (" \t\n ", 0),
    "punctuation": ("?!…,;", 0),
    "emoji": ("🎨🔴⭕️", 1),
    "control characters": ("a \x1b[31mred\x07 circle", 1),
    "nul": ("a red\0 circle", 1),
    "right to left": ("دائرة حمراء", 1),
    "directional marks": ("a red \u202ecircle\u202c", 1),
    "full width": ("ａ ＲＥＤ circle", 0),
    "special tokens": ("[PAD] [UNK] [pad]", 1),
    "a long word": ("a" * 9_000, 1),
    "quotes": ("'a \"red\" circle'; DROP TABLE", 1),
    "format": ("{0} %s %(x)d ${HOME}", 1),
    "path": ("../../a/red circle", 0),
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_odd_prompts_are_drawn(run: Run, tmp_path: Path, kind: str) -> None:
    prompt, warnings = PROMPTS[kind]
    result = run("generate", prompt)
    lines = result.stderr.splitlines()
    assert result.exit_code == 0, result.output
    assert len(lines) == warnings and all(line.isprintable() and len(line) < 1200 for line in lines)
    (picture,) = tmp_path.iterdir()
    assert Image.open(picture).size == (64, 64)
    assert read_png_metadata(picture)["prompt"] == prompt


def test_a_prompt_that_starts_with_a_dash(run: Run, tmp_path: Path) -> None:
    assert run("generate", "-o", "out.png", "--", "-red circle").exit_code == 0
    assert read_png_metadata(tmp_path / "out.png")["prompt"] == "-red circle"


CONFLICTS: list[tuple[list[str], str]] = [
    (["generate", "x", "--label", "3"], "not both"),
    (["generate", "--label", "3"], "cannot do class-to-image"),
    (["generate", "--label", "3", "--negative", "x"], "classes have none"),
    (["generate", "x", "-n", "2", "-o", "one.png"], "one picture"),
    (["generate", "x", "-m", "{class}"], "cannot do text-to-image"),
    (["generate", "--label", "5", "-m", "{class}"], "label=5"),
    (["generate", "--label=-2", "-m", "{class}"], "label=-2"),
    (["generate", "--label", "99999999999999999999999", "-m", "{class}"], "0 … 4"),
    (["edit", "in.png", "--box", "0,0,1,1", "--prompt", "x", "-m", "{class}"], "classes, not words"),
    (["edit", "in.png", "--box", "0,0,1,1", "--prompt", "red " * 99], "has 99 words"),
    (["edit", "in.png", "--box", "0,0,1,1", "--guidance-scale", "nan"], "guidance_scale"),
    (["edit", "in.png", "--box", "0,0,1,1", "-n", "0"], "-n"),
    (["reconstruct", "in.png", "in.png", "-o", "one.png"], "one picture"),
    (["reconstruct", "in.png", "-m", "no-such-model"], "unknown model"),
]


@pytest.mark.parametrize(("words", "told"), CONFLICTS, ids=lambda value: " ".join(value)[:60])
def test_options_that_exclude_each_other(
    refused: Refused, class_model: Path, tmp_path: Path, words: list[str], told: str
) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "in.png")
    refused(*[word.replace("{class}", str(class_model)) for word in words], told=told)


def test_models_folder_of_the_environment(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for value in ("nowhere", "file", "/dev/null", "~nobody-at-all", "x" * 300):
        monkeypatch.setenv("VISGEN_MODELS", value)
        refused("generate", "a red circle", "-m", "var-d16", told="VISGEN_MODELS")
