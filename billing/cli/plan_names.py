"""How commands name stored plans."""

from __future__ import annotations

from billing.errors import InvalidInput


def plan_and_version(text: str) -> tuple[str, int | None]:
    """Split `SLUG[@VERSION]`.

    Raises:
        InvalidInput: the version is not a whole number above zero.
    """
    slug, separator, version = text.partition("@")
    if not separator:
        return slug, None
    if not (version.isascii() and version.isdigit() and 0 < int(version) < 2**31):
        raise InvalidInput("not a version", field="plan", remedy="write it like standard@2")
    return slug, int(version)
