"""FD-DINOv2, CMMD and CLIP score on tiny random networks, against formulas written another way."""

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
import transformers
from PIL import Image

from tests.evaluation.conftest import write_pictures
from visgen.errors import InputError, UnknownNameError
from visgen.evaluation import transformers_networks
from visgen.evaluation.kernel_distance import cmmd
from visgen.evaluation.networks import CLIP, IMAGENET, RECIPES, parse_feature_models
from visgen.evaluation.options import EvaluationOptions
from visgen.evaluation.references import FolderReference
from visgen.evaluation.run import evaluate
from visgen.evaluation.subjects import ModelSubject
from visgen.evaluation.transformers_networks import fit_positions, load_network

pytestmark = pytest.mark.filterwarnings("ignore:FID of")

VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = VISION | {"vocab_size": 60, "max_position_embeddings": 9, "bos_token_id": 0, "eos_token_id": 1}
WORDS = ["a", "red", "blue", "circle", "square", "above", "and"]
METRICS = ("fd_dinov2", "cmmd", "clip_score")


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Folders of tiny networks of the recipes' classes: metric → folder."""
    root = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    dino = transformers.Dinov2Config(**VISION, image_size=28, patch_size=14)
    loud(transformers.Dinov2Model(dino)).save_pretrained(root / "dino")
    torch.manual_seed(1)  # of which captions are on both sides of 0
    clip = transformers.CLIPConfig(
        text_config=TEXT, vision_config=VISION | {"image_size": 16, "patch_size": 8}, projection_dim=12
    )
    loud(transformers.CLIPModel(clip)).save_pretrained(root / "clip")
    tokenizer().save_pretrained(root / "clip")
    return {"fd_dinov2": str(root / "dino"), "cmmd": str(root / "clip"), "clip_score": str(root / "clip")}


def loud(model):
    """Weights of unit size: the usual start makes all images alike."""
    for name, tensor in model.named_parameters():
        if tensor.ndim > 1:
            torch.nn.init.normal_(tensor, std=3.0 if "embedding" in name else 0.3)
        elif name.endswith("lambda1"):
            torch.nn.init.ones_(tensor)
    return model


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    names = ["<start>", "<end>", "?", *WORDS]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<start>", eos_token="<end>", pad_token="<end>"
    )


def some(count, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def normal(images, mean_std):
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in mean_std)
    return (images.float() / 255 - mean) / std


@torch.no_grad()
def test_dino_features_are_class_tokens_of_resized_pictures(networks):
    images = some(3, 20)
    network = load_network("fd_dinov2", networks["fd_dinov2"])
    model = transformers.Dinov2Model.from_pretrained(networks["fd_dinov2"])
    fit_positions(model.embeddings, 16)
    pictures = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in images]
    resized = [np.array(one.resize((224, 224), Image.Resampling.BICUBIC)) for one in pictures]
    shown = normal(torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2), IMAGENET)
    expected = model(pixel_values=shown).pooler_output
    found = network(images)
    assert network.dims == 16 and found.std(0).mean() > 1e-2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_positions_of_dino_are_scaled_as_its_authors_scale_them(networks):
    embeddings = transformers.Dinov2Model.from_pretrained(networks["fd_dinov2"]).embeddings
    before = embeddings.position_embeddings.detach().clone()
    fit_positions(embeddings, 2)
    assert torch.equal(embeddings.position_embeddings, before)  # the grid it has
    fit_positions(embeddings, 16)
    after = embeddings.position_embeddings
    assert after.shape == (1, 257, 16) and torch.equal(after[:, 0], before[:, 0])
    # One row of one channel by hand: output x looks at (x + ½) · 2 / 16.1 − ½, Keys' cubic with a = −0.75
    column = before[0, 1:].view(2, 2, 16).numpy().astype(np.float64)
    for y, x in ((0, 0), (7, 3), (15, 15)):
        expected = cubic(np.stack([cubic(column[r], x) for r in (0, 1)]), y)
        np.testing.assert_allclose(after[0, 1:].view(16, 16, 16)[y, x], expected, rtol=1e-4, atol=1e-5)


def cubic(rows, position):
    """Value at output `position` of 16 between two `rows`, which are repeated beyond the edges."""
    place = (position + 0.5) * 2 / 16.1 - 0.5
    first = int(np.floor(place))
    total = 0
    for k in range(first - 1, first + 3):
        d = abs(place - k)
        near, far = 1.25 * d**3 - 2.25 * d**2 + 1, -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
        total = total + (near if d <= 1 else far) * rows[min(max(k, 0), 1)]
    return total


