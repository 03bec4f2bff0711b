"""From a trained raster model to one of windows of tokens (Token-Shuffle, arXiv 2504.17789)."""

from __future__ import annotations

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.generators.raster import RasterTransformer
from visgen.generators.token_io import PlainTokens, ShuffledTokens


@torch.no_grad()
def shuffled(model: RasterTransformer, window: int, num_blocks: int = 2) -> RasterTransformer:
    """A model of windows of `window`² tokens, started from a model of single tokens.

    Condition, blocks, token table, norm and head are those of `model`. Compression is the projection on the
    first principal directions of the token table, expansion that of the head; residual MLPs start as the
    identity.

    Raises:
        InputError: `model` has windows or sub-codes already, or a grid that the window does not divide.
    """
    if not isinstance(model.tokens, PlainTokens):
        raise InputError("model must read one token per position to be turned into one of windows")
    config = {name: value for name, value in model.config.items() if not name.startswith("_")}
    new = RasterTransformer(**config | {"window": window, "shuffle_blocks": num_blocks})
    assert isinstance(new.tokens, ShuffledTokens)
    kept = {k: v for k, v in model.state_dict().items() if k in new.state_dict()}
    new.load_state_dict(kept, strict=False)
    part = new.tokens.compress.out_features
    new.tokens.compress.weight.copy_(_principal(model.tokens.embedding.weight, part) / window)
    new.tokens.expand.weight.copy_(_principal(model.tokens.head.weight, part).T)
    return new.train(model.training)


def _principal(table_VC: Tensor, count: int) -> Tensor:
    """The first `count` principal directions of the rows of a table, (count, C), orthonormal."""
    _, vectors = torch.linalg.eigh(table_VC.float().T @ table_VC.float())
    return vectors[:, -count:].flip(1).T
