"""LANTERN's drafters: forward pass, dynamic trees, a second step with the kept cache, static sampling."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.parity.report import Golden
from visgen.checkpoints import from_official
from visgen.decoding.base import Draft, Run, Step, Verdict
from visgen.decoding.drafts.eagle import DynamicTreeSource, StaticTreeSource, conditional
from visgen.decoding.drafts.static_tree import StaticTree
from visgen.decoding.trees import leaf_paths, tree_structure
from visgen.generators.drafter import Drafter
from visgen.generators.drafter_session import DrafterSession
from visgen.nn.guidance import guide
from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling, token_law

FILE = "drafter.safetensors"
INPUTS = ("*.weights.*", "*.lm_head.weight", "*.hidden_states", "*.input_ids", "*.exp_noise*")
GREEDY = TokenSampling()  # no processor
SAMPLING = TokenSampling(temperature=0.9, top_k=20)  # lantern.md, Clarifications: `tree_sampling`, `static.*`


@dataclass(frozen=True)
class Case:
    """One drafter of the folder."""

    golden: Golden
    io: dict[str, Tensor]
    meta: dict[str, Any]
    model: Drafter

    @property
    def name(self) -> str:
        return self.meta["name"]

    def input(self, key: str) -> Tensor:
        """A golden input of this drafter."""
        return self.io[f"{self.name}.{key}"]

    def embed(self, tokens_BNK: Tensor) -> Tensor:
        """Both rows get the same tokens."""
        return self.model.embedding(tokens_BNK[..., 0]).repeat(2, 1, 1)

    def head(self, hidden_RNC: Tensor, positions_BN: Tensor) -> Tensor:
        """Guided logits; what is no image token of an Anole-like vocabulary is never drafted."""
        conditional, unconditional = (hidden_RNC @ self.input("lm_head.weight").T).float().chunk(2)
        logits = guide(conditional, unconditional, self.meta["cfg_scale"])
        if self.meta["kind"] != "llamagen":
            outside = torch.ones(logits.shape[-1], dtype=torch.bool)
            outside[image_ids(self.golden, logits.shape[-1])] = False
            logits = logits.masked_fill(outside, torch.finfo(logits.dtype).min)
        return logits[:, :, None]

    def session(self, length: int, entries: int) -> DrafterSession:
        """A session; the unconditional row of an Anole-like drafter is padded on the left."""
        padding = offsets = None
        if self.meta["kind"] != "llamagen":
            shift = position_offset(self.golden)
            padding = torch.zeros(self.input("hidden_states").shape[:2], dtype=torch.bool)
            padding[1, :shift] = True
            offsets = torch.tensor([0, shift])
        return DrafterSession(
            self.model, self.embed, self.head, length, entries, padding=padding, offsets=offsets
        )

    def start(self, source: DynamicTreeSource | StaticTreeSource, run: Run) -> None:
        """Give the source the condition, whose ids an Anole-like drafter sees."""
        ids = self.input("input_ids").long()
        prefix = self.model.embedding(ids[:, 1:-1])
        step = source.drafter.start(self.input("hidden_states"), ids[:1, -1:], prefix)
        source.resume(run, step)


@torch.no_grad()
def check_drafter(golden: Golden) -> None:
    """Every tensor of the drafters' file."""
    io = load_file(golden.folder / FILE)
    for meta in golden.meta["drafters"]:
        prefix = f"{meta['name']}.weights."
        state = {key.removeprefix(prefix): tensor for key, tensor in io.items() if key.startswith(prefix)}
        config = meta["config"] | ({"input_type": meta["input_type"]} if meta.get("input_type") else {})
        case = Case(golden, io, meta, from_official("lantern-drafter", state, config))
        check_forward(case)
        check_trees(case)
        if f"{case.name}.static.tokens" in io:
            check_static(case)
    golden.finish(io, INPUTS)


def check_forward(case: Case) -> None:
    """The drafter over the whole condition, causal, positions 0, 1, 2, …"""
    embeddings = case.model.embedding(case.input("input_ids").long()[:, 1:])
    found = case.model(embeddings, case.input("hidden_states"))
    case.golden.compare(f"{case.name}.forward_hidden", found, case.input("forward_hidden"))


def check_trees(case: Case) -> None:
    """Dynamic trees without and with processors; then a second one on the kept cache."""
    for stage, sampling in (("tree_greedy", GREEDY), ("tree_sampling", SAMPLING)):
        if f"{case.name}.{stage}.tokens" not in case.io:
            continue
        source, run = dynamic(case, sampling)
        draft = source.propose(run)
        compare_tree(case, stage, run, draft, lexicographic=sampling is SAMPLING)
        if stage == "tree_greedy" and f"{case.name}.step2.tokens" in case.io:
            second = accept(case, source, run)
            compare_tree(case, "step2", run, second, lexicographic=False)


