"""Which images a step sees depends on nothing but the seed and the step."""

import time

import pytest
import torch

from visgen.data.batch import Batch
from visgen.errors import InputError
from visgen.training.stream import BatchPlan, BatchStream, build_source, load_batch


class Numbers:
    """A source whose images hold their index."""

    def __init__(self, fail_at=None):
        self.fail_at = fail_at

    def batch(self, indices, epoch=0):
        if self.fail_at in indices:
            raise OSError("unreadable")
        images = torch.tensor(indices, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
        return Batch(images, [f"{epoch}:{index}" for index in indices])


def flat(plan, step):
    return [(epoch, index) for epoch, indices in plan.indices(step) for index in indices]


@pytest.mark.parametrize("length", [None, 10])
def test_processes_share_a_batch_without_overlap(length):
    whole = BatchPlan(length, 8, seed=3)
    halves = [BatchPlan(length, 8, seed=3, rank=rank, processes=2) for rank in range(2)]
    for step in (0, 1, 2, 7):
        parts = [flat(half, step) for half in halves]
        assert [len(part) for part in parts] == [4, 4]
        assert parts[0] + parts[1] == flat(whole, step) and len(set(flat(whole, step))) == 8


def test_finite_data_is_seen_once_per_epoch_in_a_new_order():
    plan = BatchPlan(10, 4, seed=0)
    seen = [place for step in range(5) for place in flat(plan, step)]
    orders = [[index for epoch, index in seen if epoch == e] for e in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10)) and orders[0] != orders[1]
    assert flat(BatchPlan(10, 4, seed=1), 0) != flat(plan, 0)
    batch = load_batch(Numbers(), plan, 2)  # half of epoch 0, half of epoch 1
    assert [caption[0] for caption in batch.captions] == ["0", "0", "1", "1"] and len(batch) == 4
    assert batch.images[:, 0, 0, 0].tolist() == [int(caption[2:]) for caption in batch.captions]


def test_stream_starts_anywhere_and_keeps_the_thread_count():
    threads, plan = torch.get_num_threads(), BatchPlan(None, 2, seed=0)
    stream = BatchStream(Numbers(), plan, 3, 9)
    got = [(step, batch.images[:, 0, 0, 0].tolist()) for step, batch in stream]
    stream.close()
    assert got == [(step, [2 * step, 2 * step + 1]) for step in range(3, 9)]
    assert torch.get_num_threads() == threads


def test_stream_passes_errors_on_and_closes_while_full():
    with pytest.raises(OSError, match="unreadable"):
        list(BatchStream(Numbers(fail_at=5), BatchPlan(None, 2, seed=0), 0, 10))
    stream = BatchStream(Numbers(), BatchPlan(None, 2, seed=0), 0, 1000)
    time.sleep(0.05)
    stream.close()
    assert not stream._thread.is_alive()


def test_bad_sources_are_named():
    with pytest.raises(InputError, match=r"splt.*split"):
        build_source({"source": "scenes", "splt": "train"})
    with pytest.raises(InputError, match="scenes"):
        build_source({"source": "scene"})
    with pytest.raises(InputError, match="split"):
        build_source({"source": "scenes"})
    with pytest.raises(InputError, match="batch_size=5"):
        BatchPlan(None, 5, seed=0, processes=2)
