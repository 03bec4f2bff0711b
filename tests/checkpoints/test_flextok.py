"""Official FlexTok files: where their configuration is, classes that are known, keys that are tolerated."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import visgen
from visgen.checkpoints import from_official
from visgen.checkpoints.catalogue import CATALOGUE
from visgen.checkpoints.flextok_config import modules_of, read_config
from visgen.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden/flextok"
IMAGES = load_file(GOLDEN / "cases.safetensors")["enc.images"]
OVERRIDES = {"norm_num_groups": 4}
DECODER, ENCODER = "decoder.module_dict.", "encoder.module_dict."


@pytest.fixture(scope="module")
def state():
    return load_file(GOLDEN / "model.safetensors")


@pytest.fixture
def config():
    content = json.loads((GOLDEN / "config.json").read_text())
    content["vae"] |= OVERRIDES
    return content


@pytest.fixture(scope="module")
def ids():
    return load_file(GOLDEN / "cases.safetensors")["enc.token_ids"]


def encoded(state, config):
    return from_official("flextok", state, config).encode(IMAGES).ids


def test_the_header_and_the_file_beside_tell_the_same(tmp_path):
    content = json.loads((GOLDEN / "config.json").read_text())
    header = read_config(GOLDEN / "model.safetensors")
    assert header.pop("_target_") == "flextok.flextok_wrapper.FlexTok" and header == content
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert read_config(tmp_path / "model.safetensors") is None
    for whole in (content, {"config": content}):
        (tmp_path / "config.json").write_text(json.dumps(whole))
        assert read_config(tmp_path / "model.safetensors") == content


@pytest.mark.parametrize("header", [b"", b"\xff" * 20, (5).to_bytes(8, "little") + b"[1,2]"])
def test_a_broken_header_holds_no_configuration(tmp_path, header):
    (tmp_path / "model.safetensors").write_bytes(header)
    assert read_config(tmp_path / "model.safetensors") is None


def test_sections_may_be_python_literals_or_lie_under_config(state, config, ids):
    strings = {key: repr(value) for key, value in config.items()}
    for one in (config, strings, {"config": config}):
        assert torch.equal(encoded(state, one), ids)


def test_text_is_read_as_literals_and_never_run(state, config):
    config["encoder"] = "__import__('pathlib').Path('/tmp/never').touch()"
    with pytest.raises(InputError, match=r"config\.encoder"):
        from_official("flextok", state, config)
    assert not Path("/tmp/never").exists()


def wrapped(state):
    return {key.replace(".blocks.", ".blocks._checkpoint_wrapped_module."): t for key, t in state.items()}


def old_attention(state):
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    out = {}
    for key, tensor in state.items():
        for new, old in names.items():
            if f".attentions.0.{new}." in key:
                key = key.replace(f".{new}.", f".{old}.")
                tensor = tensor[..., None, None] if key.endswith("weight") else tensor
        out[key] = tensor
    assert out.keys() != state.keys()
    return out


def with_logvar(state):
    return state | {"vae.logvar": torch.zeros(1)}


@pytest.mark.parametrize("change", [wrapped, old_attention, with_logvar])
def test_forms_of_the_state_that_are_tolerated(state, config, ids, change):
    assert torch.equal(encoded(change(state), config), ids)


def test_the_head_for_alignment_is_dropped(state, config, ids):
    head = {f"{DECODER}dec_repa_head.mlp.{n}.weight": torch.zeros(48, 48) for n in (1, 3)}
    with pytest.raises(InputError, match="dec_repa_head"):
        from_official("flextok", state | head, config)
    config["decoder"]["module_dict"]["dec_repa_head"] = {"_target_": "any.where.MLPHead", "dim": 48}
    assert torch.equal(encoded(state | head, config), ids)


def test_names_of_modules_are_the_files_own(state, config, ids):
    for section in ("encoder", "decoder"):
        modules = config[section]["module_dict"]
        config[section]["module_dict"] = {f"part{i}": entry for i, entry in enumerate(modules.values())}
        names = {
            f"{section}.module_dict.{old}.": f"{section}.module_dict.part{i}."
            for i, old in enumerate(modules)
        }
        for old, new in names.items():
            state = {key.replace(old, new): tensor for key, tensor in state.items()}
    assert torch.equal(encoded(state, config), ids)


def test_a_longer_table_of_register_positions_is_cut(state, config, ids):
    key = f"{DECODER}dec_registers_posemb_module.posembs"
    longer = state | {key: torch.cat([state[key], torch.ones(1, 1, 48, 4)], dim=-1)}
    config["decoder"]["module_dict"]["dec_registers_posemb_module"]["max_sizes"] = [20]
    model, plain = from_official("flextok", longer, config), from_official("flextok", state, config)
    assert torch.equal(model.encode(IMAGES).ids, ids)
    assert torch.equal(model.decoder.register_positions(16), plain.decoder.register_positions(16))


def changed(config, path, value):
    out = copy.deepcopy(config)
    *parents, last = path
    inner = out
    for part in parents:
        inner = inner[part]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return out


MODULES = ("encoder", "module_dict")
BAD_CONFIGS = {
    "no section": (("regularizer",), None, "config.regularizer"),
    "foreign class": (("regularizer", "_target_"), "os.system", "only FSQ is known"),
    "foreign module": ((*MODULES, "enc_unpacker", "_target_"), "os.system", "not known there"),
    "decoder's class": ((*MODULES, "enc_unpacker", "_target_"), "a.LearnedNullCond", "not known there"),
    "no class": ((*MODULES, "enc_unpacker"), {"dim": 3}, "_target_"),
    "no entry": ((*MODULES, "enc_unpacker"), [1], "_target_"),
    "no modules": (MODULES, "text", "module_dict"),
    "a module twice": ((*MODULES, "again"), {"_target_": "a.Registers1D"}, "a second module"),
    "a module missing": ((*MODULES, "enc_register_module"), None, "role registers"),
    "biases": ((*MODULES, "enc_transformer", "qkv_bias"), True, "qkv_bias"),
    "another mask": ((*MODULES, "enc_seq_packer", "mask_mode"), "full", "mask_mode"),
    "another width": ((*MODULES, "enc_transformer", "dim"), 64, "fit"),
    "a deep model": ((*MODULES, "enc_transformer", "depth"), 10**9, "layers"),
    "text for a size": ((*MODULES, "enc_transformer", "dim"), "wide", "width"),
    "no size": ((*MODULES, "enc_transformer", "dim"), None, "size cannot be told"),
    "no heads": ((*MODULES, "enc_transformer", "head_dim"), 0, "head_dim"),
    "three axes": ((*MODULES, "enc_posemb_module", "max_sizes"), [4, 4, 4], "max_sizes"),
    "a huge table": ((*MODULES, "enc_posemb_module", "max_sizes"), [10**9, 10**9], "flextok|FlexTok"),
    "oblong patches": ((*MODULES, "enc_patch_emb", "patch_sizes"), [2, 1], "patch_sizes"),
    "other positions": ((*MODULES, "enc_posemb_module", "posemb_type"), "rotary", "positions"),
    "levels": (("regularizer", "levels"), [8, 8], "fit"),
    "levels as text": (("regularizer", "levels"), "many", "levels"),
    "no factor": (("vae", "scaling_factor"), None, "scaling_factor"),
    "groups": (("vae", "norm_num_groups"), 7, "latents|config"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_configurations_that_do_not_fit(state, config, case):
    path, value, told = BAD_CONFIGS[case]
    with pytest.raises(InputError, match=told) as caught:
        from_official("flextok", state, changed(config, path, value))
    assert "\n" not in str(caught.value)


def test_shapes_alone_do_not_tell(state):
    with pytest.raises(InputError, match="config=None"):
        from_official("flextok", state)


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
def test_one_bad_tensor(state, config, change):
    keys = [key for key in sorted(state) if not key.startswith("vae.")][::5] + [
        key for key in sorted(state) if key.startswith("vae.")
    ][::12]
    for key in keys:
        bad = dict(state)
        CHANGES[change](bad, key)
        with pytest.raises(InputError) as caught:
            from_official("flextok", bad, config)
        assert "\n" not in str(caught.value), key


def test_roles_of_the_golden(config):
    assert modules_of(config, 1)["register_positions"][0] == "dec_registers_posemb_module"
    assert modules_of(config, 0)["blocks"][1]["depth"] == 2


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("name", ["flextok_d12_d12_in1k", "mine"])
def test_a_local_folder_loads_as_it_was_published(state, config, ids, tmp_path, inside, name):
    folder = tmp_path / name
    folder.mkdir()
    header = {key: repr(value) for key, value in config.items()} if inside else None
    save_file(state, folder / "model.safetensors", metadata=header)
    if not inside:
        (folder / "config.json").write_text(json.dumps(config))
    for path in (folder, folder / "model.safetensors"):
        pipe = visgen.load(path)
        assert type(pipe).__name__ == "ReconstructPipeline" and "research" in pipe.card["licence"]
        assert torch.equal(pipe.tokenizer.encode(IMAGES).ids, ids)


def test_an_alias_is_found_in_the_models_folder(state, config, ids, tmp_path, monkeypatch):
    entries = [entry for entry in CATALOGUE.values() if entry.system == "flextok"]
    assert [entry.alias for entry in entries] == [
        "flextok-d12-d12", "flextok-d18-d18", "flextok-d18-d28", "flextok-d18-d28-dfn"
    ]  # fmt: skip
    folder = tmp_path / "flextok-d12-d12"
    folder.mkdir()
    header = {key: repr(value) for key, value in config.items()}
    save_file(state, folder / "model.safetensors", metadata=header)
    monkeypatch.setenv("VISGEN_MODELS", str(tmp_path))
    assert torch.equal(visgen.load("flextok-d12-d12").tokenizer.encode(IMAGES).ids, ids)


def test_a_file_of_that_name_is_not_taken_for_flextok(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="is no model"):
        visgen.load(tmp_path)
    shutil.copy(GOLDEN / "config.json", tmp_path / "config.json")
    with pytest.raises(InputError):
        visgen.load(tmp_path)
