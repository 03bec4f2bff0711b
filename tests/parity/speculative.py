"""Parity of the acceptance rules: every case of a golden folder goes through the verifiers that decode.

The goldens draw the extra token by inverse CDF from a given uniform; everything before that is `decide`.
"""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.decoding.enumeration import World, mean_accepted
from tests.parity.report import Golden
from visgen.decoding.base import Draft
from visgen.decoding.decision import DecidingVerifier, Decision
from visgen.decoding.rules import (
    best_acceptance,
    inverse_cdf,
    kseq_beta,
    kseq_rho,
    maximal_coupling,
    overlap,
    race,
)
from visgen.decoding.verifiers import BlockVerifier, ChainVerifier, KSeqVerifier, RecursiveVerifier

INPUTS = ("*.p", "*.q", "*.u", "*.u_extra", "*.drafts", "*.q_old", "*.q_new", "*.exp_noise")
CHAINS: dict[str, DecidingVerifier] = {"chain": ChainVerifier(), "block": BlockVerifier()}
SIBLINGS: dict[str, DecidingVerifier] = {
    "rrs_with": RecursiveVerifier(replacement=True),
    "rrs_without": RecursiveVerifier(),
    "kseq": KSeqVerifier(),
}


def check(golden: Golden) -> None:
    """Every stage of the folder."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(golden.folder.glob("*.safetensors")):
        tensors.update(load_file(path))
    for case in golden.meta["cases"]:
        prefix = case["name"] + "."
        io = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        check_case(golden, case, io)
    for number, table in enumerate(golden.meta["acceptance_probabilities"]):
        check_acceptance(golden, f"acceptance_probabilities.{number}", table)
    golden.finish(tensors, INPUTS)


def check_case(golden: Golden, case: dict[str, Any], io: dict[str, Tensor]) -> None:
    """One case by its kind."""
    kind = case["kind"]
    if kind in CHAINS:
        check_chain(golden, case, io)
    elif kind == "coupling":
        check_coupling(golden, case, io)
    else:
        check_siblings(golden, case, io)


def compare(golden: Golden, case: dict[str, Any], key: str, found: Any) -> None:
    """A value of the case's meta data."""
    dtype = torch.float64 if isinstance(case[key], float) else None
    expected = torch.tensor(case[key], dtype=dtype)
    golden.compare(f"{case['name']}.{key}", torch.as_tensor(found), expected)


def check_chain(golden: Golden, case: dict[str, Any], io: dict[str, Tensor]) -> None:
    """Drafts in one line: how many stay, the law of the next token, the token."""
    length = len(io["drafts"])
    draft = Draft.chain(io["drafts"].long().view(1, -1, 1), io["q"][None, :, None])
    uniforms = io["u"][:length].view(1, -1, 1)
    decision = CHAINS[case["kind"]].decide(io["p"][None, :, None], draft, uniforms)
    compare(golden, case, "accepted", decision.accepted[0])
    golden.compare(f"{case['name']}.extra_dist", decision.law[0, 0], io["extra_dist"])
    compare(golden, case, "extra_token", extra(decision, io))
    if "accept_levels" in io:
        golden.compare(f"{case['name']}.accept_levels", decision.ratios[0, :, 0], io["accept_levels"])


def extra(decision: Decision, io: dict[str, Tensor]) -> Tensor:
    """The extra token by inverse CDF."""
    return inverse_cdf(decision.law[0], io["u_extra"])[0]


def siblings(p: Tensor, q: Tensor, drafts: Tensor) -> tuple[Tensor, Draft]:
    """Drafts at one position, below the root: target (1, 1 + N, 1, V) and the draft."""
    n = len(drafts)
    target = p.expand(1, n + 1, 1, -1)  # what follows the drafts is not looked at
    parents, valid = torch.zeros(1, n, dtype=torch.long), torch.ones(1, n, dtype=torch.bool)
    return target, Draft(drafts.long().view(1, n, 1), parents, q.expand(1, n, 1, -1), valid)


