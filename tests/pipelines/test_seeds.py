"""Seeds belong to images, not to batches."""

import pytest
import torch

from tests.pipelines.conftest import same
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


def test_given_ordinals_replace_the_count():
    assert image_seeds(["a", "a", "b"], 3, ordinals=range(4, 7)) == [(3, 4), (3, 5), (3, 6)]
    assert image_seeds(["a", "a"], [1, 2], ordinals=[9, 0]) == [(1, 9), (2, 0)]


def test_images_of_a_text_call_follow_their_ordinals(text_pipe):
    whole = text_pipe("a red circle", num_images_per_prompt=4, seed=3)
    part = text_pipe(["a red circle"] * 2, seed=3, ordinals=[3, 1])
    assert same(part.images, [whole.images[3], whole.images[1]])
    assert part.seeds == [(3, 3), (3, 1)]


def test_images_of_a_class_call_follow_their_ordinals(class_pipe):
    whole = class_pipe(2, num_images_per_prompt=4, seed=3)
    part = class_pipe(2, num_images_per_prompt=2, seed=3, ordinals=(3, 1))
    assert same(part.images, [whole.images[3], whole.images[1]])


def test_random_classes_follow_their_ordinals(class_pipe):
    whole = class_pipe(num_images_per_prompt=6, seed=3, ordinals=range(6))
    part = class_pipe(num_images_per_prompt=2, seed=3, ordinals=[5, 2])
    assert part.labels == [whole.labels[5], whole.labels[2]] and len(set(whole.labels)) > 1
    assert same(part.images, [whole.images[5], whole.images[2]])


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
        ({"ordinals": [0]}, "ordinals is a list of 1 for 2"),
        ({"ordinals": 4}, "ordinals=4"),
        ({"ordinals": "01"}, "ordinals='01'"),
        ({"ordinals": [0, -1]}, "ordinals hold -1"),
        ({"ordinals": [0, 1.5]}, "ordinals hold 1.5"),
        ({"ordinals": [True, 0]}, "ordinals hold True"),
    ],
)
def test_bad_seeds(options, told):
    with pytest.raises(InputError, match=told):
        image_seeds(["a", "b"], **options)
