"""Form bodies and query strings as trees.

Decides how `lines[0][amount]=5` becomes `{"lines": [{"amount": "5"}]}`. Every leaf stays text:
what a leaf means is for the schema to say (`request_schema.py`).
"""

from __future__ import annotations

import re
from typing import TypeAlias
from urllib.parse import parse_qsl

Tree: TypeAlias = "str | list[Tree] | dict[str, Tree]"

_KEY = re.compile(r"^([^\[\]]+)((?:\[[^\[\]]*\])*)$")
_PART = re.compile(r"\[([^\[\]]*)\]")


class MalformedForm(Exception):
    """A key that cannot be read, or two keys that contradict each other."""


def parse(encoded: str) -> dict[str, Tree]:
    """Tree of an urlencoded text; raises MalformedForm."""
    root: dict[str, Tree] = {}
    for key, leaf in parse_qsl(encoded, keep_blank_values=True, strict_parsing=bool(encoded)):
        matched = _KEY.match(key)
        if matched is None:
            raise MalformedForm(key)
        _insert(root, [matched[1], *_PART.findall(matched[2])], leaf, key)
    return {name: _with_lists(branch) for name, branch in root.items()}


def _insert(root: dict[str, Tree], path: list[str], leaf: str, key: str) -> None:
    node = root
    for part in path[:-1]:
        branch = node.setdefault(part, {})
        if not isinstance(branch, dict):
            raise MalformedForm(key)
        node = branch
    if path[-1] in node:
        raise MalformedForm(key)
    node[path[-1]] = leaf


def _with_lists(node: Tree) -> Tree:
    if not isinstance(node, dict):
        return node
    children = {name: _with_lists(child) for name, child in node.items()}
    if children and list(children) == [str(index) for index in range(len(children))]:
        return list(children.values())
    return children
