"""Yards with limits are those of the tests of limits."""

from __future__ import annotations

from tests.api.proxy.limits.conftest import limited

__all__ = ["limited"]
