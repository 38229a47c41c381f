"""`steelyard key`: API keys. The text of a key is shown once, when it is created."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from billing.cli.connect import as_operator
from billing.cli.documents import key_document
from billing.cli.output import (
    JsonFlag,
    show_json,
    show_note,
    show_nothing,
    show_table,
    show_text,
)
from billing.cli.when import clock, instant
from billing.operations.tenancy.keys import issue_key, list_keys, revoke_key
from billing.operations.tenancy.tenants import require_tenant
from billing.tenancy.api_key import ApiKey, Role
from billing.tenancy.tenant import DEFAULT_PROJECT

app = typer.Typer()

CREATE = "steelyard key create --tenant acme --role inference --name chatbot"
WARNING = "Keep it now: it is stored as a digest only and cannot be shown again."


@app.command(epilog=f"Example: {CREATE}")
def create(
    *,
    role: Annotated[Role, typer.Option(help="What it may do.")] = Role.INFERENCE,
    tenant: Annotated[
        str | None, typer.Option(help="Slug; needed for the roles tenant and inference.")
    ] = None,
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    project: Annotated[str, typer.Option(help="Project of the tenant.")] = DEFAULT_PROJECT,
    expires: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="When it ends; a date in the tenant's zone, or UTC."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Create a key and print it, once."""
    with as_operator() as connection:
        in_zone = require_tenant(connection, tenant).zone if tenant is not None else "UTC"
        key = issue_key(
            connection,
            role=role,
            tenant=tenant,
            name=name,
            project=project,
            expires_at=instant(expires, in_zone=in_zone, field="expires") if expires else None,
            now=clock(),
        )
    if as_json:
        show_json(
            {
                "id": key.id,
                "key": key.text,
                "public": key.public,
                "role": key.role.value,
                "tenant": tenant,
                "warning": WARNING,
            }
        )
    else:
        show_text(key.text)
        show_note(f"Key {key.id} ({key.role}). {WARNING}")


@app.command("list", epilog="Example: steelyard key list --tenant acme")
def list_all(
    *,
    tenant: Annotated[str | None, typer.Option(help="Of this tenant only.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List keys, without their secrets."""
    with as_operator() as connection:
        tenant_id = require_tenant(connection, tenant).id if tenant is not None else None
        keys = list_keys(connection, tenant_id=tenant_id)
    if as_json:
        show_json({"keys": [key_document(key) for key in keys]})
    elif not keys:
        show_nothing("No keys yet.", then=CREATE)
    else:
        show_keys(keys)


@app.command(epilog="Example: steelyard key revoke 3")
def revoke(
    *,
    key_id: Annotated[int, typer.Argument(metavar="ID", help="As `key list` shows it.")],
    as_json: JsonFlag = False,
) -> None:
    """Revoke a key; proxies refuse it in less than a second."""
    now = clock()
    with as_operator() as connection:
        revoke_key(connection, key_id, tenant_id=None, now=now)
    if as_json:
        show_json({"id": key_id, "revoked_at": now})
    else:
        show_text(f"Key {key_id} is revoked.")


def show_keys(keys: Sequence[ApiKey]) -> None:
    """Print keys as a table."""
    show_table(
        "Keys (UTC)",
        ("#id", "key", "role", "tenant", "project", "name", "created", "expires", "revoked"),
        [
            (
                key.id,
                f"{key.public}…",
                key.role.value,
                key.tenant,
                key.project,
                key.name,
                key.created_at,
                key.expires_at,
                key.revoked_at,
            )
            for key in keys
        ],
    )
