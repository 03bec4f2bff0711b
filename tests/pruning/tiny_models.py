"""Tiny random models of the five families, and prompts for them without a processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

IMAGE, VIDEO, START, END, VOCABULARY = 90, 91, 92, 93, 100
LAYERS = 4
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
TOWER = {"hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 2, "patch_size": 4}
CLIP = {**TOWER, "model_type": "clip_vision_model", "num_hidden_layers": 3, "image_size": 24}
QWEN_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO}


def _llava(vision: dict[str, Any]) -> Any:
    strategy = "default" if vision["model_type"] == "clip_vision_model" else "full"
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config={"model_type": "llama", **TEXT},
            image_token_index=IMAGE,
            vision_feature_layer=-2,
            vision_feature_select_strategy=strategy,
        )
    )


def _llava_next() -> Any:
    pinpoints = [[24, 48], [48, 24], [48, 48]]
    return LlavaNextForConditionalGeneration(
        LlavaNextConfig(
            vision_config=CLIP,
            text_config={"model_type": "llama", **TEXT},
            image_token_index=IMAGE,
            vision_feature_layer=-2,
            image_grid_pinpoints=pinpoints,
        )
    )


def _internvl() -> Any:
    vision = {**TOWER, "num_hidden_layers": 2, "image_size": [32, 32], "patch_size": [4, 4]}
    return InternVLForConditionalGeneration(
        InternVLConfig(
            vision_config=vision, text_config={"model_type": "qwen2", **TEXT}, image_token_id=IMAGE
        )
    )


def _qwen2_5() -> Any:
    vision = {**QWEN_TOWER, "depth": 2, "window_size": 16, "fullatt_block_indexes": [1]}
    text = {**TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}}
    ids = {**IDS, "vision_start_token_id": START, "vision_end_token_id": END}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(vision_config=vision, text_config=text, **ids))


def _qwen3() -> Any:
    vision = {
        **QWEN_TOWER,
        "depth": 3,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
    text = {**TEXT, "head_dim": 8, "rope_parameters": rope}
    ids = {**IDS, "vision_start_token_id": START, "vision_end_token_id": END}
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(vision_config=vision, text_config=text, **ids))


SIGLIP = {**CLIP, "model_type": "siglip_vision_model"}
FAMILIES: dict[str, Callable[[], Any]] = {
    "llava": lambda: _llava(CLIP),
    "llava-siglip": lambda: _llava(SIGLIP),
    "llava_next": _llava_next,
    "internvl": _internvl,
    "qwen2_5_vl": _qwen2_5,
    "qwen3_vl": _qwen3,
}


@cache
def tiny_model(name: str) -> Any:
    """A random model whose layers matter: default initialisation leaves tiny ones almost linear."""
    torch.manual_seed(0)
    model = FAMILIES[name]().eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.generation_config.update(bos_token_id=1, pad_token_id=0, eos_token_id=None)
    return model


@dataclass(frozen=True)
class Picture:
    """Pixels of one image and its placeholders."""

    pixels: dict[str, Any]
    ids: list[int]


def picture(name: str, seed: int, large: bool = False) -> Picture:
    """A random picture as its family's processor would hand it over; `large` ones have more tiles."""
    draw = torch.Generator().manual_seed(seed)
    if name.startswith("qwen"):
        grid = (1, 8, 12 if large else 8)
        patches = torch.randn(grid[1] * grid[2], 3 * 2 * 4 * 4, generator=draw)
        pixels = {"pixel_values": patches, "image_grid_thw": torch.tensor([grid])}
        return Picture(pixels, [START, *[IMAGE] * (len(patches) // 4), END])
    if name == "internvl":
        tiles = torch.randn(3 if large else 1, 3, 32, 32, generator=draw)
        return Picture({"pixel_values": tiles}, [START, *[IMAGE] * (16 * len(tiles)), END])
    if name == "llava_next":
        return _crops(large, draw)
    return Picture({"pixel_values": torch.randn(1, 3, 24, 24, generator=draw)}, [IMAGE] * 36)


def _crops(large: bool, draw: torch.Generator) -> Picture:
    """A thumbnail and 2 or 4 crops: 48 × 24 fits its canvas, 30 × 45 leaves padding."""
    size, crops = ((30, 45), 4) if large else ((48, 24), 2)
    tiles = torch.randn(1, 1 + crops, 3, 24, 24, generator=draw)
    base = tiny_model("llava_next").model
    packed, _ = base.pack_image_features(
        [torch.zeros(1 + crops, 36, 32)], [size], "default", base.image_newline
    )
    pixels = {"pixel_values": tiles, "image_sizes": torch.tensor([size])}
    return Picture(pixels, [IMAGE] * len(packed[0]))


def text(seed: int, length: int) -> list[int]:
    """Random words."""
    draw = torch.Generator().manual_seed(1000 + seed)
    return torch.randint(3, 80, (length,), generator=draw).tolist()


def prompt(name: str, rows: Sequence[Sequence[list[int] | Picture]]) -> dict[str, Tensor]:
    """A batch, padded on the left; each row is words and pictures in turn."""
    ids = [[i for part in row for i in (part.ids if isinstance(part, Picture) else part)] for row in rows]
    longest = max(map(len, ids))
    inputs = {
        "input_ids": torch.tensor([[0] * (longest - len(row)) + row for row in ids]),
        "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids]),
    }
    pictures = [part for row in rows for part in row if isinstance(part, Picture)]
    for key in pictures[0].pixels if pictures else ():
        inputs[key] = _together([one.pixels[key] for one in pictures])
    if name.startswith("qwen"):
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).int()
    return inputs


def _together(parts: Sequence[Tensor]) -> Tensor:
    """One after another; crops are padded to the largest number of tiles."""
    if parts[0].ndim != 5:
        return torch.cat(list(parts))
    most = max(part.shape[1] for part in parts)
    return torch.cat([torch.cat([p, p.new_zeros(1, most - p.shape[1], *p.shape[2:])], dim=1) for p in parts])


def greedy(model: Any, inputs: dict[str, Tensor], tokens: int = 6, **options: Any) -> Tensor:
    """New tokens (B, tokens)."""
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=tokens, do_sample=False, **options)
    return ids[:, inputs["input_ids"].shape[1] :]
