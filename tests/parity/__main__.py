"""`python -m tests.parity SYSTEM FOLDER`: prints stage, largest difference, tolerance; exits 1 on a miss."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch

from tests.parity.report import Golden

SYSTEMS = sorted(
    path.stem
    for path in Path(__file__).parent.glob("*.py")
    if path.stem not in ("__init__", "__main__", "report") and not path.stem.endswith("_stages")
)


def run(system: str, folder: Path) -> Golden:
    """All stages of a system on a golden folder."""
    golden = Golden(folder)
    importlib.import_module(f"tests.parity.{system}").check(golden)
    return golden


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] not in SYSTEMS or not (Path(arguments[1]) / "meta.json").is_file():
        print(
            f"usage: python -m tests.parity SYSTEM FOLDER, SYSTEM one of {', '.join(SYSTEMS)}",
            file=sys.stderr,
        )
        return 2
    torch.set_num_threads(1)
    golden = run(arguments[0], Path(arguments[1]))
    print(golden.table())
    return 0 if golden.passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
