"""Every golden case is rated by exactly one family of tests."""

from __future__ import annotations

from collections import Counter

from tests.rating.golden import (
    test_golden_commitments,
    test_golden_credit_notes,
    test_golden_credits,
    test_golden_days,
    test_golden_groups,
    test_golden_levels,
    test_golden_meters,
    test_golden_models,
    test_golden_outcomes,
    test_golden_rounding,
    test_golden_slices,
    test_golden_transactions,
)
from tests.rating.golden.cases import CASES, cases_of

FAMILIES = (
    test_golden_commitments,
    test_golden_credit_notes,
    test_golden_credits,
    test_golden_days,
    test_golden_groups,
    test_golden_levels,
    test_golden_meters,
    test_golden_models,
    test_golden_outcomes,
    test_golden_rounding,
    test_golden_slices,
    test_golden_transactions,
)


def test_all_229_cases_are_covered_and_none_twice():
    covered = Counter(case["id"] for family in FAMILIES for case in cases_of(family.CATEGORIES))

    assert covered == Counter(case["id"] for case in CASES)
    assert len(covered) == 229
    assert set(covered.values()) == {1}


def test_every_category_of_a_family_has_cases():
    categories = Counter(category for family in FAMILIES for category in family.CATEGORIES)

    assert set(categories) == {case["category"] for case in CASES}
    assert set(categories.values()) == {1}
