"""LlamaGen: tokenizer, quantiser, pictures in and out, captions, class and text generators, sampling."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests.parity.report import Golden
from visgen.checkpoints import from_official
from visgen.checkpoints.llamagen import convert_generator, sampling_from_official
from visgen.data.paper_pixels import adm_center_crop, padded_grid, resize_bicubic, to_uint8_by
from visgen.decoding.base import DecodingStats, DecodingStrategy, Law, Resources, Session
from visgen.decoding.sequential import Sequential
from visgen.generators.base import GenerationRequest
from visgen.generators.conditions import ClassCondition, Condition, TextCondition
from visgen.generators.raster import RasterTransformer
from visgen.nn.noise import Noise
from visgen.nn.quantizers.vq import VectorQuantizer
from visgen.nn.sampling import TokenSampling, filter_logits
from visgen.pipelines.captions import clean_caption
from visgen.pipelines.text_features import pad_left
from visgen.tokenizers.tokens import Grid, ImageTokens
from visgen.tokenizers.vq import VQTokenizer

INPUTS = (
    "vq.image",
    "vq.random_codes",
    "vqtrain.probe",
    "vqnol2.embedding",
    "vqnol2.z",
    "pre.*.input_u8",
    "c2i.labels",
    "*.tokens_in",
    "t2i.t5_*",
    "t2i.train_valid",
    "filter.logits",
)
Tensors = dict[str, Tensor]


def check(golden: Golden) -> None:
    """Every stage of the folder."""
    io = golden.load("io.safetensors")
    state = golden.load("vq.weights.safetensors")
    tokenizer = from_official("llamagen-vq", state, golden.meta["vq"])
    check_tokenizer(golden, io, tokenizer)
    check_quantizer_training(golden, io, tokenizer, state["quantize.codebook_used"])
    check_plain_quantizer(golden, io)
    check_pictures(golden, io, tokenizer)
    check_captions(golden)
    check_filters(golden, io)
    check_classes(golden, io, tokenizer)
    check_text(golden, io)
    golden.finish(io, INPUTS)


@torch.no_grad()
def check_tokenizer(golden: Golden, io: Tensors, tokenizer: VQTokenizer) -> None:
    """Encoder, ids, codes, reconstructions."""
    image = io["vq.image"]
    golden.compare("vq.enc_raw", tokenizer.encoder(image), io["vq.enc_raw"])
    golden.compare("vq.pre_quant", tokenizer.features(image), io["vq.pre_quant"])
    tokens = tokenizer.encode(image)
    golden.compare("vq.indices", tokens.ids.flatten(), io["vq.indices"])
    codes = tokenizer.embed_tokens(tokens)
    golden.compare("vq.quant", codes, io["vq.quant"])
    decoded = tokenizer.decode(tokens)
    golden.compare("vq.decode", decoded, io["vq.decode"])
    golden.compare("vq.decode_code", decoded, io["vq.decode_code"])
    entries = codes.permute(0, 2, 3, 1)
    golden.compare("vq.codebook_entry_channel_last", entries, io["vq.codebook_entry_channel_last"])
    random = ImageTokens(tokens.layout, ids=io["vq.random_codes"].long())
    golden.compare("vq.random_codes_decoded", tokenizer.decode(random), io["vq.random_codes_decoded"])


def check_quantizer_training(golden: Golden, io: Tensors, tokenizer: VQTokenizer, recent: Tensor) -> None:
    """Losses, gradients and the usage statistic of the quantiser's training pass."""
    z = io["vq.pre_quant"].clone().requires_grad_()
    tokenizer.zero_grad()
    out = tokenizer.vq(z)
    for ours, official in (("codebook", "vq"), ("commitment", "commit"), ("entropy", "entropy")):
        golden.compare(f"vqtrain.{official}_loss", out.terms[ours], io[f"vqtrain.{official}_loss"])
    unit = tokenizer.vq.prepare(z)
    quantized = unit + (out.fhat - unit).detach()
    (out.loss + (quantized * io["vqtrain.probe"]).mean()).backward()
    golden.compare("vqtrain.grad_z", z.grad, io["vqtrain.grad_z"])
    golden.compare("vqtrain.grad_embedding", tokenizer.codebook.grad, io["vqtrain.grad_embedding"])
    ids = out.ids.flatten()
    recent = torch.cat([recent[len(ids) :].long(), ids])  # the official ring buffer
    usage = torch.tensor(len(recent.unique()) / tokenizer.vq.embedding.num_embeddings)
    golden.compare("vqtrain.codebook_usage", usage, io["vqtrain.codebook_usage"])


