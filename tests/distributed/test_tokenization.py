"""Token shards of folders and WebDatasets, without Ray."""

import pytest
import torch

from tests.distributed.conftest import PICTURES, contents
from visgen.distributed.models import ModelSource
from visgen.distributed.tokenization import tokenize_images
from visgen.errors import InputError
from visgen.pipelines.detokenize import open_tokens, picture_names
from visgen.pipelines.token_shards import read_header
from visgen.pipelines.tokenize import read_token_shards, tokenize_folder

pytest.importorskip("webdataset")
OPTIONS = {"batch_size": 2, "shard_size": 3}


@pytest.fixture(scope="module")
def pipe(model):
    return ModelSource.of(model, "reconstruct").open("cpu")


@pytest.fixture(scope="module")
def from_folder(pipe, folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("tokens") / "folder"
    tokenize_folder(pipe, folder, place, **OPTIONS)
    return place


@pytest.fixture(scope="module")
def from_tars(model, tars, tmp_path_factory):
    place = tmp_path_factory.mktemp("tokens") / "tars"
    assert tokenize_images(model, tars, place, **OPTIONS).made == PICTURES
    return place


def test_a_folder_gives_the_same_bytes(model, folder, from_folder, tmp_path):
    result = tokenize_images(model, folder, tmp_path / "out", **OPTIONS)
    assert (result.total, result.made, result.most) == (PICTURES, PICTURES, 21)
    assert contents(tmp_path / "out") == contents(from_folder)


def test_one_call_goes_on_where_the_other_stopped(model, pipe, folder, from_folder, tmp_path):
    def stop(done, total):
        if done >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize_images(model, folder, tmp_path / "out", **OPTIONS, on_progress=stop)
    assert tokenize_folder(pipe, folder, tmp_path / "out", **OPTIONS).made == PICTURES - 3
    assert contents(tmp_path / "out") == contents(from_folder)
    (tmp_path / "out" / "shard-00001.safetensors").unlink()
    assert tokenize_images(model, folder, tmp_path / "out", **OPTIONS).made == 3
    assert contents(tmp_path / "out") == contents(from_folder)


def test_a_webdataset_keeps_keys_captions_and_labels(from_tars, from_folder):
    header = read_header(from_tars / "shard-00001.safetensors")  # of both tars
    assert header.names == ("k3", "k4", "k5")
    assert header.captions == ("picture 3", "picture 4", "picture 5") and header.labels == (1, 0, 1)
    other = {name.split("/")[1]: tokens.ids for name, tokens in read_token_shards(from_folder)}
    for name, tokens in read_token_shards(from_tars):
        assert torch.equal(tokens.ids, other[f"{name[1:]}.png"])


def test_tokens_of_a_webdataset_become_pictures_of_its_keys(from_tars):
    names = open_tokens(from_tars).names
    assert picture_names(names) == [f"k{n}.png" for n in range(PICTURES)]


def test_another_source_is_refused(model, tars, from_tars):
    with pytest.raises(InputError, match="source is"):
        tokenize_images(model, str(tars).replace("{0..1}", "{0..0}"), from_tars, **OPTIONS)


def test_another_tokenizer_on_another_machine_is_refused(model):
    from visgen.distributed.tokenization import TokenJob, _worker_elsewhere

    job = TokenJob("out", 1, 1, {}, {"model": "m", "weights": "w", "dtype": "float32"})
    with pytest.raises(InputError, match="other weights than the job"):
        _worker_elsewhere(ModelSource.of(model, "reconstruct"), "other", job)
