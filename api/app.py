"""The control plane: everything under `/api/v1`, health and metrics.

Decides how big a body may be, what every answer carries and what handlers can ask for. What a
route does is one operation; what an error looks like is decided in `api.errors`.
"""

from __future__ import annotations

from litestar import Litestar, Response, get
from litestar.datastructures import MutableScopeHeaders, State
from litestar.di import Provide
from litestar.types import Message, Scope

from api.auth import caller_of, tenant_caller_of
from api.bodies import BODY_BYTES_MAX, yaml_body
from api.deployment import Clock, Deployment
from api.errors import EXCEPTION_HANDLERS
from api.metrics import Metrics
from api.openapi import document_text
from api.routes import ROOT, make_routes
from billing.settings import Settings
from billing.store.database import Database


def create_app(database: Database, settings: Settings, clock: Clock) -> Litestar:
    """The control plane of one deployment.

    Args:
        clock: the current instant, aware and in UTC.
    """
    deployment = Deployment(database=database, settings=settings, clock=clock)
    metrics = Metrics(database, clock)
    return Litestar(
        [*make_routes(), show_description],
        dependencies={
            "deployment": Provide(lambda: deployment, sync_to_thread=False),
            "metrics": Provide(lambda: metrics, sync_to_thread=False),
            "caller": Provide(caller_of, sync_to_thread=False),
            "tenant_caller": Provide(tenant_caller_of, sync_to_thread=False),
            "yaml_file": Provide(yaml_body),
        },
        state=State({"deployment": deployment}),
        exception_handlers=EXCEPTION_HANDLERS,
        before_send=[metrics.count, _harden],
        request_max_body_size=BODY_BYTES_MAX,
        openapi_config=None,
        logging_config=None,
        debug=False,
    )


@get(f"{ROOT}/openapi.json", media_type="application/json", sync_to_thread=False)
def show_description() -> Response[str]:
    """The API's description."""
    return Response(document_text(), media_type="application/json")


async def _harden(message: Message, _: Scope) -> None:
    """Answers hold bills and, once each, secrets: no cache may keep them, no browser guess them."""
    if message["type"] == "http.response.start":
        headers = MutableScopeHeaders.from_message(message)
        headers["cache-control"] = "no-store"
        headers["x-content-type-options"] = "nosniff"
