"""TokenFLEX's projector: any square number of tokens from any grid."""

import pytest
import torch

from visgen.errors import InputError
from visgen.nn.noise import Noise
from visgen.pruning.tokenflex import TokenFlexProjector, pooled


def projector():
    torch.manual_seed(0)
    return TokenFlexProjector(vision_size=8, text_size=12, token_counts=(4, 9, 16))


@pytest.mark.parametrize("count", [1, 4, 9, 16, 25, 100])
def test_every_square_works_and_gradients_flow(count):
    model, features = projector(), torch.randn(2, 36, 8, requires_grad=True)
    out = model(features, count)
    assert out.shape == (2, count, 12)
    out.sum().backward()
    assert features.grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.parameters())


def test_the_default_is_the_largest_number():
    assert projector()(torch.randn(1, 36, 8)).shape[1] == 16


def test_pooling_to_the_grid_is_the_identity_and_of_a_constant_map_constant():
    features = torch.randn(2, 16, 8)
    assert torch.equal(pooled(features, 4), features)
    assert torch.allclose(pooled(torch.full((1, 35, 3), 2.5), 4, grid=(5, 7)), torch.full((1, 16, 3), 2.5))
    assert torch.allclose(pooled(features, 1)[:, 0], features.mean(dim=1), atol=1e-6)


def test_counts_are_drawn_by_the_noise_alone():
    model = projector()
    draws = [[model.draw_count(Noise.per_image([(seed, 0)])) for seed in range(40)] for _ in range(2)]
    assert draws[0] == draws[1] and set(draws[0]) == {4, 9, 16}
    assert {model.draw_count(Noise.per_image([(s, 0)]), [0, 1, 0]) for s in range(5)} == {9}


def test_a_saved_projector_is_the_same(tmp_path):
    model = projector().eval()
    model.save_pretrained(tmp_path)
    features = torch.randn(1, 36, 8)
    loaded = TokenFlexProjector.from_pretrained(tmp_path)
    assert torch.equal(loaded(features, 9), model(features, 9))
    assert loaded.config.token_counts == (4, 9, 16)


@pytest.mark.parametrize("count", [0, 5, -4])
def test_other_numbers_are_refused(count):
    with pytest.raises(InputError, match="num_tokens"):
        pooled(torch.randn(1, 36, 8), 6) if count == 0 else projector()(torch.randn(1, 36, 8), count)
        TokenFlexProjector(8, 8, token_counts=(count,))


def test_grids_and_weights_must_fit():
    with pytest.raises(InputError, match="35 patches"):
        projector()(torch.randn(1, 35, 8), 4)
    for weights in ([1.0], [0, 0, 0], [1, -1, 1]):
        with pytest.raises(InputError, match="weights"):
            projector().draw_count(Noise.per_image([(0, 0)]), weights)
