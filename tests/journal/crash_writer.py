"""A process to be killed: it writes operations and prints what the journal acknowledged.

`python -m tests.journal.crash_writer <directory> <seed>`. Lines on standard output, each written
in one call: `I <id>` an intent is durable, `C <id> <n>` n tokens were delivered (before their
checkpoint is queued), `U <id> <n>` a usage of n output tokens is durable, `V <id>` a void is.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

from billing.journal.journal import Journal
from tests.journal.samples import checkpoint, intent, operation_id, usage, void


def say(*words: object) -> None:
    os.write(1, (" ".join(str(word) for word in words) + "\n").encode())


async def operate(journal: Journal, dice: random.Random, number: int) -> None:
    name = operation_id(number).hex()
    if dice.random() < 0.3:  # a request without a stream writes its usage alone
        await journal.append(usage(number, 3))
        say("U", name, 3)
        return
    await journal.append(intent(number))
    say("I", name)
    delivered = 0
    for step in range(dice.randrange(6)):
        delivered += dice.randrange(3)
        say("C", name, delivered)
        journal.append_soon(checkpoint(number, delivered, 2_000 + step))
        await asyncio.sleep(dice.random() / 500)
    if delivered:
        await journal.append(usage(number, delivered))
        say("U", name, delivered)
    else:
        await journal.append(void(number))
        say("V", name)


async def write(directory: Path, seed: int) -> None:
    journal = await Journal.open(directory, segment_bytes=20_000)
    say("READY", journal.directory)
    dice = random.Random(seed)

    async def keep_operating(worker: int) -> None:
        for count in range(1_000_000):
            await operate(journal, dice, worker << 32 | count)

    await asyncio.gather(*[keep_operating(worker) for worker in range(50)])


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), int(sys.argv[2])))
