"""SJD: verification steps and whole generations of the published loop, by the engine under recorded uniforms.

The engine draws through `Recorded`, which answers with the golden uniforms by inverse CDF. What the published
loop does otherwise than ours is `PublishedWindow`: the interval that lags one pass, and windows that are cut.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.parity.report import Golden
from visgen.decoding.base import Draft, Run, Session, Step, Verdict
from visgen.decoding.decision import Decision
from visgen.decoding.drafts.fresh import Fresh
from visgen.decoding.drafts.jacobi import JacobiSource
from visgen.decoding.drafts.window import WindowShape
from visgen.decoding.engine import decode
from visgen.decoding.rules import inverse_cdf, one_hot
from visgen.decoding.verifiers import ChainVerifier
from visgen.nn.noise import Noise

INPUTS = ("*.table_*", "*.u_*", "*.p", "*.q", "*.draft_tokens", "*.sampled_next")


def check(golden: Golden) -> None:
    """Every case and every trace of the folder."""
    accept, traces = _load(golden, "accept"), _load(golden, "traces")
    for case in golden.meta["accept_cases"]:
        check_case(golden, accept, case)
    for trace in golden.meta["traces"]:
        check_trace(golden, traces, trace)
    golden.finish([*accept, *traces], INPUTS)


def _load(golden: Golden, ending: str) -> dict[str, Tensor]:
    found = [path for path in Path(golden.folder).glob("*.safetensors") if path.stem.endswith(ending)]
    if len(found) != 1:
        raise FileNotFoundError(f"{golden.folder}: no single file ends with {ending}.safetensors")
    return load_file(found[0])


class Ended(Exception):
    """The golden generation goes no further."""


@dataclass
class Pass:
    """What one pass of the published loop fed and kept."""

    window: list[int]
    past: int
    matched: int
    accepted: list[int]
    rest: list[int]
    prefill: bool


@dataclass
class Recorded(Noise):
    """Uniforms by pass and window slot, as the published loop reads them."""

    accept: Tensor  # (passes, W)
    next: Tensor
    residual: Tensor  # (passes,)
    number: int = 0  # of the pass
    drafts: int = 0  # tested in this pass
    rejected: bool = False
    redrawing: Tensor | None = None  # (C,) window slot whose law a new slot has, while redrawing

    def uniform(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        if self.redrawing is None:
            return self.accept[self.number, 1 : shape[1] + 1].view(shape)
        return self.next[self.number, self.redrawing.clamp(max=self.next.shape[1] - 1)].view(shape)

    def categorical(self, probabilities_BLV: Tensor) -> Tensor:
        u = self.residual[self.number] if self.rejected else self.next[self.number, self.drafts]
        return inverse_cdf(probabilities_BLV, u.expand(probabilities_BLV.shape[:-1]))


@dataclass
class RecordedChain(ChainVerifier):
    """The chain rule; tells the noise whether a draft was rejected, and keeps what it decided."""

    noise: Recorded
    decision: Decision | None = None

    def decide(self, target_BNKV: Tensor, draft: Draft, uniforms_BNK: Tensor) -> Decision:
        self.decision = super().decide(target_BNKV, draft, uniforms_BNK)
        self.noise.rejected = int(self.decision.accepted[0]) < int(draft.valid.sum())
        return self.decision


@dataclass
class PublishedFresh(Fresh):
    """Uniform image tokens taken for certain; the j-th new one of a pass has the j-th recorded uniform."""

    noise: Recorded
    uniforms: Tensor  # (passes, W)
    first: int  # smallest image id
    size: int
    kept: int = 0  # slots that are not new

    def laws(self, run: Run, positions_BC: Tensor) -> Tensor:
        index = (torch.arange(positions_BC.shape[1]) - self.kept).clamp(min=0)
        row = min(self.noise.number + 1, len(self.uniforms) - 1)
        ids = self.first + (self.uniforms[row, index].double() * self.size).long()
        return one_hot(ids, torch.empty(run.session.vocab_size)).view(1, len(index), 1, -1)


class PublishedWindow(JacobiSource):
    """The window of the published loop: as long as the interval says, which lags one pass; a pass of one
    token throws the drafts away."""

    fresh: PublishedFresh

    def __init__(self, fresh: PublishedFresh, window: int, prompt: int, interval: tuple[int, int]) -> None:
        super().__init__(WindowShape.build(window), "independent", fresh)
        self.noise, self.prompt, self.lag_interval = fresh.noise, prompt, interval
        self.passes: list[Pass] = []
        self.before = 0  # tokens of the image before the last pass

    def start(self, run: Run, step: Step, target_B1KV: Tensor) -> None:
        self.run = run
        super().start(run, step, target_B1KV)

    def room(self) -> int:
        """Drafts that the next pass may test."""
        first, end = self.lag_interval
        inside = first <= self.before < end
        return min(self.shape.length, end - self.before - 1) if inside else 0

    def _in_interval(self, run: Run) -> Tensor:
        return torch.arange(self.shape.length)[None] < self.room()

    def propose(self, run: Run) -> Draft:
        self.noise.number += 1
        self.noise.drafts, self.noise.redrawing = self.room(), None
        return super().propose(run)

    def _known(self, depth_BC: Tensor) -> Tensor:
        known = depth_BC <= (self.noise.drafts if self.noise.drafts else -1)
        self.fresh.kept = int(known.sum())
        return known

    def update(self, run: Run, draft: Draft, step: Step, target_BNKV: Tensor, verdict: Verdict) -> None:
        matched, past = int(verdict.accepted[0]) + 1, int(run.counts[0]) - int(verdict.accepted[0]) - 2
        self.noise.redrawing = torch.arange(self.shape.length) + matched
        super().update(run, draft, step, target_BNKV, verdict)
        ids = run.ids[0, :, 0].tolist()
        window = [ids[past], *draft.tokens[0, : self.noise.drafts, 0].tolist()]
        kept = ids[past + 1 : past + 1 + matched]
        rest = self.tokens[0, : len(window) - matched, 0].tolist() if self.shape.length else []
        self.before = past + 1
        self.passes.append(Pass(window, past + self.prompt, matched, kept, rest, len(window) == 1))


# ---- single steps


@dataclass(frozen=True)
class CaseLaw:
    """The recorded laws: first a token that is certain, then those of the window."""

    root: Tensor  # (V,)
    rows: Tensor  # (W, V)

    def __call__(self, logits: Tensor, positions: Tensor) -> Tensor:
        rows = self.root[None] if logits.shape[1] == 1 and int(positions[0, 0]) == 0 else self.rows
        return rows[None, :, None]

    def forced(self, positions: Tensor) -> Tensor:
        return torch.full_like(positions, -1)[..., None]


class OnePass(Session):
    """Says nothing, once."""

    def __init__(self, vocab: int, window: int) -> None:
        self.batch_size, self.length, self.num_codes, self.vocab_size = 1, window + 2, 1, vocab
        self.device, self.committed, self.passes = torch.device("cpu"), torch.zeros(1, dtype=torch.long), 0

    def prefill(self) -> Step:
        return Step(torch.zeros(1, 1, 1, self.vocab_size))

    def extend(self, tokens_BNK: Tensor, parents_BN: Tensor | None = None) -> Step:
        self.passes += 1
        if self.passes > 1:
            raise Ended
        return Step(torch.zeros(*tokens_BNK.shape, self.vocab_size))

    def commit(self, index_BM: Tensor, counts_B: Tensor) -> None:
        self.committed = self.committed + counts_B


class CaseWindow(PublishedWindow):
    """Begins with the recorded drafts."""

    def __init__(self, fresh: PublishedFresh, tokens: Tensor, laws: Tensor) -> None:
        super().__init__(fresh, len(tokens), 0, (0, len(tokens)))
        self.given = tokens[None, 1:, None], laws[None, 1:, None]

    def start(self, run: Run, step: Step, target_B1KV: Tensor) -> None:
        self.noise.redrawing = torch.zeros(self.shape.length, dtype=torch.long)
        super().start(run, step, target_B1KV)
        self.tokens, self.laws = self.given


def check_case(golden: Golden, tensors: dict[str, Tensor], case: dict[str, Any]) -> None:
    """One pass on recorded drafts and laws."""
    name = f"c{case['case']}"
    t = {key.split(".", 1)[1]: value for key, value in tensors.items() if key.startswith(f"{name}.")}
    p, tokens = t["p"], t["draft_tokens"]
    uniforms = torch.stack([torch.zeros(len(p)), _middle(p, t["sampled_next"])])
    accept = torch.stack([torch.zeros(len(p)), t["u_accept"]])
    noise = Recorded(accept, uniforms, torch.stack([torch.zeros(1), t["u_residual"]]).squeeze(1))
    fresh = PublishedFresh(noise, torch.zeros(2, len(p)), 0, p.shape[1])
    window, verifier = CaseWindow(fresh, tokens, t["q"]), RecordedChain(noise)
    law = CaseLaw(one_hot(tokens[0], p[0]), p)
    with suppress(Ended):
        decode(OnePass(p.shape[1], len(p)), law, noise, window, verifier)
    compare_case(golden, name, case, tensors, window.passes[0], verifier.decision, noise)


def compare_case(
    golden: Golden,
    name: str,
    case: dict[str, Any],
    tensors: dict[str, Tensor],
    found: Pass,
    decision: Decision,
    noise: Recorded,
) -> None:
    """What the pass decided, kept and carried on."""
    law = decision.law[0, 0] if noise.rejected else torch.zeros_like(decision.law[0, 0])
    golden.compare(f"{name}.residual_probs", law, tensors[f"{name}.residual_probs"])
    out = torch.tensor([*found.accepted, *found.rest])
    golden.compare(f"{name}.target_tokens_out", out, tensors[f"{name}.target_tokens_out"])
    golden.compare(f"{name}.rejected", torch.tensor([noise.rejected]), torch.tensor([case["rejected"]]))
    golden.compare(f"{name}.matched", torch.tensor([found.matched]), torch.tensor([case["matched"]]))
    golden.compare(f"{name}.committed", _ids(found.accepted), _ids(case["committed"]))
    golden.compare(f"{name}.next_drafts", _ids(found.rest), _ids(case["next_drafts"]))
    defined = [i for i, ratio in enumerate(case["ratios"]) if ratio is not None]
    expected = torch.tensor([case["ratios"][i] for i in defined])
    golden.compare(f"{name}.ratios", decision.ratios.reshape(-1)[defined].float(), expected)


def _middle(p: Tensor, tokens: Tensor) -> Tensor:
    """Uniforms for which inverse CDF gives these tokens: the middle of their share."""
    mass = p.double().cumsum(-1)
    share = p.double().gather(-1, tokens[:, None])
    return ((mass.gather(-1, tokens[:, None]) - share / 2) / mass[:, -1:]).squeeze(1).float()


def _ids(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.long)


# ---- whole generations


class TableModel(Session):
    """The toy models of the traces: logits from tables of the last tokens and the position.

    `prefix` is the prompt and all tokens that are decided, the root included once it is fed.
    """

    def __init__(self, tensors: dict[str, Tensor], trace: dict[str, Any]) -> None:
        self.tables = {
            key.rsplit("_", 1)[1]: value.float()
            for key, value in tensors.items()
            if key.startswith(f"{trace['name']}.table_")
        }
        self.trace, self.prompt = trace, list(trace["prompt"])
        self.batch_size, self.num_codes, self.vocab_size = 1, 1, trace["vocab"]
        self.length = trace["max_len"] - len(self.prompt) + trace["window"] + 1
        self.device, self.committed, self.passes = torch.device("cpu"), torch.zeros(1, dtype=torch.long), 0
        self.prefix: list[int] = list(self.prompt)
        self._cached = list(self.prompt)

    def prefill(self) -> Step:
        self.passes += 1
        return Step(self._guided(self._cached, 1))

    def extend(self, tokens_BNK: Tensor, parents_BN: Tensor | None = None) -> Step:
        window = tokens_BNK[0, :, 0].tolist()
        self.prefix = [*self._cached, window[0]]
        if len(self.prefix) >= self.trace["max_len"]:
            raise Ended
        self.passes, self._window = self.passes + 1, window
        return Step(self._guided(self._cached + window, len(window)))

    def commit(self, index_BM: Tensor, counts_B: Tensor) -> None:
        self._cached += [self._window[i] for i in index_BM[0, : int(counts_B)].tolist()]
        self.committed = self.committed + counts_B

    def _guided(self, tokens: list[int], count: int) -> Tensor:
        """(1, count, 1, V) of the last `count` tokens."""
        conditional, unconditional = (self.trace["scale"] * self._logits(tokens, count, b) for b in (0, 1))
        scale = self.trace["guidance_scale"]
        guided = (
            conditional if scale == 1 or not self._in_image() else _guide(conditional, unconditional, scale)
        )
        return guided[None, :, None]

    def _in_image(self) -> bool:
        """Whether guidance is on: everywhere without a format, with one while an image is open."""
        rules = self.trace["processors"]
        if rules.get("kind") != "lumina":
            return True
        return self.prefix.count(rules["image_start"]) != self.prefix.count(rules["image_end"])

    def _logits(self, tokens: list[int], count: int, row: int) -> Tensor:
        at = torch.arange(len(tokens) - count, len(tokens))
        x = torch.tensor(tokens)
        if "E" in self.tables:
            return self.tables["E"][x[at]] @ self.tables["W"][row]
        a, b, c = (self.tables[name][row] for name in "ABC")
        before = torch.where((at > 0)[:, None], 0.6 * b[x[(at - 1).clamp(min=0)]], 0.0)
        return a[x[at]] + 0.4 * c[at.clamp(max=len(c) - 1)] + before


def _guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    return scale * (conditional - unconditional) + unconditional


@dataclass(frozen=True)
class TraceLaw:
    """Processors of a trace: top-k, or Lumina's format and top-k; the format knows the decided tokens
    only."""

    model: TableModel

    def __call__(self, logits: Tensor, positions: Tensor) -> Tensor:
        rules, logits = self.model.trace["processors"], logits.clone()
        top_k = rules.get("top_k")
        if rules.get("kind") == "lumina":
            top_k = self._format(logits[0, :, 0], rules)
        least = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
        law = logits.masked_fill(logits < least, -torch.inf).softmax(-1)
        return law if self.model.trace["do_sample"] else one_hot(law.argmax(-1), law)

    def forced(self, positions: Tensor) -> Tensor:
        return torch.full_like(positions, -1)[..., None]  # the published loop does not fill forced tokens in

    def _format(self, logits_NV: Tensor, rules: dict[str, Any]) -> int:
        """Mask in place; returns top-k."""
        prefix, start = self.model.prefix, rules["image_start"]
        begun = len(prefix) - 1 - prefix[::-1].index(start) if start in prefix else None
        if begun is None or not self.model._in_image() or len(prefix) < begun + 3:
            return rules["text_top_k"]
        rows, columns = (2 * (prefix[begun + i] - rules["grid_token_base"]) for i in (1, 2))
        for i, row in enumerate(logits_NV):
            number = len(prefix) - (begun + 3) + 1 + i
            if number % (columns + 1) == 0:
                _only(row, rules["new_line"])
            elif number == (columns + 1) * rows + 1:
                _only(row, rules["image_end"])
            else:
                low, high = rules["image_tokens"]
                row[:low], row[high + 1 :] = -torch.inf, -torch.inf
        return rules["image_top_k"]


def _only(row_V: Tensor, token: int) -> None:
    row_V.fill_(-torch.inf)
    row_V[token] = 0.0


def check_trace(golden: Golden, tensors: dict[str, Tensor], trace: dict[str, Any]) -> None:
    """A whole generation, pass by pass."""
    name, prompt = trace["name"], len(trace["prompt"])
    u = {key: tensors[f"{name}.u_{key}"] for key in ("accept", "next", "residual", "init")}
    noise = Recorded(u["accept"], u["next"], u["residual"])
    noise.redrawing = torch.zeros(
        trace["window"] - 1, dtype=torch.long
    )  # of the first drafts, one-hot anyway
    low, high = trace["image_vocab"]
    fresh = PublishedFresh(noise, u["init"], low, high - low + 1)
    window = PublishedWindow(fresh, trace["window"], prompt, (trace["jacobi_l"], trace["jacobi_r"]))
    model = TableModel(tensors, trace)
    with suppress(Ended):
        decode(model, TraceLaw(model), noise, window, RecordedChain(noise))
    first = Pass(trace["prompt"], 0, prompt, [model.prefix[prompt]], [], True)
    compare_trace(golden, trace, [first, *window.passes], window.run, model)


def compare_trace(
    golden: Golden, trace: dict[str, Any], passes: list[Pass], run: Run, model: TableModel
) -> None:
    """All that `meta.json` says of the passes; lists are laid end to end with their lengths beside them."""
    name, expected = trace["name"], trace["trace"]
    for key in ("window", "accepted", "rest"):
        lists = [getattr(one, key) for one in passes]
        golden.compare(f"{name}.{key}", *_flat(lists, [one[key] for one in expected]))
    for key in ("past", "matched", "prefill"):
        found, wanted = [int(getattr(p, key)) for p in passes], [int(one[key]) for one in expected]
        golden.compare(f"{name}.{key}", _ids(found), _ids(wanted))
    sequence = trace["prompt"] + run.ids[0, : int(run.counts[0]), 0].tolist()
    golden.compare(f"{name}.sequence", *_flat([sequence], [trace["sequence"]]))
    golden.compare(f"{name}.forward_passes", _ids([model.passes]), _ids([trace["forward_passes"]]))


def _flat(found: list[list[int]], expected: list[list[int]]) -> tuple[Tensor, Tensor]:
    return tuple(_ids([n for one in lists for n in (len(one), *one)]) for lists in (found, expected))
