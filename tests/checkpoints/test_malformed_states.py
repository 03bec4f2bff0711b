"""State dicts of LlamaGen and ELM with a tensor missing, flat, empty, of integers, or renamed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from visgen.checkpoints import from_official
from visgen.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = {
    "llamagen-vq": ("llamagen/vq.weights.safetensors", 9),
    "llamagen": ("llamagen/gpt_t2i.weights.safetensors", 1),
    "elm-bae": ("elm/bae_weights.safetensors", 9),
    "elm-ar": ("elm/ar_weights.safetensors", 1),
    "elm-mlm": ("elm/mlm_weights.safetensors", 1),
}
IGNORED = ("codebook_used", "logsigma", "conv_out", "output", "pos_embed")  # dropped, or told apart by shape

CHANGES = {
    "missing": lambda state, key: state.pop(key),
    "flat": lambda state, key: state.update({key: torch.zeros(2)}),
    "empty": lambda state, key: state.update({key: state[key][:0]}),
    "integers": lambda state, key: state.update({key: state[key].int()}),
    "nan": lambda state, key: state.update({key: torch.full_like(state[key], float("nan"))}),
    "renamed": lambda state, key: state.update({f"{key}.more": state.pop(key)}),
    "number for a name": lambda state, key: state.update({key.replace(".", ".99999.", 1): state.pop(key)}),
}


def states(system):
    file, every = FILES[system]
    state = {key.removeprefix("weights."): t for key, t in load_file(GOLDEN / file).items()}
    keys = [key for key in sorted(state) if not any(word in key for word in IGNORED)]
    return state, keys[::every]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("system", FILES)
def test_one_bad_tensor(system, change):
    state, keys = states(system)
    for key in keys:
        bad = dict(state)
        CHANGES[change](bad, key)
        with pytest.raises(InputError) as caught:
            from_official(system, bad)
        assert "\n" not in str(caught.value), key


@pytest.mark.parametrize("system", FILES)
def test_nothing_and_anothers(system):
    for state in ({}, {"a": torch.zeros(2)}, *(states(other)[0] for other in FILES if other != system)):
        with pytest.raises(InputError):
            from_official(system, state)


@pytest.mark.parametrize("system", FILES)
def test_whole_states_are_taken(system):
    """What the others here are refused for is the change, not the size."""
    meta = json.loads((GOLDEN / "elm/meta.json").read_text())["config"]["bae"]
    config = meta if system == "elm-bae" else None
    from_official(system, states(system)[0], config)
