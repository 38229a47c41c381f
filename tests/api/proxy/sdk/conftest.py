"""The official clients, as they are installed, against a proxy in front of a scripted engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anthropic
import openai
import pytest

from tests.api.proxy.conftest import KEY
from tests.api.proxy.endpoints.conftest import Desk, desk

__all__ = ["desk"]


@pytest.fixture
async def openai_client(desk: Desk) -> AsyncIterator[openai.AsyncOpenAI]:
    base_url = f"http://127.0.0.1:{desk.port}/v1"
    async with openai.AsyncOpenAI(
        api_key=KEY, base_url=base_url, max_retries=0, timeout=10
    ) as client:
        yield client


@pytest.fixture
async def anthropic_client(desk: Desk) -> AsyncIterator[anthropic.AsyncAnthropic]:
    base_url = f"http://127.0.0.1:{desk.port}"
    async with anthropic.AsyncAnthropic(
        api_key=KEY, base_url=base_url, max_retries=0, timeout=10
    ) as client:
        yield client
