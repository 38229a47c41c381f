"""`steelyard contract bind --terms` and `contract show`."""

from __future__ import annotations

PLAN = """\
slug: standard
name: Standard
currency: USD
price_list:
  models:
    tiny: {input: "0.20", output: "0.80"}
"""
TERMS = """\
overrides:
  - {charge: tokens/tiny/input, price: "0.15"}
phases:
  - from: "2027-01-01"
    commitments: [{key: commit, description: Commitment, amount: 100}]
"""


def test_a_contract_shows_what_was_agreed_beside_its_plan(steelyard, tmp_path):
    plan, terms = tmp_path / "plan.yaml", tmp_path / "terms.yaml"
    plan.write_text(PLAN)
    terms.write_text(TERMS)
    for command in (
        ("entity", "create", "foundry", "--name", "F", "--country", "US", "--currency", "USD"),
        ("plan", "apply", str(plan)),
        ("tenant", "create", "acme", "--name", "Acme"),
    ):
        done = steelyard(*command, "--json")
        assert done.status == 0, done.err
    bind = ("contract", "bind", "--tenant", "acme", "--plan", "standard", "--from", "2026-01-01")
    terms.write_text(TERMS.replace("tiny/input", "tiny/inputs"))
    refused = steelyard(*bind, "--terms", str(terms))
    assert refused.status != 0
    assert "overrides[0].charge" in refused.err
    terms.write_text(TERMS)
    bound = steelyard(*bind, "--terms", str(terms), "--json").document
    shown = steelyard("contract", "show", str(bound["id"]), "--json").document
    assert shown["terms"]["overrides"] == [{"charge": "tokens/tiny/input", "price": "0.15"}]
    text = steelyard("contract", "show", str(bound["id"])).out
    assert "price: 0.15" in text
    assert "Agreed from 2027-01-01" in text
