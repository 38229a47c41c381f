"""Failures that are kept until somebody can be told.

Decides: that what is kept is not what is raised. An exception knows the frames that it passed, and
they know who keeps it: a circle that would wait for the garbage collector.
"""

from __future__ import annotations

from typing import TypeVar

Failure = TypeVar("Failure", bound=Exception)


def anew(kept: Failure) -> Failure:
    """The same failure, to be raised. Its constructor is not asked: what it was given is gone."""
    kind = type(kept)
    again = kind.__new__(kind, *kept.args)
    again.__dict__.update(kept.__dict__)
    return again
