"""What a linear probe finds in SEED's ids: colour and shape of a single object."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from visgen.data.scenes import COLOURS, SHAPES, Scenes
from visgen.data.scenes.sampling import kinds_of
from visgen.data.scenes.scene import Scene
from visgen.tokenizers.seed import SEEDTokenizer
from visgen.training.reconstruction import to_pixels

BATCH = 64
RIDGE = 1.0  # weight of the squared coefficients
CLASSES = {"colour": COLOURS, "shape": SHAPES}


@torch.no_grad()
def probe_accuracy(model: SEEDTokenizer, count: int, test_count: int = 512) -> dict[str, float]:
    """Accuracy on `test_count` validation scenes of ridge regressions on `count` training scenes, all of one
    object: "probe_colour", "probe_shape".

    The regressions see the code vectors of all ids side by side, Q · C numbers.
    """
    x, labels = codes_of_singles(model, "train", count)
    x_test, labels_test = codes_of_singles(model, "validation", test_count)
    mean = x.mean(0)
    return {
        f"probe_{name}": ridge_accuracy(
            x - mean, labels[name], x_test - mean, labels_test[name], len(classes)
        )
        for name, classes in CLASSES.items()
    }


def codes_of_singles(model: SEEDTokenizer, split: str, count: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Code vectors (N, Q · C) and class indices by attribute (N,) of the first scenes of one object."""
    kinds = list(kinds_of(split))
    source = Scenes(split, balanced=True)
    numbers = [kinds.index("single") + len(kinds) * k for k in range(count)]
    vectors: list[Tensor] = []
    scenes: list[Scene] = []
    for start in range(0, count, BATCH):
        batch = source.batch(numbers[start : start + BATCH])
        tokens = model.encode(to_pixels(batch.images.to(model.device)))
        vectors.append(model.quantize.embed(tokens.values).flatten(1).float().cpu())
        scenes += batch.scenes or []
    labels = {
        name: torch.tensor([classes.index(getattr(scene.objects[0], name)) for scene in scenes])
        for name, classes in CLASSES.items()
    }
    return torch.cat(vectors), labels


def ridge_accuracy(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, classes: int) -> float:
    """Accuracy on a test set of a ridge regression to one-hot labels; x (N, F) has zero mean."""
    targets = F.one_hot(y, classes).double()
    base = targets.mean(0)
    x64 = x.double()
    gram = x64.T @ x64 + RIDGE * torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, x64.T @ (targets - base))
    return float(((x_test.double() @ weights + base).argmax(1) == y_test).double().mean())
