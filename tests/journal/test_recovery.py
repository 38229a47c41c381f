"""What an operation that was cut off is worth."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from billing.journal.records import Attempted, Checkpoint, Counts, Draw, Intent, Usage, Void
from billing.journal.recovery import recover
from tests.journal.samples import (
    ATTRIBUTION,
    RECORDS,
    checkpoint,
    intent,
    operation_id,
    usage,
    void,
)


def test_a_stream_that_was_cut_is_billed_its_last_checkpoint():
    records = [intent(1), checkpoint(1, 7, 2_000), checkpoint(1, 9, 3_000)]
    assert recover(records) == [
        Usage(
            id=operation_id(1),
            at_us=3_000,
            attribution=ATTRIBUTION,
            counts=Counts(input=5, output=9),
            raw={},
            cause="recovered",
            estimated=True,
            ttft_us=0,
            duration_us=2_000,
        )
    ]


def test_an_operation_that_delivered_nothing_is_void():
    empty = Checkpoint(operation_id(2), 4_000, Counts(reasoning=3))
    assert recover([intent(1), intent(2), empty]) == [
        Void(operation_id(1), 1_000, ATTRIBUTION, "crash"),
        Void(operation_id(2), 4_000, ATTRIBUTION, "crash"),
    ]


FAILED = Attempted(0, 10, "pool-b", 1_000, 50, "refused")


def test_draws_and_units_are_the_checkpoints_and_attempts_the_longest_intents():
    tried = Intent(operation_id(1), 1_500, ATTRIBUTION, (FAILED,))
    delivered = Checkpoint(
        operation_id(1), 2_000, Counts(output=7), (Draw.of(3, 10**20),), {"images": 1}
    )
    for records in ([intent(1), tried, delivered], [tried, delivered, intent(1)]):
        (outcome,) = recover(records)
        assert isinstance(outcome, Usage)
        assert outcome.attempts == (FAILED,)
        assert outcome.draws == delivered.draws
        assert outcome.units == {"images": 1}
        assert outcome.duration_us == 500


def test_a_void_keeps_the_attempts_that_failed():
    tried = Intent(operation_id(1), 1_500, ATTRIBUTION, (FAILED,))
    assert recover([intent(1), tried]) == [
        Void(operation_id(1), 1_500, ATTRIBUTION, "crash", (FAILED,))
    ]


def test_units_alone_are_billed():
    spoken = Checkpoint(operation_id(1), 2_000, Counts(), (), {"speech.characters": 12})
    (outcome,) = recover([intent(1), spoken])
    assert isinstance(outcome, Usage)
    assert outcome.units == {"speech.characters": 12}


def test_a_complete_operation_is_left_alone():
    assert recover([intent(1), checkpoint(1, 3), usage(1), intent(2), void(2), usage(3)]) == []


def test_a_checkpoint_without_its_intent_is_worth_nothing():
    assert recover([checkpoint(1, 3)]) == []


# Few ids, so that records of one operation meet; intents of one
# operation differ by their attempts only.
_IDS = st.sampled_from([operation_id(n) for n in range(4)])
_STORIES = st.lists(
    st.one_of(
        _IDS.map(lambda i: Intent(i, 1_000, ATTRIBUTION)),
        _IDS.map(lambda i: Intent(i, 1_000, ATTRIBUTION, (FAILED,))),
        st.builds(
            Checkpoint,
            _IDS,
            st.integers(0, 5),
            st.builds(Counts, st.integers(0, 2), st.just(0), st.just(0), st.integers(0, 2)),
            st.lists(st.builds(Draw.of, st.integers(1, 2), st.integers(0, 2)), max_size=2).map(
                tuple
            ),
            st.dictionaries(st.sampled_from(["images"]), st.integers(0, 2)),
        ),
        _IDS.map(lambda i: Void(i, 1, ATTRIBUTION, "x")),
    ),
    max_size=30,
)


@given(_STORIES, st.randoms(use_true_random=False))
def test_L4_order_and_repetition_do_not_change_what_is_recovered(records, random):
    permuted = records + random.choices(records, k=10) if records else []
    random.shuffle(permuted)
    assert recover(permuted) == recover(records)


@given(_STORIES)
def test_L5_recovery_is_complete_and_repeats_to_nothing(records):
    recovered = recover(records)
    intents = {r.id for r in records if isinstance(r, Intent)}
    done = {r.id for r in records if isinstance(r, Void)}
    assert [r.id for r in recovered] == sorted(intents - done)
    assert recover([*records, *recovered]) == []


@given(_STORIES)
def test_the_last_checkpoint_is_what_is_billed(records):
    for outcome in recover(records):
        mine = [r for r in records if isinstance(r, Checkpoint) and r.id == outcome.id]
        last = max((c.at_us for c in mine), default=None)
        if isinstance(outcome, Usage):
            assert outcome.counts in [c.counts for c in mine if c.at_us == last]
            assert outcome.at_us == last
            assert outcome.estimated
        else:
            assert last is None or any(c.is_zero for c in mine if c.at_us == last)


@given(st.lists(RECORDS, max_size=20))
def test_any_records_at_all_can_be_recovered_from(records):
    assert recover([*records, *recover(records)]) == []
