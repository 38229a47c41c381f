"""A proxy for properties: opened once, and driven from a test that is not a coroutine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.api.proxy.conftest import Yard, YardBuilder


@pytest.fixture
def loop_yard() -> Iterator[tuple[Callable[[Coroutine[Any, Any, Any]], Any], Yard]]:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        yard = runner.run(YardBuilder(stack)())
        yield runner.run, yard
        runner.run(stack.aclose())
