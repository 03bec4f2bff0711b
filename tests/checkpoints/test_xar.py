"""Official xAR layouts: full sizes on the meta device, configs from shapes, what does not fit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from visgen.checkpoints import from_official
from visgen.checkpoints.catalogue import official
from visgen.checkpoints.xar import NAMES, SIZES, convert, infer_config, sampling_from_official
from visgen.errors import InputError
from visgen.generators.xar import XARGenerator
from visgen.nn.entity_sampling import EntitySampling

GOLDEN = Path(__file__).parents[1] / "golden/xar"
PARAMETERS = {"b": 172.6e6, "l": 608.4e6, "h": 1186.0e6}  # spec, section 5


def official_shapes(width, depth, heads, mlp):
    """Keys and shapes of a published file, as in section 4 of the spec."""
    size = width // heads
    block = {
        "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "attn.rope.freqs": (size // 4,),
        "attn.rope.freqs_cos": (256, size),
        "attn.rope.freqs_sin": (256, size),
        "mlp.fc1_g.weight": (mlp, width),
        "mlp.fc1_g.bias": (mlp,),
        "mlp.fc1_x.weight": (mlp, width),
        "mlp.fc1_x.bias": (mlp,),
        "mlp.fc2.weight": (width, mlp),
        "mlp.fc2.bias": (width,),
        "ada_lin.1.weight": (6 * width, width),
        "ada_lin.1.bias": (6 * width,),
    }
    out = {
        "mask": (1, 1, 256, 256),
        "class_emb.weight": (1001, width),
        "time_embed.mlp.0.weight": (width, 256),
        "time_embed.mlp.2.weight": (width, width),
        "z_proj.weight": (width, 16),
        "decoder_embed.weight": (width, width),
        "pred.weight": (16, width),
        "pred.bias": (16,),
    }
    out |= {f"{name}.bias": (width,) for name in ("time_embed.mlp.0", "time_embed.mlp.2")}
    out |= {f"{name}.bias": (width,) for name in ("z_proj", "decoder_embed")}
    out |= {f"{name}.weight": (width,) for name in ("z_proj_ln", "encoder_norm", "decoder_norm")}
    for stack in ("encoder", "decoder"):
        out[f"{stack}_pos_embed_learned"] = (1, 256, width)
        for index in range(depth):
            out |= {f"{stack}_blocks.{index}.{key}": shape for key, shape in block.items()}
    return out


def meta_state(size):
    return {key: torch.empty(shape, device="meta") for key, shape in official_shapes(*SIZES[size]).items()}


@pytest.mark.parametrize("size", SIZES)
def test_full_size(size):
    state = meta_state(size)
    config = infer_config(state)
    assert config["entities"] == {"kind": "cell", "size": 8} and config["grid"] == (16, 16)
    with torch.device("meta"):
        model = XARGenerator(**config)
    ours = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert {key: tuple(tensor.shape) for key, tensor in convert(state).items()} == ours
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(PARAMETERS[size], rel=1e-3)
    width, depth, heads, mlp = SIZES[size]
    assert (config["hidden_size"], config["num_heads"], config["mlp_size"]) == (width, heads, mlp)
    assert config["encoder_depth"] == config["decoder_depth"] == depth


def test_defaults_are_those_of_the_base_model():
    with torch.device("meta"):
        config = XARGenerator().config
    assert {key: config[key] for key in infer_config(meta_state("b"))} == infer_config(meta_state("b"))


def test_keys_of_the_fixture_are_those_of_full_size():
    state = load_file(GOLDEN / "weights.safetensors")
    meta = json.loads((GOLDEN / "meta.json").read_text())["config"]
    assert meta["enc_depth"] == meta["dec_depth"]
    mlp = int(meta["dim"] * 8 / 3)
    shapes = official_shapes(meta["dim"], meta["enc_depth"], meta["heads"], mlp)
    found = {key.removeprefix("weights."): tuple(tensor.shape) for key, tensor in state.items()}
    assert found == shapes


def fixture():
    state = load_file(GOLDEN / "weights.safetensors")
    return {key.removeprefix("weights."): tensor for key, tensor in state.items()}


def test_config_is_inferred_from_the_file():
    meta = json.loads((GOLDEN / "meta.json").read_text())["config"]
    given = {key: meta[key] for key in NAMES}
    told, inferred = from_official("xar", fixture(), given), from_official("xar", fixture())
    assert told.config == inferred.config


def test_tables_may_be_missing():
    tables = [key for key in fixture() if key == "mask" or ".rope." in key]
    state = {key: tensor for key, tensor in fixture().items() if key not in tables}
    assert from_official("xar", state, {"heads": 3}).config == from_official("xar", fixture()).config


def test_what_does_not_fit_is_refused():
    state = fixture()
    extra = state | {"encoder_blocks.0.attn.q_norm.weight": torch.ones(16)}
    with pytest.raises(InputError, match="surplus"):
        from_official("xar", extra)
    for key in ("pred.bias", "encoder_blocks.1.mlp.fc1_x.weight", "class_emb.weight"):
        with pytest.raises(InputError, match=r"missing|cannot be told"):
            from_official("xar", {name: tensor for name, tensor in state.items() if name != key})
    with pytest.raises(InputError, match="square grids"):
        from_official("xar", state | {"encoder_pos_embed_learned": torch.zeros(1, 250, 48)})
    with pytest.raises(InputError, match="depth_of"):
        from_official("xar", state, {"depth_of": 3})


def test_published_recipes():
    sampling = EntitySampling(**official("xar-b").sampling)
    assert sampling.scales(4) == pytest.approx([1.0, 1 + 1.7 / 3, 1 + 3.4 / 3, 2.7])
    assert (sampling.num_inference_steps, sampling.solver) == (40, "sde")
    assert official("xar-h").sampling["guidance_scale"] == 2.2
    assert official("xar-l").licence == "none stated"
    assert sampling_from_official(50, 0.5)["guidance_scale"] == 1.0
    assert sampling_from_official(4, 2.0, ode=True)["solver"] == "ode"
