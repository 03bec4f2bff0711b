"""VAR: tokenizer, quantiser variants, filters, transformers, sampling and editing."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.parity.report import Golden
from visgen.checkpoints import from_official
from visgen.checkpoints.var import (
    convert_tokenizer,
    convert_transformer,
    sampling_from_official,
    tokenizer_config,
)
from visgen.generators.base import GenerationRequest, GenerationStep
from visgen.generators.conditions import ClassCondition
from visgen.generators.var import VARTransformer
from visgen.generators.var_sampling import keep_at
from visgen.nn.noise import Noise
from visgen.nn.quantizers.codebook import usage
from visgen.nn.quantizers.multiscale import MultiScaleVQ, phi_index
from visgen.nn.sampling import TokenSampling, filter_logits
from visgen.pipelines.masks import box_region
from visgen.tokenizers.tokens import ImageTokens, Scales
from visgen.tokenizers.var import VARTokenizer

INPUTS = ("tok.image", "labels", "train.probe", "filter.logits", "qvar.*.f", "qvar.*.weights.*")


@dataclass(frozen=True)
class Case:
    """One transformer of the folder, with the tokenizer and the tokens of the golden image."""

    golden: Golden
    io: dict[str, Tensor]
    name: str
    generator: VARTransformer
    tokenizer: VARTokenizer
    tokens: ImageTokens


def check(golden: Golden) -> None:
    """Every stage of the folder."""
    io = golden.load("io.safetensors")
    state = golden.load("vqvae.weights.safetensors")
    tokenizer = from_official("var-tokenizer", state, golden.meta["vqvae"])
    tokens = check_tokenizer(golden, io, tokenizer)
    check_quantizer_training(golden, io, tokenizer)
    check_usage(golden, state, io["tok.f"])
    check_variants(golden, io)
    check_filters(golden, io)
    check_masks(golden, io, tokenizer.layout)
    for name, config in golden.meta["transformers"].items():
        endings = [f"{prefix}{name}.weights.safetensors" for prefix in ("var_", "_", "")]
        weights = golden.load(*endings)
        case = Case(golden, io, name, from_official("var", weights, config), tokenizer, tokens)
        check_teacher_forcing(case)
        check_gradients(case)
        check_sampling(case)
    golden.finish(io, INPUTS)


@torch.no_grad()
def check_tokenizer(golden: Golden, io: dict[str, Tensor], tokenizer: VARTokenizer) -> ImageTokens:
    """Encoder, ids, reconstructions, other scale lists."""
    image, grid = io["tok.image"], tokenizer.layout.sizes[-1]
    golden.compare("tok.enc_raw", tokenizer.encoder(image), io["tok.enc_raw"])
    golden.compare("tok.f", tokenizer.latents(image), io["tok.f"])
    tokens = tokenizer.encode(image)
    compare_ids(golden, io, "tok.idx", tokens)
    for k, fhat in enumerate(tokenizer.embed_tokens(tokens)):
        golden.compare(f"tok.fhat.{k}", fhat, io[f"tok.fhat.{k}"])
    images = tokenizer.progressive_decode(tokens)
    for name in [name for name in io if name.startswith("tok.rec_all.")]:
        golden.compare(name, images[int(name.rsplit(".", 1)[1])].clamp(-1, 1), io[name])
    decoded = tokenizer.decode(tokens)
    golden.compare("tok.rec_last", decoded.clamp(-1, 1), io["tok.rec_last"])
    golden.compare("tok.dec_unclamped_last", decoded, io["tok.dec_unclamped_last"])
    golden.compare("tok.idx_to_img", decoded.clamp(-1, 1), io["tok.idx_to_img"])
    per_scale = list(tokens.per_scale())
    grown = tokenizer.decode_latents(tokenizer.vq.accumulate_growing(per_scale, tokens.layout.sizes))
    golden.compare("tok.idx_to_img_growing", grown.clamp(-1, 1), io["tok.idx_to_img_growing"])
    inputs = tokenizer.vq.generator_inputs(per_scale, tokens.layout.sizes)
    golden.compare("tok.var_input", inputs, io["tok.var_input"])
    for prefix in ("tok.alt_idx", "tok.altrect_idx"):
        scales = described_scales(golden.meta["tensors"][prefix + ".{k}"], grid[0])
        compare_ids(golden, io, prefix, tokenizer.encode(image, scales=scales))
    return tokens


def compare_ids(golden: Golden, io: dict[str, Tensor], prefix: str, tokens: ImageTokens) -> None:
    """The ids of every scale against `prefix.0`, `prefix.1`, …"""
    for k, ids in enumerate(tokens.per_scale()):
        golden.compare(f"{prefix}.{k}", ids, io[f"{prefix}.{k}"])


def described_scales(text: str, last: int) -> tuple[Any, ...]:
    """The scale list in an explanation, such as "(1,3,last)" or "((1,2),(3,2),(last,last))"."""
    found = re.search(r"\(\(?[\d(),\s]*last.*\)", text)
    assert found is not None, text
    return ast.literal_eval(found.group().split(" as ")[0].replace("last", str(last)))


def check_quantizer_training(golden: Golden, io: dict[str, Tensor], tokenizer: VARTokenizer) -> None:
    """Loss, straight-through output and gradients of the quantiser's training pass."""
    f = io["tok.f"].clone().requires_grad_()
    tokenizer.zero_grad()
    out = tokenizer.vq(f, tokenizer.layout.sizes)
    straight = f + (out.fhat - f).detach()
    golden.compare("train.fhat", straight, io["train.fhat"])
    golden.compare("train.vq_loss", out.loss, io["train.vq_loss"])
    (out.loss + (straight * io["train.probe"]).mean()).backward()
    golden.compare("train.grad_f", f.grad, io["train.grad_f"])
    golden.compare("train.grad_embedding", tokenizer.codebook.grad, io["train.grad_embedding"])
    prefix = "train.grad_quant_resi."
    for name in [name for name in io if name.startswith(prefix)]:
        ours = next(iter(convert_tokenizer({f"quantize.quant_resi.{name.removeprefix(prefix)}": io[name]})))
        golden.compare(name, tokenizer.get_parameter(ours).grad, io[name])


