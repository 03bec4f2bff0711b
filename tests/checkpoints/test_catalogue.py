"""The catalogue of official checkpoints, and reading their files."""

import argparse
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from visgen.checkpoints import OFFICIAL, from_official
from visgen.checkpoints.catalogue import CATALOGUE, aliases_of_repo, entry_of_file, official
from visgen.checkpoints.files import read_state_dict
from visgen.errors import InputError, UnknownNameError
from visgen.nn.entity_sampling import EntitySampling
from visgen.nn.sampling import TokenSampling

STATE = {"a": torch.arange(3.0), "b.weight": torch.eye(2)}


@pytest.mark.parametrize("alias", CATALOGUE)
def test_entries_are_whole(alias):
    entry = official(alias)
    assert entry.alias == alias and entry.licence and entry.repo_id.count("/") == 1
    systems = {entry.system, entry.tokenizer_system}
    whole = ({"transformers"}, {"seed-llama", "seed-tokenizer"})  # repositories that are read whole
    assert systems <= set(OFFICIAL.names()) if entry.files else systems in whole
    assert 1e8 < entry.size_bytes < 1e11 and f"licence {entry.licence}" in entry.about
    family = EntitySampling if entry.system == "xar" else TokenSampling
    family(**entry.sampling)
    assert set(entry.configs) <= set(entry.files)


def test_published_recipe_is_translated():
    sampling = official("var-d16").sampling
    assert sampling["guidance_scale"] == 1 + 1.5 and sampling["guidance_schedule"] == "linear"
    assert (sampling["top_k"], sampling["top_p"]) == (900, 0.96)


def test_sizes():
    assert official("var-d16").size_bytes == pytest.approx((310.3e6 + 108.95e6) * 4, rel=1e-3)
    assert "512×512" in official("var-d36").notes and "256×256" in official("var-d30").notes


def test_lookups():
    assert aliases_of_repo("foundationvision/VAR")[:2] == ["var-d16", "var-d20"]
    assert entry_of_file("var_d24.pth").alias == "var-d24" and entry_of_file("var_d2.pth") is None
    with pytest.raises(UnknownNameError, match="var-d16"):
        official("var-16")
    with pytest.raises(UnknownNameError, match="var-tokenizer"):
        from_official("var-tokeniser", {})


def test_listing_loads_no_torch():
    code = "import sys, visgen.pipelines.listing as l; l.models(); print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
    )


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles(tmp_path, wrapper, zipped):
    path = tmp_path / "weights.pth"
    content = STATE if wrapper is None else {wrapper: STATE, "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    read = read_state_dict(path)
    assert read.keys() == STATE.keys() and all(torch.equal(read[key], STATE[key]) for key in STATE)


def test_safetensors(tmp_path):
    save_file(STATE, tmp_path / "weights.safetensors")
    assert read_state_dict(tmp_path / "weights.safetensors").keys() == STATE.keys()


class Bomb:
    """A pickle that would write a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize(
    "save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))]
)
def test_pickles_with_code_are_refused(tmp_path, save):
    path, target = tmp_path / "weights.pth", tmp_path / "exploded"
    save({"a": STATE["a"], "b": Bomb(target)}, path)
    with pytest.raises(InputError, match="could run code"):
        read_state_dict(path)
    assert not target.exists()


def test_bad_files(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    for name in ("missing.pth", "broken.safetensors", "broken.pth", "empty.pth", "none.pth"):
        with pytest.raises(InputError, match=name):
            read_state_dict(tmp_path / name)
    (tmp_path / "weights.npz").write_bytes(b"")
    with pytest.raises(InputError, match=r"\.npz"):
        read_state_dict(tmp_path / "weights.npz")


def test_training_checkpoints(tmp_path):
    """What LlamaGen's and ELM's trainers write: weights by name, beside arguments and counters."""
    ema = {key: tensor + 1 for key, tensor in STATE.items()}
    arguments = argparse.Namespace(lr=1e-4, sizes=[1, 2], name="run")
    torch.save({"module": STATE, "ema": ema, "args": arguments, "steps": 7}, tmp_path / "weights.th")
    read = read_state_dict(tmp_path / "weights.th")
    assert torch.equal(read["a"], STATE["a"])
    assert torch.equal(read_state_dict(tmp_path / "weights.th", prefer="ema")["a"], ema["a"])
    assert torch.equal(read_state_dict(tmp_path / "weights.th", prefer="other")["a"], STATE["a"])


def test_arguments_that_hold_code_are_refused(tmp_path):
    target = tmp_path / "exploded"
    content = {"model": STATE, "args": argparse.Namespace(callback=Bomb(target))}
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="could run code"):
        read_state_dict(tmp_path / "weights.pt")
    assert not target.exists()


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("gpt/L-2-10.pth", "elm-l-2-10"),
        ("/somewhere/gpt/L-2-10.safetensors", "elm-l-2-10"),
        ("L-2-10.pth", "elm-l-2-10"),
        ("other/L-2-10.pth", None),
        ("/somewhere/c2i_B_256.pt", "llamagen-b"),
        ("c2i_B_256.pth", None),
    ],
)
def test_files_are_told_by_name_and_folder(name, alias):
    entry = entry_of_file(name)
    assert (entry and entry.alias) == alias


def test_tasks():
    assert official("llamagen-t2i-xl").tasks[0] == "text-to-image"
    assert official("llamagen-b").tasks[0] == "class-to-image"
    assert official("elm-bae-20").tasks == ("reconstruct",)
    assert official("xar-b").tasks == ("class-to-image", "reconstruct")
