"""The decoding loop: propose, score in one pass, verify, keep; every row at its own pace.

A finished row goes on being fed until the last one is done; nothing of it is kept or counted.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from visgen.decoding.base import DecodingStats, Draft, DraftSource, Law, Run, Session, Step, Verdict, Verifier
from visgen.nn.noise import Noise


def decode(
    session: Session, law: Law, noise: Noise, source: DraftSource, verifier: Verifier
) -> tuple[Tensor, DecodingStats]:
    """Draw all tokens of a session, ids (B, L, K), and say what it took.

    The first token is drawn from the prefill's law; each pass then feeds the root and the drafts of `source`,
    of which `verifier` keeps a path, and one token more.
    """
    begun = time.perf_counter()
    run, step, target_B1KV = _start(session, law, noise)
    counts = _Counts(run)
    source.start(run, step, target_B1KV)
    while not bool(run.done.all()):
        _pass(run, source, verifier, counts)
    return run.ids, counts.stats(time.perf_counter() - begun, source.draft_passes, verifier.lossless)


def _start(session: Session, law: Law, noise: Noise) -> tuple[Run, Step, Tensor]:
    """The prefill and the first token of every row."""
    step = session.prefill()
    b, device = session.batch_size, session.device
    target_B1KV = law(step.logits, torch.zeros(b, 1, dtype=torch.long, device=device))
    ids = torch.zeros(b, session.length, session.num_codes, dtype=torch.long, device=device)
    ids[:, :1] = noise.categorical(target_B1KV)
    counts = torch.ones(b, dtype=torch.long, device=device)
    return Run(session, law, noise, ids, counts), step, target_B1KV


def _pass(run: Run, source: DraftSource, verifier: Verifier, counts: _Counts) -> None:
    """One round: counts of done rows stay, drafts beyond the image's end are never tested."""
    length = run.ids.shape[1]
    draft = source.propose(run)
    chain = draft.is_chain
    depths_BN = torch.arange(1, draft.tokens.shape[1] + 1, device=run.ids.device) if chain else draft.depths
    positions_BN = run.counts[:, None] - 1 + depths_BN
    draft = Draft(draft.tokens, draft.parents, draft.laws, draft.valid & (positions_BN < length))
    step = run.session.extend(torch.cat([run.root[:, None], draft.tokens], 1), _parents(draft, chain))
    predicted = torch.cat([run.counts[:, None], positions_BN + 1], 1).clamp(max=length - 1)
    target_BNKV = run.law(step.logits, predicted)
    verdict = verifier(target_BNKV, draft, run.noise)
    counts.add(run, verdict)
    _keep(run, draft, verdict)
    source.update(run, draft, step, target_BNKV, verdict)


def _parents(draft: Draft, chain: bool) -> Tensor | None:
    """Parents (B, 1 + N) as `Session.extend` wants them: the root hangs on the committed tokens."""
    if chain:
        return None
    return torch.cat([torch.full_like(draft.parents[:, :1], -1), draft.parents], 1)


def _keep(run: Run, draft: Draft, verdict: Verdict) -> None:
    """Write the accepted path and the extra token, and commit the entries that precede the new root."""
    b, length, k = run.ids.shape
    width = verdict.path.shape[1]
    kept = torch.minimum(verdict.accepted + 1, length - run.counts)
    path_BD = verdict.path.clamp(min=1)
    tokens = torch.cat([draft.tokens.new_zeros(b, 1, k), draft.tokens], 1)
    tokens = tokens.gather(1, path_BD[..., None].expand(-1, -1, k))
    offsets = torch.arange(width + 1, device=run.ids.device)
    is_extra = (offsets == verdict.accepted[:, None])[..., None]
    new = torch.where(is_extra, verdict.extra[:, None], torch.cat([tokens, verdict.extra[:, None]], 1))
    padded = torch.cat([run.ids, run.ids.new_zeros(b, width + 1, k)], 1)
    at = (run.counts[:, None] + offsets)[..., None].expand(-1, -1, k)
    run.ids = padded.scatter(1, at, new)[:, :length]
    run.session.commit(torch.cat([path_BD.new_zeros(b, 1), path_BD], 1), kept)
    run.counts = run.counts + kept


class _Counts:
    """Passes per image; drafts tested and accepted per position of the image."""

    def __init__(self, run: Run) -> None:
        self.length, device = run.ids.shape[1], run.ids.device
        self.passes_B = torch.ones_like(run.counts)
        self.tested = torch.zeros(self.length, dtype=torch.long, device=device)
        self.accepted = torch.zeros(self.length, dtype=torch.long, device=device)

    def add(self, run: Run, verdict: Verdict) -> None:
        """Count a pass; `run.counts` is still that of before."""
        depth = torch.arange(verdict.path.shape[1], device=run.ids.device)
        position_BD = (run.counts[:, None] + depth).clamp(max=self.length - 1)
        busy = ~run.done[:, None]
        accepted = (depth < verdict.accepted[:, None]) & busy
        self.passes_B += busy.squeeze(1)
        self.tested.index_add_(0, position_BD.flatten(), (verdict.tested & busy).flatten().long())
        self.accepted.index_add_(0, position_BD.flatten(), accepted.flatten().long())

    def stats(self, seconds: float, draft_passes: int, lossless: bool) -> DecodingStats:
        """All of it in plain numbers."""
        return DecodingStats(
            passes=tuple(self.passes_B.tolist()),
            tokens=self.length,
            lossless=lossless,
            seconds=seconds,
            draft_passes=draft_passes,
            tested=tuple(self.tested.tolist()),
            accepted=tuple(self.accepted.tolist()),
        )
