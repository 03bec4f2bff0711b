"""Official SEED tokenizers with both heads, the contrastive stage, unCLIP's conditioning, prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file
from torch import Tensor

from tests.parity.report import Golden
from tests.parity.seed_prompt_stages import check_prompts
from visgen.checkpoints import from_official
from visgen.tokenizers.renderers.unclip import guidance_rows, noised_embeddings
from visgen.tokenizers.seed import SEEDTokenizer
from visgen.tokenizers.seed_contrastive import SEEDContrastive
from visgen.tokenizers.tokens import ImageTokens
from visgen.training.seed import SEEDOptions, distillation_losses, weighted_sum

Tensors = Mapping[str, Tensor]
NO_CONFIG = ("seed", "batch", "label_smoothing")  # of a variant: how the fixture was made


def check(golden: Golden) -> None:
    """Every variant of meta.json, then what stands in files of its own."""
    for name, variant in golden.meta["variants"].items():
        io = load_file(golden.folder / f"{name}.safetensors")
        state = official_state(golden, name)
        config = {key: value for key, value in variant.items() if key not in NO_CONFIG}
        if "codebook" in variant:
            check_tokenizer(golden, name, io, from_official("seed-tokenizer", state, config))
        else:
            model = from_official("seed-contrastive", state, config)
            check_contrastive(golden, name, io, model, variant["label_smoothing"])
        golden.finish((f"{name}.{key}" for key in io), [f"{name}.in.*"])
    check_unclip(golden, load_file(golden.folder / "unclip_condition.safetensors"))
    check_prompts(golden)


def official_state(golden: Golden, name: str) -> dict[str, Tensor]:
    """The weights of a variant, as an official file holds them."""
    stored = load_file(golden.folder / f"{name}.weights.safetensors")
    return {key.removeprefix("weights."): tensor for key, tensor in stored.items()}


@torch.no_grad()
def check_tokenizer(golden: Golden, name: str, io: Tensors, model: SEEDTokenizer) -> None:
    """Encoding, decoding and losses."""
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (model.config.pixel_mean, model.config.pixel_std)
    )
    images = (io["in.pixel_values"] * std + mean) * 2 - 1
    check_encoder(golden, name, io, model, images)
    ids = model.encode(images).values
    golden.compare(f"{name}.codes", ids, io["codes"])
    check_decoder(golden, name, io, model, io["codes"].long())
    random = ImageTokens(model.layout, ids=io["in.random_codes"].long())
    golden.compare(f"{name}.random_codes_embeds", model.decode_embedding(random), io["random_codes_embeds"])
    check_losses(golden, name, io, model, images)


def check_encoder(golden: Golden, name: str, io: Tensors, model: SEEDTokenizer, images: Tensor) -> None:
    """Features of the vision transformer, states of the Q-Former, what is quantised."""
    features = model.vision_features(images)
    golden.compare(f"{name}.vit_features", features, io["vit_features"])
    golden.compare(f"{name}.ln_vision_out", model.ln_vision(features), io["ln_vision_out"])
    layers = [model.qformer.layernorm, *model.qformer.encoder.layer]
    seen: dict[int, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _m, _a, out, i=i: seen.update({i: out}))
        for i, layer in enumerate(layers)
    ]
    try:
        hidden = model.query_states(features)
    finally:
        for hook in hooks:
            hook.remove()
    for key in [key for key in io if key.startswith("qformer_hidden_")]:
        golden.compare(f"{name}.{key}", seen[int(key.rsplit("_", 1)[1])], io[key])
    golden.compare(f"{name}.qformer_out", hidden, io["qformer_out"])
    golden.compare(f"{name}.pre_quant", model.quantized_vectors(hidden), io["pre_quant"])


def check_decoder(golden: Golden, name: str, io: Tensors, model: SEEDTokenizer, ids: Tensor) -> None:
    """From ids to the image embedding, and the auxiliary branch."""
    codes = model.quantize.embed(ids)
    golden.compare(f"{name}.decode_task_out", model.decode_task_layer(codes), io["decode_task_out"])
    states = model.decoded_states(codes)
    golden.compare(f"{name}.blocks_image_out", states, io["blocks_image_out"])
    if "image_down_out" in io:
        golden.compare(f"{name}.image_down_out", model.image_down(states), io["image_down_out"])
    if "reverse_qformer_out" in io:
        golden.compare(f"{name}.reverse_qformer_out", model.reverse_states(states), io["reverse_qformer_out"])
    tokens = ImageTokens(model.layout, ids=ids)
    golden.compare(f"{name}.image_embeds", model.decode_embedding(tokens), io["image_embeds"])
    golden.compare(f"{name}.recon_s_out", model.rebuilt_states(codes), io["recon_s_out"])


def check_losses(golden: Golden, name: str, io: Tensors, model: SEEDTokenizer, images: Tensor) -> None:
    """The second stage's losses, from the training pass."""
    values = distillation_losses(model(images), io["in.clip_image_embeds"])
    official = {"vq": "vq_legacy", "mse": "distill_image_mse", "cosine": "recon_s_cosine"}
    for ours, theirs in official.items():
        golden.compare(f"{name}.loss.{theirs}", values[ours], io[f"loss.{theirs}"])
    golden.compare(f"{name}.loss.total", weighted_sum(values, SEEDOptions()), io["loss.total"])


