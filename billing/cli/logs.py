"""Log lines of a process, configured at its edge: to standard error, for people or machines.

Decides the form, and that the value of a member named like a secret is never written.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from enum import StrEnum
from typing import Any, cast

import structlog

REDACTED = "[redacted]"

# Whole words, in the singular: `tokens` are counted here and are no secret, a `token` is one.
_SECRET = re.compile(
    r"(^|[_.-])(secrets?|passwords?|passwd|authorization|cookie|token|credentials?|dsn|digest|"
    r"(api|secret|private|tenant|signing)[_-]?key|database_url|migrate_url)$|^key$",
    re.IGNORECASE,
)


class LogFormat(StrEnum):
    """How a log line is written."""

    CONSOLE = "console"
    JSON = "json"


def configure_logs(log_format: LogFormat, *, level: str = "info") -> None:
    """Send structlog's lines of this process to standard error."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format is LogFormat.JSON
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def redact(
    _logger: object, _method: str, members: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Replace the values of members that are named like secrets, at any depth."""
    return {name: _redacted(name, value) for name, value in members.items()}


def _redacted(name: str, value: Any) -> Any:
    if _SECRET.search(name):
        return REDACTED
    if isinstance(value, dict):
        nested = cast("dict[object, Any]", value)
        return {key: _redacted(str(key), inner) for key, inner in nested.items()}
    return value