def dynamic(case: Case, sampling: TokenSampling) -> tuple[DynamicTreeSource, Run]:
    """A source that has taken in the condition. The official depth counts the levels after the first."""
    meta = case.meta
    depth = meta["depth"] + 1
    session = case.session(LENGTH, depth * meta["top_k"])
    source = DynamicTreeSource(session, depth, meta["top_k"], meta["total_tokens"] - 1)
    run = make_run(case, sampling, Noise.replayed([]))
    case.start(source, run)
    return source, run


LENGTH = 256  # tokens that the caches hold; none of the cases comes near it


def make_run(case: Case, sampling: TokenSampling, noise: Noise) -> Run:
    """The state of a decoding whose first token is the last input id."""

    class ProcessedLaw:
        def __call__(self, logits: Tensor, positions: Tensor) -> Tensor:
            return token_law(logits, sampling).softmax(dim=-1)

        def forced(self, positions: Tensor) -> Tensor:
            return torch.full_like(positions, -1)[..., None]

    ids = torch.zeros(1, LENGTH, 1, dtype=torch.long)
    ids[:, 0] = case.input("input_ids").long()[:1, -1:]
    return Run(None, ProcessedLaw(), noise, ids, torch.ones(1, dtype=torch.long))  # type: ignore[arg-type]


def accept(case: Case, source: DynamicTreeSource, run: Run) -> Draft:
    """Take in the tokens that the second step adds, with the target's hidden states, and draft again."""
    before = case.input("input_ids").shape[1]
    new = case.input("step2.input_ids").long()[:1, before:]
    count = new.shape[1]
    run.ids[:, 1 : 1 + count, 0] = new
    run.counts = run.counts + count
    path = torch.arange(1, count)[None]
    verdict = Verdict(path, torch.tensor([count - 1]), new[:, -1:], torch.ones_like(path, dtype=torch.bool))
    draft = Draft.chain(new[:, :-1, None], None)
    step = Step(torch.empty(0), case.input("step2.hidden_states"))
    source.update(run, draft, step, torch.empty(0), verdict)
    return source.propose(run)


def compare_tree(case: Case, stage: str, run: Run, draft: Draft, *, lexicographic: bool) -> None:
    """Ids with the root, ancestor mask, depths, root-to-leaf paths: as far as the goldens hold them."""
    found = {
        "tokens": torch.cat([run.root[:, None], draft.tokens], dim=1)[..., 0],
        "mask": _seen(draft.parents).int(),  # as integers: the tolerance of uint8 is for images
        "position_ids": torch.cat([draft.depths.new_zeros(1), draft.depths[0]]),
        "retrieve_indices": leaf_paths(draft.parents[0].tolist(), lexicographic=lexicographic),
    }
    for name, tensor in found.items():
        key = f"{case.name}.{stage}.{name}"
        if key in case.io:
            expected = case.io[key]
            expected = expected.int() if expected.dtype == torch.uint8 else expected
            case.golden.compare(key, tensor, expected)


def check_static(case: Case) -> None:
    """A static tree: laws of the inner nodes, draws without replacement, their conditional probabilities."""
    tree = StaticTree.from_paths(case.golden.meta["trees"][case.meta["static_tree"]]["paths"])
    draws = [case.input(f"static.exp_noise{level}")[None] for level in range(len(tree.levels))]
    entries = sum(len(level.above) for level in tree.levels) + tree.width
    source = StaticTreeSource(case.session(LENGTH, entries), tree, case.meta["top_k"])
    run = make_run(case, SAMPLING, Noise.replayed(draws))
    case.start(source, run)
    drawn, laws = source.draw(run)
    for level, law in enumerate(laws):
        name = f"{case.name}.static.dist{level}"
        case.golden.compare(name, law[0], case.io[name])
    tokens = torch.cat(drawn, dim=1)[0]
    case.golden.compare(f"{case.name}.static.tokens", tokens, case.input("static.tokens"))
    # From the golden laws: 1 − Σ q leaves so few digits that laws 1e-7 apart give another quotient.
    golden_laws = torch.cat([case.input(f"static.dist{level}") for level in range(len(laws))])
    found = conditional(golden_laws, tokens)
    case.golden.compare(f"{case.name}.static.cond_probs", found, case.input("static.cond_probs"))


def image_ids(golden: Golden, vocab_size: int) -> slice:
    """Ids of image tokens in an Anole-like vocabulary, both ends included in the explanation."""
    first, last = _numbers(golden, r"image tokens are ids (\d+)\.\.vocab-(\d+)")
    return slice(first, vocab_size - last + 1)


def position_offset(golden: Golden) -> int:
    """What the positions of the unconditional row lag behind: its padding."""
    return _numbers(golden, r"position offset (\d+)")[0]


def _numbers(golden: Golden, pattern: str) -> list[int]:
    found = re.search(pattern, golden.meta["conventions"]["anole_drafter"])
    assert found is not None, pattern
    return [int(number) for number in found.groups()]


def check(golden: Golden) -> None:
    """These stages alone."""
    check_drafter(golden)


def _seen(parents_BN: Tensor) -> Tensor:
    """Which entries of the first row's tree see which, the root included."""
    root = torch.full_like(parents_BN[:, :1], -1)
    return tree_structure(torch.cat([root, parents_BN], dim=1))[1][0]
