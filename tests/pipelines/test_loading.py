"""Saving, loading, names, and files that mean harm."""

import json
import pickle
import subprocess
import sys

import pytest
import torch

import visgen
from tests.pipelines.conftest import LENGTH, SCALES, WORDS, quiet, random_picture, same
from visgen import shipped as shipped_module
from visgen.checkpoints.catalogue import CATALOGUE
from visgen.errors import InputError, UnknownNameError
from visgen.pipelines import PIPELINES, TASKS, TASKS_OF, TEXTS, listing, loading
from visgen.pipelines.base import ImagePipeline
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.pipelines.edit import EditPipeline
from visgen.pipelines.reconstruct import ReconstructPipeline
from visgen.pipelines.text_to_image import TextToImagePipeline


@pytest.fixture(autouse=True)
def no_models_folder(monkeypatch):
    monkeypatch.delenv("VISGEN_MODELS", raising=False)


@pytest.fixture
def folder(text_pipe, tmp_path):
    text_pipe.save_pretrained(tmp_path / "model", card={"licence": "CC0", "notes": "tiny"})
    return tmp_path / "model"


def edit_index(folder, **changes):
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip(text_pipe, folder, tmp_path):
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "TextToImagePipeline" and index["schema"] == 1
    assert index["tokenizer"] == ["visgen", "VARTokenizer"] and index["text"] == ["visgen", "WordVocabulary"]
    assert index["sampling"] == {"guidance_scale": 2.0, "guidance_schedule": "linear", "top_k": 16}
    pipe = quiet(visgen.load(folder))
    assert (
        type(pipe) is TextToImagePipeline
        and pipe.sampling == text_pipe.sampling
        and pipe.card["licence"] == "CC0"
    )
    assert same(pipe("a red circle", seed=1).images, text_pipe("a red circle", seed=1).images)
    assert pipe("a", seed=1).settings["model"] == str(folder)
    pipe.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/model_index.json").read_text() == (folder / "model_index.json").read_text()


def test_class_and_edit_pipelines_round_trip(class_pipe, edit_pipe, tmp_path):
    class_pipe.save_pretrained(tmp_path / "class")
    edit_pipe.save_pretrained(tmp_path / "edit")
    EditPipeline.from_pipe(class_pipe).save_pretrained(tmp_path / "class-edit")
    assert type(visgen.load(tmp_path / "class")) is ClassToImagePipeline
    assert type(visgen.load(tmp_path / "edit")) is EditPipeline
    assert visgen.load(tmp_path / "class-edit").text is None


def test_tasks(folder, class_pipe, tmp_path):
    assert type(visgen.load(folder, "edit")) is EditPipeline
    assert type(visgen.load(folder, task="reconstruct")) is ReconstructPipeline
    assert type(ImagePipeline.from_pretrained(folder)) is TextToImagePipeline
    assert type(EditPipeline.from_pretrained(folder)) is EditPipeline
    with pytest.raises(
        InputError, match="cannot do class-to-image; it can do text-to-image, edit, reconstruct"
    ):
        visgen.load(folder, "class-to-image")
    with pytest.raises(UnknownNameError, match="did you mean reconstruct"):
        visgen.load(folder, "reconstruction")
    with pytest.raises(InputError, match="cannot do text-to-image"):
        class_pipe.save_pretrained(tmp_path / "class")
        TextToImagePipeline.from_pretrained(tmp_path / "class")
    assert set(TASKS.values()) == set(PIPELINES.names()) == set(TASKS_OF)


def test_only_what_a_task_needs_is_read(folder):
    for file in (folder / "generator").iterdir():
        file.unlink()
    assert visgen.load(folder, "reconstruct")(random_picture()).images


def test_dtypes_and_device(folder):
    assert visgen.load(folder, dtype="bf16").generator.dtype == torch.bfloat16
    assert visgen.load(folder, dtype=torch.float64, device="cpu").generator.dtype == torch.float64
    assert visgen.load(folder, dtype="auto").dtype == torch.float32
    with pytest.raises(UnknownNameError, match="did you mean bfloat16"):
        visgen.load(folder, dtype="bfloat")


