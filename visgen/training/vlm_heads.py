"""Linear layers on the vision tower of a small multimodal model, which are thrown away after training.

From random weights answers alone teach a tower slowly. "facts": from CLS, which attributes and objects the
scene holds; it also gives CLS's attention, by which many pruners rank patches, something to look for.
"looks": from each patch, the colour, shape and size of the object that covers it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visgen.data.scenes.scene import Scene
from visgen.data.scenes.vocabulary import BACKGROUNDS, COLOURS, IMAGE_SIZE, RELATIONS, SHAPES, SIZES

COVERED = 0.75  # radii: a patch whose centre lies so near to an object's shows it
EMPTY_WEIGHT = 0.1  # of patches without object, which are nine in ten
LOOKS: dict[str, tuple[str, ...]] = {"colour": COLOURS, "shape": SHAPES, "size": tuple(SIZES)}
FACTS = tuple(
    [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    + [*COLOURS, *SHAPES, *SIZES]
    + [f"background {name}" for name in BACKGROUNDS]
    + [f"count {number}" for number in (1, 2, 3, 4)]
    + [f"{shape} {relation}" for shape in SHAPES for relation in RELATIONS]
)
_PLACES = {fact: place for place, fact in enumerate(FACTS)}


class TowerHeads(nn.Module):
    """Losses of what the tower's outputs tell of scenes.

    Args:
        width: of the tower.
        weights: "facts" and "looks"; 0 leaves one out.
    """

    def __init__(self, width: int, weights: dict[str, float]) -> None:
        super().__init__()
        self.weights = {name: weight for name, weight in weights.items() if weight}
        outputs = {"facts": len(FACTS), "looks": sum(1 + len(row) for row in LOOKS.values())}
        self.heads = nn.ModuleDict({name: nn.Linear(width, outputs[name]) for name in self.weights})

    def forward(self, pooled: Tensor, patches: Tensor, scenes: Sequence[Scene]) -> dict[str, Tensor]:
        """Losses by name, of a tower's CLS output (B, C) and patches (B, N, C)."""
        losses = {}
        if "facts" in self.heads:
            losses["facts"] = _facts_loss(self.heads["facts"](pooled).float(), scenes)
        if "looks" in self.heads:
            losses["looks"] = _looks_loss(self.heads["looks"](patches).float(), scenes)
        return losses

    def total(self, losses: dict[str, Tensor]) -> Tensor | float:
        """Weighted sum."""
        return sum(weight * losses[name] for name, weight in self.weights.items())


def scene_facts(scene: Scene) -> list[str]:
    """The facts of a scene, names of `FACTS`."""
    found = [f"background {scene.background}", f"count {scene.count}"]
    for look in {thing.look for thing in scene.objects}:
        found += [f"{look.colour} {look.shape}", look.colour, look.shape]
        found += [] if scene.is_small else [look.size]
    picture = scene.signature.picture()
    if picture.relation is not None:
        found.append(f"{picture.looks[0].shape} {picture.relation}")
    return found


def _facts_loss(logits: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """Mean over facts and scenes, times ten: most facts are false and soon known to be."""
    targets = torch.zeros(len(scenes), len(FACTS))
    for row, scene in enumerate(scenes):
        targets[row, [_PLACES[fact] for fact in scene_facts(scene)]] = 1
    return 10 * F.binary_cross_entropy_with_logits(logits, targets.to(logits.device))


def patch_looks(scenes: Sequence[Scene], grid: int) -> dict[str, Tensor]:
    """Class of each patch by attribute, int64 (B, grid²): 0 = no object, else 1 + its index in `LOOKS`."""
    centres = (torch.arange(grid) + 0.5) * (IMAGE_SIZE / grid)
    made = {name: torch.zeros(len(scenes), grid, grid, dtype=torch.int64) for name in LOOKS}
    for row, scene in enumerate(scenes):
        for thing in scene.objects:
            reach = max(COVERED * thing.radius, 0.75 * IMAGE_SIZE / grid)  # a patch at least
            near = (centres[:, None] - thing.y) ** 2 + (centres - thing.x) ** 2 < reach**2
            for name, names in LOOKS.items():
                known = name != "size" or not scene.is_small
                made[name][row][near] = 1 + names.index(getattr(thing, name)) if known else 0
    return {name: classes.flatten(1) for name, classes in made.items()}


def _looks_loss(logits: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """Mean cross-entropy over attributes and patches."""
    targets = patch_looks(scenes, int(logits.shape[1] ** 0.5))
    parts = logits.split([1 + len(row) for row in LOOKS.values()], dim=-1)
    losses = []
    for (name, names), part in zip(LOOKS.items(), parts, strict=True):
        weight = torch.ones(1 + len(names), device=logits.device)
        weight[0] = EMPTY_WEIGHT
        classes = targets[name].to(logits.device)
        losses.append(F.cross_entropy(part.flatten(0, 1), classes.flatten(), weight))
    return torch.stack(losses).mean()