@torch.no_grad()
def check_plain_quantizer(golden: Golden, io: Tensors) -> None:
    """Codes that are not scaled to unit length."""
    quantizer = VectorQuantizer(*io["vqnol2.embedding"].shape, normalize=False)
    quantizer.embedding.weight.copy_(io["vqnol2.embedding"])
    ids = quantizer.encode(io["vqnol2.z"])
    golden.compare("vqnol2.indices", ids.flatten(), io["vqnol2.indices"])
    codes = quantizer.embed(ids).transpose(1, 2).reshape(io["vqnol2.z"].shape)
    golden.compare("vqnol2.quant", codes, io["vqnol2.quant"])


@torch.no_grad()
def check_pictures(golden: Golden, io: Tensors, tokenizer: VQTokenizer) -> None:
    """What stands between files and tensors."""
    for case in golden.meta["preprocess"]:
        image = Image.fromarray(io[f"pre.{case['i']}.input_u8"].numpy())
        found = torch.from_numpy(np.array(adm_center_crop(image, case["image_size"])))
        golden.compare(f"pre.{case['i']}.center_crop_u8", found, io[f"pre.{case['i']}.center_crop_u8"])
    images = io["vq.random_codes_decoded"]
    found = torch.from_numpy(to_uint8_by(images, "adm"))
    golden.compare("post.uint8_127_5_128", found, io["post.uint8_127_5_128"])
    found = torch.from_numpy(padded_grid(to_uint8_by(images, "half_up")))
    golden.compare("post.save_image_grid_u8", found, io["post.save_image_grid_u8"])
    resized = resize_bicubic(images, io["post.bicubic_resize"].shape[-1])
    golden.compare("post.bicubic_resize", resized, io["post.bicubic_resize"])


def check_captions(golden: Golden) -> None:
    """Cleaned captions, as texts."""
    for number, pair in enumerate(golden.meta["captions"]):
        golden.compare(f"captions.{number}", clean_caption(pair["raw"]) == pair["clean"], torch.tensor(True))


def check_filters(golden: Golden, io: Tensors) -> None:
    """Top-k (0 = off) and top-p (1 = off)."""
    for case in golden.meta["filter_cases"]:
        top_k, top_p = case["top_k"] or None, case["top_p"]
        found = filter_logits(io["filter.logits"], top_k, top_p, keep_first=True)
        golden.compare(f"filter.out.{case['i']}", found, io[f"filter.out.{case['i']}"])


def check_classes(golden: Golden, io: Tensors, tokenizer: VQTokenizer) -> None:
    """The class-conditional generator."""
    state = golden.load("gpt_c2i.weights.safetensors")
    generator = from_official("llamagen", state, golden.meta["gpt_c2i"])
    condition = ClassCondition(io["c2i.labels"])
    check_class_logits(golden, io, generator, condition)
    tokens = as_tokens(io["c2i.tokens_in"], generator)
    check_training(golden, io, "c2i", generator, tokens, condition)
    for run in runs(io, "c2i"):
        found = check_run(golden, io, f"c2i.{run}", generator, condition, golden.meta["c2i_cfg_scale"])
        if f"c2i.{run}.image" in io:
            golden.compare(f"c2i.{run}.image", tokenizer.decode(found), io[f"c2i.{run}.image"])


