"""Folders for embedded servers, which must be reachable by the server's own user."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from billing.store.embedded import EmbeddedServer, ServerAddress


@pytest.fixture
def data_dir() -> Generator[Path]:
    home = Path(tempfile.mkdtemp(prefix="steelyard-tests-"))
    home.chmod(0o711)
    yield home.joinpath("data")
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def shared_dir() -> Generator[Path]:
    home = Path(tempfile.mkdtemp(prefix="steelyard-tests-"))
    home.chmod(0o711)
    yield home.joinpath("data")
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def address(shared_dir: Path) -> Generator[ServerAddress]:
    server = EmbeddedServer(shared_dir)
    yield server.start()
    server.stop()
