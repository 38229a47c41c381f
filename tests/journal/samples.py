"""Records, strategies and disks that the journal's tests share."""

from __future__ import annotations

import errno
import os
import threading
import uuid
from collections.abc import Iterable
from pathlib import Path

from hypothesis import strategies as st

from billing.journal import reader
from billing.journal.disk import Disk
from billing.journal.records import (
    Attempted,
    Attribution,
    Checkpoint,
    Counts,
    Draw,
    Intent,
    Record,
    Usage,
    Void,
)

ATTRIBUTION = Attribution(
    tenant_id=7,
    project_id=8,
    key_id=9,
    model_id=10,
    price_version_id=11,
    backend="pool-a",
    route="/v1/chat/completions",
    stream=True,
    served_model="llama",
)


def operation_id(number: int) -> bytes:
    """A distinct id per number."""
    return uuid.UUID(int=number).bytes


def intent(number: int, at_us: int = 1_000) -> Intent:
    return Intent(operation_id(number), at_us, ATTRIBUTION)


def checkpoint(number: int, output: int, at_us: int = 2_000) -> Checkpoint:
    return Checkpoint(operation_id(number), at_us, Counts(input=5, output=output))


def usage(number: int, output: int = 40) -> Usage:
    return Usage(
        id=operation_id(number),
        at_us=3_000,
        attribution=ATTRIBUTION,
        counts=Counts(input=5, output=output),
        raw={"prompt_tokens": 5, "completion_tokens": output},
        cause="completed",
        estimated=False,
        ttft_us=10,
        duration_us=20,
    )


def void(number: int) -> Void:
    return Void(operation_id(number), 3_000, ATTRIBUTION, "client_left")


def all_records(instance_dir: Path) -> list[Record]:
    """Every record that a reader can see now, carried ones included."""
    return [
        record
        for segment in reader.segments(instance_dir)
        for record in reader.records_of(segment.path)
    ]


def ids(records: Iterable[Record]) -> set[bytes]:
    return {record.id for record in records}


_NUMBERS = st.integers(min_value=0, max_value=2**63 - 1)
_IDS = st.binary(min_size=16, max_size=16)
_COUNTS = st.builds(Counts, _NUMBERS, _NUMBERS, _NUMBERS, _NUMBERS, _NUMBERS)
_ATTRIBUTIONS = st.builds(
    Attribution,
    tenant_id=_NUMBERS,
    project_id=_NUMBERS,
    key_id=_NUMBERS,
    model_id=_NUMBERS,
    price_version_id=_NUMBERS,
    backend=st.text(max_size=40),
    route=st.text(max_size=40),
    stream=st.booleans(),
    served_model=st.text(max_size=40),
    kind=st.integers(min_value=0, max_value=4),
    run_id=st.text(max_size=20),
    step_id=st.text(max_size=20),
    agent_id=st.text(max_size=20),
    traced=st.booleans(),
)
_DRAWS = st.lists(
    st.builds(Draw.of, _NUMBERS, st.integers(min_value=-(2**127), max_value=2**127 - 1)),
    max_size=3,
).map(tuple)
_ATTEMPTS = st.lists(
    st.builds(
        Attempted, _NUMBERS, _NUMBERS, st.text(max_size=20), _NUMBERS, _NUMBERS, st.text(max_size=9)
    ),
    max_size=3,
).map(tuple)
_UNITS = st.dictionaries(st.text(max_size=20), _NUMBERS, max_size=3)
CHECKPOINTS = st.builds(Checkpoint, _IDS, _NUMBERS, _COUNTS, _DRAWS, _UNITS)
RECORDS: st.SearchStrategy[Record] = st.one_of(
    st.builds(Intent, _IDS, _NUMBERS, _ATTRIBUTIONS, _ATTEMPTS),
    CHECKPOINTS,
    st.builds(
        Usage,
        id=_IDS,
        at_us=_NUMBERS,
        attribution=_ATTRIBUTIONS,
        counts=_COUNTS,
        raw=st.dictionaries(st.text(max_size=20), _NUMBERS, max_size=6),
        cause=st.sampled_from(
            ["completed", "client_left", "upstream_broke", "timeout", "drained", "recovered"]
        ),
        estimated=st.booleans(),
        ttft_us=_NUMBERS,
        duration_us=_NUMBERS,
        draws=_DRAWS,
        attempts=_ATTEMPTS,
        units=_UNITS,
    ),
    st.builds(Void, _IDS, _NUMBERS, _ATTRIBUTIONS, st.text(max_size=20), _ATTEMPTS),
)


class TwoStepDisk(Disk):
    """A disk that writes and syncs in two calls, so that a test can break either."""

    def write_through(self, descriptor: int, content: bytes, offset: int) -> None:
        self.write(descriptor, content, offset)
        self.sync(descriptor)


class GatedDisk(TwoStepDisk):
    """A disk whose syncs can be made to wait, and are counted."""

    def __init__(self) -> None:
        self.syncs = 0
        self.syncing = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def sync(self, descriptor: int) -> None:
        self.syncs += 1
        self.syncing.set()
        assert self.gate.wait(60)
        super().sync(descriptor)

    def close_gate(self) -> None:
        self.syncing.clear()
        self.gate.clear()


class FullDisk(TwoStepDisk):
    """A disk that, while `full`, takes a part of what is written and then refuses."""

    def __init__(self, taken: int = 10) -> None:
        self.full = False
        self.taken = taken

    def write(self, descriptor: int, content: bytes, offset: int) -> None:
        if self.full:
            os.pwrite(descriptor, content[: self.taken], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(descriptor, content, offset)


class DyingDisk(TwoStepDisk):
    """A disk whose syncs fail while `dying`."""

    def __init__(self) -> None:
        self.dying = False

    def sync(self, descriptor: int) -> None:
        if self.dying:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync(descriptor)
