"""The scenes world as a training source, drawn on the fly: nothing is stored."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

from visgen.data.batch import Batch
from visgen.data.scenes.captions import caption, words
from visgen.data.scenes.rendering import check_size, render
from visgen.data.scenes.sampling import kinds_of, sample_scene, shrunk
from visgen.data.scenes.scene import Scene
from visgen.data.scenes.splits import check_split
from visgen.data.scenes.vocabulary import IMAGE_SIZE
from visgen.errors import InputError

_GOLDEN = 0.6180339887498949


class Scenes:
    """A split of the scenes world, endless unless `length` is given.

    Args:
        split: "train", "validation", "test_pairs" or "test_relations".
        length: number of scenes; None for endless (`len()` then raises TypeError, and `length` is None).
        paraphrase: vary the wording with index and epoch; False gives the canonical caption only.
        first: number of the first scene: later stages of a training see other scenes than earlier ones.
        balanced: all kinds of scenes equally often and in turn, instead of the natural mix: for scores.
        size: pixels a side; drawn at that size, not enlarged.
        small: share of the scenes whose objects are drawn at half their size, so that the words for sizes do
            not hold of them: for questions that ask no size (`is_small` says which scenes these are).

    Raises:
        InputError: unknown split, a length below 1, a negative `first`, a size or a share out of range.
    """

    def __init__(
        self,
        split: str,
        length: int | None = None,
        paraphrase: bool = True,
        balanced: bool = False,
        first: int = 0,
        size: int = IMAGE_SIZE,
        small: float = 0.0,
    ) -> None:
        if length is not None and length < 1:
            raise InputError(f"length={length} is not a number of scenes; use 1 or more, or None.")
        if first < 0:
            raise InputError(f"first={first} is negative; scenes are numbered from 0.")
        if not 0 <= small <= 1:
            raise InputError(f"small={small} is not a share; use a number from 0 to 1.")
        self.image_size, self.small = check_size(size), small
        self.split, self.length, self.paraphrase = check_split(split), length, paraphrase
        self.balanced, self.first = balanced, first

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError("an endless Scenes has no length; give length=...")
        return self.length

    def __bool__(self) -> bool:
        return True  # never empty; keeps `if dataset:` from asking an endless one for its length

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One example: `image` uint8 (3, size, size), `caption` and `scene`; IndexError past the end."""
        scene = self._scene(index)
        return {
            "image": render([scene], self.image_size)[0],
            "caption": caption(scene, self._variant(0)),
            "scene": scene,
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        index = 0
        while self.length is None or index < self.length:
            yield self[index]
            index += 1

    def batch(self, indices: Sequence[int], epoch: int = 0) -> Batch:
        """Images uint8 (B, 3, size, size), captions and scenes; `epoch` changes the wording, not the picture.

        Raises:
            IndexError: an index past the end.
        """
        scenes = [self._scene(index) for index in indices]
        captions = [caption(scene, self._variant(epoch)) for scene in scenes]
        return Batch(render(scenes, self.image_size), captions, scenes=scenes)

    def _variant(self, epoch: int) -> int:
        return epoch + 1 if self.paraphrase else 0  # variant 0 is the canonical wording

    def words(self) -> tuple[str, ...]:
        """Every word that a caption can hold."""
        return words()

    def _scene(self, index: int) -> Scene:
        number = self.first + self._number(index)
        scene = self._sample(number)
        # by the golden ratio: any stretch of scenes holds the share, whatever the batch size
        return shrunk(scene) if number * _GOLDEN % 1 < self.small else scene

    def _sample(self, number: int) -> Scene:
        if not self.balanced:
            return sample_scene(self.split, number)
        kinds = kinds_of(self.split)
        return sample_scene(self.split, number // len(kinds), kinds[number % len(kinds)])

    def _number(self, index: int) -> int:
        number = operator.index(index)
        if number < 0 or (self.length is not None and number >= self.length):
            raise IndexError(f"index {number} is outside {self.split!r} of length {self.length}")
        return number
