"""A contract moves to another plan version once, however often and by however many it is asked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import httpx
import pytest

from tests.api.control.conftest import Plane
from tests.world import PLAN

NEXT = {"plan": "standard", "version": 2, "at": "period-end"}


@pytest.fixture
def operator(plane: Plane, operator: httpx.Client) -> httpx.Client:
    plane.world.plan(PLAN.replace('"20.00"', '"50.00"'))
    plane.world.plan(PLAN.replace("slug: standard", "slug: twin").replace('"20.00"', '"1.00"'))
    return operator


def contracts(operator: httpx.Client) -> list[dict[str, object]]:
    return operator.get("operator/contracts", params={"tenant": "acme"}).raise_for_status().json()


def test_L3_a_migration_that_is_repeated_or_raced_moves_a_contract_once(
    plane: Plane, operator: httpx.Client
) -> None:
    (old,) = contracts(operator)
    path = f"operator/contracts/{old['id']}/migrate"
    dry = operator.post(path, json={**NEXT, "dry_run": True}).raise_for_status().json()
    assert (dry["outcome"], dry["follower"], contracts(operator)) == ("moved", None, [old])

    def move(_: int) -> httpx.Response:
        return operator.post(path, json=NEXT)

    with ThreadPoolExecutor(4) as pool:
        answers = [each.raise_for_status().json() for each in pool.map(move, range(4))]
    assert sorted(each["outcome"] for each in answers) == ["moved"] + 3 * ["moved before"]
    ended, new = contracts(operator)
    end = plane.acme.billing_period(plane.clock.now).end
    assert {each["follower"] for each in answers} == {new["id"]}
    assert {each["at"] for each in answers} == {ended["valid_until"]} == {new["valid_from"]}
    assert str(new["valid_from"]).startswith(f"{end:%Y-%m-%dT%H:%M}")
    assert (new["plan"], new["version"]) == ("standard", 2)
    # Another target is another wish, and the contract was left already.
    other = operator.post(path, json={**NEXT, "plan": "twin", "version": 1})
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    assert len(contracts(operator)) == 2


def test_now_is_the_next_quarter_of_an_hour(plane: Plane, operator: httpx.Client) -> None:
    (old,) = contracts(operator)
    plane.clock.now += timedelta(minutes=1)
    path = f"operator/contracts/{old['id']}/migrate"
    moved = operator.post(path, json={**NEXT, "at": "now"}).raise_for_status().json()
    at = plane.clock.now + timedelta(minutes=14)
    assert moved["at"].startswith(f"{at:%Y-%m-%dT%H:%M}")


@pytest.mark.parametrize(
    ("path", "change", "status", "code", "field"),
    [
        ("{id}", {"version": 9}, 404, "not_found", "plan"),
        ("99", {}, 404, "not_found", "contract"),
        ("{id}", {"version": 0}, 400, "invalid_input", "version"),
        ("{id}", {"at": "soon"}, 400, "invalid_input", "at"),
        ("{id}", {"then": 1}, 400, "invalid_input", None),
    ],
)
def test_refusals_name_their_member_and_change_nothing(
    operator: httpx.Client,
    path: str,
    change: dict[str, object],
    *,
    status: int,
    code: str,
    field: str | None,
) -> None:
    before = contracts(operator)
    place = path.format(id=before[0]["id"])
    refused = operator.post(f"operator/contracts/{place}/migrate", json={**NEXT, **change})
    problem = refused.json()
    assert (refused.status_code, problem["code"], problem["field"]) == (status, code, field)
    assert contracts(operator) == before


def test_D16_what_another_contract_prices_is_refused_by_name(operator: httpx.Client) -> None:
    (old,) = contracts(operator)
    beside = PLAN[: PLAN.index("charges:")].replace("standard", "beside") + (
        "charges:\n  - {type: per_unit, key: large, description: Large, meter: tokens.input, "
        'models: [large], price: "1"}\n'
    )
    wider = PLAN.replace("slug: standard", "slug: wider").replace("[tiny]", "[tiny, large]")
    for text in (beside, wider):
        operator.post("operator/plans", content=text).raise_for_status()
    body = {"tenant": "acme", "plan": "beside", "valid_from": old["valid_from"]}
    operator.post("operator/contracts", json=body).raise_for_status()
    before = contracts(operator)
    path = f"operator/contracts/{old['id']}/migrate"
    refused = operator.post(path, json={"plan": "wider", "version": 1, "at": "now"})
    assert (refused.status_code, refused.json()["code"]) == (409, "overlapping_charges")
    assert contracts(operator) == before
