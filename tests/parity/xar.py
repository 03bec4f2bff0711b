"""xAR: training velocities and loss, sampling by the SDE and by the ODE, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from tests.parity.report import Golden
from visgen.checkpoints import from_official
from visgen.checkpoints.xar import NAMES, sampling_from_official
from visgen.generators.base import GenerationRequest
from visgen.generators.conditions import ClassCondition
from visgen.generators.xar import XARGenerator
from visgen.generators.xar_blocks import time_steps
from visgen.generators.xar_sampling import EntityRun
from visgen.nn.entity_sampling import EntitySampling
from visgen.nn.noise import Noise

INPUTS = (
    "train.latents",
    "train.labels",
    "train.t",
    "train.noise",
    "sample.labels",
    "sample.init_noise",
    "sample.step_noise",
)


def check(golden: Golden) -> None:
    """Every stage of the folder."""
    io, config = golden.load("tensors.safetensors"), golden.meta["config"]
    state = golden.load("weights.safetensors")
    model = from_official(
        "xar",
        {key.removeprefix("weights."): tensor for key, tensor in state.items()},
        {key: config[key] for key in NAMES if key in config},
    )
    with torch.no_grad():
        check_training(golden, io, model)
        check_sampling(golden, io, model, config)
        check_ode(golden, io, model, config)
    golden.finish(io, INPUTS)


def condition(labels: Tensor, model: XARGenerator) -> ClassCondition:
    """The official null class, one above the others, is our -1."""
    return ClassCondition(labels.masked_fill(labels == model.config.num_classes, -1))


def raster(latents_BCHW: Tensor) -> Tensor:
    """Latent maps as (B, h·w, C)."""
    return latents_BCHW.flatten(2).transpose(1, 2)


def check_training(golden: Golden, io: dict[str, Tensor], model: XARGenerator) -> None:
    """Order, noising, time embedding, states, velocities and the loss, noise given; dropouts are 0 there."""
    latents, count = raster(io["train.latents"]), len(model.entities)
    golden.compare("train.clean_tokens", model.entities.order(latents), io["train.clean_tokens"])
    times = io["train.t"].view(count, -1)
    golden.compare("train.time_embed", model.time_embed(times).flatten(0, 1), io["train.time_embed"])
    seen: dict[str, Tensor] = {}
    watched = {
        "x_t": model.z_proj,
        "block0_out": model.encoder_blocks[0],
        "encoder_out": model.encoder_norm,
    }
    hooks = [module.register_forward_hook(keeping(seen, name)) for name, module in watched.items()]
    noise = torch.cat(list(io["train.noise"]), dim=1)
    labels = condition(io["train.labels"], model)
    velocity, loss_BL = model.flow_loss(latents, labels, times.T, noise)
    for hook in hooks:
        hook.remove()
    golden.compare("train.x_t", seen["x_t.in"], io["train.x_t"])
    for name in ("block0_out", "encoder_out"):
        golden.compare(f"train.{name}", seen[name][:, ::8], io[f"train.{name}"])
    golden.compare("train.velocity", velocity, io["train.velocity"])
    golden.compare("train.loss", loss_BL.mean(), io["train.loss"])


def keeping(seen: dict[str, Tensor], name: str) -> Any:
    """A hook that keeps a module's first input and its output."""

    def hook(module: Any, given: tuple[Tensor, ...], made: Tensor) -> None:
        seen[f"{name}.in"], seen[name] = given[0], made

    return hook


class RecordedRun(EntityRun):
    """Keeps both halves of every prediction, also of entities that need no unconditional one."""

    def __init__(self, *arguments: Any) -> None:
        self.calls: list[list[Tensor]] = []
        self.steps: list[list[Tensor]] = []
        super().__init__(*arguments)

    def needs_both(self) -> bool:
        return True

    def predict(self, entity: int, x_RLC: Tensor, t: float) -> Tensor:
        if entity == len(self.calls):
            self.calls.append([])
            self.steps.append([])
        rows = len(x_RLC)
        both = x_RLC if rows == 2 * self.batch_size else x_RLC.repeat(2, 1, 1)
        made = super().predict(entity, both, t)
        self.calls[-1].append(made.float())
        self.steps[-1].append(time_steps(torch.tensor(t)))
        return made[:rows]


def draws(init: Tensor, steps: Tensor | None) -> Iterator[Tensor]:
    """Recorded noise in the order in which it is drawn: of each entity its start, then its steps."""
    per_entity = ([] for _ in init) if steps is None else iter(steps)
    return chain.from_iterable([start, *rest] for start, rest in zip(init, per_entity, strict=True))


def request(
    io: dict[str, Tensor], model: XARGenerator, config: dict[str, Any], *, ode: bool = False
) -> GenerationRequest:
    """Official sampling of the folder's labels, from its noise."""
    steps = config["ode_steps" if ode else "num_steps"]
    sampling = EntitySampling(**sampling_from_official(steps, config["cfg"], ode=ode), float64=True)
    noise = Noise.replayed(draws(io["sample.init_noise"], None if ode else io["sample.step_noise"]))
    return GenerationRequest(condition(io["sample.labels"], model), sampling, noise)


def check_sampling(
    golden: Golden, io: dict[str, Tensor], model: XARGenerator, config: dict[str, Any]
) -> None:
    """First and second velocities of each entity, time steps, entities, and the latent map."""
    run = RecordedRun(model, request(io, model, config))
    result = run.run()
    for index, name in enumerate(("first", "second")):
        made = torch.stack([calls[index] for calls in run.calls])
        golden.compare(f"sample.{name}_call_velocity", made, io[f"sample.{name}_call_velocity"])
    steps = torch.stack([torch.stack(steps) for steps in run.steps])
    golden.compare("sample.timesteps_int", steps, io["sample.timesteps_int"])
    golden.compare("sample.entities", entities(result.tokens.latents, model), io["sample.entities"])
    plain = model.generate(request(io, model, config)).tokens.latents
    golden.compare("sample.tokens", plain.transpose(1, 2), io["sample.tokens"].flatten(2))


def entities(latents_BLC: Tensor, model: XARGenerator) -> Tensor:
    """Latents in raster order as (E, B, n, C)."""
    parts = model.entities.order(latents_BLC).split(model.entities.lengths, dim=1)
    return torch.stack(parts)


def check_ode(golden: Golden, io: dict[str, Tensor], model: XARGenerator, config: dict[str, Any]) -> None:
    """Entities of the deterministic sampler."""
    made = model.generate(request(io, model, config, ode=True)).tokens.latents
    golden.compare("sample_ode.entities", entities(made, model), io["sample_ode.entities"])
