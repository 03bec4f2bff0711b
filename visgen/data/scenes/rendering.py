"""Drawing scenes: signed distances in pixels give crisp shapes with analytic anti-aliasing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch

from visgen.data.scenes.scene import Scene, SceneObject
from visgen.data.scenes.vocabulary import BACKGROUNDS, HORIZON, IMAGE_SIZE, PALETTE
from visgen.errors import InputError

SHADE = 0.06  # objects are 6 % lighter at the top and 6 % darker at the bottom

LARGEST = 1024  # pixels a side, of a picture that is drawn larger than the world
_COLOURS = {name: np.array(rgb, np.float32)[:, None, None] for name, rgb in PALETTE.items()}


def render(scenes: Sequence[Scene], size: int = IMAGE_SIZE) -> torch.Tensor:
    """Draws scenes: uint8 (B, 3, size, size), some thousands a second on one core at 64.

    Args:
        scenes: what to draw; their coordinates are those of 64 pixels at any size.
        size: pixels a side; edges are drawn at that size, not enlarged.

    Raises:
        InputError: a size that is no integer from 8 to `LARGEST`.
    """
    canvas: np.ndarray = np.empty((len(scenes), 3, check_size(size), size), np.uint8)
    for picture, scene in zip(canvas, scenes, strict=True):
        picture[:] = render_background(scene.background, size)
        for thing in scene.objects:
            _paint(picture, thing)
    return torch.from_numpy(canvas)


def check_size(size: int) -> int:
    """Returns `size`, or raises InputError when no picture has such a side."""
    if isinstance(size, bool) or not isinstance(size, int) or not 8 <= size <= LARGEST:
        raise InputError(f"size={size!r} is not a picture's side; use an integer from 8 to {LARGEST}.")
    return size


@cache
def _axis(size: int) -> np.ndarray:
    """Pixel centres of a picture of `size`, in pixels of the world."""
    return (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(IMAGE_SIZE / size)


@cache
def render_background(name: str, size: int = IMAGE_SIZE) -> np.ndarray:
    """The empty background: uint8 (3, size, size), read-only because it is shared."""
    stops, axis, scale = np.array(BACKGROUNDS[name], np.float32), _axis(size), size / IMAGE_SIZE
    height = (axis / IMAGE_SIZE)[:, None]
    if len(stops) == 3:
        sky = stops[0] + (stops[1] - stops[0]) * np.minimum(height / HORIZON, 1)
        ground = stops[2] * (1.03 - 0.08 * height)  # a hint of depth
        below = np.clip((axis[:, None] - HORIZON * IMAGE_SIZE) * scale + 0.5, 0, 1)
        column = sky + (ground - sky) * below
    else:
        column = stops[0] + (stops[-1] - stops[0]) * height
    image = np.repeat(np.rint(column.T)[:, :, None], size, axis=2).astype(np.uint8)
    image.flags.writeable = False
    return image


def _paint(picture: np.ndarray, thing: SceneObject) -> None:
    """Blends one object into a uint8 (3, H, H) picture, touching only its box."""
    axis, scale = _axis(picture.shape[-1]), picture.shape[-1] / IMAGE_SIZE
    rows, columns = _window(thing.y, thing.radius, scale), _window(thing.x, thing.radius, scale)
    x, y = axis[columns][None, :] - np.float32(thing.x), axis[rows][:, None] - np.float32(thing.y)
    alpha = np.clip(0.5 - DISTANCES[thing.shape](x, y, np.float32(thing.radius)) * np.float32(scale), 0, 1)
    colour = _COLOURS[thing.colour] * (1 - np.float32(SHADE / thing.radius) * y)
    patch = picture[:, rows, columns]
    blended = patch + alpha * (colour - patch)
    patch[:] = np.minimum(blended + np.float32(0.5), 255)  # the cast truncates: this rounds


def _window(centre: float, radius: float, scale: float) -> slice:
    low, high = int((centre - radius) * scale - 1), int((centre + radius) * scale + 2)
    return slice(max(low, 0), max(high, 0))  # a slice ends where the picture does


# Distance functions: x (1, W) and y (H, 1) in pixels from the centre (y down), r the radius, result (H, W),
# negative inside. Every shape fits the box [-r, r]^2; the factors bring all areas between 1.8 and 2.5 r^2.
Distance = Callable[[np.ndarray, np.ndarray, np.float32], np.ndarray]


def _circle(x: np.ndarray, y: np.ndarray, r: np.float32) -> np.ndarray:
    return np.sqrt(x * x + y * y) - np.float32(0.89) * r


def _square(x: np.ndarray, y: np.ndarray, r: np.float32) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.79) * r


def _ring(x: np.ndarray, y: np.ndarray, r: np.float32) -> np.ndarray:
    outer = np.float32(0.97) * r
    hole = np.float32(0.45) * outer
    return np.abs(np.sqrt(x * x + y * y) - (outer + hole) / 2) - (outer - hole) / 2


def _triangle(x: np.ndarray, y: np.ndarray, r: np.float32) -> np.ndarray:
    """Apex (0, -0.95 r), base from -r to r at 0.9 r."""
    height, half = np.float32(1.85), np.float32(1.0)
    slope = np.float32(np.hypot(height, half))
    side = (np.abs(x) * height - (y + np.float32(0.95) * r) * half) / slope
    return np.maximum(side, y - np.float32(0.9) * r)


def _star(x: np.ndarray, y: np.ndarray, r: np.float32) -> np.ndarray:
    """Five fat arms (inner radius 0.58 of the outer), by folding the plane onto half an arm."""
    c, s = np.float32(np.cos(np.pi / 5)), np.float32(np.sin(np.pi / 5))
    tip, inner = np.float32(1.05) * r, np.float32(0.58)
    x, y = np.abs(x), np.float32(0.1) * r - y  # y up; 0.1 r centres the box
    fold = 2 * np.maximum(c * x - s * y, 0)
    x, y = x - c * fold, y + s * fold
    fold = 2 * np.maximum(-c * x - s * y, 0)
    x, y = np.abs(x + c * fold), y + s * fold - tip
    ex, ey = inner * s, inner * c - 1  # edge from the tip to the inner corner, in units of the outer radius
    along = np.clip((x * ex + y * ey) / (ex * ex + ey * ey), 0, tip)
    dx, dy = x - ex * along, y - ey * along
    return np.copysign(np.sqrt(dx * dx + dy * dy), y * ex - x * ey)


def _heart(x: np.ndarray, y: np.ndarray, r: np.float32) -> np.ndarray:
    """A square on its corner with two half discs: 1.207 wide and 1.104 high, scaled to 2 * 0.98 r wide."""
    scale = np.float32(0.98 / 0.6036) * r
    x, y = np.abs(x) / scale, np.float32(0.552) - y / scale  # y up, from the lower tip
    lobe = np.sqrt((x - 0.25) ** 2 + (y - 0.75) ** 2) - np.float32(np.sqrt(2) / 4)
    foot = np.maximum(x + y, 0) / 2
    edge = np.minimum(x * x + (y - 1) ** 2, (x - foot) ** 2 + (y - foot) ** 2)
    return scale * np.where(x + y > 1, lobe, np.copysign(np.sqrt(edge), x - y))


DISTANCES: dict[str, Distance] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "ring": _ring,
}
