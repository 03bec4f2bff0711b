"""The model families of transformers whose tokens can be pruned, one row each, and where their parts are."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

from torch import nn

from visgen.errors import InputError
from visgen.registry import nearest


@dataclass(frozen=True)
class Family:
    """How a family turns pixels into a sequence.

    Attributes:
        vision: attribute of the base model that holds the vision tower.
        projector: attribute that maps the tower's patches to the language model; None = inside the tower.
        entry: what one entry of `get_image_features` is; tiles of one image stand side by side in the prompt.
        packs: crops are laid out on a canvas, cut to the image and given line ends (`pack_image_features`).
        shuffles: 2 × 2 patches become one token before the projector (`pixel_shuffle`).
        mrope: positions have three axes, so they cannot be counted anew.
        deepstack: features of deeper tower layers are added after the first decoder layers.
    """

    vision: str = "vision_tower"
    projector: str | None = "multi_modal_projector"
    entry: Literal["image", "tile"] = "image"
    packs: bool = False
    shuffles: bool = False
    mrope: bool = False
    deepstack: bool = False


@dataclass(frozen=True)
class Tower:
    """A vision tower by its `config.model_type`.

    Attributes:
        layers: path to its layers.
        attention: path from a layer to its attention.
        has_cls: whether a CLS token stands in front.
        packed: whether all images are one sequence with rotary positions (Qwen); q and k come from `qkv`.
    """

    layers: str
    attention: str
    has_cls: bool = False
    packed: bool = False


FAMILIES = {
    "llava": Family(),
    "llava_next": Family(packs=True),
    "internvl": Family(entry="tile", shuffles=True),
    "qwen2_5_vl": Family(vision="visual", projector=None, mrope=True),
    "qwen3_vl": Family(vision="visual", projector=None, mrope=True, deepstack=True),
}
TOWERS = {
    "clip_vision_model": Tower("encoder.layers", "self_attn", has_cls=True),
    "siglip_vision_model": Tower("encoder.layers", "self_attn"),
    "internvl_vision": Tower("encoder.layer", "attention", has_cls=True),
    "qwen2_5_vl_vision": Tower("blocks", "attn", packed=True),
    "qwen3_vl_vision": Tower("blocks", "attn", packed=True),
}


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A model and its parts.

    Attributes:
        model: the …ForConditionalGeneration.
        base: vision tower, projector and language model.
        language: the text decoder: `layers`, `rotary_emb`.
        vision: the vision tower.
        tower: its row in `TOWERS`, or None where nothing is known of it.
    """

    model: Any
    base: Any
    language: Any
    vision: Any
    family: Family
    tower: Tower | None

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers."""
        return self.language.layers

    @property
    def tower_layers(self) -> nn.ModuleList:
        """The tower's layers; raises as `check_tower`."""
        return attrgetter(self.check_tower().layers)(self.vision)

    @property
    def tower_attention(self) -> nn.Module:
        """Attention of the tower's last layer; raises as `check_tower`."""
        return attrgetter(self.check_tower().attention)(self.tower_layers[-1])

    def placeholder_ids(self) -> dict[str, int]:
        """Modality → the id that stands in prompts for its tokens."""
        names = {"image": "image_token_id", "video": "video_token_id"}
        found = {modality: getattr(self.model.config, name, None) for modality, name in names.items()}
        return {modality: token for modality, token in found.items() if token is not None}

    def check_tower(self) -> Tower:
        """The tower's row in `TOWERS`.

        Raises:
            InputError: there is none.
        """
        if self.tower is None:
            kind = self.vision.config.model_type
            raise InputError(
                f"the vision tower is a {kind!r}, whose attention is not known here; "
                f"use a pruner that needs features alone, or one of {', '.join(sorted(TOWERS))}"
            )
        return self.tower


def locate(model: Any) -> Anatomy:
    """The parts of a model.

    Raises:
        InputError: no model of a known family, or one whose decoder looks back a window of tokens only.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind not in FAMILIES:
        raise InputError(
            f"model is a {type(model).__name__} with model_type {kind!r}, which no family adapter serves: "
            f"{nearest(str(kind), sorted(FAMILIES))}"
        )
    base: Any = getattr(model, "model", None)
    if not hasattr(base, "language_model") or not hasattr(model, "lm_head"):
        raise InputError(
            f"model is a {type(model).__name__}; pruning needs the …ForConditionalGeneration around it"
        )
    _check_full_attention(base.language_model.config)
    family = FAMILIES[kind]
    vision = getattr(base, family.vision)
    return Anatomy(model, base, base.language_model, vision, family, TOWERS.get(vision.config.model_type))


def _check_full_attention(config: Any) -> None:
    kinds = getattr(config, "layer_types", None)
    if kinds is None and getattr(config, "sliding_window", None) is not None:
        kinds = ("sliding_attention",)
    others = sorted(set(kinds or ()) - {"full_attention"})
    if others:
        raise InputError(
            f"the language model has layers of {', '.join(others)}, for which dropped tokens change what the "
            "others see; pruning needs full attention in every layer"
        )