@torch.no_grad()
def check_contrastive(
    golden: Golden, name: str, io: Tensors, model: SEEDContrastive, smoothing: float
) -> None:
    """The first stage: queries, texts, both in one pass, similarities, loss."""
    features, ids, present = io["in.vit_features"], io["in.input_ids"].long(), io["in.attention_mask"]
    queries, texts = model.query_states(features), model.text_states(ids, present)
    golden.compare(f"{name}.query_out", queries, io["query_out"])
    golden.compare(f"{name}.text_out", texts, io["text_out"])
    golden.compare(f"{name}.joint_out", model.joint_states(features, ids, present), io["joint_out"])
    image_vectors, text_vectors = model.image_vectors(queries), model.text_vectors(texts)
    golden.compare(f"{name}.image_feat_last_query", image_vectors, io["image_feat_last_query"])
    golden.compare(f"{name}.text_feat_cls", text_vectors, io["text_feat_cls"])
    similar = model.similarities(image_vectors, text_vectors)
    golden.compare(f"{name}.sim_i2t", similar.image_to_text, io["sim_i2t"])
    golden.compare(f"{name}.sim_t2i", similar.text_to_image, io["sim_t2i"])
    golden.compare(f"{name}.loss_itc", similar.loss(smoothing), io["loss_itc"])


def check_unclip(golden: Golden, io: Tensors) -> None:
    """Class embeddings at every level, and the rows of guidance."""
    scheduler: Any = DDPMScheduler(beta_schedule="squaredcos_cap_v2")

    def labels(kind: str, level: int) -> Tensor:
        embeddings, noise = io[f"in.{kind}image_embeds"], io[f"in.{kind}noise"]
        mean, std = io["normalizer.mean"], io["normalizer.std"]
        return noised_embeddings(embeddings, noise, level, scheduler.alphas_cumprod, mean, std)

    for key in [key for key in io if key.startswith("class_emb.level")]:
        level = int(key.removeprefix("class_emb.level"))
        golden.compare(f"unclip.{key}", labels("", level), io[key])
    rows = {
        "class_labels.cfg_zero_negative": guidance_rows(labels("", 0), None),
        "class_labels.cfg_negative_codes": guidance_rows(labels("", 0), labels("negative_", 0)),
    }
    for key, found in rows.items():
        golden.compare(f"unclip.{key}", found, io[key])
    golden.finish((f"unclip.{key}" for key in io), ["unclip.in.*", "unclip.normalizer.*"])
