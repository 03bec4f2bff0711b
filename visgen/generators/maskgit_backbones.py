"""The two transformers of TiTok's MaskGIT generators: BERT (post-norm) and U-ViT (arXiv 2209.12152)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.nn.attention import attend


class BertBackbone(nn.Module):
    """Embeddings with learned positions and the layers of transformers' BERT, without pooler.

    Args:
        vocab_size: ids.
        length: positions.
        hidden_size, depth, num_heads, mlp_size: the transformer.
        dropout, attention_dropout: in training.
    """

    def __init__(
        self,
        vocab_size: int,
        length: int,
        hidden_size: int,
        depth: int,
        num_heads: int,
        mlp_size: int,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        from transformers.models.bert.configuration_bert import BertConfig
        from transformers.models.bert.modeling_bert import BertEncoder

        config = BertConfig(
            hidden_size=hidden_size,
            num_hidden_layers=depth,
            num_attention_heads=num_heads,
            intermediate_size=mlp_size,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=attention_dropout,
            attn_implementation="sdpa",
        )
        self.word_embeddings = nn.Embedding(vocab_size, hidden_size)
        self.position_embeddings = nn.Embedding(length, hidden_size)
        self.token_type_embeddings = nn.Embedding(2, hidden_size)  # the second one is never used
        self.norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(dropout)
        self.encoder = BertEncoder(config)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """States (B, L, C)."""
        table = self.position_embeddings.weight + self.token_type_embeddings.weight[0]
        x = self.word_embeddings(ids_BL) + table
        return self.encoder(self.dropout(self.norm(x))).last_hidden_state


class UViTBlock(nn.Module):
    """Pre-norm block; with `skip`, a linear layer first joins the states with those of an earlier block."""

    def __init__(
        self, hidden_size: int, num_heads: int, mlp_size: int, dropout: float, skip: bool = False
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        if skip:
            self.skip_linear = nn.Linear(2 * hidden_size, hidden_size)
        self.norm1 = nn.LayerNorm(hidden_size)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.norm2 = nn.LayerNorm(hidden_size)
        self.fc1 = nn.Linear(hidden_size, mlp_size)
        self.fc2 = nn.Linear(mlp_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, skipped: Tensor | None = None) -> Tensor:
        if skipped is not None:
            x = self.skip_linear(torch.cat([x, skipped], dim=-1))
        x = x + self.dropout(self.proj(self._attention(self.norm1(x))))
        return x + self.dropout(self.fc2(self.dropout(F.gelu(self.fc1(self.norm2(x))))))

    def _attention(self, x_BLC: Tensor) -> Tensor:
        b, length, width = x_BLC.shape
        q, k, v = self.qkv(x_BLC).view(b, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return attend(q, k, v).transpose(1, 2).reshape(b, length, width)


class UViTBackbone(nn.Module):
    """`depth` // 2 blocks in, one in the middle, as many out, each of which sees the states of its
    counterpart; the last block in is the first to be seen again.

    Args:
        vocab_size, length, hidden_size, depth, num_heads, mlp_size, dropout: as in `BertBackbone`.
    """

    def __init__(
        self,
        vocab_size: int,
        length: int,
        hidden_size: int,
        depth: int,
        num_heads: int,
        mlp_size: int,
        dropout: float,
    ) -> None:
        super().__init__()
        if num_heads < 1 or hidden_size % num_heads:
            raise InputError(f"num_heads={num_heads} must divide hidden_size={hidden_size}")
        sizes = (hidden_size, num_heads, mlp_size, dropout)
        self.embeddings = nn.Embedding(vocab_size, hidden_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, length, hidden_size))
        self.in_blocks = nn.ModuleList(UViTBlock(*sizes) for _ in range(depth // 2))
        self.mid_block = UViTBlock(*sizes)
        self.out_blocks = nn.ModuleList(UViTBlock(*sizes, skip=True) for _ in range(depth // 2))
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """States (B, L, C)."""
        x = self.embeddings(ids_BL) + self.pos_embed
        seen = []
        for block in self.in_blocks:
            x = block(x)
            seen.append(x)
        x = self.mid_block(x)
        for block in self.out_blocks:
            x = block(x, seen.pop())
        return self.norm(x)