def check_usage(golden: Golden, state: dict[str, Tensor], f: Tensor) -> None:
    """The official usage statistic, from the hit counts of the checkpoint."""
    hits = state["quantize.ema_vocab_hit_SV"]
    uniform = f.numel() / f.shape[1] / hits.shape[1]  # hits of a code at the finest scale under a uniform law
    found = torch.stack([100 * usage(row, margin=0.08, uniform=uniform) for row in hits])
    golden.compare("train_usages_percent", found, torch.tensor(golden.meta["train_usages_percent"]))


@torch.no_grad()
def check_variants(golden: Golden, io: dict[str, Tensor]) -> None:
    """Stand-alone quantisers, and which φ serves which scale."""
    for case in golden.meta["qvar"]:
        case = dict(case)
        prefix = f"qvar.{case.pop('i')}"
        config = tokenizer_config(case)
        scales = Scales.square(config["scales"])
        quantizer = MultiScaleVQ(
            config["codebook_size"],
            config["latent_channels"],
            len(scales.sizes),
            config["num_phi"],
            config["phi_ratio"],
            config["cosine_codes"],
        )
        weights = {
            name.removeprefix(f"{prefix}.weights."): t
            for name, t in io.items()
            if f"{prefix}.weights." in name
        }
        converted = convert_tokenizer({f"quantize.{name}": tensor for name, tensor in weights.items()})
        quantizer.load_state_dict({name.removeprefix("vq."): tensor for name, tensor in converted.items()})
        ids, fhats = quantizer.encode(io[f"{prefix}.f"], scales.sizes)
        compare_ids(golden, io, f"{prefix}.idx", ImageTokens(scales, ids=ids))
        for k, fhat in enumerate(fhats):
            golden.compare(f"{prefix}.fhat.{k}", fhat, io[f"{prefix}.fhat.{k}"])
        inputs = quantizer.generator_inputs(list(ids.split(scales.lengths, dim=1)), scales.sizes)
        golden.compare(f"{prefix}.var_input", inputs, io[f"{prefix}.var_input"])
    for key, expected in golden.meta["phi_index"].items():
        if key != "explain":
            found = torch.tensor(phi_index(*map(int, key.split("/"))))
            golden.compare(f"phi_index {key}", found, torch.tensor(expected))


def check_filters(golden: Golden, io: dict[str, Tensor]) -> None:
    """Top-k and top-p."""
    for case in golden.meta["filter_cases"]:
        found = filter_logits(io["filter.logits"], case["top_k"] or None, case["top_p"] or None)
        golden.compare(f"filter.out.{case['i']}", found, io[f"filter.out.{case['i']}"])


def check_masks(golden: Golden, io: dict[str, Tensor], layout: Scales) -> None:
    """Keep masks from the rectangle, on every scale."""
    rectangle = golden.meta["edit_rectangle"]
    box = (rectangle["x0"], rectangle["y0"], rectangle["x1"], rectangle["y1"])
    for kind, invert in (("inpaint", False), ("outpaint", True)):
        keep = box_region(box, layout.sizes[-1], layout.sizes[-1][0], invert=invert).keep
        golden.compare(f"edit.mask_{kind}", keep.float(), io[f"edit.mask_{kind}"])
        for size in layout.sizes:
            name = f"edit.force_{kind}.{size[0]}"
            golden.compare(name, keep_at(keep, size).float().view(size), io[name])


