"""Conversations of texts and images with a tiny model, and its drawings as a text-to-image model."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import visgen
from tests.pipelines.seed_models import (
    CODES,
    LENGTH,
    tiny_language_model,
    tiny_pipeline,
    tiny_renderer,
    tiny_tokenizer,
)
from visgen.data.images import to_pil
from visgen.data.scenes import Scenes
from visgen.errors import InputError
from visgen.evaluation.subjects import open_subject
from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling
from visgen.pipelines.interleaved import InterleavedPipeline, Message
from visgen.pipelines.interleaved_spans import AnswerPlan, SpanState, write_answers
from visgen.pipelines.language_models import LanguageSettings, SeedLlama
from visgen.pipelines.text_to_image import TextToImagePipeline
from visgen.tokenizers.tokens import ImageTokens, Sequence1D

PIPE = tiny_pipeline()


def pictures(count: int = 2) -> list[Image.Image]:
    return to_pil(Scenes("validation").batch(range(count)).images.float() / 127.5 - 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tiny-seed")
    PIPE.save_pretrained(place, card={"licence": "none"})
    return place


def test_texts_and_images_come_out() -> None:
    made = [PIPE(["describe", pictures(1)[0]], seed=seed, max_new_tokens=60) for seed in range(8)]
    images = PIPE.language_model.vocabulary.images
    for one in made:
        spans = one.ids.count(images.begin)
        assert not one.errors
        assert one.ids.count(images.end) == spans == sum(not isinstance(part, str) for part in one.parts)
        assert (one.images is None) == (spans == 0)
        assert one.text.count("<image>") == spans
    assert any(one.images is not None for one in made)
    assert {part.size for one in made for part in one.parts if not isinstance(part, str)} <= {(64, 64)}


def test_text_alone_holds_no_image() -> None:
    images = PIPE.language_model.vocabulary.images
    forbidden = {images.begin, images.end, *range(images.first_code, images.first_code + CODES)}
    for seed in range(6):
        made = PIPE(["describe"], seed=seed, output="text", max_new_tokens=40)
        assert not forbidden & set(made.ids)
        assert all(isinstance(part, str) for part in made.parts)


def test_a_forced_image_is_one_whole_image() -> None:
    made = PIPE(["a red circle"], seed=1, output="image")
    assert len(made.ids) == LENGTH + 2
    assert made.images.ids.shape == (1, LENGTH)
    assert [type(part).__name__ for part in made.parts] == ["Image"]


def test_an_image_that_would_not_fit_is_not_begun() -> None:
    begin = PIPE.language_model.vocabulary.images.begin
    for seed in range(10):
        assert begin not in PIPE(["describe"], seed=seed, max_new_tokens=LENGTH + 1).ids


def test_the_official_way_tells_of_broken_images() -> None:
    made = [PIPE(["a"], seed=seed, constrained=False, max_new_tokens=40) for seed in range(8)]
    assert {error for one in made for error in one.errors} <= {
        "boi_eoi_mismatch",
        "bad_length",
        "code_out_of_range",
    }
    assert any(one.errors for one in made)
    assert all(isinstance(part, str) for one in made for part in one.parts if one.errors == ("bad_length",))


def test_an_answer_does_not_depend_on_its_batch() -> None:
    one, other = pictures(2)
    conversations = [["describe", one], ["a"], [other, "describe", one], ["a"]]
    alone = [PIPE(["describe", one], seed=3, max_new_tokens=24), PIPE(["a"], seed=3, max_new_tokens=24)]
    for size in (1, 3, 16):
        made = PIPE.batch(conversations, seed=3, max_new_tokens=24, batch_size=size)
        assert [made[0].ids, made[1].ids] == [one.ids for one in alone]
        assert made[3].seed == (3, 1)  # the second of its prompt
        assert made[3].ids != made[1].ids


def test_drawn_pictures_do_not_depend_on_their_batch() -> None:
    alone = PIPE(["a ring"], seed=5, output="image")
    beside = PIPE.batch([["a star"], ["a ring"]], seed=5, output="image")[1]
    assert alone.parts[0].tobytes() == beside.parts[0].tobytes()


def test_greedy_equals_the_librarys_generate() -> None:
    model = tiny_language_model()
    prompts = [
        model.vocabulary.encode("a red circle"),
        model.vocabulary.encode("two <image>", [[1, 2, 3, 4, 5, 6]]),
    ]
    noise = Noise.per_image([(0, 0), (0, 1)])
    made = write_answers(model, prompts, AnswerPlan("any", 20, False), TokenSampling(top_k=1), noise)
    for prompt, answer in zip(prompts, made, strict=True):
        ids = torch.tensor([prompt])
        expected = model.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20
        )
        assert expected[0, len(prompt) :].tolist() == answer


def test_what_may_follow() -> None:
    vocabulary = PIPE.language_model.vocabulary
    images, size = vocabulary.images, vocabulary.size + 3  # three embeddings beyond the vocabulary
    state = SpanState(vocabulary, size, 2, AnswerPlan("any", 50))
    allowed = state.allowed(50)
    assert allowed[:, images.begin].all() and allowed[:, vocabulary.eos].all()
    assert not allowed[:, images.first_code].any() and not allowed[:, images.end].any()
    assert not allowed[:, vocabulary.size :].any()
    state.follow(torch.tensor([images.begin, 7]))
    for _ in range(LENGTH):
        inside, outside = state.allowed(40)
        assert inside.nonzero().flatten().tolist() == list(
            range(images.first_code, images.first_code + CODES)
        )
        assert outside[7]
        state.follow(torch.tensor([images.first_code, 7]))
    assert state.allowed(40)[0].nonzero().flatten().tolist() == [images.end]
    state.follow(torch.tensor([images.end, vocabulary.eos]))
    assert state.allowed(40)[0, 7]
    assert state.done.tolist() == [False, True]


def test_messages_of_both_sides() -> None:
    pipe = tiny_pipeline("vicuna")
    tokens = ImageTokens(Sequence1D(LENGTH), ids=torch.arange(LENGTH)[None])
    asked = [Message("user", ["a", tokens]), Message("assistant", ["red"]), Message("user", ["two"])]
    prompt = pipe._prompts([asked], None, False)[0]
    words = pipe.language_model.vocabulary
    written = words.encode("USER: a<image>\nASSISTANT: red\nUSER: two\nASSISTANT:", [list(range(LENGTH))])
    assert prompt == written
    assert pipe(asked, seed=0, output="text", max_new_tokens=4).parts


def test_captions() -> None:
    made = PIPE.caption(pictures(3), max_new_tokens=6)
    assert made == [PIPE.caption([one], max_new_tokens=6)[0] for one in pictures(3)]
    sampled = [
        PIPE.caption(pictures(1), max_new_tokens=6, temperature=1.0, seed=seed)[0] for seed in range(4)
    ]
    assert len(set(sampled)) > 1
    assert PIPE.caption(pictures(1), question="what", max_new_tokens=6) != made[:1]


def test_a_saved_model_answers_alike(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "InterleavedPipeline"
    assert set(index) >= {"tokenizer", "language_model", "renderer"}
    for task in ("caption", None, "interleaved"):
        pipe = visgen.load(folder, task=task)
        pipe.set_progress_bar_config(disable=True)
        assert isinstance(pipe, InterleavedPipeline)
        assert (pipe.renderer is None) == (task == "caption")
    conversation = ["describe", pictures(1)[0]]
    assert (
        pipe(conversation, seed=2, max_new_tokens=20).ids == PIPE(conversation, seed=2, max_new_tokens=20).ids
    )


def test_it_draws_as_text_to_image_models_do(folder: Path) -> None:
    pipe = visgen.load(folder, task="text-to-image")
    pipe.set_progress_bar_config(disable=True)
    assert isinstance(pipe, TextToImagePipeline)
    prompts = ["a red circle", "a ring"]
    made = pipe(prompts, seed=4, guidance_scale=2.0)
    own = PIPE.draw(prompts, seed=4, guidance_scale=2.0)
    assert torch.equal(made.tokens.ids, own.tokens.ids)
    assert made.tokens.ids.shape == (2, LENGTH)
    assert made.images[0].tobytes() == own.images[0].tobytes()
    alone = PIPE.draw("a ring", seed=4, guidance_scale=2.0)
    assert torch.equal(alone.tokens.ids, own.tokens.ids[1:])
    greedy = [
        PIPE.draw("a ring", seed=4, top_k=1, strategy=name).tokens.ids for name in (None, "sjd:3", "jacobi:2")
    ]
    assert torch.equal(greedy[0], greedy[1]) and torch.equal(greedy[0], greedy[2])
    with pytest.warns(UserWarning, match="does not know 'banana'"):
        PIPE.draw("a banana", seed=0)


def test_it_is_evaluated_as_a_model_of_text(folder: Path) -> None:
    subject = open_subject(str(folder), 2)
    assert subject.kind == "text"
    assert subject.codebook_size == CODES
    images = subject.generate([0, 1], lambda rows: ["a red circle"] * len(rows), 0)
    assert images.shape == (2, 3, 64, 64)
    assert subject.reconstruct(images)[1].ids.shape == (2, LENGTH)


def test_a_model_without_renderer_only_reads(tmp_path: Path) -> None:
    pipe = tiny_pipeline(renderer=False)
    assert pipe.caption(pictures(1), max_new_tokens=4)
    for call in (lambda: pipe(["a"]), lambda: pipe.draw("a")):
        with pytest.raises(InputError, match="no renderer"):
            call()
    pipe.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no renderer"):
        visgen.load(tmp_path, task="text-to-image")


@pytest.mark.parametrize(
    ("conversation", "options", "told"),
    [
        ([], {}, "non-empty list"),
        ("a red circle", {}, "non-empty list"),
        (["a <image>"], {}, "holds <image>"),
        (["a <img>"], {}, "texts hold no <img>"),
        ([Message("user", ["a"]), "b"], {}, "mixes Messages"),
        ([Message("system", ["a"])], {}, "role='system'"),
        (["a"], {"output": "video"}, "output='video'"),
        (["a"], {"max_new_tokens": 0}, "max_new_tokens=0"),
        (["a"], {"max_new_tokens": 127}, "exceed the 128 positions"),
        (["a"], {"top_p": 2.0}, "top_p=2.0"),
        ([ImageTokens(Sequence1D(2), ids=torch.zeros(3, 2, dtype=torch.long))], {}, "3 images"),
        ([ImageTokens(Sequence1D(2), ids=torch.full((1, 2), 99))], {}, "code outside"),
        (["a"], {"decoding": {"steps": 2}}, "unknown key"),
    ],
)
def test_bad_input_is_refused(conversation, options, told) -> None:
    with pytest.raises(InputError, match=told):
        PIPE(conversation, seed=0, **options)


def test_parts_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    from visgen.pipelines.seed_vocabulary import SeedVocabulary

    other = SeedLlama(PIPE.language_model.model, PIPE.language_model.vocabulary, LanguageSettings())
    other.vocabulary = SeedVocabulary.from_words(["a"], CODES + 1, LENGTH)
    with pytest.raises(InputError, match=f"{LENGTH} tokens of {CODES} codes"):
        InterleavedPipeline(tiny_tokenizer(), other, tiny_renderer())
    big = SeedVocabulary.from_words(["a"], 500, LENGTH)
    with pytest.raises(InputError, match="embeddings, but the vocabulary"):
        SeedLlama(PIPE.language_model.model, big, LanguageSettings())
    with pytest.raises(InputError, match="needs a LlamaForCausalLM"):
        SeedLlama(torch.nn.Linear(1, 1), big, LanguageSettings())
    broken = tmp_path / "language_model"
    PIPE.language_model.save_pretrained(broken)
    for text, told in (('{"style": "x"}', "style='x'"), ('{"stile": "plain"}', "unknown key")):
        (broken / "visgen.json").write_text(text)
        with pytest.raises(InputError, match=told):
            SeedLlama.from_pretrained(broken)
