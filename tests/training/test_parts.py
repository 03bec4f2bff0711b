"""Averaged weights, optimizer split, frozen parts, losses."""

import pytest
import torch
from torch import nn
from toy import ToyModel, ToyObjective

from visgen.errors import InputError
from visgen.training import OBJECTIVES
from visgen.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from visgen.training.ema import Ema, ema_decay
from visgen.training.losses import (
    AdversarialLoss,
    PatchDiscriminator,
    gradient_loss,
    object_weight,
    pixel_loss,
)
from visgen.training.muon import Muon, orthogonal
from visgen.training.optimizers import build_optimizers
from visgen.training.recipe import EmaSpec, OptimizerSpec


def test_ema_follows_and_copies_buffers():
    model = ToyModel()
    ema = Ema(model, EmaSpec(decay=0.9, warmup=False))
    before = model.head.weight.detach().clone()
    with torch.no_grad():
        model.head.weight += 1
        model.seen += 3
    ema.update(0)
    assert torch.allclose(ema.model.head.weight, before + 0.1) and ema.model.seen == 3
    assert not ema.model.head.weight.requires_grad and model.head.weight.requires_grad
    assert Ema(model, None).model is model
    assert [ema_decay(EmaSpec(0.9), step) for step in (0, 8, 1000)] == [0.1, 0.5, 0.9]


def test_tied_weights_come_through_a_checkpoint(tmp_path):
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    ema = Ema(model, EmaSpec(decay=0.5, warmup=False))
    with torch.no_grad():
        model["head"].weight += 1
    ema.update(0)
    assert ema.model["head"].weight is ema.model["embed"].weight
    made = Checkpoint(dict(model.state_dict()), dict(ema.model.state_dict()), {}, {"step": 1})
    found = load_checkpoint(save_checkpoint(tmp_path, 1, made, keep=1))
    for wanted, state in ((model, found.objective), (ema.model, found.ema)):
        assert torch.equal(state["embed.weight"], wanted["embed"].weight)
        assert torch.equal(state["head.weight"], wanted["embed"].weight)


def test_muon_takes_the_matrices_and_adamw_the_rest():
    objective = ToyObjective(adversary=True)
    adamw, muon = build_optimizers(objective, OptimizerSpec("muon")).optimizers
    assert [id(p) for group in muon.param_groups for p in group["params"]] == [
        id(objective.model.blocks[0].weight)
    ]
    decay, spared = adamw.param_groups
    assert [p.ndim for p in decay["params"]] == [2] and {p.ndim for p in spared["params"]} == {1}
    assert (decay["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    assert len(build_optimizers(objective, OptimizerSpec()).optimizers) == 1
    optimizers = build_optimizers(objective, OptimizerSpec("muon", lr=1.0, muon_lr=2.0))
    optimizers.set_factor(0.5)
    assert [group["lr"] for o in optimizers.optimizers for group in o.param_groups] == [0.5, 0.5, 1.0]


def test_muon_needs_matrices():
    objective = ToyObjective()
    objective.matrices = lambda name, parameter: False
    with pytest.raises(InputError, match="finds no matrices"):
        build_optimizers(objective, OptimizerSpec("muon"))
    with pytest.raises(ValueError, match=r"not a parameter of shape \(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1)


def test_orthogonal_matrices_keep_their_singular_vectors():
    torch.manual_seed(0)
    for shape in ((6, 4), (4, 6)):
        matrices = torch.randn(3, *shape)
        for matrix, found in zip(matrices, orthogonal(matrices), strict=True):
            u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
            inner = u.T @ found @ vh.T
            assert (inner - inner.diag().diag()).abs().max() < 1e-4
            assert inner.diag().min() > 0.3 and inner.diag().max() < 1.3


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch's Muon came with 2.9")
def test_muon_steps_as_torchs_does():
    torch.manual_seed(0)
    start = [torch.randn(6, 4), torch.randn(6, 4), torch.randn(3, 5)]
    ours, theirs = ([nn.Parameter(t.clone()) for t in start] for _ in range(2))
    library = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    for optimizer, parameters in ((Muon(ours, 0.1, weight_decay=0.05), ours), (library, theirs)):
        for step in range(3):
            for p in parameters:
                p.grad = (p.detach() + step).sin()
            optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=0.01, rtol=0.02)  # torch's works in bfloat16


def test_frozen_parts_are_neither_trained_nor_stored():
    class Frozen(ToyObjective):
        frozen = ("teacher", "absent")

        def __init__(self):
            super().__init__()
            self.teacher, self.absent = nn.Sequential(nn.Linear(2, 2), nn.Dropout()), None

    objective = Frozen().train()
    objective.freeze()
    assert not objective.teacher[1].training and objective.model.training
    assert not any(p.requires_grad for p in objective.teacher.parameters())
    state = objective.training_state()
    assert not any("teacher" in name for name in [*state, *dict(objective.trained())])
    objective.load_training_state(state)
    with pytest.raises(ValueError, match=r"model\.seen"):
        objective.load_training_state({k: v for k, v in state.items() if k != "model.seen"})


def test_pixel_losses():
    target = torch.zeros(1, 3, 32, 32)
    assert pixel_loss(target + 0.5, target) == 1.0
    assert pixel_loss(target + 0.5, target, torch.full((1, 1, 32, 32), 3.0)) == 3.0
    assert gradient_loss(target + 0.5, target) == 0
    ramp = torch.arange(32.0).expand(1, 3, 32, 32)
    assert gradient_loss(ramp, target) == 1.0
    spot = target.clone()
    spot[..., 16, 16] = 1
    weight = object_weight(spot)
    assert weight.shape == (1, 1, 32, 32) and weight[0, 0, 16, 16] == 5 and weight[0, 0, 0, 31] == 1
    blur = nn.functional.avg_pool2d(spot, 21, 1, 10, count_include_pad=False)
    assert torch.allclose(weight, 1 + 4 * (4 * (spot - blur).abs().mean(1, keepdim=True)).clamp(max=1))


def test_adversarial_terms():
    layer, images = nn.Conv2d(3, 3, 1), torch.randn(2, 3, 32, 32)
    gan = AdversarialLoss(weight=0.5, start_step=4, warmup_steps=2, hidden_size=8, num_layers=2)
    recon = layer(images)
    base = (recon - images).square().mean()
    assert gan.generator_term(recon, base, layer.weight, 3) == {}
    term = gan.generator_term(recon, base, layer.weight, 4)
    ours, theirs = (
        torch.autograd.grad(x, layer.weight, retain_graph=True)[0] for x in (term["adversarial"], base)
    )
    assert ours.norm() == pytest.approx(0.5 * theirs.norm().item(), rel=0.05)
    assert gan.discriminator_term(images, recon.detach(), 1) is None
    gan.discriminator_term(images, recon.detach(), 2)["loss"].backward()
    assert all(p.grad is not None for p in gan.parameters()) and layer.weight.grad is None
    assert PatchDiscriminator(8, 3)(torch.zeros(1, 3, 64, 64)).shape == (1, 1, 6, 6)


def test_importing_the_package_loads_no_torch():
    import subprocess
    import sys

    code = "import sys, visgen.training; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert "multiscale-tokenizer" in OBJECTIVES
