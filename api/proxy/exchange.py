"""One admitted request: who it is for, how it can be stopped, and what is written about it.

Decides: the records of one operation, so that whole answers and streams bill alike. Does not
decide when they are written: that order is the relays' business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

import msgspec

from api.proxy.answer_head import (
    REQUEST_ID,
    SERVED_MODEL,
    AnswerFacts,
    shown_name,
    without_limits,
)
from api.proxy.binding_port import BindingPort
from api.proxy.client_request import ClientRequest
from api.proxy.headers import lines_of
from api.proxy.holding import Holding
from api.proxy.pools import Pools, Seat
from api.proxy.ports import Clock, JournalPort
from api.proxy.tally import Tally
from api.proxy.telemetry.course import Course
from api.proxy.telemetry.trace_context import Trace
from api.proxy.upstream import Upstream, now_us
from api.proxy.upstream_connection import UpstreamConnection
from billing.admission.backend import Backend, ServedModel
from billing.admission.charged import charged_tokens, charged_units
from billing.admission.route import Serving
from billing.admission.snapshot import Admission
from billing.admission.terms import OnClientLeft
from billing.engines.capabilities import Capabilities
from billing.engines.prompt_floor import Ratios
from billing.engines.read_request import NO_RUN, InferenceRequest, RunIds
from billing.errors import UpstreamError
from billing.journal.records import (
    UNBILLED,
    UNREACHED,
    Attempted,
    Attribution,
    Cause,
    Counts,
    Draw,
    Intent,
    Record,
    Usage,
    Void,
)
from billing.metering.request_event import UNLISTED_TIER, served_tier
from billing.metering.token_class import TokenCounts
from billing.metering.unit_meter import UnitMeter

_NO_UNITS: Mapping[UnitMeter, int] = MappingProxyType({})


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
    """What every exchange of a process works with.

    Attributes:
        refuse_injection: names of backends that do not take what the meter asks of a stream.
    """

    journal: JournalPort
    upstream: Upstream
    pools: Pools
    tally: Tally
    clock: Clock
    ratios: Ratios = field(default_factory=Ratios)
    refuse_injection: set[str] = field(default_factory=set[str])

    def write_soon(self, record: Record) -> None:
        """Journal a record that nobody waits for.

        What a stream delivered is recovered from its intent and checkpoints, and whatever has no
        intent delivers nothing before its usage is durable: so no refusal drops any usage.
        """
        dropped = isinstance(record, Usage) and not record.attribution.stream
        with self.tally.refusals(dropped=dropped):
            self.journal.append_soon(record)


class Exchange(msgspec.Struct, kw_only=True, eq=False):
    """One operation from admission to its record.

    A Struct, because one with so many fields is made for every request: a dataclass costs 1 µs
    more.

    Attributes:
        id: 16 bytes, UUIDv7.
        model, backend, engine: what serves it; a fallback is not the model that was asked for.
        attempts: those that failed before the one at hand.
        seat: its place at the backend.
        holding: what it holds of its tenant's limits; None where none applies.
        shown_id: the id as clients see it.
        stopped: why it was ended from our side or the client's, None while it runs.
        asked: the client's request, which counts how long the client was waited for.
        course: when its parts happened.
        told: its usage event, once there is one; voided: why there is none.
        trace: what backends are told of the trace that it belongs to.
        run: ids of the agent's run, checked.
        keeper: where the id of its response is bound, if a backend may store it.
    """

    id: bytes
    shown_id: bytes
    admission: Admission
    request: InferenceRequest
    client: Client
    plant: Plant
    model: ServedModel
    backend: Backend
    engine: Capabilities
    attempts: list[Attempted] = []
    seat: Seat | None = None
    stopped: Cause | None = None
    holding: Holding | None = None
    run: RunIds = NO_RUN
    asked: ClientRequest
    course: Course
    keeper: BindingPort | None = None
    told: Usage | None = None
    voided: str = ""
    trace: Trace | None = None
    _connection: UpstreamConnection | None = None
    _intended: bool = False
    _recorded: bool = False
    _drawn: tuple[Draw, ...] = ()
    _read_on: asyncio.TimerHandle | None = None

    @property
    def attribution(self) -> Attribution:
        """Whose operation it is and what it runs on."""
        admission = self.admission
        return Attribution(
            tenant_id=admission.grant.tenant_id,
            project_id=admission.grant.project_id,
            key_id=admission.grant.key_id,
            model_id=self.model.id,
            price_version_id=admission.terms.price_version_id,
            backend=self.backend.name,
            route=self.request.route.spec.path,
            stream=self.request.stream,
            served_model=self.backend.model or self.model.name,
            run_id=self.run.run,
            step_id=self.run.step,
            agent_id=self.run.agent,
            service_tier=self.request.service_tier,
        )

    @property
    def billed(self) -> bool:
        """Whether it leaves records; a count of tokens leaves none."""
        return self.request.route.spec.serving is not Serving.UNBILLED

    @property
    def reached(self) -> bool:
        """Whether a backend was connected to; without that no compute was spent."""
        return self._connection is not None

    @property
    def left(self) -> bool:
        """Whether the client has gone while its backend is read on."""
        return self._read_on is not None

    def attach(self, connection: UpstreamConnection | None) -> None:
        """Learn of the connection that serves it; close it at once if nobody waits any more."""
        self.detach()
        self._connection = connection
        if connection is not None and (self.stopped is not None or self.left):
            connection.abort()

    def leave(self) -> None:
        """The client has gone, or reads nothing: stop the backend, unless the contract has it
        read on for a while. Nothing is begun for a client that has gone."""
        policy = self.admission.terms.policy
        closes = policy.on_client_left is OnClientLeft.CLOSE
        if closes or not self.reached or not self.billed:
            self.stop("client_left")
        elif self.stopped is None and self._read_on is None:
            loop = asyncio.get_running_loop()
            self._read_on = loop.call_later(policy.drain_ms / 1000, self.stop, "client_left")
            self.client.cut(flush=False)  # a relay that waits for it to read goes on

    def stop(self, cause: Cause) -> None:
        """End it: the backend sees its client leave at once and stops generating."""
        if self.stopped is None:
            self.stopped = self.cause(cause)
            if self._connection is not None:
                self._connection.abort()
            if self.client.blocked:
                self.client.cut(flush=False)  # the relay is waiting for it to read

    def detach(self) -> None:
        """The answer is complete: stopping must not touch the connection any more."""
        if self._connection is not None:
            self.course.waited_us += self._connection.waited_us
            self.course.heard_us = self._connection.heard_us
            self._connection = None

    def place(self, model: ServedModel, backend: Backend, engine: Capabilities) -> None:
        """Give it a place at a backend; it leaves the one that it has."""
        if self.seat is not None:
            self.seat.leave()
        self.model, self.backend, self.engine = model, backend, engine
        if self.holding is not None:
            self.holding.serving = model
        self.seat = self.plant.pools.begin(backend)

    def close(self) -> None:
        """It is over, whatever became of it: free what it held, leave no operation open."""
        if self._read_on is not None:
            self._read_on.cancel()
        if self.holding is not None:
            self.holding.release(self._drawn)
        if self.seat is not None:
            self.seat.leave()
        if not self._recorded and (self.reached or self._intended):
            self.void("abandoned" if self.reached else UNREACHED)
        if self.told is not None:
            series = self.request.route.spec.path, self.model.name
            overhead_us = self.overhead_us(now_us())
            self.plant.tally.durations.overhead.observe(series, overhead_us)

    def answer_lines(self, answer: AnswerFacts) -> bytes:
        """The lines of the answer's head for the client."""
        lines, limits = answer.lines, b""
        if self.holding is not None:
            limits = lines_of(self.holding.headers(self.request.route.spec.errors))
            lines = without_limits(lines) if limits else lines
        lines = b"%b%b: %b\r\n" % (lines, REQUEST_ID, self.shown_id)
        if self.model is not self.admission.model:
            lines += lines_of([(SERVED_MODEL, shown_name(self.model.name))])
        return lines + limits if limits else lines

    def overhead_us(self, at_us: int) -> int:
        """What of its time to an instant (monotonic µs) was neither the backend's nor the
        client's."""
        course, connection = self.course, self._connection
        waited_us = course.waited_us + self.asked.waited_us
        if connection is not None:
            waited_us += connection.waited_us
            course.heard_us = connection.heard_us
        return max(0, at_us - course.received_us - waited_us)

    def counts(self, tokens: TokenCounts) -> TokenCounts:
        """The counts that the model is charged for."""
        return charged_tokens(self.model, tokens)

    def draws(
        self, counts: TokenCounts, units: Mapping[UnitMeter, int] = _NO_UNITS
    ) -> tuple[Draw, ...]:
        """What it draws from leases with these counts."""
        return () if self.holding is None else self.holding.draws(counts, units)

    def intent(self) -> Intent:
        """That it is dispatched, and what has failed so far."""
        self._intended = True
        return Intent(self.id, self.plant.clock(), self.attribution, tuple(self.attempts))

    def usage(
        self,
        tokens: TokenCounts,
        *,
        raw: dict[str, int],
        cause: Cause,
        estimated: bool,
        at_us: int | None = None,
        units: Mapping[UnitMeter, int] = _NO_UNITS,
        tier: str = "",
    ) -> Usage:
        """The usage event of the operation.

        Args:
            at_us: when the last byte was delivered; None: now.
            tier: the service tier that the answer names; '' for none.
        """
        self._recorded = True
        now, course = now_us(), self.course
        counts, charged = self.counts(tokens), charged_units(self.model, units)
        if counts.is_zero and not charged and (units or not tokens.is_zero):
            # The engine counts in what the model has no price for: it is served for nothing.
            self.plant.tally.anomalies["unregistered_meter"] += 1
            estimated = True
        self._drawn = self.draws(counts, charged)
        if self.holding is not None:
            self.holding.learn(counts.output, complete=cause == "completed")
        overhead_us = self.overhead_us(now)
        streamed = counts.output if self.request.stream else 0
        self.plant.tally.add_usage(counts, cause, estimated=estimated)
        self.plant.tally.estimates[self.engine.engine] += estimated
        self._count(streamed, total_us=now - course.received_us)
        self.told = Usage(
            id=self.id,
            at_us=self.plant.clock() if at_us is None else at_us,
            attribution=self.attribution,
            counts=Counts.of(counts),
            raw={**raw, **course.figures(streamed, overhead_us)},
            cause=cause,
            estimated=estimated,
            ttft_us=course.ttft_us,
            duration_us=now - course.dispatched_us,
            draws=self._drawn,
            attempts=tuple(self.attempts),
            units={meter.value: count for meter, count in charged.items()} if charged else {},
            served_tier=self._served(tier) if tier else "",
        )
        return self.told

    def _served(self, named: str) -> str:
        """The tier of its event, by what the answer names."""
        tier = served_tier(named, asked=self.request.tier_word)
        if tier == UNLISTED_TIER:
            self.plant.tally.anomalies["tier_unlisted"] += 1
        return tier

    def _count(self, streamed: int, *, total_us: int) -> None:
        tally, course = self.plant.tally, self.course
        tally.durations.add(
            (self.request.route.spec.path, self.model.name),
            queue_us=course.queue_us,
            ttft_us=course.ttft_us,
            total_us=total_us,
            inter_token_us=course.inter_token_us(streamed),
        )
        if self.attempts:
            tally.add_attempts(self.attempts)

    def count_unbilled(self) -> None:
        """Draw what an answer comes to that leaves no usage event: one request."""
        self._drawn = self.draws(TokenCounts())
        if self._drawn:
            self.plant.write_soon(
                Void(self.id, self.plant.clock(), self.attribution, UNBILLED, draws=self._drawn)
            )

    def void(self, reason: str) -> None:
        """Journal that it was dispatched and delivered nothing: not billed, but scrap."""
        self._recorded, self.voided, self.told = True, reason, None
        self._drawn = ()  # its usage, if there was any, is on no record
        if not self.billed:
            return
        self.plant.tally.voids[reason] += 1
        self.plant.tally.add_attempts(self.attempts)
        attempts = tuple(self.attempts)
        self.plant.write_soon(
            Void(self.id, self.plant.clock(), self.attribution, reason, attempts),
        )

    def cause(self, otherwise: Cause) -> Cause:
        """Why it ended: whatever happens after the client has gone is not the reason."""
        return "client_left" if self.left else otherwise

    def reason(self, failure: UpstreamError) -> Cause:
        """Why an exchange that failed was ended."""
        if self.stopped is not None:
            return self.stopped
        return self.cause("timeout" if failure.code == "upstream_timeout" else "upstream_broke")
