"""FlexTok: encoder, FSQ, decoder, flow sampling with guidance, noise schedules, training pass."""

from __future__ import annotations

import json
import re
from typing import Any

import torch
from torch import Tensor

from tests.parity.flextok_flow_stages import check_guidance, check_keep_counts, check_sampling, check_sigmas
from tests.parity.report import Golden
from visgen.checkpoints import from_official
from visgen.checkpoints.flextok import convert
from visgen.checkpoints.flextok_config import checked, modules_of, read_config
from visgen.nn.quantizers.fsq import FSQ
from visgen.tokenizers.flextok import FlexTokTokenizer
from visgen.tokenizers.flextok_trunks import AlignmentHead, Registers

INPUTS = (
    "enc.images",
    "fsq.*.z",
    "fsq.*.indices",
    "dec.noised",
    "dec.t",
    "dec.mixed.noised.*",
    "dec.mixed.t",
    "sample.noise",
    "guid.cond*",
    "guid.uncond*",
    "guid.small_cond",
    "noise.u",
    "repa.head.*",
    "train.sigma",
)
Tensors = dict[str, Tensor]


def check(golden: Golden) -> None:
    """Every stage of the folder."""
    io = golden.load("cases.safetensors")
    config, state = official_config(golden), golden.load("model.safetensors")
    model = from_official("flextok", state, config)
    check_encoder(golden, io, model)
    check_fsq(golden, io)
    check_decoder(golden, io, model, aligned_block(config))
    check_mixed(golden, io, model)
    check_sampling(golden, io, model)
    check_guidance(golden, io)
    check_sigmas(golden, io)
    check_keep_counts(golden)
    features = check_training(golden, io, model, aligned_block(config))
    check_gradients(golden, io, model, state, checked(config))
    if "repa.head_out" in io:
        check_alignment(golden, io, features)
    golden.finish(io, INPUTS)


def official_config(golden: Golden) -> dict[str, Any]:
    """The official configuration with the golden autoencoder's own sizes; both places must tell the same."""
    name = next(name for name in golden.meta["files"] if name.endswith("model.safetensors"))
    config = json.loads((golden.folder / "config.json").read_text())
    header = read_config(golden.folder / name)
    golden.compare(
        "config.header", header is not None and without_paths(header) == config, torch.tensor(True)
    )
    overrides = {k: v for k, v in golden.meta.get("vae_overrides", {}).items() if k != "note"}
    return config | {"vae": config["vae"] | overrides}


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """The header's content without the class of the whole, which config.json leaves out."""
    return {key: value for key, value in config.items() if key != "_target_"}


def aligned_block(config: dict[str, Any]) -> int | None:
    """The block whose features are aligned with another network's."""
    blocks = modules_of(config, 1)["blocks"][1].get("intermediate_layers")
    return blocks[0] if blocks else None


class Outputs:
    """Outputs of some blocks of a trunk, caught while it runs."""

    def __init__(self, blocks: Any) -> None:
        self.inputs: dict[int, Tensor] = {}
        self.outputs: dict[int, Tensor] = {}
        self._handles = [block.register_forward_hook(self._keep(i)) for i, block in enumerate(blocks)]

    def _keep(self, index: int) -> Any:
        def hook(module: Any, arguments: Any, output: Tensor) -> None:
            self.inputs[index], self.outputs[index] = arguments[0], output

        return hook

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, *error: Any) -> None:
        for handle in self._handles:
            handle.remove()


