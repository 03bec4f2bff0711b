"""Folders of the transformers library whose models draw: Janus, Emu3, Anole and Lumina-mGPT."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from visgen.checkpoints.catalogue import OfficialCheckpoint
from visgen.checkpoints.chameleon import tokenizer_from_official
from visgen.checkpoints.files import read_state_dict
from visgen.errors import InputError, shown
from visgen.generators import GENERATORS
from visgen.nn.building import load_strictly
from visgen.nn.model import read_json
from visgen.pipelines import TEXTS
from visgen.pipelines.sources import official_folder
from visgen.tokenizers.tokens import Grid
from visgen.tokenizers.transformers_vq import CLASSES, TransformersVQ
from visgen.tokenizers.wrapping import SETTINGS, read_settings

PREFIX = "model.vqmodel."  # of the image tokenizer's weights among those of a whole model
DECODER_FILES = ("vqgan.safetensors", "vqgan.ckpt")  # Chameleon's image tokenizer as its authors publish it


@dataclass(frozen=True)
class Family:
    """Which classes serve a model type, and the published sampling recipe."""

    generator: str
    text: str
    sampling: Mapping[str, Any]


FAMILIES = {
    "janus": Family("JanusGenerator", "JanusPrompts", {"guidance_scale": 5.0}),
    "emu3": Family("Emu3Generator", "Emu3Prompts", {"guidance_scale": 3.0, "top_k": 2048}),
    "chameleon": Family("ChameleonGenerator", "ChameleonPrompts", {"guidance_scale": 3.0, "top_k": 2000}),
}


@dataclass(frozen=True, eq=False)
class TransformersFolder:
    """A model in the layout of the transformers library, whose files are fetched when they are read.

    Attributes:
        name: alias or path, for messages.
        folder: gives the local folder.
        sampling: keywords of `TokenSampling`; None = the family's recipe.
        card: licence and notes.
    """

    name: str
    folder: Callable[[], Path]
    sampling: Mapping[str, Any] | None = None
    card: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_entry(cls, entry: OfficialCheckpoint, local_files_only: bool = False) -> TransformersFolder:
        """A catalogue entry without files of its own: its repository is read whole."""
        card = {"licence": entry.licence, "paper": entry.paper, "notes": entry.notes, "source": entry.repo_id}
        return cls(entry.alias, lambda: official_folder(entry, local_files_only), entry.sampling, card)


def find_transformers(folder: Path) -> TransformersFolder | None:
    """The model of a folder whose `config.json` names a family of ours, or None."""
    path = folder / "config.json"
    if not path.is_file() or read_json(path).get("model_type") not in FAMILIES:
        return None
    return TransformersFolder(str(folder), lambda: folder)


def load_transformers(
    source: TransformersFolder, slots: Iterable[str], dtype: torch.dtype | str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The wanted components, and the default sampling.

    Args:
        source: the model.
        slots: "tokenizer", "generator", "text".
        dtype: None = float32, "auto" = as stored, or a torch dtype.

    Raises:
        InputError: another model type, files that are missing or do not fit, or a Chameleon without decoder.
    """
    folder, slots = source.folder(), set(slots)
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise InputError(f"{str(folder)!r} holds a model of type {shown(kind)}; it must be one of {known}")
    family, settings = FAMILIES[kind], _settings(folder, config)
    components: dict[str, Any] = {}
    if kind == "chameleon" and "tokenizer" in slots:  # first: it fails before gigabytes are read
        components["tokenizer"] = _chameleon_tokenizer(folder, settings, dtype)
    if "generator" in slots:
        cls = GENERATORS.load(family.generator)
        components["generator"] = cls.from_pretrained(folder, dtype=dtype, settings=settings)
    if "tokenizer" in slots - components.keys():
        components["tokenizer"] = _tokenizer(folder, config, components.get("generator"), settings, dtype)
    if "text" in slots:
        components["text"] = TEXTS.load(family.text).from_pretrained(folder, _of_text(kind, settings))
    sampling = family.sampling if source.sampling is None else source.sampling
    return components, dict(sampling)


def _settings(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What `visgen.json` says; a Lumina-mGPT is told by its class."""
    settings = read_settings(folder)
    if config.get("model_type") == "chameleon" and "format" not in settings:
        lumina = any("XLLMX" in str(name) for name in config.get("architectures") or ())
        settings["format"] = "lumina" if lumina else "anole"
    if unknown := settings.keys() - {"grid", "format", "line_end_id"}:
        raise InputError(f"{folder / SETTINGS} has an unknown key {shown(min(unknown))}")
    return settings


def _of_text(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the generator that its text component shares."""
    if kind == "janus":
        return {}
    shared = {name: settings[name] for name in ("grid", "format") if name in settings}
    return shared | ({"size_id": settings["line_end_id"] + 1} if "line_end_id" in settings else {})


def _tokenizer(
    folder: Path, config: Mapping[str, Any], generator: Any, settings: Mapping[str, Any], dtype: Any
) -> TransformersVQ:
    """The generator's own tokenizer, or it alone from the files of the whole model."""
    if generator is not None:
        return TransformersVQ(generator.model.model.vqmodel, generator.grid)
    import transformers

    kind = f"{config['model_type']}_vqgan"
    cls = getattr(transformers, CLASSES[kind])
    with torch.device("meta"):
        model = cls(cls.config_class(**_vq_config(config)))
    state = {key.removeprefix(PREFIX): t for key, t in _weights(folder, PREFIX).items()}
    if dtype is None:
        state = {key: t.float() if t.is_floating_point() else t for key, t in state.items()}
    load_strictly(model, state, str(folder))
    model = model.to(dtype) if isinstance(dtype, torch.dtype) else model
    return TransformersVQ(model.eval(), settings.get("grid"))


def _vq_config(config: Mapping[str, Any]) -> dict[str, Any]:
    vq = {key: value for key, value in config.get("vq_config", {}).items() if key != "model_type"}
    if config["model_type"] == "janus":
        vision = config.get("vision_config", {})
        vq["num_patches"] = vision.get("image_size", 384) // vision.get("patch_size", 16)
    return vq


def _chameleon_tokenizer(folder: Path, settings: Mapping[str, Any], dtype: Any) -> Any:
    state = _weights(folder, PREFIX)
    if not any(key.startswith(f"{PREFIX}decoder.") for key in state):
        file = next((folder / name for name in DECODER_FILES if (folder / name).is_file()), None)
        if file is None:
            raise InputError(
                f"{str(folder)!r} has no decoder of images: the transformers library keeps only the encoder "
                "of Chameleon's tokenizer; put vqgan.ckpt of the official Chameleon release into this folder"
            )
        state = read_state_dict(file)
    tokenizer = tokenizer_from_official(state)
    grid = settings.get("grid") or (Grid(48, 48) if settings["format"] == "lumina" else None)
    if grid is not None:
        tokenizer.register_to_config(image_size=grid.h * tokenizer.downsampling)
    return tokenizer.to(dtype) if isinstance(dtype, torch.dtype) else tokenizer


def _weights(folder: Path, prefix: str) -> dict[str, Tensor]:
    """Those tensors of a folder's safetensors files whose names have a prefix."""
    state: dict[str, Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                state |= {key: tensors.get_tensor(key) for key in tensors.keys() if key.startswith(prefix)}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InputError(f"path {str(file)!r} is no readable safetensors file ({error})") from error
    return state
