"""Runs the demo from an empty database to checked tables."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from billing.cli.demo import tables
from billing.cli.demo.close import close_period, settle_outcomes
from billing.cli.demo.live import data_plane, send_requests, wait_until_visible
from billing.cli.demo.scene import set_up
from billing.cli.demo.tie_outs import tie_outs
from billing.store.database import Database
from billing.store.embedded.throwaway import throwaway_server
from billing.store.migrate import migrate


def run_demo(*, as_json: bool, console: Console) -> None:
    """Run the demo in a database of its own that is gone afterwards.

    Raises:
        TieOutFailed: two figures that must be equal are not.
    """
    told = Console(quiet=True) if as_json else console
    with (
        tempfile.TemporaryDirectory(prefix="steelyard-demo-") as folder,
        throwaway_server(fsync=True) as server,
    ):
        told.print("Steelyard demo: engine, history and Stripe are [bold]simulated[/bold].")
        with told.status("starting the data plane …"):
            migrate(server.owner_url())
        with (
            _opened(server.app_url()) as database,
            data_plane(
                Path(folder), app_url=server.app_url(), owner_url=server.owner_url()
            ) as proxy_url,
        ):
            now = datetime.now(UTC)
            with told.status("reporting a month of history …"):
                scene = set_up(database, now=now)
            with told.status("sending live requests through the proxy …"):
                requests = send_requests(proxy_url, scene)
                events = wait_until_visible(database, scene.tenants, requests)
            outcomes = settle_outcomes(database, scene, now=datetime.now(UTC))
            with told.status("closing the period …"):
                closed = close_period(database, scene, outcomes=outcomes, now=scene.period.end)
        ties = tie_outs(requests, events, closed)
    if as_json:
        console.print_json(json.dumps(tables.document(scene, closed, ties)))
        return
    streamed = sum(request.streamed for request in requests)
    tables.print_usage(told, scene, live=len(requests), streamed=streamed)
    told.print(
        f"  outcomes: {closed.outcomes[0]} reported, {closed.outcomes[1]} confirmed by the tenant\n"
    )
    told.print(f"Clock set forward to {scene.period.end:%Y-%m-%d %H:%M} UTC: the period closes.")
    tables.print_invoices(told, closed)
    if closed.stripe_minor is None:
        told.print("Stripe mirror left out: the fake Stripe comes with a checkout only.")
    else:
        told.print(f"Mirrored at a [bold]fake[/bold] Stripe; {closed.paid} was paid there.\n")
    for report in closed.margins.values():
        tables.print_margin(told, report)
    tables.print_pools(told, next(iter(closed.margins.values())))
    told.print()
    tables.print_tie_outs(told, ties)


@contextmanager
def _opened(url: str) -> Generator[Database]:
    database = Database(url)
    try:
        yield database
    finally:
        database.close()