def check_siblings(golden: Golden, case: dict[str, Any], io: dict[str, Tensor]) -> None:
    """Several drafts at one position: which one stays, or the residual and what is drawn from it."""
    verifier, name = SIBLINGS[case["kind"]], case["name"]
    target, draft = siblings(io["p"], io["q"], io["drafts"])
    decision = verifier.decide(target, draft, io["u"].view(1, -1, 1))
    accepted = bool(decision.accepted[0])
    entry = decision.path[0, 0] if accepted else torch.tensor(0)
    compare(golden, case, "accepted_index", entry - 1)
    compare(golden, case, "token", io["drafts"][entry - 1] if accepted else extra(decision, io))
    law = decision.law[0, 0]
    if "final_residual" in io:
        if accepted:  # the residual in force when the accepted draft was tested: with it alone rejected
            law = before(verifier, io, int(entry))
        golden.compare(f"{name}.final_residual", law, io["final_residual"])
    if "residual" in io:
        golden.compare(f"{name}.residual", law, io["residual"])
    if case["kind"] == "kseq":
        check_kseq(golden, case, io)


def before(verifier: DecidingVerifier, io: dict[str, Tensor], entry: int) -> Tensor:
    """The law that was in force before draft `entry` was tested: of the walk over the elder drafts alone."""
    target, draft = siblings(io["p"], io["q"], io["drafts"][: entry - 1])
    return verifier.decide(target, draft, io["u"][: entry - 1].view(1, -1, 1)).law[0, 0]


def check_kseq(golden: Golden, case: dict[str, Any], io: dict[str, Tensor]) -> None:
    """ρ*, β(ρ*) and the chance that one of the drafts stays."""
    k = torch.tensor(case["k"])
    rho = kseq_rho(io["p"], io["q"], k)
    beta = kseq_beta(io["p"], io["q"], rho)
    compare(golden, case, "rho", rho)
    compare(golden, case, "beta", beta)
    compare(golden, case, "accept_probability", 1 - (1 - beta) ** k)


def check_coupling(golden: Golden, case: dict[str, Any], io: dict[str, Tensor]) -> None:
    """Maximal and shared-noise coupling of an old draft with a new law."""
    old, (q_old, q_new) = torch.tensor(case["old_token"]), (io["q_old"], io["q_new"])
    kept, law = maximal_coupling(old, q_old, q_new, io["u"][0])
    compare(golden, case, "kept", kept)
    compare(golden, case, "max_coupling_token", torch.where(kept, old, inverse_cdf(law, io["u"][1])))
    compare(golden, case, "max_coupling_collision", overlap(q_old, q_new))
    compare(golden, case, "gumbel_old", race(q_old, io["exp_noise"]))
    compare(golden, case, "gumbel_new", race(q_new, io["exp_noise"]))


def check_acceptance(golden: Golden, stage: str, table: dict[str, Any]) -> None:
    """The chance that one of k drafts stays, summed over all drafts, and the bound for i.i.d. ones."""
    p, q = torch.tensor(table["p"], dtype=torch.float64), torch.tensor(table["q"], dtype=torch.float64)
    size = len(p)
    world = World([p[None], p.expand(size, size)], [q[None], q.expand(size, size)])
    for name, expected in table["methods"].items():
        k = int(name.removeprefix("k"))
        flat = [0] * k
        found = {
            "rrs_with": mean_accepted(SIBLINGS["rrs_with"], world, flat, "with"),
            "rrs_without": mean_accepted(SIBLINGS["rrs_without"], world, flat, "without"),
            "kseq": mean_accepted(SIBLINGS["kseq"], world, flat, "with"),
            "rho": float(kseq_rho(p, q, torch.tensor(k))),
            "optimal_transport": float(best_acceptance(p, q, k)),
        }
        for key, value in expected.items():
            ours, theirs = (torch.tensor(x, dtype=torch.float64) for x in (found[key], value))
            golden.compare(f"{stage}.{name}.{key}", ours, theirs)
