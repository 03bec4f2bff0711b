"""The loop: recipe → data → loss → optimizers → averaged weights → log, samples, checkpoints, export."""

from __future__ import annotations

import json
import logging
import platform
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visgen.data.batch import Batch
from visgen.errors import InputError
from visgen.nn.noise import image_seed
from visgen.nn.threads import torch_threads
from visgen.processes import Processes
from visgen.training import OBJECTIVES, checkpoint
from visgen.training.ema import Ema
from visgen.training.interruption import Interruption
from visgen.training.metrics import LogFile, Meter
from visgen.training.objective import Objective
from visgen.training.optimizers import build_adversary_optimizer, build_optimizers
from visgen.training.progress import Progress
from visgen.training.recipe import Recipe, check_resumable, save_recipe
from visgen.training.report import training_log
from visgen.training.schedule import lr_factor
from visgen.training.stream import BatchPlan, BatchStream, build_source, load_batch, source_length, to_device

logger = logging.getLogger(__name__)
_AGREE_EVERY = 10  # steps between questions whether some process was asked to stop


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of every draw of a step on a process: a 63-bit hash."""
    return image_seed(image_seed(seed, step), rank)


class Trainer:
    """One training run in its output folder.

    Args:
        recipe: what to train.
        resume: go on from the newest checkpoint; False refuses a folder that holds one.
    """

    def __init__(self, recipe: Recipe, *, resume: bool = True) -> None:
        self.recipe, self.resume = recipe, resume
        self.output = Path(recipe.output)
        self.checkpoints = self.output / "checkpoints"
        self.step = 0
        self.seconds = 0.0  # of earlier sessions

    def run(self) -> Path:
        """Train to the end, or until interrupted; returns the output folder. The caller's generators are
        kept."""
        start = self._starting_point()
        with torch_threads(self.recipe.threads):
            self.processes = Processes()
            device = self.processes.device
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                self._build()
                self._restore(start)
                self._train()
        return self.output

    def _starting_point(self) -> Path | None:
        """The checkpoint to resume; checks the recipe against it before anything heavy is loaded."""
        existing = checkpoint.list_checkpoints(self.checkpoints)
        if not existing:
            return None
        if not self.resume:
            raise InputError(f"output={str(self.output)!r} holds a run; resume it, or choose another output")
        progress = checkpoint.read_progress(existing[-1])
        check_resumable(progress["recipe"], self.recipe, progress["step"])
        return existing[-1]

    def _build(self) -> None:
        recipe = self.recipe
        if recipe.precision == "bf16" and self.processes.device.type == "cpu" and _lacks_bf16():
            logger.warning("this CPU has no bfloat16 instructions; precision=fp32 is many times faster")
        self.source = build_source(recipe.data)
        length = source_length(self.source)
        self.plan = BatchPlan(
            length, recipe.batch_size, recipe.seed, self.processes.rank, self.processes.count
        )
        torch.manual_seed(recipe.seed)
        kind = OBJECTIVES.load(recipe.objective)
        if getattr(self.source, "holds_tokens", False) and not kind.takes_tokens:
            raise InputError(f"data.source=tokens: objective {recipe.objective!r} needs images, not tokens")
        self.objective: Objective = kind.from_recipe(recipe, self.source)
        self.objective.to(self.processes.device).train()
        self.objective.freeze()
        self.processes.synchronize(self.objective)
        self.ema = Ema(self.objective.model, recipe.ema)
        self.optimizers = build_optimizers(self.objective, recipe.optimizer)
        self.adversary = self.objective.adversary()
        self.adversary_optimizers = self.adversary and build_adversary_optimizer(
            self.adversary, recipe.optimizer
        )
        self.meter = Meter()

    def _restore(self, path: Path | None) -> None:
        if path is not None:
            saved = checkpoint.load_checkpoint(path)
            self.objective.load_training_state(saved.objective)
            self.ema.model.load_state_dict(saved.ema)
            self.optimizers.load_state_dict(saved.optimizers["main"])
            if self.adversary_optimizers:
                self.adversary_optimizers.load_state_dict(saved.optimizers["adversary"])
            self.step, self.seconds = saved.progress["step"], saved.progress["seconds"]
            self.meter = Meter(saved.progress["rows"] if self.processes.is_main else [])
            logger.info("resuming %s at step %d", self.output, self.step)
        if self.recipe.compile:
            self.objective.compile_loss()
        if self.processes.is_main:
            self._open_output()

    def _open_output(self) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        checkpoint.remove_unfinished(self.checkpoints)
        save_recipe(self.recipe, self.output / "recipe.yaml")
        self.log = LogFile(self.output / "log.jsonl", self.step)

    def _train(self) -> None:
        """Go through the steps that are left."""
        pin = self.processes.device.type == "cuda"
        stream = BatchStream(self.source, self.plan, self.step, self.recipe.steps, pin_memory=pin)
        self.started = time.perf_counter()
        try:
            with (
                Interruption() as interruption,
                Progress(self.recipe, self.step, self.processes.is_main) as self.bar,
            ):
                for step, batch in stream:
                    self._step(step, to_device(batch, self.processes.device))
                    self._intervals()
                    if self.step < self.recipe.steps and self._must_stop(interruption):
                        return self._interrupted()
        finally:
            stream.close()
        self._finish()

    def _step(self, step: int, batch: Batch) -> None:
        """Loss, gradients, optimizers, work of the objective, averaged weights."""
        recipe, seed = self.recipe, step_seed(self.recipe.seed, step, self.processes.rank)
        torch.manual_seed(seed)
        factor = lr_factor(recipe.schedule, step, recipe.steps)
        if self.adversary is not None:
            self.adversary.requires_grad_(False)
        with self._autocast():
            values = self.objective.loss(batch, step, seed)
        grad_norm = self._descend(values["loss"], self.optimizers, factor)
        values = {**values, "grad_norm": grad_norm, "lr": recipe.optimizer.lr * factor}
        if self.adversary is not None:
            values |= self._adversary_step(batch, step, seed, factor)
        values |= self.objective.after_step(step)
        if type(self.objective).after_step is not Objective.after_step:
            self.processes.synchronize(self.objective)
        self.ema.update(step)
        self.meter.add(step, values)
        self.step = step + 1

    def _adversary_step(self, batch: Batch, step: int, seed: int, factor: float) -> dict[str, Tensor]:
        self.adversary.requires_grad_(True)
        with self._autocast():
            values = self.objective.adversary_loss(batch, step, seed)
        if values is None:
            return {}
        grad_norm = self._descend(values["loss"], self.adversary_optimizers, factor)
        return {f"adversary_{name}": value for name, value in {**values, "grad_norm": grad_norm}.items()}

    def _descend(self, loss: Tensor, optimizers: Any, factor: float) -> Tensor:
        """Backward and step; returns the gradient norm before clipping."""
        loss.backward()
        self.processes.average_gradients(optimizers.parameters)
        grad_norm = optimizers.clip(self.recipe.optimizer.grad_clip)
        optimizers.set_factor(factor)
        optimizers.step()
        return grad_norm

    def _autocast(self) -> torch.autocast:
        enabled = self.recipe.precision == "bf16"
        return torch.autocast(self.processes.device.type, torch.bfloat16, enabled=enabled)

    def _intervals(self) -> None:
        """What is due after this step. Logging comes first, so that a checkpoint holds what is left of a
        window."""
        recipe, last = self.recipe, self.step == self.recipe.steps
        self.bar.advance()
        if self.step % recipe.log_every == 0 or last:
            self._log()
        if recipe.sample_every and (self.step % recipe.sample_every == 0 or last):
            self._sample()
        if self.step % recipe.checkpoint_every == 0 or last:
            self._save()

    def _log(self) -> None:
        self.meter.flush()
        values = self.meter.take(self.processes)
        if self.processes.is_main:
            line = {"step": self.step, **values, "images_per_second": round(self.bar.rate(), 2)}
            self.log.write({**line, "seconds": round(self._elapsed(), 2)})
            self.bar.show(line)

    @torch.no_grad()
    def _sample(self) -> None:
        """Picture and scores of the averaged model, on the first process."""
        if self.processes.is_main:
            model, training = self.ema.model, self.ema.model.training
            batch = to_device(load_batch(self.source, self.plan, 0), self.processes.device)
            model.eval()
            with self._autocast():
                image = self.objective.samples(model, batch)
                scores = self.objective.evaluate(model, self.step - 1)
            model.train(training)
            if image is not None:
                (self.output / "samples").mkdir(exist_ok=True)
                image.save(self.output / "samples" / f"step_{self.step:06d}.png")
            if scores:
                line = {"step": self.step, "seconds": round(self._elapsed(), 2)}
                self.log.write(line | {f"eval_{name}": value for name, value in scores.items()})
        self.processes.wait()

    def _save(self) -> None:
        self.meter.flush()  # also stops here, before a diverged model is stored
        rows = self.processes.gather(self.meter.rows)
        if self.processes.is_main:
            optimizers = {"main": self.optimizers.state_dict()}
            if self.adversary_optimizers:
                optimizers["adversary"] = self.adversary_optimizers.state_dict()
            state = checkpoint.Checkpoint(
                self.objective.training_state(), self.ema.model.state_dict(), optimizers, self._progress(rows)
            )
            checkpoint.save_checkpoint(self.checkpoints, self.step, state, self.recipe.keep_checkpoints)
        self.processes.wait()

    def _progress(self, rows: list[dict[str, float]]) -> dict[str, Any]:
        samples, recipe = self.step * self.recipe.batch_size, self.recipe.to_dict()
        return {
            "step": self.step,
            "samples": samples,
            "seconds": self._elapsed(),
            "rows": rows,
            "recipe": recipe,
        }

    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self.started

    def _must_stop(self, interruption: Interruption) -> bool:
        if self.processes.count == 1:
            return interruption.requested
        return self.step % _AGREE_EVERY == 0 and self.processes.any(interruption.requested)

    def _interrupted(self) -> None:
        self._save()
        if self.processes.is_main:
            logger.warning(
                "stopped after step %d of %d, saved in %s; train the same recipe again to go on from here",
                self.step, self.recipe.steps, self.checkpoints,
            )  # fmt: skip

    def _finish(self) -> None:
        if self.processes.is_main:
            model = self.ema.model.eval()
            checkpoint.write_folder(
                self.output / "model", lambda folder: self.objective.export(folder, model)
            )
            record = training_log(self.recipe, self.objective, self.log, self._elapsed())
            (self.output / "training_log.json").write_text(
                json.dumps(record, indent=1) + "\n", encoding="utf-8"
            )
            logger.info("trained %d steps; the model is in %s", self.step, self.output / "model")
        self.processes.wait()


def _lacks_bf16() -> bool:
    """Whether torch runs without AVX-512 here, and so without its bfloat16 part, on an x86 CPU."""
    return torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2") and platform.machine() == "x86_64"
