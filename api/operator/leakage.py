"""What engines counted beside what the ledger has, hour by hour."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

import msgspec
from litestar import Controller, get
from litestar.params import QueryParameter

from api.auth import OPERATOR_ONLY, SECURITY
from api.bodies import StrictJson
from api.deployment import DeploymentInUse
from api.fields import FromQuery, ToQuery, asked_period
from billing.metering.leakage import Reconciled, leakage
from billing.operations.leakage.read_leakage import leakage_percent, read_leakage
from billing.period import Period

DAY = timedelta(days=1)
Limit = Annotated[int, QueryParameter(ge=1, le=1000)]


class LeakageHour(msgspec.Struct, frozen=True, kw_only=True):
    """An hour of a backend, in tokens.

    `leaked_tokens` is the engine's count less the ledger's. `reasons` tells how many requests bill
    less than the engine may have counted, by why: their tokens are known to nobody. While
    `complete` is false the figures may still move, or lack something; `journals_behind` is one
    cause of it.
    """

    hour: datetime
    backend: str
    engine_prompt_tokens: int
    engine_output_tokens: int
    ledger_prompt_tokens: int
    ledger_output_tokens: int
    leaked_tokens: int
    leakage_percent: str | None
    attempts_not_billed: int
    reasons: dict[str, int]
    restarts: int
    journals_behind: int
    complete: bool


class Leakage(msgspec.Struct, frozen=True, kw_only=True):
    """Hours in the order of time and backend; the figure is over the complete ones among them."""

    leakage_percent: str | None
    hours: list[LeakageHour]


class LeakageController(Controller):
    """The comparison of engines' counters with the ledger."""

    path = "/operator/leakage"
    tags = ("Operator: usage",)
    guards = (OPERATOR_ONLY,)
    security = SECURITY
    dto = StrictJson
    return_dto = None

    @get(
        operation_id="operator_show_leakage",
        summary="Show what engines counted and the ledger lacks, by hour and backend",
        sync_to_thread=True,
    )
    def show(
        self,
        deployment: DeploymentInUse,
        from_: FromQuery = None,
        to_: ToQuery = None,
        limit: Limit = 100,
    ) -> Leakage:
        now = deployment.now()
        period = asked_period(from_, to_, default=Period(start=now - DAY, end=now))
        with deployment.as_operator() as transaction:
            report = read_leakage(transaction, period=period, limit=limit)
        return Leakage(
            leakage_percent=leakage_percent(report.overall),
            hours=[_shown(row) for row in report.rows],
        )


def _shown(row: Reconciled) -> LeakageHour:
    return LeakageHour(
        hour=row.hour,
        backend=row.backend,
        engine_prompt_tokens=row.engine_prompt,
        engine_output_tokens=row.engine_generation,
        ledger_prompt_tokens=row.ledger_prompt,
        ledger_output_tokens=row.ledger_generation,
        leaked_tokens=row.leaked,
        leakage_percent=leakage_percent(leakage([row])),
        attempts_not_billed=row.scrap_attempts,
        reasons=dict(row.reasons),
        restarts=row.restarts,
        journals_behind=row.journals_behind,
        complete=row.complete,
    )
