"""Holds that go by how long answers are: what they learn, and that no limit suffers for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.proxy.app import system_clock
from api.proxy.holds import Holds
from api.proxy.likely_output import ENOUGH, FIRST, KNOWN, Lengths, LikelyOutput
from api.proxy.limit_errors import LimitReached
from billing.admission.amounts import Rates
from billing.admission.backend import Backend, ServedModel
from billing.admission.decision import Admission
from billing.admission.limit import Limit, Unit
from billing.admission.route import Route
from billing.admission.snapshot import KeyGrant
from billing.admission.terms import AdmissionPolicy, HoldSize, TenantTerms
from billing.engines.read_request import InferenceRequest, read_request
from billing.metering.token_class import TokenClass, TokenCounts
from tests.api.proxy.limits.conftest import BookedHolds, LimitedYards, limit_of
from tests.fake_engine.shapes import Behaviour

LIKELY = AdmissionPolicy(hold_size=HoldSize.LIKELY)
MODEL = ServedModel(
    id=1,
    name="tiny",
    backends=(Backend(name="b", base_url="http://127.0.0.1:9"),),
    classes=frozenset(TokenClass),
    max_output=4096,
)
RATES = Rates(input=10**6, output=10**6)  # a token costs one


def test_few_answers_say_nothing() -> None:
    lengths = Lengths()
    for _ in range(ENOUGH - 1):
        lengths.note(3, complete=True)
    assert lengths.likely == FIRST


@given(st.lists(st.integers(1, 100_000), min_size=ENOUGH, max_size=600))
def test_the_estimate_lies_at_one_and_a_half_of_the_99th_percentile(answers: list[int]) -> None:
    lengths = Lengths()
    for tokens in [*answers, *[min(answers)] * 31]:
        lengths.note(tokens, complete=True)
    seen = sorted([*answers, *[min(answers)] * 31])
    # Taken anew every few answers, and counted in steps of a fifth.
    assert lengths.likely <= seen[-1] * 3 * 5 // 8 + 2
    assert lengths.likely >= seen[-(len(seen) // 100) - 32] * 3 // 2


def test_one_outlier_among_many_is_forgotten() -> None:
    lengths = Lengths()
    for tokens in [90_000, *[20] * 4_000]:
        lengths.note(tokens, complete=True)
    assert 20 * 3 // 2 <= lengths.likely <= 40


def test_answers_that_were_cut_make_nothing_seem_short() -> None:
    lengths = Lengths()
    for _ in range(500):
        lengths.note(2, complete=False)
    assert lengths.likely == FIRST
    lengths.note(4_000, complete=False)
    assert lengths.likely >= 4_000


def test_what_is_remembered_is_bounded() -> None:
    likely = LikelyOutput()
    first = likely.of(0, 1, "/v1/chat/completions")
    assert likely.of(0, 1, "/v1/chat/completions") is first
    assert likely.of(0, 1, "/v1/completions") is not first
    for tenant_id in range(1, KNOWN):
        likely.of(tenant_id, 1, "/v1/chat/completions")
    assert likely.of(0, 1, "/v1/chat/completions") is not first


def admission(*limits: Limit) -> Admission:
    terms = TenantTerms(
        tenant_id=7, price_version_id=1, rates={"tiny": RATES}, limits=limits, policy=LIKELY
    )
    grant = KeyGrant(key_id=9, tenant_id=7, project_id=8, may_infer=True)
    return Admission(grant=grant, terms=terms, model=MODEL)


def request(*, stream: bool, most: int) -> InferenceRequest:
    text = '{"model":"tiny","messages":[],"max_tokens":%d,"stream":%s}'
    body = (text % (most, str(stream).lower())).encode()
    return read_request(body, route=Route.CHAT_COMPLETIONS)


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: what its client bounds it by, how long its answer comes out, its prompt."""

    stream: bool
    most: int
    output: int
    prompt: int


ANSWERS = st.builds(
    Answer,
    stream=st.booleans(),
    most=st.integers(1, 4_000),
    output=st.integers(0, 4_000),
    prompt=st.integers(0, 250),
)


