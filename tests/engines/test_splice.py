"""Splices against the standard library's JSON reader."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from billing.engines.splice import locate, splice
from billing.errors import InvalidInput
from tests.strategies import PATIENT

blanks = st.text(alphabet=" \t\r\n", max_size=2)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars.filter(lambda value: not isinstance(value, float) or abs(value) < 1e300),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["model", "stream", "usage", "n", "a\nb", "ü", '"', "\\", ""]) | st.text(
    max_size=4
)


@st.composite
def objects(draw) -> tuple[bytes, list[tuple[str, str]]]:
    """An object's text with odd blanks and escapes, and its members as texts."""
    members = draw(st.lists(st.tuples(keys, values), max_size=6, unique_by=lambda pair: pair[0]))
    texts = []
    for key, value in members:
        escaped = draw(st.booleans())
        try:
            name = json.dumps(key, ensure_ascii=escaped)
            text = json.dumps(value, ensure_ascii=draw(st.booleans()))
            (name + text).encode()
            "".join(json.loads(name)).encode()
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            assume(False)
        texts.append((name, text))
    parts = [
        f"{draw(blanks)}{name}{draw(blanks)}:{draw(blanks)}{text}{draw(blanks)}"
        for name, text in texts
    ]
    body = f"{draw(blanks)}{{{','.join(parts) or draw(blanks)}}}{draw(blanks)}"
    return body.encode(), texts


@PATIENT
@given(objects())
def test_members_lie_where_they_are_said_to(case):
    body, texts = case
    members = locate(body)
    assert list(members.spans) == [json.loads(name) for name, _ in texts]
    for (name, text), span in zip(texts, members.spans.values(), strict=True):
        assert body[span.start :].startswith(name.encode())
        assert body[span.value : span.end] == text.encode()
    assert splice(members, put={}) is body


@PATIENT
@given(objects(), st.sets(st.sampled_from(["model", "stream", "n", "usage"])), st.data())
def test_splice_changes_what_it_says_and_no_more(case, put_names, data):
    body, texts = case
    names = [json.loads(name) for name, _ in texts]
    drop = data.draw(st.sets(st.sampled_from(names)) if names else st.just(set())) - put_names
    put = {name: json.dumps(f"new {name}").encode() for name in sorted(put_names)}
    spliced = splice(locate(body), put=put, drop=drop)
    expected = {key: value for key, value in json.loads(body).items() if key not in drop}
    expected |= {name: json.loads(text) for name, text in put.items()}
    assert json.loads(spliced) == expected
    for name, text in texts:
        if json.loads(name) not in drop | put_names:
            assert text.encode() in spliced
            assert name.encode() in spliced


@PATIENT
@given(objects(), st.data())
def test_a_repeated_key_is_refused_wherever_it_stands(case, data):
    body, texts = case
    assume(texts)
    name, _ = data.draw(st.sampled_from(texts))
    spelled = json.dumps(json.loads(name), ensure_ascii=data.draw(st.booleans()))
    again = f"{spelled}:{json.dumps(data.draw(values))}".encode("utf-8", "replace")
    inner = body.strip()[1:-1]
    first = data.draw(st.booleans())
    repeated = b"{" + (again + b"," + inner if first else inner + b"," + again) + b"}"
    with pytest.raises(InvalidInput):
        locate(repeated)


@pytest.mark.parametrize(
    "body",
    [
        b'{"m":{"a":0,"x":[1,2,3]},"x":[1,2,3],"m":{"a":0,"x":[1,2,3]}}',
        b'{"m":1,"m":1}',
        b'{"m":12,"m":1}',
        b'{"m":"a","\\u006d":"a"}',
        b'{"m":{"m":1},"x":2,"m":{"m":1}}',
    ],
)
def test_crafted_repetitions(body):
    with pytest.raises(InvalidInput):
        locate(body)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"null", b"[]", b'{"a":1}x', b"{'a':1}", b'{"a":01}', b"\xef\xbb\xbf{}"]
)
def test_what_is_no_object_is_refused(body):
    with pytest.raises(InvalidInput):
        locate(body)
