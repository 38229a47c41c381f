"""Errors leave as one line and a remedy, or as one JSON object, with a status that tells kinds."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from billing.errors import (
    ConfigurationError,
    Conflict,
    EmbeddedServerError,
    Forbidden,
    InvalidPlan,
    JournalError,
    NotFound,
    StripeRefused,
    StripeUnavailable,
    TieOutFailed,
    Unauthenticated,
    UnratedUsage,
    UpstreamTimeout,
)
from billing.exit_status import BUG, ENVIRONMENT, REFUSED, exit_status

PROGRAMS = ("api", "api.proxy", "workers", "workers.writer")
END_EACH = """
import runpy, sys
for name in sys.argv[1:]:
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=False)
    except SystemExit as end:
        print(end.code)
"""

BAD_PLAN = """\
slug: standard
name: Standard
currency: USD
charges:
  - {type: flat_fee, key: fee, description: Fee, amount: 20.50}
"""


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (InvalidPlan, REFUSED),
        (Conflict, REFUSED),
        (UnratedUsage, REFUSED),
        (NotFound, REFUSED),
        (Forbidden, REFUSED),
        (Unauthenticated, REFUSED),
        (TieOutFailed, REFUSED),
        (StripeRefused, REFUSED),
        (ConfigurationError, ENVIRONMENT),
        (EmbeddedServerError, ENVIRONMENT),
        (JournalError, ENVIRONMENT),
        (StripeUnavailable, ENVIRONMENT),
        (UpstreamTimeout, ENVIRONMENT),
    ],
)
def test_exit_status_by_kind(kind, status):
    assert exit_status(kind("no")) == status


def test_an_error_for_people_names_file_line_field_and_remedy(run, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(BAD_PLAN)
    refused = run("plan", "check", str(path))
    assert refused.status == 1
    assert refused.out == ""
    first, second = refused.err.splitlines()
    assert first.startswith(f"error: {path}: line 5: charges[0].amount: ")
    assert second.startswith("  try: ")
    assert "20.50" not in refused.err


def test_an_error_for_machines(run, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(BAD_PLAN)
    refused = run("plan", "check", str(path), "--json")
    assert refused.status == 1
    assert refused.out == ""
    assert refused.error.keys() == {"code", "field", "message", "remedy", "line", "file"}
    assert refused.error["code"] == "invalid_plan"
    assert refused.error["field"] == "charges[0].amount"
    assert refused.error["line"] == 5
    assert refused.error["file"] == str(path)


def test_a_file_that_is_not_there(run, tmp_path):
    refused = run("plan", "check", str(tmp_path / "absent.yaml"), "--json")
    assert (refused.status, refused.error["code"]) == (1, "invalid_input")


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("postgresql://app:hunter2@127.0.0.1:1/nowhere", "hunter2"),
        ("postgresql://app:hunter2@:not-a-port/x", "hunter2"),
        ("not a url at all hunter2", "hunter2"),
        ("mysql://app:hunter2@127.0.0.1/x", "hunter2"),
    ],
)
@pytest.mark.parametrize("command", [("tenant", "list"), ("db", "status"), ("db", "migrate")])
def test_a_database_that_is_not_there_is_the_environment(run, monkeypatch, url, secret, command):
    monkeypatch.setenv("STEELYARD_DATABASE_URL", url)
    refused = run(*command, "--json")
    assert refused.status == ENVIRONMENT
    assert refused.error["code"] == "configuration_error"
    assert refused.error["field"] == "STEELYARD_DATABASE_URL"
    assert secret not in refused.err


def test_a_setting_that_cannot_be_used(run, monkeypatch):
    monkeypatch.setenv("STEELYARD_PROXY_PORT", "ninety")
    refused = run("tenant", "list", "--json")
    assert (refused.status, refused.error["field"]) == (ENVIRONMENT, "STEELYARD_PROXY_PORT")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_bug_shows_no_traceback_and_no_message(run, monkeypatch, as_json):
    def broken(_: str) -> str:
        raise RuntimeError("the key is sk-sy-secret")

    monkeypatch.setattr("billing.cli.version.installed", broken)
    flags = ["--json"] if as_json else []
    failed = run("version", *flags)
    assert failed.status == BUG
    assert "Traceback" not in failed.err
    assert "sk-sy-secret" not in failed.err
    assert "STEELYARD_DEBUG" in failed.err
    if as_json:
        assert failed.error["code"] == "internal_error"


def test_a_bug_shows_its_traceback_when_asked(run, monkeypatch):
    def broken(_: str) -> str:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr("billing.cli.version.installed", broken)
    monkeypatch.setenv("STEELYARD_DEBUG", "1")
    with pytest.raises(RuntimeError, match="broken on purpose"):
        run("version")


def test_output_that_is_no_terminal_has_no_colours(run, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(BAD_PLAN)
    for shown in (run("plan", "check", str(path)), run("plan", "example"), run("--help")):
        assert not re.search("\x1b\\[", shown.out + shown.err)


def test_every_program_that_cannot_work_as_configured_ends_with_the_same_status():
    """In one process, because each start of an interpreter with them takes a second."""
    ran = subprocess.run(
        [sys.executable, "-c", END_EACH, *PROGRAMS],
        env={**os.environ, "STEELYARD_PROXY_PORT": "many"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ran.stdout.split() == [str(ENVIRONMENT)] * len(PROGRAMS)
    assert ran.stderr.count("error: STEELYARD_PROXY_PORT: ") == len(PROGRAMS)
    assert "many" not in ran.stderr
