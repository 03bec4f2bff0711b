"""Renderers: pictures of embeddings, by a small flow model and by diffusers' unCLIP."""

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from transformers import CLIPTextConfig, CLIPTextModel

from visgen.errors import InputError
from visgen.nn.flow import FlowSampling
from visgen.nn.noise import Noise
from visgen.tokenizers import RENDERERS
from visgen.tokenizers.renderers.flow import FlowRenderer
from visgen.tokenizers.renderers.unclip import UnCLIPRenderer, UnCLIPSampling, noised_embeddings

CODEC = {
    "kind": "VQTokenizer",
    "code_dim": 4,
    "latent_channels": 8,
    "ch": 8,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "norm_groups": 4,
}
SMALL = {
    "image_size": 16,
    "codec": CODEC,
    "hidden_size": 24,
    "depth": 2,
    "num_heads": 2,
    "mlp_size": 32,
    "embedding_dim": 12,
    "condition_tokens": 3,
}


def spread(module, std=0.1):
    """Random weights everywhere, so that nothing that starts at zero hides a difference."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data += std * torch.randn(parameter.shape, generator=generator)
    return module.eval()


@pytest.fixture
def flow():
    torch.manual_seed(0)
    return spread(FlowRenderer(**SMALL, sampling={"num_inference_steps": 3, "guidance_scale": 2.0}))


@pytest.fixture
def embeddings():
    return torch.randn(3, 12, generator=torch.Generator().manual_seed(1))


class Words:
    """The empty prompt of a CLIP tokenizer."""

    model_max_length = 5

    def __call__(self, text, **options):
        assert text == ""
        return type("Encoding", (), {"input_ids": torch.tensor([[0, 1, 1, 1, 1]])})


def unclip(scheduler=None):
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=4,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=24,
    )
    vae = AutoencoderKL(block_out_channels=(4, 4), down_block_types=("DownEncoderBlock2D",) * 2,
                        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=2)  # fmt: skip
    text = CLIPTextConfig(vocab_size=9, hidden_size=12, intermediate_size=16, num_hidden_layers=1,
                          num_attention_heads=2, max_position_embeddings=5)  # fmt: skip
    normalizer = StableUnCLIPImageNormalizer(12)
    normalizer.mean.data += 0.5
    parts = (spread(unet, 0.05), vae, scheduler or DDIMScheduler(), normalizer)
    return UnCLIPRenderer(
        *parts, DDPMScheduler(beta_schedule="squaredcos_cap_v2"), CLIPTextModel(text), Words()
    ).eval()


UNCLIP_SAMPLING = UnCLIPSampling(num_inference_steps=2, guidance_scale=3.0)


def test_flow_images_do_not_depend_on_their_batch(flow, embeddings):
    seeds = [(0, 0), (0, 1), (7, 0)]
    images = flow.render(embeddings, noise=Noise.per_image(seeds))
    assert images.shape == (3, 3, 16, 16) and images.isfinite().all()
    alone = flow.render(embeddings[2:], noise=Noise.per_image(seeds[2:]))
    assert torch.allclose(alone, images[2:], atol=1e-5)


def test_without_noise_every_image_has_the_same_draw(flow, embeddings):
    same = flow.render(embeddings[:1].expand(2, -1))
    assert torch.allclose(same[0], same[1], atol=1e-5)
    assert torch.equal(flow.render(embeddings), flow.render(embeddings))


def test_flow_guidance_of_one_is_the_condition_alone(flow, embeddings):
    plain = flow.render(embeddings, sampling=FlowSampling(3, 1.0))
    asked = []
    flow.head.register_forward_hook(lambda _m, _a, out: asked.append(len(out)))
    assert torch.equal(flow.render(embeddings, sampling=FlowSampling(3, 1.0)), plain)
    assert asked == [3, 3, 3]
    away = flow.render(embeddings, negative=embeddings, sampling=FlowSampling(3, 4.0))
    assert asked[3:] == [6, 6, 6]
    assert torch.allclose(away, plain, atol=1e-4)  # u + s (c − u) where u = c


def test_flow_has_embeddings_effect_and_a_null_of_its_own(flow, embeddings):
    x, t = torch.randn(3, *flow.latent_shape), torch.full((3,), 0.5)
    kept = torch.zeros(3, dtype=torch.bool)
    assert not torch.allclose(flow(x, t, embeddings, kept), flow(x, t, embeddings.flip(0), kept), atol=1e-4)
    assert torch.equal(flow(x, t, embeddings, ~kept), flow(x, t, embeddings.flip(0), ~kept))


def test_flow_learns_what_an_embedding_says():
    torch.manual_seed(0)
    model = FlowRenderer(**SMALL)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    embeddings = torch.eye(2, 12) * 3
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    losses = []
    for step in range(80):
        generator = torch.Generator().manual_seed(step)
        loss = model.loss(images.repeat(4, 1, 1, 1), embeddings.repeat(4, 1), generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.4 * sum(losses[:10])
    assert all(p.grad is None for p in model.autoencoder.parameters())


def test_a_flow_folder_gives_the_same_pictures(flow, embeddings, tmp_path):
    flow.save_pretrained(tmp_path)
    again = RENDERERS.load("FlowRenderer").from_pretrained(tmp_path)
    assert torch.equal(again.render(embeddings), flow.render(embeddings))


def test_a_patch_is_several_latents(embeddings):
    model = spread(FlowRenderer(**{**SMALL, "patch_size": 2}))
    assert model.pos_embed.shape[1] == 16
    assert model.render(embeddings, sampling=FlowSampling(1)).shape == (3, 3, 16, 16)


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 15},
        {"num_heads": 5},
        {"condition_tokens": 5},
        {"codec": {"kind": "other"}},
        {"sampling": {"guidance_scale": -1.0}},
        {"depth": 0},
    ],
)
def test_flow_sizes_that_do_not_fit(wrong):
    with pytest.raises(InputError):
        FlowRenderer(**{**SMALL, **wrong})


@pytest.mark.parametrize("renderer", ["flow", "unclip"])
def test_embeddings_that_do_not_fit(renderer, flow, embeddings):
    model = flow if renderer == "flow" else unclip()
    with pytest.raises(InputError, match=r"\(B, 12\)"):
        model.render(embeddings[:, :5])
    with pytest.raises(InputError, match="negative"):
        model.render(embeddings, negative=embeddings[:1])
    with pytest.raises(InputError, match="sampling"):
        model.render(embeddings, sampling={"num_inference_steps": 3})


def test_unclip_images_do_not_depend_on_their_batch(embeddings):
    model, seeds = unclip(), [(0, 0), (0, 1), (7, 0)]
    images = model.render(embeddings, sampling=UNCLIP_SAMPLING, noise=Noise.per_image(seeds))
    assert images.shape == (3, 3, 16, 16) and images.isfinite().all()
    alone = model.render(embeddings[2:], sampling=UNCLIP_SAMPLING, noise=Noise.per_image(seeds[2:]))
    assert torch.allclose(alone, images[2:], atol=1e-4)
    assert not torch.allclose(images[0], images[1], atol=1e-3)


def test_unclip_schedulers_that_draw_do_so_per_image(embeddings):
    model = unclip(DDPMScheduler())
    images = model.render(
        embeddings, sampling=UNCLIP_SAMPLING, noise=Noise.per_image([(0, 0), (0, 1), (0, 2)])
    )
    alone = model.render(embeddings[1:2], sampling=UNCLIP_SAMPLING, noise=Noise.per_image([(0, 1)]))
    assert torch.allclose(alone, images[1:2], atol=1e-4)


def test_unclip_negative_embeddings_take_the_place_of_nothing(embeddings):
    model = unclip()
    plain = model.render(embeddings, sampling=UNCLIP_SAMPLING)
    away = model.render(embeddings, negative=embeddings.flip(0), sampling=UNCLIP_SAMPLING)
    assert not torch.allclose(plain, away, atol=1e-4)
    off = UnCLIPSampling(2, 1.0)
    unguided = model.render(embeddings, sampling=off)
    assert torch.equal(model.render(embeddings, negative=embeddings.flip(0), sampling=off), unguided)


def test_unclip_is_diffusers_pipeline(embeddings):
    """The same class labels, latents and steps as `StableUnCLIPImg2ImgPipeline`."""
    from diffusers import StableUnCLIPImg2ImgPipeline

    model = unclip()
    draws = torch.randn(3, 2, 12), torch.randn(3, 4, 8, 8), torch.rand(3)
    ours = model.render(embeddings, sampling=UNCLIP_SAMPLING, noise=Noise.replayed(draws))
    labels, _ = model.class_labels(embeddings, None, Noise.replayed(draws))
    pipe = StableUnCLIPImg2ImgPipeline(
        image_encoder=None, feature_extractor=None, **{name: getattr(model, name) for name in PIPE_PARTS}
    )
    pipe.set_progress_bar_config(disable=True)
    prompt = model._empty_prompt().expand(3, -1, -1)
    pipe._encode_image = lambda **_: torch.cat([torch.zeros_like(labels), labels])
    theirs = pipe(
        prompt_embeds=prompt,
        negative_prompt_embeds=prompt,
        image_embeds=embeddings,
        num_inference_steps=2,
        guidance_scale=3.0,
        latents=draws[1],
        output_type="pt",
    ).images
    assert torch.allclose((ours / 2 + 0.5).clamp(0, 1), theirs, atol=1e-4)


PIPE_PARTS = (
    "unet",
    "vae",
    "scheduler",
    "image_normalizer",
    "image_noising_scheduler",
    "text_encoder",
    "tokenizer",
)


def test_a_noise_level_beyond_the_schedule():
    with pytest.raises(InputError, match="0 … 9"):
        noised_embeddings(
            torch.zeros(1, 4), torch.zeros(1, 4), 10, torch.ones(10), torch.zeros(1, 4), torch.ones(1, 4)
        )
    for wrong in ({"num_inference_steps": 0}, {"guidance_scale": -1.0}, {"noise_level": -1}):
        with pytest.raises(InputError):
            UnCLIPSampling(**wrong)


def test_unclip_of_other_embeddings():
    model = unclip()
    with pytest.raises(InputError, match="twice"):
        UnCLIPRenderer(
            model.unet, model.vae, model.scheduler, StableUnCLIPImageNormalizer(10),
            model.image_noising_scheduler, model.text_encoder, model.tokenizer,
        )  # fmt: skip


def test_no_unclip_folder(tmp_path):
    with pytest.raises(InputError, match="StableUnCLIPImg2ImgPipeline"):
        UnCLIPRenderer.from_pretrained(tmp_path)
