"""How well does a tokenizer keep scenes it has not seen? PSNR and codebook use on the validation split.

python scripts/check_reconstruction.py                    # the tokenizer of scenes-var, 512 scenes
"""

from __future__ import annotations

from typing import Annotated

import torch
import typer

from visgen.data.scenes import Scenes
from visgen.nn.quantizers.codebook import code_counts, perplexity

BATCH = 64


@torch.no_grad()
def main(
    model: Annotated[str, typer.Option(help="Name, hub id or folder.")] = "scenes-var",
    count: Annotated[int, typer.Option(min=1, help="Scenes to reconstruct.")] = 512,
) -> None:
    """Print PSNR (mean over images), and how many codes are used and how evenly."""
    import visgen

    tokenizer = visgen.load(model, task="reconstruct").tokenizer
    scenes, errors = Scenes("validation"), []
    counts = torch.zeros(len(tokenizer.codebook))
    for start in range(0, count, BATCH):
        images = scenes.batch(range(start, min(start + BATCH, count))).images / 127.5 - 1
        tokens = tokenizer.encode(images)
        difference = (tokenizer.decode(tokens).clamp(-1, 1) - images) / 2
        errors.append(difference.square().mean(dim=(1, 2, 3)))
        counts += code_counts(tokens.values, len(counts))
    psnr = -10 * torch.cat(errors).log10()
    print(f"{len(psnr)} scenes: PSNR {psnr.mean():.2f} dB (worst {psnr.min():.2f})")
    print(f"codes used {int((counts > 0).sum())} of {len(counts)}, perplexity {perplexity(counts):.0f}")


if __name__ == "__main__":
    typer.run(main)
