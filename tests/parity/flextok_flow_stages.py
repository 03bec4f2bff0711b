"""FlexTok's flow: sampling runs, guidance formulas, laws of sigma, draws of the number of tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.parity.report import Golden
from visgen.nn.flow import FlowSampling, ProjectedGuidance, SigmaLaw, flow_pair, guide, mode_sigma
from visgen.nn.noise import Noise
from visgen.tokenizers.flextok import FlexTokTokenizer
from visgen.tokenizers.tokens import ImageTokens, Sequence1D
from visgen.training.flextok import keep_count

Tensors = dict[str, Tensor]
NUMBER = r"(-?\d+(?:\.\d+)?)"


@dataclass(frozen=True)
class Ramp(FlowSampling):
    """A guidance scale of start + slope · t, as the official code takes any function."""

    start: float = 1.0
    slope: float = 0.0

    def scale_at(self, t: float) -> float:
        return self.start + self.slope * t


def sampling_of(name: str, case: Any, steps: int) -> FlowSampling:
    """The sampling of a case: {"guidance_scale", "apg", "steps"}, or words; its name may tell "apg" too."""
    if isinstance(case, dict):
        guidance = "apg" if case.get("apg", "apg" in name) else "cfg"
        return FlowSampling(case.get("steps", steps), case.get("guidance_scale", 1.0), guidance)
    guidance = "apg" if "apg" in name else "cfg"
    if ramp := re.search(rf"guidance\(t\) = {NUMBER} \+ {NUMBER} ?\*? ?t", case):
        return Ramp(steps, guidance=guidance, start=float(ramp[1]), slope=float(ramp[2]))
    found = re.search(rf"guidance {NUMBER}", case)
    assert found, case
    return FlowSampling(steps, float(found[1]), guidance)


@torch.no_grad()
def check_sampling(golden: Golden, io: Tensors, model: FlexTokTokenizer) -> None:
    """Latents and images of each run, from recorded or seeded noise."""
    cases, ids = golden.meta["cases"]["sample"], io["enc.token_ids"]
    names = {key.split(".")[2] for key in io if key.startswith(("sample.latents.", "sample.images."))}
    for name in sorted(names):
        lengths = [model.layout.n] * len(ids) if name.startswith("full") else cases["prefix_lengths"]
        mask = torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]
        tokens = ImageTokens(Sequence1D(ids.shape[1]), ids=ids, mask=mask)
        sampling, start = sampling_of(name, cases[name], cases["steps"]), noise_of(name, io["sample.noise"])
        for collapse in (True, False):
            latents = model.decode_latents(
                tokens,
                sampling=sampling,
                noise=Noise.replayed([start]),
                size=tuple(start.shape[-2:]),
                collapse=collapse,
            )
            if (stage := f"sample.latents.{name}") in io:
                golden.compare(stage, latents, io[stage])
            if (stage := f"sample.images.{name}") in io:
                golden.compare(stage, model.codec.decode(latents), io[stage])


def noise_of(name: str, recorded: Tensor) -> Tensor:
    """Noise of a run: drawn image by image where its name tells a seed."""
    found = re.match(r"seed(\d+)", name)
    if found is None:
        return recorded
    generator = torch.Generator().manual_seed(int(found[1]))
    return torch.cat([torch.randn(1, *recorded.shape[1:], generator=generator) for _ in recorded])


def check_guidance(golden: Golden, io: Tensors) -> None:
    """Plain guidance and projected guidance with and without its parts."""
    case, uncond = golden.meta["cases"]["guid.*"], io["guid.uncond"]
    golden.compare("guid.cfg", guide(io["guid.cond"], uncond, case["cfg"]), io["guid.cfg"])
    scale, projected = case["apg"], ProjectedGuidance()
    for step, cond in ((1, "guid.cond"), (2, "guid.cond2")):
        golden.compare(f"guid.apg.step{step}", projected(io[cond], uncond, scale), io[f"guid.apg.step{step}"])
    golden.compare(
        "guid.apg.small", ProjectedGuidance()(io["guid.small_cond"], uncond, scale), io["guid.apg.small"]
    )
    for stage in [key for key in io if key.startswith("guid.apg.nomomentum")]:
        eta, threshold = (float(re.search(rf"{key}{NUMBER}", stage)[1]) for key in ("eta", "thr"))  # type: ignore[index]
        plain = ProjectedGuidance(0.0, threshold, eta)
        golden.compare(stage, plain(io["guid.cond"], uncond, scale), io[stage])


def check_sigmas(golden: Golden, io: Tensors) -> None:
    """The map of mode sampling, and seeded draws."""
    for stage in [key for key in io if key.startswith("noise.")]:
        if stage.startswith("noise.sigma.mode"):
            scale = float(stage.removeprefix("noise.sigma.mode"))
            golden.compare(stage, mode_sigma(io["noise.u"], scale), io[stage])
        elif found := re.fullmatch(r"noise\.(.+)\.seed(\d+)\.(sigma|noised)", stage):
            generator = torch.Generator().manual_seed(int(found[2]))
            sigma = law_of(found[1]).draw(len(io["enc.latents"]), generator)
            made = flow_pair(io["enc.latents"], io["sample.noise"], sigma)[0]
            golden.compare(stage, sigma if found[3] == "sigma" else made, io[stage])


def law_of(name: str) -> SigmaLaw:
    """ "ln", "ln_strat" or "mode0.25"."""
    if name.startswith("mode"):
        return SigmaLaw("mode", mode_scale=float(name.removeprefix("mode")))
    return SigmaLaw("logit_normal", stratified=name.endswith("strat"))


def check_keep_counts(golden: Golden) -> None:
    """Draws of the number of kept tokens, from numpy's generator as in the official code."""
    for key, modes in golden.meta["cases"].items():
        if found := re.fullmatch(r"keep_k_sampling\(np\.random\.seed\((\d+)\), \d+ draws\)", key):
            for name, expected in modes.items():
                mode, registers = re.fullmatch(r"(\w+)/N=(\d+)", name).groups()  # type: ignore[union-attr]
                draw = np.random.RandomState(int(found[1])).randint
                kept = [keep_count(mode, int(registers), draw) for _ in expected]
                golden.compare(f"keep_k.{name}", torch.tensor(kept), torch.tensor(expected))
