"""The verbs and their options are a promise: taking one away must be meant."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from typer.main import get_command
from typer.testing import Result

import visgen
from visgen.cli.main import app

COMMON = {"--model", "-m", "--dtype", "--device", "--offline", "--output", "-o", "--help", "-h"}
TOKENIZER, FROM_NOISE = {"-t", "--tokenizer"}, {"--seed", "--decode-steps", "--decode-guidance"}
OPTIONS = {
    "generate": {
        "--num-images",
        "-n",
        "--label",
        "--negative",
        "--seed",
        "--guidance-scale",
        "--top-k",
        "--top-p",
    }
    | {"--temperature", "--strategy", "--grid", "--progressive", "--prompts", "--batch-size"}
    | {"--num-tokens", "--decode-steps", "--decode-guidance", "--steps", "--solver"}
    | {"--engine", "--workers", "--shard-size"}
    | COMMON,
    "edit": {"--box", "--mask", "--invert", "--paste", "--prompt", "--label", "--num-images", "-n", "--seed"}
    | {"--guidance-scale", "--strategy"}
    | COMMON,
    "reconstruct": {"--tile", "--progressive", "--num-tokens", "--max-error"}
    | FROM_NOISE
    | TOKENIZER
    | COMMON,
    "tokenize": {"--num-tokens", "--max-error", "--batch-size", "--shard-size", "--engine", "--workers"}
    | TOKENIZER
    | COMMON,
    "detokenize": FROM_NOISE | TOKENIZER | COMMON,
    "inspect": FROM_NOISE | TOKENIZER | COMMON,
    "caption": {"--question", "--seed", "--temperature", "--top-k", "--top-p", "--max-tokens", "--batch-size"}
    | (COMMON - {"--output", "-o"}),
    "ask": {"--prune", "--num-tokens", "--max-tokens", "--json", "--batch-size"}
    | (COMMON - {"--output", "-o"}),
    "prune": {"--prune", "--question"} | COMMON,
    "evaluate": {"--prune"}
    | {"--reference", "--protocol", "--metrics", "--num-images", "-n", "--seed", "--output", "-o"}
    | {"--prompts", "--batch-size", "--strategy", "--dtype", "--device", "--offline", "--save-statistics"}
    | {"--num-tokens", "--max-error", "--decode-steps", "--decode-guidance"}
    | {"--steps", "--solver", "--guidance-scale", "--export", "--images-per-prompt", "--feature-model"}
    | {"--inception-weights", "--lpips-weights", "--lpips-linear", "--help", "-h"},
    "statistics": {"--protocol", "--image-size", "--batch-size", "--engine", "--workers"}
    | {"--inception-weights", "--device", "--offline", "--output", "-o", "--help", "-h"},
    "bench": {"--help", "-h"},  # its own verbs: tests/cli/test_bench.py
    "compare": {"--output", "-o", "--run", "--diff", "--json", "--help", "-h"},
    "models": {"--json", "--help", "-h"},
    "train": {"--fresh", "--help", "-h"},
    "info": {"--help", "-h"},
}
ARGUMENTS = {
    "generate": "PROMPT…",
    "edit": "IMAGE",
    "reconstruct": "IMAGE…",
    "caption": "IMAGE…",
    "ask": "IMAGE…",
    "prune": "IMAGE",
    "tokenize": "IMAGE|FOLDER|TARS",
    "statistics": "FOLDER|TARS",
    "detokenize": "FILE|FOLDER",
    "inspect": "IMAGE",
    "evaluate": "MODEL|FOLDER|RESULT.json…",
    "compare": "STUDY.yaml [KEY=VALUE …]",
    "train": "RECIPE",
    "info": "IMAGE.png…",
}


def options_of(verb: str) -> set[str]:
    command = get_command(app).commands[verb]
    parameters = [p for p in command.params if p.param_type_name == "option"]
    return {name for p in parameters for name in p.opts} | {"--help", "-h"}


def test_the_verbs() -> None:
    assert set(get_command(app).commands) == set(OPTIONS)


@pytest.mark.parametrize("verb", OPTIONS)
def test_the_options_of_a_verb(verb: str) -> None:
    assert options_of(verb) == OPTIONS[verb]


@pytest.mark.parametrize("verb", OPTIONS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_of_a_verb(run: Callable[..., Result], verb: str, flag: str) -> None:
    result = run(verb, flag)
    assert result.exit_code == 0
    assert f"Usage: visgen {verb}" in result.stdout
    assert ARGUMENTS.get(verb, "") in result.stdout


def test_help_lists_every_verb(run: Callable[..., Result]) -> None:
    text = run("--help").stdout
    assert all(verb in text for verb in OPTIONS)


def test_version(run: Callable[..., Result]) -> None:
    assert run("--version").stdout == f"visgen {visgen.__version__}\n"


def test_no_verb_shows_help(run: Callable[..., Result]) -> None:
    result = run()
    assert result.exit_code == 2
    assert "Usage: visgen" in result.output
