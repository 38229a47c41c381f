"""Checkpoints that become durable together share frames, and are read one by one."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import JournalError
from billing.journal import reader
from billing.journal.journal import Journal
from billing.journal.records import (
    PAYLOAD_LIMIT,
    Checkpoint,
    Checkpoints,
    Draw,
    decode,
    together,
)
from billing.journal.segment import HEADER_BYTES, frames
from tests.journal.samples import (
    CHECKPOINTS,
    all_records,
    checkpoint,
    intent,
    operation_id,
    usage,
)


@given(st.lists(CHECKPOINTS, max_size=6))
def test_what_is_put_together_is_what_it_was(records):
    found: list[Checkpoint] = []
    for payload in together(records):
        record = decode(payload)
        if isinstance(record, Checkpoints):
            found += record.items
        else:
            assert isinstance(record, Checkpoint)
            found.append(record)
    assert found == records


def test_no_frame_is_longer_than_may_be_read():
    records = [checkpoint(number, 2**53) for number in range(20_000)]
    payloads = together(records)
    assert 1 < len(payloads) <= 20
    assert max(map(len, payloads)) < PAYLOAD_LIMIT
    found = [decode(payload) for payload in payloads]
    assert [each for part in found if isinstance(part, Checkpoints) for each in part.items] == (
        records
    )


def test_frames_that_would_be_too_long_are_not_shared():
    many = tuple(Draw.of(lease, 1) for lease in range(300))
    records = [msgspec.structs.replace(checkpoint(number, 1), draws=many) for number in range(400)]
    payloads = together(records)
    assert [decode(payload) for payload in payloads] == records


async def test_a_checkpoint_that_cannot_be_encoded_keeps_out_those_beside_it(tmp_path):
    journal = await Journal.open(tmp_path)
    await journal.append(intent(1))
    with pytest.raises(JournalError, match="64 bits"):
        journal.append_checkpoints([checkpoint(1, 5), checkpoint(2, 2**64)])
    assert journal.statistics().backlog_records == 0
    journal.append_checkpoints([checkpoint(1, 6)])
    await journal.append(usage(2))
    assert all_records(journal.directory) == [intent(1), checkpoint(1, 6), usage(2)]
    await journal.close()


async def test_checkpoints_of_a_batch_share_a_frame(tmp_path):
    journal = await Journal.open(tmp_path)
    for number in range(100):
        await journal.append(intent(number))
    journal.append_checkpoints([checkpoint(number, 6) for number in range(100)])
    journal.append_checkpoints([checkpoint(number, 7) for number in range(100)])
    await journal.append(usage(0))
    (segment,) = reader.segments(journal.directory)
    content = memoryview(segment.path.read_bytes())
    assert sum(1 for _ in frames(content, HEADER_BYTES)) == 100 + 1 + 1
    assert journal.statistics().records == 201
    found = all_records(journal.directory)
    assert found[100:] == [*(checkpoint(number, 7) for number in range(100)), usage(0)]
    await journal.close()


async def test_each_is_carried_into_the_next_segment(tmp_path):
    journal = await Journal.open(tmp_path, segment_bytes=2_000)
    for number in range(3):
        await journal.append(intent(number))
        journal.append_soon(checkpoint(number, number + 1))
    while journal.statistics().segment == 1:
        await journal.append(usage(50))
    newest = reader.segments(journal.directory)[-1]
    carried = [record for record in reader.records_of(newest.path) if record.id != operation_id(50)]
    assert carried == [
        record for number in range(3) for record in (intent(number), checkpoint(number, number + 1))
    ]
    await journal.close()
