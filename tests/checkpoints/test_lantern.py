"""LANTERN's drafters from official state dicts: shapes tell the configuration, and nothing is left over."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from visgen.checkpoints import from_official
from visgen.checkpoints.lantern import convert_drafter, drafter_config, infer_drafter_config
from visgen.errors import InputError
from visgen.nn.rope import rotate

PUBLISHED = {
    "llamagen": {"hidden": 1280, "heads": 20, "mlp": 3584, "vocab": 16384, "chameleon": False},
    "anole": {"hidden": 4096, "heads": 32, "mlp": 11008, "vocab": 65536, "chameleon": True},
}


def official(hidden, heads, mlp, vocab, chameleon, *, layers=1, device="cpu") -> dict[str, Tensor]:
    """A state dict in the published layout (lantern.md, section 6)."""
    torch.manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device)

    state = {"embed_tokens.weight": random(vocab, hidden)}
    state |= {"fc.weight": random(hidden, 2 * hidden), "fc.bias": random(hidden)}
    for i in range(layers):
        layer = f"layers.{i}"
        for name in ("q", "k", "v", "o"):
            state[f"{layer}.self_attn.{name}_proj.weight"] = random(hidden, hidden)
        if chameleon:
            for name in ("q_norm", "k_norm"):
                state[f"{layer}.self_attn.{name}.weight"] = random(heads, hidden // heads)
                state[f"{layer}.self_attn.{name}.bias"] = random(heads, hidden // heads)
        if chameleon or i:
            state[f"{layer}.input_layernorm.weight"] = random(hidden)
        state[f"{layer}.post_attention_layernorm.weight"] = random(hidden)
        state |= {f"{layer}.mlp.{name}_proj.weight": random(mlp, hidden) for name in ("gate", "up")}
        state[f"{layer}.mlp.down_proj.weight"] = random(hidden, mlp)
    return state


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_told_by_the_shapes(name) -> None:
    sizes = PUBLISHED[name]
    with torch.device("meta"):
        state = official(**sizes, device="meta")
        config = infer_drafter_config(state)
        model = from_official("lantern-drafter", state)
    assert config["num_heads"] == config["num_kv_heads"] == sizes["heads"]
    assert config["mlp_size"] == sizes["mlp"] and config["depth"] == 1
    assert config["first_norm"] == sizes["chameleon"]
    assert sum(p.numel() for p in model.parameters()) == sum(t.numel() for t in state.values())


@pytest.mark.parametrize("chameleon", [False, True])
def test_nothing_is_missing_or_left_over(chameleon) -> None:
    state = official(32, 4, 48, 60, chameleon, layers=2)
    config = {"num_attention_heads": 4, "hidden_size": 32, "pad_token_id": 1, "architectures": ["x"]}
    model = from_official("lantern-drafter", state, config | {"input_type": "t2i2"})
    assert model.config.depth == 2 and tuple(model.config.grid) == (32, 32)
    hidden = torch.randn(1, 6, 32)
    assert torch.isfinite(model(hidden, hidden)).all()
    for change in (
        {"layers.0.mlp.up_proj.bias": torch.zeros(48)},
        {"fc.weight": torch.zeros(32, 32)},
        {"layers.0.self_attn.q_proj.weight": None},
    ):
        broken = {key: tensor for key, tensor in (state | change).items() if tensor is not None}
        with pytest.raises(InputError):
            from_official("lantern-drafter", broken, config)


def test_chameleon_channels_are_reordered_for_pairs_of_neighbours() -> None:
    """Halves turned as the official code does equal our neighbours turned after the conversion."""
    state = official(32, 4, 48, 60, True)
    ours = convert_drafter(state)["layers.0.attn.qkv.weight"][:32].view(4, 8, 32)
    theirs = state["layers.0.self_attn.q_proj.weight"].view(4, 8, 32)
    x, angles = torch.randn(32), torch.randn(1, 1, 4)
    found = rotate((ours @ x)[None, :, None], (angles.cos()[0], angles.sin()[0]))[0, :, 0]
    a, b = (theirs @ x).chunk(2, dim=-1)
    cos, sin = angles.cos()[0], angles.sin()[0]
    assert torch.allclose(found[:, 0::2], a * cos - b * sin, atol=1e-5)
    assert torch.allclose(found[:, 1::2], b * cos + a * sin, atol=1e-5)


def test_input_types() -> None:
    assert drafter_config({"input_type": "c2i"}) == {"prefix_length": 0, "grid": (24, 24)}
    assert drafter_config({"num_hidden_layers": 3, "bos_token_id": 1}) == {"depth": 3}
    with pytest.raises(InputError, match="t2i, t2i2, c2i"):
        drafter_config({"input_type": "video"})
