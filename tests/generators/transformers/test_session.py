"""Sessions over unmodified trunks: every pass says what a full forward without cache says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.generators.transformers.models import chameleon, emu3, generators, janus, prompts
from visgen.errors import InputError
from visgen.generators.conditions import ClassCondition, PromptCondition
from visgen.generators.transformers.base import TransformersGenerator
from visgen.generators.transformers.cache import TrunkCache
from visgen.generators.transformers.emu3 import Emu3Generator
from visgen.generators.transformers.janus import JanusGenerator
from visgen.generators.transformers.trunk import Trunk
from visgen.nn.sampling import TokenSampling

FAMILIES = ("janus", "emu3", "anole", "lumina")
GUIDED = TokenSampling(guidance_scale=3.0)


@pytest.fixture(scope="module")
def models() -> dict[str, TransformersGenerator]:
    return generators()


@torch.no_grad()
def full_logits(generator: TransformersGenerator, words: Tensor, codes: Tensor) -> Tensor:
    """Logits (V,) after words (T,) and session ids (N,), by the model's own forward, no cache, no padding."""
    trunk, model = generator.trunk(), generator.model
    embeddings = torch.cat([trunk.embed_words(words), trunk.embed_tokens(codes)])[None]
    if isinstance(generator, JanusGenerator):
        hidden = model.model.language_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        return model.model.generation_head(hidden[0, -1])
    body = model.model.text_model if isinstance(generator, Emu3Generator) else model.model
    hidden = body(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    mapping = model.model.vocabulary_mapping.img2bpe
    return model.lm_head(hidden[0, -1])[[mapping[code] for code in range(generator.codebook_size)]]


def expected(
    generator: TransformersGenerator, condition: PromptCondition, row: int, codes: Tensor, scale: float = 1.0
) -> Tensor:
    """Guided logits of the codes, the unconditional half from a forward of its own."""
    c = full_logits(generator, condition.input_ids[row][condition.mask[row]], codes)
    if scale == 1:
        return c
    assert condition.negative_ids is not None and condition.negative_mask is not None
    u = full_logits(generator, condition.negative_ids[row][condition.negative_mask[row]], codes)
    return u + scale * (c - u)


def check(generator: TransformersGenerator, logits_NKV: Tensor, entry: int, wanted: Tensor) -> None:
    found = logits_NKV[entry, 0]
    v = generator.codebook_size
    # float32 over other shapes; guidance of 3 multiplies the differences by five
    torch.testing.assert_close(found[:v], wanted, atol=1e-4, rtol=1e-4)
    assert bool((found[v:] == -torch.inf).all())  # format tokens are never drawn


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_chains_roll_back_and_rows_at_their_own_pace(
    models: dict[str, TransformersGenerator], family: str, scale: float
) -> None:
    generator, condition = models[family], prompts((5, 3))
    session = generator.session(condition, TokenSampling(guidance_scale=scale), entries=4)
    step = session.prefill()
    assert step.logits.shape == (2, 1, 1, session.vocab_size)
    kept: list[Tensor] = [torch.empty(0, dtype=torch.long)] * 2
    for row in range(2):
        check(generator, step.logits[row], 0, expected(generator, condition, row, kept[row], scale))
    for counts in ([4, 1], [0, 2], [2, 3]):
        tokens = torch.randint(generator.codebook_size, (2, 4, 1))
        step = session.extend(tokens)
        for row in range(2):
            for entry in range(4):
                codes = torch.cat([kept[row], tokens[row, : entry + 1, 0]])
                check(generator, step.logits[row], entry, expected(generator, condition, row, codes, scale))
        session.commit(torch.arange(4).expand(2, 4), torch.tensor(counts))
        kept = [torch.cat([kept[row], tokens[row, : counts[row], 0]]) for row in range(2)]
    assert session.committed.tolist() == [len(row) for row in kept] == [6, 6]
    assert session.passes == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_one_row_without_padding_needs_no_mask(
    models: dict[str, TransformersGenerator], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, condition = models[family], prompts((4,), seed=5)
    masks: list[Tensor | None] = []
    run = Trunk.run

    def watched(self: Trunk, x: Tensor, mask: Tensor | None, positions: Tensor, cache: TrunkCache) -> Tensor:
        masks.append(mask)
        return run(self, x, mask, positions, cache)

    monkeypatch.setattr(Trunk, "run", watched)
    session = generator.session(condition, TokenSampling(), entries=1)
    session.prefill()
    codes = torch.randint(generator.codebook_size, (3,))
    for place in range(3):
        step = session.extend(codes[None, place : place + 1, None])
        session.commit(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, dtype=torch.long))
        check(generator, step.logits[0], 0, expected(generator, condition, 0, codes[: place + 1]))
    assert masks[1:] == [None] * 3


@pytest.mark.parametrize("family", FAMILIES)
def test_trees_and_commits_of_their_paths(models: dict[str, TransformersGenerator], family: str) -> None:
    generator, condition = models[family], prompts((2, 4), seed=3)
    session = generator.session(condition, GUIDED, entries=6)
    session.prefill()
    parents = torch.tensor([[-1, 0, 0, 1, 2, 4], [-1, 0, 1, 0, 3, 3]])
    kept: list[Tensor] = [torch.empty(0, dtype=torch.long)] * 2
    for paths, counts in (([[0, 2, 4, 5], [0, 3, 5, 0]], [4, 3]), ([[0, 1, 3], [0, 1, 2]], [1, 3])):
        tokens = torch.randint(generator.codebook_size, (2, 6, 1))
        step = session.extend(tokens, parents)
        for row in range(2):
            for entry in range(6):
                path, at = [], entry
                while at >= 0:
                    path, at = [at, *path], int(parents[row, at])
                codes = torch.cat([kept[row], tokens[row, path, 0]])
                check(generator, step.logits[row], entry, expected(generator, condition, row, codes, 3.0))
        session.commit(torch.tensor(paths), torch.tensor(counts))
        kept = [torch.cat([kept[row], tokens[row, paths[row][: counts[row]], 0]]) for row in range(2)]
    tokens = torch.randint(generator.codebook_size, (2, 1, 1))
    step = session.extend(tokens)
    for row in range(2):
        codes = torch.cat([kept[row], tokens[row, :, 0]])
        check(generator, step.logits[row], 0, expected(generator, condition, row, codes, 3.0))


def test_format_tokens_are_fed_as_the_model_writes_them(models: dict[str, TransformersGenerator]) -> None:
    """An id beyond the codebook is the line end of the model's vocabulary."""
    for family, word in (("emu3", 6), ("lumina", 9)):
        trunk = models[family].trunk()
        line_end = torch.tensor([trunk.codebook_size])
        assert torch.equal(trunk.embed_tokens(line_end), trunk.embed_words(torch.tensor([word])))


def test_what_the_format_forces(models: dict[str, TransformersGenerator]) -> None:
    emu3_, lumina = models["emu3"], models["lumina"]
    for generator, wanted in ((emu3_, ([-1] * 4 + [24]) * 3), (lumina, [-1, -1, 24] * 4)):
        forced = generator.forced()
        assert forced is not None and forced.tolist() == wanted
    assert models["anole"].forced() is None and models["janus"].forced() is None
    assert models["anole"].length == models["janus"].length == 16


def test_tokens_and_positions(models: dict[str, TransformersGenerator]) -> None:
    emu3_ = models["emu3"]
    tokens = emu3_.from_positions(torch.arange(15)[None, :, None])
    assert tokens.ids is not None and tokens.layout == emu3_.grid == emu3_.layout
    assert tokens.ids.tolist() == [[0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13]]
    positions = emu3_.as_positions(tokens)
    assert positions[0, :, 0].tolist() == [0, 1, 2, 3, 24, 5, 6, 7, 8, 24, 10, 11, 12, 13, 24]
    keep = torch.zeros(1, 3, 4, dtype=torch.bool)
    keep[0, 1, 2:] = True
    known = emu3_.known_positions(tokens, keep)[0, :, 0].tolist()
    assert known == [-1] * 4 + [24] + [-1, -1, 7, 8, 24] + [-1] * 4 + [24]
    with pytest.raises(InputError, match="do not fit"):
        models["janus"].as_positions(tokens)


def test_guidance_schedule_is_a_function_of_the_predicted_position(
    models: dict[str, TransformersGenerator],
) -> None:
    generator, condition = models["janus"], prompts((3,))
    session = generator.session(
        condition, TokenSampling(guidance_scale=4.0, guidance_schedule="linear"), entries=3
    )
    check(generator, session.prefill().logits[0], 0, expected(generator, condition, 0, torch.empty(0).long()))
    tokens = torch.randint(generator.codebook_size, (1, 3, 1))
    step = session.extend(tokens)
    for entry in range(3):
        scale = 1 + 3 * (entry + 1) / 15
        wanted = expected(generator, condition, 0, tokens[0, : entry + 1, 0], scale)
        check(generator, step.logits[0], entry, wanted)


def test_hidden_states_have_conditional_rows_first(models: dict[str, TransformersGenerator]) -> None:
    generator, condition = models["janus"], prompts((3, 2))
    step = generator.session(condition, GUIDED, entries=1).prefill()
    assert step.hidden is not None and step.hidden.shape == (4, 1, 32)
    c, u = generator.model.model.generation_head(step.hidden).chunk(2)
    torch.testing.assert_close(u + 3 * (c - u), step.logits[:, :, 0, : generator.codebook_size])


def test_refusals(models: dict[str, TransformersGenerator]) -> None:
    generator, condition = models["janus"], prompts((3,))
    with pytest.raises(InputError, match="negative_ids"):
        generator.session(PromptCondition(condition.input_ids, condition.mask), GUIDED, 1)
    with pytest.raises(InputError, match="without a word"):
        generator.session(PromptCondition(condition.input_ids, condition.mask & False), TokenSampling(), 1)
    with pytest.raises(InputError, match="ClassCondition"):
        generator.session(ClassCondition(torch.zeros(1, dtype=torch.long)), TokenSampling(), 1)
    with pytest.raises(InputError, match="128 positions"):
        generator.session(prompts((120,)), TokenSampling(), 1)
    with pytest.raises(InputError, match="needs a JanusForConditionalGeneration"):
        JanusGenerator(emu3())
    eager = chameleon()
    eager.set_attn_implementation("eager")
    with pytest.raises(InputError, match='attn_implementation="sdpa"'):
        type(models["anole"])(eager).session(condition, TokenSampling(), 1)


def test_a_model_is_used_as_it_is() -> None:
    """A session leaves no hook, cache or changed weight behind."""
    model = janus()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    session = JanusGenerator(model).session(prompts((3, 2)), GUIDED, 2)
    session.prefill()
    session.extend(torch.zeros(2, 2, 1, dtype=torch.long))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
