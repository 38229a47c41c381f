"""Forms with files (`multipart/form-data`), strictly read, with the offsets of their parts.

Decides: what is a form at all. Servers disagree about preambles, bare line feeds, doubled names,
transfer encodings and character sets; a form that two of them could read differently is refused,
or the model that was admitted could differ from the model that runs. Nothing is copied or decoded
but the heads of the parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from billing.errors import InvalidInput

MAX_PARTS = 32
MAX_HEAD_BYTES = 8 << 10

_QUOTED = rb"\"([0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-])\""
_TOKEN = rb"([0-9A-Za-z!#$%&'*+.^_`|~-]{1,70})"
# No other parameter: a charset would change what the texts of the form say.
_CONTENT_TYPE = re.compile(
    rb"[ \t]*multipart/form-data[ \t]*;[ \t]*boundary=(?:" + _QUOTED + rb"|" + _TOKEN + rb")"
    rb"(?:[ \t]*;[ \t]*charset=\"?utf-8\"?)?[ \t]*\Z",
    re.IGNORECASE,
)
_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}):[ \t]*([^\r\n\x00]*?)[ \t]*\Z")
_DISPOSITION = re.compile(
    rb"form-data((?:[ \t]*;[ \t]*[a-z]+\*?=(?:\"[^\"\\\r\n]*\"|[^\s\";]+))+)\Z", re.IGNORECASE
)
_PARAMETER = re.compile(rb";[ \t]*([a-z]+\*?)=(?:\"([^\"\\]*)\"|([^\s\";]+))", re.IGNORECASE)
_NAME = re.compile(rb"[A-Za-z0-9_.-]{1,64}(?:\[\])?\Z")
_PLAIN_ENCODINGS = frozenset({b"binary", b"8bit", b"7bit"})


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form.

    Attributes:
        name: of the field.
        file: it says that it is a file.
        start, end: byte offsets of its content in the body.
    """

    name: str
    file: bool
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Form:
    """A form and where its parts lie.

    Attributes:
        parts: in the order of the body; every name stands once, but for those that end in `[]`.
    """

    body: bytes
    parts: tuple[Part, ...]

    def part(self, name: str) -> Part | None:
        """The part of a name that stands once."""
        return next((part for part in self.parts if part.name == name), None)

    def text(self, name: str) -> str | None:
        """The text of a field; None where it is absent.

        Raises:
            InvalidInput: it is no UTF-8 text.
        """
        part = self.part(name)
        if part is None:
            return None
        try:
            return self.body[part.start : part.end].decode()
        except UnicodeDecodeError:
            raise InvalidInput("Must be text in UTF-8.", field=name) from None

    def replaced(self, name: str, content: bytes) -> bytes:
        """The body with another content of one field, and every other byte kept."""
        part = self.part(name)
        assert part is not None, "the field was read before"
        return b"".join((self.body[: part.start], content, self.body[part.end :]))


def read_form(body: bytes, content_type: bytes) -> Form:
    """Find the parts of a form.

    Args:
        content_type: value of the header.

    Raises:
        InvalidInput: not a form, or one that servers could read in different ways.
    """
    told = _CONTENT_TYPE.match(content_type)
    if told is None:
        raise InvalidInput(
            "The request body must be a form (multipart/form-data) with a boundary.",
            field="content-type",
        )
    delimiter = b"\r\n--" + (told[1] or told[2])
    parts = tuple(_parts(body, delimiter))
    names = [part.name for part in parts]
    if any(names.count(name) > 1 for name in names if not name.endswith("[]")):
        raise InvalidInput(
            "The form names a field more than once.", remedy="Send every field of the form once."
        )
    return Form(body, parts)


def _parts(body: bytes, delimiter: bytes) -> Iterator[Part]:
    opening = delimiter[2:] + b"\r\n"
    if not body.startswith(opening):
        raise _malformed("It does not begin with its boundary.")
    position = len(opening)
    for _ in range(MAX_PARTS):
        start = body.find(b"\r\n\r\n", position, position + MAX_HEAD_BYTES)
        if start < 0:
            raise _malformed("The head of a part has no end, or is too long.")
        name, file = _head(body[position:start])
        start += 4
        end = body.find(delimiter, start)
        if end < 0:
            raise _malformed("It does not end with its boundary.")
        yield Part(name, file, start, end)
        position = end + len(delimiter)
        mark = body[position : position + 2]
        position += 2
        if mark == b"--":
            if body[position:] not in {b"", b"\r\n"}:
                raise _malformed("Something follows its last boundary.")
            return
        if mark != b"\r\n":
            raise _malformed("Something follows a boundary on its line.")
    raise _malformed(f"It has more than {MAX_PARTS} parts.")


def _head(text: bytes) -> tuple[str, bool]:
    """Name of a part, and whether it is a file."""
    disposition: bytes | None = None
    for row in text.split(b"\r\n"):
        line = _LINE.match(row)
        if line is None:
            raise _malformed("The head of a part cannot be read.")
        field = line[1].lower()
        if field == b"content-disposition":
            if disposition is not None:
                raise _malformed("A part says twice what it is.")
            disposition = line[2]
        elif field == b"content-transfer-encoding" and line[2].lower() not in _PLAIN_ENCODINGS:
            raise _malformed("A part is encoded.")
    told = None if disposition is None else _DISPOSITION.match(disposition)
    if told is None:
        raise _malformed("A part does not say what it is.")
    found: dict[bytes, bytes] = {}
    for parameter in _PARAMETER.finditer(told[1]):
        key = parameter[1].lower()
        if key in found or key not in {b"name", b"filename", b"filename*"}:
            raise _malformed("A part says in two ways what it is.")
        found[key] = parameter[3] if parameter[2] is None else parameter[2]
    name = found.get(b"name", b"")
    if _NAME.match(name) is None:
        raise _malformed("A part has no usable name.")
    return name.decode(), b"filename" in found or b"filename*" in found


def _malformed(why: str) -> InvalidInput:
    return InvalidInput(f"The form cannot be read. {why}")
