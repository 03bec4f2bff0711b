"""ELM: binary autoencoder, next-token transformer and its sampling, masked transformer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.parity.report import Golden
from visgen.checkpoints import from_official
from visgen.checkpoints.elm import sampling_from_official
from visgen.data.paper_pixels import to_uint8_by
from visgen.generators.base import GenerationRequest
from visgen.generators.conditions import ClassCondition
from visgen.generators.raster import RasterTransformer
from visgen.nn.law import SequenceLaw
from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling, guidance_table
from visgen.tokenizers.bae import BAETokenizer
from visgen.tokenizers.tokens import Grid, ImageTokens

INPUTS = (
    "bae.pixels",
    "bae.uniform",
    "bae.random_bits",
    "ar.indices",
    "ar.labels",
    "gen.*.labels",
    "gen.*.uniforms",
    "gen.*.prefix",
    "mlm.indices",
    "mlm.labels",
    "mlm.mask",
)


class InverseCDF(Noise):
    """Recorded uniforms (steps, K, B); a categorical draw is #{cdf ≤ u} in float64, as in the goldens."""

    def __init__(self, uniforms: Tensor) -> None:
        super().__init__(replay=list(uniforms))

    def categorical(self, probabilities_BLV: Tensor) -> Tensor:
        b, n, k = probabilities_BLV.shape[:-1]
        u = self.uniform(k, b).double().T.view(b, n, k, 1)
        cdf = probabilities_BLV.double().cumsum(-1)
        return (cdf <= u).sum(-1).clamp_max(probabilities_BLV.shape[-1] - 1)


def check(golden: Golden) -> None:
    """Every stage of the folder."""
    io = golden.load("tensors.safetensors")
    config = golden.meta["config"]
    tokenizer = from_official("elm-bae", weights(golden, "bae"), config["bae"])
    check_tokenizer(golden, io, tokenizer)
    generator = from_official("elm-ar", weights(golden, "ar"), config["ar"])
    check_teacher_forcing(golden, io, generator)
    for name, case in config["generate"].items():
        check_sampling(golden, io, generator, name, case)
    check_masked(golden, io, config["mlm"])
    golden.finish(io, INPUTS)


def weights(golden: Golden, part: str) -> dict[str, Tensor]:
    """A state dict; the goldens store it behind "weights."."""
    state = golden.load(f"{part}_weights.safetensors")
    return {key.removeprefix("weights."): tensor for key, tensor in state.items()}


@torch.no_grad()
def check_tokenizer(golden: Golden, io: dict[str, Tensor], tokenizer: BAETokenizer) -> None:
    """Encoder, bits, ids, reconstructions, drawn bits, random codes."""
    images, quantizer = io["bae.pixels"] * 2 - 1, tokenizer.quantizer
    features = tokenizer.features(images)
    golden.compare("bae.encoder_out", features, io["bae.encoder_out"])
    p = quantizer.probabilities(features)
    golden.compare("bae.prob", p, io["bae.prob"])
    tokens = tokenizer.encode(images)
    golden.compare("bae.indices", tokens.ids, io["bae.indices"])
    bits = tokenizer.bits_of(tokens)
    golden.compare("bae.bits", bits.float(), io["bae.bits"])
    golden.compare("bae.quant", quantizer.lookup(bits), io["bae.quant"])
    golden.compare("bae.recon", to_unit(tokenizer.decode(tokens)), io["bae.recon"])
    out = tokenizer(images)
    golden.compare("bae.code_loss", out.quantization.loss, io["bae.code_loss"])
    golden.compare("bae.recon", to_unit(out.reconstruction), io["bae.recon"])
    drawn = tokenizer.encode(images, noise=Noise.replayed([io["bae.uniform"]]))
    golden.compare("bae.bits_stochastic", tokenizer.bits_of(drawn).float(), io["bae.bits_stochastic"])
    golden.compare("bae.recon_stochastic", to_unit(tokenizer.decode(drawn)), io["bae.recon_stochastic"])
    random = tokenizer.tokens_of(io["bae.random_bits"] > 0.5)
    golden.compare("bae.random_indices", random.ids, io["bae.random_indices"])
    golden.compare("bae.random_decoded", to_unit(tokenizer.decode(random)), io["bae.random_decoded"])
    pixels = torch.from_numpy(to_uint8_by(tokenizer.decode(random), "truncate"))
    golden.compare("bae.random_uint8_hwc", pixels, io["bae.random_uint8_hwc"])