@torch.no_grad()
def check_teacher_forcing(case: Case) -> None:
    """Logits, and what goes in and out of the first and last block."""
    golden, io, name, generator = case.golden, case.io, case.name, case.generator
    labels, inputs, blocks = io["labels"], io["tok.var_input"], generator.blocks
    caught: dict[str, Tensor] = {}
    hooks = [
        blocks[0].register_forward_pre_hook(lambda _, args: caught.__setitem__("tf_block0_in", args[0])),
        blocks[0].attn.register_forward_hook(lambda _, a, out: caught.__setitem__("tf_block0_attn_out", out)),
        blocks[0].register_forward_hook(lambda _, a, out: caught.__setitem__("tf_block0_out", out)),
        blocks[-1].register_forward_hook(lambda _, a, out: caught.__setitem__("tf_blocklast_out", out)),
    ]
    caught["tf_logits"] = generator(ClassCondition(labels), inputs)
    for hook in hooks:
        hook.remove()
    caught["tf_logits_uncond"] = generator(ClassCondition(labels).unconditional(), inputs)
    for stage, tensor in caught.items():
        golden.compare(f"{name}.{stage}", tensor, io[f"{name}.{stage}"])


def check_gradients(case: Case) -> None:
    """Training loss, and its gradients."""
    golden, io, name, generator = case.golden, case.io, case.name, case.generator
    generator.zero_grad()
    condition, quantizer = ClassCondition(io["labels"]), case.tokenizer.quantizer
    loss = generator.loss(case.tokens, condition, quantizer=quantizer)["loss"]
    loss.backward()
    golden.compare(f"{name}.train_loss", loss, io[f"{name}.train_loss"])
    prefix = f"{name}.train_grad."
    for stage in [stage for stage in io if stage.startswith(prefix)]:
        ours = next(iter(convert_transformer({stage.removeprefix(prefix): io[stage]})))
        golden.compare(stage, generator.get_parameter(ours).grad, io[stage])


def check_sampling(case: Case) -> None:
    """Every run `NAME.RUN.idx.0`; its settings stand in the explanation of its tensors."""
    golden, io, name, generator = case.golden, case.io, case.name, case.generator
    runs = [key.split(".")[1] for key in io if key.startswith(f"{name}.") and key.endswith(".idx.0")]
    for run in runs:
        text = next(t for key, t in golden.meta["tensors"].items() if key.startswith("{m}." + run + "."))
        settings = described_sampling(text, golden.meta["cfg"], run)
        noise = Noise.shared(described(text, "g_seed", 0, int))
        labels = described_labels(run, text, io["labels"], noise, generator)
        known = (case.tokens, io["edit.mask_inpaint"][None] > 0.5) if run.startswith("edit_inpaint") else None
        request = GenerationRequest(ClassCondition(labels), settings, noise, known=known)
        steps: list[GenerationStep] = []
        generator.generate(request, quantizer=case.tokenizer.quantizer, on_step=steps.append)
        compare_run(golden, io, f"{name}.{run}", steps, case.tokenizer)


def described(text: str, key: str, default: Any, kind: type) -> Any:
    """`key=value` in an explanation."""
    found = re.search(rf"\b{key}=([\d.]*\d|True|False)", text)
    if found is None:
        return default
    return found.group(1) == "True" if kind is bool else kind(found.group(1))


def described_sampling(text: str, cfg: float, run: str) -> TokenSampling:
    """Official sampling arguments from an explanation; "same" as greedy where it says nothing."""
    cfg = described(text, "cfg", cfg, float)
    seeded = "seeded" in run
    top_k = described(text, "top_k", 0 if seeded else 1, int)
    smooth = described(text, "more_smooth", False, bool)
    return TokenSampling(**sampling_from_official(cfg, top_k, described(text, "top_p", 0.0, float), smooth))


def described_labels(run: str, text: str, labels: Tensor, noise: Noise, generator: VARTransformer) -> Tensor:
    """Labels of a run: the golden ones, drawn ones, or the unconditional class."""
    batch_size = described(text, "B", len(labels), int)
    if run.endswith("nolabel"):
        return noise.labels(generator.config.num_classes, batch_size)
    if run.endswith("uncond") or run.startswith("edit"):
        return torch.full((batch_size,), -1)
    return labels


@torch.no_grad()
def compare_run(
    golden: Golden,
    io: dict[str, Tensor],
    prefix: str,
    steps: list[GenerationStep],
    tokenizer: VARTokenizer,
) -> None:
    """Whatever was recorded of a run: ids, logits, f̂, next inputs, image."""
    sizes = tokenizer.layout.sizes
    for step in steps:
        following = sizes[min(step.index + 1, len(sizes) - 1)]
        found = {
            "idx": step.ids,
            "logits": step.logits,
            "fhat": step.latents,
            "next": tokenizer.vq.next_input(step.latents, following).transpose(1, 2).unflatten(2, following),
        }
        for kind, tensor in found.items():
            if f"{prefix}.{kind}.{step.index}" in io:
                golden.compare(f"{prefix}.{kind}.{step.index}", tensor, io[f"{prefix}.{kind}.{step.index}"])
    if f"{prefix}.img" in io:
        image = (tokenizer.decode_latents(steps[-1].latents).clamp(-1, 1) + 1) / 2
        golden.compare(f"{prefix}.img", image, io[f"{prefix}.img"])
