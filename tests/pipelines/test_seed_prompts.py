"""SEED-LLaMA's prompts and answers, and the vocabulary that turns them into ids."""

import json
from pathlib import Path

import pytest

from tests.parity.report import Golden
from tests.parity.seed_prompt_stages import check_prompts
from visgen.errors import InputError
from visgen.pipelines.seed_prompts import (
    ImageIds,
    Turn,
    build_prompt,
    fill_images,
    full_prompt,
    insert_codes,
    parse_answer,
)
from visgen.pipelines.seed_vocabulary import SeedVocabulary

GOLDEN = Path(__file__).parents[1] / "golden" / "seed"
IDS = ImageIds(first_code=100, num_codes=50, begin=150, end=151, length=3)


def test_every_case_of_the_golden_prompts() -> None:
    golden = Golden(GOLDEN)
    check_prompts(golden)
    assert golden.passed, golden.table()


def test_a_wrong_golden_is_a_miss(tmp_path: Path) -> None:
    cases = json.loads((GOLDEN / "prompts.json").read_text())
    cases["parse"][1]["remaining_ids"][0] += 1
    cases["prompts"][0]["full_prompt"] += " "
    (tmp_path / "meta.json").write_text((GOLDEN / "meta.json").read_text())
    (tmp_path / "prompts.json").write_text(json.dumps(cases))
    golden = Golden(tmp_path)
    check_prompts(golden)
    assert [row.stage for row in golden.rows if not row.passed] == [
        "prompts.0.vicuna.full_prompt",
        "parse.one_image.remaining_ids",
    ]


def test_a_system_sentence_stands_on_its_own_line() -> None:
    prompt = build_prompt([Turn("user", "Hi")], "vicuna", "Be kind.")
    assert prompt == "Be kind.\nUSER: Hi\nASSISTANT:"


def test_texts_with_braces_stay_as_they_are() -> None:
    assert build_prompt([Turn("user", "{text} {prompt}")], "llama2") == "[INST] {text} {prompt} [/INST]\n"


@pytest.mark.parametrize(
    ("ids", "images", "rest", "errors"),
    [
        ([151, 150, 1], [((), False)], [151, 150, 1], ("bad_length",)),  # the end before the beginning
        (
            [150, 150, 101, 102, 151],
            [((50, 1, 2), False)],
            [150, 151],
            ("boi_eoi_mismatch", "code_out_of_range"),
        ),
        ([150, 101, 151, 151], [((1,), False)], [150, 151, 151], ("boi_eoi_mismatch", "bad_length")),
        ([150, 99, 101, 149, 151], [((-1, 1, 49), False)], [150, 151], ("code_out_of_range",)),
        ([150, 100, 101, 149, 151], [((0, 1, 49), True)], [150, 151], ()),
        ([], [], [], ()),
    ],
)
def test_answers_that_are_odd(ids: list, images: list, rest: list, errors: tuple) -> None:
    found = parse_answer(ids, IDS)
    assert [(one.codes, one.decodable) for one in found.images] == images
    assert list(found.remaining_ids) == rest
    assert found.errors == errors


def test_codes_are_put_in_arithmetically() -> None:
    ids = [1, 150, 151, 7, 150, 151]
    assert insert_codes(ids, [[0, 1, 2], [49]], IDS) == [1, 150, 100, 101, 102, 151, 7, 150, 149, 151]
    with pytest.raises(InputError, match="2 places for 1 images"):
        insert_codes(ids, [[0]], IDS)
    with pytest.raises(InputError, match="code outside 0 … 49"):
        insert_codes(ids, [[0], [50]], IDS)
    with pytest.raises(InputError, match="texts hold no <img>"):
        insert_codes([150, 7, 150, 151], [[0]], IDS)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="1 places <image> for 0 images"):
        fill_images("a <image>", [])
    with pytest.raises(InputError, match="style='chatml' is unknown"):
        build_prompt([], "chatml")
    with pytest.raises(InputError, match="role='system'"):
        build_prompt([Turn("system", "x")], "vicuna")  # type: ignore[arg-type]


def test_ids_equal_those_of_the_written_text() -> None:
    """The detour through 34 strings per image gives what arithmetic gives."""
    vocabulary = SeedVocabulary.from_words(["a", "red", "circle"], 9, 4)
    vocabulary.tokenizer.add_tokens([f"<img_{code:05d}>" for code in range(9)], special_tokens=True)
    prompt, images = "a <image> red <image>", [[3, 1, 4, 1], [8, 0, 0, 8]]
    text = full_prompt(prompt, images, force_image=True)
    written = vocabulary.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert vocabulary.encode(prompt, images, begin=True) == written


def test_a_vocabulary_survives_saving(tmp_path: Path) -> None:
    vocabulary = SeedVocabulary.from_words(["a", "red"], 9, 4)
    vocabulary.save_pretrained(tmp_path)
    again = SeedVocabulary.from_pretrained(tmp_path, 4)
    assert again.images == vocabulary.images
    assert again.size == vocabulary.size == 6 + 2 + 9
    assert again.encode("A red, blue") == vocabulary.encode("a red blue")
    assert again.unknown_words("A red, blue blue") == ["blue"]
    assert again.known_words() == ["a", "red"]
    assert again.decode(again.encode("a red <image>", [[1, 2, 3, 4]])[:3]) == "a red"


def test_no_text_spells_a_code() -> None:
    vocabulary = SeedVocabulary.from_words(["a"], 9, 4)
    codes = range(vocabulary.images.first_code, vocabulary.images.first_code + 9)
    assert not set(vocabulary.words(["a <img_00003> img_00003 <img_00003>"])[0]) & set(codes)


def test_tokenizers_without_seeds_tokens_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        SeedVocabulary.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="no readable tokenizer"):
        SeedVocabulary.from_pretrained(tmp_path)
    vocabulary = SeedVocabulary.from_words(["a"], 9, 4)
    with pytest.raises(InputError, match="image_length=0"):
        SeedVocabulary(vocabulary.tokenizer, 0)
    with pytest.raises(InputError, match="not one word"):
        SeedVocabulary.from_words(["two words"], 9)
    with pytest.raises(InputError, match="words is empty"):
        SeedVocabulary.from_words([], 9)


def test_codes_out_of_line_are_refused(tmp_path: Path) -> None:
    vocabulary = SeedVocabulary.from_words(["a"], 4, 4)
    vocabulary.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    words = json.loads(file.read_text())
    ids = words["model"]["vocab"]
    ids["<img_00002>"], ids["<img_00003>"] = ids["<img_00003>"], ids["<img_00002>"]
    file.write_text(json.dumps(words))
    with pytest.raises(InputError, match="<img_00002> at id"):
        SeedVocabulary.from_pretrained(tmp_path)
