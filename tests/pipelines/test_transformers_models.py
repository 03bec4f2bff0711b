"""Folders of the transformers library through `visgen.load`, and the wording of their prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import visgen
from tests.generators.transformers import models
from tests.generators.transformers.processors import (
    chameleon_processor,
    emu3_processor,
    ids_of,
    janus_processor,
)
from tests.pipelines.conftest import quiet
from visgen.checkpoints.chameleon import tokenizer_from_official
from visgen.errors import InputError
from visgen.generators.base import GenerationRequest
from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling
from visgen.pipelines.reconstruct import ReconstructPipeline
from visgen.pipelines.text_to_image import TextToImagePipeline
from visgen.pipelines.transformers_prompts import ChameleonPrompts, Emu3Prompts, JanusPrompts
from visgen.tokenizers.tokens import Grid
from visgen.tokenizers.vq import VQTokenizer


@pytest.fixture(autouse=True)
def no_models_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISGEN_MODELS", raising=False)


@pytest.fixture(scope="module")
def janus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("janus")
    models.janus().save_pretrained(folder)
    janus_processor().save_pretrained(folder)
    return folder


def vqgan(codes: int = 24) -> VQTokenizer:
    """Chameleon's whole image tokenizer, of the size of the tiny models'."""
    torch.manual_seed(3)
    return VQTokenizer(
        image_size=8,
        codebook_size=codes,
        code_dim=8,
        latent_channels=8,
        ch=32,
        ch_mult=(1, 1),
        num_res_blocks=1,
        attention=False,
        normalize_codes=False,
    ).eval()


def official_vqgan(tokenizer: VQTokenizer) -> dict[str, torch.Tensor]:
    """Its weights by the names of taming-transformers."""
    state: dict[str, torch.Tensor] = {}
    for key, tensor in tokenizer.state_dict().items():
        key = key.replace("vq.", "quantize.", 1) if key.startswith("vq.") else key
        if ".qkv." in key:
            parts = tensor.chunk(3)
            state |= {key.replace("qkv", n): p.clone() for n, p in zip("qkv", parts, strict=True)}
        else:
            state[key] = tensor
    return state


def test_janus_prompts_are_those_of_the_processor() -> None:
    processor = janus_processor()
    condition = JanusPrompts(processor).encode(["a red cat", "a dog"])
    text = processor.apply_chat_template(
        [[{"role": "user", "content": [{"type": "text", "text": p}]}] for p in ("a red cat", "a dog")],
        add_generation_prompt=True,
        tokenize=False,
    )
    own = processor(text=text, generation_mode="image", padding=True, return_tensors="pt")
    assert (
        condition.input_ids[condition.mask].tolist() == own["input_ids"][own["attention_mask"] > 0].tolist()
    )
    assert condition.mask.long().tolist() == own["attention_mask"].tolist()
    assert condition.negative_ids is not None and condition.negative_mask is not None
    assert condition.negative_ids[0].tolist() == ids_of("<s> <pad> <pad> <pad> <pad> <pad> <boi>")
    assert torch.equal(condition.negative_mask, condition.mask)


def test_emu3_prompts_are_those_of_the_processor() -> None:
    processor = emu3_processor()
    text = Emu3Prompts(processor, Grid(3, 3), suffix=" best", negative="worst .")
    own = processor(
        text=["a red cat best"],
        return_for_image_generation=True,
        image_area=24 * 24,
        ratio="1:1",
        return_tensors="pt",
    )
    condition = text.encode(["a red cat"])
    assert condition.input_ids.tolist() == own["input_ids"].tolist()
    assert condition.input_ids[0].tolist() == ids_of("<s> a red cat best <boi> 3*3 <wrap>")
    assert condition.negative_ids is not None
    assert condition.negative_ids[0].tolist() == ids_of("<s> worst . <boi> 3*3 <wrap>")
    told = text.encode(["a cat"], ["a dog"]).negative_ids
    assert told is not None and told[0].tolist() == ids_of("<s> a dog <boi> 3*3 <wrap>")


def test_chameleon_prompts() -> None:
    """Anole: [0] + text + [8710, 8197] against [0, 8197]; Lumina-mGPT has the size behind `<boi>`."""
    anole = ChameleonPrompts(chameleon_processor()).encode(["a red cat", "a dog"])
    assert anole.input_ids[0].tolist() == ids_of("<s> a red cat <sep> <boi>")
    assert anole.negative_ids is not None and anole.negative_ids[1].tolist() == ids_of("<s> <boi>")
    lumina = ChameleonPrompts(chameleon_processor(), "lumina", Grid(4, 6), size_id=100).encode(["a dog"])
    words = ids_of("<s> Generate an image of 96x64 according to the following prompt: a dog <sep> <boi>")
    assert lumina.input_ids[0].tolist() == [*words, 102, 103]
    assert lumina.negative_ids is not None
    assert lumina.negative_ids[0].tolist() == [*ids_of("<sep> <boi>"), 102, 103]
    with pytest.raises(InputError, match="needs a ChameleonProcessor"):
        ChameleonPrompts(janus_processor())


def test_janus_from_a_folder(janus_folder: Path, tmp_path: Path) -> None:
    """The pipeline's picture is what the model's own `generate` and decoder make of the same prompt."""
    pipe = quiet(visgen.load(janus_folder))
    assert type(pipe) is TextToImagePipeline and pipe.sampling.guidance_scale == 5.0
    picture = pipe("a red cat", seed=0, top_k=1, output_type="pt").images[0]
    own = models.janus()
    ids = torch.tensor([ids_of("<s> user a red cat bot <boi>")])
    tokens = own.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        generation_mode="image",
        do_sample=False,
        guidance_scale=5.0,
        max_length=64,
    )
    with torch.no_grad():
        wanted = own.decode_image_tokens(tokens)[0].permute(2, 0, 1)
    torch.testing.assert_close(picture, (wanted.clamp(-1, 1) + 1) / 2, atol=1e-5, rtol=1e-5)
    out = pipe(["a red cat", "a dog on a mat ."], seed=1)
    assert all(isinstance(image, Image.Image) and image.size == (8, 8) for image in out.images)
    pipe.save_pretrained(tmp_path / "saved")
    again = quiet(visgen.load(tmp_path / "saved"))
    assert json.loads((tmp_path / "saved/model_index.json").read_text())["generator"][1] == "JanusGenerator"
    assert [image.tobytes() for image in again(["a red cat", "a dog on a mat ."], seed=1).images] == [
        image.tobytes() for image in out.images
    ]


def test_strategies_on_a_loaded_model(janus_folder: Path) -> None:
    pipe = quiet(visgen.load(janus_folder, dtype="auto", device="cpu"))
    condition = pipe.text.encode(["a red cat", "a dog"])
    greedy = TokenSampling(top_k=1, guidance_scale=5.0)
    ids = []
    for strategy in ("sequential", "sjd", "jacobi:8"):
        noise = Noise.per_image([(0, 0), (0, 1)])
        request = GenerationRequest(condition, greedy, noise)
        result = pipe.generator.generate(request, quantizer=pipe.tokenizer.quantizer, strategy=strategy)
        assert result.tokens.ids is not None
        ids.append(result.tokens.ids.tolist())
    assert ids[0] == ids[1] == ids[2]
    out = pipe(["a red cat", "a dog"], strategy="sjd", seed=0, top_k=1)
    assert out.tokens.ids is not None and out.tokens.ids.tolist() == ids[0]
    assert out.images[0].size == (8, 8)
    assert pipe.tokenizer.decode(result.tokens).shape == (2, 3, 8, 8)


def test_the_tokenizer_alone(janus_folder: Path) -> None:
    pipe = quiet(visgen.load(janus_folder, "reconstruct"))
    assert type(pipe) is ReconstructPipeline and "generator" not in pipe.components
    whole = visgen.load(janus_folder).tokenizer
    images = torch.rand(1, 3, 8, 8) * 2 - 1
    assert torch.equal(pipe.tokenizer.encode(images).ids, whole.encode(images).ids)


def test_editing_keeps_what_it_is_told_to(janus_folder: Path) -> None:
    pipe = quiet(visgen.load(janus_folder, "edit"))
    picture, mask = Image.new("RGB", (8, 8), (200, 30, 30)), torch.zeros(8, 8)
    mask[:, 4:] = 1
    source = pipe.tokenizer.encode(pipe.tokenizer.preprocess(picture)).ids.view(4, 4)
    ids = pipe(picture, "a dog", mask=mask, seed=0, strategy="jacobi").tokens.ids.view(4, 4)
    assert torch.equal(ids[:, :2], source[:, :2]) and not torch.equal(ids[:, 2:], source[:, 2:])


def test_dtypes(janus_folder: Path) -> None:
    pipe = quiet(visgen.load(janus_folder, dtype="bfloat16"))
    assert pipe.generator.dtype == pipe.tokenizer.dtype == torch.bfloat16
    image = pipe("a dog", seed=0).images[0]
    assert image.size == (8, 8)
    assert visgen.load(janus_folder, "reconstruct", dtype="bfloat16").tokenizer.dtype == torch.bfloat16


def test_emu3_from_a_folder(tmp_path: Path) -> None:
    """`visgen.json` beside the model's files sets the size of its images."""
    models.emu3().save_pretrained(tmp_path)
    emu3_processor().save_pretrained(tmp_path)
    (tmp_path / "visgen.json").write_text('{"grid": [3, 4]}')
    pipe = quiet(visgen.load(tmp_path))
    assert pipe.generator.grid == pipe.text.grid == pipe.tokenizer.layout == Grid(3, 4)
    assert (pipe.sampling.guidance_scale, pipe.sampling.top_k) == (3.0, 2048)
    assert pipe("a red cat", seed=0).images[0].size == (8, 6)


