"""Official ELM layouts: the flat lists of blocks at full size, and what a file of the whole GAN holds."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from visgen.checkpoints import from_official
from visgen.checkpoints.elm import (
    convert_generator,
    convert_masked,
    infer_generator_config,
    sampling_from_official,
)
from visgen.checkpoints.elm_tokenizer import block_names, convert_tokenizer, infer_tokenizer_config
from visgen.errors import InputError
from visgen.generators.elm_masked import ELMMaskedTransformer
from visgen.generators.raster import RasterTransformer
from visgen.nn.sampling import TokenSampling
from visgen.tokenizers.bae import BAETokenizer

GOLDEN = Path(__file__).parents[1] / "golden/elm"
CONFIG = json.loads((GOLDEN / "meta.json").read_text())["config"]


def weights(part):
    state = load_file(GOLDEN / f"{part}_weights.safetensors")
    return {key.removeprefix("weights."): tensor for key, tensor in state.items()}


# The published autoencoder's blocks (spec, 1.1): R residual, A attention, S down or up, N norm, C convolution
ENCODER = "C RR S RR S RR S RR S RARA RAR NC"
GENERATOR = "NC RAR RARA S RR S RR S RR S RR NC"
ENCODER_WIDTHS = [128, 128, 256, 256, 512]


def flat_state(side, pattern, widths, first, last):
    """Shapes of a flat list of blocks; the width of a level is that of its residual blocks."""
    out, width, level = {}, first, 0
    for number, kind in enumerate(pattern.replace(" ", "")):
        prefix = f"{side}.blocks.{number}."
        if kind == "C":
            before, width = width, widths[level] if number < 2 else last
            out |= conv(prefix, before, width, 3)
        elif kind == "N":
            out |= vectors(prefix, width)
        elif kind == "S":
            out |= conv(prefix + "conv.", width, width, 3)
            level += 1
        elif kind == "A":
            out |= vectors(prefix + "norm.", width)
            for name in ("q", "k", "v", "proj_out"):
                out |= conv(f"{prefix}{name}.", width, width, 1)
        else:
            before, width = width, widths[level]
            out |= vectors(prefix + "norm1.", before) | vectors(prefix + "norm2.", width)
            out |= conv(prefix + "conv1.", before, width, 3) | conv(prefix + "conv2.", width, width, 3)
            out |= conv(prefix + "conv_out.", before, width, 1)
    return out


def conv(prefix, before, after, kernel):
    return {f"{prefix}weight": (after, before, kernel, kernel), f"{prefix}bias": (after,)}


def vectors(prefix, width):
    return {f"{prefix}weight": (width,), f"{prefix}bias": (width,)}


def full_size(bits):
    shapes = flat_state("encoder", ENCODER, ENCODER_WIDTHS, 3, 256)
    shapes |= flat_state("generator", GENERATOR, ENCODER_WIDTHS[::-1], 256, 3)
    shapes |= {"quantize.embed.weight": (bits, 256)} | conv("quantize.proj.0.", 256, bits, 1)
    shapes |= conv("generator.logsigma.0.", 128, 128, 3) | conv("generator.logsigma.2.", 128, 3, 1)
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def shapes_of(state):
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


@pytest.mark.parametrize(("bits", "codes"), [(16, 1), (20, 2), (24, 2)])
def test_full_size_tokenizer(bits, codes):
    state = full_size(bits)
    assert sum(t.numel() for t in state.values()) == pytest.approx(65.5e6, rel=2e-3)  # spec, section 1
    config = infer_tokenizer_config(state)
    with torch.device("meta"):
        model = BAETokenizer(**config)
        assert shapes_of(BAETokenizer(codes, bits // codes).state_dict()) == shapes_of(model.state_dict())
    assert shapes_of(convert_tokenizer(state)) == shapes_of(model.state_dict())
    assert config["num_codes"] == codes and model.layout.length == 256


def test_published_block_numbers():
    names = block_names(full_size(20))
    assert names["encoder.blocks.3"] == "encoder.down.0.downsample"
    assert names["encoder.blocks.14"] == "encoder.down.4.attn.0"
    assert names["encoder.blocks.18"] == "encoder.mid.attn_1"
    assert names["generator.blocks.0"] == "decoder.norm_in"
    assert names["generator.blocks.9"] == "decoder.up.4.upsample"
    assert names["generator.blocks.20"] == "decoder.up.0.block.1"


def test_without_the_first_norm():
    state = weights("bae")
    shifted = {
        key.replace(f"blocks.{number}.", f"blocks.{number - 1}."): tensor
        for key, tensor in state.items()
        if key.startswith("generator.blocks.") and (number := int(key.split(".")[2]))
    }
    others = {key: tensor for key, tensor in state.items() if not key.startswith("generator.blocks.")}
    model = from_official("elm-bae", others | shifted, CONFIG["bae"] | {"norm_first": False})
    assert model.decoder.norm_in is None


def test_a_file_of_the_whole_gan():
    state = weights("bae")
    gan = {f"ae.{key}": tensor for key, tensor in state.items()} | {"disc.main.0.weight": torch.zeros(2)}
    found, expected = (from_official("elm-bae", one, CONFIG["bae"]).state_dict() for one in (gan, state))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)


# Counted parameters in millions (spec, section 2)
COUNTED = {("l", 2, 10): 316, ("xl", 2, 12): 757, ("xxl", 1, 16): 1562, ("2b", 2, 12): 1910}


@pytest.mark.parametrize("name", COUNTED, ids=lambda name: "{}-{}-{}".format(*name))
def test_full_size_generators(name):
    from visgen.checkpoints.catalogue import official
    from visgen.pipelines.random_weights import architecture

    entry = official("elm-{}-{}-{}".format(*name))
    with torch.device("meta"):
        model = RasterTransformer(**architecture(entry))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(COUNTED[name] * 1e6, rel=2e-3)
    state = official_generator(model)
    assert shapes_of(convert_generator(state)) == shapes_of(model.state_dict())
    assert infer_generator_config(state).items() >= architecture(entry).items()


def official_generator(model):
    """The official keys of a model's weights (spec, section 2)."""
    out = {}
    for key, tensor in model.state_dict().items():
        for ours, theirs in (
            ("prefix.embed.", "cls_embedding.embedding_table."),
            ("tokens.embedding.", "tok_embedder."),
            ("tokens.join.", "proj."),
            ("tokens.norm.", "norm."),
            ("tokens.head.", "output."),
            ("blocks.", "layers."),
            ("attn.qkv", "attention.wqkv"),
            ("attn.proj", "attention.wo"),
            ("norm1", "attention_norm"),
            ("norm2", "ffn_norm"),
            ("ffn.down", "feed_forward.w2"),
        ):
            key = key.replace(ours, theirs)
        if "ffn.gate_up" in key:
            for name, part in zip(("w1", "w3"), tensor.chunk(2), strict=True):
                out[key.replace("ffn.gate_up", f"feed_forward.{name}")] = part
        else:
            out[key] = tensor
    return out


