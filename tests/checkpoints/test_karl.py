"""Official KARL files and the KL-16 VAE: key mapping, inferred configurations, files, malformed states."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from visgen.checkpoints import from_official
from visgen.checkpoints.files import read_state_dict
from visgen.checkpoints.karl import convert, heads_of, infer_config
from visgen.checkpoints.klvae16 import klvae_key
from visgen.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden" / "karl"
META = json.loads((GOLDEN / "meta.json").read_text())["variants"]
CHANGES = {
    "missing": lambda state, key: state.pop(key),
    "flat": lambda state, key: state.update({key: torch.zeros(2)}),
    "empty": lambda state, key: state.update({key: state[key][:0]}),
    "integers": lambda state, key: state.update({key: state[key].int()}),
    "nan": lambda state, key: state.update({key: torch.full_like(state[key], float("nan"))}),
    "renamed": lambda state, key: state.update({f"{key}.more": state.pop(key)}),
    "number for a name": lambda state, key: state.update({key.replace(".", ".99999.", 1): state.pop(key)}),
}


def state_of(variant):
    state = load_file(GOLDEN / f"{variant}.weights.safetensors")
    return {key.removeprefix("weights."): t for key, t in state.items()}


@pytest.mark.parametrize("variant", META)
def test_shapes_tell_all_but_heads(variant):
    meta, found = META[variant], infer_config(state_of(variant))
    assert found["image_size"] == 16 * meta["patch_size"]
    assert found["base"]["kind"] == meta["base_tokenizer"]["kind"]
    assert found["quantize"] == meta["quantize_latent"]
    assert found.get("codebook_size") == meta["vq_codebook_size"]
    assert (found["code_dim"], found["max_grid"]) == (meta["vq_token_dim"], meta["max_grid_tokens"])
    for side in ("encoder", "decoder"):
        assert (found[f"{side}_width"], found[f"{side}_layers"]) == (
            meta[side]["width"],
            meta[side]["layers"],
        )
    model = from_official("karl", state_of(variant))
    assert model.pixel_size == meta["base_tokenizer"]["image_size"]


def test_heads_of_the_published_sizes():
    sizes = {(512, 8): 8, (768, 12): 12, (1024, 8): 8, (1024, 16): 16}
    assert {size: heads_of(*size) for size in sizes} == sizes


def test_discriminators_are_dropped_and_prefixes_removed():
    state = state_of("vqgan_continuous")
    training = {"gan_losses.0.discriminator.main.0.weight": torch.zeros(2), "criterion.x": torch.zeros(1)}
    wrapped = {f"module.{key}": t for key, t in (state | training).items()}
    assert convert(wrapped).keys() == convert(state).keys()


def test_the_official_container_gives_its_averaged_weights(tmp_path):
    state = state_of("vqgan_continuous")
    raw = {key: torch.zeros_like(t) for key, t in state.items()}
    content = {"model": raw, "ema": state, "epoch": 3, "args": argparse.Namespace(lr=1.0)}
    torch.save(content, tmp_path / "karl.pth")
    found = read_state_dict(tmp_path / "karl.pth", prefer="ema")
    assert torch.equal(found["latent_tokens"], state["latent_tokens"])
    from_official("karl", found)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("variant", ["vqgan_quantized", "vae_quantized"])
def test_one_bad_tensor(variant, change):
    state = state_of(variant)
    known = {"quantize.embedding.weight"}  # without it: continuous codes
    for key in sorted(key for key in state.keys() - known if "." in key)[::37]:
        bad = dict(state)
        CHANGES[change](bad, key)
        with pytest.raises(InputError) as caught:
            from_official("karl", bad)
        assert "\n" not in str(caught.value), key


@pytest.mark.parametrize(
    "config",
    [
        {"encoder": 8},
        {"encoder": {"heads": 5}},
        {"encoder": {"depth": 5}},
        {"encoder": {"layers": 10**6}},
        {"base_tokenizer": []},
        {"base_tokenizer": {"image_size": 10**9}},
        {"dropout": 0.1},
        {"quantize_latent": True},
    ],
)
def test_configurations_that_do_not_fit(config):
    with pytest.raises(InputError):
        from_official("karl", state_of("vqgan_continuous"), config)


def test_nothing_and_anothers():
    for system in ("karl", "klvae16"):
        for state in ({}, {"a": torch.zeros(2)}):
            with pytest.raises(InputError):
                from_official(system, state)


def test_the_vae_alone_is_that_of_karl():
    prefix = "base_tokenizer.vae."
    state = state_of("vae_quantized")
    own = {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}
    vae = from_official("klvae16", own | {"loss.logvar": torch.zeros(1)})
    inner = from_official("karl", state).base_tokenizer.vae
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(vae.encode(x).latent_dist.mean, inner.encode(x).latent_dist.mean)
    assert vae.config.scaling_factor == 0.2325
    assert vae.config.down_block_types == ("DownEncoderBlock2D", "AttnDownEncoderBlock2D")


@pytest.mark.parametrize(
    ("official", "ours"),
    [
        ("encoder.down.4.attn.1.q.weight", "encoder.down_blocks.4.attentions.1.to_q.weight"),
        ("encoder.down.0.downsample.conv.bias", "encoder.down_blocks.0.downsamplers.0.conv.bias"),
        (
            "encoder.down.2.block.0.nin_shortcut.weight",
            "encoder.down_blocks.2.resnets.0.conv_shortcut.weight",
        ),
        ("decoder.up.4.block.2.norm1.weight", "decoder.up_blocks.0.resnets.2.norm1.weight"),
        ("decoder.up.1.upsample.conv.weight", "decoder.up_blocks.3.upsamplers.0.conv.weight"),
        ("decoder.mid.attn_1.proj_out.weight", "decoder.mid_block.attentions.0.to_out.0.weight"),
        ("decoder.mid.block_2.conv1.weight", "decoder.mid_block.resnets.1.conv1.weight"),
        ("decoder.norm_out.weight", "decoder.conv_norm_out.weight"),
        ("quant_conv.weight", "quant_conv.weight"),
    ],
)
def test_names_of_the_vae(official, ours):
    assert klvae_key(official, levels=5) == ours
