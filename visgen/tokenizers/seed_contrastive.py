"""The model of SEED's first stage: the causal Q-Former and a text branch, trained on image-text pairs
(arXiv 2310.01218, section 3.1). A `SEEDTokenizer` is made of its vision side; nothing generates with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.tokenizers.convolutional import check_sizes
from visgen.tokenizers.seed_images import CLIP_MEAN, CLIP_STD, SEEDImageModel
from visgen.tokenizers.seed_qformer import joint_mask, text_mask


@dataclass(frozen=True, eq=False)
class Similarities:
    """Scaled similarities of a batch of pairs: `image_to_text` (B, B), a row per image, and its transpose."""

    image_to_text: Tensor
    text_to_image: Tensor

    def loss(self, label_smoothing: float = 0.1) -> Tensor:
        """Symmetric cross-entropy: the k-th text belongs to the k-th image."""
        pairs = torch.arange(len(self.image_to_text), device=self.image_to_text.device)
        sides = (self.image_to_text, self.text_to_image)
        return sum(F.cross_entropy(s, pairs, label_smoothing=label_smoothing) for s in sides) / 2  # type: ignore[return-value]


class SEEDContrastive(SEEDImageModel):
    """Images and texts in one space; the image speaks through its *last* query, which sees all others.

    Args:
        image_size, patch_size, vision_width, vision_depth, vision_heads, vision_mlp: of the frozen vision
            transformer, see `SEEDTokenizer`; vision_depth = 0 leaves it out, for features made elsewhere.
        hidden_size, qformer_depth, num_heads, mlp_size, cross_attention_every, num_queries: of the Q-Former.
        vocab_size, max_length: words, and positions of a text.
        projection_dim: channels of the common space.
        temperature: what similarities are divided by at the start; it is learned.
        dropout: of the Q-Former in training.
        pixel_mean, pixel_std: of [0, 1] pixels (CLIP's).

    Raises:
        InputError: sizes below 1, or that do not divide each other.
    """

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
        vocab_size: int = 30523,
        max_length: int = 512,
        projection_dim: int = 256,
        temperature: float = 0.07,
        dropout: float = 0.0,
        pixel_mean: tuple[float, float, float] = CLIP_MEAN,
        pixel_std: tuple[float, float, float] = CLIP_STD,
    ) -> None:
        super().__init__()
        self._init_tuples()
        check_sizes(num_queries=num_queries, vocab_size=vocab_size, projection_dim=projection_dim)
        check_sizes(vision_width=vision_width, max_length=max_length)
        self._init_images(vision=bool(vision_depth), text=True)
        self.word_embeddings = nn.Embedding(vocab_size, hidden_size)
        self.position_embeddings = nn.Embedding(max_length, hidden_size)
        for table in (self.word_embeddings, self.position_embeddings):
            nn.init.normal_(table.weight, std=0.02)
        self.vision_proj = nn.Linear(hidden_size, projection_dim)
        self.text_proj = nn.Linear(hidden_size, projection_dim)
        self.temp = nn.Parameter(torch.tensor(float(temperature)))

    def vision_features(self, images: Tensor) -> Tensor:
        """Features (B, 1 + N, C) of images (B, 3, s, s) in [-1, 1], before their norm.

        Raises:
            InputError: a model without vision transformer.
        """
        if not self.config.vision_depth:
            raise InputError("vision_depth=0: this model has no vision transformer; give it features")
        return super().vision_features(images)

    def text_states(self, ids: Tensor, present: Tensor) -> Tensor:
        """States (B, T, H) of texts alone: ids and presence (B, T)."""
        out = self.qformer(query_embeds=self._words(ids), query_length=0, attention_mask=text_mask(present))
        return out.last_hidden_state

    def joint_states(self, features: Tensor, ids: Tensor, present: Tensor) -> Tensor:
        """States (B, Q + T, H) of queries and texts in one pass: queries are causal among themselves."""
        queries = self._queries(features)
        out = self.qformer(
            query_embeds=torch.cat([queries, self._words(ids)], dim=1),
            query_length=queries.shape[1],
            attention_mask=joint_mask(queries, present),
            encoder_hidden_states=self.ln_vision(features),
        )
        return out.last_hidden_state

    def image_vectors(self, states: Tensor) -> Tensor:
        """Unit vectors (B, P) of `query_states`."""
        return F.normalize(self.vision_proj(states[:, -1]), dim=-1)

    def text_vectors(self, states: Tensor) -> Tensor:
        """Unit vectors (B, P) of `text_states`, whose first position is [CLS]."""
        return F.normalize(self.text_proj(states[:, 0]), dim=-1)

    def similarities(self, image_vectors: Tensor, text_vectors: Tensor) -> Similarities:
        """Of all pairs of a batch, divided by the temperature."""
        image_to_text = image_vectors @ text_vectors.T / self.temp
        return Similarities(image_to_text, image_to_text.T)

    def forward(self, images: Tensor, ids: Tensor, present: Tensor) -> Similarities:
        """Training pass over images (B, 3, s, s) in [-1, 1] and their texts (B, T)."""
        with torch.no_grad():
            features = self.vision_features(images)
        image_vectors = self.image_vectors(self.query_states(features))
        return self.similarities(image_vectors, self.text_vectors(self.text_states(ids, present)))

    def _words(self, ids: Tensor) -> Tensor:
        """(B, T) → (B, T, H), without the norm that the Q-Former begins with.

        Raises:
            InputError: longer texts than there are positions, or ids beyond the vocabulary.
        """
        length, (words, positions) = ids.shape[1], (self.config.vocab_size, self.config.max_length)
        if length > positions or not 0 <= int(ids.min()) <= int(ids.max()) < words:
            raise InputError(f"texts of {length} ids: at most {positions} ids in 0 … {words - 1} fit")
        places = torch.arange(length, device=ids.device)
        return self.word_embeddings(ids) + self.position_embeddings(places)