@torch.no_grad()
def check_class_logits(
    golden: Golden, io: Tensors, generator: RasterTransformer, condition: ClassCondition
) -> None:
    """Rotary table, teacher-forced logits, and what goes on in between."""
    table = torch.stack(generator.rotation(0, 1 + generator.layout.length), dim=-1)
    golden.compare("c2i.freqs_cis", table, io["c2i.freqs_cis"])
    ids, blocks = io["c2i.tokens_in"][..., None], generator.blocks
    caught: Tensors = {}
    hooks = [
        blocks[0].attn.register_forward_hook(lambda _, a, out: caught.__setitem__("tf_layer0_attn", out)),
        blocks[0].register_forward_hook(lambda _, a, out: caught.__setitem__("tf_layer0_out", out)),
        blocks[-1].register_forward_hook(lambda _, a, out: caught.__setitem__("tf_layerlast_out", out)),
    ]
    caught["tf_logits"] = generator(condition, ids).squeeze(2)
    for hook in hooks:
        hook.remove()
    first = io["c2i.tf_logits_uncond"].shape[1]
    caught["tf_logits_uncond"] = generator(condition.unconditional(), ids)[:, :first].squeeze(2)
    hidden = generator.hidden_states(condition, ids)[:, -1:]
    caught["tf_logits_fullgrid_lastpos"] = logits_of(generator, hidden)[:, 0]
    for stage, tensor in caught.items():
        golden.compare(f"c2i.{stage}", tensor, io[f"c2i.{stage}"])


def logits_of(generator: RasterTransformer, hidden: Tensor) -> Tensor:
    """Logits (B, N, V) of hidden states (B, N, C)."""
    return generator.tokens.logits(generator.tokens.features(hidden)).squeeze(2)


def as_tokens(ids: Tensor, generator: RasterTransformer, mask: Tensor | None = None) -> ImageTokens:
    """Golden ids (B, L) on the grid of a generator."""
    return ImageTokens(Grid(*generator.config.grid), ids=ids.long(), mask=mask)


def check_training(
    golden: Golden, io: Tensors, name: str, generator: RasterTransformer, tokens: ImageTokens, c: Condition
) -> None:
    """Training loss and its gradients."""
    generator.zero_grad()
    loss = generator.loss(tokens, c)["loss"]
    loss.backward()
    golden.compare(f"{name}.train_loss", loss, io[f"{name}.train_loss"])
    prefix = f"{name}.train_grad."
    for stage in [stage for stage in io if stage.startswith(prefix)]:
        golden.compare(stage, gradient(generator, stage.removeprefix(prefix)), io[stage])


def gradient(generator: RasterTransformer, official: str) -> Tensor | None:
    """The gradient of an official parameter; those of w1 and w3 are halves of one of ours."""
    for part, half in ((".w1.", 0), (".w3.", 1)):
        if part in official:
            whole = generator.blocks[int(official.split(".")[1])].ffn.gate_up.weight.grad
            return whole.chunk(2)[half]
    ours = next(iter(convert_generator({official: torch.empty(0)})))
    return generator.get_parameter(ours).grad


@dataclass(frozen=True, eq=False)
class Recorded(DecodingStrategy):
    """One token per pass, keeping logits and laws."""

    logits: list[Tensor] = field(default_factory=list)
    laws: list[Tensor] = field(default_factory=list)

    lossless = True

    @property
    def entries(self) -> int:
        return 1

    def __call__(
        self, session: Session, law: Law, noise: Noise, resources: Resources | None = None
    ) -> tuple[Tensor, DecodingStats]:
        def recording(logits: Tensor, positions: Tensor) -> Tensor:
            self.logits.append(logits)
            self.laws.append(law(logits, positions))
            return self.laws[-1]

        return Sequential()(session, recording, noise, resources)  # type: ignore[arg-type]


def runs(io: Tensors, name: str) -> list[str]:
    """Runs of a generator: `NAME.RUN.tokens`."""
    return [key.split(".")[1] for key in io if key.startswith(f"{name}.") and key.endswith(".tokens")]


