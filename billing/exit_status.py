"""How a program ends on an error: one number for each kind, the same for every program here.

1: the input was refused, or it conflicts with what is there. 2: the command line was not
understood (Typer's). 3: the deployment or its surroundings do not work. 70: a bug. Does not decide
what is said of the error.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from billing.errors import (
    ConfigurationError,
    JournalError,
    SteelyardError,
    StripeUnavailable,
    UpstreamError,
)

REFUSED = 1
ENVIRONMENT = 3
BUG = 70


def exit_status(error: SteelyardError) -> int:
    """The exit status of a deliberate error."""
    match error:
        case ConfigurationError() | JournalError() | UpstreamError() | StripeUnavailable():
            return ENVIRONMENT
        case _:
            return REFUSED


def end_process(error: SteelyardError) -> NoReturn:
    """End a process that serves, with the error as its last line on standard error."""
    sys.stderr.write(f"error: {error}\n")
    sys.exit(exit_status(error))
