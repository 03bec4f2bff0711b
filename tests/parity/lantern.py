"""Parity of LANTERN: neighbour table, counted probabilities, decisions on trees, format tokens, tree buffers.

The drafters' file has a module of its own, `lantern_drafter_stages`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.parity.lantern_drafter_stages import check_drafter
from tests.parity.report import Golden
from visgen.decoding.base import Draft
from visgen.decoding.decision import Decision
from visgen.decoding.drafts.eagle import conditional, without_replacement
from visgen.decoding.drafts.static_tree import StaticTree
from visgen.decoding.greedy import GreedyVerifier
from visgen.decoding.relaxed import ImageIds, Neighbourhood, RelaxedVerifier, neighbour_table
from visgen.decoding.trees import NAMED_TREES, leaf_paths, static_paths, tree_structure
from visgen.nn.noise import Noise
from visgen.nn.sampling import filter_logits

RULES, LUMINA = "rules.safetensors", "lumina.safetensors"
INPUTS = (
    "codebook",
    "agg.p",
    "*.target_logits",
    "*.draft_logits",
    "*.uniforms",
    "*.exp_noise*",
    "greedy.*.node_tokens",  # what was drafted; of static trees it is compared with what the noise draws
    "dynamic.*.node_tokens",
)
LUMINA_INPUTS = ("neighbours", "*.uniforms", "*.logits_index", "*.logits_value", "*.sample_p_index")
LUMINA_IDS = ImageIds(first=4, syntax=(8196, 8197, 8803, 8828))  # lantern.md 4e


def check(golden: Golden) -> None:
    """Every stage of the folder."""
    io = load_file(golden.folder / RULES)
    table = neighbour_table(io["codebook"], len(io["codebook"]) - 1)
    golden.compare("neighbours", table, io["neighbours"])
    check_aggregation(golden, io, table)
    for name, tree in golden.meta["trees"].items():
        check_tree(golden, io, name, tree)
    for meta in golden.meta["decisions"]:
        check_decision(Case(golden, io, meta, table))
    golden.finish(io, INPUTS)
    check_lumina(golden)
    check_drafter(golden)


def check_aggregation(golden: Golden, io: dict[str, Tensor], table: Tensor) -> None:
    """Counted neighbours and probability of every case, grouped by (k, delta)."""
    cases = golden.meta["aggregation"]
    for k, delta in sorted({(case[2], case[3]) for case in cases}):
        rows = [case for case in cases if (case[2], case[3]) == (k, delta)]
        tokens = torch.tensor([case[1] for case in rows])
        near = Neighbourhood(table, k, delta)
        counted, absorbed = near.aggregate(io["agg.p"][[case[0] for case in rows]], tokens)
        stage = f"aggregation.{k}.{delta:g}"
        golden.compare(f"{stage}.absorbed", absorbed, torch.tensor([case[4] for case in rows]))
        golden.compare(f"{stage}.prob", counted, torch.tensor([case[5] for case in rows]))


def integers(golden: Golden, stage: str, found: Any, expected: Any) -> None:
    """Values that must be equal; also masks, which as uint8 would be compared like images."""
    golden.compare(stage, torch.as_tensor(found).long(), torch.as_tensor(expected).long())


def check_tree(golden: Golden, io: dict[str, Tensor], name: str, meta: dict[str, Any]) -> None:
    """Masks, depths, paths and the drafter's buffers that follow from a tree's index paths."""
    if name in NAMED_TREES:
        integers(golden, f"tree.{name}.named", static_paths(name) == list(map(tuple, meta["paths"])), True)
    tree = StaticTree.from_paths(meta["paths"])
    depths, mask = (part[0] for part in tree_structure(torch.tensor([[-1, *tree.parents]])))
    integers(golden, f"tree.{name}.attn_mask", mask, io[f"tree.{name}.attn_mask"])
    integers(golden, f"tree.{name}.tree_position_ids", depths, meta["tree_position_ids"])
    integers(golden, f"tree.{name}.retrieve_indices", leaf_paths(tree.parents), meta["retrieve_indices"])
    check_drafting(golden, io, name, meta, tree, mask)


def check_drafting(
    golden: Golden, io: dict[str, Tensor], name: str, meta: dict[str, Any], tree: StaticTree, mask: Tensor
) -> None:
    """Where a static tree's drafts are among all draws, and which of them the drafter sees again."""
    draws = draws_per_node(golden)
    index, first = [0], 0  # of each entry among [root, draws of inner node 0, of inner node 1, …]
    fed: list[int] = []  # entries that the drafter has seen
    start = 1
    for depth, level in enumerate(tree.levels):
        index += [1 + (first + row) * draws + rank for row, rank in zip(level.rows, level.ranks)]
        first += 1 + max(level.rows) if depth == 0 else len(level.above)
        if depth + 1 < len(tree.levels):
            below = tree.levels[depth + 1]
            flat = [row * draws + rank for row, rank in zip(below.above, below.above_ranks)]
            integers(
                golden, f"tree.{name}.drafter_tree_indices.{depth}", flat, meta["drafter_tree_indices"][depth]
            )
            counts = torch.tensor(below.above).unique_consecutive(return_counts=True)[1]
            integers(golden, f"tree.{name}.drafter_repeat.{depth}", counts, meta["drafter_repeat"][depth])
            places = list(zip(level.rows, level.ranks))
            inner = [start + places.index(place) for place in zip(below.above, below.above_ranks)]
            fed += inner
            stage = f"tree.{name}.drafter_mask{depth}"
            integers(golden, stage, mask[inner][:, fed], io[stage])
        start += len(level.rows)
    integers(golden, f"tree.{name}.tree_indices", index, meta["tree_indices"])


