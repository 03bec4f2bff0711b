"""Attention door, cache, quantizer, codebook health, strict loading."""

import json

import pytest
import torch

from visgen.errors import InputError
from visgen.nn.attention import attend, attention_backend
from visgen.nn.cache import KVCache
from visgen.nn.quantizers.codebook import perplexity, restart_dead_codes, usage
from visgen.nn.quantizers.multiscale import MultiScaleVQ
from visgen.tokenizers.var import VARTokenizer

SIZES = ((1, 1), (2, 3), (4, 4))
TINY = {
    "scales": (1, 2, 4),
    "codebook_size": 16,
    "latent_channels": 4,
    "ch": 8,
    "ch_mult": (1, 2),
    "num_res_blocks": 1,
    "norm_groups": 4,
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scale", [None, 1.0])
def test_attention_backends_agree(masked, scale):
    q, k, v = torch.randn(3, 2, 2, 7, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    mask = torch.ones(7, 7, dtype=torch.bool).tril() if masked else None
    results = []
    for backend in ("sdpa", "explicit"):
        with attention_backend(backend):
            results.append(attend(q, k, v, mask=mask, scale=scale))
    assert torch.allclose(*results, atol=1e-6)


def test_attention_backend_is_reset_after_an_error():
    with pytest.raises(InputError), attention_backend("flash"):
        pass
    with pytest.raises(RuntimeError), attention_backend("explicit"):
        raise RuntimeError
    from visgen.nn.attention import _backend

    assert _backend.get() == "auto"


def test_cache_returns_everything_written_so_far():
    cache = KVCache(2, 1, 1, 5, 3, dtype=torch.float32, device=torch.device("cpu"))
    first, second = torch.randn(1, 1, 2, 3), torch.randn(1, 1, 3, 3)
    for layer in range(2):
        cache.extend(layer, first, first)
    cache.advance(2)
    keys, _ = cache.extend(1, second, second)
    assert torch.equal(keys, torch.cat([first, second], dim=2))


def make_quantizer(**options):
    torch.manual_seed(0)
    return MultiScaleVQ(16, 4, 3, **options)


@pytest.mark.parametrize("num_phi", [0, 1, 2, 4])
@pytest.mark.parametrize("cosine", [False, True])
def test_ids_determine_the_quantised_feature(num_phi, cosine):
    quantizer = make_quantizer(num_phi=num_phi, cosine=cosine)
    ids, fhats = quantizer.encode(torch.randn(2, 4, 4, 4), SIZES)
    again = list(quantizer.accumulate(ids.split([1, 6, 16], dim=1), SIZES))
    assert torch.allclose(again[-1], fhats[-1], atol=1e-6)
    assert quantizer.generator_inputs(ids.split([1, 6, 16], dim=1), SIZES).shape == (2, 22, 4)


def test_single_scale_works():
    quantizer = make_quantizer()
    ids, _ = quantizer.encode(torch.randn(1, 4, 2, 2), ((2, 2),))
    assert ids.shape == (1, 4)
    assert quantizer.generator_inputs([ids], ((2, 2),)).shape == (1, 0, 4)


def test_quantizer_stays_float32():
    model = VARTokenizer(**TINY).to(torch.bfloat16)
    assert model.quantizer.embedding.weight.dtype == torch.float32
    assert model.encoder.conv_in.weight.dtype == torch.bfloat16
    before = VARTokenizer(**TINY)
    weight = before.quantizer.embedding.weight.detach().clone()
    assert torch.equal(before.to(torch.bfloat16).quantizer.embedding.weight, weight)  # not rounded on the way


def test_changing_the_dtype_is_quiet(caplog):
    from diffusers.utils import logging

    logging.enable_propagation()
    try:
        VARTokenizer(**TINY).to(torch.bfloat16)
    finally:
        logging.disable_propagation()
    assert caplog.text == ""


def test_codebook_health():
    counts = torch.tensor([10.0, 10.0, 0.0, 0.0])
    assert perplexity(counts) == pytest.approx(2.0)
    assert usage(counts) == 0.5
    codebook, vectors = torch.zeros(4, 2), torch.ones(5, 2)
    assert restart_dead_codes(codebook, counts, vectors, torch.Generator().manual_seed(0)) == 2
    assert codebook.sum(1).tolist() == [0, 0, 2, 2]
    assert usage(counts) == 1.0


@pytest.mark.parametrize("dtype", [None, "auto", torch.bfloat16])
def test_save_and_load(tmp_path, dtype):
    model = VARTokenizer(**TINY)
    model.save_pretrained(tmp_path, dtype=torch.float16)
    loaded = VARTokenizer.from_pretrained(tmp_path, dtype=dtype)
    expected = {None: torch.float32, "auto": torch.float16}.get(dtype, dtype)
    assert loaded.encoder.conv_in.weight.dtype == expected
    assert loaded.quantizer.embedding.weight.dtype == torch.float32
    assert isinstance(loaded.config.ch_mult, tuple)
    assert loaded.config.scales == TINY["scales"]
    assert not loaded.training


def test_loading_is_strict(tmp_path):
    from safetensors.torch import load_file, save_file

    VARTokenizer(**TINY).save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["surplus"] = state.pop("quant_conv.bias")
    state["quant_conv.weight"] = torch.zeros(1)
    save_file(state, path)
    with pytest.raises(InputError, match=r"missing.*surplus.*mis-shaped"):
        VARTokenizer.from_pretrained(tmp_path)


def test_only_safetensors_is_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "VARTokenizer"}))
    torch.save({}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        VARTokenizer.from_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"config.json"):
        VARTokenizer.from_pretrained(tmp_path / "nowhere")


def test_another_class_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "VARTransformer"}))
    with pytest.raises(InputError, match="VARTransformer"):
        VARTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("backend", ["sdpa", "explicit"])
def test_attention_dropout(backend):
    """Dropped weights are 0, the others grow: values of 1 stay 1 in the mean."""
    q, v = torch.zeros(1, 2, 400, 8), torch.ones(1, 2, 400, 8)
    with attention_backend(backend):
        assert torch.allclose(attend(q, q, v), v)
        out = attend(q, q, v, dropout=0.5)
    assert out.std() > 0.01 and abs(float(out.mean()) - 1) < 0.01
