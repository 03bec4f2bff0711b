"""Pictures show what the scene says: nearest-colour segmentation gives it back."""

import numpy as np
import pytest
import torch

from visgen.data.batch import Batch
from visgen.data.scenes import (
    IMAGE_SIZE,
    PALETTE,
    SHAPES,
    Scene,
    SceneObject,
    Scenes,
    caption,
    render,
    render_background,
    sample_scene,
)
from visgen.errors import InputError


def segment(image: np.ndarray, background: str) -> np.ndarray:
    """(64, 64) index of the nearest palette colour, or -1 where the empty background is nearer.

    Pixels more than 30 from their colour are blended edges (orange on white passes by yellow) and count as
    -1; the shade moves a colour by 22 at most.
    """
    pixels = image.astype(np.float32)
    colours = np.array(list(PALETTE.values()), np.float32)[:, :, None, None]
    to_colours = np.sqrt(np.square(pixels - colours).sum(1))
    to_background = np.sqrt(np.square(pixels - render_background(background)).sum(0))
    nearest = to_colours.min(0)
    return np.where((nearest < 30) & (nearest < to_background), to_colours.argmin(0), -1)


def centroids(image: np.ndarray, scene: Scene) -> list[np.ndarray]:
    """Where the pixels of each object's colour are, as (x, y), in the order of the objects."""
    found = segment(image, scene.background)
    masks = [np.nonzero(found == list(PALETTE).index(o.colour)) for o in scene.objects]
    return [np.array([xs.mean(), ys.mean()]) + 0.5 for ys, xs in masks]


@pytest.mark.parametrize("split", ["train", "test_pairs", "test_relations"])
def test_segmentation_recovers_places_and_relations(split):
    scenes = [s for s in (sample_scene(split, i) for i in range(300)) if s.kind != "count"]
    axes = {"above": (0, 1), "below": (0, -1), "left of": (1, 0), "right of": (-1, 0)}
    for image, scene in zip(render(scenes).numpy(), scenes, strict=True):
        found = centroids(image, scene)
        for centre, o in zip(found, scene.objects, strict=True):
            # the centroid of a triangle is 0.28 r below the centre of its box
            assert np.abs(centre - (o.x, o.y)).max() < 0.3 * o.radius + 0.5
        if scene.kind != "single":
            assert (found[1] - found[0]) @ axes[scene.relation or "left of"] > 14


def test_segmentation_recovers_sizes():
    scenes = [sample_scene("train", i) for i in range(300)]
    for image, scene in zip(render(scenes).numpy(), scenes, strict=True):
        found = segment(image, scene.background)
        for colour in {o.colour for o in scene.objects}:
            area = sum(o.radius**2 for o in scene.objects if o.colour == colour)
            assert 1.1 * area < (found == list(PALETTE).index(colour)).sum() < 2.9 * area


def test_pixels_outside_the_boxes_are_background():
    scenes = [sample_scene("train", i) for i in range(100)]
    rows, columns = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE] + 0.5
    for image, scene in zip(render(scenes).numpy(), scenes, strict=True):
        boxes = [np.maximum(abs(columns - o.x), abs(rows - o.y)) <= o.radius + 1 for o in scene.objects]
        outside = ~np.any(boxes, axis=0)
        assert (image[:, outside] == render_background(scene.background)[:, outside]).all()


def test_shapes_have_comparable_areas_and_differ():
    scenes = [
        Scene("single", (SceneObject(s, "black", "large", 32, 32, 16.0),), None, "white") for s in SHAPES
    ]
    ink = (255 - render(scenes).float().mean(1)) / 231
    areas = ink.sum((1, 2)) / 16**2
    assert areas.min() > 1.75 and areas.max() < 2.6
    assert all((ink[i] - ink[j]).abs().sum() > 60 for i in range(6) for j in range(i))


def test_edges_are_antialiased_and_ring_has_a_hole():
    ring = SceneObject("ring", "black", "large", 32, 32, 16.0)
    image = render([Scene("single", (ring,), None, "white")])[0]
    assert (image[:, 32, 32] == 255).all()
    assert ((image[0] > 40) & (image[0] < 250)).sum() > 40


def test_rendering_does_not_depend_on_the_batch():
    scenes = [sample_scene("train", i) for i in range(9)]
    images = render(scenes)
    assert images.shape == (9, 3, 64, 64) and images.dtype == torch.uint8
    assert torch.equal(images[4:5], render(scenes[4:5]))
    assert render([]).shape == (0, 3, 64, 64)


def test_dataset_batch():
    data = Scenes("train")
    batch = data.batch([5, 2])
    assert isinstance(batch, Batch) and len(batch) == 2 and batch.labels is None
    assert batch.scenes == [sample_scene("train", 5), sample_scene("train", 2)]
    assert torch.equal(batch.images, render(batch.scenes))
    other = data.batch(range(40), epoch=1)
    assert torch.equal(other.images[5], batch.images[0])
    assert other.captions != data.batch(range(40), epoch=0).captions
    plain = Scenes("train", paraphrase=False).batch([5], epoch=3)
    assert plain.captions == [caption(batch.scenes[0])]


def test_dataset_length_and_items():
    data = Scenes("validation", length=3)
    items = list(data)
    assert len(data) == len(items) == data.length == 3
    assert items[1]["image"].shape == (3, 64, 64) and items[1]["scene"] == sample_scene("validation", 1)
    assert items[1]["caption"] == data.batch([1]).captions[0]
    with pytest.raises(IndexError):
        data[3]
    endless = Scenes("train")
    assert endless and endless.length is None
    with pytest.raises(TypeError, match="length"):
        len(endless)


@pytest.mark.parametrize("arguments, word", [(("tset",), "test_pairs"), (("train", 0), "length=0")])
def test_dataset_bad_input(arguments, word):
    with pytest.raises(InputError, match=word):
        Scenes(*arguments)
