"""Filters of meters in CEL, the Common Expression Language: compiled once, bounded, exact.

Decides: which expressions are accepted, what an event looks like to them, what a failure means.
Operators write filters, reporters write events, so an expression is bounded when it is compiled:
length, nesting, number of nodes, no macro and no function that loops, no regular expression.
Without loops every node is evaluated at most once, so the number of nodes bounds the time.
Double literals are refused, and decimals of an event appear as text: no binary float is compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, cast

import celpy
from celpy import celtypes
from celpy.celparser import CELParseError
from celpy.evaluation import CELEvalError
from lark import Token, Tree

from billing.errors import InvalidInput
from billing.money import plain

LENGTH_MAX = 1024
"""Longest expression, in characters."""

DEPTH_MAX = 32
"""Deepest nesting: brackets in the text, and operators in the tree."""

NODES_MAX = 256
"""Most operators, calls, names and literals of an expression: the budget of an evaluation."""

FUNCTIONS = frozenset({"size", "has", "startsWith", "endsWith", "contains"})
"""Functions that may be called; none of them loops over an expression."""

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_CALLS = frozenset({"ident_arg", "dot_ident_arg", "member_dot_arg"})
_BUILDERS = frozenset({"map_lit", "member_object"})
_CACHED_MAX = 1024

# The library names the trees of its parser without what they hold.
_environment = cast("Any", celpy.Environment())


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A compiled expression; made by `compile_filter`."""

    text: str
    program: celpy.Runner

    def matches(self, event_type: str, data: Mapping[str, object]) -> bool:
        """Whether an event passes. The expression sees `type` and `data`.

        Raises:
            InvalidInput: it cannot be evaluated over this event, such as for a member that is
                missing, or it yields something else than true or false. Treating either as false
                would leave usage uncounted in silence.
        """
        context = {"type": celtypes.StringType(event_type), "data": _cel(data)}
        try:
            found = self.program.evaluate(context)
        except CELEvalError:
            raise InvalidInput(
                "a meter's filter cannot be evaluated over this event",
                field="filter",
                remedy="send the members that it names, or guard them with has()",
            ) from None
        if not isinstance(found, celtypes.BoolType):
            raise InvalidInput(
                "a meter's filter yields neither true nor false",
                field="filter",
                remedy="compare the value with something",
            )
        return bool(found)


@lru_cache(maxsize=_CACHED_MAX)
def compile_filter(text: str) -> Filter:
    """Compile an expression; the same text is compiled once.

    Raises:
        InvalidInput: not CEL, beyond a limit, or with what this module refuses; names the place.
    """
    if not 0 < len(text) <= LENGTH_MAX:
        raise _refused("empty or too long", remedy=f"write 1 to {LENGTH_MAX} characters")
    _require_shallow(text)
    try:
        tree = _environment.compile(text)
    except CELParseError as error:
        raise _refused("not a CEL expression", _place(error.line, error.column)) from None
    _require_bounded(tree)
    return Filter(text=text, program=_environment.program(tree))


def _require_shallow(text: str) -> None:
    """Look at the brackets first: the parser's own work grows with them."""
    depth = 0
    for character in text:
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        if depth > DEPTH_MAX:
            raise _refused("nested too deeply", remedy=f"at most {DEPTH_MAX} levels")


def _require_bounded(tree: Tree[Token]) -> None:
    nodes = 0
    waiting: list[tuple[Tree[Token] | Token, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if isinstance(node, Token):
            continue
        # A chain of single children is only the grammar's order of precedence, no nesting.
        counts = len(node.children) > 1 or any(isinstance(c, Token) for c in node.children)
        depth, nodes = depth + counts, nodes + counts
        if depth > DEPTH_MAX or nodes > NODES_MAX:
            raise _refused(
                "nested too deeply" if depth > DEPTH_MAX else "too many operators",
                remedy=f"at most {DEPTH_MAX} levels and {NODES_MAX} names, literals, operators",
            )
        _require_allowed(node)
        waiting.extend((child, depth) for child in reversed(node.children))


def _require_allowed(node: Tree[Token]) -> None:
    tokens = [child for child in node.children if isinstance(child, Token)]
    if node.data == "literal":
        _require_literal(tokens[0])
    elif node.data in _BUILDERS:
        raise _refused("maps and objects cannot be built", _place(*_start(node)))
    elif node.data in _CALLS and tokens[0] not in FUNCTIONS:
        raise _refused(
            "no such function; macros and regular expressions are not evaluated either",
            _place(tokens[0].line, tokens[0].column),
            remedy=f"use operators and {', '.join(sorted(FUNCTIONS))}",
        )


def _require_literal(token: Token) -> None:
    place = _place(token.line, token.column)
    if token.type == "FLOAT_LIT":
        raise _refused(
            "a number with a point or exponent would become a binary float",
            place,
            remedy='compare integers, or decimals as text: data.size == "0.5"',
        )
    if token.type == "BYTES_LIT":
        raise _refused("bytes are no part of an event", place, remedy="compare text")
    if token.type in {"INT_LIT", "UINT_LIT"}:
        number = int(token.rstrip("uU"), 0)
        if not _INT_MIN <= number <= _INT_MAX:
            raise _refused("an integer beyond 64 bits", place, remedy="compare text")


def _cel(value: object) -> Any:
    """A value of an event as CEL sees it; what it cannot keep exactly appears as text."""
    match value:
        case None:
            return None
        case bool():
            return celtypes.BoolType(value)
        case int() if _INT_MIN <= value <= _INT_MAX:
            return celtypes.IntType(value)
        case int():
            return celtypes.StringType(str(value))
        case Decimal():
            return celtypes.StringType(plain(value) if value.is_finite() else str(value))
        case str():
            return celtypes.StringType(value)
        case Mapping():
            members = cast("Mapping[str, object]", value).items()
            return celtypes.MapType({celtypes.StringType(k): _cel(v) for k, v in members})
        case list() | tuple():
            return celtypes.ListType([_cel(each) for each in cast("Sequence[object]", value)])
        case _:
            raise InvalidInput(
                "a value of an event that no filter can read",
                field="data",
                remedy="send text, numbers, true, false, lists and objects",
            )


def _start(node: Tree[Token]) -> tuple[int | None, int | None]:
    return getattr(node.meta, "line", None), getattr(node.meta, "column", None)


def _place(line: int | None, column: int | None) -> str:
    return f" at line {line}, column {column}" if line and column and line > 0 else ""


def _refused(message: str, place: str = "", *, remedy: str | None = None) -> InvalidInput:
    return InvalidInput(f"{message}{place}", field="filter", remedy=remedy)
