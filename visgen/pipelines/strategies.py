"""The decoding strategy of a call, and what decoding took, put together from micro-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from visgen.errors import InputError, shown

ADDED = ("seconds", "draft_passes")  # over micro-batches
ADDED_BY_POSITION = ("tested", "accepted")


def strategy_request(pipe: Any, strategy: Any, options: Mapping[str, Any] | None) -> Any:
    """What the generator takes as `strategy`, checked; None where none was asked for.

    Args:
        pipe: whose generator decodes, with the drafter that strategies may use.
        strategy: a name of `visgen.decoding.STRATEGIES`, "NAME:VALUE", or a `DecodingStrategy`.
        options: keywords of the strategy.

    Raises:
        InputError: options without a strategy, an unknown strategy or option, or a generator that takes none.
    """
    if strategy is None:
        if options:
            raise InputError(f"strategy_options={shown(dict(options))} need a strategy, such as 'sjd'")
        return None
    from visgen.decoding.making import make_strategy
    from visgen.generators.next_token import NextTokenGenerator, StrategyRequest

    decode = make_strategy(strategy, options)
    if not isinstance(pipe.generator, NextTokenGenerator):
        raise InputError(
            f"strategy={shown(str(strategy))}: {type(pipe.generator).__name__} takes none, only next-token "
            "models do, such as scenes-ar"
        )
    return StrategyRequest(decode, None, getattr(pipe, "drafter", None))


def strategy_facts(strategy: Any, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The strategy of a call for `ImageOutput.settings`; empty where none was asked for."""
    if strategy is None:
        return {}
    return {"strategy": strategy if isinstance(strategy, str) else repr(strategy)} | (
        {"strategy_options": dict(options)} if options else {}
    )


def merged_stats(parts: Sequence[Mapping[str, Any]], counts: Sequence[int]) -> dict[str, Any]:
    """What generating took, over micro-batches of which `counts` rows are images (the others are padding).

    `passes` has one number per image; seconds and counts of drafts are those of whole micro-batches.
    """
    if not parts:
        return {}
    merged = dict(parts[0])
    passes: list[int] = []
    for part, count in zip(parts, counts, strict=True):
        own = part["passes"]
        passes += [own] * count if isinstance(own, int) else list(own)[:count]
    merged["passes"] = passes
    if "tokens_per_pass" in merged:
        merged["tokens_per_pass"] = merged["tokens"] * len(passes) / max(1, sum(passes))
    for name in set(ADDED) & merged.keys():
        merged[name] = sum(part[name] for part in parts)
    for name in set(ADDED_BY_POSITION) & merged.keys():
        merged[name] = [sum(values) for values in zip(*(part[name] for part in parts), strict=True)]
    return merged
