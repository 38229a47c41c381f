"""`steelyard contract migrate`: a report by tenant, and a status that says if one was refused."""

from __future__ import annotations

PLAN = """\
slug: standard
name: Standard
currency: USD
price_list:
  models:
    tiny: {input: "0.20", output: "0.80"}
"""


def test_contracts_move_and_a_second_run_says_so(steelyard, tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(PLAN)
    second.write_text(PLAN.replace("0.80", "0.70"))
    for command in (
        ("entity", "create", "foundry", "--name", "F", "--country", "US", "--currency", "USD"),
        ("plan", "apply", str(first)),
        ("plan", "apply", str(second)),
        ("tenant", "create", "acme", "--name", "Acme"),
        ("tenant", "create", "birch", "--name", "Birch"),
        ("contract", "bind", "--tenant", "acme", "--plan", "standard@1", "--from", "2026-01-01"),
        ("contract", "bind", "--tenant", "birch", "--plan", "standard@1", "--from", "2026-01-01",
         "--until", "2036-01-01"),
    ):  # fmt: skip
        done = steelyard(*command, "--json")
        assert done.status == 0, done.err
    unversioned = ("contract", "migrate", "--from", "standard", "--to", "standard@2")
    assert "standard@1" in steelyard(*unversioned, "--at", "period-end").err
    move = ("contract", "migrate", "--from", "standard@1", "--to", "standard@2")
    at_end = (*move, "--at", "period-end")
    dry = steelyard(*at_end, "--dry-run", "--json")
    assert dry.status == 1
    assert [each["outcome"] for each in dry.document["contracts"]] == ["moved", "refused"]
    listed = steelyard("contract", "list", "--json").document["contracts"]
    assert [each["version"] for each in listed] == [1, 1]
    only_acme = (*at_end, "--tenant", "acme", "--json")
    outcomes = [steelyard(*only_acme).document["contracts"][0]["outcome"] for _ in range(2)]
    assert outcomes == ["moved", "moved before"]
    assert "nothing follows it" in steelyard(*at_end, "--tenant", "birch").out
