"""Answers of a tiny LLaVA: alone and in batches, pruned and pooled, saved here and read by transformers."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import visgen
from tests.pipelines.answer_models import TOKENS, pictures, tiny_answer_pipeline
from visgen.errors import InputError, UnknownNameError
from visgen.nn.grid_pooling import pool_grid
from visgen.pipelines.answer import AnswerPipeline
from visgen.pipelines.vision_language import VisionLanguageModel, VisionLanguageSizes
from visgen.pruning.fastv import FastV

QUESTIONS = [
    "what colour is the circle?",
    "is there a red star?",
    "how many objects are there?",
    "where is the red circle relative to the blue star?",
    "what is the background?",
]


@pytest.fixture(scope="module")
def pipe():
    return tiny_answer_pipeline()


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("answer") / "model"
    pipe.save_pretrained(folder, card={"licence": "Apache-2.0"})
    return folder


def test_a_batch_equals_its_single_questions(pipe):
    images = pictures(5)
    together = pipe(images, QUESTIONS, max_new_tokens=4, batch_size=3).answers
    alone = [pipe(i, q, max_new_tokens=4).answers[0] for i, q in zip(images, QUESTIONS, strict=True)]
    assert together == alone
    assert len(set(together)) > 2
    assert pipe(images, QUESTIONS, max_new_tokens=4).answers == together


def test_pictures_of_all_kinds_and_one_for_many(pipe):
    image = pictures(1)[0]
    kinds = [
        image,
        np.asarray(image),
        torch.from_numpy(np.array(image)).permute(2, 0, 1),
        image.convert("RGBA"),
    ]
    assert len(set(pipe(kinds, QUESTIONS[0], max_new_tokens=3).answers)) == 1
    many = pipe(image, QUESTIONS, max_new_tokens=3)
    assert many.answers == pipe([image] * 5, QUESTIONS, max_new_tokens=3).answers
    assert many.settings["max_new_tokens"] == 3
    wide = pipe(Image.new("RGB", (90, 40), "red"), QUESTIONS[0], max_new_tokens=2)
    assert len(wide.answers) == 1


@pytest.mark.parametrize("method", ["uniform", "random", "fastv", "cls", "divprune"])
def test_pruners(pipe, method):
    images = pictures(3)
    whole = pipe(images, QUESTIONS[:3], max_new_tokens=3)
    kept = pipe(images, QUESTIONS[:3], max_new_tokens=3, prune=f"{method}:1.0")
    assert kept.answers == whole.answers
    assert whole.reports == []
    pruned = pipe(images, QUESTIONS[:3], max_new_tokens=3, prune=f"{method}:4", batch_size=2)
    assert [len(row[0]) for report in pruned.reports for row in report.kept] == [4, 4, 4]
    assert all(0.2 < report.flops_ratio < 1 for report in pruned.reports)
    alone = [
        pipe(i, q, max_new_tokens=3, prune=f"{method}:4") for i, q in zip(images, QUESTIONS, strict=False)
    ]
    assert pruned.answers == [one.answers[0] for one in alone]
    assert pipe(images, QUESTIONS[:3], max_new_tokens=3).answers == whole.answers


def test_a_pruner_itself_may_be_given(pipe):
    assert pipe(pictures(1), QUESTIONS[0], prune=FastV(0.25), max_new_tokens=2).reports[0].image_tokens == (
        (16,),
    )


def test_fewer_tokens(pipe):
    images = pictures(2)
    whole = pipe(images, QUESTIONS[:2], max_new_tokens=3).answers
    assert pipe(images, QUESTIONS[:2], max_new_tokens=3, num_tokens=TOKENS).answers == whole
    few = pipe(images, QUESTIONS[:2], max_new_tokens=3, num_tokens=4).answers
    assert few == [
        pipe(i, q, max_new_tokens=3, num_tokens=4).answers[0] for i, q in zip(images, QUESTIONS, strict=False)
    ]
    assert not pipe.vision_language_model.model.model.multi_modal_projector._forward_pre_hooks
    features = torch.arange(16.0).view(1, 16, 1)
    assert pool_grid(features, 4).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert pool_grid(features, 16) is features
    assert torch.equal(pool_grid(torch.ones(2, 9, 3), 4), torch.ones(2, 4, 3))


def test_bad_input_is_told(pipe):
    image = pictures(1)[0]
    for arguments, options, told in (
        ((image, "what about the elephant?"), {}, "does not know: about, elephant; it knows a, above"),
        ((image, " "), {}, "must be a text"),
        ((image, "red \udcff?"), {}, "valid Unicode"),
        ((image, "r" * 2**20), {}, "does not know: r"),
        ((image, "red " * 100), {}, r"have 117 ids: with max_new_tokens=64 that is more than the 96"),
        ((image, []), {}, "1 images and 0 questions"),
        (([image] * 2, QUESTIONS[:3]), {}, "2 images and 3 questions"),
        (([], QUESTIONS[0]), {}, "empty list"),
        ((image, QUESTIONS[0]), {"max_new_tokens": 0}, "max_new_tokens=0"),
        ((image, QUESTIONS[0]), {"num_tokens": 5}, "num_tokens=5 is no square"),
        ((image, QUESTIONS[0]), {"num_tokens": 25}, "num_tokens=25 is above the 16"),
        ((image, QUESTIONS[0]), {"num_tokens": 4, "prune": "uniform:4"}, "give one of them"),
        ((image, QUESTIONS[0]), {"prune": "uniform:0"}, "keep=0"),
    ):
        with pytest.raises(InputError, match=told):
            pipe(*arguments, **options)
    with pytest.raises(UnknownNameError, match="uniform"):
        pipe(image, QUESTIONS[0], prune="unifrom:4")


def test_it_is_saved_and_loaded(pipe, folder):
    loaded = visgen.load(folder)
    assert type(loaded) is AnswerPipeline
    assert loaded.card == {"licence": "Apache-2.0"}
    loaded.set_progress_bar_config(disable=True)
    wanted = pipe(pictures(3), QUESTIONS[:3], max_new_tokens=4).answers
    assert loaded(pictures(3), QUESTIONS[:3], max_new_tokens=4).answers == wanted
    assert visgen.load(folder, "answer", dtype="bf16").dtype == torch.bfloat16
    with pytest.raises(InputError, match="cannot do caption; it can do answer"):
        visgen.load(folder, "caption")


def test_transformers_reads_the_folder_without_us(pipe, folder):
    inside = folder / "vision_language_model"
    model = transformers.LlavaForConditionalGeneration.from_pretrained(inside)
    processor = transformers.AutoProcessor.from_pretrained(inside)
    image, question = pictures(1)[0], QUESTIONS[0]
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    text = processor.apply_chat_template(message, add_generation_prompt=True)
    inputs = processor(images=image, text=text, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    assert (
        processor.batch_decode(ids, skip_special_tokens=True)
        == pipe(image, question, max_new_tokens=4).answers
    )
    assert not [file for file in inside.iterdir() if file.suffix in (".bin", ".pt", ".pkl")]


def test_a_folder_of_transformers_answers(pipe, folder):
    """As a repository of the hub lies here once it is downloaded."""
    loaded = visgen.load(folder / "vision_language_model")
    assert type(loaded) is AnswerPipeline
    assert (
        loaded(pictures(1), QUESTIONS[0], max_new_tokens=2).answers
        == pipe(pictures(1), QUESTIONS[0], max_new_tokens=2).answers
    )


def test_folders_that_cannot_answer(pipe, folder, tmp_path):
    import shutil

    copy = shutil.copytree(folder / "vision_language_model", tmp_path / "copy")
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="no chat template"):
        visgen.load(copy)
    (copy / "processor_config.json").write_text("{")
    with pytest.raises(InputError, match="no readable processor"):
        visgen.load(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no readable AutoModelForImageTextToText"):
        visgen.load(copy)


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"image_size": 30}, "patch_size=8 does not divide image_size=30"),
        ({"num_heads": 3}, "num_heads=3 does not divide hidden_size=128"),
        ({"depth": 0}, "model.depth=0"),
    ],
)
def test_bad_sizes(sizes, told):
    with pytest.raises(InputError, match=told):
        VisionLanguageModel.build(VisionLanguageSizes(**sizes), ["a"])
