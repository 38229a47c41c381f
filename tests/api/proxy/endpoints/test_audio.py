"""Transcriptions and translations: forms in, durations or tokens out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from billing.admission.route import Route
from billing.journal.records import Counts
from tests.api.proxy.endpoints.asks import ASKS, OF_RESPONSES, SOUND, whole
from tests.engines.test_multipart import Field, body_of

ASK = next(ask for ask in ASKS if ask.route is Route.TRANSCRIPTIONS)
TRANSLATION = next(ask for ask in ASKS if ask.route is Route.TRANSLATIONS)


async def test_body_reaches_the_engine_byte_for_byte_but_for_the_model(desk):
    fields = [Field("language", b"de"), SOUND, Field("timestamp_granularities[]", b"word")]
    await desk.ask(ASK, body_of([*fields, Field("model", b"hear")]))
    await desk.ask(ASK, body_of([*fields, Field("model", b"renamed-hear")]))
    same, renamed = desk.engine.seen
    assert same.body == body_of([*fields, Field("model", b"hear")])
    assert renamed.body == body_of([*fields, Field("model", b"up/own name")])
    assert renamed.headers["content-type"] == ASK.content_type.decode()
    assert renamed.headers["content-length"] == str(len(renamed.body))


async def test_a_large_sound_passes_whole(desk):
    sound = Field("file", bytes(range(256)) * (20 << 12), "long.wav")
    body = body_of([Field("model", b"renamed-hear"), sound])
    assert (await desk.ask(ASK, body)).status_code == 200
    assert desk.engine.seen[0].body == body_of([Field("model", b"up/own name"), sound])
    too_long = body_of([Field("model", b"hear"), Field("file", b"\0" * (33 << 20), "x")])
    assert (await desk.ask(ASK, too_long)).status_code == 413
    assert len(desk.engine.seen) == 1


@pytest.mark.parametrize(
    ("answer", "counts", "units"),
    [
        ({"usage": {"type": "duration", "seconds": 61}}, Counts(), {"audio.seconds": 61_000}),
        ({"usage": {"type": "duration", "seconds": 0.0001}}, Counts(), {"audio.seconds": 1}),
        ({"duration": 8.47, "language": "de"}, Counts(), {"audio.seconds": 8_470}),
        ({"duration": "8.47"}, Counts(), {"audio.seconds": 8_470}),
        (
            {"usage": {"type": "tokens", **OF_RESPONSES}},
            Counts(input=7, cached_input=4, output=5, reasoning=2),
            {},
        ),
    ],
)
async def test_duration_and_token_usage(desk, answer, counts, units):
    await desk.ask(replace(ASK, script=whole({"text": "ah", **answer})))
    usage = desk.journal.usage
    assert (usage.counts, usage.units, usage.estimated) == (counts, units, False)


async def test_an_answer_that_does_not_say_how_long_is_flagged(desk):
    await desk.ask(replace(TRANSLATION, script=whole({"text": "ah"})))
    usage = desk.journal.usage
    assert (usage.counts, usage.units, usage.estimated) == (Counts(), {}, True)
    assert desk.app.tally.anomalies["usage_missing"] == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ([SOUND], "model"),
        ([SOUND, Field("model", b"hear"), Field("model", b"no-price-hear")], None),
        ([SOUND, Field("model", b"hear"), Field("response_format", b"text")], "response_format"),
        ([SOUND, Field("model", b"hear"), Field("stream", b"true")], "stream"),
        ([SOUND, Field("model", b"hear"), Field("vllm_xargs", b"{}")], "vllm_xargs"),
    ],
)
async def test_forms_that_cannot_be_metered_go_no_further(desk, fields, param):
    answer = await desk.ask(ASK, body_of(fields))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert desk.engine.seen == []


async def test_one_content_type_decides(desk):
    client = await desk.raw()
    key = desk.http.headers["authorization"].encode()
    types = b"content-type: multipart/form-data; boundary=%b\r\n"
    await client.send(
        b"POST %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: %b\r\n"
        b"content-length: %d\r\n%b%b\r\n%b"
        % (
            ASK.route.value.encode(),
            key,
            len(ASK.body),
            types % b"b0und",
            types % b"other",
            ASK.body,
        )
    )
    assert (await client.rest()).startswith(b"HTTP/1.1 400")
    assert desk.engine.seen == []
