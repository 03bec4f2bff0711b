"""TiTok and MaskGIT's VQGAN: round trips, heads, continuous tokens, captions, what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from visgen.errors import InputError
from visgen.nn.noise import Noise
from visgen.tokenizers import TOKENIZERS
from visgen.tokenizers.maskgit_vqgan import MaskGITTokenizer
from visgen.tokenizers.titok import TiTokTokenizer
from visgen.tokenizers.tokens import Grid, ImageTokens, Sequence1D

VQGAN = {
    "head": "vqgan",
    "vqgan_codebook_size": 24,
    "vqgan_dim": 16,
    "vqgan_ch": 32,
    "vqgan_ch_mult": (1, 1, 1, 1),
    "vqgan_blocks": 1,
}
CASES = {
    "rgb": {"head": "rgb", "normalize_codes": False},
    "vqgan": VQGAN,
    "continuous": {"head": "rgb", "continuous": True},
    "captions": {"head": "rgb", "text_length": 5, "text_dim": 12},
    "other patches": {"head": "rgb", "decoder_patch_size": 16},
}


def tiny(**changes):
    torch.manual_seed(0)
    options = {
        "image_size": 32,
        "patch_size": 8,
        "num_tokens": 6,
        "codebook_size": 20,
        "token_dim": 4,
        "encoder_sizes": (32, 2, 2),
        "decoder_sizes": (24, 1, 2),
    }
    return TiTokTokenizer(**options | changes).eval()


def pictures(count=2, size=32):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def captions(model, rows=2):
    shape = (rows, model.config.text_length, model.config.text_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2)) if shape[1] else None


@pytest.fixture(params=CASES.values(), ids=CASES)
def model(request):
    return tiny(**request.param)


def test_round_trip(model, tmp_path):
    images, text = pictures(), captions(model)
    tokens = model.encode(images)
    assert tokens.layout == model.layout == Sequence1D(6) and tokens.mask is None
    kind = (2, 6, 4) if model.config.continuous else (2, 6)
    assert tokens.values.shape == kind and torch.equal(tokens.values, model.encode(images).values)
    decoded = model.decode(tokens, text=text)
    assert decoded.shape == images.shape and decoded.isfinite().all()
    model.save_pretrained(tmp_path)
    loaded = TOKENIZERS.load("TiTokTokenizer").from_pretrained(tmp_path)
    assert torch.equal(loaded.decode(loaded.encode(images), text=text), decoded)


def test_an_image_does_not_depend_on_its_batch(model):
    images, text = pictures(3), captions(model, 3)
    tokens, alone = model.encode(images), model.encode(images[2:])
    assert torch.allclose(tokens.values[2:].float(), alone.values.float(), atol=1e-5)
    decoded = model.decode(tokens, text=text)[2:]
    one = model.decode(alone, text=None if text is None else text[2:])
    assert torch.allclose(decoded, one, atol=1e-5)


def test_gradients_reach_everything(model):
    out = model(pictures(), text=captions(model))
    quantized = 0.0 if out.quantization is None else out.quantization.loss
    ((out.reconstruction - pictures()).square().mean() + quantized).backward()
    # The norm's last rows, of the tokens that are not read, still get theirs from those that are
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    unread = {"encoder.conv_out.bias"} if model.config.continuous else set()  # half of it is ln σ²
    assert set(missing) <= unread


def test_pictures_of_any_size(model):
    """`preprocess` makes them fit; other sizes are refused, as positions are learned."""
    rng = np.random.default_rng(0)
    for h, w in ((32, 32), (5, 90), (301, 47), (1, 1)):
        picture = Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8))
        pixels = model.preprocess([picture])
        assert pixels.shape == (1, 3, 32, 32)
        text = captions(model, 1)
        assert model.decode(model.encode(pixels), text=text).isfinite().all()
    for bad in (pictures(1, 40), pictures(1, 32)[..., :24]):
        with pytest.raises(InputError, match="preprocess"):
            model.encode(bad)


def test_pixels_are_the_official_ones():
    """[-1, 1] outside, [0, 1] inside."""
    model = tiny(head="rgb")
    seen = []
    hook = model.encoder.register_forward_hook(lambda _, args, out: seen.append(args[0]))
    tokens = model.encode(pictures())
    hook.remove()
    assert torch.allclose(seen[0] * 2 - 1, pictures(), atol=1e-6)
    inside = model.decoder(model.embed_tokens(tokens))
    assert torch.allclose(model.decode(tokens), inside * 2 - 1)


def test_reshaped_latents():
    """Legacy models read (B, N, W) as (B, W, N) without transposing; the others transpose."""
    for head, change in (("codes", torch.Tensor.reshape), ("rgb", None)):
        model = tiny(head=head, **({"vqgan_codebook_size": 24} if head == "codes" else {}))
        seen = {}
        model.encoder.ln_post.register_forward_hook(lambda _, args, out, to=seen: to.update(states=out))
        z = model.features(pictures())
        states = seen["states"]
        turned = states.reshape(2, 32, 6) if change else states.transpose(1, 2)
        expected = model.encoder.conv_out(turned[:, :, None].reshape(2, 32, 1, 6))
        assert torch.allclose(z, expected, atol=1e-6)


def test_continuous_tokens():
    model = tiny(**CASES["continuous"])
    law = model.posterior(pictures())
    plain = model.encode(pictures())
    assert torch.equal(plain.latents, law.mean.squeeze(2).transpose(1, 2))
    noise = [Noise.per_image([(0, k) for k in range(2)]) for _ in range(2)]
    one, two = (model.encode(pictures(), noise=n).latents for n in noise)
    assert torch.equal(one, two) and not torch.equal(one, plain.latents)
    alone = model.encode(pictures()[1:], noise=Noise.per_image([(0, 1)])).latents
    assert torch.allclose(alone, one[1:], atol=1e-5)
    assert model.codebook is None and model.quantizer is None


def test_the_mean_code_is_decoded():
    """The VQGAN's head decodes Σ p(code) · code, so sure logits give that code's picture."""
    model = tiny(**VQGAN)
    tokens = model.encode(pictures())
    logits = model.code_logits(model.embed_tokens(tokens))
    assert logits.shape == (2, 24, 4, 4)
    model.decoder.ffn[2].weight.data.zero_()
    model.decoder.ffn[2].bias.data.copy_(torch.full((24,), -50.0).scatter(0, torch.tensor([7]), 50.0))
    code = model.pixel_codes.weight[7].view(1, 16, 1, 1).expand(2, 16, 4, 4)
    assert torch.allclose(model.decode(tokens), model.pixel_decoder(code) * 2 - 1, atol=1e-5)


def test_first_stage_of_training():
    model = tiny(head="codes", vqgan_codebook_size=24)
    teacher = MaskGITTokenizer(32, 24, 16, ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1).eval()
    codes = teacher.encode(pictures()).ids.view(2, 4, 4)
    losses = model.code_loss(pictures(), codes)
    assert torch.allclose(losses["loss"], losses["codes"] + losses["quantizer"])
    losses["loss"].backward()
    assert model.latent_tokens.grad.abs().sum() > 0 and model.decoder.mask_token.grad.abs().sum() > 0
    with pytest.raises(InputError, match="code_logits"):
        model.decode(model.encode(pictures()))


def test_captions_change_the_picture():
    model = tiny(**CASES["captions"])
    tokens, text = model.encode(pictures()), captions(model)
    assert not torch.allclose(model.decode(tokens, text=text), model.decode(tokens, text=-text), atol=1e-4)
    for bad in (None, text[:, :3], text[..., :4]):
        with pytest.raises(InputError, match="features of captions"):
            model.decode(tokens, text=bad)
    with pytest.raises(InputError, match="text="):
        tiny(head="rgb").decode(tokens, text=text)


def test_codes_stay_float32():
    model = tiny(head="rgb").to(torch.bfloat16)
    assert model.codebook.dtype == torch.float32 and model.dtype == torch.bfloat16
    tokens = model.encode(pictures())
    assert model.decode(tokens).isfinite().all()


def test_bad_input(model):
    with pytest.raises(InputError, match="num_tokens"):
        model.encode(pictures(), num_tokens=3)
    with pytest.raises(InputError, match="max_error"):
        model.encode(pictures(), max_error=0.1)
    tokens = model.encode(pictures())
    with pytest.raises(InputError, match="layout"):
        model.decode(ImageTokens(Grid(2, 3), tokens.ids, tokens.latents))
    with pytest.raises(InputError, match="mask"):
        mask = torch.zeros(2, 6, dtype=torch.bool)
        model.decode(ImageTokens(tokens.layout, tokens.ids, tokens.latents, mask))
    other = (
        {"ids": torch.zeros(2, 6, dtype=torch.long)}
        if tokens.ids is None
        else {"latents": torch.zeros(2, 6, 4)}
    )
    with pytest.raises(InputError, match="decodes"):
        model.decode(ImageTokens(tokens.layout, **other))
    with pytest.raises(InputError):
        beyond = (
            {"ids": torch.full((2, 6), 20)} if tokens.latents is None else {"latents": torch.zeros(2, 6, 3)}
        )
        model.decode(ImageTokens(tokens.layout, **beyond))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"patch_size": 5}, "patch_size=5"),
        ({"decoder_patch_size": 7}, "decoder_patch_size=7"),
        ({"head": "pixels"}, "head="),
        ({"num_tokens": 0}, "num_tokens=0"),
        ({"encoder_sizes": (32, 2, 3)}, "heads=3"),
    ],
)
def test_bad_sizes(changes, told):
    with pytest.raises(InputError, match=told):
        tiny(**changes)


def test_vqgan_round_trip(tmp_path):
    torch.manual_seed(0)
    model = MaskGITTokenizer(32, 24, 16, ch=32, ch_mult=(1, 2, 2), num_res_blocks=1).eval()
    for h, w in ((32, 32), (8, 20)):
        images = pictures(2, 32)[..., :h, :w]
        tokens = model.encode(images)
        assert tokens.layout == Grid(h // 4, w // 4)
        assert model.decode(tokens).shape == images.shape
    model.save_pretrained(tmp_path)
    loaded = TOKENIZERS.load("MaskGITTokenizer").from_pretrained(tmp_path)
    assert torch.equal(loaded.decode(loaded.encode(images)), model.decode(tokens))
    out = model(pictures())
    (out.reconstruction.mean() + out.quantization.loss).backward()
    assert model.encoder.conv_in.weight.grad.any() and model.vq.embedding.weight.grad.any()
    with pytest.raises(InputError, match="multiples of 4"):
        model.encode(pictures()[..., :30])
    with pytest.raises(InputError, match="0 … 23"):
        model.decode(ImageTokens(Grid(1, 1), ids=torch.tensor([[24]])))
    with pytest.raises(InputError, match="Grid"):
        model.decode(ImageTokens(Sequence1D(1), ids=torch.tensor([[2]])))
