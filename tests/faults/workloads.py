"""What clients ask for in fault tests: seeded, so that a failing round can be run again."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from os import environ
from typing import Protocol

from tests.faults.paced_engine import MODELS
from tests.faults.stream_client import Ask, Client, Told

FULL = environ.get("STEELYARD_ROUNDS") == "full"
"""The counts that are promised, instead of the few that fit into every run of the suite."""

CONCURRENCY = 50


class Clients(Protocol):
    """Whatever can be asked something."""

    def client(self, ask: Ask, /) -> Client: ...


def streams(chance: random.Random) -> list[Ask]:
    """Streams of all three shapes of engine."""
    return [
        Ask(
            model=MODELS[number % len(MODELS)],
            prompt=chance.randint(1, 40),
            tokens=chance.randint(1, 160),
            wants_usage=chance.random() < 0.5,
        )
        for number in range(CONCURRENCY)
    ]


def mixed(chance: random.Random) -> list[Ask]:
    """Streams, three in ten requests that are none, and clients that leave."""
    return [
        replace(
            ask,
            stream=number % 10 >= 3,
            leaves_after=chance.randint(1, 6000) if number % 5 == 4 else None,
        )
        for number, ask in enumerate(streams(chance))
    ]


def start_clients(
    group: asyncio.TaskGroup,
    clients: Clients,
    asks: list[Ask],
    chance: random.Random,
    *,
    over_ms: int,
) -> list[asyncio.Task[Told]]:
    """Start every client at an instant of its own within `over_ms`."""

    async def run(client: Client, delay_ms: int) -> Told:
        await asyncio.sleep(delay_ms / 1000)
        return await client.run()

    return [group.create_task(run(clients.client(ask), chance.randrange(over_ms))) for ask in asks]
