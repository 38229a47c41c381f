"""Counters are told on a port of their own, to whoever asks for them and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import httpx
import pytest

from api.proxy.metrics_server import PORTS, serving_metrics
from billing.cli.processes import free_port
from billing.errors import ConfigurationError

HOST = "127.0.0.1"


def counters() -> bytes:
    return b"a_total 1\n"


async def test_counters_are_told(yard):
    await yard.chat()
    async with (
        serving_metrics(yard.app.tally.render, HOST, free_port()) as port,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        answer = await http.get(f"http://{HOST}:{port}/metrics")
    assert 'steelyard_proxy_tokens_total{class="output"} 5.0' in answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_customers_do_not_reach_them(yard):
    assert (await yard.http.get("/metrics")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("POST", "/metrics", 405), ("GET", "/metrics?a=b", 200)],
)
async def test_nothing_else_is_answered(method, path, status):
    async with (
        serving_metrics(counters, HOST, free_port()) as port,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        answer = await http.request(method, f"http://{HOST}:{port}{path}")
    assert (answer.status_code, answer.content) == (status, counters() if status == 200 else b"")


async def test_counters_that_cannot_be_told_are_a_500(caplog):
    def broken() -> bytes:
        raise ZeroDivisionError(HOST)

    async with (
        serving_metrics(broken, HOST, free_port()) as port,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        for _ in range(2):
            answer = await http.get(f"http://{HOST}:{port}/metrics")
            assert (answer.status_code, answer.content) == (500, b"")
    assert "ZeroDivisionError" in caplog.text
    assert HOST not in caplog.text.replace(f"http://{HOST}", "")


async def test_processes_of_a_host_take_ports_side_by_side():
    wanted = free_port()
    async with (
        serving_metrics(counters, HOST, wanted) as first,
        serving_metrics(counters, HOST, wanted) as second,
    ):
        assert first is not None
        assert second is not None
        assert wanted <= first < second < wanted + PORTS


async def test_an_address_of_another_host_stops_the_start():
    with pytest.raises(ConfigurationError, match="PROXY_METRICS_PORT"):
        async with serving_metrics(counters, "192.0.2.1", 9464):
            pass


async def test_port_zero_serves_nothing():
    async with serving_metrics(counters, HOST, 0) as port:
        assert port is None


async def test_an_overlong_head_is_cut_off():
    async with serving_metrics(counters, HOST, free_port()) as port:
        reader, writer = await asyncio.open_connection(HOST, port, family=socket.AF_INET)
        writer.write(b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 4_000)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