def test_masked_transformer_with_sub_codes():
    """Unused tensors are dropped, `proj` among them, which a model of several sub-codes has."""
    state = weights("mlm") | {"proj.weight": torch.zeros(48, 96)}
    config = CONFIG["mlm"] | {"token_each": 2}
    model = from_official("elm-mlm", state, config)
    assert isinstance(model, ELMMaskedTransformer) and model.config.num_codes == 2
    assert convert_masked(state).keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("system", "part", "config", "told"),
    [
        ("elm-bae", "bae", {"use_tanh": True}, "use_tanh"),
        ("elm-bae", "bae", {"code_dim": 5}, "mis-shaped"),
        ("elm-ar", "ar", {"pos_type": "rope1d"}, "rope2d"),
        ("elm-ar", "ar", {"block_size": 12}, "square number"),
        ("elm-mlm", "mlm", {"n_layer": 3}, "missing"),
    ],
)
def test_configurations_that_do_not_fit(system, part, config, told):
    with pytest.raises(InputError, match=told):
        from_official(system, weights(part), CONFIG[part] | config)


def test_official_sampling_is_translated():
    sampling = TokenSampling(**sampling_from_official(4.0, "linear", 1000))
    assert (sampling.guidance_schedule, sampling.top_k) == ("elm_linear", 1000)
    with pytest.raises(InputError, match="square_root"):
        sampling_from_official(4.0, "powercos")
