"""`steelyard up`: everything on one machine, with an embedded database unless one is named.

Children are started in the order in which they need each other and stopped in the reverse one:
the proxy first, so that its streams end and its journal closes, the ledger writer last, so that
what the journal holds is shipped. A child that dies is started again.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import typer
from rich.console import Console

from billing.cli import output
from billing.cli.output import JsonFlag
from billing.cli.processes import (
    POLL_SECONDS,
    Child,
    free_port,
    free_ports,
    require_free,
    wait_until_ready,
)
from billing.cli.simulated import MODELS, write_backends
from billing.errors import ConfigurationError
from billing.operations.deployment import (
    configured_backends,
    data_dir,
    ensure_migrated,
    running_database,
)
from billing.operations.tenancy.first_start import TENANT, prepare_first_start
from billing.settings import Settings, read_settings
from billing.stop_signal import stop_signal
from billing.store.database import Database, Role

LOG_BYTES_MAX = 16 * 1024 * 1024
CUT_MS = 10_000
"""How long a proxy may take to cut what is open after its drain, and to close its journal."""

app = typer.Typer()


@app.command(
    epilog="Example: STEELYARD_BACKENDS=llama=http://127.0.0.1:8000#vllm steelyard up\n\n"
    "Settings are environment variables: STEELYARD_DATA_DIR, STEELYARD_DATABASE_URL, "
    "STEELYARD_PROXY_PORT, STEELYARD_API_PORT and the others of the README."
)
def up(as_json: JsonFlag = False) -> None:
    """Run everything on this machine: database, proxy, API, ledger writer and worker.

    Without STEELYARD_BACKENDS a built-in engine answers, and says that it is simulated. Ctrl-C
    stops everything in order and loses nothing.
    """
    run_up(read_settings(), as_json=as_json, console=output.console())


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What is told to the user.

    Attributes:
        model: a model to try, or None if it is not known yet what the engines serve.
        simulated: the engine is the built-in one.
        metrics_urls: where each proxy tells its counters.
    """

    proxy_url: str
    metrics_urls: tuple[str, ...]
    api_url: str
    key: str | None
    created: bool
    model: str | None
    simulated: bool


def run_up(settings: Settings, *, as_json: bool, console: Console) -> None:
    """Run until SIGINT or SIGTERM.

    Raises:
        ConfigurationError: something cannot work as configured; nothing stays behind.
    """
    stopping = stop_signal()
    require_free(settings.proxy_host, settings.proxy_port, setting="STEELYARD_PROXY_PORT")
    require_free(settings.api_host, settings.api_port, setting="STEELYARD_API_PORT")
    metrics_ports = _metrics_ports(settings)
    folder = data_dir(settings)
    simulated = not configured_backends(settings)
    if not as_json:
        console.print("[bold]Steelyard[/bold] starts …")
    with _only_one(folder), running_database(settings) as urls:
        ensure_migrated(urls)
        database = Database(urls.app, pool_size=1)
        with database.transaction(Role.OPERATOR) as connection:
            first = prepare_first_start(connection, now=datetime.now(UTC))
        database.close()
        children: list[Child] = []
        try:
            _start(children, settings, folder, metrics_ports, simulated=simulated)
            started = Started(
                proxy_url=_url(settings.proxy_host, settings.proxy_port),
                metrics_urls=tuple(_metrics_url(settings, port) for port in metrics_ports),
                api_url=_url(settings.api_host, settings.api_port),
                key=first.key,
                created=first.created,
                model=_model(settings, simulated=simulated),
                simulated=simulated,
            )
            _announce(started, folder, console, as_json=as_json)
            _watch(children, stopping)
        finally:
            if not as_json:
                console.print("Stopping: streams end, the journal is shipped …")
            for child in reversed(children):
                child.stop()


def _metrics_ports(settings: Settings) -> range:
    """Ports for the counters of each proxy; chosen here, so that they can be told."""
    first = settings.proxy_metrics_port
    if first == 0:
        return range(0)
    return free_ports(
        settings.proxy_metrics_host,
        first,
        settings.proxy_processes,
        setting="STEELYARD_PROXY_METRICS_PORT",
    )


def _metrics_url(settings: Settings, port: int) -> str:
    return _url(settings.proxy_metrics_host, port) + "/metrics"