@torch.no_grad()
def test_clip_features_are_unit_embeddings_of_resized_floats(networks):
    images = some(3, 24)
    model = transformers.CLIPModel.from_pretrained(networks["cmmd"])
    shown = F.interpolate(images.float(), (16, 16), mode="bicubic")  # neither clamped nor antialiased
    expected = model.visual_projection(
        model.vision_model(pixel_values=normal(shown, CLIP)).pooler_output
    ).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = load_network("cmmd", networks["cmmd"])(images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_cmmd_is_the_mean_of_kernels_and_its_interval_that_of_resampled_rows(monkeypatch):
    from visgen.evaluation import kernel_distance

    monkeypatch.setattr(kernel_distance, "CHUNK", 4)
    generator = torch.Generator().manual_seed(0)
    made = F.normalize(torch.randn(11, 6, generator=generator), dim=1)
    real = F.normalize(torch.randn(7, 6, generator=generator) + 1, dim=1)
    value, interval = cmmd(made, real, seed=5)
    assert value == pytest.approx(naive(made, real), rel=1e-9) and value > 1
    rng = np.random.default_rng(5)
    draws = np.array([naive(made[rng.integers(11, size=11)], real) for _ in range(200)])
    low, high = np.quantile(draws, [0.025, 0.975]) + value - draws.mean()
    assert interval == pytest.approx((max(0.0, low), high), rel=1e-6)
    assert cmmd(made, made, seed=0)[0] == pytest.approx(0, abs=1e-9)


def naive(made, real):
    """1000 · MMD², kernel by kernel."""

    def mean(a, b):
        return np.mean([[np.exp(-np.sum((x - y) ** 2) / 200) for y in b] for x in a])

    a, b = made.double().numpy(), real.double().numpy()
    return 1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b))


class Plain:
    """A CLIP as torchmetrics 1.9 calls it: its features are tensors, no outputs of transformers 5."""

    def __init__(self, model):
        self._model, self.config = model, model.config

    def to(self, device):
        return self

    def get_image_features(self, pixels):
        return self._model.get_image_features(pixels).pooler_output

    def get_text_features(self, ids, mask):
        return self._model.get_text_features(ids, mask).pooler_output


@torch.no_grad()
def test_clip_score_is_that_of_torchmetrics(networks):
    from torchmetrics.functional.multimodal import clip_score

    images, folder = some(9), networks["clip_score"]
    captions = ["a red circle", "blue", "a red circle above a blue square and a red square", *WORDS[:6]]
    model = Plain(transformers.CLIPModel.from_pretrained(folder))
    processor = transformers.CLIPProcessor(
        transformers.CLIPImageProcessor(size=16, crop_size=16),
        transformers.AutoTokenizer.from_pretrained(folder),
    )
    theirs = [
        float(clip_score(image, caption, lambda: (model, processor)))
        for image, caption in zip(images, captions, strict=True)
    ]
    network = load_network("clip_score", folder)
    found = network(images, captions)
    assert max(theirs) > 5 and min(theirs) == 0
    # torchmetrics cuts the end token off captions that are too long, transformers' tokenizer keeps it
    fitting = [i for i in range(9) if i != 2]
    np.testing.assert_allclose(found[fitting], np.array(theirs)[fitting], rtol=1e-3, atol=1e-3)
    assert torch.equal(network(images[4:6], captions[4:6]), found[4:6])


@pytest.fixture
def asked(networks, pictures, toy):
    return EvaluationOptions(
        reference=str(pictures), protocol="toy", metrics=("fid", *METRICS), feature_models=networks, seed=2
    )


def test_entries_of_a_model_beside_pictures(asked, models, networks, pictures):
    record = evaluate([str(models / "text")], asked)[0]
    made = ModelSubject("it", visgen_load(models / "text"), 32)
    captions = [(pictures / f"{i:03d}.txt").read_text() for i in range(12)]
    images = made.generate(range(12), lambda indices: [captions[i] for i in indices], 2)
    real = FolderReference(str(pictures)).images(range(12), 16)
    sides = [load_network("fd_dinov2", networks["fd_dinov2"])(one).double().numpy() for one in (images, real)]
    assert record["metrics"]["fd_dinov2"]["value"] == pytest.approx(frechet(*sides), rel=1e-4)
    embeddings = [load_network("cmmd", networks["cmmd"])(one) for one in (images, real)]
    assert record["metrics"]["cmmd"]["value"] == pytest.approx(naive(*embeddings), rel=1e-4)
    scores = load_network("clip_score", networks["clip_score"])(images, captions)
    assert record["metrics"]["clip_score"]["value"] == pytest.approx(float(scores.mean()), rel=1e-4)
    for metric in METRICS:
        low, high = record["metrics"][metric]["interval"]
        assert low <= record["metrics"][metric]["value"] <= high and low < high
        assert record["networks"][metric]["measure"] == RECIPES[metric].measure
        assert len(record["networks"][metric]["weights_sha256"]) == 64


