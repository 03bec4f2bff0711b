"""Generation: token for token what the family's own loop writes, whatever the strategy and the batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.generators.transformers.models import (
    BOI,
    BOS,
    PAD,
    WORDS,
    chameleon,
    emu3,
    generators,
    janus,
    prompts,
)
from visgen.decoding.jacobi import CoupledJacobi
from visgen.generators.base import GenerationRequest
from visgen.generators.conditions import PromptCondition
from visgen.generators.transformers.base import TransformersGenerator
from visgen.generators.transformers.chameleon import ChameleonGenerator
from visgen.generators.transformers.emu3 import Emu3Generator
from visgen.generators.transformers.janus import JanusGenerator
from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling
from visgen.tokenizers.tokens import Grid, ImageTokens

FAMILIES = ("janus", "emu3", "anole", "lumina")
GREEDY = TokenSampling(top_k=1, guidance_scale=3.0)
SAMPLED = TokenSampling(temperature=0.9, top_k=12, top_p=0.95, guidance_scale=3.0)


@pytest.fixture(scope="module")
def models() -> dict[str, TransformersGenerator]:
    return generators()


def generate(
    generator: TransformersGenerator,
    condition: PromptCondition,
    sampling: TokenSampling,
    strategy: object = None,
    seed: int = 0,
    rows: range | None = None,
) -> tuple[Tensor, dict[str, object]]:
    """Ids (B, h·w) and statistics; row r draws from (seed, its number in `rows`)."""
    noise = Noise.per_image((seed, row) for row in rows or range(len(condition)))
    result = generator.generate(GenerationRequest(condition, sampling, noise), strategy=strategy)  # type: ignore[arg-type]
    assert result.tokens.ids is not None
    return result.tokens.ids, result.stats


def row_of(condition: PromptCondition, row: int) -> PromptCondition:
    tensors = (condition.input_ids, condition.mask, condition.negative_ids, condition.negative_mask)
    return PromptCondition(*[None if t is None else t[row : row + 1] for t in tensors])  # type: ignore[arg-type]


def test_janus_writes_what_its_own_generate_writes() -> None:
    """Left padding, and the unconditional prompt: pads that are seen around BOS and BOI."""
    model = janus(5)
    ids = torch.randint(10, WORDS, (2, 6))
    ids[0, 0], ids[1, 2], ids[:, -1] = BOS, BOS, BOI
    mask = torch.ones_like(ids)
    ids[1, :2], mask[1, :2] = PAD, 0
    own = model.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_mode="image",
        do_sample=False,
        guidance_scale=3.0,
        max_length=64,
    )
    negative = torch.where((ids == BOS) | (ids == BOI), ids, PAD)
    condition = PromptCondition(ids, mask.bool(), negative, mask.bool())
    ours, stats = generate(JanusGenerator(model), condition, GREEDY)
    assert ours.tolist() == own.tolist()
    assert stats["passes"] == [16, 16]
    assert len(set(ours[0].tolist())) > 4 and ours[0].tolist() != ours[1].tolist()


def test_emu3_writes_what_its_own_generate_writes() -> None:
    """Its own loop needs the format as a constraint; what it says after the last row is not generated."""
    model, grid = emu3(3), Grid(3, 4)
    condition = prompts((5,), seed=2)
    visual = [WORDS + code for code in range(24)]

    def allowed(batch: int, ids: Tensor) -> list[int]:
        return [6] if (len(ids) - 5) % 5 == 4 else visual

    own = model.generate(
        input_ids=condition.input_ids,
        attention_mask=condition.mask.long(),
        negative_prompt_ids=condition.negative_ids[:, -2:],  # type: ignore[index]
        negative_prompt_attention_mask=torch.ones(1, 2, dtype=torch.long),
        guidance_scale=3.0,
        do_sample=False,
        max_new_tokens=15,
        prefix_allowed_tokens_fn=allowed,
    )[:, 5:]
    generator = Emu3Generator(model, grid)
    ours, _ = generate(generator, condition, GREEDY)
    sequence = generator.as_positions(ImageTokens(grid, ids=ours))[..., 0]
    assert torch.where(sequence == 24, 6, sequence + WORDS).tolist() == own.tolist()
    assert len(set(ours[0].tolist())) > 4


def test_chameleon_writes_what_full_forwards_write() -> None:
    """Its own `generate` forbids image tokens, so the loop here is by hand, without cache."""
    model = chameleon(4, swin_norm=True)
    generator, condition = ChameleonGenerator(model), prompts((5,), seed=1)
    img2bpe = model.model.vocabulary_mapping.img2bpe
    words = torch.tensor([img2bpe[code] for code in range(24)])
    c, u = condition.input_ids, condition.negative_ids[:, -2:]  # type: ignore[index]
    own = []
    with torch.no_grad():
        for _ in range(16):
            cond, uncond = (model.lm_head(model.model(input_ids=ids)[0])[0, -1, words] for ids in (c, u))
            own.append(int((uncond + 3 * (cond - uncond)).argmax()))
            c, u = (torch.cat([ids, words[own[-1]].view(1, 1)], dim=1) for ids in (c, u))
    ours, _ = generate(generator, condition, GREEDY)
    assert ours[0].tolist() == own
    assert len(set(own)) > 4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_an_image_does_not_depend_on_its_batch(
    models: dict[str, TransformersGenerator], family: str, sampling: TokenSampling
) -> None:
    generator, condition = models[family], prompts((7, 3, 4), seed=4)
    together, _ = generate(generator, condition, sampling)
    for row in range(3):
        alone, _ = generate(generator, row_of(condition, row), sampling, rows=range(row, row + 1))
        assert alone[0].tolist() == together[row].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_jacobi_is_greedy(models: dict[str, TransformersGenerator], family: str) -> None:
    generator, condition = models[family], prompts((5, 3), seed=6)
    wanted, _ = generate(generator, condition, GREEDY)
    assert min(len(set(row.tolist())) for row in wanted) > 2  # or windows would be right by luck
    for strategy in ("sjd:6", "jacobi:6", CoupledJacobi(window=8, branching=2)):
        ids, stats = generate(generator, condition, GREEDY, strategy)
        assert ids.tolist() == wanted.tolist(), strategy
        assert stats["lossless"] is True
        assert max(stats["passes"]) <= generator.length  # type: ignore[call-overload]


@pytest.mark.parametrize("family", FAMILIES)
def test_sampled_jacobi_with_shared_noise_is_sequential(
    models: dict[str, TransformersGenerator], family: str
) -> None:
    """The coupled strategy draws each position's race once, as sequential sampling does."""
    generator, condition = models[family], prompts((5, 3), seed=6)
    wanted, _ = generate(generator, condition, SAMPLED)
    ids, stats = generate(generator, condition, SAMPLED, CoupledJacobi(window=6, coupling="shared"))
    assert ids.tolist() == wanted.tolist()
    assert stats["lossless"] is True


