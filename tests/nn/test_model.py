"""Models that take the weights of a submodule from one that ships."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from visgen.errors import InputError
from visgen.nn.model import WEIGHTS
from visgen.shipped import shared_folder
from visgen.tokenizers.flextok import FlexTokTokenizer
from visgen.tokenizers.vq import VQTokenizer

VQ = "scenes-vq/tokenizer"


@pytest.fixture(scope="module")
def tokenizer() -> FlexTokTokenizer:
    """A small one over the convolutions of `scenes-vq`."""
    vq = VQTokenizer.from_pretrained(shared_folder(VQ))
    sizes = {"depth": 1, "head_dim": 8, "width": 16, "patch_size": 1, "position_sizes": (8, 8)}
    latents = {k: v for k, v in vq.config.items() if k[0] != "_" and k != "codebook_size"}
    model = FlexTokTokenizer(
        image_size=64,
        latents={"kind": "VQTokenizer", **latents},
        encoder_sizes=sizes,
        decoder_sizes=sizes,
        num_registers=4,
        levels=(5, 5),
    )
    model.codec.take(vq)
    return model.eval()


def test_shared_weights_come_back(tokenizer: FlexTokTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path, shared={"codec.cnn": VQ})
    stored = load_file(tmp_path / WEIGHTS)
    assert [name for name in stored if name.startswith("codec.")] == ["codec.cnn.vq.embedding.weight"]
    again = FlexTokTokenizer.from_pretrained(tmp_path)
    assert all(tensor.equal(again.state_dict()[name]) for name, tensor in tokenizer.state_dict().items())
    again.save_pretrained(tmp_path / "whole")
    assert len(load_file(tmp_path / "whole" / WEIGHTS)) == len(tokenizer.state_dict())


def test_other_weights_are_not_shared(tokenizer: FlexTokTokenizer, tmp_path: Path) -> None:
    weight = tokenizer.codec.cnn.decoder.conv_out.bias
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1)
    try:
        with pytest.raises(InputError, match=r"codec\.cnn\.decoder\.conv_out\.bias has other values"):
            tokenizer.save_pretrained(tmp_path, shared={"codec.cnn": VQ})
    finally:
        weight.data.copy_(kept)


def test_nothing_to_share(tokenizer: FlexTokTokenizer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds nothing of this model"):
        tokenizer.save_pretrained(tmp_path, shared={"encoder": VQ})


@pytest.mark.parametrize(
    "shared, message",
    [
        ({"codec.cnn": "../scenes-vq"}, "must be MODEL/COMPONENT of a model that ships"),
        ({"codec.cnn": "/etc/passwd"}, "must be MODEL/COMPONENT of a model that ships"),
        ({"codec.cnn": "scenes-none/tokenizer"}, "not among the models that ship"),
        ({"codec.cnn": 3}, "_shared must be an object"),
        ([VQ], "_shared must be an object"),
    ],
)
def test_a_file_cannot_refer_elsewhere(
    tokenizer: FlexTokTokenizer, tmp_path: Path, shared: object, message: str
) -> None:
    tokenizer.save_pretrained(tmp_path, shared={"codec.cnn": VQ})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"_shared": shared}))
    with pytest.raises(InputError, match=message):
        FlexTokTokenizer.from_pretrained(tmp_path)
