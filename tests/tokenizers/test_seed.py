"""SEED: images to 32 words, and to an embedding."""

import numpy as np
import pytest
import torch
from PIL import Image

from visgen.errors import InputError
from visgen.tokenizers import TOKENIZERS
from visgen.tokenizers.renderers.base import Renderer
from visgen.tokenizers.seed import SEEDTokenizer, vq_loss
from visgen.tokenizers.seed_contrastive import SEEDContrastive
from visgen.tokenizers.seed_qformer import causal_mask, joint_mask
from visgen.tokenizers.tokens import ImageTokens, Sequence1D

SMALL = {
    "image_size": 16,
    "patch_size": 8,
    "vision_width": 12,
    "vision_depth": 2,
    "vision_heads": 2,
    "vision_mlp": 20,
    "hidden_size": 16,
    "qformer_depth": 2,
    "num_heads": 2,
    "mlp_size": 24,
    "num_queries": 5,
    "codebook_size": 20,
    "code_dim": 4,
    "decoder_depth": 1,
    "decoder_heads": 2,
    "head_sizes": (8, 3),
    "embedding_dim": 6,
}


@pytest.fixture(params=["mlp", "reverse"])
def tokenizer(request):
    torch.manual_seed(0)
    return SEEDTokenizer(**SMALL, head=request.param).eval()


@pytest.fixture
def images():
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


class Painter(Renderer):
    """Paints the first number of an embedding."""

    embedding_dim, pixel_size = 6, 16

    def render(self, embeddings, *, negative=None, sampling=None, noise=None):
        return embeddings[:, :1, None, None].expand(-1, 3, 16, 16)


def test_images_become_ids_of_any_batch(tokenizer, images):
    tokens = tokenizer.encode(images)
    assert tokens.layout == Sequence1D(5) == tokenizer.layout
    assert tokens.ids.shape == (3, 5) and tokens.ids.max() < 20
    assert torch.equal(tokenizer.encode(images[1:2]).ids, tokens.ids[1:2])
    embedding = tokenizer.decode_embedding(tokens)
    assert embedding.shape == (3, 6)
    assert torch.allclose(tokenizer.decode_embedding(tokens[2]), embedding[2:], atol=1e-6)


def test_each_state_depends_on_queries_before_it_alone(tokenizer, images):
    features = tokenizer.vision_features(images)
    before = tokenizer.query_states(features)
    with torch.no_grad():
        tokenizer.query_tokens[:, 3] = torch.randn(16, generator=torch.Generator().manual_seed(2))
    after = tokenizer.query_states(features)
    assert torch.allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert (before[:, 3:] - after[:, 3:]).abs().amax(-1).min() > 1e-3


def test_joint_mask_is_causal_among_queries_alone():
    queries, present = torch.zeros(1, 3, 2), torch.tensor([[True, True, False]])
    mask = joint_mask(queries, present)[0, 0]
    assert torch.equal(mask[:3, :3], causal_mask(queries)[0, 0])
    assert mask[:, 3:5].all() and not mask[:, 5].any() and mask[3:, :3].all()


def test_ids_are_nearest_codes(tokenizer, images):
    vectors = tokenizer.quantized_vectors(tokenizer.query_states(tokenizer.vision_features(images)))
    away = torch.cdist(vectors, tokenizer.codebook.expand(3, -1, -1))
    assert torch.equal(tokenizer.encode(images).ids, away.argmin(-1))


def test_gradients_pass_straight_through(tokenizer, images):
    out = tokenizer(images)
    out.embedding.square().mean().backward()
    assert tokenizer.visual_encoder.patch_embed.proj.weight.grad.abs().sum() > 0
    assert tokenizer.quantize.embedding.weight.grad is None
    vq_loss(out.vectors.detach(), out.codes).backward()
    assert tokenizer.quantize.embedding.weight.grad.abs().sum() > 0


