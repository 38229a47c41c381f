"""Ids of operations are what RFC 9562 says, whichever of a stock's they are."""

from __future__ import annotations

from uuid import RFC_4122, UUID

from api.proxy.ids import Mint, id_of, shown

NOW_US = 1_794_000_000_123_456
COUNT = 1_000


def test_ids_are_of_version_7_and_their_millisecond_and_no_two_are_equal():
    mint = Mint()
    ids = [mint(NOW_US) for _ in range(COUNT)]
    assert len(set(ids)) == COUNT
    assert {(UUID(bytes=each).version, UUID(bytes=each).variant) for each in ids} == {(7, RFC_4122)}
    assert {int.from_bytes(each[:6]) for each in ids} == {NOW_US // 1000}
    assert id_of(shown(ids[0])) == ids[0]


def test_every_other_bit_is_random():
    ids = [int.from_bytes(Mint()(NOW_US)[6:]) for _ in range(COUNT)]
    ever = always = ids[0]
    for each in ids:
        ever, always = ever | each, always & each
    assert (ever, always) == ((0x7FFF << 64) | ((0xBF << 56) | (1 << 56) - 1), (0x7000_80 << 56))