def chameleon_folder(folder: Path, **changes: Any) -> Path:
    models.chameleon().save_pretrained(folder)
    chameleon_processor().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def test_anole_needs_a_decoder(tmp_path: Path) -> None:
    folder = chameleon_folder(tmp_path)
    with pytest.raises(InputError, match=r"vqgan\.ckpt"):
        visgen.load(folder)
    tokenizer = vqgan()
    torch.save({"state_dict": official_vqgan(tokenizer) | {"loss.x": torch.ones(1)}}, folder / "vqgan.ckpt")
    pipe = quiet(visgen.load(folder))
    out = pipe("a dog", seed=0)
    assert out.images[0].size == (8, 8) and pipe.generator.format == pipe.text.format == "anole"
    assert torch.equal(pipe.tokenizer.decode(out.tokens), tokenizer.decode(out.tokens))


def test_anole_that_carries_its_decoder(tmp_path: Path) -> None:
    folder, tokenizer = chameleon_folder(tmp_path), vqgan()
    state = load_file(folder / "model.safetensors")
    state |= {f"model.vqmodel.{key}": t.contiguous() for key, t in official_vqgan(tokenizer).items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    pipe = quiet(visgen.load(folder))
    out = pipe("a dog", seed=0)
    assert torch.equal(pipe.tokenizer.decode(out.tokens), tokenizer.decode(out.tokens))


def test_lumina_is_told_by_its_class(tmp_path: Path) -> None:
    folder = chameleon_folder(tmp_path, architectures=["ChameleonXLLMXForConditionalGeneration"])
    (folder / "visgen.json").write_text('{"grid": [4, 2], "line_end_id": 9}')
    save_file(official_vqgan(vqgan()), folder / "vqgan.safetensors")
    pipe = quiet(visgen.load(folder))
    assert pipe.generator.format == pipe.text.format == "lumina" and pipe.generator.length == 12
    assert pipe.text.encode(["a"]).input_ids[0, -2:].tolist() == [10 + 2, 10 + 1]
    assert pipe("a dog", seed=0).images[0].size == (4, 8)


def test_chameleons_tokenizer_agrees_with_the_librarys_encoder() -> None:
    """The converted tokenizer's ids are those of `ChameleonVQVAE`, which has the same names."""
    model = models.chameleon().model.vqmodel
    ours = vqgan()
    missing, surplus = model.load_state_dict(official_vqgan(ours), strict=False)
    assert not missing and all(key.startswith("decoder.") for key in surplus)
    converted = tokenizer_from_official(official_vqgan(ours))
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    with torch.no_grad():
        wanted = model.encode(images).image_tokens
    ids = converted.encode(images).ids
    assert ids is not None and ids.flatten().tolist() == wanted.flatten().tolist()
    assert len(ids.unique()) > 1 and not converted.vq.normalize


def test_refusals(janus_folder: Path, tmp_path: Path) -> None:
    models.emu3().save_pretrained(tmp_path / "bare")
    with pytest.raises(InputError, match="no readable processor"):
        visgen.load(tmp_path / "bare")
    with pytest.raises(InputError, match="cannot do class-to-image"):
        visgen.load(janus_folder, "class-to-image")
    broken = tmp_path / "broken"
    models.janus().save_pretrained(broken)
    janus_processor().save_pretrained(broken)
    state = load_file(broken / "model.safetensors")
    del state["model.generation_head.vision_head.weight"]
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"1 are missing \(model.generation_head.vision_head.weight\)"):
        visgen.load(broken)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="is no model"):
        visgen.load(tmp_path / "other")


def test_a_catalogue_entry_from_the_models_folder(
    janus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deepseek-community").mkdir()
    (tmp_path / "deepseek-community/Janus-Pro-1B").symlink_to(janus_folder)
    monkeypatch.setenv("VISGEN_MODELS", str(tmp_path))
    pipe = visgen.load("janus-pro-1b")
    assert pipe.card["licence"] == "DeepSeek Model License" and pipe.sampling.guidance_scale == 5.0
