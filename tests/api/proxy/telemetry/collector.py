"""A collector on a socket that judges what it gets by OpenTelemetry's own definitions."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

_IDS = ("traceId", "spanId", "parentSpanId")


def _in_base64(found: Any) -> Any:
    """OTLP writes ids in hexadecimal, where JSON of protocol buffers has base64."""
    if isinstance(found, list):
        return [_in_base64(one) for one in found]
    if isinstance(found, dict):
        return {
            key: base64.b64encode(bytes.fromhex(one)).decode() if key in _IDS else _in_base64(one)
            for key, one in found.items()
        }
    return found


def values(attributes: Any) -> dict[str, Any]:
    """Attributes by name; each may be given once."""
    found: dict[str, Any] = {}
    for pair in attributes:
        assert isinstance(pair, KeyValue)
        assert pair.key not in found
        kind = pair.value.WhichOneof("value")
        assert kind is not None
        found[pair.key] = getattr(pair.value, kind)
    return found


class FakeCollector:
    """Takes exports; `status` and `hangs` hold for every one from now on.

    Attributes:
        bodies: of the exports that came whole, by path.
        answer: what it says of one that it has taken.
    """

    def __init__(self) -> None:
        self.status = 200
        self.answer = b"{}"
        self.hangs = False
        self.bodies: list[tuple[str, bytes]] = []
        self.headers: list[dict[str, str]] = []
        self.port = 0
        self.open: set[asyncio.StreamWriter] = set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def spans(self) -> list[Span]:
        return list(self._spans())

    @property
    def requests(self) -> list[Span]:
        return [span for span in self.spans if span.kind == Span.SPAN_KIND_SERVER]

    @property
    def request(self) -> Span:
        (only,) = self.requests
        return only

    @property
    def attempts(self) -> list[Span]:
        return [span for span in self.spans if span.kind == Span.SPAN_KIND_CLIENT]

    def metrics(self) -> dict[str, Metric]:
        """Those of the newest export."""
        body = [body for path, body in self.bodies if path == "/v1/metrics"][-1]
        told = json_format.Parse(body, ExportMetricsServiceRequest())
        (resource,) = told.resource_metrics
        (scope,) = resource.scope_metrics
        return {metric.name: metric for metric in scope.metrics}

    def _spans(self) -> Iterator[Span]:
        for path, body in self.bodies:
            if path != "/v1/traces":
                continue
            text = json.dumps(_in_base64(json.loads(body)))
            told = json_format.Parse(text, ExportTraceServiceRequest())
            for resource in told.resource_spans:
                assert values(resource.resource.attributes)["service.name"] == "steelyard-proxy"
                for scope in resource.scope_spans:
                    yield from scope.spans

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *fields = head.strip().split("\r\n")
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (field.partition(":") for field in fields)
                }
                body = await reader.readexactly(int(headers["content-length"]))
                assert headers["content-type"] == "application/json"
                self.bodies.append((line.split()[1], body))
                self.headers.append(headers)
                if self.hangs:
                    await reader.read()
                    return
                writer.write(
                    b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                    % (self.status, len(self.answer))
                )
                writer.write(self.answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.open.discard(writer)
            writer.close()


@asynccontextmanager
async def fake_collector(port: int = 0) -> AsyncIterator[FakeCollector]:
    """Collect inside the block."""
    collector = FakeCollector()
    server = await asyncio.start_server(collector.connected, "127.0.0.1", port)
    collector.port = server.sockets[0].getsockname()[1]
    try:
        yield collector
    finally:
        server.close()
        for writer in list(collector.open):
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
