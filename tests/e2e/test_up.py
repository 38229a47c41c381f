"""`steelyard up` from outside: what it prints works; however it ends, nothing is lost or left."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from billing.cli.processes import free_port
from tests.e2e.up import Up, eventually


@pytest.fixture
def up() -> Iterator[Up]:
    home = Path(tempfile.mkdtemp(prefix="steelyard-tests-"))
    home.chmod(0o711)
    up = Up(home)
    try:
        yield up
    finally:
        up.kill_9_everything()
        shutil.rmtree(home)


def curl_lines(printed: str) -> tuple[str, str]:
    """The two commands that a new user is offered: complete something, see what it used."""
    complete, show = [line for line in printed.splitlines() if line.startswith("curl ")]
    return complete, show


def shell(line: str) -> Any:
    """What a printed line answers when it is pasted."""
    done = subprocess.run(["bash", "-c", line], capture_output=True, timeout=30, check=True)
    return json.loads(done.stdout)


def requests_of(up: Up, key: str) -> list[dict[str, Any]]:
    answer = httpx.get(
        f"http://127.0.0.1:{up.api_port}/api/v1/usage/requests",
        headers={"authorization": f"Bearer {key}"},
    )
    return answer.raise_for_status().json()


@pytest.mark.skipif(shutil.which("curl") is None, reason="the printed lines need curl")
def test_what_is_printed_works_as_printed_and_ctrl_c_leaves_data_but_no_process(up: Up) -> None:
    complete, show = curl_lines(up.start())
    told = shell(complete)["usage"]
    (request,) = eventually(lambda: shell(show), lambda requests: len(requests) == 1)
    assert request["quantities"] == {
        "tokens.input": str(told["prompt_tokens"]),
        "tokens.output": str(told["completion_tokens"]),
        "requests": "1",
    }
    assert (request["cause"], request["estimated"]) == ("completed", False)

    ports = {"STEELYARD_PROXY_PORT": str(free_port()), "STEELYARD_API_PORT": str(free_port())}
    second = up.refused(**ports)
    assert "STEELYARD_DATA_DIR" in second
    assert "set another folder" in second
    for port in ("STEELYARD_PROXY_PORT", "STEELYARD_API_PORT"):
        other = up.home / f"other-{port}"
        taken = up.refused(
            **{**ports, "STEELYARD_DATA_DIR": str(other), port: str(_taken(up, port))}
        )
        assert port in taken
        assert "to another port" in taken
        assert not other.exists()

    assert up.signal(signal.SIGINT) == 0
    assert not up.processes()

    complete_again, show_again = curl_lines(up.start())
    assert complete_again != complete
    assert shell(show) == shell(show_again) == [request]
    assert shell(complete_again)["usage"] == told
    assert up.signal(signal.SIGTERM) == 0
    assert not up.processes()


def _taken(up: Up, port: str) -> int:
    return up.proxy_port if port == "STEELYARD_PROXY_PORT" else up.api_port


class InFlight:
    """A stream that a thread reads while its server is being killed."""

    def __init__(self, up: Up, key: str, *, tokens: int) -> None:
        self.lines: list[str] = []
        self.request_id = ""
        self._request = {
            "method": "POST",
            "url": f"http://127.0.0.1:{up.proxy_port}/v1/chat/completions",
            "headers": {"authorization": f"Bearer {key}"},
            "json": {
                "model": "sim-small",
                "messages": [{"role": "user", "content": "one two three"}],
                "max_tokens": tokens,
                "stream": True,
            },
        }
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            with httpx.stream(**self._request, timeout=30) as answer:
                self.request_id = answer.headers["x-steelyard-request-id"]
                for line in answer.iter_lines():
                    self.lines.append(line)
        except httpx.HTTPError:
            return  # cut, which is what these tests do

    @property
    def tokens(self) -> int:
        """The simulated engine sends one token in an event with content."""
        return sum('"content":' in line and '"content":""' not in line for line in self.lines)

    def wait_for(self, tokens: int) -> None:
        eventually(lambda: self.tokens, lambda got: got >= tokens)

    def ended(self) -> bool:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return "data: [DONE]" in self.lines


def test_a_killed_up_takes_all_with_it_in_order_and_a_power_cut_loses_only_what_was_cut(
    up: Up,
) -> None:
    pace = {"STEELYARD_SIMULATED_TOKEN_MS": "30"}
    started = json.loads(up.start("--json", done="}", **pace))
    key = started["api_key"]
    assert started["simulated"]
    # kill -9 of the command alone: its children notice, end their streams and ship the journal.
    first = InFlight(up, key, tokens=60)
    first.wait_for(5)
    assert up.signal(signal.SIGKILL) == -signal.SIGKILL
    up.wait_until_nothing_runs()
    assert first.ended()

    up.start("--json", done="}", **pace)
    found = eventually(lambda: requests_of(up, key), lambda requests: len(requests) == 1)
    assert (found[0]["request_id"], found[0]["estimated"]) == (first.request_id, False)
    assert found[0]["quantities"]["tokens.output"] == "60"
    # And of everything at once, the database too.
    second = InFlight(up, key, tokens=2_000)
    second.wait_for(40)
    up.kill_9_everything()
    assert not second.ended()

    up.start("--json", done="}", **pace)
    cut = eventually(lambda: requests_of(up, key), lambda requests: len(requests) == 2)[0]
    assert (cut["request_id"], cut["cause"]) == (second.request_id, "recovered")
    assert cut["estimated"]
    assert 0 < int(cut["quantities"]["tokens.output"]) <= second.tokens
    assert up.signal(signal.SIGINT) == 0
    assert not up.processes()