def check_run(
    golden: Golden, io: Tensors, stage: str, generator: RasterTransformer, condition: Condition, cfg: float
) -> ImageTokens:
    """Tokens of a run, and what was recorded of it; its settings stand in the explanation of its tensors."""
    texts = golden.meta["tensors"]
    text = next(texts[key] for key in (f"{stage}.*", f"{stage}.tokens") if key in texts)
    interval = described(text, "cfg_interval", int)
    scale = described(text, "cfg_scale", float) or described(text, "cfg", float) or cfg
    greedy = "seed" not in text
    options = sampling_from_official(
        scale,
        1 if greedy else described(text, "top_k", int) or 0,
        1.0 if greedy else described(text, "top_p", float) or 1.0,
        described(text, "temperature", float) or 1.0,
        -1 if interval is None else interval,
    )
    noise = Noise.shared(described(text, "seed", int) or 0)
    request = GenerationRequest(condition, TokenSampling(**options), noise)
    recorded = Recorded()
    tokens = generator.generate(request, strategy=recorded).tokens
    golden.compare(f"{stage}.tokens", tokens.ids, io[f"{stage}.tokens"])
    if f"{stage}.step_logits" in io:
        logits = torch.cat(recorded.logits, dim=1).squeeze(2)
        golden.compare(f"{stage}.step_logits", logits, io[f"{stage}.step_logits"])
    for step in (0, 1):
        if f"{stage}.step_probs{step}" in io:
            golden.compare(f"{stage}.step_probs{step}", recorded.laws[step], io[f"{stage}.step_probs{step}"])
    return tokens


def described(text: str, key: str, kind: type) -> Any:
    """The number after a key in an explanation: `cfg_scale=1`, `top_k 20`, `manual_seed(9)`; None without."""
    found = re.search(rf"{key}[ =(]([\d.]*\d)", text)
    return None if found is None else kind(found.group(1))


def check_text(golden: Golden, io: Tensors) -> None:
    """The text-conditional generator."""
    state = golden.load("gpt_t2i.weights.safetensors")
    generator = from_official("llamagen", state, golden.meta["gpt_t2i"])
    right = io["t2i.t5_mask_rightpad"].bool()
    features, mask = (
        torch.stack(parts)
        for parts in zip(*map(pad_left, io["t2i.t5_features_rightpad"], right), strict=True)
    )
    condition = TextCondition(features * mask[..., None], mask)
    golden.compare("t2i.cond_leftpad", condition.embeddings, io["t2i.cond_leftpad"])
    golden.compare("t2i.mask_leftpad", mask.long(), io["t2i.mask_leftpad"])
    check_text_logits(golden, io, generator, condition)
    valid = io["t2i.train_valid"].bool()
    tokens = io["t2i.tokens_in"]
    weighted = as_tokens(tokens, generator, valid[:, None].expand(tokens.shape))
    check_training(golden, io, "t2i", generator, weighted, condition)
    conditions = {
        "nomask": TextCondition(condition.embeddings, torch.ones_like(mask)),
        "rightpad": TextCondition(io["t2i.t5_features_rightpad"] * right[..., None], right),
    }
    for run in runs(io, "t2i"):
        chosen = next((c for kind, c in conditions.items() if run.endswith(kind)), condition)
        check_run(golden, io, f"t2i.{run}", generator, chosen, golden.meta["t2i_cfg_scale"])


@torch.no_grad()
def check_text_logits(
    golden: Golden, io: Tensors, generator: RasterTransformer, condition: TextCondition
) -> None:
    """Projected features, and logits at block and condition positions."""
    last = io["t2i.cap_proj"].shape[1]
    golden.compare("t2i.cap_proj", generator.prefix(condition).embeddings[:, -last:], io["t2i.cap_proj"])
    ids = io["t2i.tokens_in"][..., None]
    golden.compare("t2i.tf_logits", generator(condition, ids).squeeze(2), io["t2i.tf_logits"])
    text = golden.meta["tensors"]["t2i.tf_logits_condpos"]
    positions = [int(number) for number in re.findall(r"\d+", text.split("(")[0].split("positions")[1])]
    hidden = generator.hidden_states(condition, ids[:, :-1])[:, positions]
    golden.compare("t2i.tf_logits_condpos", logits_of(generator, hidden), io["t2i.tf_logits_condpos"])
