"""Is the process alive, is it ready, and what has it answered so far.

No key is asked for here, so nothing here names a tenant.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import msgspec
from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.params import SkipValidation

from api.deployment import DeploymentInUse
from api.metrics import Metrics
from billing.errors import ConfigurationError
from billing.store.database import first
from billing.store.schema_version import newest_revision


@cache
def needed_revision() -> str | None:
    """The schema that this process was started with."""
    return newest_revision()


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The one answer of a probe that succeeds."""

    status: Literal["ok"] = "ok"


class HealthController(Controller):
    """Probes and metrics."""

    path = "/"
    tags = ("Health",)

    @get("/healthz", operation_id="show_health", summary="Is it alive?", sync_to_thread=False)
    def alive(self) -> Health:
        return Health()

    @get("/readyz", operation_id="show_readiness", summary="Is it ready?", sync_to_thread=True)
    def ready(self, deployment: DeploymentInUse) -> Health:
        with deployment.as_operator() as transaction:
            found = first(transaction, "SELECT version_num FROM alembic_version")
        if found is None or found.version_num != needed_revision():
            raise ConfigurationError(
                "the database's schema is not the one of this version",
                remedy="run `steelyard db migrate`",
            )
        return Health()

    @get(
        "/metrics",
        operation_id="show_metrics",
        summary="Counters in Prometheus' text format",
        media_type="text/plain",
        sync_to_thread=True,
    )
    def metrics(self, metrics: NamedDependency[SkipValidation[Metrics]]) -> Response[bytes]:
        return Response(metrics.text(), media_type=metrics.media_type)
