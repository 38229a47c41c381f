"""`python -m workers`: runs jobs until SIGTERM or SIGINT."""

from __future__ import annotations

from workers.app import main

if __name__ == "__main__":
    main()
