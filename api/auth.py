"""Who calls, and whether this key's role may.

The key alone says whose request it is: no path, query or body names the caller's tenant. Every
request looks its key up, so a revoked key is refused at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from litestar import Request
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler
from litestar.params import SkipValidation

from api.deployment import Connection, deployment_of
from billing.errors import Forbidden, Unauthenticated
from billing.operations.tenancy.keys import Caller, authenticate
from billing.tenancy.api_key import Role
from billing.tenancy.tenant import Tenant

KEY_CHARS_MAX = 256

SECURITY = ({"BearerKey": list[str]()},)
"""What the API description says about every route that needs a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantCaller:
    """A tenant's own key, in use."""

    key_id: int
    tenant: Tenant


CallingKey = NamedDependency[SkipValidation[Caller]]
CallingTenant = NamedDependency[SkipValidation[TenantCaller]]


class Allowed:
    """A guard: lets callers of some roles pass, and notes who they are."""

    def __init__(self, *roles: Role) -> None:
        self.roles = frozenset(roles)

    def __call__(self, connection: Connection, _: BaseRouteHandler) -> None:
        """Authenticate the caller and check its role.

        Raises:
            Unauthenticated: no key, or one that does not work.
            Forbidden: a key of another role.
        """
        deployment = deployment_of(connection)
        text = _presented_key(connection)
        # Whose key it is cannot be known before it was looked up among everybody's.
        with deployment.as_operator() as transaction:
            caller = authenticate(transaction, text, now=deployment.now())
        if caller.role not in self.roles:
            raise Forbidden(
                f"a key of role {caller.role} cannot do this",
                remedy=f"use a key of role {' or '.join(sorted(self.roles))}",
            )
        connection.scope["user"] = caller


TENANT_ONLY = Allowed(Role.TENANT)
OPERATOR_ONLY = Allowed(Role.OPERATOR)
BOOK_READERS = Allowed(Role.OPERATOR, Role.FINANCE)


def caller_of(request: Request[object, object, State]) -> Caller:
    """The caller that a guard let pass."""
    caller: object = request.scope["user"]
    assert isinstance(caller, Caller)
    return caller


def tenant_caller_of(request: Request[object, object, State]) -> TenantCaller:
    """The tenant that a guard let pass."""
    caller = caller_of(request)
    assert caller.tenant is not None
    return TenantCaller(key_id=caller.key_id, tenant=caller.tenant)


def _presented_key(connection: Connection) -> str:
    scheme, _, text = connection.headers.get("authorization", "").partition(" ")
    key = text.strip()
    if scheme.lower() != "bearer" or not 0 < len(key) <= KEY_CHARS_MAX:
        raise Unauthenticated(
            "no API key was sent", remedy="send it as `Authorization: Bearer sk-sy-…`"
        )
    return key
