"""The Inception of FID: torch-fidelity's numbers from weights that are read safely, under two resizes."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from visgen.errors import InputError
from visgen.evaluation import inception
from visgen.evaluation.extractors import ExtractorOptions, load_extractor
from visgen.evaluation.inception import InceptionV3
from visgen.evaluation.inception_weights import NAME, find_inception_weights
from visgen.evaluation.protocols import PROTOCOLS
from visgen.evaluation.resizing import INCEPTION_SIZE, pillow_bicubic, tensorflow1_bilinear


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """Batches of 3: the network costs 0.3 s per row."""
    monkeypatch.setattr(inception, "ROWS", 3)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights whose activations neither die nor explode."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    network = InceptionV3()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def images():
    return random_images(3, 40)


def random_images(count, size):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def extractor(name, weights):
    return load_extractor(PROTOCOLS[name], ExtractorOptions(weights=weights))


def test_adm_features_are_those_of_torch_fidelity(weights, images):
    theirs = FeatureExtractorInceptionV3("their", ["2048", "logits_unbiased"], str(weights))
    expected, logits = theirs(images)
    found = extractor("adm", weights)(images)
    assert found.features.shape == (3, 2048) and found.features.std() > 1e-3
    assert torch.allclose(found.features, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    assert torch.allclose(found.logits, logits, rtol=1e-3, atol=1e-4 * logits.abs().max().item())


def test_features_of_an_image_do_not_depend_on_its_batch_but_on_the_protocol(weights, images):
    adm, clean = extractor("adm", weights), extractor("clean", weights)
    together = adm(images).features
    assert torch.equal(adm(images[1:2]).features, together[1:2])
    assert adm.weights_sha256 == clean.weights_sha256
    assert (clean(images[:1]).features - together[:1]).abs().max() > 1e-3 * together.abs().max()


def test_the_resizes_leave_images_of_the_right_size_alone():
    images = random_images(1, INCEPTION_SIZE)
    for resize in (tensorflow1_bilinear, pillow_bicubic):
        assert torch.allclose(resize(images), images.float(), atol=1e-3)


def test_tensorflow1_has_no_half_pixel_shift():
    ramp = torch.arange(64, dtype=torch.uint8).repeat(1, 3, 64, 1)
    row = tensorflow1_bilinear(ramp)[0, 0, 0]
    places = (torch.arange(INCEPTION_SIZE) * 64 / INCEPTION_SIZE).clamp(max=63)  # x · in / out, not centred
    assert torch.allclose(row, places, atol=1e-3)
    centred = pillow_bicubic(ramp)[0, 0, 0]
    inner = slice(20, 280)
    shifted = (torch.arange(INCEPTION_SIZE) + 0.5) * 64 / INCEPTION_SIZE - 0.5
    assert torch.allclose(centred[inner], shifted[inner], atol=1e-2)


def test_pillow_resize_is_in_float_and_antialiased():
    images = random_images(1, 900)
    found = pillow_bicubic(images)[0].permute(1, 2, 0)
    picture = Image.fromarray(images[0].permute(1, 2, 0).numpy())
    rounded = np.array(picture.resize((INCEPTION_SIZE, INCEPTION_SIZE), Image.Resampling.BICUBIC))
    assert (found - torch.from_numpy(rounded)).abs().mean() < 0.4  # Pillow's uint8 path rounds twice
    assert (found != found.round()).float().mean() > 0.9
    assert found.std() < 0.6 * images.float().std()  # a third of the pixels averaged away
    assert tensorflow1_bilinear(images).std() > 0.6 * images.float().std()


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def test_weights_are_read_safely_and_strictly(weights, tmp_path):
    (tmp_path / "bomb.pth").write_bytes(pickle.dumps({"a": Bomb()}))
    state = torch.load(weights, weights_only=True)
    missing = {key: value for key, value in state.items() if key != "fc.weight"}
    torch.save(missing, tmp_path / "missing.pth")
    named = {"bomb.pth": "bomb", "missing.pth": "fc.weight", "absent.pth": "--inception-weights"}
    for name, words in named.items():
        with pytest.raises(InputError, match=words):
            extractor("adm", tmp_path / name)
    old = {key: value for key, value in state.items() if "num_batches_tracked" not in key}
    torch.save(old, tmp_path / "old.pth")
    assert extractor("adm", tmp_path / "old.pth").weights_sha256 == extractor("adm", weights).weights_sha256


def test_where_weights_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match="--inception-weights"):
        find_inception_weights(None, offline=True)

    def fail(url, target, **options):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(InputError, match="no network"):
        find_inception_weights(None)
    (tmp_path / "checkpoints" / NAME).write_bytes(b"")
    assert find_inception_weights(None, offline=True) == tmp_path / "checkpoints" / NAME
