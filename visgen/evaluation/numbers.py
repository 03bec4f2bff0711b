"""Scores as people read them."""

from __future__ import annotations

import re

PERCENT = ("precision", "recall", "codebook", "adherence", "within")
DISTANCES = ("fid", "kid", "rfid", "fd_dinov2", "cmmd")  # from 0.001 to 100, depending on the protocol
POINTS = " points"  # of percent
DIGITS = {"psnr": 2, "is": 2, "clip_score": 2, "tokens": 1, "objects": 2}


def number(name: str, value: float) -> str:
    """A score for people: percent for shares, distances with four significant digits."""
    if name in PERCENT or name.startswith("accuracy"):
        return f"{100 * value:.1f} %"
    return f"{value:.4g}" if name in DISTANCES else f"{value:.{DIGITS.get(name, 4)}f}"


def signed(name: str, value: float) -> str:
    """A difference of scores for people, with its sign; of shares in points of percent."""
    text = number(name, abs(value)).replace(" %", POINTS)
    zero = not re.search("[1-9]", text)
    return text if zero else f"{'+' if value > 0 else '−'}{text}"