def draws_per_node(golden: Golden) -> int:
    """Draws below each inner node of a static tree."""
    found = re.search(r"indices of the (\d+) largest", golden.meta["conventions"]["static"])
    assert found is not None
    return int(found.group(1))


@dataclass(frozen=True)
class Case:
    """One decision on a tree."""

    golden: Golden
    io: dict[str, Tensor]
    meta: dict[str, Any]
    table: Tensor

    @property
    def name(self) -> str:
        return self.meta["name"]

    def input(self, key: str) -> Tensor:
        return self.io[f"{self.name}.{key}"]

    @property
    def tree(self) -> StaticTree:
        return StaticTree.from_paths(self.golden.meta["trees"][self.meta["tree"]]["paths"])

    @property
    def near(self) -> Neighbourhood:
        """Whose probability counts; nobody's without relaxation."""
        return Neighbourhood(self.table, self.meta["k"] if self.meta["lantern"] else 0, self.meta["delta"])

    def draft(self, laws_NV: Tensor | None = None) -> Draft:
        """The drafted tree, one row."""
        tokens = self.input("node_tokens").long()[1:].view(1, -1, 1)
        parents = torch.tensor(self.tree.parents)[None]
        laws = None if laws_NV is None else laws_NV[None, :, None]
        return Draft(tokens, parents, laws, torch.ones_like(parents, dtype=torch.bool))


def check_decision(case: Case) -> None:
    """Candidates, then the walk of its kind."""
    paths = leaf_paths(case.tree.parents)
    tokens = torch.where(paths >= 0, case.input("node_tokens").long()[paths], -1)
    integers(case.golden, f"{case.name}.candidates", tokens, case.input("candidates"))
    if case.meta["kind"] == "greedy":
        check_greedy(case, paths)
        return
    laws = check_static_draws(case, paths) if case.meta["kind"] == "static" else None
    verifier = RelaxedVerifier(case.table, case.near.k, case.near.delta, official=True)
    target = process(case.input("target_logits"), case.meta["processor"])
    decision = verifier.decide(
        target[None, :, None], case.draft(laws), spread(case.input("uniforms"), case.draft())
    )
    tokens_of = case.input("node_tokens").long()
    compare_walk(case.golden, case.name, case.meta, decision, tokens_of, paths)
    case.golden.compare(f"{case.name}.sample_p", decision.law[0, 0], case.input("sample_p"))


def process(logits: Tensor, processor: str) -> Tensor:
    """Laws after the steps of a description such as "temperature 0.8 then top_k 12", in its order."""
    for step in processor.split(" then "):
        word, _, value = step.partition(" ")
        if word == "temperature":
            logits = logits / float(value)
        elif word == "top_k":
            logits = filter_logits(logits, top_k=int(value))
        elif word == "top_p":
            logits = filter_logits(logits, top_p=float(value))
        else:
            assert word in ("none", "identity"), processor
    return logits.softmax(dim=-1)


def spread(uniforms: Tensor, draft: Draft) -> Tensor:
    """The given uniforms, then NaN, with which nothing is accepted: (1, N, 1)."""
    out = torch.full((1, draft.tokens.shape[1], 1), torch.nan)
    out[0, : len(uniforms), 0] = uniforms[: out.shape[1]]
    return out


