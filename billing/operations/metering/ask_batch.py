"""Ask a backend about a batch, and read its results while they arrive.

Decides how long a backend may take, and what its answers mean: what it no longer has is another
thing than a backend that does not answer, of which nothing follows.
"""

from __future__ import annotations

from collections.abc import Generator
from datetime import datetime
from urllib.parse import quote

import httpx

from billing.admission.route import Route
from billing.engines.batch_lines import BatchLine, read_batch
from billing.engines.batch_status import (
    BatchStatus,
    ListedBatch,
    read_batch_list,
    read_batch_status,
)
from billing.errors import NotFound, UpstreamUnavailable
from billing.planfiles.backend_file import BackendSpec

TIMEOUT_MS = 10_000
"""Longest silence of a backend, also in the middle of a file."""

STATUS_BYTES_MAX = 1 << 20
LIST_BYTES_MAX = 16 << 20
LISTED_AT_ONCE = 100
LISTS_MAX = 100
OK = 200
GONE = frozenset({404, 410})


def batch_client() -> httpx.Client:
    """A client for a turn of settlements. It follows no redirect and no proxy."""
    timeout = TIMEOUT_MS / 1000  # float: httpx counts in seconds
    return httpx.Client(timeout=timeout, trust_env=False)


def ask_batch(client: httpx.Client, backend: BackendSpec, batch_id: str) -> BatchStatus:
    """What the backend says of a batch now.

    Raises:
        NotFound: it has no such batch.
        UpstreamUnavailable: no answer that says anything.
        UpstreamError: an answer that is no batch.
    """
    path = f"/v1/batches/{quote(batch_id, safe='')}"
    return read_batch_status(_whole(client, backend, path, most=STATUS_BYTES_MAX))


def list_batches(
    client: httpx.Client, backend: BackendSpec, *, since: datetime
) -> list[ListedBatch]:
    """The batches that a backend has, newest first, as far back as `since`.

    Raises:
        UpstreamError: no list, or none that ends.
    """
    found: list[ListedBatch] = []
    path = f"/v1/batches?limit={LISTED_AT_ONCE}"
    for _ in range(LISTS_MAX):
        try:
            listed, more = read_batch_list(_whole(client, backend, path, most=LIST_BYTES_MAX))
        except NotFound:
            raise UpstreamUnavailable("the backend lists no batches") from None
        found += [each for each in listed if not each.older_than(since)]
        if not more or not listed or listed[-1].older_than(since):
            return found
        path = f"/v1/batches?limit={LISTED_AT_ONCE}&after={quote(listed[-1].id, safe='')}"
    raise UpstreamUnavailable("the backend's list of batches is too long")


def read_results(
    client: httpx.Client, backend: BackendSpec, file_id: str, *, route: Route, passed: int
) -> Generator[BatchLine]:
    """The lines of a result file, without the first `passed`.

    Raises:
        NotFound: the backend has no such file.
        UpstreamUnavailable: no answer, or the file broke off: its next lines are unknown.
    """
    pieces = _pieces(client, backend, f"/v1/files/{quote(file_id, safe='')}/content")
    yield from read_batch(pieces, route=route, passed=passed)


def _whole(client: httpx.Client, backend: BackendSpec, path: str, *, most: int) -> bytes:
    body = bytearray()
    for piece in _pieces(client, backend, path):
        body += piece
        if len(body) > most:
            raise UpstreamUnavailable("the backend's answer is too long")
    return bytes(body)


def _pieces(client: httpx.Client, backend: BackendSpec, path: str) -> Generator[bytes]:
    key = backend.api_key
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    try:
        with client.stream("GET", f"{backend.url}{path}", headers=headers) as answer:
            if answer.status_code in GONE:
                raise NotFound(
                    "the backend has it no more",
                    field="batch_id",
                    remedy="ask the engine's operator what became of it",
                )
            if answer.status_code != OK:
                raise UpstreamUnavailable(f"the backend answers {answer.status_code}")
            yield from answer.iter_bytes()
    except (httpx.HTTPError, httpx.InvalidURL):
        raise UpstreamUnavailable("the backend does not answer, or broke off") from None
