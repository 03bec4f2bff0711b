"""Official SEED state dicts: both heads by their keys, what is ignored, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from visgen.checkpoints import from_official
from visgen.checkpoints.catalogue import official
from visgen.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden" / "seed"
TOKENIZERS, STAGES = ("mlp_head", "reverse_qformer"), ("itc_stage1",)
SYSTEMS = {**dict.fromkeys(TOKENIZERS, "seed-tokenizer"), **dict.fromkeys(STAGES, "seed-contrastive")}
# What the shapes do not tell
HEADS = {"vit": {"heads": 4}, "qformer": {"heads": 4}}


def state_of(name):
    stored = load_file(GOLDEN / f"{name}.weights.safetensors")
    return {key.removeprefix("weights."): tensor for key, tensor in stored.items()}


def heads_of(name):
    return HEADS if name in TOKENIZERS else {"qformer": {"heads": 3}}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_shapes_tell_all_but_heads(name):
    variant = json.loads((GOLDEN / "meta.json").read_text())["variants"][name]
    config = {k: v for k, v in variant.items() if k not in ("seed", "batch")}
    told = from_official("seed-tokenizer", state_of(name), config).config
    inferred = from_official("seed-tokenizer", state_of(name), HEADS).config
    assert {k: v for k, v in told.items() if not k.startswith("_")} == {
        k: v for k, v in inferred.items() if not k.startswith("_")
    }
    assert inferred.head == ("mlp" if name == "mlp_head" else "reverse")


@pytest.mark.parametrize("name", SYSTEMS)
def test_without_a_config_heads_are_those_of_the_published_widths(name):
    model = from_official(SYSTEMS[name], state_of(name))
    assert model.config.num_heads == 1  # 64 channels per head


def test_a_text_branch_is_ignored():
    state = state_of("mlp_head")
    want = from_official("seed-tokenizer", state, HEADS)
    hidden, more = 48, {}
    more["Qformer.bert.embeddings.word_embeddings.weight"] = torch.ones(60, hidden)
    more["Qformer.bert.embeddings.position_embeddings.weight"] = torch.ones(40, hidden)
    more["Qformer.bert.encoder.layer.0.intermediate.dense.weight"] = torch.ones(96, hidden)
    more["Qformer.bert.encoder.layer.0.output.LayerNorm.bias"] = torch.ones(hidden)
    more["Qformer.cls.predictions.bias"] = torch.ones(60)
    got = from_official("seed-tokenizer", state | more, HEADS)
    assert all(torch.equal(got.state_dict()[k], t) for k, t in want.state_dict().items())


def test_a_state_without_the_auxiliary_branch_makes_a_model_without_it():
    state = {
        k: t for k, t in state_of("mlp_head").items() if not k.startswith("blocks.") and k != "pos_embed"
    }
    assert not from_official("seed-tokenizer", state, HEADS).config.auxiliary


def test_key_biases_are_zero():
    model = from_official("seed-tokenizer", state_of("mlp_head"), HEADS)
    bias = model.visual_encoder.blocks[0].attn.in_proj_bias
    assert (bias[44:88] == 0).all() and bias[:44].abs().sum() > 0 and bias[88:].abs().sum() > 0


CHANGES = {
    "missing": lambda state, key: state.pop(key),
    "flat": lambda state, key: state.update({key: torch.zeros(2)}),
    "empty": lambda state, key: state.update({key: state[key][:0]}),
    "integers": lambda state, key: state.update({key: state[key].int()}),
    "nan": lambda state, key: state.update({key: torch.full_like(state[key], float("nan"))}),
    "renamed": lambda state, key: state.update({f"{key}.more": state.pop(key)}),
    "number for a name": lambda state, key: state.update({key.replace(".", ".99999.", 1): state.pop(key)}),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", SYSTEMS)
def test_one_bad_tensor(name, change):
    state = state_of(name)
    keys = [key for key in sorted(state) if "position_ids" not in key and "." in key and key != "temp"]
    for key in keys[::11]:
        bad = dict(state)
        CHANGES[change](bad, key)
        with pytest.raises(InputError) as caught:
            from_official(SYSTEMS[name], bad, heads_of(name))
        assert "\n" not in str(caught.value), key


@pytest.mark.parametrize(
    "config",
    [
        {"surplus": 1},
        {"vit": 3},
        {"vit": {"surplus": 1}},
        {"vit": {"norm_eps": 1e-5}},
        {"qformer": {"layer_norm_eps": 1e-6}},
        {"qformer": {"heads": 5}},
        {"qformer": {"layers": 10**9}},
        {"use_qformer_image": True},
        {"codebook": {"n_embed": 7}},
        {"codebook": {"n_embed": "many"}},
        {"decode_heads": 0},
    ],
)
def test_a_config_that_does_not_fit(config):
    with pytest.raises(InputError):
        from_official("seed-tokenizer", state_of("mlp_head"), config)


@pytest.mark.parametrize("system", ["seed-tokenizer", "seed-contrastive"])
@pytest.mark.parametrize("state", [{}, {"query_tokens": torch.zeros(2)}])
def test_no_state(system, state):
    with pytest.raises(InputError):
        from_official(system, state)


def test_the_catalogue_knows_the_published_file():
    entry = official("seed-tokenizer-2")
    assert entry.files == {"tokenizer": "seed_quantizer.pt"} and entry.tasks == ("reconstruct",)
