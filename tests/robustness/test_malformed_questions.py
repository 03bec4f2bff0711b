"""Questions and pruners on the command line that mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.pipelines.answer_models import tiny_answer_pipeline
from tests.robustness.conftest import Refused

PRUNERS = ["", ":", "+", "uniform:", "uniform:nan", "uniform:inf", "uniform:-1", "uniform:0.0", "uniform:1.5"]
PRUNERS += ["uniform:many", "uniform:4:4", "uniform:4:size=2", "uniform:4+", "Uniform:4", "os.system:1"]
QUESTIONS = ["", " \t", "red \udcff", "who?", "r" * 2**16, "red " * 500, "<image> is the circle red?"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answer") / "tiny"
    tiny_answer_pipeline().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("prune", PRUNERS, ids=lambda text: text[:20])
def test_pruners(refused: Refused, prune: str) -> None:
    refused("ask", "a.png", "what?", f"--prune={prune}")


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda text: text[:20])
def test_questions(refused: Refused, tmp_path: Path, model: Path, question: str) -> None:
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    refused("ask", "a.png", question, "-m", str(model))
