"""`python -m api.proxy`: the data plane, in one process or in several behind one port."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

import structlog
import uvloop

from api.interpreter import keep_freed_memory, tune_interpreter
from api.proxy.app import Proxy, system_clock
from api.proxy.control.backends_watch import BackendsWatch
from api.proxy.control.bindings import Bindings
from api.proxy.control.leases import LeaseKeeper
from api.proxy.control.snapshots import Control, utc_now
from api.proxy.limits import Limits
from api.proxy.metrics_server import PORTS, serving_metrics
from api.proxy.processes import ONE_OF_SEVERAL, ProcessGroup, run_processes, tell_listening
from api.proxy.server import serve
from api.proxy.telemetry.export import Export, export_to
from api.proxy.telemetry.otlp import Collector, checked_endpoint, exporting, read_headers
from billing.errors import SteelyardError
from billing.exit_status import end_process
from billing.journal.instance import new_name
from billing.journal.journal import Journal
from billing.operations.deployment import journal_dir, opened_database, wait_for_database
from billing.settings import Settings, read_settings
from billing.store.database import Database

log = structlog.get_logger("steelyard.proxy")


async def run(settings: Settings, database: Database, *, shared: bool) -> None:
    """Serve until SIGTERM or SIGINT; the journal is closed last.

    Args:
        shared: it is one of several on its port, so that its metrics port is a given one.
    """
    instance = new_name(system_clock())
    export = _export(settings, instance)
    backends = BackendsWatch(settings)
    control = await Control.start(
        database, database.conninfo(), backends.read(), now=utc_now, reread=backends
    )
    journal = await Journal.open(journal_dir(settings), instance=instance)
    leases = LeaseKeeper(
        database, database.conninfo(), instance, now=utc_now, lease_ms=settings.lease_ms
    )
    leases.begin()
    bindings = Bindings(database, now=utc_now)
    limits = Limits(
        drain_ms=settings.proxy_drain_ms,
        known_keys_ms=settings.known_keys_ms,
        file_bytes=settings.proxy_file_bytes,
    )
    app = Proxy(
        control,
        journal,
        clock=system_clock,
        limits=limits,
        holds=leases,
        bindings=bindings,
        recorder=None if export is None else export.recorder,
    )
    app.tally.include(leases.counts.collect)
    app.tally.include(control.counts.collect)
    app.tally.include(bindings.collect)
    if export is not None:
        export.join(app.tally)
    try:
        async with (
            exporting(None if export is None else export.exporter),
            serving_metrics(
                app.tally.render,
                settings.proxy_metrics_host,
                settings.proxy_metrics_port,
                ports=1 if shared else PORTS,
            ) as metrics_port,
        ):
            await serve(
                app,
                settings.proxy_host,
                settings.proxy_port,
                shared=shared,
                on_ready=lambda port: _tell_listening(port, metrics_port, shared=shared),
            )
    finally:
        bindings.close()
        await leases.stop()
        await control.stop()


def main(arguments: Sequence[str] | None = None) -> None:
    """Start from the environment; exit status 3 if it cannot work as configured."""
    shared = ONE_OF_SEVERAL in (sys.argv[1:] if arguments is None else arguments)
    try:
        settings = read_settings()
        if settings.proxy_processes > 1 and not shared:
            run_processes(_group(settings))
            return
        # It knows no key before the database has answered once; SIGTERM ends the wait by itself.
        wait_for_database(settings, threading.Event(), told=_tell_waiting)
        with opened_database(settings, pool_size=5) as database:
            tune_interpreter()
            keep_freed_memory()
            uvloop.run(run(settings, database, shared=shared))
    except SteelyardError as error:
        end_process(error)


def _export(settings: Settings, instance: str) -> Export | None:
    if settings.otlp_endpoint is None:
        return None
    headers = settings.otlp_headers
    collector = Collector(
        endpoint=checked_endpoint(settings.otlp_endpoint),
        headers={} if headers is None else read_headers(headers.get_secret_value()),
        instance=instance,
    )
    return export_to(collector, share=settings.otlp_sample, clock=system_clock)


def _tell_listening(port: int, metrics_port: int | None, *, shared: bool) -> None:
    log.info("proxy listens", port=port, metrics_port=metrics_port)
    if shared:
        tell_listening()


def _tell_waiting(pause_ms: int) -> None:
    log.error("the database does not answer; no key is known yet", pause_ms=pause_ms)


def _group(settings: Settings) -> ProcessGroup:
    return ProcessGroup(
        size=settings.proxy_processes,
        host=settings.proxy_host,
        port=settings.proxy_port,
        metrics_port=settings.proxy_metrics_port,
        drain_ms=settings.proxy_drain_ms,
    )


if __name__ == "__main__":
    main()
