"""Sees when the backends file has changed.

Decides: by its time and size, so that looking costs nothing. Does not decide what becomes of a file
with a mistake (`discovery.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from billing.errors import ConfigurationError
from billing.operations.deployment import configured_backends
from billing.planfiles.backend_file import BackendSpec
from billing.settings import Settings


class BackendsWatch:
    """The configured backends. `read` them first; then call it for changes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        configured = settings.backends or ""
        self._path = Path(configured) if configured.endswith((".yaml", ".yml")) else None
        self._seen: tuple[int, int] | None = None

    def read(self) -> Sequence[BackendSpec]:
        """The backends as configured now.

        Raises:
            ConfigurationError, InvalidPlan: the setting or the file cannot be used.
        """
        self._seen = self._stamp()
        return configured_backends(self._settings)

    def __call__(self) -> Sequence[BackendSpec] | None:
        """The backends if their file has changed since it was last read, else None.

        Raises:
            ConfigurationError, InvalidPlan: it has changed and cannot be used.
        """
        if self._path is None or self._stamp() == self._seen:
            return None
        return self.read()

    def _stamp(self) -> tuple[int, int] | None:
        if self._path is None:
            return None
        try:
            status = self._path.stat()
        except OSError:
            raise ConfigurationError(
                "the backends file cannot be read",
                field="STEELYARD_BACKENDS",
                remedy="check the path and its rights",
            ) from None
        return status.st_mtime_ns, status.st_size
