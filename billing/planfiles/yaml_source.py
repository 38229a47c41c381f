"""YAML as people write it in plan files, read strictly and with line numbers.

Decides: which YAML is accepted. A number with a point must be quoted, because YAML would make a
binary float of it and a price would change before anyone sees it. Refused for the same reason,
that a reader and the parser may see two different values: duplicate keys, `yes` and `no` as
booleans, octal, hexadecimal and base-60 integers, tags, merge keys. Bounded: size, depth, number
of values after aliases are expanded. Decides nothing about what the file means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, cast

import yaml

from billing.errors import InvalidPlan

FILE_BYTES_MAX = 256 * 1024
VALUES_MAX = 20_000
DEPTH_MAX = 20

YamlPath: TypeAlias = tuple[str | int, ...]
YamlValue: TypeAlias = "dict[str, YamlValue] | list[YamlValue] | str | int | bool | None"

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,39})")
_PREFIX = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True, kw_only=True)
class YamlSource:
    """A file's values and where they stand.

    Attributes:
        content: plain dictionaries, lists, text, integers, booleans and None.
        lines: 1-based line of every value by its path; of a mapping's entry, the line of its key.
    """

    content: YamlValue
    lines: Mapping[YamlPath, int]

    def line_of(self, path: YamlPath) -> int | None:
        """Line of the value at a path, or of the nearest value around it; None without lines."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)

    def refuse(
        self, message: str, *, path: YamlPath, field: str | None = None, remedy: str | None = None
    ) -> InvalidPlan:
        """The error for the value at a path, naming its line and field."""
        return InvalidPlan(
            message, field=field or field_name(path) or None, remedy=remedy, line=self.line_of(path)
        )


def read_yaml(text: str | bytes) -> YamlSource:
    """Read one YAML document.

    Raises:
        InvalidPlan: not YAML, not UTF-8, too large, or YAML that this module refuses.
    """
    if len(text) > FILE_BYTES_MAX:
        raise InvalidPlan("the file is too large", remedy=f"at most {FILE_BYTES_MAX} bytes")
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        _require_bounded(decoded)
        root = yaml.compose(decoded, Loader=yaml.SafeLoader)
    except UnicodeDecodeError:
        raise InvalidPlan("not UTF-8 text", remedy="save the file as UTF-8") from None
    except yaml.YAMLError as error:
        raise _malformed(error) from None
    if root is None:
        raise InvalidPlan(
            "the file is empty", line=1, remedy="begin with an example: steelyard plan example"
        )
    reader = _Reader()
    content = reader.read(root, ())
    return YamlSource(content=content, lines=reader.lines)


def field_name(path: YamlPath) -> str:
    """A path as people write it: `charges[2].tiers[0].up_to`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def field_path(field: str) -> YamlPath:
    """The path written as `charges[2].key`; the inverse of `field_name` for plain names."""
    parts = cast("list[tuple[str, str]]", re.findall(r"([^.\[\]]+)|\[(\d+)\]", field))
    return tuple(name or int(index) for name, index in parts)


def _require_bounded(text: str) -> None:
    """Look at the flat stream of events first: building nested values would recurse."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        if depth > DEPTH_MAX or documents > 1:
            raise InvalidPlan(
                "nested too deeply" if depth > DEPTH_MAX else "more than one document",
                line=_line(event),
                remedy="write one flat document",
            )


class _Reader:
    """Turns nodes into plain values and notes their lines."""

    def __init__(self) -> None:
        self.lines: dict[YamlPath, int] = {}
        self._values = 0

    def read(self, node: yaml.Node, path: YamlPath, line: int | None = None) -> YamlValue:
        line = line or _line(node)
        self._values += 1
        if self._values > VALUES_MAX or len(path) > DEPTH_MAX:
            raise InvalidPlan(
                "too many values once aliases are expanded", line=line, remedy="use fewer aliases"
            )
        self.lines[path] = line
        match node:
            case yaml.ScalarNode():
                return _scalar(node, path)
            case yaml.SequenceNode():
                _require_tag(node, "seq", path)
                items = cast("list[yaml.Node]", node.value)
                return [self.read(item, (*path, index)) for index, item in enumerate(items)]
            case yaml.MappingNode():
                return self._mapping(node, path)
            case _:
                raise AssertionError("a node is a scalar, a sequence or a mapping")

    def _mapping(self, node: yaml.MappingNode, path: YamlPath) -> dict[str, YamlValue]:
        _require_tag(node, "map", path)
        content: dict[str, YamlValue] = {}
        for key_node, value_node in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            key = self._key(key_node, path)
            if key in content:
                raise _refused("duplicate key", key_node, (*path, key), remedy="keep one of them")
            line = _line(key_node)
            content[key] = self.read(value_node, (*path, key), line)
        return content

    @staticmethod
    def _key(node: yaml.Node, path: YamlPath) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise _refused("a key is not text", node, path, remedy="use plain names as keys")
        key = _scalar(node, path)
        if not isinstance(key, str):
            raise _refused("a key is not text", node, path, remedy="put the key in quotes")
        return key


def _scalar(node: yaml.ScalarNode, path: YamlPath) -> str | int | bool | None:
    text = node.value
    match node.tag.removeprefix(_PREFIX):
        case "str" | "timestamp":
            return text
        case "null":
            return None
        case "int" if _INTEGER.fullmatch(text):
            return int(text)
        case "int":
            raise _refused(
                "an integer in a notation that is easily misread",
                node,
                path,
                remedy="write plain digits, or put text in quotes",
            )
        case "bool" if text in {"true", "false"}:
            return text == "true"
        case "bool":
            raise _refused(
                "a word that YAML takes for true or false",
                node,
                path,
                remedy="put it in quotes, or write true or false",
            )
        case "float":
            raise _refused(
                "a number with a point or exponent would become a binary float",
                node,
                path,
                remedy='put it in quotes: "0.25"',
            )
        case _:
            raise _refused("YAML tags and merge keys are not read", node, path, remedy="remove it")


def _line(marked: yaml.Node | yaml.Event) -> int:
    return marked.start_mark.line + 1 if marked.start_mark else 1


def _require_tag(node: yaml.Node, kind: str, path: YamlPath) -> None:
    if node.tag != f"{_PREFIX}{kind}":
        raise _refused("YAML tags are not read", node, path, remedy="remove the tag")


def _refused(message: str, node: yaml.Node, path: YamlPath, *, remedy: str) -> InvalidPlan:
    return InvalidPlan(message, field=field_name(path) or None, line=_line(node), remedy=remedy)


def _malformed(error: yaml.YAMLError) -> InvalidPlan:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    return InvalidPlan(
        "not well-formed YAML",
        line=mark.line + 1 if mark else None,
        remedy="check indentation, quotes and colons on this line",
    )
