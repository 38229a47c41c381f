"""Enqueues jobs in the transaction that makes them necessary: both exist, or neither (D15)."""

from __future__ import annotations

from typing import cast

import procrastinate
import psycopg
import sqlalchemy as sa

MIRROR_INVOICE = "mirror_invoice"
APPLY_STRIPE_EVENT = "apply_stripe_event"

# Jobs are deferred on the caller's connection, so this connector is never opened.
_app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector())


def enqueue(connection: sa.Connection, task: str, *, lock: str, **arguments: str) -> None:
    """Enqueue a job; jobs with the same lock run one after another."""
    raw = cast("psycopg.Connection[object]", connection.connection.driver_connection)
    _app.configure_task(task, lock=lock, connection=raw).defer(**arguments)
