"""Official files: pickles that mean harm, pickles of other things, state dicts that do not fit."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.pipelines.test_loading import official_generator_state, official_tokenizer_state
from tests.robustness.conftest import Refused, snapshot
from visgen.checkpoints import from_official
from visgen.checkpoints.files import read_state_dict
from visgen.errors import InputError, UnknownNameError

Write = Callable[[Path], object]
State = dict[str, Any]


class Bomb:
    """Unpickling it makes a file in the current folder."""

    def __init__(self, function: Any = os.mkdir, *arguments: object) -> None:
        self.call = function, arguments or ("exploded",)

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.call


def pickled(content: object, protocol: int = 2) -> Write:
    return lambda path: path.write_bytes(pickle.dumps(content, protocol=protocol))


def saved(content: object) -> Write:
    return lambda path: torch.save(content, path)


def zipped(**files: bytes) -> Write:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name.replace("__", "/"), data)

    return write


def cut(share: float) -> Write:
    file = io.BytesIO()
    torch.save({"a": torch.zeros(1000)}, file)
    whole = file.getvalue()
    return lambda path: path.write_bytes(whole[: int(share * len(whole))])


TENSOR = torch.zeros(2)
FILES: dict[str, Write] = {
    "bomb": pickled(Bomb()),
    "bomb of torch": saved({"a": TENSOR, "b": Bomb()}),
    "bomb of protocol 4": pickled({"a": Bomb()}, 4),
    "bomb in a zip": zipped(archive__data_pkl=b"", **{"archive__data.pkl": pickle.dumps(Bomb())}),
    "exec": pickled(Bomb(exec, "import os; os.mkdir('exploded')")),
    "eval": pickled(Bomb(eval, "__import__('os').mkdir('exploded')")),
    "system": pickled(Bomb(os.system, "touch exploded")),
    "module": saved(torch.nn.Linear(1, 1)),
    "list": saved([TENSOR]),
    "number": saved(3),
    "none": saved(None),
    "empty": saved({}),
    "nested": saved({"a": {"b": TENSOR}}),
    "numbers as values": saved({"a": 1.0}),
    "numbers as names": saved({1: TENSOR}),
    "tensor": saved(TENSOR),
    "arrays": pickled({"a": np.zeros(3)}),
    "wrapped nothing": saved({"state_dict": {}, "model": []}),
    "ordered nothing": saved(OrderedDict()),
    "no bytes": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("weights"),
    "a stop": lambda path: path.write_bytes(b"."),
    "garbage": lambda path: path.write_bytes(os.urandom(3000)),
    "opcodes": lambda path: path.write_bytes(b"\x80\x02}q\x00(U\x01aq\x01K\x01u0\x85R."),
    "a zip": zipped(readme=b"hello"),
    "zip without data": zipped(archive__version=b"3"),
    "cut at half": cut(0.5),
    "cut at the end": cut(0.99),
    "folder": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),
    "missing": lambda path: None,
}


@pytest.mark.parametrize("kind", FILES)
def test_files_named_pth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    FILES[kind](path)
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=r"weights\.pth") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)
    assert snapshot(tmp_path) == before, "something in the file ran"


@pytest.mark.parametrize("kind", ["bomb", "bomb of torch", "system", "garbage", "cut at half", "nested"])
def test_at_the_command_line(refused: Refused, tmp_path: Path, kind: str) -> None:
    FILES[kind](tmp_path / "vae_ch160v4096z32.pth")
    refused("reconstruct", "in.png", "-m", ".", told="in.png")
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "in.png")
    refused("reconstruct", "in.png", "-m", ".", "-o", "out.png", told="vae_ch160v4096z32.pth")


@pytest.mark.parametrize("name", ["weights.zip", "weights", "weights.pth.txt", "weights.PKL"])
def test_other_suffixes(tmp_path: Path, name: str) -> None:
    saved({"a": TENSOR})(tmp_path / name)
    with pytest.raises(InputError, match="weight files end in one of"):
        read_state_dict(tmp_path / name)


def test_safetensors_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    for write in (FILES["bomb"], FILES["garbage"], FILES["no bytes"], saved({"a": TENSOR})):
        write(path)
        with pytest.raises(InputError, match="no readable safetensors"):
            read_state_dict(path)


KEY, GROUP = "blocks.0.attn.mat_qkv.weight", "quantize.embedding.weight"
STATES: dict[str, tuple[str, Callable[[State], object], str]] = {
    "missing": ("var", lambda s: s.pop(KEY), "1 missing"),
    "surplus": ("var", lambda s: s.update(extra=TENSOR), "1 surplus"),
    "mis-shaped": ("var", lambda s: s.update({KEY: s[KEY][1:]}), "mis-shaped"),
    "nan": ("var", lambda s: s[KEY].fill_(float("nan")), "NaN or infinity"),
    "integers": ("var", lambda s: s.update({KEY: s[KEY].int()}), "mistyped"),
    "no positions": ("var", lambda s: s.pop("pos_1LC"), "pos_1LC"),
    "flat positions": ("var", lambda s: s.update(pos_1LC=TENSOR), "state_dict"),
    "other positions": ("var", lambda s: s.update(pos_1LC=torch.zeros(1, 7, 64)), "7 tokens"),
    "no classes": ("var", lambda s: s.pop("class_emb.weight"), "class_emb.weight"),
    "no blocks": ("var", lambda s: [s.pop(k) for k in list(s) if k.startswith("blocks")], "state_dict"),
    "named block": ("var", lambda s: s.update({"blocks.x.y": TENSOR}), "state_dict"),
    "a billion blocks": ("var", lambda s: s.update({"blocks.1000000000.y": TENSOR}), "more than the weights"),
    "a block of thousands": ("var", lambda s: s.update({"blocks.50000.y": TENSOR}), "far more layers"),
    "negative block": ("var", lambda s: s.update({"blocks.-9.y": TENSOR}), "surplus"),
    "empty": ("var", lambda s: s.clear(), "state_dict"),
    "empty tokenizer": ("var-tokenizer", lambda s: s.clear(), "state_dict"),
    "number": ("var", lambda s: s.update({KEY: 3}), "is a int"),
    "list": ("var", lambda s: s.update({KEY: [[1.0]]}), "is a list"),
    "other name": ("var", lambda s: s.update({5: TENSOR}), "state_dict[5]"),
    "codes missing": ("var-tokenizer", lambda s: s.pop(GROUP), GROUP),
    "codes flat": ("var-tokenizer", lambda s: s.update({GROUP: TENSOR}), "state_dict"),
    "codes infinite": ("var-tokenizer", lambda s: s[GROUP][0].fill_(-float("inf")), "vq.embedding.weight"),
    "no convolution": ("var-tokenizer", lambda s: s.pop("encoder.conv_in.weight"), "encoder.conv_in"),
    "phi missing": ("var-tokenizer", lambda s: s.pop("quantize.quant_resi.qresi_ls.0.bias"), "1 missing"),
    "zero width": (
        "var-tokenizer",
        lambda s: s.update({"encoder.conv_in.weight": torch.zeros(0, 3, 3, 3)}),
        "state_dict",
    ),
    "the other's": (
        "var-tokenizer",
        lambda s: (s.clear(), s.update(official_generator_state())),
        "state_dict",
    ),
}


@pytest.mark.parametrize("kind", STATES)
def test_state_dicts_that_do_not_fit(kind: str) -> None:
    system, change, told = STATES[kind]
    state = official_generator_state() if system == "var" else official_tokenizer_state()
    change(state)
    with pytest.raises(InputError) as caught:
        from_official(system, state)
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config", [{"patch_nums": [1, 2]}, {"depth": -1}, {"num_heads": 0}, {"temperature": 1}, {"depth": "2"}]
)
def test_configurations_that_do_not_fit(config: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        from_official("var", official_generator_state(), config)


def test_systems_that_are_none() -> None:
    for name in ("", "vra", "os.system"):
        with pytest.raises(UnknownNameError, match="unknown official system"):
            from_official(name, {"a": TENSOR})
