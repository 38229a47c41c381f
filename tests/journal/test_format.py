"""The bytes on the disk: round trips, torn tails, damage."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import JournalError
from billing.journal import instance, reader
from billing.journal.records import Closed, Counts, Draw, Record, decode, encode
from billing.journal.segment import (
    FRAME_BYTES,
    HEADER_BYTES,
    Header,
    frames,
    frames_bytes,
    header_bytes,
    parse_header,
)
from billing.metering.token_class import TokenCounts
from tests.journal.samples import RECORDS, checkpoint, intent, usage, void

FIRST_FORMAT = Path(__file__).with_name("golden") / "first_format.segment"
HEADER = Header(instance="made", number=1, head_bytes=HEADER_BYTES, created_at_us=5)


def dead_instance(directory: Path, *batches: list[Record]) -> tuple[Path, list[int]]:
    """A segment of a dead owner with these batches; its path and the offset of every batch."""
    content = header_bytes(HEADER)
    starts: list[int] = []
    for batch in batches:
        starts.append(len(content))
        content += frames_bytes([encode(record) for record in batch], len(content))
    path = instance.segment_path(directory, 1)
    path.write_bytes(content)
    instance.publish_gone(directory)
    return path, starts


def read_to_the_end(path: Path, limit_bytes: int = 10_000) -> tuple[list[Record], int]:
    """Every record up to the end of the log, and where that is."""
    records: list[Record] = []
    offset, at_end = 0, False
    while not at_end:
        page, offset, at_end = reader.read_from(path, offset, limit_bytes)
        records += page
    return records, offset


@given(RECORDS)
def test_a_record_reads_back_as_it_was_written(record):
    assert decode(encode(record)) == record


def test_a_segment_of_the_first_format_reads_back():
    """Written before records had draws, attempts and units: they read as empty."""
    content = FIRST_FORMAT.read_bytes()
    records = [decode(frame.payload) for frame in frames(memoryview(content), HEADER_BYTES)]
    assert records == [
        intent(1),
        intent(2),
        intent(3),
        checkpoint(1, 7),
        checkpoint(2, 9),
        usage(1),
        void(3),
        Closed(4_000),
    ]


@given(st.integers(min_value=-(2**127), max_value=2**127 - 1))
def test_an_amount_of_128_bits_survives_a_draw(amount):
    assert Draw.of(1, amount).units == amount
    assert len(Draw.of(1, amount).amount) == 16


@pytest.mark.parametrize("amount", [2**127, -(2**127) - 1])
def test_an_amount_beyond_128_bits_is_refused(amount):
    with pytest.raises(JournalError):
        Draw.of(1, amount)


@given(st.lists(RECORDS, max_size=5), st.integers(min_value=0, max_value=2**31))
def test_frames_read_back_in_order(records, start):
    content = frames_bytes([encode(record) for record in records], start)
    read = list(frames(memoryview(content), 0))
    assert [decode(frame.payload) for frame in read] == records
    assert {frame.batch_start for frame in read} <= {start}


def test_counts_are_the_core_value_on_the_wire():
    tokens = TokenCounts(input=1, cached_input=2, cache_write=3, output=4, reasoning=5)
    assert Counts.of(tokens).tokens() == tokens
    assert not Counts(output=1).is_zero
    assert Counts(reasoning=1).is_zero


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1])
def test_a_number_beyond_64_bits_is_refused_before_it_is_written(number):
    record = usage(1)
    record.raw["total_tokens"] = number
    with pytest.raises(JournalError):
        encode(record)


def test_a_record_over_the_limit_or_with_a_short_id_is_refused():
    long = usage(1)
    long.raw.update({f"{n:0100d}": n for n in range(12_000)})
    with pytest.raises(JournalError, match="1 MiB"):
        encode(long)
    short = checkpoint(1, 1)
    with pytest.raises(JournalError, match="16 bytes"):
        encode(type(short)(b"short", short.at_us, short.counts))


def test_a_header_reads_back():
    assert parse_header(header_bytes(HEADER), Path("x")) == HEADER


def test_another_format_version_is_refused_with_what_to_do(tmp_path):
    path, _ = dead_instance(tmp_path, [usage(1)])
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, 8, 99)
    path.write_bytes(content)
    with pytest.raises(JournalError, match="format 99") as refused:
        reader.read_from(path)
    assert refused.value.remedy


def test_a_file_that_is_no_segment_is_refused(tmp_path):
    path = instance.segment_path(tmp_path, 1)
    path.write_bytes(b"hello")
    with pytest.raises(JournalError, match="not a journal segment"):
        reader.read_from(path)


def test_a_damaged_header_is_refused(tmp_path):
    path, _ = dead_instance(tmp_path, [usage(1)])
    whole = path.read_bytes()
    for position in range(12, HEADER_BYTES):
        damaged = bytearray(whole)
        damaged[position] ^= 0x40
        path.write_bytes(damaged)
        with pytest.raises(JournalError, match="damaged at offset 0"):
            reader.read_from(path)


def test_a_record_of_an_unknown_kind_is_named_with_its_offset(tmp_path):
    path, _ = dead_instance(tmp_path, [usage(1)])
    content = path.read_bytes()
    end = len(content)
    path.write_bytes(content + frames_bytes([b"\x92\x63\x01"], end))
    with pytest.raises(JournalError, match=f"offset {end}") as refused:
        reader.read_from(path)
    assert "000001.seg" in str(refused.value)


def test_a_tail_torn_at_any_byte_ends_the_log(tmp_path):
    kept: list[Record] = [intent(1), usage(1)]
    path, starts = dead_instance(tmp_path, kept, [usage(2)])
    whole = path.read_bytes()
    for length in range(starts[1], len(whole)):
        path.write_bytes(whole[:length])
        assert read_to_the_end(path) == (kept, starts[1])
    path.write_bytes(whole)
    assert read_to_the_end(path) == ([*kept, usage(2)], len(whole))


def test_a_tail_of_zeros_ends_the_log(tmp_path):
    path, starts = dead_instance(tmp_path, [usage(1)], [usage(2)])
    whole = path.read_bytes()
    path.write_bytes(whole[: starts[1]] + bytes(4096))
    assert read_to_the_end(path) == ([usage(1)], starts[1])


def test_a_hole_in_the_last_batch_ends_the_log(tmp_path):
    """After a power cut its later pages may be there and earlier ones not: nobody was told."""
    path, starts = dead_instance(tmp_path, [usage(1)], [usage(2), usage(3)])
    content = bytearray(path.read_bytes())
    content[starts[1] : starts[1] + 30] = bytes(30)
    path.write_bytes(content)
    assert read_to_the_end(path) == ([usage(1)], starts[1])


def test_damage_in_acknowledged_records_is_named_at_every_byte(tmp_path):
    path, starts = dead_instance(tmp_path, [intent(1)], [usage(2), void(3)], [usage(4)])
    whole = path.read_bytes()
    second_frame = starts[1] + FRAME_BYTES + len(encode(usage(2)))
    for position in range(starts[0], starts[2]):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        if position < starts[1]:
            frame, before = starts[0], []
        elif position < second_frame:
            frame, before = starts[1], [intent(1)]
        else:
            frame, before = second_frame, [intent(1), usage(2)]
        offset = 0
        if before:
            page = reader.read_from(path)
            assert (page.records, page.at_end) == (before, False)
            offset = page.next_offset
        with pytest.raises(JournalError, match=rf"000001\.seg is damaged at offset {frame}"):
            reader.read_from(path, offset)


def test_a_sealed_segment_may_not_be_torn(tmp_path):
    path, starts = dead_instance(tmp_path, [usage(1)])
    path.write_bytes(path.read_bytes()[:-1])
    assert read_to_the_end(path) == ([], starts[0])
    instance.segment_path(tmp_path, 2).write_bytes(b"")
    with pytest.raises(JournalError, match="damaged"):
        reader.read_from(path)


def test_carried_records_may_not_be_torn(tmp_path):
    path, starts = dead_instance(tmp_path, [intent(1)])
    whole = path.read_bytes()
    head = Header(instance="made", number=1, head_bytes=len(whole), created_at_us=5)
    path.write_bytes(header_bytes(head) + whole[HEADER_BYTES:-1] + b"\xff")
    with pytest.raises(JournalError, match=f"damaged at offset {starts[0]}"):
        reader.read_from(path)


def test_a_small_page_limit_pages_through_everything(tmp_path):
    records: list[Record] = [usage(n) for n in range(20)]
    path, _ = dead_instance(tmp_path, records)
    for limit in (1, 100, 333, 10_000):
        assert read_to_the_end(path, limit)[0] == records
    assert list(reader.records_of(path)) == records
