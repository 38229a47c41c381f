"""`python -m api`: serves the control plane until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Generator

import structlog
import uvicorn
from litestar import Litestar

from api.app import create_app
from api.deployment import utc_now
from api.http_limits import LimitedConnection
from api.interpreter import tune_interpreter
from billing.errors import SteelyardError
from billing.exit_status import end_process
from billing.operations.deployment import opened_database, wait_for_database
from billing.settings import read_settings

log = structlog.get_logger("steelyard.api")

GRACE_SECONDS = 10


class Server(uvicorn.Server):
    """uvicorn's server: says when it listens, and returns when it was told to stop."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            log.info("api listens", host=host, port=port)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stop in order and then return, so that the caller can close the database too; uvicorn
        would raise the signal again."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Begin an orderly stop."""
        self.should_exit = True


def server_of(app: Litestar, host: str, port: int) -> Server:
    """A server of the control plane; port 0 picks a free one."""
    return Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            loop="uvloop",
            http=LimitedConnection,
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )


def log_json(level: str) -> None:
    """Log one JSON object per line."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )


def main() -> None:
    """Start from the environment, once the database answers."""
    try:
        settings = read_settings()
        if not structlog.is_configured():
            log_json(settings.log_level)
        # SIGTERM ends the wait as it ends any process: nothing is open yet.
        wait_for_database(settings, threading.Event(), told=_tell_waiting)
        with opened_database(settings, answer_ms=settings.api_statement_ms) as database:
            app = create_app(database, settings, utc_now)
            tune_interpreter()
            server_of(app, settings.api_host, settings.api_port).run()
    except SteelyardError as error:
        end_process(error)


def _tell_waiting(pause_ms: int) -> None:
    log.error("the database does not answer; the API waits for it", pause_ms=pause_ms)


if __name__ == "__main__":
    main()
