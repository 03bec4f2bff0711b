"""The tables of the scenes world: what exists, how large and which colour, and the words for it."""

from __future__ import annotations

IMAGE_SIZE = 64

SHAPES = ("circle", "square", "triangle", "star", "heart", "ring")

# RGB. The nearest two (red and orange) are 96 apart, far more than the +-6 % shade moves them.
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (220, 36, 40),
    "orange": (240, 128, 20),
    "yellow": (250, 224, 50),
    "green": (36, 150, 62),
    "cyan": (40, 205, 220),
    "blue": (36, 76, 215),
    "purple": (132, 44, 176),
    "pink": (245, 120, 182),
    "black": (24, 24, 26),
}
COLOURS = tuple(PALETTE)

# Radius in pixels, half the side of the box a shape fits in. Disjoint ranges: a radius gives back the word.
# Circles below about 6 px do not survive an 8x8 latent.
SIZES: dict[str, tuple[float, float]] = {
    "small": (7.25, 8.5),
    "medium": (10.25, 12.0),
    "large": (14.75, 17.0),
}
DEFAULT_SIZE = "medium"

DEFAULT_BACKGROUND = "white"
# Soft colours from top to bottom: one is plain, two are a gradient, three are sky, sky and ground.
BACKGROUNDS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "white": ((255, 255, 255),),
    "gray": ((168, 168, 170),),
    "black": ((20, 20, 22),),
    "sky": ((158, 198, 238), (226, 240, 252)),
    "sunset": ((142, 118, 160), (250, 204, 168)),
    "night": ((20, 24, 52), (62, 66, 104)),
    "meadow": ((206, 226, 242), (236, 244, 248), (164, 202, 138)),
    "desert": ((214, 228, 238), (244, 240, 230), (226, 202, 160)),
    "sea": ((220, 230, 242), (244, 240, 236), (112, 158, 190)),
}
HORIZON = 0.62  # height of the horizon, as a fraction of the picture from the top

# Colours that vanish, or nearly so, on a background.
FORBIDDEN: dict[str, frozenset[str]] = {
    "white": frozenset(),
    "gray": frozenset(),
    "black": frozenset({"black"}),
    "sky": frozenset({"cyan"}),
    "sunset": frozenset({"orange", "pink", "purple"}),
    "night": frozenset({"black", "blue", "purple"}),
    "meadow": frozenset({"green"}),
    "desert": frozenset({"yellow"}),
    "sea": frozenset({"blue", "cyan"}),
}

INVERSE = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
RELATIONS = tuple(INVERSE)

# Words. The first entry of each row is the canonical one, used by caption variant 0.
SIZE_WORDS = {"small": ("small", "tiny", "little"), "medium": ("medium",), "large": ("large", "big", "huge")}
RELATION_PHRASES = {
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
    "left of": ("to the left of", "left of", "on the left of"),
    "right of": ("to the right of", "right of", "on the right of"),
}
PAIR_PHRASES = ("and", "next to", "beside")  # the first named is always on the left
COUNT_WORDS = {2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")}
BACKGROUND_PHRASES = {
    "white": ("on a white background", "on white"),
    "gray": ("on a gray background", "on a grey background", "on gray", "on grey"),
    "black": ("on a black background", "on black"),
    "sky": ("in the sky", "in a clear sky"),
    "sunset": ("at sunset", "during sunset"),
    "night": ("at night", "in the night"),
    "meadow": ("in a meadow", "in the meadow"),
    "desert": ("in the desert", "in a desert"),
    "sea": ("by the sea", "at the sea"),
}
PREFIXES = ("a picture of", "a drawing of", "an image of")
ARTICLES = ("a", "an")


def plural(shape: str) -> str:
    """The plural of a shape's name."""
    return shape + "s"
