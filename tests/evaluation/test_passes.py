"""Work by index: every image once, in order, whoever did it."""

import hashlib

import pytest
import torch

from visgen.evaluation.digests import digest_of_digests, image_digests, module_digest
from visgen.evaluation.passes import Part, join, run_pass
from visgen.processes import Processes


class Rank:
    """One of several processes; what they have is gathered by hand."""

    is_main = True

    def __init__(self, rank, count):
        self.rank, self.count, self.parts = rank, count, []

    def gather(self, parts):
        self.parts = parts
        return [
            Part(list(range(COUNT)), {"digests": [torch.zeros(COUNT, 32, dtype=torch.uint8)]}, {"sum": 0})
        ]


COUNT = 11


def picture(index):
    return torch.full((3, 4, 4), index, dtype=torch.uint8)


def work(indices, part):
    images = torch.stack([picture(i) for i in indices])
    part.keep_images(images)
    part.keep(twice=2 * torch.tensor(indices))
    part.add(sum=sum(indices))


def parts_of(processes, batch_size):
    out = []
    for rank in range(processes):
        process = Rank(rank, processes)
        run_pass(COUNT, work, process, batch_size, "test")
        out += process.parts
    return out


@pytest.mark.parametrize("processes", [1, 2, 4, 11, 16])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_every_image_once_in_order(processes, batch_size):
    whole = join(parts_of(processes, batch_size)[::-1], COUNT)
    assert whole.rows["twice"].tolist() == [2 * i for i in range(COUNT)]
    assert whole.sums["sum"] == sum(range(COUNT))
    assert whole.images_sha256 == join(parts_of(1, 1), COUNT).images_sha256
    assert whole.distinct == COUNT


def test_a_process_of_its_own():
    found = run_pass(COUNT, work, Processes(), 4, "test")
    assert found.count == COUNT and found.rows["twice"].tolist() == [2 * i for i in range(COUNT)]


@pytest.mark.parametrize("fault", ["twice", "missing", "both", "beyond"])
def test_duplicates_and_gaps_are_found(fault):
    parts = parts_of(2, 3)
    part = parts[0]
    if fault in ("missing", "both"):
        part.indices[0], message = part.indices[1], r"\[2\] came more than once and \[0\]"
    if fault == "missing":
        part.indices[0], message = 12, r"\[\] came more than once and \[0\] not at all"
    if fault == "twice":
        parts, message = [*parts, parts[1]], r"\[1, 3, 5, 7, 9\] came more than once"
    if fault == "beyond":
        part.indices[-1], message = COUNT, "came more than once"
    with pytest.raises(RuntimeError, match=message):
        join(parts, COUNT)


def test_equal_images_are_counted():
    def same(indices, part):
        part.keep_images(torch.stack([picture(i % 4) for i in indices]))

    assert run_pass(COUNT, same, Processes(), 5, "test").distinct == 4


def test_digests_are_of_the_bytes_of_a_png():
    images = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)
    found = image_digests(images)
    for image, digest in zip(images, found):
        assert bytes(digest.tolist()) == hashlib.sha256(image.permute(1, 2, 0).numpy().tobytes()).digest()
    assert digest_of_digests(found) == hashlib.sha256(bytes(found.flatten().tolist())).hexdigest()
    assert digest_of_digests(found.flip(0)) != digest_of_digests(found)


def test_module_digest_sees_values_and_names():
    torch.manual_seed(0)
    first, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert module_digest(first) != module_digest(other)
    other.load_state_dict(first.state_dict())
    assert module_digest(first) == module_digest(other) != module_digest(torch.nn.Sequential(first))