def compare_walk(
    golden: Golden, name: str, meta: dict[str, Any], decision: Decision, tokens: Tensor, paths: Tensor
) -> None:
    """Which drafts were tested, with what chance, and how far it went."""
    tests = meta["tests"]
    entries = decision.entries[0]
    integers(golden, f"{name}.tested", tokens[entries], [test["token"] for test in tests])
    integers(golden, f"{name}.uniforms_used", len(entries), meta["uniforms_used"])
    chances = torch.tensor([test["acp"] for test in tests])
    golden.compare(f"{name}.acceptance_prob", decision.ratios[0, :, 0], chances)
    accepted = int(decision.accepted)
    compare_path(golden, name, meta, decision.path[0, :accepted], paths)


def compare_path(golden: Golden, name: str, meta: dict[str, Any], path: Tensor, paths: Tensor) -> None:
    """How many drafts stay, and the first leaf below them."""
    on_path = (paths[:, 1 : 1 + len(path)] == path).all(dim=1)
    integers(golden, f"{name}.accept_length", len(path), meta["accept_length"])
    integers(golden, f"{name}.best_candidate", on_path.long().argmax(), meta["best_candidate"])


def check_static_draws(case: Case, paths: Tensor) -> Tensor:
    """Draws without replacement from the drafter's laws, and their conditional probabilities; returns the law
    of each draft."""
    laws = case.input("draft_logits").softmax(dim=-1)
    inner = sorted(set(case.tree.parents))
    of_level = case.tree.levels
    noise = torch.cat([case.input(f"exp_noise{i}") for i in range(len(of_level))])
    drawn = without_replacement(laws[inner], noise, draws_per_node(case.golden))
    chances = conditional(laws[inner], drawn)
    integers(case.golden, f"{case.name}.draft_tokens", drawn, case.input("draft_tokens"))
    case.golden.compare(f"{case.name}.draft_cond_probs", chances, case.input("draft_cond_probs"))
    ranks = [path[-1] for path in case.golden.meta["trees"][case.meta["tree"]]["paths"]]
    rows = [inner.index(parent) for parent in case.tree.parents]
    root = case.input("node_tokens")[:1]
    found = torch.cat([root.long(), drawn[rows, ranks]])
    integers(case.golden, f"{case.name}.node_tokens", found, case.input("node_tokens"))
    of_entry = torch.cat([torch.ones(1), chances[rows, ranks]])
    table = torch.where(paths >= 0, of_entry[paths], 1.0)
    case.golden.compare(f"{case.name}.candidate_probs", table, case.input("candidate_probs"))
    return laws[case.tree.parents]


def check_greedy(case: Case, paths: Tensor) -> None:
    """The longest path of most probable tokens, and the logits after it."""
    logits = case.input("target_logits")
    target = process(logits, case.meta["processor"])[None, :, None]
    verdict = GreedyVerifier(case.near)(target, case.draft(), Noise.replayed([]))
    path = verdict.path[0, : int(verdict.accepted)]
    compare_path(case.golden, case.name, case.meta, path, paths)
    after = logits[path[-1] if len(path) else 0]
    case.golden.compare(f"{case.name}.next_logits", after, case.input("next_logits"))
    integers(case.golden, f"{case.name}.extra", verdict.extra[0, 0], case.input("next_logits").argmax())


def check_lumina(golden: Golden) -> None:
    """Chains with format tokens, from sparse logits."""
    io = load_file(golden.folder / LUMINA)
    for meta in golden.meta["lumina_cases"]:
        name = f"l{meta['case']}"
        tokens = torch.tensor(meta["window"])
        shape = (len(tokens), golden.meta["lumina_vocab"])
        logits = torch.full(shape, golden.meta["lumina_background_logit"])
        rows, columns = io[f"{name}.logits_index"].long().unbind(dim=1)
        logits[rows, columns] = io[f"{name}.logits_value"]
        k = meta["k"] if meta["lantern"] else 0
        verifier = RelaxedVerifier(io["neighbours"], k, meta["delta"], LUMINA_IDS, official=True)
        draft = Draft.chain(tokens[1:].view(1, -1, 1), None)
        uniforms = spread(io[f"{name}.uniforms"], draft)
        decision = verifier.decide(logits.softmax(dim=-1)[None, :, None], draft, uniforms)
        compare_walk(golden, name, meta, decision, tokens, torch.arange(len(tokens))[None])
        law, index = decision.law[0, 0], io[f"{name}.sample_p_index"].long()
        golden.compare(f"{name}.sample_p_value", law[index], io[f"{name}.sample_p_value"])
        rest = 1 - io[f"{name}.sample_p_value"].sum()
        golden.compare(f"{name}.sample_p_elsewhere", law.sum() - law[index].sum(), rest)
    golden.finish(io, LUMINA_INPUTS)
