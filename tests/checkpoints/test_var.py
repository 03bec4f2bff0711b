"""Official VAR layouts at full size, on the meta device: nothing missing, nothing left over."""

import json
from pathlib import Path

import pytest
import torch

from visgen.checkpoints import from_official
from visgen.checkpoints.var import (
    convert_tokenizer,
    convert_transformer,
    infer_tokenizer_config,
    infer_transformer_config,
    sampling_from_official,
)
from visgen.errors import InputError
from visgen.generators.var import VARTransformer
from visgen.tokenizers.var import VARTokenizer

SHAPES = json.loads((Path(__file__).parents[1] / "golden/var/official_shapes.json").read_text())


TOKENS = {16: 680, 20: 680, 24: 680, 30: 680, 36: 2240}
PARAMETERS = {16: 310.3e6, 20: 600.9e6, 24: 1033e6, 30: 2010e6, 36: 2354e6}  # spec, section 1


def meta_state(shapes):
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def transformer_shapes(depth):
    """Official keys and shapes of VAR-d{depth}, from those recorded of d16, whose other blocks are like
    blocks.0."""
    out = {}
    for key, recorded in SHAPES["var_d16"].items():
        widths = [
            size if size == 4096 and key.startswith("head.") else size // 16 * depth for size in recorded
        ]
        shape = [new if size % 1024 == 0 else size for size, new in zip(recorded, widths, strict=True)]
        shape = [TOKENS[depth] if size == 680 else size for size in shape]
        if key.endswith("scale_mul_1H11"):
            shape = [1, depth, 1, 1]
        if not key.startswith("blocks.0."):
            out[key] = shape
            continue
        for block in range(depth):
            if depth == 36 and ".ada_lin." in key:
                out[f"blocks.{block}.ada_gss"] = [1, 1, 6, 64 * depth]
                out[key.replace("blocks.0.ada_lin", "shared_ada_lin")] = shape
            else:
                out[key.replace("blocks.0.", f"blocks.{block}.")] = shape
    return out


def shapes_of(state):
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def test_full_size_tokenizer():
    state = meta_state(SHAPES["vae_ch160v4096z32"])
    with torch.device("meta"):
        model = VARTokenizer(**infer_tokenizer_config(state))
    assert shapes_of(convert_tokenizer(state)) == shapes_of(model.state_dict())
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(108.95e6, rel=1e-4)
    assert model.pixel_size == 256


@pytest.mark.parametrize("depth", TOKENS)
def test_full_size_transformer(depth):
    state = meta_state(transformer_shapes(depth))
    with torch.device("meta"):
        model = VARTransformer(**infer_transformer_config(state))
    assert shapes_of(convert_transformer(state)) == shapes_of(model.state_dict())
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(PARAMETERS[depth], rel=5e-3)


def test_unknown_token_count_needs_the_scale_list():
    state = meta_state(SHAPES["var_d16"])
    state["pos_1LC"] = torch.empty(1, 77, 64, device="meta")
    with pytest.raises(InputError, match="patch_nums"):
        infer_transformer_config(state)


@pytest.mark.parametrize("name", ["a", "b"])
def test_config_is_inferred_from_the_file(name):
    from safetensors.torch import load_file

    folder = Path(__file__).parents[1] / "golden/var"
    state = load_file(folder / f"var_{name}.weights.safetensors")
    config = json.loads((folder / "meta.json").read_text())["transformers"][name]
    with_config, without = from_official("var", state, config), from_official("var", state)
    assert without.config.scales == with_config.config.scales == (1, 2, 3, 5, 8)
    same = ("depth", "hidden_size", "modulation", "qk_norm", "num_classes", "mlp_ratio")
    assert all(without.config[key] == with_config.config[key] for key in same)
    if without.config.qk_norm:
        assert without.config.num_heads == with_config.config.num_heads


def test_missing_surplus_and_misshaped_keys_are_named():
    from safetensors.torch import load_file

    folder = Path(__file__).parents[1] / "golden/var"
    config = json.loads((folder / "meta.json").read_text())["vqvae"]
    state = load_file(folder / "vqvae.weights.safetensors")
    state["extra"] = torch.zeros(1)
    del state["quant_conv.bias"]
    with pytest.raises(InputError, match=r"missing \(quant_conv.bias\).*surplus \(extra\)"):
        from_official("var-tokenizer", state, config)


def test_official_sampling_is_translated():
    assert sampling_from_official(1.5, 900, 0.96) == {
        "guidance_scale": 2.5,
        "guidance_schedule": "linear",
        "top_k": 900,
        "top_p": 0.96,
        "smooth": False,
    }
    assert sampling_from_official(0.0)["guidance_scale"] == 1.0
    assert sampling_from_official(0.0)["top_p"] is None
