"""The house rules that a machine can check: floors, file sizes, safe loading, no printing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "visgen"
MEBIBYTE = 2**20

# A room imports only lower floors, or its own room. The top-level modules of `GROUND` are everybody's.
FLOORS = {
    "nn": 1,
    "data": 1,
    "tokenizers": 2,
    "decoding": 2,
    "pruning": 2,
    "generators": 3,
    "checkpoints": 4,
    "pipelines": 5,
    "evaluation": 6,
    "training": 7,
    "distributed": 7,
    "cli": 8,
}
GROUND_FILES = ("errors", "processes", "registry", "schema", "shipped")
GROUND = {*GROUND_FILES, "__version__"}
# `visgen/__init__.py` hands these out from pipelines and checkpoints, so `import visgen` is for the floors
# above them.
ENTRANCE = FLOORS["pipelines"]


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a file with the source of what is called: `print`, `torch.load`."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def imported(path: Path) -> Iterator[str]:
    """Every module a file imports, also inside functions. `import visgen` counts as what is used of it."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"visgen.{alias.name}" for alias in node.names]
            yield from names if node.module == "visgen" else [node.module or ""]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name != "visgen")
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "visgen":
            yield f"visgen.{node.attr}"


def room_of(path: Path) -> str | None:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else None


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [p for p in sources("visgen") if room_of(p)], ids=name_of)
def test_a_room_imports_only_lower_floors(path: Path) -> None:
    room = room_of(path)
    assert room in FLOORS, f"{room} has no floor: add it to ARCHITECTURE.md and here"
    for module in imported(path):
        parts = module.split(".")
        if parts[0] != "visgen" or parts[1] == room or parts[1] in GROUND:
            continue
        floor = FLOORS.get(parts[1], ENTRANCE)
        assert floor < FLOORS[room], (
            f"{name_of(path)} on floor {FLOORS[room]} imports {module} on floor {floor}"
        )


@pytest.mark.parametrize("path", [PACKAGE / f"{name}.py" for name in GROUND_FILES], ids=name_of)
def test_the_ground_imports_no_room(path: Path) -> None:
    assert [m for m in imported(path) if m.startswith("visgen.") and m.split(".")[1] not in GROUND] == []


@pytest.mark.parametrize("path", sources("visgen", "scripts", "tests"), ids=name_of)
def test_no_file_is_over_500_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


@pytest.mark.parametrize("path", sources("visgen"), ids=name_of)
def test_the_library_does_not_print(path: Path) -> None:
    if room_of(path) != "cli":
        assert [call.lineno for name, call in calls(path) if name == "print"] == []


@pytest.mark.parametrize("path", sources("visgen", "scripts"), ids=name_of)
def test_nothing_unpickles_code(path: Path) -> None:
    for name, call in calls(path):
        assert name not in ("pickle.load", "pickle.loads", "pickle.Unpickler"), (
            f"{name_of(path)}:{call.lineno}"
        )
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name == "torch.load":
            assert given.get("weights_only") == "True", f"{name_of(path)}:{call.lineno}"
        assert given.get("allow_pickle", "False") == "False", f"{name_of(path)}:{call.lineno}"


@pytest.mark.parametrize("path", sources("visgen"), ids=name_of)
def test_public_signatures_are_typed(path: Path) -> None:
    bare = [
        f"{function.name} (line {function.lineno})"
        for owner in [tree(path), *(n for n in tree(path).body if isinstance(n, ast.ClassDef))]
        for function in owner.body
        if isinstance(function, ast.FunctionDef)
        and not function.name.startswith("_")
        and not _typed(function)
    ]
    assert bare == []


def _typed(function: ast.FunctionDef) -> bool:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return function.returns is not None and all(
        a.annotation is not None for a in arguments if a.arg not in ("self", "cls")
    )


def test_shipped_weights_stay_small() -> None:
    models = [folder for folder in (PACKAGE / "assets").iterdir() if folder.is_dir()]
    assert models, "no model ships in visgen/assets"
    sizes = {m.name: sum(f.stat().st_size for f in m.rglob("*") if f.is_file()) for m in models}
    assert {name: size for name, size in sizes.items() if size > 8 * MEBIBYTE} == {}
    assert sum(sizes.values()) <= 64 * MEBIBYTE


def test_shipped_weights_are_safetensors() -> None:
    unsafe = {".pt", ".pth", ".bin", ".pkl", ".ckpt", ".npy"}
    assert [p for p in (PACKAGE / "assets").rglob("*") if p.suffix in unsafe] == []
