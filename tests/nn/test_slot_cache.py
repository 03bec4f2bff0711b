"""The slot cache: rows at their own pace, trees, padding."""

import pytest
import torch

from visgen.nn.slot_cache import SlotCache


def cache(rows=3, slots=10, hidden=None):
    return SlotCache(2, rows, 2, slots, 4, dtype=torch.float32, device=torch.device("cpu"), hidden=hidden)


def test_rows_keep_their_own_paths():
    store, k = cache(), torch.randn(3, 2, 4, 4)
    assert store.begin(4).shape == (3, 1, 4, 4)
    for layer in range(2):
        store.write(layer, k, -k)
    store.keep(torch.tensor([3, 2, 1]), torch.tensor([[0, 2, 3], [0, 1, 0], [3, 0, 0]]))
    assert store.lengths.tolist() == [3, 2, 1]
    mask = store.begin(2)
    keys, values = store.write(1, k[:, :, :2], k[:, :, :2])
    assert torch.equal(keys[0, :, :3], k[0, :, [0, 2, 3]])
    assert torch.equal(values[2, :, :1], -k[2, :, 3:])
    assert torch.equal(keys[1, :, 2:4], k[1, :, :2])
    assert mask[1, 0].tolist() == [[True, True, True, False, False], [True, True, True, True, False]]


def test_dropped_entries_are_overwritten_and_never_seen():
    store, k = cache(rows=1), torch.randn(1, 2, 3, 4)
    store.begin(3)
    store.write(0, k, k)
    store.keep(torch.tensor([1]))
    store.begin(1)
    keys, _ = store.write(0, k[:, :, 2:], k[:, :, 2:])
    assert torch.equal(keys[0], k[0, :, [0, 2]])


def test_one_entry_of_even_rows_needs_no_mask():
    store = cache()
    assert store.begin(1) is None


def test_hidden_prefix_slots_stay_unseen():
    hidden = torch.tensor([[True, False], [False, False], [True, True]])
    store, k = cache(hidden=hidden), torch.zeros(3, 2, 2, 4)
    seen = torch.eye(2, dtype=torch.bool)[None]
    assert torch.equal(store.begin(2, seen)[:, 0], seen.expand(3, 2, 2))
    store.write(0, k, k)
    store.keep(torch.full((3,), 2))
    mask = store.begin(1)[:, 0, 0]
    assert torch.equal(mask, torch.cat([~hidden, torch.ones(3, 1, dtype=torch.bool)], dim=1))


def test_a_full_cache_says_so():
    with pytest.raises(ValueError, match="do not fit into 10 slots"):
        cache().begin(11)
