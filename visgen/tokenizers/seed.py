"""SEED (arXiv 2307.08041, 2310.01218): an image as 32 words of a visual language.

A causal Q-Former reads the features of a vision transformer into 32 states, each of which sees only those
before it; their nearest codes are the ids. The de-tokenizer makes one image embedding of ids, and a renderer
(`visgen.tokenizers.renderers`) draws the embedding: what the image means is kept, not its pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.nn.noise import Noise
from visgen.nn.quantizers.vq import VectorQuantizer
from visgen.tokenizers.base import ImageTokenizer
from visgen.tokenizers.convolutional import check_ids, check_sizes
from visgen.tokenizers.renderers.base import Renderer
from visgen.tokenizers.seed_images import CLIP_MEAN, CLIP_STD, SEEDImageModel
from visgen.tokenizers.seed_qformer import run_qformer
from visgen.tokenizers.seed_vision import PlainBlock
from visgen.tokenizers.squeezing import Resample, squeeze
from visgen.tokenizers.tokens import ImageTokens, Sequence1D


@dataclass(frozen=True, eq=False)
class SEEDPass:
    """What the training pass yields.

    Attributes:
        features: (B, 1 + N, W) of the vision transformer.
        hidden: (B, Q, H) states of the causal Q-Former.
        vectors: (B, Q, C) what is quantised, float32.
        ids: int64 (B, Q).
        codes: (B, Q, C) their codes, with gradients to the codebook.
        embedding: (B, D) image embedding, gradients passed straight through the quantizer.
        rebuilt: (B, Q, H) the states as the auxiliary blocks rebuild them of codes, or None.
    """

    features: Tensor
    hidden: Tensor
    vectors: Tensor
    ids: Tensor
    codes: Tensor
    embedding: Tensor
    rebuilt: Tensor | None


class SEEDTokenizer(SEEDImageModel, ImageTokenizer):
    """Images ⇄ ids, and ids → image embedding. The defaults are the published SEED-2.

    Args:
        image_size, patch_size: pixels of images and patches, along each side.
        vision_width, vision_depth, vision_heads, vision_mlp: sizes of the vision transformer.
        hidden_size, qformer_depth, num_heads, mlp_size, cross_attention_every: those of the Q-Formers.
        num_queries: ids per image.
        codebook_size, code_dim: V codes of C channels; normalize_codes: of unit length.
        decoder_depth, decoder_heads: blocks of the de-tokenizer, MLP of 4 widths.
        head: "mlp" narrows the states by `head_sizes` and joins them; "reverse" reads them with one query.
        embedding_dim: D, channels of the image embedding.
        auxiliary: with the blocks that rebuild the Q-Former's states in training.
        dropout: of the Q-Formers' hidden states in training.
        pixel_mean, pixel_std: of [0, 1] pixels (CLIP's).
        resample: how `preprocess` resizes; ids differ a little between the two.

    Raises:
        InputError: sizes below 1, or that do not divide each other.
    """

    starts_from_noise: ClassVar[bool] = True

    @register_to_config
    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 14,
        vision_width: int = 1408,
        vision_depth: int = 39,
        vision_heads: int = 16,
        vision_mlp: int = 6144,
        hidden_size: int = 768,
        qformer_depth: int = 12,
        num_heads: int = 12,
        mlp_size: int = 3072,
        cross_attention_every: int = 2,
        num_queries: int = 32,
        codebook_size: int = 8192,
        code_dim: int = 32,
        normalize_codes: bool = False,
        decoder_depth: int = 4,
        decoder_heads: int = 12,
        head: Literal["mlp", "reverse"] = "mlp",
        head_sizes: tuple[int, ...] = (256, 128, 32),
        embedding_dim: int = 1024,
        auxiliary: bool = True,
        dropout: float = 0.0,
        pixel_mean: tuple[float, float, float] = CLIP_MEAN,
        pixel_std: tuple[float, float, float] = CLIP_STD,
        resample: Resample = "bicubic",
    ) -> None:
        super().__init__()
        self._init_tuples()
        check_sizes(num_queries=num_queries, codebook_size=codebook_size, code_dim=code_dim)
        check_sizes(embedding_dim=embedding_dim, head_sizes=head_sizes, vision_width=vision_width)
        self._init_images()
        self.encode_task_layer = _two_layers(hidden_size, hidden_size, code_dim)
        self.quantize = VectorQuantizer(codebook_size, code_dim, normalize_codes)
        self.decode_task_layer = _two_layers(code_dim, code_dim, hidden_size)
        blocks = (decoder_depth, hidden_size, decoder_heads)
        self.pos_embed_image = nn.Parameter(torch.randn(1, num_queries, hidden_size) * 0.02)
        self.blocks_image = _blocks(*blocks)
        if auxiliary:
            self.pos_embed = nn.Parameter(torch.randn(1, num_queries, hidden_size) * 0.02)
            self.blocks = _blocks(*blocks)
        if head == "mlp":
            self.image_down = _narrowing(hidden_size, head_sizes)
        else:
            self.reverse_tokens = nn.Parameter(torch.randn(1, 1, hidden_size) * 0.02)
            self.reverse_qformer = self._build_qformer(hidden_size)
        joined = num_queries * head_sizes[-1] if head == "mlp" else hidden_size
        self.distill_image_proj = nn.Linear(joined, embedding_dim)

    @property
    def pixel_size(self) -> int:
        return self.config.image_size

    @property
    def layout(self) -> Sequence1D:
        return Sequence1D(self.config.num_queries)

    @property
    def codebook(self) -> Tensor:
        return self.quantize.codes

    @property
    def quantizer(self) -> VectorQuantizer:
        return self.quantize

    def preprocess(self, images: Any) -> Tensor:
        """Images (B, 3, s, s) in [-1, 1], squeezed to the square whatever their shape, as SEED was trained.

        PIL images, arrays (uint8, or float in [0, 1]) and tensors ([-1, 1]), alone or in a list of any sizes.
        """
        pixels = squeeze(images, self.pixel_size, self.config.resample)
        return pixels.to(self.device, self.dtype)

    @property
    def code_scale(self) -> float:
        """What codes are multiplied by before the de-tokenizer: those of unit length get unit variance."""
        return self.config.code_dim**0.5 if self.config.normalize_codes else 1.0

    def quantized_vectors(self, hidden: Tensor) -> Tensor:
        """What is quantised (B, Q, C), float32."""
        return self.quantize.prepare(self.encode_task_layer(hidden).transpose(1, 2)).transpose(1, 2)

    def nearest(self, vectors: Tensor) -> Tensor:
        """Ids (B, Q) of vectors."""
        return self.quantize.nearest(vectors.flatten(0, 1)).view(vectors.shape[:2])

    def embedding_of_codes(self, codes: Tensor) -> Tensor:
        """Image embedding (B, D) of codes (B, Q, C)."""
        return self.embedding_of_states(self.decoded_states(codes))

    def decoded_states(self, codes: Tensor) -> Tensor:
        """States (B, Q, H) of codes behind the de-tokenizer's blocks."""
        x = self._widened(codes) + self.pos_embed_image
        for block in self.blocks_image:
            x = block(x)
        return x

    def _widened(self, codes: Tensor) -> Tensor:
        """States (B, Q, H) of codes."""
        return self.decode_task_layer((codes * self.code_scale).to(self.dtype))

    def embedding_of_states(self, states: Tensor) -> Tensor:
        """Image embedding (B, D) of `decoded_states`."""
        if self.config.head == "mlp":
            return self.distill_image_proj(self.image_down(states).flatten(1))
        return self.distill_image_proj(self.reverse_states(states)[:, 0])

    def reverse_states(self, states: Tensor) -> Tensor:
        """What the reverse Q-Former's one query reads (B, 1, H)."""
        queries = self.reverse_tokens.expand(len(states), -1, -1)
        return run_qformer(self.reverse_qformer, queries, states, causal=False)

    def rebuilt_states(self, codes: Tensor) -> Tensor:
        """The Q-Former's states (B, Q, H) as the auxiliary blocks rebuild them of codes."""
        x = self._widened(codes) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, images: Tensor, *, quantize: bool = True) -> SEEDPass:
        """Training pass over images (B, 3, s, s) in [-1, 1]; without `quantize` vectors pass as they are."""
        features = self.vision_features(images)
        hidden = self.query_states(features)
        with torch.autocast(images.device.type, enabled=False):
            vectors = self.quantized_vectors(hidden.float())
            ids = self.nearest(vectors.detach())
            codes = self.quantize.embed(ids)
        passed = vectors + (codes - vectors).detach() if quantize else vectors
        rebuilt = self.rebuilt_states(passed) if self.config.auxiliary else None
        return SEEDPass(features, hidden, vectors, ids, codes, self.embedding_of_codes(passed), rebuilt)

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        *,
        num_tokens: int | None = None,
        max_error: float | None = None,
        noise: Noise | None = None,
    ) -> ImageTokens:
        """Ids (B, Q) of images (B, 3, s, s), the first ones first in importance: each sees those before it.

        Raises:
            InputError: a knob that this tokenizer lacks (num_tokens, max_error), or another size.
        """
        self.check_knobs(num_tokens, max_error)
        side = self.pixel_size
        if images.shape[-2:] != (side, side):
            size = "×".join(str(n) for n in images.shape[-2:])
            raise InputError(f"images of {size} pixels must be {side}×{side}; preprocess() makes them so")
        vectors = self.quantized_vectors(self.query_states(self.vision_features(images.to(self.device))))
        return ImageTokens(self.layout, ids=self.nearest(vectors))

    @torch.no_grad()
    def decode_embedding(self, tokens: ImageTokens) -> Tensor:
        """Image embedding (B, D) of tokens, in the target's own scale (CLIP ViT-H's, not of unit length).

        Raises:
            InputError: latents, another length, a mask, or ids beyond the codebook.
        """
        if tokens.ids is None or tokens.ids.ndim != 2 or tokens.layout != self.layout:
            raise InputError(f"SEEDTokenizer decodes ids (B, {self.layout.length}) in a {self.layout} layout")
        self.check_complete(tokens)
        check_ids(tokens.ids, self.config.codebook_size)
        return self.embedding_of_codes(self.quantize.embed(tokens.ids.to(self.device)))

    @torch.no_grad()
    def decode(
        self,
        tokens: ImageTokens,
        *,
        renderer: Renderer | None = None,
        sampling: Any = None,
        noise: Noise | None = None,
    ) -> Tensor:
        """Images (B, 3, H, W), unclamped, as a renderer draws the tokens' embedding.

        Args:
            tokens: ids (B, Q).
            renderer: a `FlowRenderer` or `UnCLIPRenderer` for embeddings of D channels.
            sampling: what the renderer takes; None = its own default.
            noise: where it starts; None = the same draw for every image.

        Raises:
            InputError: no renderer, one for other embeddings, or tokens that do not fit.
        """
        if renderer is None:
            raise InputError("SEED tokens are rendered, not decoded: give renderer=, such as a FlowRenderer")
        return renderer.render(self.decode_embedding(tokens), sampling=sampling, noise=noise)


