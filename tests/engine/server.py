"""Start `transformers serve`, an engine that this project did not write, on a tiny real model.

The engine lives in an environment of its own (`.venv-engine`, or the one whose Python is named by
STEELYARD_ENGINE_PYTHON): torch is nothing that a biller should install. Nothing is downloaded: the
model is made on the spot and the hub is switched off.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 120


class EngineDidNotStart(RuntimeError):
    """The engine ended or stayed silent; the message ends with its last output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A running engine.

    Attributes:
        base_url: where it listens, without `/v1`.
        model: the only name it serves: the folder of its model, spelled as at its start.
    """

    base_url: str
    model: str


def engine_python() -> Path:
    named = os.environ.get("STEELYARD_ENGINE_PYTHON")
    return Path(named) if named else ROOT / ".venv-engine" / "bin" / "python"


@contextmanager
def running_engine(folder: Path) -> Iterator[Engine]:
    """Make the model under `folder`, serve it on a free loopback port, stop it at the end."""
    model = folder / "tiny-llama"
    hub = folder / "hub-cache"
    (hub / "hub").mkdir(parents=True)  # without it the engine answers /v1/models with 500
    environment = {
        **os.environ,
        "HF_HOME": str(hub),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    maker = Path(__file__).with_name("make_model.py")
    subprocess.run(
        [engine_python(), maker, model], check=True, env=environment, capture_output=True
    )
    port = _free_port()
    log = folder / "engine.log"
    with log.open("wb") as output:
        engine = subprocess.Popen(
            [
                engine_python().with_name("transformers"),
                "serve",
                model,
                "--host=127.0.0.1",
                f"--port={port}",
                "--device=cpu",
            ],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    base_url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(engine, base_url, log)
        yield Engine(base_url=base_url, model=str(model))
    finally:
        _stop(engine)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_ready(engine: subprocess.Popen[bytes], base_url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if engine.poll() is not None:
            break
        try:
            if httpx.get(f"{base_url}/health", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    tail = log.read_text(errors="replace")[-2000:]
    raise EngineDidNotStart(f"transformers serve did not become ready\n{tail}")


def _stop(engine: subprocess.Popen[bytes]) -> None:
    """The engine and its children; its own session makes them one group."""
    if engine.poll() is None:
        os.killpg(engine.pid, signal.SIGTERM)
    try:
        engine.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(engine.pid, signal.SIGKILL)
        engine.wait()
