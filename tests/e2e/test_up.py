"""`steelyard up` from outside: what it prints works; however it ends, nothing is lost or left."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.proxy.inference import DRAIN_GRACE_SECONDS
from api.proxy.limits import Limits
from billing.admission.backend import ModelKind
from billing.admission.route import Route, Serving
from billing.cli.child import GRACE_SECONDS
from billing.cli.processes import STOP_SECONDS, free_port
from billing.engines.counters import parse_counters
from tests.api.proxy.endpoints.asks import ASKS
from tests.e2e.up import STEELYARD, Up, eventually


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    """One deployment for all tests here, none of which leaves it running: starts are slow."""
    home = Path(tempfile.mkdtemp(prefix="steelyard-tests-"))
    home.chmod(0o711)
    up = Up(home)
    try:
        yield up
    finally:
        up.kill_9_everything()
        shutil.rmtree(home)


@pytest.fixture(autouse=True)
def _nothing_is_left_running(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that failed half way must not take the next ones down with it."""
    yield
    if "up" in request.fixturenames:
        request.getfixturevalue("up").kill_9_everything()


def test_the_proxy_has_cut_its_last_stream_before_anybody_kills_it():
    """Else Ctrl-C under load would end in kill -9, and bill estimates."""
    drained_ms = Limits().drain_ms + int(DRAIN_GRACE_SECONDS * 1000)
    assert drained_ms < 1000 * min(STOP_SECONDS, GRACE_SECONDS)


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
def test_what_is_printed_works_as_printed_and_ctrl_c_leaves_no_process(up: Up) -> None:
    complete, show = curl_lines(up.start())
    before = shell(show)
    told = shell(complete)["usage"]
    request = eventually(lambda: shell(show), lambda found: len(found) > len(before))[0]
    assert request["quantities"] == {
        "tokens.input": str(told["prompt_tokens"]),
        "tokens.output": str(told["completion_tokens"]),
        "requests": "1",
    }
    assert (request["cause"], request["estimated"]) == ("completed", False)
    up.seen.append(request)
    second = up.refused(STEELYARD_PROXY_PORT=str(free_port()), STEELYARD_API_PORT=str(free_port()))
    assert "STEELYARD_DATA_DIR" in second
    assert "set another folder" in second
    assert up.signal(signal.SIGINT) == 0
    assert not up.processes()


MODEL_OF_KIND = {
    ModelKind.TEXT: "sim-small",
    ModelKind.EMBEDDING: "sim-embed",
    ModelKind.RERANK: "sim-rank",
    ModelKind.AUDIO: "sim-hear",
    ModelKind.SPEECH: "sim-speak",
    ModelKind.IMAGE: "sim-paint",
}


def operator_key(up: Up) -> str:
    made = subprocess.run(
        [STEELYARD, "key", "create", "--role", "operator", "--json"],
        env=up.environment(),
        capture_output=True,
        timeout=60,
        check=True,
    )
    return json.loads(made.stdout)["key"]


def engine_tokens(up: Up) -> tuple[int, int]:
    """(prompt, output) tokens that the built-in engine says it has counted."""
    lines = up.data_dir.joinpath("simulated-backends.yaml").read_text().splitlines()
    (url,) = [line.partition("url: ")[2] for line in lines if "url: " in line]
    page = httpx.get(f"{url}/metrics").raise_for_status().text
    counters = parse_counters(page, engine="simulated")
    return counters.prompt, counters.generation


def ledger_tokens(requests: list[dict[str, Any]]) -> tuple[int, int]:
    def total(*meters: str) -> int:
        return sum(int(each["quantities"].get(meter, 0)) for each in requests for meter in meters)

    return total("tokens.input", "tokens.cached_input"), total("tokens.output")


def test_every_route_answers_and_has_a_price_and_the_engine_counts_the_same(up: Up) -> None:
    """On two proxies behind the one port, each of which tells its own counters."""
    started = json.loads(
        up.start(
            "--json",
            done="}",
            STEELYARD_PROXY_PROCESSES="2",
            STEELYARD_PROXY_METRICS_PORT=str(free_port()),
        )
    )
    assert len(started["metrics_urls"]) == 3
    for url in started["metrics_urls"]:
        assert httpx.get(url).raise_for_status().text.count("# TYPE") > 3
    key, before = started["api_key"], requests_of(up, started["api_key"])
    asked: set[Route] = set()
    for ask in ASKS:
        spec = ask.route.spec
        assert spec.model_kind is not None
        answer = httpx.post(
            f"http://127.0.0.1:{up.proxy_port}{ask.route.value}",
            headers={
                "authorization": f"Bearer {key}",
                "content-type": ask.content_type.decode(),
            },
            content=ask.renamed(MODEL_OF_KIND[spec.model_kind]),
        )
        assert answer.status_code == 200, (ask.name, answer.text)
        asked.add(ask.route)
    assert asked == set(Route)
    billed = [ask for ask in ASKS if ask.route.spec.serving is Serving.INFERENCE]
    new = len(before) + len(billed)
    found = eventually(lambda: requests_of(up, key), lambda found: len(found) >= new)
    assert engine_tokens(up) == ledger_tokens(found[: len(billed)])
    operator = httpx.Client(
        base_url=f"http://127.0.0.1:{up.api_port}/api/v1/operator/",
        headers={"authorization": f"Bearer {operator_key(up)}"},
    )
    with operator:
        # What no charge prices would stand here, and block the invoice.
        assert operator.get("unrated").raise_for_status().json() == []
        period = f"{datetime.now(UTC):%Y-%m}"
        draft = operator.post("tenants/demo/invoices/draft", json={"period": period})
    assert Decimal(draft.raise_for_status().json()["total"]) >= Decimal("0.08")  # two images
    up.seen += found[: len(billed)]
    assert up.signal(signal.SIGINT) == 0
    assert not up.processes()


def test_a_taken_port_is_refused_with_a_remedy_and_leaves_nothing(up: Up) -> None:
    for setting in ("STEELYARD_PROXY_PORT", "STEELYARD_API_PORT"):
        other = up.home / setting
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = {setting: str(taken.getsockname()[1])}
            said = up.refused(STEELYARD_DATA_DIR=str(other), **port)
        assert setting in said
        assert "to another port" in said
        assert not other.exists()


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
    before = requests_of(up, key)
    assert all(request in before for request in up.seen)
    # kill -9 of the command alone: its children notice, end their streams and ship the journal.
    first = InFlight(up, key, tokens=60)
    first.wait_for(5)
    assert up.signal(signal.SIGKILL) == -signal.SIGKILL
    up.wait_until_nothing_runs()
    assert first.ended()

    up.start("--json", done="}", **pace)
    whole, *others = eventually(
        lambda: requests_of(up, key), lambda found: len(found) > len(before)
    )
    assert (whole["request_id"], whole["estimated"]) == (first.request_id, False)
    assert whole["quantities"]["tokens.output"] == "60"
    assert others == before
    # And of everything at once, the database too.
    second = InFlight(up, key, tokens=2_000)
    second.wait_for(40)
    up.kill_9_everything()
    assert not second.ended()

    up.start("--json", done="}", **pace)
    cut, *others = eventually(
        lambda: requests_of(up, key), lambda found: len(found) > len(before) + 1
    )
    assert (cut["request_id"], cut["cause"]) == (second.request_id, "recovered")
    assert cut["estimated"]
    assert 0 < int(cut["quantities"]["tokens.output"]) <= second.tokens
    assert others == [whole, *before]
    assert up.signal(signal.SIGTERM) == 0
    assert not up.processes()
