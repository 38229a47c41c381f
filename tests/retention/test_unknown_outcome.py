"""An upload whose answer was lost is looked up, not taken for refused."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from billing.archive.places import Bucket, archive_place


class Wire(threading.Thread):
    """Passes requests on to a server, and swallows the answer to what completes an upload."""

    def __init__(self, server: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self.server, self.swallowed = server, 0
        self.listener = socket.create_server(("127.0.0.1", 0))

    def run(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.server) as server:
            while request := _message(client):
                first = request.partition(b"\r\n")[0]
                # An object appears with the request that completes its upload.
                upload = first.startswith(b"POST") and b"uploadId=" in first
                self.swallowed += upload
                server.sendall(request)
                answer = _message(server, head_only=request.startswith(b"HEAD"))
                if upload:
                    return
                client.sendall(answer)


def _message(peer: socket.socket, *, head_only: bool = False) -> bytes:
    """One HTTP message with its body."""
    content = b""
    while b"\r\n\r\n" not in content:
        part = peer.recv(65_536)
        if not part:
            return b""
        content += part
    head, _, body = content.partition(b"\r\n\r\n")
    lengths = [
        int(line.split(b":")[1])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    ]
    while not head_only and lengths and len(body) < lengths[0]:
        body += peer.recv(65_536)
    return head + b"\r\n\r\n" + body


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    """An S3-compatible server with a bucket `books`."""
    started = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    started.start()
    host, port = started.get_host_and_port()
    boto3.client(
        "s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1",
        aws_access_key_id="ak", aws_secret_access_key="sk",
    ).create_bucket(Bucket="books")  # fmt: skip
    yield host, port
    started.stop()


def test_an_upload_with_an_unknown_outcome_is_looked_up(
    server: tuple[str, int], tmp_path: Path
) -> None:
    wire = Wire(server)
    wire.start()
    address = f"http://127.0.0.1:{wire.listener.getsockname()[1]}"
    bucket = Bucket(endpoint=address, region="us-east-1", access_key="ak", secret_key="sk")
    place = archive_place("s3://books/usage", bucket)
    source = tmp_path / "month"
    source.write_bytes(b"a month of events" * 100)
    place.put(source, "month.parquet")
    with place.open("month.parquet") as file:
        assert file.read() == source.read_bytes()
    assert wire.swallowed >= 1
    wire.listener.close()
