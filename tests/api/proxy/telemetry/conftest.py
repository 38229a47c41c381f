"""Yards with limits are those of the tests of limits, fleets those of attempts."""

from __future__ import annotations

from tests.api.proxy.attempts.conftest import fleet, open_fleet
from tests.api.proxy.limits.conftest import limited

__all__ = ["fleet", "limited", "open_fleet"]
