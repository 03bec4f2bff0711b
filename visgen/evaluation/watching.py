"""Looking on while a subject is judged, for what the record of a comparison holds beyond its scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visgen.evaluation.passes import Pass
    from visgen.evaluation.plan import Plan
    from visgen.evaluation.real import RealSide
    from visgen.evaluation.setting import Setting
    from visgen.evaluation.subjects import Subject


class Watcher:
    """Sees the subject before its images are made, and what was kept of them after; keeps nothing itself."""

    def subject(self, subject: Subject) -> Subject:
        """What is judged instead of `subject`: the same images."""
        return subject

    def judged(
        self, plan: Plan, setting: Setting, real: RealSide | None, made: Pass | None, pairs: Pass | None
    ) -> dict[str, Any]:
        """More entries for the record, JSON-ready; called once the scores are there, on the first process."""
        return {}
