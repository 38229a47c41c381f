"""One engine for all tests of this folder: it takes seconds to load."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.server import Engine, running_engine


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with running_engine(tmp_path_factory.mktemp("engine")) as running:
        yield running
