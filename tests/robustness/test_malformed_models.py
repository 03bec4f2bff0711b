"""Model folders that are damaged, foreign, or made to do harm."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import visgen
from tests.robustness.conftest import Refused
from visgen.errors import InputError
from visgen.nn.building import load_strictly
from visgen.nn.model import WEIGHTS

Break = Callable[[Path], object]
State = dict[str, torch.Tensor]
GENERATOR, TOKENIZER = f"generator/{WEIGHTS}", f"tokenizer/{WEIGHTS}"
NAMES = ("head.bias", "blocks.0.attn.qkv.weight", "text_emb.weight")


def weights(change: Callable[[State], object], file: str = GENERATOR) -> Break:
    """Rewrite a weight file after `change`."""

    def apply(model: Path) -> None:
        state = load_file(model / file)
        state = {key: tensor.clone() for key, tensor in state.items()}
        change(state)
        save_file(state, model / file)

    return apply


def filled(name: str, value: float) -> Callable[[State], object]:
    """One value of a tensor becomes another."""
    return lambda state: state[name].view(-1)[-1:].fill_(value)


def recast(dtype: torch.dtype, *names: str) -> Callable[[State], object]:
    return lambda state: state.update({name: state[name].to(dtype) for name in names or list(state)})


WEIGHT_FILES: dict[str, tuple[Break, str]] = {
    "missing tensor": (weights(lambda s: s.pop("head.bias")), "1 missing (head.bias)"),
    "all missing": (weights(lambda s: [s.pop(key) for key in list(s)]), "missing"),
    "surplus tensor": (weights(lambda s: s.update(extra=torch.zeros(1))), "1 surplus (extra)"),
    "renamed": (weights(lambda s: s.update({"module." + k: s.pop(k) for k in list(s)})), "surplus"),
    "transposed": (weights(lambda s: s.update({NAMES[2]: s[NAMES[2]].T.contiguous()})), "mis-shaped"),
    "grown": (weights(lambda s: s.update({NAMES[0]: torch.zeros(99)})), "mis-shaped"),
    "scalar": (weights(lambda s: s.update({NAMES[0]: torch.zeros(())})), "mis-shaped"),
    "nan": (weights(filled(NAMES[1], float("nan"))), f"NaN or infinity (1 tensors: {NAMES[1]})"),
    "inf": (weights(filled(NAMES[0], float("inf"))), NAMES[0]),
    "-inf in the tokenizer": (
        weights(filled("vq.embedding.weight", -float("inf")), TOKENIZER),
        "vq.embedding",
    ),
    "integers": (weights(recast(torch.int64, NAMES[0])), "mistyped"),
    "bytes": (weights(recast(torch.uint8)), "mistyped"),
    "booleans": (weights(recast(torch.bool, NAMES[2])), "mistyped"),
    "complex": (weights(recast(torch.complex64, NAMES[0])), "mistyped"),
    "truncated": (lambda m: os.truncate(m / GENERATOR, 2000), "no readable safetensors"),
    "only the size": (lambda m: os.truncate(m / GENERATOR, 8), "no readable safetensors"),
    "empty": (lambda m: (m / GENERATOR).write_bytes(b""), "no readable safetensors"),
    "garbage": (lambda m: (m / GENERATOR).write_bytes(os.urandom(5000)), "no readable safetensors"),
    "huge header": (lambda m: (m / GENERATOR).write_bytes(b"\xff" * 7 + b"\x00" + b"{}"), "no readable"),
    "a pickle": (lambda m: torch.save({}, m / GENERATOR), "no readable safetensors"),
    "folder": (lambda m: ((m / GENERATOR).unlink(), (m / GENERATOR).mkdir()), "has no"),
    "no file": (lambda m: (m / GENERATOR).unlink(), "has no"),
    "no component": (lambda m: shutil.rmtree(m / "generator"), "no config.json"),
    "circular link": (lambda m: ((m / GENERATOR).unlink(), (m / GENERATOR).symlink_to(WEIGHTS)), "has no"),
    "circular folder": (
        lambda m: (shutil.rmtree(m / "generator"), (m / "generator").symlink_to("generator")),
        "no config.json",
    ),
}


def config(file: str = "generator/config.json", **changes: Any) -> Break:
    """Rewrite keys of a JSON file; `None` takes a key away."""

    def apply(model: Path) -> None:
        content = json.loads((model / file).read_text()) | changes
        (model / file).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return apply


def text(file: str, content: str | bytes) -> Break:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda model: (model / file).write_bytes(data)


DEEP = "[" * 100_000
CONFIGS: dict[str, tuple[Break, str]] = {
    "broken": (text("generator/config.json", "{"), "no readable JSON"),
    "empty": (text("generator/config.json", ""), "no readable JSON"),
    "list": (text("generator/config.json", "[1]"), "instead of an object"),
    "binary": (text("generator/config.json", b"\xff\xfe\x00"), "no readable JSON"),
    "deep": (text("generator/config.json", DEEP), "no readable JSON"),
    "long number": (text("generator/config.json", '{"depth": ' + "9" * 9999 + "}"), "no readable JSON"),
    "foreign class": (config(_class_name="UNet2DModel"), "holds a UNet2DModel"),
    "class of modules": (config(_class_name="os.system"), "holds a os.system"),
    "other class": (config("tokenizer/config.json", _class_name="VARTransformer"), "holds a VARTransformer"),
    "unknown key": (config(hiden_size=16), "did you mean hidden_size"),
    "code": (config(auto_map={"AutoModel": "evil.Evil"}), "auto_map"),
    "text for a number": (config(hidden_size="16"), "config.hidden_size='16' is a str"),
    "list for a number": (config(depth=[2]), "config.depth=[2] is a list"),
    "number for a list": (config(scales=4), "config.scales=4 is a int"),
    "text in a list": (config(scales=[1, 2, "4"]), "config.scales[2]"),
    "fraction": (config(num_heads=2.5), "config.num_heads"),
    "true": (config(depth=True), "config.depth=True"),
    "nan": (config(norm_eps=float("nan")), "not a finite number"),
    "infinite": (config(mlp_ratio=float("inf")), "not a finite number"),
    "unknown word": (config(modulation="none"), "modulation='none'"),
    "zero heads": (config(num_heads=0), "VARTransformer"),
    "negative size": (config(hidden_size=-16), "config.hidden_size=-16 is negative"),
    "no scales": (config(scales=[]), "VARTransformer"),
    "odd heads": (config(num_heads=3), "multiple of num_heads=3"),
    "other size": (config(hidden_size=32), "do not fit"),
    "fewer blocks": (config(depth=1), "surplus"),
    "huge size": (config(hidden_size=10**15), "more than the weights"),
    "huge depth": (config(depth=10**9), "more than the weights"),
    "great depth": (config(depth=60_000), "far more layers"),
    "huge scale": (config(scales=[1, 10**12]), "more than the weights"),
    "many levels": (config("tokenizer/config.json", ch_mult=[1] * 5000), "far more layers"),
    "no channels": (config("tokenizer/config.json", ch=0), "ch=0 must be 1 or more"),
    "odd groups": (config("tokenizer/config.json", norm_groups=5), "VARTokenizer"),
    "other scales": (config("tokenizer/config.json", scales=[1, 3, 4]), "do not fit: scales"),
    "no config": (lambda m: (m / "generator/config.json").unlink(), "no config.json"),
}
INDEX = "model_index.json"
INDICES: dict[str, tuple[Break, str]] = {
    "broken": (text(INDEX, '{"schema": 1'), "no readable JSON"),
    "empty": (text(INDEX, ""), "no readable JSON"),
    "binary": (text(INDEX, b"\x80\x04\x95"), "no readable JSON"),
    "deep": (text(INDEX, '{"a":' * 100_000), "no readable JSON"),
    "a list": (text(INDEX, "[]"), "instead of an object"),
    "no schema": (config(INDEX, schema=None), "schema None"),
    "next schema": (config(INDEX, schema=2), "schema 2"),
    "long schema": (config(INDEX, schema="1" * 100_000), "schema '111"),
    "foreign pipeline": (config(INDEX, _class_name="StableDiffusionPipeline"), "names the pipeline"),
    "no pipeline": (config(INDEX, _class_name=None), "names the pipeline"),
    "os.system": (config(INDEX, generator=["os", "system"]), "gives ['os', 'system']"),
    "diffusers": (config(INDEX, tokenizer=["diffusers", "AutoencoderKL"]), "gives ['diffusers'"),
    "module path": (config(INDEX, tokenizer=["visgen", "visgen.cli.main:main"]), "must be ['visgen', NAME]"),
    "numbers": (config(INDEX, tokenizer=[1, 2]), "gives [1, 2]"),
    "long entry": (config(INDEX, tokenizer=["x" * 100_000]), "gives ['xxx"),
    "unknown slot": (config(INDEX, safety_checker=["visgen", "VARTokenizer"]), "unknown component"),
    "missing slot": (config(INDEX, generator=None), "needs a generator"),
    "upwards": (config(INDEX, tokenizer=["visgen", "VARTokenizer", "../../../etc"]), "shared component"),
    "absolute": (config(INDEX, tokenizer=["visgen", "VARTokenizer", "/etc/passwd"]), "shared component"),
    "nul": (config(INDEX, tokenizer=["visgen", "VARTokenizer", "scenes-var/a\0b"]), "shared component"),
    "other model": (
        config(INDEX, tokenizer=["visgen", "VARTokenizer", "scenes-var/tokenizer"]),
        "do not fit: scales",
    ),
    "unknown option": (config(INDEX, sampling={"heat": 1}), "does not fit TokenSampling"),
    "hot": (config(INDEX, sampling={"temperature": "hot"}), "does not fit TokenSampling"),
    "cold": (config(INDEX, sampling={"temperature": 0}), "temperature=0"),
    "fraction of tokens": (config(INDEX, sampling={"top_k": 2.5}), "top_k=2.5"),
    "no mapping": (config(INDEX, sampling=[1]), "must be objects"),
    "no index": (lambda m: (m / INDEX).unlink(), "is no model"),
    "index is a folder": (lambda m: ((m / INDEX).unlink(), (m / INDEX).mkdir()), "is no model"),
}
VOCABULARY = "text/tokenizer.json"


def another_vocabulary(model: Path) -> None:
    from visgen.pipelines.prompts import WordVocabulary

    WordVocabulary.from_words(["a", "red"], 6).save_pretrained(model / "text")


def longer_vocabulary(model: Path) -> None:
    from tests.pipelines.conftest import WORDS
    from visgen.pipelines.prompts import WordVocabulary

    WordVocabulary.from_words(WORDS, 9).save_pretrained(model / "text")


TEXTS: dict[str, tuple[Break, str]] = {
    "broken": (text(VOCABULARY, "{"), "no readable tokenizer"),
    "empty": (text(VOCABULARY, ""), "no readable tokenizer"),
    "binary": (text(VOCABULARY, b"\xff" * 100), "no readable tokenizer"),
    "deep": (text(VOCABULARY, DEEP), "no readable tokenizer"),
    "other object": (text(VOCABULARY, '{"version": "1.0"}'), "no readable tokenizer"),
    "broken settings": (text("text/tokenizer_config.json", "{"), "no readable tokenizer"),
    "no length": (config("text/tokenizer_config.json", model_max_length=None), "model_max_length"),
    "endless": (config("text/tokenizer_config.json", model_max_length=10**30), "model_max_length"),
    "length of text": (config("text/tokenizer_config.json", model_max_length="six"), "model_max_length"),
    "other words": (another_vocabulary, "4 words"),
    "other length": (longer_vocabulary, "9 words"),
    "no folder": (lambda m: shutil.rmtree(m / "text"), "no tokenizer.json"),
}
SHARDS: dict[str, tuple[str, str]] = {
    "broken": ("{", "no readable JSON"),
    "no map": ("{}", "no weight_map"),
    "list": ('{"weight_map": ["a"]}', "no weight_map"),
    "numbers": ('{"weight_map": {"a": 1}}', "no weight_map"),
    "missing shard": ('{"weight_map": {"a": "one.safetensors"}}', "no readable safetensors"),
    "absolute": ('{"weight_map": {"a": "/etc/passwd"}}', "no readable safetensors"),
    "upwards": ('{"weight_map": {"a": "../../model_index.json"}}', "no readable safetensors"),
    "device": ('{"weight_map": {"a": "/dev/zero"}}', "no readable safetensors"),
}


def load_broken(refused: Refused, model: Path, case: tuple[Break, str]) -> None:
    breaks, told = case
    breaks(model)
    refused("generate", "a red circle", "-m", "model", "-o", "out.png", told=told)
    assert torch.is_grad_enabled(), "what was interrupted left gradients off"


@pytest.mark.parametrize("kind", WEIGHT_FILES)
def test_weights(refused: Refused, model: Path, kind: str) -> None:
    load_broken(refused, model, WEIGHT_FILES[kind])


@pytest.mark.parametrize("kind", CONFIGS)
def test_configurations(refused: Refused, model: Path, kind: str) -> None:
    load_broken(refused, model, CONFIGS[kind])


@pytest.mark.parametrize("kind", INDICES)
def test_indices(refused: Refused, model: Path, kind: str) -> None:
    load_broken(refused, model, INDICES[kind])


@pytest.mark.parametrize("kind", TEXTS)
def test_vocabularies(refused: Refused, model: Path, kind: str) -> None:
    load_broken(refused, model, TEXTS[kind])


@pytest.mark.parametrize("kind", SHARDS)
def test_shards(refused: Refused, model: Path, kind: str) -> None:
    (model / GENERATOR).unlink()
    content, told = SHARDS[kind]
    load_broken(refused, model, (text(f"{GENERATOR}.index.json", content), told))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floats_are_read(model: Path, dtype: torch.dtype) -> None:
    weights(recast(dtype))(model)
    pipe = visgen.load(model)
    assert pipe.generator.dtype == torch.float32
    pipe.set_progress_bar_config(disable=True)
    assert len(pipe("a red circle", seed=0)) == 1


def test_large_weights_are_not_taken_for_infinite_ones() -> None:
    """Sums of half precision overflow long before their terms do."""
    state = {"weight": torch.full((4, 400), 6e4, dtype=torch.float16), "bias": torch.zeros(4)}
    with torch.device("meta"):
        model = torch.nn.Linear(400, 4)
    load_strictly(model, state, "here")
    assert model.weight.max() == 6e4
    state["weight"][2, 3] = float("inf")
    with pytest.raises(InputError, match="NaN or infinity"):
        load_strictly(model, state, "here")


def test_text_features_that_are_broken(refused: Refused, model: Path) -> None:
    config(INDEX, text=["visgen", "TextFeatures"])(model)
    for content, told in (
        ("{", "no readable JSON"),
        ("[]", "instead of an object"),
        ("{}", "encoder=None"),
        ('{"encoder": 3, "max_length": 6}', "encoder=3"),
        ('{"encoder": "./nowhere", "max_length": 0}', "max_length=0"),
        ('{"encoder": "./nowhere", "max_length": 6}', "encoder='./nowhere' cannot be loaded"),
    ):
        load_broken(refused, model, (text("text/text_features.json", content), told))
