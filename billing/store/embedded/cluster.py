"""What is inside the database folder: its creation, settings, access rules, logins.

Every cold start writes settings and access rules anew, outside the folder that the server may
write to. Nothing here starts or stops a server.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import psycopg
from psycopg import sql

from billing.errors import EmbeddedServerError
from billing.store.embedded.address import APP, DATABASE, OWNER, Endpoint, ServerAddress
from billing.store.embedded.binaries import Binaries
from billing.store.embedded.folder import ServerFolder

MAJOR_VERSION = "18"
# Parameters and DETAIL lines can hold secrets and tenants' values, so the log gets neither.
SETTINGS = """\
# Written by Steelyard at every start; ALTER SYSTEM changes what you want changed.
cluster_name = 'steelyard'
max_connections = 100
shared_buffers = '128MB'
dynamic_shared_memory_type = 'mmap'
synchronous_commit = on
fsync = {fsync}
full_page_writes = {fsync}
password_encryption = 'scram-sha-256'
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
log_destination = 'stderr'
logging_collector = off
log_line_prefix = '%m [%p] %q%u@%d '
log_statement = 'none'
log_min_error_statement = 'panic'
log_error_verbosity = 'terse'
log_parameter_max_length = 0
log_parameter_max_length_on_error = 0
listen_addresses = '{listen}'
port = {port}
unix_socket_directories = '{socket}'
unix_socket_permissions = 0700
"""


def plain_environment() -> dict[str, str]:
    """What the server's programs get of our environment, which holds secrets: next to nothing."""
    plain = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}
    # Some installations of Python cannot start without it, and the keeper is a Python program.
    if libraries := os.environ.get("LD_LIBRARY_PATH"):
        plain["LD_LIBRARY_PATH"] = libraries
    return plain


def create_cluster(folder: ServerFolder, binaries: Binaries) -> None:
    """Run initdb unless there is a cluster; a crash on the way leaves none behind.

    Raises:
        EmbeddedServerError: initdb failed, or the cluster is of another major version.
    """
    version = folder.cluster.joinpath("PG_VERSION")
    if folder.cluster.exists():
        if version.read_text(encoding="ascii").strip() != MAJOR_VERSION:
            raise EmbeddedServerError(
                f"the database in {folder.root} was made by another version of PostgreSQL",
                remedy=f"upgrade it with pg_upgrade to version {MAJOR_VERSION}",
            )
        return
    draft = folder.root.joinpath("cluster.new")
    shutil.rmtree(draft, ignore_errors=True)
    folder.make_own(draft)
    password = _password_for_initdb(folder)
    try:
        _run_initdb(folder, binaries, draft, password)
    finally:
        password.unlink()
    draft.replace(folder.cluster)
    folder.sync()


def _password_for_initdb(folder: ServerFolder) -> Path:
    """Write the owner's password where initdb, running as the server's account, can read it."""
    path = folder.root.joinpath("initdb.password")
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(folder.owner_password() + "\n")
    folder.account.give(path)
    return path


def _run_initdb(folder: ServerFolder, binaries: Binaries, target: Path, password: Path) -> None:
    account = folder.account
    try:
        done = subprocess.run(
            [
                *(str(binaries.initdb), "-D", str(target), "-U", OWNER, f"--pwfile={password}"),
                *("--auth-local=scram-sha-256", "--auth-host=scram-sha-256", "--data-checksums"),
                *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin"),
                *("--builtin-locale=C.UTF-8", "--text-search-config=simple"),
            ],
            capture_output=True,
            check=False,
            cwd="/",
            env=plain_environment(),
            user=account.uid if account.separate else None,
            group=account.gid if account.separate else None,
            extra_groups=[] if account.separate else None,
            umask=0o077,
        )
    except PermissionError as error:
        raise EmbeddedServerError(
            f"the server's user cannot reach {folder.root} or may not run programs there",
            remedy="name a data folder that it can reach, for instance under /var/lib",
        ) from error
    if done.returncode != 0:
        folder.log.write_bytes(done.stdout + done.stderr)
        raise EmbeddedServerError(
            f"initdb ended with status {done.returncode}", remedy=f"see {folder.log}"
        )


def write_settings(folder: ServerFolder, endpoint: Endpoint, *, fsync: bool) -> None:
    """Write postgresql.conf and pg_hba.conf for a server at this endpoint."""
    socket = endpoint.socket_folder
    settings = SETTINGS.format(
        fsync="on" if fsync else "off",
        listen="" if socket else endpoint.host,
        port=endpoint.port,
        socket=str(socket).replace("'", "''") if socket else "",
    )
    rule = "local all all" if socket else f"host all all {endpoint.host}/32"
    folder.write(folder.settings, settings)
    folder.write(folder.access_rules, f"{rule} scram-sha-256\n")


def clear_remains(folder: ServerFolder) -> None:
    """Remove the pid files of a server that was killed; called when none can be running.

    PostgreSQL believes such a file as long as any process of the same user has that number,
    which after a restart of a container is the rule.
    """
    folder.cluster.joinpath("postmaster.pid").unlink(missing_ok=True)
    for remains in folder.socket.glob(".s.PGSQL.*"):
        remains.unlink()


def server_command(folder: ServerFolder, binaries: Binaries) -> list[str]:
    """The server's command line; no secret is on it."""
    return [
        str(binaries.postgres),
        *("-D", str(folder.cluster)),
        *("-c", f"config_file={folder.settings}"),
        *("-c", f"hba_file={folder.access_rules}"),
    ]


def ensure_logins(address: ServerAddress) -> None:
    """Check that the app can log in, else make its login and the database."""
    try:
        psycopg.connect(address.app_conninfo(), connect_timeout=5).close()
    except psycopg.OperationalError:
        _create_logins(address)


def _create_logins(address: ServerAddress) -> None:
    """Make the app's login and the database where they are missing, and set its password.

    The server is given a SCRAM verifier and never sees the app's password itself.
    """
    with psycopg.connect(address.owner_conninfo("postgres"), autocommit=True) as connection:
        verifier = connection.pgconn.encrypt_password(
            address.app_password.encode(), APP.encode(), b"scram-sha-256"
        ).decode()
        known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (APP,)).fetchone()
        verb = sql.SQL("ALTER" if known else "CREATE")
        connection.execute(
            sql.SQL("{} ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD {}").format(
                verb, sql.Identifier(APP), sql.Literal(verifier)
            )
        )
        made = connection.execute(
            "SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)
        ).fetchone()
        if not made:
            name, owner = sql.Identifier(DATABASE), sql.Identifier(OWNER)
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, owner))
