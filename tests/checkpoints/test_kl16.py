"""The official KL-16 as a tokenizer: its size, inference, configurations, files, broken states."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import visgen
from visgen.checkpoints import from_official
from visgen.checkpoints.catalogue import CATALOGUE
from visgen.checkpoints.klvae16 import convert_tokenizer
from visgen.errors import InputError
from visgen.pipelines.reconstruct import ReconstructPipeline
from visgen.tokenizers.kl import KLTokenizer
from visgen.tokenizers.tokens import Grid

GOLDEN = Path(__file__).parents[1] / "golden/klvae16"
CONFIG = json.loads((GOLDEN / "meta.json").read_text())["config"]
STATE = {k.removeprefix("weights."): t for k, t in load_file(GOLDEN / "weights.safetensors").items()}
SYSTEM = "kl16-tokenizer"


def own(model):
    return {key: value for key, value in model.config.items() if not key.startswith("_")}


def test_the_full_size():
    """312 tensors of 66.46 million weights, and the shapes of the specification."""
    with torch.device("meta"):
        model = KLTokenizer()
    state = model.state_dict()
    assert len(state) == 312
    assert sum(t.numel() for t in state.values()) / 1e6 == pytest.approx(66.46, abs=0.01)
    sides = [
        sum(p.numel() for p in side.parameters()) / 1e6
        for side in (model.autoencoder.vae.encoder, model.autoencoder.vae.decoder)
    ]
    assert sides == pytest.approx([28.3, 38.2], abs=0.06)
    assert (model.pixel_size, model.layout, model.config.latent_channels) == (256, Grid(16, 16), 16)


def official_full_size():
    """Every official name with its shape, as the specification lists them."""
    shapes = {"quant_conv": (32, 32, 1, 1), "post_quant_conv": (16, 16, 1, 1)}
    widths = (128, 128, 256, 256, 512)

    def block(stem, before, after):
        shapes.update({f"{stem}.norm1": (before,), f"{stem}.conv1": (after, before, 3, 3)})
        shapes.update({f"{stem}.norm2": (after,), f"{stem}.conv2": (after, after, 3, 3)})
        if before != after:
            shapes[f"{stem}.nin_shortcut"] = (after, before, 1, 1)

    def attention(stem, width):
        shapes[f"{stem}.norm"] = (width,)
        shapes.update({f"{stem}.{name}": (width, width, 1, 1) for name in ("q", "k", "v", "proj_out")})

    for side in ("encoder", "decoder"):
        block(f"{side}.mid.block_1", 512, 512)
        attention(f"{side}.mid.attn_1", 512)
        block(f"{side}.mid.block_2", 512, 512)
    shapes |= {"encoder.conv_in": (128, 3, 3, 3), "encoder.norm_out": (512,)}
    shapes |= {"encoder.conv_out": (32, 512, 3, 3), "decoder.conv_in": (512, 16, 3, 3)}
    shapes |= {"decoder.norm_out": (128,), "decoder.conv_out": (3, 128, 3, 3)}
    before = 128
    for level, width in enumerate(widths):
        for i in range(2):
            block(f"encoder.down.{level}.block.{i}", before if i == 0 else width, width)
            if level == 4:
                attention(f"encoder.down.4.attn.{i}", width)
        if level < 4:
            shapes[f"encoder.down.{level}.downsample.conv"] = (width, width, 3, 3)
        before = width
    before = 512
    for level, width in reversed(list(enumerate(widths))):
        for i in range(3):
            block(f"decoder.up.{level}.block.{i}", before if i == 0 else width, width)
        if level:
            shapes[f"decoder.up.{level}.upsample.conv"] = (width, width, 3, 3)
        before = width
    return {f"{n}.weight": s for n, s in shapes.items()} | {f"{n}.bias": s[:1] for n, s in shapes.items()}


def test_every_official_name_of_the_full_size_has_its_place():
    official = {name: torch.empty(shape, device="meta") for name, shape in official_full_size().items()}
    assert len(official) == 312
    with torch.device("meta"):
        wanted = {key: tensor.shape for key, tensor in KLTokenizer().state_dict().items()}
    assert {key: tensor.shape for key, tensor in convert_tokenizer(official).items()} == wanted
    model = from_official(SYSTEM, official)
    with torch.device("meta"):
        plain = own(KLTokenizer())
    assert own(model) | {"network": None} == plain | {"network": None}
    assert model.autoencoder.vae.config.block_out_channels == (128, 128, 256, 256, 512)


def test_shapes_tell_what_the_configuration_says():
    told, inferred = from_official(SYSTEM, STATE, CONFIG), from_official(SYSTEM, STATE)
    assert own(told) == own(inferred)
    assert (told.pixel_size, told.downsampling, told.config.scaling_factor) == (64, 4, 0.2325)


def test_wrapped_and_further_keys(recwarn):
    wrapped = {"model": STATE | {"loss.logvar": torch.zeros(1)}, "epoch": 3}
    model = from_official(SYSTEM, wrapped)
    assert not recwarn.list
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    with pytest.warns(UserWarning, match=r"left out 2 tensors .*ema\.decay, discriminator\.weight"):
        other = from_official(SYSTEM, STATE | {"ema.decay": torch.zeros(1), "discriminator.weight": pixels})
    assert torch.equal(other.encode(pixels).latents, model.encode(pixels).latents)
    with pytest.raises(InputError, match="surplus"):
        from_official(SYSTEM, STATE | {"encoder.conv_more.weight": pixels})
    with pytest.raises(InputError, match="missing"):
        from_official(SYSTEM, {k: t for k, t in STATE.items() if k != "encoder.mid.attn_1.q.bias"})


def test_without_variance():
    state = STATE | {name: STATE[name][:8] for name in ("quant_conv.weight", "quant_conv.bias")}
    model = from_official(SYSTEM, state, CONFIG | {"use_variational": False})
    assert not model.config.variational
    assert torch.equal(model.posterior(torch.zeros(1, 3, 8, 8)).logvar, torch.ones(1, 8, 2, 2))


def test_fewer_channels_than_the_decoder_takes():
    """embed_dim and z_channels are two numbers."""
    cut = {"quant_conv.weight": 6, "quant_conv.bias": 6}
    state = STATE | {name: STATE[name][:n] for name, n in cut.items()}
    state["post_quant_conv.weight"] = STATE["post_quant_conv.weight"][:, :3]
    model = from_official(SYSTEM, state, CONFIG | {"embed_dim": 3})
    assert model.encode(torch.zeros(1, 3, 8, 8)).latents.shape == (1, 4, 3)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"ch": 64}, "config.ch=64 does not fit the weights, which have 32"),
        ({"ch_mult": [1, 2]}, "ch_mult"),
        ({"embed_dim": 4}, "embed_dim"),
        ({"encoder_attn_levels": [1]}, "encoder_attn_levels"),
        ({"use_variational": False}, "use_variational"),
        ({"double_z": False}, "double_z"),
        ({"norm_eps": 1e-5}, "norm_eps"),
        ({"norm_groups": 7}, "network|sizes|groups"),
        ({"resolution": 30}, "multiple of 4"),
        ({"heat": 1}, "heat"),
    ],
)
def test_configurations_that_do_not_fit(config, told):
    with pytest.raises(InputError, match=told):
        from_official(SYSTEM, STATE, config)


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
def test_one_bad_tensor(change):
    for key in sorted(STATE)[::41]:
        bad = dict(STATE)
        CHANGES[change](bad, key)
        with pytest.raises(InputError) as caught:
            from_official(SYSTEM, bad)
        assert "\n" not in str(caught.value), key


def test_nothing_and_anothers():
    for state in ({}, {"a": torch.zeros(2)}, {"model": {}}, {"model": {"a": 1}}):
        with pytest.raises(InputError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from_official(SYSTEM, state)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "vae").mkdir()
    torch.save({"model": STATE}, tmp_path / "vae/kl16.ckpt")
    return tmp_path / "vae/kl16.ckpt"


def test_files_and_the_alias(file, monkeypatch):
    monkeypatch.setenv("VISGEN_MODELS", str(file.parents[1]))
    entry, picture = CATALOGUE["kl16"], torch.rand(3, 40, 70)
    assert entry.tasks == ("reconstruct",) and entry.licence == "MIT"
    wanted = from_official(SYSTEM, STATE)
    for name in (file, file.parent, file.parents[1], "kl16"):
        pipe = visgen.load(name)
        assert type(pipe) is ReconstructPipeline and pipe.card["licence"] == "MIT"
        pipe.set_progress_bar_config(disable=True)
        out = pipe(picture)
        assert torch.equal(out.tokens.latents, wanted.encode(wanted.preprocess(picture)).latents)
        assert out.images[0].size == (64, 64) and out.tokens.layout == Grid(16, 16)


def test_safetensors_and_half_precision(file, tmp_path):
    save_file({k: t.half() for k, t in STATE.items()}, tmp_path / "kl16.safetensors")
    file.unlink()
    pipe = visgen.load(tmp_path / "kl16.safetensors", dtype="bfloat16")
    assert pipe.tokenizer.dtype == torch.bfloat16
    assert pipe.encode_images(torch.zeros(1, 3, 16, 16)).latents.dtype == torch.float32
