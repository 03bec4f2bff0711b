"""Files of prompts: what they mean, and that a bad line is named."""

import os

import pytest

from visgen.errors import InputError
from visgen.pipelines.rows import Row, as_rows, read_rows


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_a_text_file_is_a_prompt_per_line(tmp_path, ends):
    path = written(
        tmp_path, "p.TXT", ends.join(["a red circle", "", "  ein Kreis – rot\t", " ", "a red circle"])
    )
    assert read_rows(path) == [Row("a red circle"), Row("ein Kreis – rot"), Row("a red circle")]


def test_a_byte_order_mark_is_no_text(tmp_path):
    assert read_rows(written(tmp_path, "p.txt", b"\xef\xbb\xbfa star\n")) == [Row("a star")]


def test_a_json_file_has_prompts_with_seeds(tmp_path):
    text = '{"prompt": "a star", "seed": 5}\n\n{"prompt": " two\\nlines "}\n{"prompt": "", "seed": null}'
    assert read_rows(written(tmp_path, "p.jsonl", text)) == [Row("a star", 5), Row(" two\nlines "), Row("")]


def test_or_labels(tmp_path):
    path = written(tmp_path, "p.jsonl", '{"label": 207}\n{"seed": -1, "label": -1}\n')
    assert read_rows(path) == [Row(207), Row(-1, -1)]


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.txt").mkdir()
    for name in ("pipe.txt", "folder.txt"):
        with pytest.raises(InputError, match="is no regular file"):
            read_rows(tmp_path / name)
    with pytest.raises(InputError, match="does not exist"):
        read_rows(tmp_path / "missing.txt")


def test_lists_are_rows_too():
    assert as_rows(["a", Row("b", 1)]) == [Row("a"), Row("b", 1)]
    assert as_rows((3, -1)) == [Row(3), Row(-1)]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("p.csv", "a", "must end in .txt"),
        ("p", "a", "must end in .txt"),
        ("p.txt", "", "is empty"),
        ("p.txt", " \n\t\n", "is empty"),
        ("p.jsonl", "\n", "is empty"),
        ("p.txt", b"a\n\xff\xfe\n", r"p\.txt, line 2: this is no UTF-8"),
        ("p.txt", "a star".encode("utf-16"), r"line 1: this is no UTF-8"),
        ("p.jsonl", "a star", r"p\.jsonl, line 1: this is no JSON object"),
        ("p.jsonl", '{"prompt": "a"}\n\n{"prompt": "b"', "line 3: this is no JSON"),
        ("p.jsonl", "[" * 100_000, "line 1: this is no JSON"),
        ("p.jsonl", '{"seed": ' + "9" * 5000 + "}", "line 1: this is no JSON"),
        ("p.jsonl", '"a"', "line 1: a line is"),
        ("p.jsonl", '["a"]', "line 1: a line is"),
        ("p.jsonl", "{}", "line 1: a line is"),
        ("p.jsonl", '{"seed": 3}', "line 1: a line is"),
        ("p.jsonl", '{"prompt": "a", "label": 3}', "line 1: a line is"),
        ("p.jsonl", '{"prompt": "a", "prompt": "b"}', "line 1: .*twice"),
        ("p.jsonl", '{"prompt": "a", "colour": "red"}', "line 1: unknown key 'colour'"),
        ("p.jsonl", '{"prompt": 3}', "line 1: prompt=3 is no str"),
        ("p.jsonl", '{"prompt": null}', "line 1: prompt=None is no str"),
        ("p.jsonl", '{"label": "3"}', "line 1: label='3' is no int"),
        ("p.jsonl", '{"label": true}', "line 1: True must be"),
        ("p.jsonl", '{"label": NaN}', "line 1: label=nan is no int"),
        ("p.jsonl", '{"prompt": "a", "seed": 1.5}', "line 1: seed=1.5"),
        ("p.jsonl", '{"prompt": "a", "seed": "1"}', "line 1: seed='1'"),
        ("p.jsonl", '{"prompt": "a", "seed": false}', "line 1: seed=False"),
        ("p.jsonl", '{"prompt": "\\ud800"}', "line 1: prompt .* half a character"),
        ("p.jsonl", '{"prompt": "a"}\n{"label": 3}', r"line 2: a label where .*line 1 has a prompt"),
    ],
)
def test_a_bad_line_is_named(tmp_path, name, content, told):
    with pytest.raises(InputError, match=told):
        read_rows(written(tmp_path, name, content))
