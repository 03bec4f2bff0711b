"""Whether a strategy costs quality: adherence and FID on held-out scenes, as `visgen evaluate` measures."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from visgen.data.scenes import IMAGE_SIZE
from visgen.errors import InputError
from visgen.evaluation.benchmark.report import Row
from visgen.evaluation.judging import score, see_generated
from visgen.evaluation.options import EvaluationOptions
from visgen.evaluation.plan import make_plan
from visgen.evaluation.setting import Setting
from visgen.evaluation.subjects import ModelSubject
from visgen.processes import Processes

METRICS = ("fid", "adherence")


class Quality:
    """Judges `count` images of the captions of `scenes:validation`, the same for every strategy.

    Args:
        count: images, 2 or more for FID.
        name: of the model, for messages.
        batch_size: images at once.
        device: of the feature extractor; None = the CPU.
    """

    def __init__(self, count: int, name: str, batch_size: int = 32, device: str | None = None) -> None:
        self.count, self.name = count, name
        self._options = EvaluationOptions(metrics=METRICS, count=count, batch_size=batch_size, device=device)

    def check(self, pipe: Any) -> None:
        """Raises `InputError` for a model that draws no scenes."""
        if not hasattr(pipe, "text") or pipe.tokenizer.pixel_size != IMAGE_SIZE:
            raise InputError(
                f"--quality-images {self.count}: {self.name!r} draws no scenes of {IMAGE_SIZE}×{IMAGE_SIZE} "
                "pixels from prompts; use scenes-ar, or leave it out"
            )
        make_plan(self._options, self._setting.protocol, self._setting.reference, self._subject(pipe, None))

    def __call__(self, pipe: Any, strategy: str) -> Row:
        """Adherence with its interval and FID of a pipeline under a strategy."""
        subject, setting = self._subject(pipe, strategy), self._setting
        plan = make_plan(self._options, setting.protocol, setting.reference, subject)
        real = setting.real(plan, subject.image_size)
        made = see_generated(subject, plan, setting)
        entries = score(plan, setting, real, made, None, subject.image_size)
        return {
            "adherence": entries["adherence"]["value"],
            "adherence_interval": entries["adherence"]["interval"],
            "fid": entries["fid"]["value"],
            "quality_images": self.count,
        }

    def _subject(self, pipe: Any, strategy: str | None) -> ModelSubject:
        return ModelSubject(self.name, pipe, self._options.batch_size, strategy)

    @cached_property
    def _setting(self) -> Setting:
        return Setting(self._options, Processes())
