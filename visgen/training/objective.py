"""The contract of a training objective: what is trained, how it is scored, what is saved of it."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from visgen.data.batch import Batch
from visgen.training.recipe import Recipe

if TYPE_CHECKING:
    from PIL.Image import Image

_NO_DECAY_PREFIXES = ("pos_", "lvl_", "scale_mul", "modulation_offset", "text_pos", "text_null")


class Objective(nn.Module):
    """What is trained and how it is scored. The loop calls `loss`, steps the optimizer, then calls
    `after_step`.

    Subclasses set `model` in their constructor. Everything that must survive an interruption lives in
    parameters and buffers; draws come from `noise_seed`, or from torch's global generator, which the loop
    seeds each step.

    Attributes:
        model: the module that is averaged (EMA) and saved, with `save_pretrained`.
        frozen: names of submodules that are not trained and not stored in checkpoints (a tokenizer, a VGG).
        takes_tokens: whether a source of tokens, without images, will do.
    """

    model: Any
    frozen: ClassVar[tuple[str, ...]] = ()
    takes_tokens: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def from_recipe(cls, recipe: Recipe, data: Any) -> Objective:
        """Build it from `recipe.model` and `recipe.options`; `visgen.schema.read` checks them
        strictly.

        `data` is the training source. The global generator is seeded with `recipe.seed` before.
        """

    @abstractmethod
    def loss(self, batch: Batch, step: int, noise_seed: int) -> dict[str, Tensor]:
        """Scalars by name: "loss" is minimised, the others are logged.

        Args:
            batch: this process's rows of the batch, images on the device.
            step: steps done before this one.
            noise_seed: a pure function of (recipe seed, step, process).
        """

    def adversary(self) -> nn.Module | None:
        """A discriminator with an optimizer of its own, a submodule of the objective; None when there is
        none.

        Its weights need no gradient while `loss` runs.
        """
        return None

    def adversary_loss(self, batch: Batch, step: int, noise_seed: int) -> dict[str, Tensor] | None:
        """The discriminator's scalars: "loss" is minimised, others are logged with "adversary_" before the
        name.

        Called after `loss` has been called with the same arguments and the model has been stepped: what
        `loss` reconstructed can be kept, detached, until here. None skips the step (before the discriminator
        starts).
        """
        raise NotImplementedError(f"{type(self).__name__} has an adversary, but no adversary_loss")

    def after_step(self, step: int) -> dict[str, float | Tensor]:
        """Work between steps (restart of dead codes); the values are logged. `step` is that of `loss`.

        Runs on every process. Parameters and buffers are then copied from the first one, so that they may be
        changed from a process's own batch.
        """
        return {}

    def no_decay(self, name: str, parameter: Tensor) -> bool:
        """Whether a parameter is spared weight decay: vectors, scalars, biases and position tables by
        default."""
        leaf = name.rsplit(".", 1)[-1]
        table = any(part.startswith(_NO_DECAY_PREFIXES) for part in name.split("."))
        return parameter.ndim < 2 or leaf == "bias" or table

    def matrices(self, name: str, parameter: Tensor) -> bool:
        """Whether `optimizer.name: muon` gives a parameter to Muon: the 2-d weights inside `blocks.` by
        default."""
        return parameter.ndim == 2 and "blocks." in name

    def samples(self, model: Any, batch: Batch) -> Image | None:
        """A picture of what the averaged `model` can do by now; `batch` is the same one every time."""
        return None

    def evaluate(self, model: Any, step: int) -> dict[str, float]:
        """Scores of the averaged `model`, asked for as often as `samples`; logged with "eval_" before the
        name."""
        return {}

    def compile_loss(self) -> None:
        """Compile the costly part of `loss`, the model's forward pass (recipe `compile: true`)."""
        self.model.compile()

    def export(self, folder: Path, model: Any) -> None:
        """Save the averaged `model` (and companions) to an empty folder."""
        model.save_pretrained(folder)

    def summary(self) -> dict[str, Any]:
        """Facts for `training_log.json`: parameter counts by default."""
        return {"parameters": sum(p.numel() for p in self.model.parameters())}

    def train(self, mode: bool = True) -> Objective:
        """Training mode, for all but the frozen submodules."""
        super().train(mode)
        for name in self.frozen:
            if (module := getattr(self, name, None)) is not None:
                module.eval()
        return self

    def freeze(self) -> None:
        """Ask for no gradients of the frozen submodules; the loop calls it once."""
        for name in self.frozen:
            if (module := getattr(self, name, None)) is not None:
                module.requires_grad_(False)

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """Named parameters of the main optimizer: all that ask for gradients, the adversary's and frozen ones
        not."""
        adversary = self.adversary()
        others = {id(p) for p in adversary.parameters()} if adversary is not None else set()
        return [
            (name, parameter)
            for name, parameter in self.named_parameters()
            if parameter.requires_grad and id(parameter) not in others and not name.startswith(self._frozen())
        ]

    def training_state(self) -> dict[str, Tensor]:
        """`state_dict` without the frozen submodules."""
        return {
            name: value for name, value in self.state_dict().items() if not name.startswith(self._frozen())
        }

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Load what `training_state` gave; raises `ValueError` when names are missing or left over."""
        missing, surplus = self.load_state_dict(state, strict=False)
        missing = [name for name in missing if not name.startswith(self._frozen())]
        if missing or surplus:
            raise ValueError(
                f"checkpoint does not fit {type(self).__name__}: missing {missing}, surplus {surplus}"
            )

    def _frozen(self) -> tuple[str, ...]:
        return tuple(f"{name}." for name in self.frozen)
