"""What the catalogue says of one published model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class OfficialCheckpoint:
    """One published model.

    Attributes:
        alias: the name `visgen.load` takes.
        system: key of `visgen.checkpoints.OFFICIAL` for the generator.
        tokenizer_system: the same for the tokenizer.
        repo_id: repository on the hub.
        files: role ("tokenizer", "generator") → file name in the repository; none where that is a folder of
            the transformers library, which is read whole (system "transformers").
        size_bytes: download in bytes, about (parameters × 4, × 2 where bfloat16 is stored).
        licence: of the weights.
        paper: arXiv id.
        sampling: keywords of `TokenSampling` (xAR: `EntitySampling`), the published recipe in our convention
            of guidance.
        configs: role → official configuration keys that shapes do not tell.
        text: keywords of `TextFeatures`, for models of text; their encoder comes from its own repository.
        repos: role → repository, where it is another than `repo_id`.
        parity: what our numbers were checked against.
        notes: one line for people.
    """

    alias: str
    system: str
    tokenizer_system: str
    repo_id: str
    files: Mapping[str, str]
    size_bytes: int
    licence: str
    paper: str
    sampling: Mapping[str, Any] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)
    repos: Mapping[str, str] = field(default_factory=dict)
    parity: str = ""
    notes: str = ""

    def repo_of(self, role: str) -> str:
        """The repository that holds the file of a role."""
        return self.repos.get(role, self.repo_id)

    @property
    def tasks(self) -> tuple[str, ...]:
        """What `visgen.load(alias, task)` accepts, the default first."""
        if self.files and "generator" not in self.files:
            return ("reconstruct",)
        if self.system == "seed-llama":
            return ("interleaved", "caption", "text-to-image", "reconstruct")
        if self.system in ("titok-maskgit", "xar"):  # of 1-D tokens and of latents no part can be kept
            return ("class-to-image", "reconstruct")
        return ("text-to-image" if self.text or not self.files else "class-to-image", "edit", "reconstruct")

    @property
    def about(self) -> str:
        """Size, licence and source in a few words."""
        return f"about {self.size_bytes / 1e9:.1f} GB, licence {self.licence}, {self.repo_id} on the hub"