def vq_loss(vectors: Tensor, codes: Tensor, beta: float = 0.25) -> Tensor:
    """SEED's quantizer loss: mse(sg e, z) + β mse(e, sg z); β weighs the *codebook's* term (old VQGANs)."""
    return F.mse_loss(vectors, codes.detach()) + beta * F.mse_loss(codes, vectors.detach())


def _two_layers(width: int, middle: int, out: int) -> nn.Sequential:
    """Linear, tanh, linear; no bias at the start, which would make all vectors alike."""
    layers = nn.Sequential(nn.Linear(width, middle), nn.Tanh(), nn.Linear(middle, out))
    for layer in (layers[0], layers[2]):
        nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layers


def _narrowing(width: int, sizes: tuple[int, ...]) -> nn.Sequential:
    """Linear layers without biases and a ReLU between two of them."""
    layers: list[nn.Module] = []
    for before, after in zip((width, *sizes[:-1]), sizes, strict=True):
        layers += [nn.Linear(before, after, bias=False), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight, nonlinearity="relu")  # type: ignore[arg-type]
    return nn.Sequential(*layers[:-1])


def _blocks(depth: int, width: int, heads: int) -> nn.ModuleList:
    return nn.ModuleList(PlainBlock(width, heads, 4 * width) for _ in range(depth))
