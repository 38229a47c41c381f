"""YAML: what is refused because a person and the parser could read two different values."""

from __future__ import annotations

import pytest

from billing.errors import InvalidPlan
from billing.planfiles.yaml_source import (
    DEPTH_MAX,
    FILE_BYTES_MAX,
    field_name,
    field_path,
    read_yaml,
)

REFUSED = {
    "duplicate key": ("a: 1\nb: 2\na: 3\n", 3, "a"),
    "duplicate key below": ("a:\n  b: 1\n  b: 2\n", 3, "a.b"),
    "float": ("a: 1.5\n", 1, "a"),
    "infinity": ("a: .inf\n", 1, "a"),
    "octal": ("a: 010\n", 1, "a"),
    "hexadecimal": ("a: 0x10\n", 1, "a"),
    "underscore": ("a: 1_000\n", 1, "a"),
    "base 60": ("a: 1:30\n", 1, "a"),
    "overlong integer": ("a: 1" + "0" * 60 + "\n", 1, "a"),
    "yes": ("a:\n  - no\n", 2, "a[0]"),
    "number as a key": ("1: a\n", 1, None),
    "list as a key": ("[a]: b\n", 1, None),
    "merge key": ("a: &x {b: c}\nd:\n  <<: *x\n", 3, "d"),
    "tag": ("a: !secret b\n", 1, "a"),
    "python tag": ("a: !!python/name:os.system b\n", 1, "a"),
    "tagged mapping": ("a: !thing {b: c}\n", 1, "a"),
    "tagged list": ("a: !thing [b]\n", 1, "a"),
    "broken": ("a: [1\nb: 2\n", 2, None),
    "unknown alias": ("a: *x\n", 1, None),
    "two documents": ("a: 1\n---\na: 2\n", 2, None),
    "empty": ("", 1, None),
    "control character": ("a: \x07\n", None, None),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    text, line, field = REFUSED[case]

    with pytest.raises(InvalidPlan) as refused:
        read_yaml(text)

    assert (refused.value.line, refused.value.field) == (line, field)


def test_plain_values_and_their_lines():
    source = read_yaml('a: text\nb:\n  - 7\n  - true\n  - null\nc: {d: 2026-11-01}\ne: "1.50"\n')

    assert source.content == {
        "a": "text",
        "b": [7, True, None],
        "c": {"d": "2026-11-01"},
        "e": "1.50",
    }
    assert source.lines[("b",)] == 2
    assert source.lines[("b", 1)] == 4
    assert source.lines[("c", "d")] == 6
    assert source.line_of(("b", 1, "absent", "deeper")) == 4


def test_an_alias_stands_for_its_anchor():
    assert read_yaml("a: &x [1]\nb: *x\n").content == {"a": [1], "b": [1]}


def test_a_bomb_of_aliases_is_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]

    with pytest.raises(InvalidPlan):
        read_yaml("\n".join(lines))


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]\n",
        "[" * 100_000,
        "a: " + "[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1),
        "x" * (FILE_BYTES_MAX + 1),
        b"\xff\xfe\xff",
    ],
    ids=["recursive alias", "unclosed depth", "depth", "size", "not UTF-8"],
)
def test_hostile_files_are_refused(text):
    with pytest.raises(InvalidPlan):
        read_yaml(text)


def test_a_byte_order_mark_is_no_content():
    assert read_yaml(b"\xef\xbb\xbfa: b\n").content == {"a": "b"}


@pytest.mark.parametrize("path", [(), ("a",), ("charges", 2, "tiers", 0, "up_to")])
def test_field_names_are_paths(path):
    assert field_path(field_name(path)) == path
