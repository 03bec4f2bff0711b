"""A tiny random tokenizer of every registered class, and pipelines that reconstruct with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.generators.transformers.models import janus
from visgen.pipelines.reconstruct import ReconstructPipeline
from visgen.tokenizers import RENDERERS, TOKENIZERS

CNN = {"ch": 8, "ch_mult": (1, 1, 2), "num_res_blocks": 1, "norm_groups": 4}
VQ = CNN | {"image_size": 16, "codebook_size": 32, "code_dim": 4, "latent_channels": 8}
TRUNK = {"width": 16, "depth": 2, "head_dim": 8, "patch_size": 1, "position_sizes": (4, 4)}
VISION = {"vision_width": 16, "vision_depth": 2, "vision_heads": 2, "vision_mlp": 32}
QFORMER = {"hidden_size": 16, "qformer_depth": 2, "num_heads": 2, "mlp_size": 32, "num_queries": 4}
SEED = VISION | QFORMER | {"codebook_size": 16, "code_dim": 4, "decoder_depth": 1, "decoder_heads": 2}
ERRORS = (0.05, 0.1, 0.2, 0.3, 0.4)
STEPS = {"num_inference_steps": 2, "guidance_scale": 2.0}

CONFIGS: dict[str, dict[str, Any]] = {
    "BAETokenizer": CNN | {"image_size": 16, "attention_sizes": (8,), "channels": 8, "code_bits": 3},
    "FlexTokTokenizer": {
        "image_size": 16,
        "latents": {"kind": "VQTokenizer", **VQ},
        "encoder_sizes": TRUNK,
        "decoder_sizes": TRUNK,
        "levels": (5, 3),
        "num_registers": 8,
        "sampling": STEPS,
    },
    "KARLTokenizer": {
        "image_size": 16,
        "base": {"kind": "vq", **VQ},
        **{
            f"{side}_{size}": n
            for side in ("encoder", "decoder")
            for size, n in {"width": 16, "layers": 1}.items()
        },
        **{"encoder_heads": 2, "decoder_heads": 2, "max_latents": 8, "num_tokens": 8, "codebook_size": 16},
        **{"code_dim": 4, "max_grid": 8, "halt_width": 8, "error_bins": ERRORS},
    },
    "KLTokenizer": {
        "image_size": 16,
        "network": {
            "kind": "AutoencoderKL",
            "block_out_channels": (8, 8, 16),
            "down_block_types": ("DownEncoderBlock2D",) * 2 + ("AttnDownEncoderBlock2D",),
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "layers_per_block": 1,
            "latent_channels": 4,
            "norm_num_groups": 4,
        },
    },
    "MaskGITTokenizer": {
        "image_size": 16,
        "codebook_size": 16,
        "code_dim": 32,
        "ch": 32,
        "ch_mult": (1, 1, 1),
    },
    "SEEDTokenizer": SEED | {"image_size": 16, "patch_size": 8, "head_sizes": (8, 4), "embedding_dim": 8},
    "TiTokTokenizer": {
        "image_size": 16,
        "patch_size": 4,
        "num_tokens": 4,
        "codebook_size": 16,
        "token_dim": 4,
        "encoder_sizes": (16, 1, 2),
        "decoder_sizes": (16, 1, 2),
        "head": "rgb",
    },
    "VARTokenizer": CNN | {"scales": (1, 2, 4), "codebook_size": 32, "latent_channels": 4},
    "VQTokenizer": VQ,
}


def _janus() -> Any:
    return TOKENIZERS.load("TransformersVQ")(janus().model.vqmodel)


OTHERS: dict[str, Callable[[], Any]] = {"TransformersVQ": _janus}


def tiny_tokenizer(name: str) -> Any:
    """A registered tokenizer of random weights; what starts near zero is drawn anew, larger."""
    torch.manual_seed(0)
    tokenizer = _woken(OTHERS[name]() if name in OTHERS else TOKENIZERS.load(name)(**CONFIGS[name]))
    return _halting_in_between(tokenizer) if name == "KARLTokenizer" else tokenizer


@torch.no_grad()
def _halting_in_between(tokenizer: Any) -> Any:
    """KARL of loud random weights, half of whose halting logits are beyond the threshold: counts differ."""
    torch.manual_seed(2)
    for parameter in tokenizer.encoder.parameters():
        torch.nn.init.normal_(parameter)
    images = torch.rand(16, 3, 16, 16) * 2 - 1
    logits = tokenizer.tokenize(tokenizer.see(images), torch.arange(16) % len(ERRORS), 8).halt_logits
    tokenizer.encoder.halting[-1].bias += 1.1 - logits.median()  # sigmoid(1.1) is 0.75
    return tokenizer


def _woken(model: Any) -> Any:
    for parameter in model.parameters():
        if parameter.ndim > 1 and float(parameter.detach().abs().mean()) < 0.05:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def tiny_pipe(name: str) -> ReconstructPipeline:
    """A pipeline that reconstructs with it; SEED's with a small renderer."""
    renderer = None
    if name == "SEEDTokenizer":
        torch.manual_seed(1)
        sizes = {"hidden_size": 16, "depth": 1, "num_heads": 2, "mlp_size": 32, "condition_tokens": 2}
        codec = {"kind": "VQTokenizer", **VQ}
        flow = RENDERERS.load("FlowRenderer")
        renderer = _woken(flow(image_size=16, codec=codec, embedding_dim=8, sampling=STEPS, **sizes))
    pipe = ReconstructPipeline(tiny_tokenizer(name), renderer)
    pipe.set_progress_bar_config(disable=True)
    return pipe
