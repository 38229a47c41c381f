"""Read an engine's totals over the network.

Decides how long an engine may take, how much it may answer, and who gets its credential. It follows
no redirect and no proxy of the environment.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx

from billing.engines.counters import COUNTER_NAMES, EngineCounters, parse_counters
from billing.errors import UpstreamUnavailable
from billing.planfiles.backend_file import BackendSpec

TIMEOUT_MS = 5_000
PAGE_BYTES_MAX = 8 * 1024 * 1024
OK = 200


def tells_counters(backend: BackendSpec) -> bool:
    """Whether a backend's engine is of a kind that tells its totals."""
    return backend.engine in COUNTER_NAMES


def engine_client() -> httpx.Client:
    """A client for a turn of looks: making one reads all certificates of this machine."""
    timeout = TIMEOUT_MS / 1000  # float: httpx counts in seconds
    return httpx.Client(timeout=timeout, trust_env=False)


def read_engine(client: httpx.Client, backend: BackendSpec) -> EngineCounters:
    """The totals that a backend tells now.

    Args:
        client: as `engine_client` makes it; threads may share it.

    Raises:
        UpstreamUnavailable: no page from it in time.
        UpstreamError: a page without its totals.
    """
    url = backend.metrics_url or f"{backend.url}/metrics"
    page = _page(client, url, _credential(backend, url))
    return parse_counters(page, engine=backend.engine)


def _credential(backend: BackendSpec, url: str) -> dict[str, str]:
    """An engine's key is for its own address: metrics may be read from somewhere else."""
    own, asked = urlsplit(backend.url), urlsplit(url)
    if backend.api_key is None or (own.scheme, own.netloc) != (asked.scheme, asked.netloc):
        return {}
    return {"Authorization": f"Bearer {backend.api_key}"}


def _page(client: httpx.Client, url: str, headers: dict[str, str]) -> str:
    page = bytearray()
    try:
        with client.stream("GET", url, headers=headers) as answer:
            if answer.status_code != OK:
                raise _unavailable(f"its metrics answer {answer.status_code}")
            for part in answer.iter_bytes():
                page += part
                if len(page) > PAGE_BYTES_MAX:
                    raise _unavailable("its metrics are too long")
    except (httpx.HTTPError, httpx.InvalidURL):
        raise _unavailable("its metrics do not answer") from None
    return page.decode(errors="replace")


def _unavailable(what: str) -> UpstreamUnavailable:
    return UpstreamUnavailable(
        what, field="metrics_url", remedy="name the address of its metrics in the backends file"
    )
