"""Events as the account's own log: listed newest first, for thirty days."""

from __future__ import annotations

from tests.fake_stripe.failures import missing
from tests.fake_stripe.listing import created_within, page
from tests.fake_stripe.world import Object, Params, World

LISTABLE = frozenset({"created", "ending_before", "limit", "starting_after", "type", "types"})
KEPT_S = 30 * 24 * 3600


def find(world: World, event_id: str) -> Object:
    if event_id not in world.events:
        raise missing("event", event_id, "id")
    return world.events[event_id]


def listed(world: World, params: Params) -> Object:
    oldest = world.clock.now() - KEPT_S
    wanted = set(params.get("types", ()))
    if "type" in params:
        wanted.add(params["type"])
    matching = [
        event
        for event in created_within(world.events.values(), params.get("created"))
        if event["created"] >= oldest and (not wanted or event["type"] in wanted)
    ]
    return page(matching[::-1], params, "/v1/events")