def _start(
    children: list[Child],
    settings: Settings,
    folder: Path,
    metrics_ports: range,
    *,
    simulated: bool,
) -> None:
    environment = {"STEELYARD_PROXY_METRICS_PORT": str(next(iter(metrics_ports), 0))}
    children.append(Child(name="ledger writer", module="workers.writer"))
    children.append(Child(name="worker", module="workers"))
    port = free_port()
    if simulated:
        backends = folder.joinpath("simulated-backends.yaml")
        write_backends(backends, port)
        environment["STEELYARD_BACKENDS"] = str(backends)
        engine = Child(
            name="simulated engine", module="api.simulated", arguments=("--port", str(port))
        )
        children.append(engine)
    children.append(Child(name="API", module="api"))
    proxy = Child(name="proxy", module="api.proxy", environment=environment)
    proxy.stop_ms = max(proxy.stop_ms, settings.proxy_drain_ms + CUT_MS)
    children.append(proxy)
    for child in children:
        child.log = _open_log(folder, child)
        child.start()
    by_name = {child.name: child for child in children}
    if simulated:
        wait_until_ready(by_name["simulated engine"], f"http://127.0.0.1:{port}/v1/models")
    wait_until_ready(by_name["API"], _url(settings.api_host, settings.api_port) + "/healthz")
    wait_until_ready(by_name["proxy"], _url(settings.proxy_host, settings.proxy_port) + "/healthz")
    # One of several processes answers for all of them there, perhaps before the others listen.
    for metrics_port in metrics_ports:
        wait_until_ready(by_name["proxy"], _metrics_url(settings, metrics_port))


def _open_log(folder: Path, child: Child) -> IO[bytes]:
    """A child's log, begun anew at a start that finds it long."""
    path = folder.joinpath("logs", f"{child.name.replace(' ', '-')}.log")
    path.parent.mkdir(mode=0o700, exist_ok=True)
    is_long = path.exists() and path.stat().st_size > LOG_BYTES_MAX
    return open(path, "wb" if is_long else "ab", opener=_private)  # the child's


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _watch(children: list[Child], stopping: threading.Event) -> None:
    """Start a child that ended again; one that keeps ending waits, and the others go on.

    A worker that cannot run must not take customers' traffic down with it.
    """
    notices = output.console(stderr=True)
    waiting: set[str] = set()
    while not stopping.wait(POLL_SECONDS):
        for child in children:
            if child.exit_status is None:
                continue
            if not child.may_restart():
                if child.name not in waiting:
                    notices.print(
                        f"{child.name} ends again and again; it waits a minute, see its log"
                    )
                waiting.add(child.name)
                continue
            waiting.discard(child.name)
            notices.print(f"{child.name} ended (status {child.exit_status}); starting it again")
            child.start()


def _announce(started: Started, folder: Path, console: Console, *, as_json: bool) -> None:
    if as_json:
        console.print_json(
            json.dumps(
                {
                    "proxy_url": started.proxy_url,
                    "api_url": started.api_url,
                    "metrics_urls": [*started.metrics_urls, f"{started.api_url}/metrics"],
                    "api_key": started.key,
                    "model": started.model,
                    "simulated": started.simulated,
                }
            )
        )
        return
    if started.created:
        console.print(f"Created a demo operator with tenant [bold]{TENANT}[/bold].")
    if started.simulated:
        console.print(
            "No engine is configured: completions come from the built-in [bold]simulated[/bold] "
            "engine\n(header x-steelyard-simulated). Set STEELYARD_BACKENDS to meter your own."
        )
    console.print(f"  Proxy   {started.proxy_url}/v1      OpenAI-compatible")
    console.print(f"  API     {started.api_url}/api/v1")
    for url in (*started.metrics_urls, f"{started.api_url}/metrics"):
        console.print(f"  Metrics {url}")
    console.print(f"  Data    {folder}, logs in its folder logs", soft_wrap=True)
    if started.key is None:
        console.print("  Key     issue one: steelyard key create --help")
        return
    console.print(f"  Key     {started.key}   (tenant {TENANT}, shown only now)")
    # Printed raw: a wrapped or highlighted command would not work when it is pasted.
    if started.model is not None:
        console.print("\nTry it:", highlight=False)
        for line in _curl_lines(started):
            console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print("\nCtrl-C stops everything and loses nothing.")


def _curl_lines(started: Started) -> tuple[str, str]:
    body = json.dumps(
        {"model": started.model, "messages": [{"role": "user", "content": "Weigh this."}]}
    )
    authorization = f"-H 'Authorization: Bearer {started.key}'"
    complete = f"curl -s {started.proxy_url}/v1/chat/completions {authorization}"
    return (
        f"{complete} -H 'Content-Type: application/json' -d '{body}'",
        f"curl -s {started.api_url}/api/v1/usage/requests {authorization}",
    )


def _model(settings: Settings, *, simulated: bool) -> str | None:
    if simulated:
        return next(iter(MODELS))
    names = [model.name for spec in configured_backends(settings) for model in spec.models]
    return names[0] if names else None


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(host, host)  # noqa: S104  # compared
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


@contextmanager
def _only_one(folder: Path) -> Generator[None]:
    """Refuse a second `steelyard up` over the same folder."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder.joinpath("up.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigurationError(
            "another `steelyard up` uses this folder",
            field="STEELYARD_DATA_DIR",
            remedy="stop it, or set another folder",
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)