@pytest.mark.parametrize("family", FAMILIES)
def test_relaxed_decoding_leaves_the_format_alone(
    models: dict[str, TransformersGenerator], family: str
) -> None:
    """Neighbours lend to codes; line ends are nobody's neighbours. Nothing lent = greedy as ever."""
    generator, condition = models[family], prompts((5, 3), seed=6)
    quantizer = generator.model.model.vqmodel.quantize
    wanted, _ = generate(generator, condition, GREEDY)
    for strategy, lossless in (("lantern:0.0", True), ("lantern:0.3", False)):
        noise = Noise.per_image([(0, 0), (0, 1)])
        request = GenerationRequest(condition, GREEDY if lossless else SAMPLED, noise)
        result = generator.generate(request, quantizer=quantizer, strategy=strategy)
        assert result.tokens.ids is not None and int(result.tokens.ids.max()) < generator.codebook_size
        assert not lossless or result.tokens.ids.tolist() == wanted.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_sampled_drafts_are_codes_and_line_ends(
    models: dict[str, TransformersGenerator], family: str
) -> None:
    generator, condition = models[family], prompts((5, 3), seed=6)
    ids, stats = generate(generator, condition, SAMPLED, "sjd:8")
    assert int(ids.max()) < generator.codebook_size
    assert ids.shape == (2, generator.grid.length)
    assert stats["tokens"] == generator.length
