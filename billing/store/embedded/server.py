"""Start, share and stop an embedded PostgreSQL server.

Everybody who uses a data folder holds a shared lock on its `users.lock`. The first one starts
the server, the last one to leave stops it, and one that is killed is noticed by the server's
keeper (see `keeper.py`). Whether a server runs is told by `server.lock`, which the server and
all of its own processes inherit: the kernel frees it when the last of them is gone, so neither
a stale pid file nor an orphaned backend can deceive a new start.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from billing.errors import EmbeddedServerError
from billing.store.embedded import cluster, keeper
from billing.store.embedded.account import server_account
from billing.store.embedded.address import Endpoint, ServerAddress
from billing.store.embedded.binaries import binaries_for
from billing.store.embedded.folder import ServerFolder, default_data_dir
from billing.store.embedded.locks import locked, now_ms, open_lock, pause, try_lock, wait_for_lock

WAIT_MS = 90_000
STOP_MS = 60_000
SOCKET_PORT = 5432
SOCKET_PATH_LIMIT = 107 if sys.platform == "linux" else 103
LOOPBACK = "127.0.0.1"
STATUS_LINES = 8


class EmbeddedServer:
    """One user's hold on the server of a data folder.

    Args:
        data_dir: the folder; absent means `default_data_dir()`.
        fsync: False only for throwaway servers: a power cut then loses the database.
    """

    def __init__(self, data_dir: Path | None = None, *, fsync: bool = True) -> None:
        self.data_dir = (data_dir or default_data_dir()).absolute()
        self._fsync = fsync
        self._seat: int | None = None

    def start(self) -> ServerAddress:
        """Join the server, starting it if nobody has. Safe to repeat, also after it crashed.

        Raises:
            EmbeddedServerError: it cannot be set up or reached; the remedy says why.
        """
        try:
            folder = ServerFolder(root=self.data_dir, account=server_account())
            folder.make()
            with locked(folder.start_lock, within_ms=WAIT_MS):
                if self._seat is None:
                    self._seat = wait_for_lock(folder.users_lock, shared=True, within_ms=WAIT_MS)
                try:
                    return self._join(folder)
                except BaseException:
                    # The keeper sees the lock go and stops whatever did start.
                    os.close(self._seat)
                    self._seat = None
                    raise
        except OSError as error:
            raise EmbeddedServerError(
                f"cannot prepare {error.filename or self.data_dir}: {error.strerror}",
                remedy="name a data folder that you may write to",
            ) from error

    def stop(self) -> None:
        """Leave the server; the last one to leave stops it and waits for its end.

        Raises:
            EmbeddedServerError: the server did not end in time.
        """
        if self._seat is None:
            return
        folder = ServerFolder(root=self.data_dir, account=server_account())
        with locked(folder.start_lock, within_ms=WAIT_MS):
            seat, self._seat = self._seat, None
            try:
                # Refused means that others stay, or that the keeper was faster; in the latter
                # case the shared lock is refused as well until the server has ended.
                if try_lock(seat):
                    _stop_server(folder)
                elif not try_lock(seat, shared=True):
                    _wait_for_end(folder, within_ms=STOP_MS)
            finally:
                os.close(seat)

    def is_running(self) -> bool:
        """Whether any process of the server is alive."""
        lock = self.data_dir.joinpath("server.lock")
        if not lock.exists():
            return False
        descriptor = open_lock(lock)
        try:
            return not try_lock(descriptor, shared=True)
        finally:
            os.close(descriptor)

    def _join(self, folder: ServerFolder) -> ServerAddress:
        """Return the address of a server that answers; called under the start lock."""
        deadline = now_ms() + WAIT_MS
        launched = False
        while True:
            # What holds the lock may be a server in its last moments; then ours is next.
            if not launched:
                launched = self._launch(folder)
            address = _answering(folder)
            if address is not None:
                cluster.ensure_logins(address)
                return address
            if launched and not self.is_running():
                raise EmbeddedServerError(
                    "the server ended while it was starting", remedy=f"see {folder.log}"
                )
            if now_ms() > deadline:
                raise EmbeddedServerError(
                    f"the server in {folder.root} does not answer", remedy=f"see {folder.log}"
                )
            pause()

    def _launch(self, folder: ServerFolder) -> bool:
        """Start a server, which inherits the lock, unless one is there; True if we did."""
        lock = open_lock(folder.server_lock)
        try:
            if not try_lock(lock):
                return False
            binaries = binaries_for(folder)
            folder.make_own(folder.socket)
            cluster.create_cluster(folder, binaries)
            cluster.clear_remains(folder)
            cluster.write_settings(folder, _choose_endpoint(folder), fsync=self._fsync)
            _start_keeper(folder, cluster.server_command(folder, binaries), lock)
            return True
        finally:
            os.close(lock)


@contextmanager
def shared_server(data_dir: Path | None = None) -> Generator[ServerAddress]:
    """Use the server of a data folder for the length of a with block."""
    server = EmbeddedServer(data_dir)
    address = server.start()
    try:
        yield address
    finally:
        server.stop()


def _uses_socket(folder: ServerFolder) -> bool:
    path = folder.socket.joinpath(f".s.PGSQL.{SOCKET_PORT}")
    return len(os.fsencode(path)) <= SOCKET_PATH_LIMIT


def _choose_endpoint(folder: ServerFolder) -> Endpoint:
    """The socket folder, or a free port where the socket's path would be too long."""
    if _uses_socket(folder):
        return Endpoint(host=str(folder.socket), port=SOCKET_PORT)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        return Endpoint(host=LOOPBACK, port=probe.getsockname()[1])