def test_stored_dtype(text_pipe, tmp_path):
    text_pipe.save_pretrained(tmp_path, dtype=torch.bfloat16)
    assert visgen.load(tmp_path).generator.dtype == torch.float32
    assert visgen.load(tmp_path, dtype="auto").generator.dtype == torch.bfloat16
    assert text_pipe.generator.dtype == torch.float32


@pytest.fixture
def shipped(folder, monkeypatch, tmp_path):
    """The folder stands for `visgen/assets`, with the model "model" in it."""
    for module in (shipped_module, loading, listing):
        monkeypatch.setattr(module, "assets_folder", lambda: tmp_path)
    return tmp_path


def test_shipped_models(shipped, text_pipe):
    assert type(visgen.load("model")) is TextToImagePipeline
    row = visgen.models()[0]
    assert (row.name, row.kind, row.licence, row.tasks[0]) == ("model", "shipped", "CC0", "text-to-image")
    assert row.size_bytes > 1000 and row.source == "package"
    with pytest.raises(UnknownNameError, match="did you mean model"):
        visgen.load("modell")


def test_shared_components(shipped, text_pipe):
    text_pipe.save_pretrained(shipped / "other", shared={"tokenizer": "model/tokenizer"})
    assert not (shipped / "other/tokenizer").exists()
    assert json.loads((shipped / "other/model_index.json").read_text())["tokenizer"][2] == "model/tokenizer"
    assert same(quiet(visgen.load("other"))("a", seed=0).images, text_pipe("a", seed=0).images)
    with pytest.raises(InputError, match="not among the models"):
        text_pipe.save_pretrained(shipped / "third", shared={"tokenizer": "nothing/tokenizer"})


@pytest.mark.parametrize(
    "reference",
    [
        "../outside/tokenizer",
        "/etc/passwd",
        "..",
        "model/../../outside",
        "a/b/c",
        "model",
        "",
        "model\\..\\x/y",
        "C:/x",
        "../x",
    ],
)
def test_references_do_not_leave_the_assets(shipped, text_pipe, reference):
    text_pipe.save_pretrained(shipped.parent / "outside")
    edit_index(shipped / "model", tokenizer=["visgen", "VARTokenizer", reference])
    with pytest.raises(InputError, match="shared component"):
        visgen.load("model")


def test_references_do_not_follow_links_out(shipped, text_pipe):
    text_pipe.save_pretrained(shipped.parent / "elsewhere")
    (shipped / "link").symlink_to(shipped.parent / "elsewhere")
    edit_index(shipped / "model", tokenizer=["visgen", "VARTokenizer", "link/tokenizer"])
    with pytest.raises(InputError, match="ships with visgen"):
        visgen.load("model")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"_class_name": "StableDiffusionPipeline"}, "names the pipeline"),
        ({"_class_name": "os:system"}, "names the pipeline"),
        ({"_class_name": ["a"]}, "names the pipeline"),
        ({"tokenizer": ["diffusers", "AutoencoderKL"]}, "gives"),
        ({"tokenizer": ["visgen", "VARTransformer"]}, "VARTokenizer"),
        ({"tokenizer": ["os", "system"]}, "gives"),
        ({"tokenizer": "VARTokenizer"}, "gives"),
        ({"tokenizer": ["visgen", ["a"]]}, "gives"),
        ({"text": None}, "gives"),
        ({"safety_checker": ["visgen", "VARTokenizer"]}, "unknown component 'safety_checker'"),
        ({"schema": 2}, "schema 2"),
        ({"sampling": ["top_k"]}, "must be objects"),
        ({"sampling": {"heat": 1}}, "does not fit TokenSampling"),
    ],
)
def test_indices_that_mean_harm_or_are_broken(folder, changes, told):
    edit_index(folder, **changes)
    with pytest.raises(InputError, match=told):
        visgen.load(folder)


def test_missing_component(folder):
    index = json.loads((folder / "model_index.json").read_text())
    index.pop("generator")
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="needs a generator"):
        visgen.load(folder)
    (folder / "model_index.json").write_text("{")
    with pytest.raises(InputError, match="no readable JSON"):
        visgen.load(folder)


def test_foreign_components_are_not_saved(text_pipe, tmp_path):
    class VARTokenizer(type(text_pipe.tokenizer)):
        pass

    stranger = VARTokenizer(**{k: v for k, v in text_pipe.tokenizer.config.items() if not k.startswith("_")})
    with pytest.raises(InputError, match="cannot be saved"):
        ReconstructPipeline(stranger).save_pretrained(tmp_path)


