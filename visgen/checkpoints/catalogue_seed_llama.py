"""SEED-LLaMA as its authors published it. From memory, unverified here: sizes of the downloads."""

from __future__ import annotations

from visgen.checkpoints.catalogue_entry import OfficialCheckpoint

SEED_TOKENIZER_REPO = "AILab-CVC/seed-tokenizer-2"
UNCLIP_REPO = "stabilityai/stable-diffusion-2-1-unclip"
SEED_LLAMA_SYSTEM = "seed-llama"


def _seed_llama(size: str, stage: str, parameters: float) -> OfficialCheckpoint:
    """A `LlamaForCausalLM` in half precision; image tokenizer and renderer have repositories of their own."""
    chat = f"talks as {'Vicuna' if size == '8b' else 'LLaMA-2'}" if stage == "sft" else "continues texts"
    return OfficialCheckpoint(
        alias=f"seed-llama-{size}-{stage}",
        system=SEED_LLAMA_SYSTEM,
        tokenizer_system="seed-tokenizer",
        repo_id=f"AILab-CVC/seed-llama-{size}-{stage}",
        files={},
        size_bytes=round(2 * parameters),
        licence="LLaMA 2 Community License",
        paper="2310.01218",
        sampling={"top_p": 0.5},
        repos={"tokenizer": SEED_TOKENIZER_REPO, "renderer": UNCLIP_REPO},
        parity="prompts and answers: tests/golden/seed; the transformers library's LLaMA, tiny",
        notes=f"texts and images in and out, {chat}; with {SEED_TOKENIZER_REPO} and {UNCLIP_REPO}, 8 GB more",
    )


SEED_LLAMA_ENTRIES = tuple(
    _seed_llama(size, stage, parameters)
    for size, parameters in (("8b", 6.8e9), ("14b", 13.1e9))
    for stage in ("pretrain", "sft")
)
