"""One admitted request: who it is for, how it can be stopped, and what is written about it.

Decides: the records of one operation, so that whole answers and streams bill alike. Does not
decide when they are written: that order is the relays' business.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

from api.proxy.ids import shown
from api.proxy.ports import Clock, JournalPort
from api.proxy.tally import Tally
from api.proxy.upstream import Upstream
from api.proxy.upstream_connection import UpstreamConnection
from billing.admission.backend import Backend
from billing.admission.decision import Admission
from billing.engines.capabilities import Capabilities
from billing.engines.read_request import InferenceRequest
from billing.errors import JournalError, UpstreamError
from billing.journal.records import Attribution, Cause, Counts, Record, Usage, Void
from billing.metering.token_class import TokenClass, TokenCounts


class Client(Protocol):
    """The client's connection, as far as a relay needs it."""

    @property
    def lost(self) -> bool:
        """The connection is gone."""
        ...

    @property
    def blocked(self) -> bool:
        """Whoever writes has to wait, because the client does not read."""
        ...

    def unsent_bytes(self) -> int:
        """Bytes written to the connection that the kernel has not taken."""
        ...

    def cut(self, *, flush: bool) -> None:
        """Close in the middle of an answer, so that the client sees that it broke off."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """What every exchange of a process works with."""

    journal: JournalPort
    upstream: Upstream
    tally: Tally
    clock: Clock

    def write_soon(self, record: Record) -> None:
        """Journal a record that nobody waits for. A refusal is counted, never raised: the
        answer does not depend on it."""
        try:
            self.journal.append_soon(record)
        except JournalError:
            self.tally.journal_refusals += 1


@dataclass(slots=True, kw_only=True, eq=False)
class Exchange:
    """One operation from admission to its record.

    Attributes:
        id: 16 bytes, UUIDv7.
        backend: what serves it.
        stopped: why it was ended from our side or the client's, None while it runs.
        started_us: monotonic µs at dispatch.
        first_byte_us: monotonic µs of the first byte of the answer's body, 0 before it.
    """

    id: bytes
    admission: Admission
    backend: Backend
    request: InferenceRequest
    engine: Capabilities
    client: Client
    plant: Plant
    stopped: Cause | None = None
    started_us: int = field(default_factory=lambda: time.monotonic_ns() // 1000)
    first_byte_us: int = 0
    _connection: UpstreamConnection | None = None

    @property
    def shown_id(self) -> bytes:
        """The id as clients see it."""
        return shown(self.id)

    @property
    def attribution(self) -> Attribution:
        """Whose operation it is and what it runs on."""
        admission = self.admission
        return Attribution(
            tenant_id=admission.grant.tenant_id,
            project_id=admission.grant.project_id,
            key_id=admission.grant.key_id,
            model_id=admission.model.id,
            price_version_id=admission.terms.price_version_id,
            backend=self.backend.name,
            route=self.request.route.value,
            stream=self.request.stream,
            served_model=self.backend.model or admission.model.name,
        )

    @property
    def reached(self) -> bool:
        """Whether a backend was connected to; without that no compute was spent."""
        return self._connection is not None

    def attach(self, connection: UpstreamConnection) -> None:
        """Learn of the connection that serves it; close it at once if nobody waits any more."""
        self._connection = connection
        if self.stopped is not None:
            connection.abort()

    def stop(self, cause: Cause) -> None:
        """End it: the backend sees its client leave at once and stops generating."""
        if self.stopped is None:
            self.stopped = cause
            if self._connection is not None:
                self._connection.abort()
            if self.client.blocked:
                self.client.cut(flush=False)  # the relay is waiting for it to read

    def detach(self) -> None:
        """The answer is complete: stopping must not touch the connection any more."""
        self._connection = None

    def note_first_byte(self) -> None:
        """The first byte of the answer's body is here."""
        if not self.first_byte_us:
            self.first_byte_us = time.monotonic_ns() // 1000

    def counts(self, tokens: TokenCounts) -> TokenCounts:
        """The counts in the classes that the model is registered with.

        Tokens of a class that it is not registered with are plain input: such a model has no
        price for cached tokens, and they must not fall out of the bill.
        """
        classes = self.admission.model.classes
        folded = 0
        cached, written = tokens.cached_input, tokens.cache_write
        if TokenClass.CACHED_INPUT not in classes:
            folded, cached = folded + cached, 0
        if TokenClass.CACHE_WRITE not in classes:
            folded, written = folded + written, 0
        if not folded:
            return tokens
        return TokenCounts(
            input=tokens.input + folded,
            cached_input=cached,
            cache_write=written,
            output=tokens.output,
            reasoning=tokens.reasoning,
        )

    def usage(
        self,
        tokens: TokenCounts,
        *,
        raw: dict[str, int],
        cause: Cause,
        estimated: bool,
        at_us: int | None = None,
    ) -> Usage:
        """The usage event of the operation; `at_us` is the last delivered byte's, or now."""
        now = time.monotonic_ns() // 1000
        counts = self.counts(tokens)
        ttft_us = self.first_byte_us - self.started_us if self.first_byte_us else 0
        self.plant.tally.add_usage(counts, cause, estimated=estimated, ttft_us=ttft_us)
        return Usage(
            id=self.id,
            at_us=self.plant.clock() if at_us is None else at_us,
            attribution=self.attribution,
            counts=Counts.of(counts),
            raw=raw,
            cause=cause,
            estimated=estimated,
            ttft_us=ttft_us,
            duration_us=now - self.started_us,
        )

    def void(self, reason: str) -> None:
        """Journal that it was dispatched and delivered nothing: not billed, but scrap."""
        self.plant.tally.voids[reason] += 1
        self.plant.write_soon(
            Void(self.id, self.plant.clock(), self.attribution, reason),
        )

    def reason(self, failure: UpstreamError) -> Cause:
        """Why an exchange that failed was ended."""
        if self.stopped is not None:
            return self.stopped
        return "timeout" if failure.code == "upstream_timeout" else "upstream_broke"
