"""Folders for embedded servers, which must be reachable by the server's own user."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from billing.store.embedded import EmbeddedServer, ServerAddress


@contextmanager
def new_folder() -> Generator[Path]:
    home = Path(tempfile.mkdtemp(prefix="steelyard-tests-"))
    home.chmod(0o711)
    yield home.joinpath("data")
    shutil.rmtree(home)


@pytest.fixture
def data_dir() -> Generator[Path]:
    """A folder that does not exist yet."""
    with new_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def used_dir() -> Generator[Path]:
    """A folder whose server is stopped between the tests; making a new one takes seconds."""
    with new_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def running_dir() -> Generator[Path]:
    """The folder of the server that runs for the whole module."""
    with new_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def address(running_dir: Path) -> Generator[ServerAddress]:
    server = EmbeddedServer(running_dir)
    yield server.start()
    server.stop()
