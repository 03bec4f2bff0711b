"""TiTok and TA-TiTok tokenizers, MaskGIT generators on them, RAR."""

from __future__ import annotations

import re
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.parity.report import Golden
from visgen.checkpoints import from_official
from visgen.checkpoints.maskgit import sampling_from_official
from visgen.checkpoints.rar import sampling_from_official as rar_sampling_from_official
from visgen.generators.base import GenerationRequest
from visgen.generators.class_tokens import class_tokens
from visgen.generators.conditions import ClassCondition
from visgen.generators.maskgit import MaskGITGenerator
from visgen.generators.rar import RARGenerator
from visgen.nn.guidance import guide
from visgen.nn.masked_sampling import MaskGITSampling
from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling, guidance_table, token_law
from visgen.tokenizers.titok import TiTokTokenizer
from visgen.tokenizers.tokens import ImageTokens

INPUTS = ("images", "*.in_ids", "*.labels", "*.text", "*.orders", "rar*.ids")
Tensors = dict[str, Tensor]


@torch.no_grad()
def check(golden: Golden) -> None:
    """Every stage of every model of the folder."""
    weights, cases = load(golden, "weights"), load(golden, "cases")
    for tag, model in golden.meta["models"].items():
        prefix = f"{tag}.weights."
        state = {key.removeprefix(prefix): t for key, t in weights.items() if key.startswith(prefix)}
        system, check_model = SYSTEMS[model["class"]]
        own = {k.removeprefix(f"{tag}."): t for k, t in cases.items() if k.startswith(f"{tag}.")}
        if system == "titok":
            own["images"] = own.get("images", cases.get("images"))
        check_model(golden, tag, from_official(system, state, model["config"]), own)
    golden.finish(cases, INPUTS)


def load(golden: Golden, ending: str) -> Tensors:
    """The one safetensors file whose name ends so."""
    found = [path for path in golden.folder.glob("*.safetensors") if path.stem.endswith(ending)]
    if len(found) != 1:
        raise FileNotFoundError(f"{golden.folder}: no single file ends with {ending}.safetensors")
    return load_file(found[0])


def check_tokenizer(golden: Golden, tag: str, tokenizer: TiTokTokenizer, io: Tensors) -> None:
    """Features, ids or latents, quantizer, and what is decoded, with a caption where there is one."""
    images = io["images"] * 2 - 1
    tokens = tokenizer.encode(images)
    found = {"z": tokenizer.features(images)}
    codes = tokenizer.embed_tokens(tokens)
    if tokenizer.config.continuous:
        law = tokenizer.posterior(images)
        found |= {"mean": law.mean, "logvar": law.logvar, "kl": law.kl_per_position()}
    else:
        out = tokenizer.quantize(tokenizer.latents(images))
        found |= {"ids": tokens.ids[:, None], "z_quantized": codes}
        found |= {f"{name}_loss": value for name, value in out.terms.items()}
    text = io.get("text")
    if tokenizer.config.head != "rgb":
        found["decoder_out"] = tokenizer.code_logits(codes, text)
    decoded = found.get("decoder_out")
    if tokenizer.config.head != "codes":
        decoded = (tokenizer.decode(tokens, text=text) + 1) / 2
    found |= {
        "decode_tokens": decoded,
        "decode_mean": decoded,
        "decoder_out": found.get("decoder_out", decoded),
    }
    compare(golden, tag, found, io)


def compare(golden: Golden, tag: str, found: dict[str, Any], io: Tensors) -> None:
    """What was found of the golden tensors of a model."""
    for name, tensor in found.items():
        if name in io:
            golden.compare(f"{tag}.{name}", tensor, io[name])


def check_maskgit(golden: Golden, tag: str, generator: MaskGITGenerator, io: Tensors) -> None:
    """Logits of both passes, and whole generations; `NAME.generate.SCHEDULE.tempT[_seedS]`."""
    condition = ClassCondition(io["labels"])
    unconditional = generator(condition.unconditional(), io["in_ids"])
    found = {"logits_cond": generator(condition, io["in_ids"]), "logits_uncond": unconditional}
    compare(golden, tag, found, io)
    note = golden.meta["notes"]["generate"]
    for name in (key for key in io if key.startswith("generate.")):
        _, schedule, rest = name.split(".", 2)
        heat, seed = described(rest, "temp", float), described(rest, "seed", int)
        annealed = f"'{schedule}' also uses softmax_temperature_annealing" in note
        steps = int(re.search(r"(\d+) steps", note)[1])
        scale, power = described(note, "guidance_scale ", float), described(note, "pow ", float)
        options = sampling_from_official(scale, schedule, power, heat, annealed, steps)
        request = GenerationRequest(condition, MaskGITSampling(**options), Noise.shared(seed or 0))
        golden.compare(f"{tag}.{name}", generator.generate(request).tokens.ids, io[name])


def described(text: str, key: str, kind: type) -> Any:
    """The number right after a key; None without."""
    found = re.search(rf"{key}(\d+(?:\.\d+)?)", text)
    return None if found is None else kind(found[1])


def check_rar(golden: Golden, tag: str, generator: RARGenerator, io: Tensors) -> None:
    """Teacher-forced logits in raster and other orders, targets, generations with and without a cache."""
    condition, ids, config = ClassCondition(io["labels"]), io["ids"], generator.config
    found = {
        "cond_ids": class_tokens(condition, config.codebook_size, config.num_classes),
        "logits_raster": generator(condition, ids),
        "logits_perm": generator(condition, ids, io["orders"]),
        "logits_uncond": generator(condition.unconditional(), ids),
        "targets_raster": ids,
        "targets_perm": ids.gather(1, io["orders"]),
    }
    compare(golden, tag, found, io)
    note = golden.meta["notes"]["rar"]
    scale, power = described(note, "guidance ", float), described(note, "pow ", float)
    sampling = TokenSampling(
        **rar_sampling_from_official(scale, power, described(note, "temperature ", float))
    )
    for name in (key for key in io if key.startswith("generate.")):
        request = GenerationRequest(condition, sampling, Noise.shared(described(name, "seed", int)))
        if name.endswith("kv0"):
            drawn = without_cache(generator, request)
        else:
            drawn = generator.generate(request).tokens
        golden.compare(f"{tag}.{name}", drawn.ids, io[name])


def without_cache(generator: RARGenerator, request: GenerationRequest) -> ImageTokens:
    """One token after another, each by a whole pass over those before it."""
    condition, sampling, noise = request.condition, request.sampling, request.noise
    length = generator.layout.length
    ids = torch.zeros(len(condition), length, dtype=torch.long)
    noise.uniform(len(condition))
    for place, scale in enumerate(guidance_table(sampling, length).tolist()):
        halves = [generator(half, ids)[:, place] for half in (condition, condition.unconditional())]
        law = token_law(guide(*halves, scale), sampling).softmax(-1)
        ids[:, place] = noise.categorical(law)
    return ImageTokens(generator.layout, ids=ids)


SYSTEMS: dict[str, tuple[str, Any]] = {
    "TiTok": ("titok", check_tokenizer),
    "TATiTok": ("titok", check_tokenizer),
    "ImageBert": ("titok-maskgit", check_maskgit),
    "UViTBert": ("titok-maskgit", check_maskgit),
    "RAR": ("rar", check_rar),
}
