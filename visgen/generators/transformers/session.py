"""One generation on a language model of the transformers library: its trunk, its cache, its guidance rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from visgen.decoding.base import Session, Step
from visgen.decoding.trees import tree_structure
from visgen.errors import InputError
from visgen.generators.conditions import PromptCondition
from visgen.generators.transformers.cache import TrunkCache
from visgen.generators.transformers.trunk import Trunk
from visgen.nn.guidance import guide
from visgen.nn.sampling import TokenSampling, guidance_table
from visgen.nn.slot_cache import SlotCache


class TrunkSession(Session):
    """Decoding of images by a trunk; conditional rows first, then, with guidance, the unconditional ones.

    Prompts are left-padded to one width, and the padding is seen by nobody; a row's positions count its own
    words only, so an image does not depend on the prompts beside it. Ids from the codebook's size on are
    format tokens: no logits speak for them, `forced` positions alone take them.

    Args:
        trunk: the model.
        condition: prompts; negative prompts are needed where guidance is on.
        sampling: only its guidance is used.
        length: tokens of one image, format tokens included.
        entries: largest number of entries that a pass feeds.

    Raises:
        InputError: guidance without negative prompts, a prompt without a word, or more positions than the
            model has.
    """

    def __init__(
        self, trunk: Trunk, condition: PromptCondition, sampling: TokenSampling, length: int, entries: int
    ) -> None:
        self.device = trunk.device
        self._trunk, self._scales = trunk, guidance_table(sampling, length).to(self.device)
        self._guided = bool((self._scales != 1).any())
        self._prompt, self._visible = _prompt_rows(condition.to(self.device), self._guided)
        self.batch_size, self.length, self.num_codes = len(condition), length, 1
        self.num_format_ids = len(trunk.format_ids)
        self.vocab_size = trunk.codebook_size + self.num_format_ids
        self.committed = torch.zeros(self.batch_size, dtype=torch.long, device=self.device)
        self.passes = 0
        rows, width = self._prompt.shape
        if width + length > trunk.max_positions:
            raise InputError(
                f"a prompt of {width} tokens and an image of {length} exceed the {trunk.max_positions} "
                "positions of this model; shorten the prompt"
            )
        self._slots = SlotCache(
            trunk.num_layers,
            rows,
            trunk.num_kv_heads,
            width + length + entries,
            trunk.head_size,
            dtype=trunk.dtype,
            device=self.device,
            hidden=None if bool(self._visible.all()) else ~self._visible,
        )
        self._cache = TrunkCache(self._slots, trunk.num_layers)
        self._words = self._visible.sum(1)  # (R,)

    @torch.no_grad()
    def prefill(self) -> Step:
        """Run the prompts; logits (B, 1, 1, V) of the first token."""
        width = self._prompt.shape[1]
        seen = torch.ones(width, width, dtype=torch.bool, device=self.device).tril()
        seen = seen & self._visible[:, None] | torch.eye(width, dtype=torch.bool, device=self.device)
        positions = (self._visible.cumsum(1) - 1).clamp_min(0)
        hidden = self._run(self._trunk.embed_words(self._prompt), positions, seen)
        self._slots.keep(torch.full_like(self._words, width))
        return self._step(hidden[:, -1:], self.committed[:, None])

    @torch.no_grad()
    def extend(self, tokens_BNK: Tensor, parents_BN: Tensor | None = None) -> Step:
        """Score N entries in one pass, see `Session.extend`."""
        b, n = tokens_BNK.shape[:2]
        if parents_BN is None:
            depths, seen = torch.arange(n, device=self.device).expand(b, n), None
        else:
            depths, ancestors = tree_structure(parents_BN)
            seen = self._per_row(ancestors)
        places = (self.committed[:, None] + depths).clamp(max=self.length - 1)
        embeddings = self._per_row(self._trunk.embed_tokens(tokens_BNK[..., 0]))
        hidden = self._run(embeddings, self._words[:, None] + self._per_row(places), seen)
        return self._step(hidden, (places + 1).clamp(max=self.length - 1))

    def commit(self, index_BM: Tensor, counts_B: Tensor) -> None:
        """Keep a path of the last entries, see `Session.commit`."""
        self._slots.keep(self._per_row(counts_B), self._per_row(index_BM))
        self.committed = self.committed + counts_B

    def _per_row(self, values: Tensor) -> Tensor:
        """The same for the unconditional rows."""
        return torch.cat([values, values]) if self._guided else values

    def _run(self, embeddings_RND: Tensor, positions_RN: Tensor, seen: Tensor | None) -> Tensor:
        mask = self._slots.begin(embeddings_RND.shape[1], seen)
        self.passes += 1
        return self._trunk.run(embeddings_RND, mask, positions_RN, self._cache)

    def _step(self, hidden_RND: Tensor, predicted_BN: Tensor) -> Step:
        """Guided logits of the tokens at positions `predicted_BN`."""
        logits = self._trunk.head(hidden_RND).float()
        if self._guided:
            conditional, unconditional = logits.chunk(2)
            logits = guide(conditional, unconditional, self._scales[predicted_BN][..., None])
        logits = F.pad(logits, (0, self.num_format_ids), value=-torch.inf)
        return Step(logits[:, :, None], hidden_RND)


def _prompt_rows(condition: PromptCondition, guided: bool) -> tuple[Tensor, Tensor]:
    """Ids and mask (R, T) of all rows, left-padded to the longest."""
    sides = [condition]
    if guided:
        if condition.negative_ids is None or condition.negative_mask is None:
            raise InputError(
                "condition has no negative_ids, which guidance leads away from; "
                "give them, or guidance_scale=1 to switch guidance off"
            )
        sides.append(condition.unconditional())
    width = max(int(side.mask.sum(1).max()) for side in sides)
    ids, masks = zip(*[_left_padded(side.input_ids, side.mask, width) for side in sides], strict=True)
    mask = torch.cat(masks)
    if not bool(mask[:, -1:].all()) or width == 0:
        raise InputError("condition holds a prompt without a word (its mask is all False); give one at least")
    return torch.cat(ids), mask


def _left_padded(ids_BT: Tensor, mask_BT: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Visible words moved to the right, in order, in `width` columns."""
    order = mask_BT.int().argsort(dim=1, stable=True)
    ids, mask = ids_BT.gather(1, order)[:, -width:], mask_BT.gather(1, order)[:, -width:]
    missing = width - ids.shape[1]
    return F.pad(ids, (missing, 0)), F.pad(mask, (missing, 0))
