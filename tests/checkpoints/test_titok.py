"""Official layouts of TiTok, its generators and RAR: inference from shapes, configurations, broken states,
`visgen.load` by alias."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import visgen
from visgen.checkpoints import from_official
from visgen.checkpoints.catalogue import CATALOGUE
from visgen.checkpoints.maskgit import sampling_from_official
from visgen.checkpoints.rar import sampling_from_official as rar_sampling_from_official
from visgen.errors import InputError
from visgen.nn.masked_sampling import MaskGITSampling
from visgen.nn.sampling import TokenSampling
from visgen.tokenizers.maskgit_vqgan import MaskGITTokenizer
from visgen.tokenizers.titok import TiTokTokenizer

GOLDEN = Path(__file__).parents[1] / "golden/titok"
META = json.loads((GOLDEN / "meta.json").read_text())["models"]
WEIGHTS = load_file(GOLDEN / "weights.safetensors")
SYSTEMS = {
    "TiTok": "titok",
    "TATiTok": "titok",
    "ImageBert": "titok-maskgit",
    "UViTBert": "titok-maskgit",
    "RAR": "rar",
}


def state_of(tag):
    prefix = f"{tag}.weights."
    return {key.removeprefix(prefix): t for key, t in WEIGHTS.items() if key.startswith(prefix)}


def system_of(tag):
    return SYSTEMS[META[tag]["class"]]


def changed(tag, part="vq_model", **values):
    config = json.loads(json.dumps(META[tag]["config"]))
    config["model"][part].update(values)
    return config


def own(config):
    return {key: value for key, value in config.items() if not key.startswith("_")}


@pytest.mark.parametrize("tag", META)
def test_shapes_tell_what_the_configuration_says(tag):
    """All but heads of the tiny generators and dropouts; published ones have 16."""
    told = own(from_official(system_of(tag), state_of(tag), META[tag]["config"]).config)
    inferred = own(from_official(system_of(tag), state_of(tag)).config)
    different = {key for key in told if told[key] != inferred[key]}
    assert different <= {"num_heads", "dropout", "attention_dropout", "normalize_codes"}
    if "normalize_codes" in different:
        assert tag == "vae"  # it has no codes


def test_wrapped_and_further_keys():
    state = {f"module.{key}": t for key, t in state_of("rgb").items()}
    state["module.quantize.embed_prob"] = torch.zeros(48)
    from_official("titok", state, META["rgb"]["config"])
    bert = state_of("bert") | {"model.embeddings.position_ids": torch.arange(9)[None]}
    from_official("titok-maskgit", bert, META["bert"]["config"])
    from_official("rar", state_of("rar") | {"attn_mask": torch.zeros(3, 3)}, META["rar"]["config"])


CHANGES = {
    "missing": lambda state, key: state.pop(key),
    "flat": lambda state, key: state.update({key: torch.zeros(2)}),
    "empty": lambda state, key: state.update({key: state[key][:0]}),
    "integers": lambda state, key: state.update({key: state[key].int()}),
    "nan": lambda state, key: state.update({key: torch.full_like(state[key], float("nan"))}),
    "renamed": lambda state, key: state.update({f"{key}.more": state.pop(key)}),
    "number for a name": lambda state, key: state.update({key.replace(".", ".99999.", 1): state.pop(key)}),
}


def refused(tag, change, every):
    """Every so many keys of a state, one of them changed at a time."""
    keys = [key for key in sorted(state_of(tag)) if "." in key or change != "number for a name"]
    if change in ("missing", "renamed"):  # without its codebook it is a continuous tokenizer: told below
        keys = [key for key in keys if key != "quantize.embedding.weight"]
    for key in keys[::every]:
        bad = state_of(tag)
        CHANGES[change](bad, key)
        with pytest.raises(InputError) as caught:
            from_official(system_of(tag), bad)
        assert "\n" not in str(caught.value), key


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("tag", ["legacy", "uvit", "rar"])
def test_one_bad_tensor(tag, change):
    refused(tag, change, 29)


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("tag", META)
def test_any_bad_tensor(tag, change):
    refused(tag, change, 1)


def test_a_missing_codebook():
    state = state_of("rgb")
    del state["quantize.embedding.weight"]
    with pytest.raises(InputError, match="conv_out"):
        from_official("titok", state)


@pytest.mark.parametrize("system", ["titok", "titok-maskgit", "rar", "maskgit-vqgan"])
def test_nothing_and_anothers(system):
    others = [state_of(tag) for tag in META if system_of(tag) != system]
    for state in ({}, {"a": torch.zeros(2)}, *others):
        with pytest.raises(InputError):
            from_official(system, state)


@pytest.mark.parametrize(
    ("tag", "config", "told"),
    [
        ("legacy", changed("legacy", is_legacy=False), "is_legacy"),
        ("rgb", changed("rgb", is_legacy=True), "is_legacy"),
        ("rgb", changed("rgb", quantize_mode="vae"), "quantize_mode"),
        ("legacy_stage1", changed("legacy_stage1", finetune_decoder=True), "finetune_decoder"),
        ("rgb", changed("rgb", vit_enc_model_size="large"), "vit_enc_model_size"),
        ("rgb", changed("rgb", num_latent_tokens=9), "num_tokens|latent_token"),
        ("rgb", changed("rgb", heat=1), "heat"),
        ("rgb", {"model": [1]}, "mapping"),
        ("rgb", {"dataset": {"preprocessing": {"crop_size": 64}}}, "positional_embedding"),
        ("bert", changed("bert", "generator", num_attention_heads=5), "num_heads=5"),
        ("bert", changed("bert", "generator", heat=5), "heat"),
        ("uvit", changed("uvit", "generator", image_seq_len=9), "pos_embed"),
        ("rar", changed("rar", "generator", image_seq_len="many"), "image_seq_len"),
        ("rar", changed("rar", "generator", image_seq_len=8), "place"),
        ("rar", changed("rar", "generator", num_hidden_layers=3), "missing"),
    ],
)
def test_configurations_that_do_not_fit(tag, config, told):
    with pytest.raises(InputError, match=told):
        from_official(system_of(tag), state_of(tag), config)


def test_tables_of_another_size():
    state = state_of("rar")
    state["pos_embed"] = state["pos_embed"][:, :1000]
    with pytest.raises(InputError, match="1024 more"):
        from_official("rar", state)


def test_sequences_that_are_no_square():
    state = state_of("rar")
    for key in ("pos_embed", "target_aware_pos_embed", "timesteps_embeddings"):
        state[key] = state[key][:, :-1]
    assert from_official("rar", state).config.grid == (8,)


def test_official_sampling_is_translated():
    linear = MaskGITSampling(**sampling_from_official(4.5, "linear", randomize_temperature=9.5))
    assert (linear.guidance_scale, linear.guidance_schedule) == (5.5, "maskgit_linear")
    assert (linear.choice_temperature, linear.num_inference_steps, linear.annealing) == (9.5, 8, False)
    cosine = MaskGITSampling(**sampling_from_official(6.9, "power-cosine", 3.0))
    assert (cosine.guidance_scale, cosine.guidance_schedule) == (6.9, "power_cosine:3.0")
    assert sampling_from_official(0.0)["guidance_scale"] == 1.0
    rar = TokenSampling(**rar_sampling_from_official(15.5, 2.5, 1.02))
    assert (rar.guidance_scale, rar.guidance_schedule, rar.temperature) == (15.5, "power_cosine:2.5", 1.02)
    assert rar_sampling_from_official(0.0, 2.5) == {"temperature": 1.0}
    with pytest.raises(InputError, match="guidance_decay"):
        sampling_from_official(1.0, "cosine")


def official_vqgan(model):
    """Our keys as the official ones."""
    out = {}
    for key, tensor in model.state_dict().items():
        key = key.replace("mid.block_1", "mid.0").replace("mid.block_2", "mid.1")
        out[key.replace("upsample.conv", "upsample_conv").replace("vq.", "quantize.", 1)] = tensor
    return out


def tiny_vqgan():
    torch.manual_seed(0)
    return MaskGITTokenizer(256, 64, 16, ch=32, ch_mult=(1, 2, 2, 2, 1), num_res_blocks=1).eval()


def test_vqgan():
    model, images = tiny_vqgan(), torch.rand(1, 3, 32, 32) * 2 - 1
    found = from_official("maskgit-vqgan", official_vqgan(model))
    assert own(found.config) == own(model.config)
    assert torch.equal(found.decode(found.encode(images)), model.decode(model.encode(images)))
    assert from_official("maskgit-vqgan", official_vqgan(model), {"image_size": 128}).pixel_size == 128
    with pytest.raises(InputError, match="heat"):
        from_official("maskgit-vqgan", official_vqgan(model), {"heat": 1})


def test_loading_titok_by_alias(tmp_path, monkeypatch):
    """Tiny official weights under the published names."""
    torch.save(state_of("legacy"), tmp_path / "tokenizer_titok_l32.bin")
    torch.save(state_of("bert"), tmp_path / "generator_titok_l32.bin")
    monkeypatch.setenv("VISGEN_MODELS", str(tmp_path))
    pipe = visgen.load("titok-l32")
    pipe.set_progress_bar_config(disable=True)
    config, entry = pipe.generator.config, CATALOGUE["titok-l32"]
    assert (config.num_inference_steps, config.choice_temperature, config.annealing) == (8, 9.5, True)
    assert pipe.sampling == TokenSampling(**entry.sampling) and entry.tasks[0] == "class-to-image"
    one, two = pipe([3, 4], seed=1), pipe(4, seed=1)
    assert torch.equal(one.tokens.ids[1:], two.tokens.ids) and one.stats["passes"] == [8, 8]
    pipe.save_pretrained(tmp_path / "saved")
    again = visgen.load(tmp_path / "saved")
    again.set_progress_bar_config(disable=True)
    assert torch.equal(again([3, 4], seed=1).tokens.ids, one.tokens.ids)


def test_loading_rar_by_alias(tmp_path, monkeypatch):
    """Its tokenizer lies in another repository."""
    (tmp_path / "yucornetto/RAR").mkdir(parents=True)
    (tmp_path / "fun-research/TiTok").mkdir(parents=True)
    torch.save(state_of("rar"), tmp_path / "yucornetto/RAR/rar_b.bin")
    torch.save(
        official_vqgan(tiny_vqgan()), tmp_path / "fun-research/TiTok/maskgit-vqgan-imagenet-f16-256.bin"
    )
    monkeypatch.setenv("VISGEN_MODELS", str(tmp_path))
    pipe = visgen.load("rar-b")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.sampling.guidance_schedule == "power_cosine:2.75"
    plain = pipe([3, 4], seed=1, top_k=1)
    assert plain.images[0].size == (48, 48)
    for strategy in ("jacobi:3", "sjd:3"):
        assert torch.equal(pipe([3, 4], seed=1, top_k=1, strategy=strategy).tokens.ids, plain.tokens.ids)


@pytest.mark.parametrize(("size", "million"), [("large", 641), ("base", 204.8), ("small", 83.7)])
def test_full_sizes(size, million):
    """Parameters of the published legacy tokenizers."""
    from visgen.checkpoints.titok import PUBLISHED

    sizes, tokens = PUBLISHED[size], {"large": 32, "base": 64, "small": 128}[size]
    with torch.device("meta"):
        model = TiTokTokenizer(num_tokens=tokens, encoder_sizes=sizes, decoder_sizes=sizes)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(million, rel=2e-3)
