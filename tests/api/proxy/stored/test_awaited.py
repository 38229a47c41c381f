"""A batch from the upload of its file to the events of its lines, through proxy and settlement."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime

from api.proxy.control.bindings import Bindings
from api.proxy.control.snapshots import utc_now
from billing.operations.metering.ask_batch import batch_client
from billing.operations.metering.settle_batch import BatchSettler
from billing.planfiles.backend_file import BackendModel, BackendSpec
from billing.store.batch_runs import BatchState
from billing.store.batch_settlement import Counted, Settlement
from billing.store.database import Database, Role, query
from tests.api.proxy.conftest import TENANT
from tests.api.proxy.stored.conftest import Keep, file_of, request_line
from tests.fake_engine.batch_shapes import answered_line, failed_line
from tests.world import make_world


def settling(database: Database, keep: Keep, batch_id: str) -> Callable[[], Settlement]:
    """What a worker does with a batch of the first backend."""

    def settle() -> Settlement:
        spec = BackendSpec(
            name="a",
            url=keep.first.base_url,
            engine="vllm",
            models=(BackendModel(name="tiny"),),
            api_key="secret",
        )
        with batch_client() as client:
            settler = BatchSettler(database=database, client=client, backends={"a": spec})
            return settler.settle("a", batch_id, now=datetime.now(UTC))

    return settle


async def test_every_line_of_a_batch_is_billed_once_to_the_key_that_submitted_it(
    open_keep, database: Database
):
    world = make_world(database, datetime.now(UTC))
    tenants = [world.tenant(f"tenant-{number}").id for number in range(TENANT)]
    assert tenants[-1] == TENANT
    bindings = Bindings(database, now=utc_now)
    keep: Keep = await open_keep(bindings=bindings)
    ids = ["a", 'quoted "b"', "c"]
    file_id = (await keep.upload(file_of(*(request_line(each) for each in ids)))).json()["id"]
    batch_id = (await keep.submit(file_id)).json()["id"]
    settle = settling(database, keep, batch_id)
    assert (await asyncio.to_thread(settle)).state is BatchState.OPEN

    output = [answered_line(ids[0]), answered_line(ids[1], output=9), failed_line(ids[2])]
    output_id = keep.first.end(batch_id, b"\n".join(json.dumps(each).encode() for each in output))
    assert (await keep.mine.get(f"/v1/batches/{batch_id}")).json()["output_file_id"] == output_id
    # Its tenant knows its results before they are billed: they stay where they are until then.
    assert (await keep.mine.delete(f"/v1/files/{output_id}")).status_code == 409
    settled, *again = [await asyncio.to_thread(settle) for _ in range(3)]
    assert again == [settled, settled]
    assert (settled.state, settled.problem) == (BatchState.BILLED, None)
    assert settled.counted == Counted(events=2, errors=1)
    assert (await keep.mine.delete(f"/v1/files/{output_id}")).status_code == 200
    bindings.close()

    with database.transaction(Role.OPERATOR) as connection:
        events = query(
            connection,
            "SELECT k.foreign_id, e.tenant_id, e.project_id, e.key_id, e.price_version_id, "
            "e.quantities[4]::int AS output "
            "FROM usage_event e JOIN usage_key k ON k.event_id = e.id ORDER BY 1",
        )
    assert [tuple(row) for row in events] == [
        (f"{batch_id}:a", TENANT, 8, 9, 31, 5),
        (f'{batch_id}:quoted "b"', TENANT, 8, 9, 31, 9),
    ]
    # The credential is the deployment's: settlement asks as the proxy does.
    asked = [each for each in keep.first.asked if each.path.endswith(output_id + "/content")]
    assert [each.headers["authorization"] for each in asked] == ["Bearer secret"]
