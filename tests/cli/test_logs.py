"""Log lines: one JSON object each for machines, and no secret in any of them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog

from billing.cli.logs import REDACTED, LogFormat, configure_logs, redact


@pytest.fixture(autouse=True)
def default_logs() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_a_json_line(capsys):
    configure_logs(LogFormat.JSON)
    structlog.get_logger().info("shipped", events=3, api_key="sk-sy-1")
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["level"], line["events"]) == ("shipped", "info", 3)
    assert line["api_key"] == REDACTED
    assert line["timestamp"].endswith("Z")


def test_levels(capsys):
    configure_logs(LogFormat.CONSOLE, level="warning")
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    shown = capsys.readouterr().err
    assert "loud" in shown
    assert "quiet" not in shown


@pytest.mark.parametrize(
    "name",
    ["secret", "client_secret", "password", "Authorization", "cookie", "token", "access_token",
     "api_key", "apikey", "tenant_key", "key", "credential", "database_url", "digest",
     "webhook_secrets"],
)  # fmt: skip
def test_secrets_are_redacted_at_any_depth(name):
    assert redact(None, "info", {name: "x"})[name] == REDACTED
    assert redact(None, "info", {"inner": {name: "x"}})["inner"][name] == REDACTED


@pytest.mark.parametrize(
    "name", ["tokens", "tokens.input", "key_id", "line_key", "idempotency_key", "event", "monkey"]
)
def test_what_is_counted_here_is_no_secret(name):
    assert redact(None, "info", {name: 5})[name] == 5