# Official checkpoints


def official_tokenizer_state():
    """A tiny tokenizer under the official names."""
    from visgen.tokenizers.var import VARTokenizer

    torch.manual_seed(0)
    model = VARTokenizer(
        codebook_size=16, latent_channels=4, ch=32, ch_mult=(1, 1, 1, 1, 1), num_res_blocks=1
    )
    state = {
        key.replace("vq.phi.", "quantize.quant_resi.qresi_ls."): value
        for key, value in model.state_dict().items()
    }
    return {key.replace("vq.", "quantize.", 1): value for key, value in state.items()}


def official_generator_state(width=64, classes=3):
    """A tiny transformer under the official names (680 tokens, one block)."""
    torch.manual_seed(1)
    shapes = {
        "pos_start": (1, 1, width),
        "pos_1LC": (1, 680, width),
        "word_embed.weight": (width, 4),
        "word_embed.bias": (width,),
        "class_emb.weight": (classes + 1, width),
        "lvl_embed.weight": (10, width),
        "head_nm.ada_lin.1.weight": (2 * width, width),
        "head_nm.ada_lin.1.bias": (2 * width,),
        "head.weight": (16, width),
        "head.bias": (16,),
        "blocks.0.attn.mat_qkv.weight": (3 * width, width),
        "blocks.0.attn.q_bias": (width,),
        "blocks.0.attn.v_bias": (width,),
        "blocks.0.attn.zero_k_bias": (width,),
        "blocks.0.attn.scale_mul_1H11": (1, 1, 1, 1),
        "blocks.0.attn.proj.weight": (width, width),
        "blocks.0.attn.proj.bias": (width,),
        "blocks.0.ffn.fc1.weight": (4 * width, width),
        "blocks.0.ffn.fc1.bias": (4 * width,),
        "blocks.0.ffn.fc2.weight": (width, 4 * width),
        "blocks.0.ffn.fc2.bias": (width,),
        "blocks.0.ada_lin.1.weight": (6 * width, width),
        "blocks.0.ada_lin.1.bias": (6 * width,),
    }
    return {name: torch.randn(shape) * 0.05 for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def hub_layout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("var")
    torch.save(official_tokenizer_state(), folder / "vae_ch160v4096z32.pth")
    torch.save(official_generator_state(), folder / "var_d16.pth")
    return folder


def test_folder_in_the_hubs_layout(hub_layout, tmp_path):
    pipe = quiet(visgen.load(hub_layout))
    assert type(pipe) is ClassToImagePipeline and pipe.num_classes == 3 and pipe.card["licence"] == "MIT"
    assert pipe.sampling.guidance_scale == 2.5 and pipe.sampling.top_k == 900
    out = pipe(1, seed=0)
    assert out.images[0].size == (256, 256)
    pipe.save_pretrained(tmp_path / "converted")
    assert same(quiet(visgen.load(tmp_path / "converted"))(1, seed=0).images, out.images)


def test_alias_from_the_models_folder(hub_layout, monkeypatch):
    monkeypatch.setenv("VISGEN_MODELS", str(hub_layout))
    assert type(visgen.load("var-d16", dtype="bfloat16")) is ClassToImagePipeline
    assert type(visgen.load("var-d16", "edit")) is EditPipeline
    assert type(visgen.load("var-tokenizer")) is ReconstructPipeline
    with pytest.raises(InputError, match="cannot do text-to-image"):
        visgen.load("var-d16", "text-to-image")
    monkeypatch.setenv("VISGEN_MODELS", "/nowhere")
    with pytest.raises(InputError, match="VISGEN_MODELS='/nowhere'"):
        visgen.load("var-d16")


def test_models_folder_holds_our_format_too(folder, monkeypatch):
    monkeypatch.setenv("VISGEN_MODELS", str(folder.parent))
    assert type(visgen.load(folder.name)) is TextToImagePipeline


def test_several_generators_in_a_folder(hub_layout, tmp_path):
    for file in hub_layout.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "var_d20.pth").symlink_to(hub_layout / "var_d16.pth")
    with pytest.raises(InputError, match=r"var_d16.pth, var_d20.pth.*var-d16, var-d20"):
        visgen.load(tmp_path)
    assert type(visgen.load(tmp_path / "var_d20.pth")) is ClassToImagePipeline


