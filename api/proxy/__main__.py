"""`python -m api.proxy`: one process of the data plane."""

from __future__ import annotations

import sys

import structlog
import uvloop

from api.interpreter import keep_freed_memory, tune_interpreter
from api.proxy.app import Proxy, system_clock
from api.proxy.control.backends_watch import BackendsWatch
from api.proxy.control.leases import LeaseKeeper
from api.proxy.control.snapshots import Control, utc_now
from api.proxy.limits import Limits
from api.proxy.metrics_server import serving_metrics
from api.proxy.server import serve
from billing.errors import SteelyardError
from billing.journal.instance import new_name
from billing.journal.journal import Journal
from billing.operations.deployment import journal_dir, opened_database
from billing.settings import Settings, read_settings
from billing.store.database import Database

log = structlog.get_logger("steelyard.proxy")


async def run(settings: Settings, database: Database) -> None:
    """Serve until SIGTERM or SIGINT; the journal is closed last."""
    backends = BackendsWatch(settings)
    control = await Control.start(
        database, database.conninfo(), backends.read(), now=utc_now, reread=backends
    )
    instance = new_name(system_clock())
    journal = await Journal.open(journal_dir(settings), instance=instance)
    leases = LeaseKeeper(
        database, database.conninfo(), instance, now=utc_now, lease_ms=settings.lease_ms
    )
    limits = Limits(drain_ms=settings.proxy_drain_ms, known_keys_ms=settings.known_keys_ms)
    app = Proxy(control, journal, clock=system_clock, limits=limits, holds=leases)
    app.tally.include(leases.counts.collect)
    try:
        async with serving_metrics(
            app.tally.render, settings.proxy_metrics_host, settings.proxy_metrics_port
        ) as metrics_port:
            await serve(
                app,
                settings.proxy_host,
                settings.proxy_port,
                on_ready=lambda port: log.info(
                    "proxy listens", port=port, metrics_port=metrics_port
                ),
            )
    finally:
        await leases.stop()
        await control.stop()


def main() -> None:
    """Start from the environment; exit status 3 if it cannot work as configured."""
    try:
        settings = read_settings()
        with opened_database(settings, pool_size=3) as database:
            tune_interpreter()
            keep_freed_memory()
            uvloop.run(run(settings, database))
    except SteelyardError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