def _start_keeper(folder: ServerFolder, command: list[str], lock: int) -> None:
    log = folder.open_log()
    account = folder.account
    try:
        subprocess.run(
            [
                *(sys.executable, "-I", "-S", keeper.__file__),
                *(str(folder.users_lock), str(account.uid), str(account.gid)),
                *command,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=cluster.plain_environment(),
            pass_fds=[lock],
            check=True,
        )
    finally:
        os.close(log)


def _status(folder: ServerFolder) -> list[str]:
    """The lines of postmaster.pid: pid, folder, start, port, socket, address, memory, state."""
    try:
        lines = folder.cluster.joinpath("postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [line.strip() for line in lines]


def _answering(folder: ServerFolder) -> ServerAddress | None:
    """The address of the server if it takes connections now."""
    status = _status(folder)
    if len(status) < STATUS_LINES or status[7] != "ready":
        return None
    endpoint = Endpoint(host=LOOPBACK, port=int(status[3]))
    if _uses_socket(folder):
        endpoint = Endpoint(host=str(folder.socket), port=SOCKET_PORT)
    address = ServerAddress(
        endpoint=endpoint,
        owner_password=folder.owner_password(),
        app_password=folder.app_password(),
    )
    try:
        psycopg.connect(address.owner_conninfo("postgres"), connect_timeout=5).close()
    except psycopg.OperationalError as error:
        if "password authentication failed" in str(error):
            raise EmbeddedServerError(
                f"{folder.root.joinpath('password')} is not the password of this database",
                remedy="restore that file from a backup of the data folder",
            ) from None
        return None
    return address


def _stop_server(folder: ServerFolder) -> None:
    """Ask for a fast shutdown, and for an immediate one, which is crash-safe, if that hangs."""
    _signal_server(folder, signal.SIGINT)
    if _ended(folder, within_ms=STOP_MS):
        return
    _signal_server(folder, signal.SIGQUIT)
    _wait_for_end(folder, within_ms=STOP_MS)


def _signal_server(folder: ServerFolder, number: signal.Signals) -> None:
    """Signal as the server's own user: the file that names the process is the server's."""
    status = _status(folder)
    if not status or not status[0].isdigit():
        return
    if not folder.account.separate:
        with suppress(ProcessLookupError):
            os.kill(int(status[0]), number)
        return
    subprocess.run(
        ["/bin/sh", "-c", 'kill -s "$1" "$2"', "sh", number.name.removeprefix("SIG"), status[0]],
        capture_output=True,
        check=False,
        cwd="/",
        env=cluster.plain_environment(),
        user=folder.account.uid,
        group=folder.account.gid,
        extra_groups=[],
    )


def _ended(folder: ServerFolder, *, within_ms: int) -> bool:
    """Whether the last process of the server is gone before the time is over."""
    deadline = now_ms() + within_ms
    descriptor = open_lock(folder.server_lock)
    try:
        while not try_lock(descriptor):
            if now_ms() > deadline:
                return False
            pause()
        return True
    finally:
        os.close(descriptor)


def _wait_for_end(folder: ServerFolder, *, within_ms: int) -> None:
    if not _ended(folder, within_ms=within_ms):
        raise EmbeddedServerError(
            f"the server in {folder.root} does not stop", remedy=f"see {folder.log}"
        )
