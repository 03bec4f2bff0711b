"""What `visgen bench` shows above its line of JSON: tables, and acceptance by position."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

Row = Mapping[str, Any]
WIDTH = 16  # positions a line, where a model has no grid


def print_table(made: Table) -> None:
    """To the terminal, or as wide as needed into a file."""
    from rich.console import Console

    from visgen.cli.models import FILE_WIDTH

    Console(width=None if sys.stdout.isatty() else FILE_WIDTH).print(made)


def table(rows: Sequence[Row]) -> Table:
    """A line per row, a rule between dtypes; columns on tokens where rows tell of them."""
    columns = ["what", "dtype", "seconds", "images/s", "GFLOP/s", "of matmul", "memory", "more"]
    decoding = any("tokens_per_second" in row for row in rows)
    columns[3:3] = ["tokens/s", "of reading"] if decoding else []
    return _table(columns, rows, lambda row: _cells(row, decoding))


def strategy_table(rows: Sequence[Row]) -> Table:
    """A line per strategy."""
    columns = [
        "strategy",
        "dtype",
        "seconds",
        "speed-up",
        "passes",
        "tokens/pass",
        "lossless",
        "adherence",
        "FID",
    ]
    return _table(columns, rows, _strategy_cells)


def tokenizer_table(rows: Sequence[Row]) -> Table:
    """A line per measurement, a rule between tokenizers."""
    columns = ["what", "batch", "tokens", "steps", "s/image", "images/s", "memory", "more"]
    return _table(columns, rows, _tokenizer_cells)


def prune_table(rows: Sequence[Row]) -> Table:
    """A line per measurement, a rule between numbers of tokens and before the prefill."""
    columns = ["what", "tokens", "kept", "ms", "speed-up", "choosing ms", "FLOPs", "memory", "more"]
    grouped = [{**row, "model": (row["part"], row["part"] == "prefill" or row["tokens"])} for row in rows]
    return _table(columns, grouped, _prune_cells)


def _prune_cells(row: Row) -> tuple[str, ...]:
    from visgen.cli.models import size

    memory, seconds = row.get("peak_memory_bytes"), row["seconds"]
    more = row.get("refused", "")
    if "same_choice" in row:
        more = "the same choice" if row["same_choice"] else "another choice"
    return (
        row["name"],
        _number(row.get("tokens"), ",d"),
        _number(row.get("kept"), ",d"),
        _number(None if seconds is None else 1000 * seconds, ".2f"),
        _number(row.get("speedup"), ".2f") + ("×" if "speedup" in row else ""),
        _number(row.get("selection_ms"), ".2f"),
        _number(row.get("flops_ratio"), ".1%"),
        "" if memory is None else size(memory),
        more,
    )


def _tokenizer_cells(row: Row) -> tuple[str, ...]:
    from visgen.cli.models import size

    memory = row.get("peak_memory_bytes")
    more = ""
    if "speedup" in row:
        more = f"{row['speedup']:.2f}× the baseline, pixels within {row['largest_pixel_difference']:.0e}"
    if "flow_speedup" in row:
        more += f"; {row['flow_speedup']:.2f}× without the autoencoder"
    return (
        row["name"],
        str(row["batch_size"]),
        _number(row["tokens"], "d"),
        _number(row.get("steps"), "d"),
        _number(row["seconds"], ".4f"),
        _number(row["images_per_second"], ".3g"),
        "" if memory is None else size(memory),
        more,
    )


def _table(columns: Sequence[str], rows: Sequence[Row], cells: Any) -> Table:
    from rich import box
    from rich.table import Table

    out = Table(*columns, box=box.SIMPLE)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        last = following is not None and _group(following) != _group(row)
        out.add_row(*cells(row), end_section=last)
    return out


def _group(row: Row) -> str:
    """A baseline stands beside rows of another dtype than its own; tokenizers stand apart."""
    return row.get("model", row.get("beside_dtype", row["dtype"]))


def _cells(row: Row, decoding: bool) -> tuple[str, ...]:
    from visgen.cli.models import size

    memory = row.get("peak_memory_bytes")
    tokens = (
        _number(row.get("tokens_per_second"), ".1f"),
        _number(row.get("fraction_of_reading"), ".0%"),
    )
    return (
        row["name"],
        row["dtype"],
        _number(row.get("seconds"), ".4f"),
        *(tokens if decoding else ()),
        _number(row.get("images_per_second"), ".3g"),
        _number(row.get("gflops_per_second"), ".0f"),
        _number(row.get("fraction_of_matmul"), ".0%"),
        "" if memory is None else size(memory),
        _more(row),
    )


def _strategy_cells(row: Row) -> tuple[str, ...]:
    return (
        row["name"],
        row["dtype"],
        _number(row["seconds"], ".4f"),
        f"{row['speedup']:.2f}×",
        _number(row["passes"], ".1f"),
        _number(row["tokens_per_pass"], ".2f"),
        "yes" if row["lossless"] else "no",
        _number(row["adherence"], ".1%"),
        _number(row["fid"], ".3f"),
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _more(row: Row) -> str:
    if "psnr_db" in row:
        near = "equal image" if row["psnr_db"] is None else f"image {row['psnr_db']:.1f} dB"
        return f"{row['speedup']:.2f}× (matmul {row['matmul_speedup']:.2f}×), {near}"
    if "largest_logit_difference" in row:
        difference, first = row["largest_logit_difference"], row["first_seconds"]
        return f"first {first:.1f} s, logits within {difference:.1e}"
    if "same_tokens" in row:
        return f"{row['speedup']:.2f}× the plain loop, its first {row['same_tokens']} tokens"
    if "largest_latent_difference" in row:
        calls, difference = row["network_calls"], row["largest_latent_difference"]
        return f"{row['speedup']:.2f}× the plain loop, {calls} calls, latents within {difference:.0e}"
    if "network_calls" in row:
        return f"{row['network_calls']} calls"
    if "bytes_per_second" in row:
        return f"{row['bytes_per_second'] / 1e9:.1f} GB/s"
    return ""


def acceptance(row: Row, grid: tuple[int, int] | None) -> Iterator[str]:
    """Lines of a strategy: percent of the drafts tested at each position that were accepted, · = none was."""
    tested, accepted = row["tested"], row["accepted"]
    if not any(tested):
        return
    width = grid[1] if grid is not None and grid[0] * grid[1] == len(tested) else WIDTH
    yield f"{row['name']}: {sum(accepted) / sum(tested):.0%} of {sum(tested)} drafts accepted; % by position:"
    shares = [f"{100 * a / t:4.0f}" if t else "   ·" for t, a in zip(tested, accepted, strict=True)]
    for start in range(0, len(shares), width):
        yield "".join(shares[start : start + width])
