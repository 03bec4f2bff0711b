"""YAML that people write, in recipes and studies: one dialect, and single keys changed by "a.b=value"."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from visgen.errors import InputError, shown


def parse_yaml(text: str) -> Any:
    """One YAML document, where 1e-3 is a number (YAML 1.1, PyYAML's dialect, takes it for a string).

    Aliases are refused: ten lines of them can stand for more values than a memory holds.

    Raises:
        yaml.YAMLError: no YAML, or an alias, a tag, or nesting a thousand deep.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError(f"alias *{self.peek_event().anchor}: write the value out instead")
            return super().compose_node(parent, index)

    pattern = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", pattern, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deep") from None
    except (
        ValueError,
        TypeError,
    ) as error:  # a date that is none, a number of thousands of digits, a list as key
        raise yaml.YAMLError(str(error)) from error


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """The mapping in a file; `what` it is ("recipe", "study") stands in messages.

    Raises:
        InputError: no such file, or no mapping in YAML.
    """
    import yaml

    name = shown(str(path))
    if not os.path.isfile(path):
        found = "is no file" if os.path.exists(path) else "does not exist"
        raise InputError(f"{what} {name} {found}; give the path of a YAML file")
    try:
        mapping = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{what} {name} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(mapping, dict):
        raise InputError(f"{what} {name} holds no mapping; start from a file in recipes/")
    return mapping


def apply_override(mapping: dict[str, Any], text: str) -> None:
    """Change a nested mapping by "dotted.key=value", the value in YAML.

    Raises:
        InputError: no equals sign, a path through a plain value, or a value that is no YAML.
    """
    import yaml

    dotted, equals, value = text.partition("=")
    if not equals or not dotted.strip():
        raise InputError(f"override {shown(text)} is not key=value; write for example optimizer.lr=1e-3")
    *parents, last = dotted.strip().split(".")
    for parent in parents:
        if mapping.get(parent) is None:
            mapping[parent] = {}
        mapping = mapping[parent]
        if not isinstance(mapping, dict):
            raise InputError(
                f"override {shown(text)}: {parent!r} is a value, not a section; drop what follows it"
            )
    try:
        mapping[last] = parse_yaml(value)
    except yaml.YAMLError as error:
        raise InputError(f"override {shown(text)} holds no YAML value; quote it if it is text") from error
