"""Official SEED-LLaMA models: a folder of the transformers library, beside it those of the image tokenizer
and of its renderer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor

from visgen.checkpoints import from_official
from visgen.checkpoints.catalogue import CATALOGUE, OfficialCheckpoint
from visgen.checkpoints.catalogue_seed_llama import SEED_LLAMA_SYSTEM, SEED_TOKENIZER_REPO, UNCLIP_REPO
from visgen.checkpoints.files import read_state_dict
from visgen.errors import InputError
from visgen.nn.model import read_json
from visgen.pipelines.language_models import LanguageSettings, SeedLlama
from visgen.pipelines.seed_vocabulary import SeedVocabulary
from visgen.pipelines.sources import hub_files, local_folder, official_folder
from visgen.tokenizers import RENDERERS

logger = logging.getLogger(__name__)

QUANTIZER = "seed_quantizer.pt"
SHARDS = "pytorch_model*.bin"  # what transformers 4.30, of the authors, wrote
LLAMA2_DEPTH = 40  # blocks of the 14B model; the 8B one has 32


@dataclass(frozen=True, eq=False)
class SeedLlamaFolder:
    """A model whose files are fetched when they are read.

    Attributes:
        name: alias or path, for messages.
        folder: gives the language model's local folder.
        tokenizer: gives that of `seed_quantizer.pt` and of LLaMA's tokenizer.
        renderer: gives that of the unCLIP pipeline.
        style: how prompts are written; None = told by the model's depth.
        sampling: keywords of `TokenSampling`.
        card: licence and notes.
    """

    name: str
    folder: Callable[[], Path]
    tokenizer: Callable[[], Path]
    renderer: Callable[[], Path]
    style: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    card: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_entry(cls, entry: OfficialCheckpoint, local_files_only: bool = False) -> SeedLlamaFolder:
        """A catalogue entry, its files from `VISGEN_MODELS`, the hub's cache or the hub."""
        card = {"licence": entry.licence, "paper": entry.paper, "notes": entry.notes, "source": entry.repo_id}
        return cls(
            entry.alias,
            lambda: official_folder(entry, local_files_only, [SHARDS]),
            lambda: hub_files(SEED_TOKENIZER_REPO, local_files_only, [QUANTIZER]),
            lambda: hub_files(UNCLIP_REPO, local_files_only, ["*/*.safetensors"]),
            None if entry.alias.endswith("sft") else "plain",
            entry.sampling,
            card,
        )


def is_seed_llama(entry: OfficialCheckpoint) -> bool:
    """Whether a catalogue entry is one of these models."""
    return entry.system == SEED_LLAMA_SYSTEM


def find_seed_llama(folder: Path) -> SeedLlamaFolder | None:
    """The model of a folder whose `config.json` tells of a LLaMA, or None.

    Its image tokenizer is the folder seed-tokenizer-2 beside it, or in `VISGEN_MODELS`; so is the renderer.
    Without it only a folder named seed-llama… is taken for one.
    """
    path = folder / "config.json"
    if not path.is_file() or read_json(path).get("model_type") != "llama":
        return None
    if not folder.resolve().name.startswith("seed-llama") and _place(folder, SEED_TOKENIZER_REPO) is None:
        return None  # any other LLaMA
    plain = "plain" if folder.resolve().name.endswith("pretrain") else None
    sampling = CATALOGUE["seed-llama-8b-sft"].sampling
    tokenizer, renderer = (_beside(folder, repo) for repo in (SEED_TOKENIZER_REPO, UNCLIP_REPO))
    return SeedLlamaFolder(str(folder), lambda: folder, tokenizer, renderer, plain, sampling)


def _beside(folder: Path, repo_id: str) -> Callable[[], Path]:
    """Gives the folder of a repository that lies beside another one, or in `VISGEN_MODELS`."""

    def find() -> Path:
        if (place := _place(folder, repo_id)) is not None:
            return place
        name = PurePath(repo_id).name
        raise InputError(f"{str(folder)!r} needs {repo_id}: put its files into a folder {name} beside it")

    return find


def _place(folder: Path, repo_id: str) -> Path | None:
    found = folder.resolve().parent / PurePath(repo_id).name
    return found if found.is_dir() else local_folder(repo_id)


def load_seed_llama(
    source: SeedLlamaFolder, slots: Iterable[str], dtype: torch.dtype | str | None
) -> dict[str, Any]:
    """The wanted components.

    Args:
        source: the model.
        slots: "tokenizer", "language_model", "renderer".
        dtype: None = float32, "auto" = as stored (tokenizer and renderer: float32), or a torch dtype.

    Raises:
        InputError: files that are missing or do not fit.
    """
    wanted, components = set(slots), dict[str, Any]()
    if "language_model" in wanted:
        source.folder()  # first, so that an alias without files is told of by its own name
    if "tokenizer" in wanted:
        file = source.tokenizer() / QUANTIZER
        tokenizer = from_official("seed-tokenizer", read_state_dict(file))
        components["tokenizer"] = tokenizer.to(dtype) if isinstance(dtype, torch.dtype) else tokenizer
    if "language_model" in wanted:
        components["language_model"] = _language_model(source, dtype)
    if "renderer" in wanted:
        cls = RENDERERS.load("UnCLIPRenderer")
        components["renderer"] = cls.from_pretrained(source.renderer(), dtype=dtype)
    return components


def _language_model(source: SeedLlamaFolder, dtype: torch.dtype | str | None) -> SeedLlama:
    folder = source.folder()
    depth = read_json(folder / "config.json").get("num_hidden_layers")
    style = source.style or ("llama2" if depth == LLAMA2_DEPTH else "vicuna")
    settings = LanguageSettings(style)
    vocabulary = SeedVocabulary.from_pretrained(source.tokenizer(), settings.image_length)
    if any(folder.glob("*.safetensors")) or not any(folder.glob(SHARDS)):
        return SeedLlama.from_pretrained(folder, dtype=dtype, settings=settings, vocabulary=vocabulary)
    return SeedLlama(_of_shards(folder, dtype), vocabulary, settings)


def _of_shards(folder: Path, dtype: torch.dtype | str | None) -> Any:
    """A LLaMA of pickled shards; nothing in them is executed, nothing may be missing or left over."""
    from transformers import LlamaConfig, LlamaForCausalLM

    state: dict[str, Tensor] = {}
    for file in sorted(folder.glob(SHARDS)):
        state |= read_state_dict(file)
    state = {key: tensor for key, tensor in state.items() if not key.endswith(".rotary_emb.inv_freq")}
    kept = next(iter(state.values())).dtype if dtype == "auto" else dtype or torch.float32
    config = LlamaConfig.from_pretrained(str(folder), local_files_only=True)
    try:
        model, told = LlamaForCausalLM.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=kept,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except Exception as error:  # that library raises plain ones on what does not fit
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"shards in {str(folder)!r} make no LlamaForCausalLM ({reason})") from error
    for kind in ("missing_keys", "unexpected_keys"):
        if keys := sorted(told[kind]):
            raise InputError(f"shards in {str(folder)!r}: {kind.replace('_', ' ')} {', '.join(keys[:3])}")
    return model.eval()
