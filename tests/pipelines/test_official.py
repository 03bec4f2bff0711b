"""Official files of LlamaGen and ELM in the hub's layout: found, told apart, loaded, drawn with."""

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import visgen
from tests.checkpoints.test_elm import official_generator
from tests.pipelines.conftest import quiet
from visgen.checkpoints.catalogue import CATALOGUE
from visgen.errors import InputError
from visgen.generators.raster import RasterTransformer
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.pipelines.prompts import WordVocabulary
from visgen.pipelines.reconstruct import ReconstructPipeline
from visgen.pipelines.text_to_image import TextToImagePipeline
from visgen.tokenizers.tokens import Grid

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = {"hidden_size": 16, "depth": 1, "num_heads": 1, "mlp_size": 32}


def saved(content, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def lively(model):
    """Fresh heads are zero, and other weights so small that conditions hardly matter."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def llamagen_state(text=False):
    """A tiny generator of 256 tokens under the official names."""
    torch.manual_seed(0)
    condition = {"condition": "text", "text_length": 120, "text_dim": 8} if text else {"num_classes": 5}
    model = lively(RasterTransformer(codebook_size=64, **SMALL, **condition))
    names = {
        "tok_embedder.": "tok_embeddings.",
        "prefix.text_null": "cls_embedding.uncond_embedding",
        "prefix.fc": "cls_embedding.cap_proj.fc",
    }
    out = {}
    for key, tensor in official_generator(model).items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        out[key] = tensor
    return out


@pytest.fixture(scope="module")
def llamagen(tmp_path_factory):
    """The class-conditional files; the tokenizer's is one of the trainer."""
    folder = tmp_path_factory.mktemp("llamagen")
    tokenizer = load_file(GOLDEN / "llamagen/vq.weights.safetensors")
    saved({"model": tokenizer, "args": argparse.Namespace(lr=1e-4)}, folder / "vq_ds16_c2i.pt")
    saved({"model": llamagen_state(), "steps": 3}, folder / "c2i_B_256.pt")
    return folder


@pytest.fixture(scope="module")
def elm(tmp_path_factory):
    """A next-token model of 2 × 8 bits, and its autoencoder within a GAN."""
    folder = tmp_path_factory.mktemp("elm")
    state = load_file(GOLDEN / "elm/bae_weights.safetensors")
    gan = {f"ae.{key.removeprefix('weights.')}": tensor for key, tensor in state.items()}
    for key in [key for key in gan if key.startswith(("ae.quantize.proj", "ae.quantize.embed"))]:
        gan[key] = torch.cat([gan[key], gan[key].flip(0)])  # 16 bits
    saved(gan | {"disc.main.weight": torch.zeros(3)}, folder / "bae/bae_16/binaryae_ema.th")
    torch.manual_seed(0)
    model = RasterTransformer(codebook_size=256, num_codes=2, num_classes=5, **SMALL)
    saved(official_generator(lively(model)), folder / "gpt/L-2-8.pth")
    return folder


def test_llamagen_folder(llamagen, tmp_path):
    pipe = quiet(visgen.load(llamagen))
    assert type(pipe) is ClassToImagePipeline and pipe.num_classes == 5 and pipe.card["licence"] == "MIT"
    assert pipe.sampling.guidance_scale == 2.0 and pipe.generator.layout == Grid(16, 16)
    out = pipe(3, seed=0)
    assert out.images[0].size == (64, 64)  # the golden tokenizer reduces by 4, not 16
    pipe.save_pretrained(tmp_path / "converted")
    again = quiet(visgen.load(tmp_path / "converted"))(3, seed=0)
    assert torch.equal(again.tokens.ids, out.tokens.ids)


def test_llamagen_file_beside_others(llamagen, tmp_path):
    """The file that is named counts; as safetensors too."""
    save_file(llamagen_state(), tmp_path / "c2i_B_384.safetensors")
    with pytest.raises(InputError, match=r"needs its tokenizer, vq_ds16_c2i\.pt"):
        visgen.load(tmp_path / "c2i_B_384.safetensors")
    for file in llamagen.iterdir():
        (tmp_path / file.name).symlink_to(file)
    with pytest.raises(InputError, match=r"c2i_B_256.pt, c2i_B_384.safetensors.*llamagen-b, llamagen-b-384"):
        visgen.load(tmp_path)
    pipe = visgen.load(tmp_path / "c2i_B_384.safetensors")
    assert pipe.generator.layout == Grid(24, 24) and pipe.tokenizer.pixel_size == 384


def test_alias_from_the_models_folder(llamagen, monkeypatch):
    monkeypatch.setenv("VISGEN_MODELS", str(llamagen))
    assert type(visgen.load("llamagen-b", dtype="bfloat16")) is ClassToImagePipeline
    assert type(visgen.load("llamagen-vq16")) is ReconstructPipeline


def test_elm_folder(elm):
    pipe = quiet(visgen.load(elm))
    assert pipe.sampling.guidance_schedule == "elm_linear" and pipe.tokenizer.config.code_bits == 8
    out = pipe(1, seed=0)
    assert out.tokens.ids.shape == (1, 256, 2) and int(out.tokens.ids.max()) > 15
    file = visgen.load(elm / "gpt/L-2-8.pth")
    assert torch.equal(quiet(file)(1, seed=0).tokens.ids, out.tokens.ids)


def test_elm_tokenizer_alone(elm):
    file = elm / "bae/bae_16/binaryae_ema.th"
    pipe = visgen.load(file)
    assert type(pipe) is ReconstructPipeline and pipe.tokenizer.config.num_codes == 1


def test_text_model(tmp_path, monkeypatch):
    """Its encoder comes from `VISGEN_MODELS`, cleaned and padded as in training."""
    from transformers import T5Config, T5EncoderModel

    saved({"model": load_file(GOLDEN / "llamagen/vq.weights.safetensors")}, tmp_path / "vq_ds16_t2i.pt")
    saved({"module": llamagen_state(text=True)}, tmp_path / "t2i_XL_stage1_256.pt")
    encoder = tmp_path / "google/flan-t5-xl"
    WordVocabulary.from_words(["a", "circle", "red"], 120).save_pretrained(encoder)
    config = T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(encoder)
    monkeypatch.setenv("VISGEN_MODELS", str(tmp_path))
    pipe = quiet(visgen.load("llamagen-t2i-xl"))
    assert type(pipe) is TextToImagePipeline and pipe.text.encoder == str(encoder)
    assert pipe.text.clean and pipe.text.left_padding and pipe.text.zero_padding
    one, two, other = (
        pipe(prompt, seed=0).tokens.ids for prompt in ("A red  circle", "a red circle", "a circle")
    )
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_every_file_belongs_to_one_system():
    """A name alone tells the generator."""
    names = [
        Path(entry.files["generator"]).name for entry in CATALOGUE.values() if "generator" in entry.files
    ]
    assert len(names) == len(set(names))
