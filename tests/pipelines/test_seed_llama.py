"""Official SEED-LLaMA layouts, tiny: LLaMA folder, seed-tokenizer-2 and unCLIP folders side by side."""

from pathlib import Path

import pytest
import torch

import visgen
from tests.pipelines.seed_models import tiny_language_model
from visgen.checkpoints.catalogue import CATALOGUE
from visgen.errors import InputError
from visgen.evaluation.subjects import is_image_folder
from visgen.pipelines import seed_llama
from visgen.pipelines.interleaved import CaptionPipeline
from visgen.pipelines.language_models import LanguageModelSizes, SeedLlama
from visgen.pipelines.loading import find
from visgen.pipelines.seed_llama import SeedLlamaFolder
from visgen.pipelines.seed_vocabulary import SeedVocabulary

GOLDEN = Path(__file__).parents[1] / "golden" / "seed"
CODES = 128  # of the golden tokenizer


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The hub's repositories as folders: the tokenizer is the golden one, under the official keys."""
    from safetensors.torch import load_file

    root = tmp_path_factory.mktemp("hub")
    state = load_file(GOLDEN / "mlp_head.weights.safetensors")
    (root / "seed-tokenizer-2").mkdir()
    weights = {name.removeprefix("weights."): tensor for name, tensor in state.items()}
    torch.save(weights, root / "seed-tokenizer-2" / "seed_quantizer.pt")
    vocabulary = SeedVocabulary.from_words(["a", "user", "assistant", "cat"], CODES, 32)
    vocabulary.save_pretrained(root / "seed-tokenizer-2")
    torch.manual_seed(0)
    sizes = LanguageModelSizes(hidden_size=16, depth=2, num_heads=2, mlp_size=16, max_length=256)
    model = SeedLlama.build(sizes, vocabulary).model
    model.save_pretrained(root / "seed-llama-8b-sft")
    shards = root / "seed-llama-8b-pretrain"
    shards.mkdir()
    state = dict(model.state_dict())
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # as transformers 4.30 stored it
    names = sorted(state)
    for number, part in enumerate((names[:5], names[5:]), start=1):
        torch.save({n: state[n].half() for n in part}, shards / f"pytorch_model-0000{number}-of-00002.bin")
    (shards / "config.json").write_text((root / "seed-llama-8b-sft" / "config.json").read_text())
    return root


@pytest.mark.parametrize(
    ("name", "style"), [("seed-llama-8b-sft", "vicuna"), ("seed-llama-8b-pretrain", "plain")]
)
def test_a_local_folder_and_an_alias(root, name, style, monkeypatch):
    images = torch.rand(1, 3, 40, 30, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pipe = visgen.load(root / name, task="caption")
    assert isinstance(pipe, CaptionPipeline)
    assert pipe.language_model.settings.style == style
    assert pipe.sampling.top_p == 0.5
    monkeypatch.setenv("VISGEN_MODELS", str(root))
    same = visgen.load(name, task="caption", local_files_only=True)
    assert same.caption([images], max_new_tokens=5) == pipe.caption([images], max_new_tokens=5)
    assert "LLaMA 2" in same.card["licence"]
    tokens = pipe.encode_images(pipe.tokenizer.preprocess(images))
    assert tokens.ids.shape == (1, 32)
    with pytest.raises(InputError, match="no renderer"):
        pipe(["a"], output="image")


def test_shards_equal_safetensors(root):
    one, other = (
        visgen.load(root / f"seed-llama-8b-{stage}", task="caption").language_model.model.state_dict()
        for stage in ("sft", "pretrain")
    )
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], atol=1e-3) for name in one)


def test_the_14b_model_is_told_by_its_depth(root, monkeypatch):
    monkeypatch.setattr(seed_llama, "LLAMA2_DEPTH", 2)
    pipe = visgen.load(root / "seed-llama-8b-sft", task="caption")
    assert pipe.language_model.settings.style == "llama2"


def test_a_folder_of_a_model_is_no_folder_of_images(root):
    assert isinstance(find(str(root / "seed-llama-8b-sft")), SeedLlamaFolder)
    assert not is_image_folder(str(root / "seed-llama-8b-sft"))


def test_a_llama_alone_is_told_what_it_lacks(root, tmp_path):
    config = (root / "seed-llama-8b-sft" / "config.json").read_text()
    for name, told in (("seed-llama-x", "needs AILab-CVC/seed-tokenizer-2"), ("vicuna", "is no model")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
        with pytest.raises(InputError, match=told):
            visgen.load(tmp_path / name, task="caption")


def test_a_renderer_that_is_missing_is_named(root):
    with pytest.raises(InputError, match="stable-diffusion-2-1-unclip"):
        visgen.load(root / "seed-llama-8b-sft")


def test_shards_that_do_not_fit_are_refused(root, tmp_path):
    name = "seed-llama-8b-pretrain"
    (tmp_path / name).mkdir()
    (tmp_path / "seed-tokenizer-2").symlink_to(root / "seed-tokenizer-2")
    for file in (root / name).iterdir():
        if "00002-of" not in file.name:
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="missing keys"):
        visgen.load(tmp_path / name, task="caption")


def test_the_catalogue_tells_what_they_can_do():
    entries = [entry for entry in CATALOGUE.values() if entry.system == "seed-llama"]
    assert [entry.alias for entry in entries] == [
        f"seed-llama-{s}-{t}" for s in ("8b", "14b") for t in ("pretrain", "sft")
    ]
    assert all(entry.tasks == ("interleaved", "caption", "text-to-image", "reconstruct") for entry in entries)


def test_a_vocabulary_of_another_model_is_refused(root):
    other = tiny_language_model()
    tokenizer = visgen.load(root / "seed-llama-8b-sft", task="caption").tokenizer
    with pytest.raises(InputError, match="tokenizer makes 32 tokens of 128 codes"):
        CaptionPipeline(tokenizer, other)
