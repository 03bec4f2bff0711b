"""Official LlamaGen layouts at full size, on the meta device: nothing missing, nothing left over."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from visgen.checkpoints import from_official
from visgen.checkpoints.catalogue import CATALOGUE
from visgen.checkpoints.llamagen import (
    convert_generator,
    convert_tokenizer,
    generator_config,
    infer_generator_config,
    infer_tokenizer_config,
    sampling_from_official,
)
from visgen.errors import InputError
from visgen.generators.raster import RasterTransformer
from visgen.nn.sampling import TokenSampling
from visgen.pipelines.random_weights import architecture
from visgen.tokenizers.vq import VQTokenizer

GOLDEN = Path(__file__).parents[1] / "golden/llamagen"
SHAPES = json.loads((GOLDEN / "official_shapes.json").read_text())
META = json.loads((GOLDEN / "meta.json").read_text())
TOKENIZERS = {"VQ-16": (71.88e6, 16), "VQ-8": (70.11e6, 8)}
GENERATORS = {"c2i_B_256": "llamagen-b", "t2i_XL_stage1_256": "llamagen-t2i-xl"}


def meta_state(shapes):
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def shapes_of(state):
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def all_layers(shapes, depth):
    """Shapes of every layer, from those of the first."""
    out = {}
    for key, shape in shapes.items():
        for layer in range(depth) if key.startswith("layers.0.") else [0]:
            out[key.replace("layers.0.", f"layers.{layer}.")] = shape
    return out


@pytest.mark.parametrize("name", TOKENIZERS)
def test_full_size_tokenizer(name):
    state = meta_state(SHAPES[name])
    with torch.device("meta"):
        model = VQTokenizer(**infer_tokenizer_config(state))
    assert shapes_of(convert_tokenizer(state)) == shapes_of(model.state_dict())
    parameters, downsampling = TOKENIZERS[name]
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=1e-3)
    assert model.downsampling == downsampling and model.pixel_size == 256
    assert model.config.decoder_sizes is None


@pytest.mark.parametrize("name", GENERATORS)
def test_full_size_generator(name):
    entry = CATALOGUE[GENERATORS[name]]
    config = architecture(entry)
    state = meta_state(all_layers(SHAPES[name], config["depth"]))
    inferred = infer_generator_config(state)
    assert {**inferred, **generator_config(dict(entry.configs["generator"]))}.items() >= config.items()
    with torch.device("meta"):
        model = RasterTransformer(**inferred)
    assert shapes_of(convert_generator(state)) == shapes_of(model.state_dict())


def test_tables_and_caches_are_dropped():
    state = load_file(GOLDEN / "gpt_c2i.weights.safetensors")
    more = {"freqs_cis": torch.zeros(3), "layers.0.attention.kv_cache.k_cache": torch.zeros(2)}
    wrapped = {f"module.{key}": tensor for key, tensor in (state | more).items()}
    assert convert_generator(wrapped).keys() == convert_generator(state).keys()
    assert from_official("llamagen", wrapped, META["gpt_c2i"]).layout.length == META["gpt_c2i"]["block_size"]


def test_the_text_table_is_cut_to_the_condition():
    state = load_file(GOLDEN / "gpt_t2i.weights.safetensors")
    model = from_official("llamagen", state, META["gpt_t2i"] | {"cls_token_num": 40})
    assert model.prefix.length == 40
    assert torch.equal(model.prefix.text_null, state["cls_embedding.uncond_embedding"][:40].float())


def test_decoder_of_other_widths():
    """`encoder_ch_mult` and `decoder_ch_mult` are two options of the official code."""
    state = load_file(GOLDEN / "vq.weights.safetensors")
    wide = VQTokenizer(
        **infer_tokenizer_config(state)
        | {"decoder_sizes": {"ch": 32, "ch_mult": (1, 2, 2), "num_res_blocks": 2, "patch_size": 1}}
    )
    kept = {key: t for key, t in state.items() if not key.startswith("decoder.")}
    decoder = {key: t for key, t in wide.state_dict().items() if key.startswith("decoder.")}
    model = from_official("llamagen-vq", kept | official_decoder(decoder))
    assert model.config.decoder_sizes["ch_mult"] == (1, 2, 2)
    assert model.config.decoder_sizes["num_res_blocks"] == 2 and model.config.num_res_blocks == 1


def official_decoder(state):
    """Our decoder keys as the official ones."""
    out = {}
    for key, tensor in state.items():
        for old, new in (("block_1", "0"), ("attn_1", "1"), ("block_2", "2")):
            key = key.replace(f"mid.{old}", f"mid.{new}")
        if ".up." in key:
            parts = key.split(".")
            parts[1:3] = ["conv_blocks", str(2 - int(parts[2]))]
            parts[3] = "res" if parts[3] == "block" else parts[3]
            key = ".".join(parts)
        if ".qkv." in key:
            for name, part in zip("qkv", tensor.chunk(3), strict=True):
                out[key.replace(".qkv.", f".{name}.")] = part
        else:
            out[key] = tensor
    return out


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"block_size": 30}, "square number"),
        ({"attn_dropout_p": 0.1}, "attn_dropout_p"),
        ({"resid_dropout_p": 0.1, "ffn_dropout_p": 0.2}, "must be the same"),
        ({"heat": 1}, "heat"),
        ({"n_head": 5}, "hidden_size"),
    ],
)
def test_configurations_that_do_not_fit(config, told):
    state = load_file(GOLDEN / "gpt_c2i.weights.safetensors")
    with pytest.raises(InputError, match=told):
        from_official("llamagen", state, META["gpt_c2i"] | config)


@pytest.mark.parametrize("key", ["tok_embeddings.weight", "layers.0.feed_forward.w3.weight", "norm.weight"])
def test_missing_keys(key):
    state = load_file(GOLDEN / "gpt_c2i.weights.safetensors")
    del state[key]
    with pytest.raises(InputError, match="state_dict"):
        from_official("llamagen", state)


def test_official_sampling_is_translated():
    off = TokenSampling(**sampling_from_official(1.0))
    assert (off.guidance_scale, off.top_k, off.top_p, off.guidance_steps) == (1.0, None, None, None)
    assert sampling_from_official(0.0)["guidance_scale"] == 1.0  # official: up to 1 is off
    on = TokenSampling(**sampling_from_official(4.0, 2000, 0.9, 0.0, cfg_interval=3))
    assert (on.guidance_scale, on.top_k, on.top_p, on.guidance_steps) == (4.0, 2000, 0.9, 5)
    assert on.temperature == 1e-5
