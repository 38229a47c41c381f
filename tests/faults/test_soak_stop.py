"""A soak that is told to stop leaves nothing running, whatever it is doing just then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from tests.system import eventually

ROOT = Path(__file__).resolve().parents[2]
TERMINATED = 128 + signal.SIGTERM


def marked(mark: str) -> list[int]:
    """Processes that were started with a mark in their environment."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in folder.joinpath("environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue  # it has just ended
    return found


@pytest.mark.long
@pytest.mark.parametrize("said", ["", "measuring"], ids=["while it starts", "under load"])
def test_a_soak_that_is_terminated_leaves_no_process(tmp_path: Path, said: str):
    mark, output = uuid4().hex, tmp_path / "soak.log"
    with output.open("wb") as log:
        soak = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.soak"],
            cwd=ROOT,
            env={**os.environ, "MINUTES": "1", "SOAK_OF_TEST": mark},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            # Its interpreter, at least one server and one worker of the load.
            eventually(lambda: marked(mark), lambda found: len(found) > 2)
            eventually(output.read_text, lambda text: said in text)
            soak.send_signal(signal.SIGTERM)
            assert soak.wait(60) == TERMINATED, output.read_text()
        finally:
            soak.kill()
    eventually(lambda: marked(mark), lambda found: not found)