def test_incomplete_folders(hub_layout, tmp_path):
    with pytest.raises(InputError, match="is no model"):
        visgen.load(tmp_path)
    (tmp_path / "var_d16.pth").symlink_to(hub_layout / "var_d16.pth")
    with pytest.raises(InputError, match=r"vae_ch160v4096z32\.pth"):
        visgen.load(tmp_path)


def test_tokenizer_alone(hub_layout, tmp_path):
    (tmp_path / "vae_ch160v4096z32.pth").symlink_to(hub_layout / "vae_ch160v4096z32.pth")
    assert type(visgen.load(tmp_path)) is ReconstructPipeline
    with pytest.raises(InputError, match="cannot do edit"):
        visgen.load(tmp_path, "edit")


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('exploded')",))


def test_pickles_with_code_are_refused(hub_layout, tmp_path):
    (tmp_path / "vae_ch160v4096z32.pth").write_bytes(pickle.dumps({"a": Bomb()}, protocol=2))
    (tmp_path / "var_d16.pth").symlink_to(hub_layout / "var_d16.pth")
    with pytest.raises(InputError, match="could run code"):
        visgen.load(tmp_path)


# The hub, which tests never reach


@pytest.mark.parametrize("alias", CATALOGUE)
def test_offline_message_says_what_was_wanted(alias, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError) as caught:
        visgen.load(alias)
    message = str(caught.value)
    for part in (
        alias,
        CATALOGUE[alias].about,
        "GB",
        CATALOGUE[alias].licence,
        'visgen.load("path/to/folder")',
        "VISGEN_MODELS",
        "OFFLINE",
    ):
        assert part in message
    assert "\n" not in message


def test_local_files_only(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="local_files_only=True"):
        visgen.load("somebody/some-model", local_files_only=True)


@pytest.mark.parametrize("status", [401, 404, 403, 503])
def test_hub_answers(monkeypatch, status):
    import huggingface_hub
    from huggingface_hub import errors

    kinds = {
        401: errors.RepositoryNotFoundError,
        404: errors.RepositoryNotFoundError,
        403: errors.GatedRepoError,
    }

    def answer(*args, **options):
        kind = kinds.get(status, errors.HfHubHTTPError)
        error = kind.__new__(kind)
        Exception.__init__(error, f"{status} error\nmore\nlines")
        raise error

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    with pytest.raises(InputError, match="could not be fetched") as caught:
        visgen.load("somebody/some-model")
    assert "\n" not in str(caught.value)


def test_hub_repository_in_our_format(folder, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **options: str(folder))
    assert type(visgen.load("somebody/some-model")) is TextToImagePipeline


def test_names():
    with pytest.raises(InputError, match="var-d16, var-d20, var-d24, var-d30, var-d36"):
        visgen.load("FoundationVision/var")
    with pytest.raises(UnknownNameError, match="did you mean var-d"):
        visgen.load("var-d61")
    with pytest.raises(UnknownNameError, match=r"unknown folder '\./nowhere'"):
        visgen.load("./nowhere")
    with pytest.raises(InputError, match="name is empty"):
        visgen.load("")


def test_models_lists_official_ones():
    rows = {row.name: row for row in visgen.models()}
    row = rows["var-d30"]
    assert (
        row.kind == "official" and row.licence == "MIT" and row.size_bytes == pytest.approx(8.47e9, rel=0.01)
    )
    assert row.tasks == ("class-to-image", "edit", "reconstruct") and "top_k=900" in row.recipe and row.parity


def test_import_is_light():
    heavy = "[name for name in ('torch', 'diffusers', 'numpy') if name in sys.modules]"
    code = f"import sys, visgen, visgen.pipelines, visgen.checkpoints; print({heavy})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    assert "load" in dir(visgen) and {"TextFeatures", "WordVocabulary"} <= set(TEXTS.names())
    with pytest.raises(AttributeError, match="lod"):
        getattr(visgen, "lod")  # noqa: B009


def test_text_component_matches_constants(text_pipe):
    assert text_pipe.text.known_words() == WORDS and text_pipe.text.length == LENGTH
    assert text_pipe.tokenizer.config.scales == SCALES
