"""The list of complaints names a test for each of those that concern the two ledgers."""

from __future__ import annotations

import re
from pathlib import Path

COMPLAINTS = {*range(1, 4), *range(6, 9), *range(11, 16), *range(20, 25), *range(29, 32)}


def test_every_complaint_about_the_ledgers_has_a_test() -> None:
    text = Path(__file__).with_name("README.md").read_text("utf-8").partition("## Complaints")[2]
    listed = {
        int(number): tests
        for number, tests in re.findall(r"^- \*\*(\d+)\*\* (.+)$", text, re.MULTILINE)
    }
    assert listed.keys() == COMPLAINTS
    assert all("::test_" in tests for tests in listed.values())
