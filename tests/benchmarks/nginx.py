"""nginx as a blind proxy, where it is installed: what a server written in C costs for the same."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.proxy_world import Server, core_of, free_port

PATIENCE_SECONDS = 10

_CONFIGURATION = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
    access_log off; keepalive_requests 100000000; client_max_body_size 8m;
    client_body_buffer_size 512k;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {servers}
}}
"""
_SERVER = """
    upstream {name} {{
        server 127.0.0.1:{engine}; keepalive 2048; keepalive_requests 100000000; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://{name}; proxy_http_version 1.1; proxy_buffering off;
            proxy_set_header Connection ""; }}
    }}
"""


@contextmanager
def nginx(core: int, engines: Mapping[str, int], folder: Path) -> Iterator[dict[str, Server]]:
    """Run it in one process on one core; yields a server per engine, none without nginx."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        yield {}
        return
    ports = {name: free_port() for name in engines}
    servers = "".join(
        _SERVER.format(name=name, engine=engines[name], port=port) for name, port in ports.items()
    )
    file = folder / "nginx.conf"
    file.write_text(_CONFIGURATION.format(folder=folder, servers=servers))
    running = subprocess.Popen([program, "-c", str(file), "-e", f"{folder}/error.log"])
    try:
        os.sched_setaffinity(running.pid, {core_of(core)})
        _wait_for(next(iter(ports.values())), running)
        yield {name: Server(running.pid, port) for name, port in ports.items()}
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(PATIENCE_SECONDS)


def _wait_for(port: int, running: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline or running.poll() is not None:
                raise
            time.sleep(0.05)
        else:
            return
