"""An embedded server lives as long as its users, and keeps what they committed."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from billing.errors import EmbeddedServerError
from billing.store.embedded import EmbeddedServer, ServerAddress, shared_server, throwaway_server

USER_PROGRAM = """
import sys, time
from pathlib import Path
from billing.store.embedded import shared_server
with shared_server(Path(sys.argv[1])) as address:
    print("ready", flush=True)
    sys.stdin.readline()
"""


def start_user(data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", USER_PROGRAM, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )


def wait_until_ready(user: subprocess.Popen[str]) -> None:
    assert user.stdout is not None
    assert user.stdout.readline() == "ready\n"


def dismiss(user: subprocess.Popen[str]) -> int:
    user.communicate("\n")
    return user.returncode


def kill(user: subprocess.Popen[str]) -> None:
    user.kill()
    user.communicate()


NUMBERS = itertools.count(1)


def add(address: ServerAddress) -> int:
    """Commit a new fact and return it."""
    number = next(NUMBERS)
    with psycopg.connect(address.owner_conninfo()) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS facts (n int)")
        connection.execute("INSERT INTO facts VALUES (%s)", (number,))
    return number


def kept(address: ServerAddress, number: int) -> bool:
    """Whether the fact is there, once."""
    with psycopg.connect(address.owner_conninfo()) as connection:
        row = connection.execute("SELECT count(*) FROM facts WHERE n = %s", (number,)).fetchone()
    return row == (1,)


def server_pid(data_dir: Path) -> int:
    return int(data_dir.joinpath("cluster", "postmaster.pid").read_text().splitlines()[0])


def parent_of(pid: int) -> int:
    found = subprocess.run(
        ["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, text=True, check=True
    )
    return int(found.stdout)


def wait_for_end(server: EmbeddedServer) -> None:
    """Return when no process of the server is left; a server that stays fails by the guard."""
    while server.is_running():
        time.sleep(0.02)


def test_restart_keeps_what_was_committed(used_dir):
    server = EmbeddedServer(used_dir)
    number = add(server.start())
    server.stop()
    assert not server.is_running()
    again = EmbeddedServer(used_dir)
    assert kept(again.start(), number)
    again.stop()


def test_last_user_to_leave_stops_the_server(used_dir):
    first, second = EmbeddedServer(used_dir), EmbeddedServer(used_dir)
    number = add(first.start())
    address = second.start()
    pid = server_pid(used_dir)
    first.stop()
    assert second.is_running()
    assert kept(address, number)
    assert server_pid(used_dir) == pid
    second.stop()
    assert not second.is_running()


def test_start_and_stop_may_be_repeated(used_dir):
    server = EmbeddedServer(used_dir)
    server.stop()
    assert server.start() == server.start()
    server.stop()
    server.stop()
    assert not server.is_running()


def test_users_in_several_processes_race_for_the_first_start(data_dir):
    users = [start_user(data_dir) for _ in range(4)]
    for user in users:
        wait_until_ready(user)
    assert EmbeddedServer(data_dir).is_running()
    assert [dismiss(user) for user in users] == [0, 0, 0, 0]
    assert not EmbeddedServer(data_dir).is_running()


def test_L5_killed_user_takes_the_server_with_it_and_loses_nothing(used_dir):
    user = start_user(used_dir)
    wait_until_ready(user)
    with shared_server(used_dir) as address:
        number = add(address)
    server = EmbeddedServer(used_dir)
    assert server.is_running()
    kill(user)
    wait_for_end(server)
    assert kept(server.start(), number)
    server.stop()


def test_new_user_right_after_a_killed_one_gets_a_server(used_dir):
    for _ in range(3):
        user = start_user(used_dir)
        wait_until_ready(user)
        kill(user)
        with shared_server(used_dir) as address:
            number = add(address)
            assert kept(address, number)


def test_L5_killed_server_starts_again_under_its_users(used_dir):
    server = EmbeddedServer(used_dir)
    number = add(server.start())
    os.kill(server_pid(used_dir), signal.SIGKILL)
    wait_for_end(server)
    assert kept(server.start(), number)
    server.stop()
    assert not server.is_running()


def test_L5_everything_killed_at_once_loses_nothing(used_dir):
    user = start_user(used_dir)
    wait_until_ready(user)
    with shared_server(used_dir) as address:
        number = add(address)
    pid = server_pid(used_dir)
    for victim in (parent_of(pid), pid, user.pid):
        os.kill(victim, signal.SIGKILL)
    user.communicate()
    with shared_server(used_dir) as address:
        assert kept(address, number)
    assert not EmbeddedServer(used_dir).is_running()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_killed_keeper_takes_the_server_with_it(used_dir):
    server = EmbeddedServer(used_dir)
    server.start()
    os.kill(parent_of(server_pid(used_dir)), signal.SIGKILL)
    wait_for_end(server)
    server.stop()


def test_pid_file_that_names_somebody_else_is_not_believed(used_dir):
    server = EmbeddedServer(used_dir)
    number = add(server.start())
    pid_file = used_dir.joinpath("cluster", "postmaster.pid")
    lines = pid_file.read_text().splitlines()
    os.kill(int(lines[0]), signal.SIGKILL)
    wait_for_end(server)
    stranger = subprocess.Popen(["sleep", "300"], user=pid_file.stat().st_uid)
    try:
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        assert kept(server.start(), number)
        server.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_first_start_that_was_cut_short_is_begun_again(data_dir):
    data_dir.mkdir(mode=0o700)
    data_dir.joinpath("cluster.new").mkdir()
    data_dir.joinpath("cluster.new", "PG_VERSION").write_text("18\n")
    data_dir.joinpath("password.new").write_text("half")
    data_dir.joinpath("initdb.password").write_text("half")
    with shared_server(data_dir) as address:
        add(address)
    assert not data_dir.joinpath("initdb.password").exists()


def test_database_of_another_version_is_refused(data_dir):
    data_dir.joinpath("cluster").mkdir(parents=True, mode=0o700)
    data_dir.chmod(0o700)
    data_dir.joinpath("cluster", "PG_VERSION").write_text("17\n")
    server = EmbeddedServer(data_dir)
    with pytest.raises(EmbeddedServerError, match="another version"):
        server.start()
    assert not server.is_running()


def test_lost_password_file_is_named(data_dir):
    server = EmbeddedServer(data_dir)
    server.start()
    server.stop()
    data_dir.joinpath("password").unlink()
    with pytest.raises(EmbeddedServerError, match="not the password"):
        server.start()
    wait_for_end(server)


def test_lost_app_password_is_replaced(used_dir):
    server = EmbeddedServer(used_dir)
    before = server.start()
    server.stop()
    used_dir.joinpath("app_password").unlink()
    after = server.start()
    with psycopg.connect(after.app_conninfo()) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("steelyard_app",)
    server.stop()
    assert before.app_password != after.app_password


def test_throwaway_leaves_nothing():
    with throwaway_server(fsync=False) as address:
        folder = address.endpoint.socket_folder
        assert folder is not None
        add(address)
    assert not folder.parent.exists()