def visgen_load(folder):
    import visgen

    return visgen.load(str(folder))


def frechet(a, b):
    """With scipy's root of a matrix."""
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(
        np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * root
    )


def test_a_reference_without_end_is_other_images(networks):
    options = EvaluationOptions(metrics=("cmmd",), count=4, feature_models={"cmmd": networks["cmmd"]})
    reference = FakeScenes()
    record = evaluate([reference], options)[0]
    assert record["metrics"]["cmmd"]["reference_images"] == 4 and record["extractor_sha256"] is None
    assert record["metrics"]["cmmd"]["value"] > 0  # the scenes 0 … 3 against 4 … 7


def FakeScenes():
    from visgen.data.scenes import Scenes
    from visgen.evaluation.subjects import Subject

    class It(Subject):
        name, kind, image_size, length = "scenes", "folder", 64, 8

        def generate(self, indices, captions, seed):
            return Scenes("validation", balanced=True).batch(indices).images

    return It()


def test_folders_are_judged_by_prompts(networks, tmp_path, toy):
    folder = write_pictures(tmp_path, 3, (16, 16), captions=False)
    options = EvaluationOptions(
        protocol="toy",
        metrics=("clip_score",),
        prompts=("red", "a blue square"),
        count=2,
        feature_models={"clip_score": networks["clip_score"]},
    )
    record = evaluate([str(folder)], options)[0]
    assert record["count"] == 2 and record["reference"] is None


@pytest.mark.parametrize(
    ("metric", "words"),
    [(metric, f"metric {metric} needs 'nowhere'.*hf download {RECIPES[metric].model}") for metric in METRICS],
)
def test_missing_weights_are_told_before_anything_is_drawn(metric, words, models, pictures, toy, monkeypatch):
    monkeypatch.setattr(ModelSubject, "generate", None)  # calling it would be a TypeError
    options = EvaluationOptions(
        reference=str(pictures),
        protocol="toy",
        metrics=(metric,),
        offline=True,
        feature_models={metric: "nowhere"},
    )
    with pytest.raises(InputError, match=words):
        evaluate([str(models / "text")], options)


def test_weights_that_do_not_fill_a_network_are_refused(networks, tmp_path):
    model = transformers.CLIPModel.from_pretrained(networks["cmmd"])
    state = {name: tensor for name, tensor in model.state_dict().items() if "text_projection" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(InputError, match=r"metric cmmd.* no fitting text_projection\.weight \(1 weights"):
        load_network("cmmd", str(tmp_path))


def test_what_cannot_be_is_refused(asked, models, networks, pictures):
    with pytest.raises(InputError, match="draws classes"):
        evaluate([str(models / "class")], asked)
    with pytest.raises(InputError, match="add fd_dinov2 to --metrics"):
        evaluate([str(models / "text")], EvaluationOptions(**vars(asked) | {"metrics": ("clip_score",)}))
    first = evaluate(
        [str(models / "text")],
        EvaluationOptions(
            **vars(asked) | {"metrics": METRICS[1:2], "feature_models": {"cmmd": networks["cmmd"]}}
        ),
    )
    other = [first[0] | {"networks": {"cmmd": first[0]["networks"]["cmmd"] | {"version": 2}}}]
    with pytest.raises(InputError, match="networks of cmmd differ"):
        evaluate(
            [str(models / "text")],
            EvaluationOptions(
                **vars(asked) | {"metrics": METRICS[1:2], "feature_models": {"cmmd": networks["cmmd"]}}
            ),
            beside=other,
        )


def test_feature_models_of_the_command_line():
    assert parse_feature_models(["cmmd=a/b", "clip_score=c=d"]) == {"cmmd": "a/b", "clip_score": "c=d"}
    for texts, words in (
        (["cmmd"], "METRIC=MODEL"),
        (["cmmd="], "no model"),
        (["cmmd=a", "cmmd=b"], "already"),
    ):
        with pytest.raises(InputError, match=words):
            parse_feature_models(texts)
    with pytest.raises(UnknownNameError, match="did you mean cmmd"):
        parse_feature_models(["cmd=a"])
    assert transformers_networks.CLASSES.keys() == RECIPES.keys()
