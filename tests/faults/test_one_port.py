"""Several processes behind one port: one dies, the others serve, it comes back, nothing is lost."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from api.proxy.processes import (
    PAUSE_MS_MAX,
    PAUSE_MS_MIN,
    ProcessGroup,
    _Watch,
    kept_port,
    pause_before,
)
from api.proxy.processes import run_processes as run_group
from billing.cli.processes import answers, free_port
from billing.errors import ConfigurationError
from billing.journal.reader import is_closed, list_instances
from tests.faults.fleet import ProxyFleet
from tests.faults.workloads import mixed, start_clients
from tests.system import eventually

PROCESSES = 3
SHARED = {"STEELYARD_PROXY_PROCESSES": str(PROCESSES), "STEELYARD_PROXY_DRAIN_MS": "6000"}


def children_of(pid: int) -> list[int]:
    """Processes that a process has started and that run, oldest first."""
    found: list[tuple[int, int]] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = folder.joinpath("stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append((int(fields[19]), int(folder.name)))
    return [number for _, number in sorted(found)]


def watcher_of(fleet: ProxyFleet) -> int:
    pid = fleet.system.children["proxy-0"].pid
    assert pid is not None
    return pid


def all_listen(metrics_port: int) -> bool:
    return all(
        answers(f"http://127.0.0.1:{metrics_port + number}/metrics") for number in range(PROCESSES)
    )


def spare_ports() -> int:
    """The first of as many free ports in a row as there are processes."""
    while True:
        first = free_port()
        try:
            for port in range(first, first + PROCESSES):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first


async def test_L5_one_of_several_dies_and_the_port_goes_on(open_plant):
    chance = random.Random(6)
    metrics_port = spare_ports()
    async with open_plant(pace_ms=10) as plant:
        fleet = ProxyFleet(
            plant.system, 1, {**SHARED, "STEELYARD_PROXY_METRICS_PORT": str(metrics_port)}
        )
        await asyncio.to_thread(fleet.start)
        await asyncio.to_thread(eventually, lambda: all_listen(metrics_port), bool)
        watcher = watcher_of(fleet)
        before = children_of(watcher)
        assert len(before) == PROCESSES
        async with asyncio.TaskGroup() as group:
            during = start_clients(group, fleet, mixed(chance), chance, over_ms=1500)
            await asyncio.sleep(0.7)
            os.kill(before[1], signal.SIGKILL)
        # Every connection that is made now reaches one that lives.
        for _ in range(20):
            assert await asyncio.to_thread(answers, f"{fleet.url(0)}/healthz")
        await asyncio.to_thread(eventually, lambda: all_listen(metrics_port), bool)
        after = children_of(watcher)
        async with asyncio.TaskGroup() as group:
            later = start_clients(group, fleet, mixed(chance), chance, over_ms=300)
        await asyncio.to_thread(fleet.stop)
        await asyncio.to_thread(plant.system.wait_until_settled)
        verdicts = plant.judged([task.result() for task in [*during, *later]])
        journals = list_instances(plant.system.journal_dir)
    assert len(after) == PROCESSES
    assert set(before) - set(after) == {before[1]}
    assert verdicts.completed > len(mixed(chance))
    assert all(told.result().status == 200 for told in later)
    # One for each process that ever ran; those that were asked to stop closed theirs.
    assert len(journals) == PROCESSES + 1
    assert sum(is_closed(journal) for journal in journals) == PROCESSES


async def test_a_watcher_that_is_killed_takes_its_processes_along_in_order(open_plant):
    metrics_port = spare_ports()
    async with open_plant(pace_ms=5) as plant:
        fleet = ProxyFleet(
            plant.system, 1, {**SHARED, "STEELYARD_PROXY_METRICS_PORT": str(metrics_port)}
        )
        await asyncio.to_thread(fleet.start)
        # One that has not yet got so far has no order to end in.
        await asyncio.to_thread(eventually, lambda: all_listen(metrics_port), bool)
        left = children_of(watcher_of(fleet))
        fleet.kill_9([0])
        await asyncio.to_thread(
            eventually, lambda: [pid for pid in left if Path(f"/proc/{pid}").exists()], _none
        )
        await asyncio.to_thread(plant.system.wait_until_settled)
        assert all(is_closed(journal) for journal in list_instances(plant.system.journal_dir))


def _none(found: list[int]) -> bool:
    return not found


def test_a_second_group_does_not_share_the_port_of_another():
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match="cannot listen"):
            run_group(group(port))


def test_a_port_is_kept_while_no_process_listens_and_taken_again_at_once():
    with kept_port(group(0)) as kept:
        port = kept.getsockname()[1]
        with pytest.raises(ConfigurationError, match="cannot listen"):
            kept_port(group(port))
        with (
            socket.create_server(("127.0.0.1", port), reuse_port=True) as listening,
            socket.create_connection(("127.0.0.1", port)) as client,
        ):
            # Closed first by the server's side, it lingers there.
            listening.accept()[0].close()
            assert client.recv(1) == b""
    kept_port(group(port)).close()


def test_a_process_that_cannot_start_ends_the_group(monkeypatch, tmp_path):
    monkeypatch.setenv("STEELYARD_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("STEELYARD_DATABASE_URL", "mysql://nowhere")
    with pytest.raises(ConfigurationError, match="ended while it started"):
        run_group(group(free_port()))


@contextmanager
def watched(program: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Watch]:
    """A group whose processes run that program instead."""
    monkeypatch.setattr("api.proxy.processes.PAUSE_MS_MIN", 1)
    monkeypatch.setattr(sys, "executable", str(program))
    watch = _Watch(group(free_port()), 0, threading.Event())
    thread = threading.Thread(target=watch.run)
    thread.start()
    try:
        yield watch
    finally:
        watch.stopping.set()
        thread.join()


def install(program: Path, script: str) -> None:
    """Put a program into its place, whole."""
    draft = program.with_suffix(".draft")
    draft.write_text(f"#!/bin/sh\n{script}\n")
    draft.chmod(0o700)
    draft.rename(program)


def test_a_process_that_the_host_cannot_start_is_tried_again_and_the_others_go_on(
    monkeypatch, tmp_path
):
    program = tmp_path / "program"
    with watched(program, monkeypatch) as watch:
        eventually(lambda: [each.falls for each in watch.processes], lambda told: min(told) >= 3)
        install(program, "exec sleep 1000")
        eventually(lambda: [each.running for each in watch.processes], all)
        first, second = (each.running for each in watch.processes)
        assert first is not None
        assert second is not None
        program.unlink()
        fell = watch.processes[1].falls
        second.kill()
        eventually(lambda: watch.processes[1].falls, lambda told: told >= fell + 3)
        assert watch.processes[0].running is first
        assert first.poll() is None
        install(program, "exec sleep 1000")
        eventually(lambda: watch.processes[1].running, bool)


def test_a_process_that_has_listened_is_started_again_whatever_it_ends_with(monkeypatch, tmp_path):
    program, ran = tmp_path / "program", tmp_path / "ran"
    install(program, f"echo >> {ran}; printf 1 >&0; exit 3")
    with watched(program, monkeypatch):
        eventually(lambda: ran.exists() and len(ran.read_text()), lambda runs: runs >= 6)


def test_a_process_that_ends_before_it_listens_ends_the_group_however_long_it_took(
    monkeypatch, tmp_path
):
    program = tmp_path / "program"
    install(program, "exit 3")
    monkeypatch.setattr(sys, "executable", str(program))
    # A clock on which an hour passes between any two looks.
    hours = itertools.count(step=3_600_000)
    monkeypatch.setattr("api.proxy.processes._now_ms", lambda: next(hours))
    with pytest.raises(ConfigurationError, match="ended while it started"):
        _Watch(group(free_port()), 0, threading.Event()).run()


def group(port: int) -> ProcessGroup:
    return ProcessGroup(size=2, host="127.0.0.1", port=port, metrics_port=0, drain_ms=100)


def test_pauses_grow_and_end_somewhere():
    pauses = [pause_before(falls) for falls in range(40)]
    assert pauses[:4] == [0, 0, PAUSE_MS_MIN, PAUSE_MS_MIN * 2]
    assert pauses == sorted(pauses)
    assert pauses[-1] == PAUSE_MS_MAX