def test_the_codebook_term_has_the_small_weight():
    z, e = torch.zeros(1, 1, 2, requires_grad=True), torch.ones(1, 1, 2, requires_grad=True)
    vq_loss(z, e).backward()
    assert torch.allclose(z.grad, torch.full((1, 1, 2), -1.0))
    assert torch.allclose(e.grad, torch.full((1, 1, 2), 0.25))


def test_a_folder_gives_the_same_model(tokenizer, images, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = TOKENIZERS.load("SEEDTokenizer").from_pretrained(tmp_path)
    assert torch.equal(again.encode(images).ids, tokenizer.encode(images).ids)


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(1, 40), (37, 5), (16, 16), (300, 200)])
def test_pictures_of_any_size_are_squeezed(size, resample):
    tokenizer = SEEDTokenizer(**SMALL, resample=resample)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for one in (Image.fromarray(pixels), pixels, [Image.fromarray(pixels), pixels[:1]]):
        batch = tokenizer.preprocess(one)
        assert batch.shape[1:] == (3, 16, 16) and len(tokenizer.encode(batch)) == len(batch)


def test_both_ends_of_a_wide_picture_are_seen():
    pixels = np.zeros((4, 400, 3), dtype=np.uint8)
    pixels[:, :200] = 255
    batch = SEEDTokenizer(**SMALL).preprocess(Image.fromarray(pixels))
    assert batch[0, 0, 8, 1] > 0.9 and batch[0, 0, 8, 14] < -0.9


def test_a_renderer_draws(tokenizer, images):
    tokens = tokenizer.encode(images)
    drawn = tokenizer.decode(tokens, renderer=Painter())
    assert torch.equal(drawn[:, 0, 0, 0], tokenizer.decode_embedding(tokens)[:, 0])


def test_refusals(tokenizer, images):
    tokens = tokenizer.encode(images)
    with pytest.raises(InputError, match="renderer="):
        tokenizer.decode(tokens)
    with pytest.raises(InputError, match="num_tokens=3"):
        tokenizer.encode(images, num_tokens=3)
    with pytest.raises(InputError, match="16×16"):
        tokenizer.encode(torch.zeros(1, 3, 24, 16))
    with pytest.raises(InputError, match="0 … 19"):
        tokenizer.decode_embedding(ImageTokens(Sequence1D(5), ids=torch.full((1, 5), 20)))
    with pytest.raises(InputError, match="layout"):
        tokenizer.decode_embedding(ImageTokens(Sequence1D(4), ids=torch.zeros(1, 4, dtype=torch.long)))


@pytest.mark.parametrize(
    "wrong", [{"patch_size": 5}, {"num_heads": 3}, {"decoder_heads": 3}, {"code_dim": 0}, {"head_sizes": ()}]
)
def test_sizes_that_do_not_fit(wrong):
    with pytest.raises(InputError):
        SEEDTokenizer(**{**SMALL, **wrong})


def test_the_contrastive_model_reads_the_last_query():
    torch.manual_seed(0)
    names = [name for name in SMALL if name.startswith(("image", "patch", "vision", "hidden", "qformer"))]
    sizes = {name: SMALL[name] for name in [*names, "num_heads", "mlp_size", "num_queries"]}
    model = SEEDContrastive(**sizes, vocab_size=9, max_length=6, projection_dim=4).eval()
    images, ids = torch.rand(2, 3, 16, 16), torch.tensor([[8, 1, 2], [8, 3, 0]])
    present = torch.tensor([[True, True, True], [True, True, False]])
    similar = model(images, ids, present)
    assert similar.image_to_text.shape == (2, 2)
    ids[1, 2] = 5  # padding
    assert torch.allclose(model(images, ids, present).image_to_text, similar.image_to_text, atol=1e-5)
    with pytest.raises(InputError, match="at most 6"):
        model.text_states(torch.zeros(1, 7, dtype=torch.long), torch.ones(1, 7))
    with pytest.raises(InputError, match="vision_depth=0"):
        SEEDContrastive(**{**sizes, "vision_depth": 0}, vocab_size=9).vision_features(images)