async def serve(holds: Holds, port: BookedHolds, whose: Admission, answers: list[Answer]) -> int:
    """Serve several at once, each for one turn of the loop per 100 tokens; tokens delivered."""

    async def one(answer: Answer) -> int:
        try:
            holding = await holds.hold(whose, request(stream=answer.stream, most=answer.most))
        except LimitReached:
            return 0
        assert holding is not None
        output, delivered = min(answer.output, answer.most), 0
        while delivered < output:
            reaches = min(output, delivered + 100)
            await asyncio.sleep(0)
            if answer.stream:
                while not holding.covers(reaches):
                    if await holding.extend() is not None:
                        output = reaches = delivered
                        break
            delivered = reaches
        counts = TokenCounts(input=answer.prompt, output=delivered)
        holding.learn(delivered, complete=True)
        holding.release(holding.draws(counts, {}))
        return answer.prompt + delivered

    return sum(await asyncio.gather(*(one(answer) for answer in answers)))


@given(
    st.sampled_from([Unit.TOKENS, Unit.MONEY]),
    st.integers(1, 60_000),
    st.lists(ANSWERS, min_size=1, max_size=30),
)
@settings(max_examples=150, deadline=None)
def test_L6_no_limit_is_exceeded_whatever_was_likely(
    unit: Unit, capacity: int, answers: list[Answer]
) -> None:
    port = BookedHolds()
    limit = limit_of(capacity, unit)
    port.lease(limit)
    holds = Holds(port, system_clock)
    whose = admission(limit)
    used = sum(
        asyncio.run(serve(holds, port, whose, answers[at : at + 7]))
        for at in range(0, len(answers), 7)
    )
    (lease,) = port.book.leases.values()
    assert (lease.held, lease.drawn) == (0, used)
    assert used <= capacity


def test_L6_at_least_95_percent_are_usable() -> None:
    port = BookedHolds()
    limit = limit_of(200_000, Unit.TOKENS)
    port.lease(limit)
    holds = Holds(port, system_clock)
    whose = admission(limit)
    # Prompt 256 and 1,500 of output hold less than a hundredth; most answers outgrow what is held.
    streams = [Answer(stream=True, most=1_500, output=1_400, prompt=100)] * 20
    used, before = 0, -1
    while used != before:
        before = used
        used += asyncio.run(serve(holds, port, whose, streams))
    assert 190_000 <= used <= 200_000


def test_a_limit_that_only_counts_is_held_by_the_estimate() -> None:
    port = BookedHolds()
    hard, soft = limit_of(10**6, Unit.TOKENS), replace(limit_of(10**6, Unit.TOKENS), id=2)
    soft = replace(soft, name="soft", hard=False)
    for limit in (hard, soft):
        port.lease(limit)
    holds = Holds(port, system_clock)

    async def held(*, stream: bool) -> list[int]:
        holding = await holds.hold(admission(hard, soft), request(stream=stream, most=4_000))
        assert holding is not None
        amounts = [amount for _, amount in holding.held[0].parts]
        holding.release()
        return amounts

    prompt = asyncio.run(held(stream=True))[0] - FIRST
    assert asyncio.run(held(stream=True)) == [prompt + FIRST] * 2
    # A whole answer cannot be ended where its hold ends.
    assert asyncio.run(held(stream=False)) == [prompt + 4_000, prompt + FIRST]


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_that_were_served_teach_what_is_held(
    limited: LimitedYards, *, stream: bool
) -> None:
    world = await limited(limit_of(10**9, Unit.TOKENS, hard=False), policy=LIKELY)
    world.yard.engine.behaviour = Behaviour(tokens=40)
    for _ in range(ENOUGH + 31):
        answer = await world.yard.chat(max_tokens=4_000, stream=stream)
        assert answer.status_code == 200
    await world.yard.settled()
    world.yard.engine.behaviour = Behaviour(tokens=40, silent_ms=300)
    asked = asyncio.create_task(world.yard.chat(max_tokens=4_000, stream=stream))
    while not world.holds.held["budget"][0]:  # noqa: ASYNC110  # no event tells of a hold
        await asyncio.sleep(0.005)
    prompt = 256 + len('[{"role": "user", "content": "hi"}]')
    assert 60 <= world.holds.held["budget"][0] - prompt <= 80
    assert (await asked).status_code == 200
