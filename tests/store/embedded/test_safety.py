"""Who can reach an embedded server, what it writes where, and who may read that."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import create_engine, make_url, text

from billing.errors import EmbeddedServerError
from billing.store.embedded import (
    EmbeddedServer,
    Endpoint,
    ServerAddress,
    account,
    default_data_dir,
    shared_server,
)

AS_ROOT = os.geteuid() == 0


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def one_row(conninfo: str, query: LiteralString) -> tuple[object, ...]:
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row


def test_both_logins_reach_their_database_by_url(address):
    for url, user in (
        (address.owner_url(), "steelyard_owner"),
        (address.app_url(), "steelyard_app"),
    ):
        engine = create_engine(url)
        with engine.connect() as connection:
            row = connection.execute(text("SELECT current_user, current_database()")).one()
        engine.dispose()
        assert tuple(row) == (user, "steelyard")


def test_app_login_owns_and_commands_nothing(address):
    query = (
        "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls"
        " FROM pg_roles WHERE rolname = current_user"
    )
    assert one_row(address.app_conninfo(), query) == (False,) * 5


def test_no_rule_trusts_anybody(address):
    with psycopg.connect(address.owner_conninfo()) as connection:
        rules = connection.execute("SELECT auth_method, error FROM pg_hba_file_rules").fetchall()
    assert rules == [("scram-sha-256", None)]


def test_no_rule_trusts_anybody_on_disk_either(address, running_dir):
    for path in running_dir.rglob("pg_hba.conf"):
        rules = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
        assert rules
        assert all(rule.endswith("scram-sha-256") for rule in rules)


@pytest.mark.parametrize("password", ["", "wrong"])
@pytest.mark.parametrize("user", ["steelyard_owner", "steelyard_app", "postgres"])
def test_wrong_password_is_refused(address, user, password):
    login = {"host": address.endpoint.host, "port": address.endpoint.port, "dbname": "steelyard"}
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(user=user, password=password, **login)


def test_settings_fit_a_ledger(address):
    with psycopg.connect(address.owner_conninfo()) as connection:
        shown = dict(connection.execute("SELECT name, setting FROM pg_settings").fetchall())
    for name in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
        assert shown[name] == "on"
    assert shown["listen_addresses"] == ""
    assert shown["TimeZone"] == "UTC"
    assert shown["server_encoding"] == "UTF8"
    assert shown["password_encryption"] == "scram-sha-256"


def test_order_and_case_do_not_depend_on_the_machine(address):
    query = "SELECT 'Z' < 'a', 'z' < 'ä', upper('ä')"
    assert one_row(address.owner_conninfo(), query) == (True, True, "Ä")


def test_files_have_the_narrowest_modes(address, running_dir):
    assert mode(running_dir) == (0o710 if AS_ROOT else 0o700)
    assert mode(running_dir.joinpath("socket")) == 0o700
    assert mode(running_dir.joinpath("cluster")) == 0o700
    for name in ("password", "app_password", "postgres.log", "users.lock", "server.lock"):
        assert mode(running_dir.joinpath(name)) == 0o600
    for path in running_dir.rglob("*"):
        assert path.is_socket() or not path.stat().st_mode & stat.S_IRWXO, path


@pytest.mark.skipif(not AS_ROOT, reason="only root's server has a user of its own")
def test_servers_user_owns_only_database_and_socket(address, running_dir):
    server_uid = account.server_account().uid
    assert server_uid != 0
    owned = {path.name for path in running_dir.iterdir() if path.stat().st_uid == server_uid}
    assert owned == {"cluster", "socket"}
    pid = int(running_dir.joinpath("cluster", "postmaster.pid").read_text().splitlines()[0])
    assert Path(f"/proc/{pid}").stat().st_uid == server_uid


@pytest.mark.skipif(not AS_ROOT, reason="only root makes users")
def test_user_that_cannot_be_made_is_a_typed_error(monkeypatch):
    monkeypatch.setattr(account, "SYSTEM_USER", "not/a/user:name")
    with pytest.raises(EmbeddedServerError, match="could not create") as caught:
        account.server_account()
    assert caught.value.remedy is not None


def test_server_sees_neither_our_environment_nor_a_password(used_dir, monkeypatch):
    monkeypatch.setenv("STEELYARD_STRIPE_API_KEY", "sk_live_secret")
    with shared_server(used_dir) as address:
        pid = int(used_dir.joinpath("cluster", "postmaster.pid").read_text().splitlines()[0])
        seen = subprocess.run(
            ["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=True
        ).stdout
        if sys.platform == "linux":
            seen += Path(f"/proc/{pid}/environ").read_text()
        seen += repr(address)
    seen += used_dir.joinpath("postgres.log").read_text()
    for secret in ("sk_live_secret", address.owner_password, address.app_password):
        assert secret not in seen


def test_P1_log_keeps_no_values_of_failed_statements(used_dir):
    failing: list[tuple[LiteralString, tuple[str, ...] | None]] = [
        ("INSERT INTO notes VALUES (%s)", ("secret-1",)),
        ("INSERT INTO notes VALUES (%s)", ("secret-2",)),
        ("INSERT INTO notes VALUES ('secret-1')", None),
        ("SELECT 'secret-3'::text FROM missing", None),
    ]
    with (
        shared_server(used_dir) as address,
        psycopg.connect(address.owner_conninfo(), autocommit=True) as connection,
    ):
        connection.execute("CREATE TABLE notes (body text UNIQUE CHECK (body <> 'secret-2'))")
        connection.execute("INSERT INTO notes VALUES ('secret-1')")
        for statement, values in failing:
            with pytest.raises(psycopg.Error):
                connection.execute(statement, values)
    log = used_dir.joinpath("postgres.log").read_text()
    assert "violates unique constraint" in log
    assert "secret" not in log


def test_large_log_is_set_aside_at_start(used_dir):
    server = EmbeddedServer(used_dir)
    server.start()
    server.stop()
    with used_dir.joinpath("postgres.log").open("ab") as log:
        log.truncate(16 * 1024 * 1024 + 1)
    server.start()
    server.stop()
    assert used_dir.joinpath("postgres.log.1").stat().st_size == 16 * 1024 * 1024 + 1
    assert used_dir.joinpath("postgres.log").stat().st_size < 1024 * 1024


def test_parents_keep_their_modes(used_dir):
    parents = list(used_dir.parents)
    before = [mode(path) for path in parents]
    with shared_server(used_dir):
        assert [mode(path) for path in parents] == before


def test_long_path_falls_back_to_loopback(data_dir):
    deep = data_dir.joinpath("a" * 60, "b" * 60)
    deep.parent.mkdir(parents=True)
    data_dir.chmod(0o711)
    deep.parent.chmod(0o711)
    with shared_server(deep) as address, shared_server(deep) as same:
        assert address == same
        assert address.endpoint.host == "127.0.0.1"
        assert one_row(address.app_conninfo(), "SELECT host(inet_server_addr())") == ("127.0.0.1",)
        shown = (
            "SELECT current_setting('listen_addresses'), current_setting('unix_socket_directories')"
        )
        assert one_row(address.owner_conninfo(), shown) == ("127.0.0.1", "")
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(
                host="127.0.0.1", port=address.endpoint.port, user="steelyard_app", password="no"
            )


def test_folder_that_others_may_write_to_is_refused_and_left_alone(data_dir):
    data_dir.mkdir()
    data_dir.chmod(0o777)
    with pytest.raises(EmbeddedServerError, match="others may write"):
        EmbeddedServer(data_dir).start()
    assert mode(data_dir) == 0o777
    assert list(data_dir.iterdir()) == []


def test_folder_that_cannot_be_made_is_a_typed_error(data_dir):
    data_dir.write_text("a file is in the way")
    with pytest.raises(EmbeddedServerError):
        EmbeddedServer(data_dir).start()


@pytest.mark.skipif(not AS_ROOT, reason="only root's server has a user of its own")
def test_folder_behind_a_closed_door_is_refused_and_the_door_stays_closed(data_dir):
    data_dir.mkdir(mode=0o700)
    with pytest.raises(EmbeddedServerError, match="cannot reach"):
        EmbeddedServer(data_dir.joinpath("inner")).start()
    assert mode(data_dir) == 0o700


def test_addresses_are_percent_encoded():
    address = ServerAddress(
        endpoint=Endpoint(host="/srv/a b/&c?d", port=5432),
        owner_password="p@s/s: w%41'\\",
        app_password="ä&b=c",
    )
    url = make_url(address.owner_url("da ta"))
    assert (url.username, url.password, url.database) == (
        "steelyard_owner",
        address.owner_password,
        "da ta",
    )
    assert url.query == {"host": "/srv/a b/&c?d", "port": "5432"}
    assert make_url(address.app_url()).password == address.app_password
    parsed = conninfo_to_dict(address.owner_conninfo())
    assert parsed["password"] == address.owner_password
    assert parsed["host"] == "/srv/a b/&c?d"


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/somebody")
    if AS_ROOT:
        assert default_data_dir() == Path("/var/lib/steelyard")
        return
    assert default_data_dir() == tmp_path.joinpath("steelyard")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_data_dir() == Path("/home/somebody/.local/share/steelyard")


ORDINARY_USER = """
import os
from billing.store.embedded import EmbeddedServer, default_data_dir
import psycopg
server = EmbeddedServer()
address = server.start()
with psycopg.connect(address.app_conninfo()) as connection:
    assert connection.execute("SELECT 1").fetchone() == (1,)
server.stop()
assert not server.is_running()
print(server.data_dir, oct(server.data_dir.stat().st_mode & 0o777))
"""


@pytest.mark.skipif(not AS_ROOT, reason="every other test runs as an ordinary user already")
def test_ordinary_user_needs_no_rights(tmp_path_factory, data_dir):
    somebody = 65534
    home = data_dir.parent.joinpath("home")
    home.mkdir(mode=0o700)
    os.chown(home, somebody, somebody)
    try:
        done = subprocess.run(
            [sys.executable, "-c", ORDINARY_USER],
            env={"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd())},
            cwd="/",
            user=somebody,
            group=somebody,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
        )
    except PermissionError:
        pytest.skip("this interpreter lies where only root can reach it")
    assert done.stderr == ""
    assert done.stdout == f"{home}/.local/share/steelyard 0o700\n"
