"""What a crowd of requests took is given back once it has gone, and seldom."""

from __future__ import annotations

import subprocess
import sys

from api.proxy.crowds import BUSY_REST_MS, CROWD, REST_MS, SHARE_LEFT, Crowds

PAGES = """
import gc, sys
from pathlib import Path
from api.interpreter import give_back_freed_memory, keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

keep_freed_memory()
before = resident()
blocks = [bytearray(6_000) for _ in range(20_000)]
kept = blocks[::100]
peak = resident()
del blocks
give_back_freed_memory()
print(before, peak, resident())
"""


def test_what_is_free_between_blocks_in_use_is_given_back() -> None:
    told = subprocess.run(
        [sys.executable, "-c", PAGES], check=True, capture_output=True, text=True
    ).stdout
    before, peak, after = map(int, told.split())
    assert (after - before) * 2 < peak - before


def test_a_crowd_is_over_once_hardly_anybody_is_left_and_only_once() -> None:
    crowds = Crowds()
    assert not crowds.gone(CROWD, 0)
    assert not crowds.gone(CROWD // SHARE_LEFT + 1, 500)
    assert crowds.gone(CROWD // SHARE_LEFT, 1_000)
    assert not crowds.gone(0, 1_500)
    assert not crowds.gone(0, 1_000 + 2 * REST_MS)


def test_few_requests_are_no_crowd() -> None:
    crowds = Crowds()
    assert not crowds.gone(CROWD - 1, 0)
    assert not crowds.gone(0, 1_000)


def test_crowds_in_a_row_are_given_back_seldom() -> None:
    crowds = Crowds()
    crowds.gone(CROWD, 0)
    assert crowds.gone(0, 1)
    crowds.gone(CROWD, 2)
    assert not crowds.gone(0, REST_MS)
    assert crowds.gone(0, REST_MS + 1)


def test_nobody_is_made_to_wait_as_often_as_nobody_is_there() -> None:
    crowds = Crowds()
    crowds.gone(CROWD, 0)
    assert crowds.gone(1, 1)
    crowds.gone(CROWD, 2)
    assert not crowds.gone(1, BUSY_REST_MS)
    assert crowds.gone(1, BUSY_REST_MS + 1)
    crowds.gone(CROWD, BUSY_REST_MS + 2)
    assert crowds.gone(0, BUSY_REST_MS + 1 + REST_MS)
