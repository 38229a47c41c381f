"""The backends file is read again when it changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from api.proxy.control.backends_watch import BackendsWatch
from api.proxy.control.discovery import Discovery
from api.proxy.control.snapshots import Control, utc_now
from billing.settings import Settings
from tests.api.proxy.conftest import until

ONE = "backends:\n  - {name: a, url: 'http://127.0.0.1:9', models: [{name: m}]}\n"
TWO = ONE + "  - {name: b, url: 'http://127.0.0.1:9', weight: 4, models: [{name: m}]}\n"
DRAINING = ONE.replace("models:", "draining: true, models:")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "backends.yaml"
    path.write_text(ONE)
    return path


def watch_of(file: Path) -> BackendsWatch:
    return BackendsWatch(Settings(backends=str(file)))


def test_a_file_that_has_not_changed_is_not_read(file):
    watch = watch_of(file)
    assert [spec.name for spec in watch.read()] == ["a"]
    assert watch() is None
    file.write_text(TWO)
    changed = watch()
    assert changed is not None
    assert [spec.name for spec in changed] == ["a", "b"]
    assert watch() is None
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert watch() is not None


def test_a_line_of_backends_never_changes():
    watch = BackendsWatch(Settings(backends="m=http://127.0.0.1:9"))
    assert [spec.name for spec in watch.read()] == ["backend-1"]
    assert watch() is None


@pytest.mark.parametrize(
    "mistake",
    [
        "backends: [",
        ONE + "  - {name: a, url: 'http://x'}\n",
        ONE.replace("}]", ", fallbacks: [x]}]"),
    ],
)
async def test_a_mistake_keeps_the_old_list_until_it_is_mended(file, mistake):
    watch = watch_of(file)
    discovery = Discovery(watch.read(), watch)
    file.write_text(mistake)
    assert not await discovery._take_changes()
    assert not await discovery._take_changes()
    assert [spec.name for spec in discovery.backends] == ["a"]
    file.write_text(TWO)
    assert await discovery._take_changes()
    assert [spec.name for spec in discovery.backends] == ["a", "b"]
    file.unlink()
    assert not await discovery._take_changes()
    assert [spec.name for spec in discovery.backends] == ["a", "b"]


async def test_a_running_proxy_takes_changes_up(database, file, monkeypatch):
    monkeypatch.setattr("api.proxy.control.discovery.DISCOVERY_SECONDS", 0.1)
    watch = watch_of(file)
    control = await Control.start(
        database, database.conninfo(), watch.read(), now=utc_now, reread=watch
    )

    def weights() -> dict[str, int]:
        return {one.name: one.weight for one in control.snapshot.models["m"].backends}

    try:
        assert weights() == {"a": 1}
        file.write_text(TWO)
        await until(lambda: weights() == {"a": 1, "b": 4})
        file.write_text(DRAINING)
        await until(lambda: control.snapshot.models["m"].backends[0].draining)
        assert weights() == {"a": 1}
    finally:
        await control.stop()