@torch.no_grad()
def check_encoder(golden: Golden, io: Tensors, model: FlexTokTokenizer) -> None:
    """Latents, patches, first block, registers before the head, z, codes, ids, ids of fewer registers."""
    latents = model.codec.encode(io["enc.images"])
    golden.compare("enc.vae_mean", latents / model.codec.vae.config.scaling_factor, io["enc.vae_mean"])
    golden.compare("enc.latents", latents, io["enc.latents"])
    patches, size = model.encoder.patches(latents)
    golden.compare("enc.patch_tokens", patches.unflatten(1, size), io["enc.patch_tokens"])
    with Outputs(model.encoder.blocks) as caught:
        z = model.encoder(latents, model.layout.n)
    golden.compare("enc.block0_out", caught.outputs[0], io["enc.block0_out"])
    last = caught.outputs[len(model.encoder.blocks) - 1]
    golden.compare("enc.registers_prehead", last[:, patches.shape[1] :], io["enc.registers_prehead"])
    golden.compare("enc.z", z, io["enc.z"])
    golden.compare("enc.quants", model.fsq(z).codes, io["enc.quants"])
    golden.compare("enc.token_ids", model.encode(io["enc.images"]).ids, io["enc.token_ids"])
    for row, count in enumerate(golden.meta["cases"]["enc.varsize.token_ids.i"]["register_sizes"]):
        ids = model.encode(io["enc.images"][row : row + 1], num_tokens=count).ids
        golden.compare(f"enc.varsize.token_ids.{row}", ids, io[f"enc.varsize.token_ids.{row}"])


def check_fsq(golden: Golden, io: Tensors) -> None:
    """Tables and gradients of each set of levels."""
    for name, levels in golden.meta["cases"]["fsq.i"]["levels"].items():
        fsq, stage = FSQ(levels), f"fsq.{name}"
        codes = fsq.codes(io[f"{stage}.indices"].long())
        golden.compare(f"{stage}.codes", codes, io[f"{stage}.codes"])
        golden.compare(f"{stage}.roundtrip", fsq.ids(codes), io[f"{stage}.roundtrip"])
        z = io[f"{stage}.z"].clone().requires_grad_()
        golden.compare(f"{stage}.bounded", fsq.bound(z), io[f"{stage}.bounded"])
        out = fsq(z)
        golden.compare(f"{stage}.quant", out.codes, io[f"{stage}.quant"])
        golden.compare(f"{stage}.token_ids", out.ids, io[f"{stage}.token_ids"])
        (out.codes * torch.arange(1, len(levels) + 1)).sum().backward()
        golden.compare(f"{stage}.grad_z", z.grad, io[f"{stage}.grad_z"])


@torch.no_grad()
def check_decoder(golden: Golden, io: Tensors, model: FlexTokTokenizer, aligned: int | None) -> None:
    """Time embedding, and by case what enters the blocks, leaves the first, is aligned, and the velocity."""
    golden.compare("dec.temb", model.decoder.time(io["dec.t"]), io["dec.temb"])
    cases, full = golden.meta["cases"], torch.full((len(io["dec.t"]),), model.layout.n)
    runs: dict[str, tuple[Tensor, Tensor | None]] = {"full": (full, None)}
    for index, counts in enumerate(cases["dec.velocity.keepJ"]["keep_k"]):
        runs[f"keep{index}"] = (torch.tensor(counts), None)
    drop = cases["dec.velocity.drop"]
    runs["drop"] = (torch.tensor(drop["keep_k"]), torch.tensor(drop["null_condition"]))
    runs["uncond"] = (full, torch.ones(len(full), dtype=torch.bool))
    for name, (counts, null) in runs.items():
        registers = model.decoder.registers(io["enc.quants"], counts, null)
        golden.compare(f"dec.velocity.{name}", velocity(model, io, registers), io[f"dec.velocity.{name}"])
        dense = model.decoder.registers(io["enc.quants"], counts, null, collapse=False)
        with Outputs(model.decoder.blocks) as caught:
            golden.compare(f"dec.velocity.{name}", velocity(model, io, dense), io[f"dec.velocity.{name}"])
        compare_blocks(golden, io, name, caught, aligned)
    null_only = model.decoder.null_registers(model.decoder.registers(io["enc.quants"], full))
    golden.compare("dec.velocity.uncond", velocity(model, io, null_only), io["dec.velocity.uncond"])


