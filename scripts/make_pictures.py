"""Pictures of the README: 64 captions that the model has not seen, one picture of each; and an edit.

python scripts/make_pictures.py docs
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from PIL import Image, ImageDraw, ImageFont

from visgen.data.scenes import Scenes

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SIDE, COLUMNS, PADDING = 128, 8, 8  # pixels of a picture, pictures of a row, pixels between them
LINE, LETTERS, LINES = 13, 22, 4  # pixels of a line of text, letters and lines of a caption

SCENE = "a red circle above a blue square"
EDITS = {  # prompt → what is made anew
    "a red circle above a green star": (0.0, 0.5, 1.0, 1.0),
    "a yellow heart above a blue square": (0.0, 0.0, 1.0, 0.5),
}


def main(
    folder: Annotated[Path, typer.Argument(help="Where grid.png and edit.png go.")],
    model: Annotated[str, typer.Option(help="Name, hub id or folder.")] = "scenes-var",
    seed: Annotated[int, typer.Option(help="Of all pictures.")] = 0,
) -> None:
    """Draw the first 64 validation scenes' captions, all kinds in turn; then a scene, and two edits of it."""
    import visgen
    from visgen.data.images import write_png

    pipe, origin = visgen.load(model), {"model": model, "seed": str(seed)}
    captions = Scenes("validation", balanced=True).batch(range(COLUMNS**2)).captions or []
    images = pipe(captions, seed=seed, batch_size=COLUMNS).images
    write_png(labelled_grid(images, captions), folder / "grid.png", origin)
    source = pipe(SCENE, seed=seed).images[0]
    edit = visgen.EditPipeline.from_pipe(pipe)
    edited = [edit(source, box=box, prompt=prompt, seed=seed).images[0] for prompt, box in EDITS.items()]
    write_png(labelled_grid([source, *edited], [SCENE, *EDITS]), folder / "edit.png", origin)


def labelled_grid(images: Sequence[Picture], captions: Sequence[str]) -> Picture:
    """Pictures in rows of eight, doubled in size, with their captions below."""
    width, height = SIDE + PADDING, SIDE + LINE * LINES + PADDING
    columns, rows = min(len(images), COLUMNS), -(-len(images) // COLUMNS)
    grid = Image.new("RGB", (columns * width + PADDING, rows * height + PADDING), (246, 246, 246))
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(size=11)
    for number, (image, text) in enumerate(zip(images, captions, strict=True)):
        x, y = PADDING + number % COLUMNS * width, PADDING + number // COLUMNS * height
        grid.paste(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (x, y))
        wrapped = "\n".join(textwrap.wrap(text, LETTERS)[:LINES])
        draw.multiline_text((x, y + SIDE + 2), wrapped, (40, 40, 40), font, spacing=1)
    return grid


if __name__ == "__main__":
    typer.run(main)
