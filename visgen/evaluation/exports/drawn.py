"""A model whose images are drawn into a folder once and read from there: a job that was stopped goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from visgen.evaluation.exports.layout import read_png
from visgen.evaluation.subjects import Captions, ModelSubject, Subject, stack
from visgen.pipelines.batch_folder import Picture
from visgen.pipelines.folder import FolderResult
from visgen.tokenizers.tokens import ImageTokens

Progress = Callable[[int, int], None]


class DrawnSubject(Subject):
    """The images of a model as `generate_folder` draws them: image i is picture i mod n of row i // n.

    Args:
        model: what draws.
        rows: prompts or labels.
        per_row: pictures n of each row.
        folder: where they go.
        seed: picture i is drawn from (seed, i).
        batch_size: images at once.
        on_progress: called with (images there, images in all).
    """

    def __init__(
        self,
        model: ModelSubject,
        rows: Sequence[str] | Sequence[int],
        per_row: int,
        folder: Path,
        seed: int,
        batch_size: int,
        on_progress: Progress | None = None,
    ) -> None:
        self._model, self._per_row, self._folder = model, per_row, folder
        self._rows: list[str | int] = [*rows]
        self._seed, self._batch_size, self._on_progress = seed, batch_size, on_progress
        self._result: FolderResult | None = None
        self.name, self.kind, self.image_size = model.name, model.kind, model.image_size
        self.device, self.dtype = model.device, model.dtype
        self.checkpoint_sha256, self.length = model.checkpoint_sha256, len(self._rows) * per_row
        self.num_classes, self.labels = model.num_classes, model.labels

    def draw(self) -> FolderResult:
        """Draw what is missing; the second call only remembers.

        Raises:
            InputError: the folder holds something else, or another run fills it.
        """
        if self._result is None:
            self._result = self._model.draw_into(
                self._folder,
                self._rows,
                num_images=self._per_row,
                seed=self._seed,
                batch_size=self._batch_size,
                on_progress=self._on_progress,
            )
            self.sampling = self._model.sampling
        return self._result

    def picture(self, row: int, j: int) -> Path:
        """The file of picture j of a row."""
        return self._folder / Picture(row, j, self._rows[row], self._seed, row * self._per_row + j).name

    def generate(self, indices: Sequence[int], captions: Captions, seed: int) -> Tensor:
        """The pictures of these indices; all of them are drawn first."""
        self.draw()
        return stack([read_png(self.picture(*divmod(i, self._per_row))) for i in indices])

    def reconstruct(self, images: Tensor) -> tuple[Tensor, ImageTokens]:
        """As the model does."""
        return self._model.reconstruct(images)

    @property
    def codebook_size(self) -> int | None:
        """As the model's."""
        return self._model.codebook_size