def velocity(model: FlexTokTokenizer, io: Tensors, registers: Registers) -> Tensor:
    """Velocity of the golden noisy latents."""
    return model.decoder(io["dec.noised"], registers, model.decoder.time_vectors(io["dec.t"]))


def compare_blocks(golden: Golden, io: Tensors, name: str, caught: Outputs, aligned: int | None) -> None:
    """What there is in the golden of the blocks of a run."""
    stages = {"tokens_in": caught.inputs[0], "block0_out": caught.outputs[0]}
    for stage, tensor in stages.items():
        if f"dec.{stage}.{name}" in io:
            golden.compare(f"dec.{stage}.{name}", tensor, io[f"dec.{stage}.{name}"])
    if aligned is not None and (stage := f"dec.repa_patches.{name}") in io:
        golden.compare(stage, patches_of(caught.outputs[aligned], io[stage].shape[1:3]), io[stage])


def patches_of(tokens: Tensor, size: Any) -> Tensor:
    """Patches (B, h, w, D) of tokens."""
    return tokens[:, : size[0] * size[1]].unflatten(1, tuple(size))


@torch.no_grad()
def check_mixed(golden: Golden, io: Tensors, model: FlexTokTokenizer) -> None:
    """Latents of several sizes, each by itself."""
    for row, count in enumerate(golden.meta["cases"]["dec.mixed"]["keep_k"]):
        registers = model.decoder.registers(io["enc.quants"][row : row + 1], count)
        times = model.decoder.time_vectors(io["dec.mixed.t"][row : row + 1])
        made = model.decoder(io[f"dec.mixed.noised.{row}"], registers, times)
        golden.compare(f"dec.mixed.velocity.{row}", made, io[f"dec.mixed.velocity.{row}"])


def check_training(golden: Golden, io: Tensors, model: FlexTokTokenizer, aligned: int | None) -> Tensor:
    """Losses, with gradients left in the model; the features (B, h, w, D) that are aligned."""
    case = golden.meta["cases"]["train.*"]
    counts, null = torch.tensor(case["keep_k"]), torch.tensor(case["null_condition"])
    latents = model.codec.encode(io["enc.images"])
    model.zero_grad()
    with Outputs(model.decoder.blocks) as caught:
        out = model(latents, io["sample.noise"], io["train.sigma"], counts, null)
    golden.compare("train.losses", out.losses, io["train.losses"])
    golden.compare("train.loss", out.losses.mean(), io["train.loss"])
    out.losses.mean().backward()
    patch = model.decoder.patches.patch
    size = [side // patch for side in latents.shape[-2:]]
    return patches_of(caught.outputs[aligned or 0], size).detach()


def check_gradients(
    golden: Golden, io: Tensors, model: FlexTokTokenizer, state: Tensors, config: dict[str, Any]
) -> None:
    """Gradients of the training loss by official key: they lie where ones in its place are converted to."""
    for stage in [stage for stage in io if stage.startswith("train.grad.")]:
        official = stage.removeprefix("train.grad.")
        marked = {k: (torch.ones_like if k == official else torch.zeros_like)(t) for k, t in state.items()}
        ours, mask = next((k, t.bool()) for k, t in convert(marked, config).items() if t.any())
        gradient = model.get_parameter(ours).grad
        assert gradient is not None
        golden.compare(stage, gradient[mask].view(state[official].shape), io[stage])


@torch.no_grad()
def check_alignment(golden: Golden, io: Tensors, features: Tensor) -> None:
    """The head that predicts another network's features."""
    weights = {re.sub(r"^repa\.head\.", "", k): t for k, t in io.items() if k.startswith("repa.head.")}
    head = AlignmentHead(
        features.shape[-1], weights["mlp.1.weight"].shape[0], weights["out_proj.weight"].shape[0]
    )
    head.load_state_dict(weights)
    golden.compare("repa.head_out", head(features), io["repa.head_out"])
