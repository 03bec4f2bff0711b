"""Parity of MustDrop in the language model: the pruner that users have, on an unmodified LLaVA.

Golden prompts are embeddings. Here every text entry gets an id of its own, behind the golden vocabulary, and
the vision tower is replaced by the golden image tokens.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlavaConfig, LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tests.parity.report import Golden
from visgen.pruning.dual_attention import average_tokens, dual_attention_filter
from visgen.pruning.mustdrop import MustDrop
from visgen.pruning.views import ImageView, LayerView

Tensors = dict[str, Tensor]
TOWER = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
VISION = {"model_type": "clip_vision_model", "image_size": 8, "patch_size": 4, **TOWER}


@dataclass(frozen=True)
class Recorded(MustDrop):
    """MustDrop with a key set that is given, and a record of what each stage saw and kept."""

    keys: tuple[int, ...] = ()
    seen: list[Tensors] = field(default_factory=list)

    needs = frozenset()  # scores only serve to find the key set

    def _keys(self, image: ImageView) -> Tensor:
        return torch.tensor(self.keys, dtype=torch.long)

    def filter(self, view: LayerView) -> Tensor:
        kept = super().filter(view)
        attention_TN = view.attention_HTN.mean(dim=0)
        survivors = dual_attention_filter(attention_TN, self.global_threshold, self.individual_threshold)
        record = {
            "attn_text_to_image": attention_TN,
            "filter_keep_local": survivors,
            "kept_original": view.token_N[kept],
        }
        self.seen.append(record)
        return kept


def check_language_model(golden: Golden, entry: dict[str, Any], tensors: Tensors) -> None:
    """Every case of the file."""
    for name, case in entry["cases"].items():
        io = {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}
        weights = {
            key.removeprefix("weights."): t for key, t in tensors.items() if key.startswith("weights.")
        }
        model, ids = make_model(entry["config"], weights, io["inputs_embeds"][0], case)
        pruner = Recorded(
            positions="compact",
            global_threshold=case["global_thr"],
            individual_threshold=case["individual_thr"],
            merge_threshold=None,
            after=tuple(entry["pruning_layers"]),
            keys=tuple(io["key_set"].tolist()),
        )
        check_case(golden, name, case, io, model, ids, pruner)


def make_model(
    config: dict[str, Any], weights: Tensors, embeds_LD: Tensor, case: dict[str, Any]
) -> tuple[Any, Tensor]:
    """The golden language model in a LLaVA that sees the golden image, and the prompt's ids (1, L)."""
    vocabulary, length = config["vocab_size"], len(embeds_LD)
    placeholder = vocabulary + length
    ids = torch.arange(vocabulary, placeholder)
    image = slice(case["sys"], case["sys"] + case["img"])
    ids[image] = placeholder
    text = {"model_type": "llama", **config, "vocab_size": placeholder + 1}
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=VISION, text_config=text, image_token_index=placeholder)
    ).eval()
    table, head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    zeros = table.new_zeros(1, table.shape[1])
    state = {
        f"language_model.{k.removeprefix('model.')}": t for k, t in weights.items() if k != "lm_head.weight"
    }
    state["language_model.embed_tokens.weight"] = torch.cat([table, embeds_LD, zeros])
    missing, surplus = model.model.load_state_dict(state, strict=False)
    if surplus or any(key.startswith("language_model") for key in missing):
        raise ValueError(f"weights do not fit: missing {missing}, surplus {surplus}")
    model.lm_head.weight.copy_(torch.cat([head, zeros.expand(length + 1, -1)]))
    features = BaseModelOutputWithPooling(pooler_output=[embeds_LD[image]])
    model.model.get_image_features = lambda pixel_values, **options: features
    return model, ids[None]


def check_case(
    golden: Golden,
    name: str,
    case: dict[str, Any],
    io: Tensors,
    model: Any,
    ids: Tensor,
    pruner: Recorded,
) -> None:
    """Prefill, the cache that is left, three steps of decoding."""
    cache, hidden = DynamicCache(), []
    argument = "cache" if "cache" in inspect.signature(type(model).forward).parameters else "past_key_values"
    model.model.language_model.register_forward_hook(lambda m, i, out: hidden.append(out.last_hidden_state))
    vocabulary = io["logits_last"].shape[-1]

    def step(input_ids: Tensor, **pixels: Tensor) -> Tensor:
        return model(input_ids=input_ids, use_cache=True, **{argument: cache}, **pixels).logits[
            :, -1, :vocabulary
        ]

    with pruner(model):
        found = {
            "logits_last": step(ids, pixel_values=torch.zeros(1, 3, 8, 8)),
            "last_hidden_state": hidden[0],
        }
        counts = [case["img"], *(len(record["kept_original"]) for record in pruner.seen)]
        found |= cache_tensors(cache, io)
        found["kept_per_stage"] = torch.tensor(counts[1:])
        for number, record in enumerate(pruner.seen):
            found |= {f"stage{number}.{key}": tensor for key, tensor in record.items()}
        for number, token in enumerate(io["decode_input_tokens"]):
            found[f"decode{number}.logits"] = step(token.view(1, 1))
    for key, tensor in found.items():
        golden.compare(f"{name}.{key}", tensor, io[key])
    average = average_tokens(counts, pruner.after or (), len(cache.layers))
    expected = torch.tensor(case["average_tokens"], dtype=torch.float64)
    golden.compare(f"{name}.average_tokens", torch.tensor(average, dtype=torch.float64), expected)
    golden.compare(f"{name}.kept", torch.tensor(counts[1:]), torch.tensor(case["kept_per_stage"]))


def cache_tensors(cache: Any, io: Tensors) -> Tensors:
    """Lengths of all layers, keys and values of those that the golden holds."""
    found = {"cache_lengths": torch.tensor([layer.keys.shape[2] for layer in cache.layers])}
    for key in io:
        if key.startswith(("cache_k.", "cache_v.")):
            layer = cache.layers[int(key.split(".")[1])]
            found[key] = layer.keys if key.startswith("cache_k") else layer.values
    return found
