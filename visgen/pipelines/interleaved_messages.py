"""What is said in a conversation of texts and images, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from visgen.errors import InputError, shown
from visgen.pipelines.seed_prompts import IMAGE, Role
from visgen.pipelines.seeds import ImageSeed
from visgen.tokenizers.tokens import ImageTokens

Part = Any  # a str, a picture (PIL, array or tensor), or `ImageTokens` of one image
Codes = list[int]


@dataclass(frozen=True, eq=False)
class Message:
    """What one side said: texts and images in order."""

    role: Role
    parts: Sequence[Part]


Conversation = Sequence[Part] | Sequence[Message]


@dataclass(frozen=True, eq=False)
class InterleavedOutput:
    """An answer.

    Attributes:
        parts: texts and PIL images in order; broken images are left out.
        ids: what the model wrote; a forced `<img>` comes first.
        images: tokens of the images in `parts`; None = there are none.
        errors: labels of what is wrong with it, see `visgen.pipelines.seed_prompts.parse_answer`.
        seed: (seed, ordinal).
        settings: resolved options, model, device, dtype and version.
    """

    parts: list[str | Image.Image]
    ids: list[int]
    images: ImageTokens | None
    errors: tuple[str, ...]
    seed: ImageSeed
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The answer with "<image>" for each image."""
        return " ".join(part if isinstance(part, str) else IMAGE for part in self.parts)


def messages_of(conversation: Conversation) -> list[Message]:
    """A conversation as messages; bare parts are what the user says.

    Raises:
        InputError: something else, nothing at all, or a mix of both.
    """
    if not isinstance(conversation, (list, tuple)) or not conversation:
        raise InputError(
            f"conversation={shown(conversation)} must be a non-empty list of texts and images, or of Messages"
        )
    told = [isinstance(part, Message) for part in conversation]
    if any(told) and not all(told):
        raise InputError("conversation mixes Messages with bare texts and images; put all into Messages")
    return list(conversation) if all(told) else [Message("user", list(conversation))]


def text_of(message: Message) -> str:
    """What a message says, "<image>" for each image; raises `InputError` where a text spells it."""
    for part in message.parts:
        if isinstance(part, str) and IMAGE in part:
            raise InputError(f"text {shown(part)} holds {IMAGE}; put the image itself between two texts")
    return "".join(part if isinstance(part, str) else IMAGE for part in message.parts)


def codes_of(tokens: ImageTokens) -> Codes:
    """Codes of one image; raises `InputError` for several, or latents."""
    if len(tokens) != 1 or tokens.ids is None:
        raise InputError(f"ImageTokens of {len(tokens)} images in a conversation; give ids of one image each")
    return tokens.ids.flatten().tolist()
