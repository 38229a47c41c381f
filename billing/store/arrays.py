"""Arrays as PostgreSQL reads them: a page's columns, written at once.

The driver looks at every element of a list on its own, which took a third of the time of posting a
page. Decides no type: the statement casts (`CAST(:numbers AS integer[])`).
"""

from __future__ import annotations

from collections.abc import Iterable


def plain_array(values: Iterable[object]) -> str:
    """An array of what needs no quotes: numbers, ids, dates and instants, names of codes; None."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def text_array(values: Iterable[str]) -> str:
    """An array of texts, whatever is in them."""
    quoted = [value.replace("\\", "\\\\").replace('"', '\\"') for value in values]
    return '{"' + '","'.join(quoted) + '"}' if quoted else "{}"
