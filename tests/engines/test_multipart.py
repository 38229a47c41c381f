"""Forms: exact offsets, or refused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.engines.multipart import MAX_PARTS, Form, read_form
from billing.errors import InvalidInput

TYPE = b"multipart/form-data; boundary=b0und"


@dataclass(frozen=True)
class Field:
    name: str
    content: bytes
    filename: str | None = None

    def text(self) -> bytes:
        file = "" if self.filename is None else f'; filename="{self.filename}"'
        return f'Content-Disposition: form-data; name="{self.name}"{file}\r\n\r\n'.encode() + (
            self.content
        )


def body_of(fields: list[Field], boundary: bytes = b"b0und", tail: bytes = b"\r\n") -> bytes:
    parts = b"".join(b"--" + boundary + b"\r\n" + field.text() + b"\r\n" for field in fields)
    return parts + b"--" + boundary + b"--" + tail


NAMES = st.from_regex(r"\A[a-z_]{1,8}(\[\])?\Z")
# Contents that look like the grammar around them, but for the delimiter itself.
CONTENTS = (
    st.lists(
        st.sampled_from(
            [b"\r\n", b"--", b"b0un", b"\n", b"\r", b"\0", b"\xff", b"a", b'"', b"--b"]
        ),
        max_size=12,
    )
    .map(b"".join)
    .filter(lambda content: b"\r\n--b0und" not in b"\r\n" + content)
)
FIELDS = st.lists(
    st.builds(Field, NAMES, CONTENTS, st.none() | st.just("a;b.wav")),
    min_size=1,
    max_size=6,
    unique_by=lambda field: field.name,
)


def contents(form: Form) -> list[tuple[str, bool, bytes]]:
    return [(part.name, part.file, form.body[part.start : part.end]) for part in form.parts]


@given(fields=FIELDS, tail=st.sampled_from([b"", b"\r\n"]))
def test_offsets_are_exact(fields, tail):
    form = read_form(body_of(fields, tail=tail), TYPE)
    wanted = [(one.name, one.filename is not None, one.content) for one in fields]
    assert contents(form) == wanted


@given(fields=FIELDS, data=st.data())
def test_a_torn_form_is_refused(fields, data):
    whole = body_of(fields, tail=b"")
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(InvalidInput):
        read_form(whole[:cut], TYPE)


@given(fields=FIELDS, data=st.data())
def test_a_doubled_name_is_refused_unless_it_is_a_list(fields, data):
    again = data.draw(st.sampled_from(fields))
    doubled = body_of([*fields, Field(again.name, b"other")])
    if again.name.endswith("[]"):
        assert contents(read_form(doubled, TYPE))[-1] == (again.name, False, b"other")
    else:
        with pytest.raises(InvalidInput):
            read_form(doubled, TYPE)


@given(fields=FIELDS, data=st.data())
def test_a_form_with_other_bytes_is_refused_or_read_as_it_then_is(fields, data):
    """Whatever is changed, what is read is what the delimiter cuts out, and nothing overlaps."""
    text = bytearray(body_of(fields))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"", b"\n", b"-"])
        )
    try:
        form = read_form(bytes(text), TYPE)
    except InvalidInput:
        return
    position = 0
    for part in form.parts:
        assert position < part.start <= part.end
        assert b"\r\n--b0und" not in form.body[part.start : part.end]
        assert form.body.startswith(b"\r\n--b0und", part.end)
        position = part.end


@given(fields=FIELDS, data=st.data(), content=st.binary(max_size=20))
def test_one_field_is_replaced_and_nothing_else(fields, data, content):
    single = [one for one in fields if not one.name.endswith("[]")]
    if not single:
        return
    chosen = data.draw(st.sampled_from(single))
    form = read_form(body_of(fields), TYPE)
    wanted = [Field(one.name, content, one.filename) if one is chosen else one for one in fields]
    assert form.replaced(chosen.name, content) == body_of(wanted)


@pytest.mark.parametrize(
    "content_type",
    [
        b"",
        b"application/json",
        b"multipart/form-data",
        b"multipart/mixed; boundary=b0und",
        b"multipart/form-data; boundary=",
        b"multipart/form-data; boundary=" + b"x" * 71,
        b"multipart/form-data; boundary=b0und; boundary=other",
        b"multipart/form-data; charset=utf-16; boundary=b0und",
        b"multipart/form-data; boundary=b0und; charset=utf-7",
        b'multipart/form-data; boundary="b0und',
        b'multipart/form-data; boundary="b\\0und"',
        b"multipart/form-data; boundary=b0 und",
        b"multipart/form-data, multipart/form-data; boundary=b0und",
    ],
)
def test_types_without_one_clear_boundary_are_refused(content_type):
    with pytest.raises(InvalidInput):
        read_form(body_of([Field("model", b"m")]), content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        b"multipart/form-data;boundary=b0und",
        b'Multipart/Form-Data; Boundary="b0und"',
        b"multipart/form-data; boundary=b0und; charset=utf-8",
    ],
)
def test_types_as_clients_write_them(content_type):
    assert read_form(body_of([Field("model", b"m")]), content_type).text("model") == "m"


HEAD = b'Content-Disposition: form-data; name="model"'


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"Content-Type: text/plain",
        HEAD + b"\r\n" + HEAD,
        HEAD + b'\r\ncontent-disposition: form-data; name="other"',
        HEAD + b'; name="other"',
        HEAD + b"; name*=utf-8''other",
        HEAD + b'; size="3"',
        b'Content-Disposition: attachment; name="model"',
        b'Content-Disposition: form-data; name="mo\\"del"',
        b"Content-Disposition: form-data; filename=x",
        b'Content-Disposition: form-data; name=""',
        b'Content-Disposition: form-data; name="m\xc3\xb6del"',
        b'Content-Disposition : form-data; name="model"',
        HEAD + b"\r\n folded: yes",
        HEAD + b"\nX: y",
        HEAD + b"\r\nContent-Transfer-Encoding: base64",
        HEAD + b"\r\nContent-Transfer-Encoding: quoted-printable",
        HEAD + b"\r\nX-Long: " + b"x" * (8 << 10),
    ],
)
def test_heads_that_servers_could_read_differently_are_refused(head):
    with pytest.raises(InvalidInput):
        read_form(b"--b0und\r\n" + head + b"\r\n\r\nm\r\n--b0und--\r\n", TYPE)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b0und--",
        b"\r\n" + body_of([Field("model", b"m")]),
        b"preamble\r\n" + body_of([Field("model", b"m")]),
        body_of([Field("model", b"m")], tail=b"\r\nepilogue"),
        body_of([Field("model", b"m")]).replace(b"\r\n", b"\n"),
        body_of([Field("model", b"m")], boundary=b"b0und2"),
        body_of([Field("model", b"m")]).replace(b"--b0und--", b"--b0und --"),
        body_of([Field("model", b"m\r\n--b0undx")]),
        body_of([Field(f"f{n}", b"") for n in range(MAX_PARTS + 1)]),
    ],
)
def test_bodies_that_are_no_plain_form_are_refused(body):
    with pytest.raises(InvalidInput):
        read_form(body, TYPE)


def test_a_form_inside_a_part_is_content():
    inner = body_of([Field("model", b"inner")], boundary=b"other")
    form = read_form(body_of([Field("file", inner, "x"), Field("model", b"outer")]), TYPE)
    assert form.text("model") == "outer"
    assert contents(form)[0][2] == inner


def test_values_are_never_repeated_in_refusals():
    with pytest.raises(InvalidInput) as refused:
        read_form(body_of([Field("model", b"secret"), Field("model", b"secret")]), TYPE)
    assert "secret" not in str(refused.value)
    with pytest.raises(InvalidInput) as refused:
        read_form(body_of([Field("model", b"\xff")]), TYPE).text("model")
    assert refused.value.field == "model"
