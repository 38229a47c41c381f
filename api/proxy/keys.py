"""From the headers of a request to the grant of its key.

Decides: where a key may stand, and how often an unknown one is asked after. Keys are compared by
their SHA-256 only; the text is never kept. A key that is not in the snapshot may be newer than
it, so control is asked once; then the refusal is remembered for a short time, in bounded memory,
so that a flood of bad keys costs a hash each. While the database is away known keys go on for a
set time; then nobody can tell any more which of them were revoked.
"""

from __future__ import annotations

import asyncio
import hashlib

from api.proxy.client_request import ClientRequest
from api.proxy.headers import Fields
from api.proxy.limits import Limits
from api.proxy.openai_errors import Unavailable
from api.proxy.patience import done_within
from api.proxy.ports import Clock, ControlPort
from billing.admission.decision import authenticate
from billing.admission.snapshot import KeyGrant
from billing.errors import Unauthenticated

KEY_PREFIX = b"sk-sy-"
MAX_KEY_BYTES = 256
LOOK_UP_MS = 1_000


def key_digest(request: ClientRequest) -> bytes:
    """SHA-256 of the request's key: `Authorization: Bearer`, or `x-api-key`.

    Raises:
        Unauthenticated: there is none.
    """
    facts = request.facts
    if facts.key_digest is None:
        facts.key_digest = _key_digest(request.fields)
    return facts.key_digest


def _key_digest(fields: Fields) -> bytes:
    scheme, _, text = fields.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and (key := text.strip()):
        return _digest(key)
    if text := fields.get(b"x-api-key", b"").strip():
        return _digest(text)
    raise Unauthenticated(
        "You didn't provide an API key.", remedy="Send it as `Authorization: Bearer`."
    )


def _digest(key: bytes) -> bytes:
    if len(key) > MAX_KEY_BYTES or not key.startswith(KEY_PREFIX):
        raise Unauthenticated(
            "Incorrect API key provided.", remedy="Send a valid key as `Authorization: Bearer`."
        )
    return hashlib.sha256(key).digest()


class KeyRing:
    """Grants of keys, with a memory of those that do not exist."""

    def __init__(self, control: ControlPort, limits: Limits, clock: Clock) -> None:
        self._control = control
        self._limits = limits
        self._clock = clock
        self._unknown: dict[bytes, int] = {}
        self._asking: dict[bytes, asyncio.Task[None]] = {}
        self._window_us = 0
        self._asked = 0

    async def grant(self, digest: bytes) -> KeyGrant:
        """The grant of a key.

        Raises:
            Unauthenticated: unknown, revoked or expired.
            Unavailable: the last news of the database are too old to tell.
        """
        now_us = self._clock()
        self._require_news(now_us)
        if digest not in self._control.snapshot.keys and self._may_ask(digest, now_us):
            await self._ask(digest)
        return authenticate(self._control.snapshot, digest, now_us)

    def is_good(self, digest: bytes, now_us: int) -> bool:
        """Whether the snapshot tells of a key that has not expired: then `grant` need not be asked.

        Raises:
            Unavailable: as `grant`.
        """
        self._require_news(now_us)
        grant = self._control.snapshot.keys.get(digest)
        return grant is not None and not grant.is_over(now_us)

    def _require_news(self, now_us: int) -> None:
        life_us = self._limits.known_keys_ms * 1000
        taken_at_us = self._control.snapshot.taken_at_us
        if life_us and taken_at_us is not None and now_us - taken_at_us > life_us:
            raise Unavailable("API keys cannot be checked at the moment; please retry.")

    def _may_ask(self, digest: bytes, now_us: int) -> bool:
        """Whether control may be asked for this key now, within both bounds."""
        if digest in self._asking:
            return True
        if self._unknown.get(digest, 0) > now_us:
            return False
        if now_us - self._window_us >= 1_000_000:
            self._window_us, self._asked = now_us, 0
        self._asked += 1
        return self._asked <= self._limits.look_ups_per_second

    async def _ask(self, digest: bytes) -> None:
        """Ask once for all requests that wait with the same key."""
        task = self._asking.get(digest)
        if task is None:
            task = asyncio.create_task(self._look_up(digest))
            self._asking[digest] = task
            task.add_done_callback(lambda _: self._asking.pop(digest, None))
        await asyncio.shield(task)

    async def _look_up(self, digest: bytes) -> None:
        looking = asyncio.ensure_future(self._control.look_up(digest))
        if not await done_within(looking, LOOK_UP_MS):
            looking.cancel()
            return  # the database is away: refuse now, ask again with the next request
        await looking
        if digest not in self._control.snapshot.keys:
            while len(self._unknown) >= self._limits.unknown_keys:
                del self._unknown[next(iter(self._unknown))]
            self._unknown[digest] = self._clock() + self._limits.unknown_key_ms * 1000
