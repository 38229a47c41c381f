"""What the programs of `steelyard up` are made of does not depend on where they are started."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.proxy.processes import ProcessGroup, run_processes
from billing.cli.processes import Child, free_port
from billing.errors import ConfigurationError
from billing.exit_status import ENVIRONMENT
from tests.system import eventually

NAMES = ("api.py", "billing.py", "workers.py", "secrets.py")


@pytest.fixture
def run_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Appears if a module of the folder is run that has a name of ours, or of Python's own."""
    ran = tmp_path / "ran"
    for name in NAMES:
        (tmp_path / name).write_text(f"open({str(ran)!r}, 'w').close()\nraise SystemExit(7)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STEELYARD_PROXY_DRAIN_MS", "many")  # so that ours end at once
    return ran


def test_a_child_runs_no_module_of_the_folder_it_is_started_in(run_there: Path) -> None:
    with Path("log").open("wb") as log:
        child = Child(name="proxy", module="api.proxy", log=log)
        child.start()
        try:
            assert eventually(lambda: child.exit_status, lambda status: status is not None)
        finally:
            child.stop()
    assert child.exit_status == ENVIRONMENT
    assert not run_there.exists()


def test_nor_does_one_of_several_proxies(run_there: Path) -> None:
    with pytest.raises(ConfigurationError):
        run_processes(
            ProcessGroup(size=2, host="127.0.0.1", port=free_port(), metrics_port=0, drain_ms=100)
        )
    assert not run_there.exists()
