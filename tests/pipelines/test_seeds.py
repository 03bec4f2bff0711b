"""Seeds belong to images, not to batches."""

import pytest
import torch

from visgen.errors import InputError
from visgen.pipelines.seeds import image_seeds


def test_ordinals_count_images_of_one_subject():
    assert image_seeds(["a", "b", "a", "a"], 3) == [(3, 0), (3, 0), (3, 1), (3, 2)]


def test_listed_seeds_stand_for_themselves():
    assert image_seeds(["a", "a", "a"], [5, 6, 5]) == [(5, 0), (6, 0), (5, 1)]


def test_fresh_seed_is_shared_and_reported():
    first, second = image_seeds(["a", "b"]), image_seeds(["a", "b"])
    assert first[0] == first[1] and first != second


def test_generator_is_drawn_from_in_order():
    one = image_seeds(["a", "a"], generator=torch.Generator().manual_seed(1))
    again = image_seeds(["a", "a"], generator=torch.Generator().manual_seed(1))
    assert one == again and one[0] != one[1]


def test_a_generator_per_image_is_independent_of_the_others():
    generators = [torch.Generator().manual_seed(s) for s in (1, 2)]
    alone = image_seeds(["b"], generator=torch.Generator().manual_seed(2))
    assert image_seeds(["a", "b"], generator=generators)[1] == alone[0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"seed": 1, "generator": torch.Generator()}, "both given"),
        ({"seed": [1, 2, 3]}, "list of 3 for 2"),
        ({"seed": "7"}, "seed='7'"),
        ({"seed": True}, "seed=True"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"generator": 4}, "generator=4"),
        ({"generator": [torch.Generator()]}, "list of 1 for 2"),
    ],
)
def test_bad_seeds(options, told):
    with pytest.raises(InputError, match=told):
        image_seeds(["a", "b"], **options)
