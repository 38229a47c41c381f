"""Files that commands read; `-` is standard input. Refused before anything else happens."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from billing.errors import InvalidInput

STDIN = "-"


def read_bytes(path: str, *, field: str = "file") -> bytes:
    """The content of a small file.

    Raises:
        InvalidInput: it cannot be read.
    """
    with opened(path, field=field) as source:
        return source.read()


@contextmanager
def opened(path: str, *, field: str = "file") -> Generator[IO[bytes]]:
    """A file open for reading.

    Raises:
        InvalidInput: it cannot be opened.
    """
    if path == STDIN:
        yield sys.stdin.buffer
        return
    try:
        source = Path(path).open("rb")  # noqa: SIM115  # the block below closes it
    except OSError as error:
        raise InvalidInput(
            f"cannot be read ({(error.strerror or 'unknown reason').lower()})",
            field=field,
            remedy="check the path and its rights",
        ) from None
    with source:
        yield source


def text_of(content: bytes, *, field: str = "file") -> str:
    """Content as text.

    Raises:
        InvalidInput: not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInput("not UTF-8 text", field=field, remedy="save it as UTF-8") from None