def to_unit(images: Tensor) -> Tensor:
    """Pixels in [-1, 1] as the official ones, in [0, 1]."""
    return (images + 1) / 2


def condition(labels: Tensor, num_classes: int) -> ClassCondition:
    """The official null class, one above the others, is our -1."""
    return ClassCondition(labels.masked_fill(labels == num_classes, -1))


@torch.no_grad()
def check_teacher_forcing(golden: Golden, io: dict[str, Tensor], generator: RasterTransformer) -> None:
    """Logits, those of the class alone, training loss and accuracy."""
    labels = condition(io["ar.labels"], generator.config.num_classes)
    tokens = as_tokens(io["ar.indices"], generator)
    logits = generator(labels, generator.as_positions(tokens))
    golden.compare("ar.logits", logits.flatten(1, 2), io["ar.logits"])
    session = generator.session(labels, TokenSampling(), 1)
    golden.compare("ar.prefill_logits", session.prefill().logits.flatten(1, 2), io["ar.prefill_logits"])
    losses = generator.loss(tokens, labels)
    golden.compare("ar.loss", losses["loss"], io["ar.loss"])
    golden.compare("ar.token_accuracy", losses["accuracy"], io["ar.token_accuracy"])


def as_tokens(ids: Tensor, generator: Any) -> ImageTokens:
    """Golden ids (B, L, K) on the grid of a generator."""
    return ImageTokens(Grid(*generator.config.grid), ids=ids.squeeze(-1) if ids.shape[-1] == 1 else ids)


@torch.no_grad()
def check_sampling(
    golden: Golden, io: dict[str, Tensor], generator: RasterTransformer, name: str, case: dict[str, Any]
) -> None:
    """A run: ids, and the law of its first and last step."""
    stage, steps = f"gen.{name}", case["num_iter"]
    labels = condition(io[f"{stage}.labels"], generator.config.num_classes)
    options = ("cfg_scale", "cfg_schedule", "top_k", "temperature")
    sampling = TokenSampling(**sampling_from_official(**{option: case[option] for option in options}))
    prefix = io.get(f"{stage}.prefix")
    session = generator.session(labels, sampling, 1 if prefix is None else prefix.shape[1])
    start = 0 if prefix is None else prefix.shape[1]
    # The official ramp runs over the positions that are made in this call
    session.scales[start : start + steps] = guidance_table(sampling, steps)
    law, noise = SequenceLaw(sampling), InverseCDF(io[f"{stage}.uniforms"])
    step = session.prefill()
    parts = [] if prefix is None else [prefix]
    if prefix is not None:
        step = feed(session, prefix)
    for index in range(steps):
        at = torch.full((len(labels), 1), start + index)
        probabilities = law(step.logits[:, -1:], at)
        if index in (0, steps - 1):
            which = "first" if index == 0 else "last"
            golden.compare(f"{stage}.{which}_probs", probabilities, io[f"{stage}.{which}_probs"])
        parts.append(noise.categorical(probabilities))
        if index < steps - 1:
            step = feed(session, parts[-1])
    golden.compare(f"{stage}.indices", torch.cat(parts, dim=1), io[f"{stage}.indices"])
    if prefix is None and steps == generator.layout.length:
        request = GenerationRequest(labels, sampling, InverseCDF(io[f"{stage}.uniforms"]))
        tokens = generator.generate(request).tokens
        golden.compare(f"{stage}.indices", generator.as_positions(tokens), io[f"{stage}.indices"])


def feed(session: Any, ids_BNK: Tensor) -> Any:
    """Put tokens into the cache; what is said of the one after the last."""
    step = session.extend(ids_BNK)
    b, n = ids_BNK.shape[:2]
    session.commit(torch.arange(n).expand(b, n), torch.full((b,), n))
    return step


@torch.no_grad()
def check_masked(golden: Golden, io: dict[str, Tensor], config: dict[str, Any]) -> None:
    """The masked transformer's logits and loss."""
    generator = from_official("elm-mlm", weights(golden, "mlm"), config)
    labels = condition(io["mlm.labels"], generator.config.num_classes)
    masked = io["mlm.mask"]
    ids = io["mlm.indices"].masked_fill(masked[..., None], generator.mask_id)
    golden.compare("mlm.logits", generator(labels, ids).flatten(1, 2), io["mlm.logits"])
    loss = generator.loss(as_tokens(io["mlm.indices"], generator), labels, masked=masked)["loss"]
    golden.compare("mlm.loss", loss, io["mlm.loss"])
