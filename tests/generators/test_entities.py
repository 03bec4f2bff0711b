"""Entities of a grid: their order and its inverse, places, who sees whom, configurations that do not fit."""

import pytest
import torch

from visgen.errors import InputError
from visgen.generators.entities import EntityLayout

KINDS = {
    "patch": ({"kind": "patch"}, (1,) * 24),
    "cell": ({"kind": "cell", "size": 2}, (4,) * 6),
    "subsample": ({"kind": "subsample", "size": 2}, (6,) * 4),
    "image": ({"kind": "image"}, (24,)),
    "scale": ({"kind": "scale", "scales": [1, 3, 6]}, (1, 6, 24)),
}
GRID = (4, 6)


def layout(kind):
    return EntityLayout.from_config(KINDS[kind][0], GRID)


def some_latents(rows=2):
    return torch.randn(rows, 24, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_image_comes_back(kind):
    entities, latents = layout(kind), some_latents()
    assert entities.lengths == KINDS[kind][1] and len(entities) == len(KINDS[kind][1])
    assert entities.length == sum(entities.lengths) == entities.order(latents).shape[1]
    assert torch.equal(entities.restore(entities.order(latents)), latents)


@pytest.mark.parametrize("kind", KINDS)
def test_places_tell_where_latents_come_from(kind):
    """Latents that hold their own row and column, averaged where an entity is coarser."""
    entities = layout(kind)
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
    where = torch.stack([rows.flatten(), columns.flatten()], dim=-1)
    assert torch.allclose(entities.order(where[None])[0], entities.places())


@pytest.mark.parametrize("kind", KINDS)
def test_an_entity_sees_itself_and_those_before(kind):
    entities, mask = layout(kind), layout(kind).attention_mask()
    for entity, place in enumerate(entities.slices()):
        assert mask[place, : place.stop].all() and not mask[place, place.stop :].any()
        assert set(entities.entity_ids()[place].tolist()) == {entity}


def test_order_of_cells_and_subsamples():
    """On 4×6: cells in raster order, inside raster order; subsamples by their first position."""
    assert layout("cell").groups[:2] == ((0, 1, 6, 7), (2, 3, 8, 9))
    assert layout("subsample").groups[:2] == ((0, 2, 4, 12, 14, 16), (1, 3, 5, 13, 15, 17))


def test_cells_are_the_published_ones():
    """tokens[e·64 + r·8 + c] is the latent at (8 (e // 2) + r, 8 (e % 2) + c)."""
    entities = EntityLayout.from_config({"kind": "cell", "size": 8}, (16, 16))
    index = torch.arange(256)
    e, r, c = index // 64, index % 64 // 8, index % 8
    expected = 16 * (8 * (e // 2) + r) + 8 * (e % 2) + c
    assert entities.order(torch.arange(256)[None, :, None])[0, :, 0].tolist() == expected.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_the_image_so_far(kind):
    entities, latents = layout(kind), some_latents()
    parts = entities.order(latents).split(entities.lengths, dim=1)
    image = latents.transpose(1, 2).unflatten(2, GRID)
    assert torch.equal(entities.so_far(parts), image)
    first = entities.so_far(parts[:1])
    assert first.shape == image.shape
    if kind == "scale":
        assert torch.allclose(first, image.mean(dim=(2, 3), keepdim=True).expand_as(image))
    else:
        known = torch.zeros(24, dtype=torch.bool)
        known[list(entities.groups[0])] = True
        assert torch.equal(first.flatten(2), image.flatten(2) * known)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"kind": "cells"}, "kind"),
        ({"kind": "cell"}, r"needs size"),
        ({"kind": "cell", "size": 4}, "size=4 must divide"),
        ({"kind": "cell", "size": 0}, "1 or more"),
        ({"kind": "image", "size": 2}, "has no size"),
        ({"kind": "scale", "scales": [1, 2]}, r"scales=\(1, 2\)"),
        ({"kind": "scale", "scales": [3, 1, 6]}, "must grow"),
        ({"kind": "scale", "scales": []}, "must grow"),
        ({"kind": "scale", "size": 2}, "has no size"),
        ({"kind": "patch", "side": 2}, "side"),
        ({"size": 2}, "kind is missing"),
    ],
)
def test_what_does_not_fit_is_refused(config, told):
    with pytest.raises(InputError, match=told):
        EntityLayout.from_config(config, GRID)


def test_an_empty_grid_is_refused():
    with pytest.raises(InputError, match="grid"):
        EntityLayout.from_config({"kind": "patch"}, (0, 4))
