"""What serving cost: statements that margin reports use."""

from __future__ import annotations

from datetime import datetime

import msgspec
from litestar import Controller, post

from api.auth import OPERATOR_ONLY, SECURITY
from api.bodies import YamlFile, YamlOperation
from api.deployment import DeploymentInUse
from api.fields import ledger_text
from billing.operations.margin.costs import record_costs


class CostStatement(msgspec.Struct, frozen=True, kw_only=True):
    """What was recorded; the newest statement of a period counts."""

    period_start: datetime
    period_end: datetime
    currency: str
    booked: str
    pools: list[str]


class CostController(Controller):
    """Cost statements."""

    path = "/operator/costs"
    tags = ("Operator: catalog",)
    guards = (OPERATOR_ONLY,)
    security = SECURITY

    @post(
        operation_id="operator_record_costs",
        summary="Record a cost file (YAML) of a period",
        operation_class=YamlOperation,
        sync_to_thread=True,
    )
    def record(self, deployment: DeploymentInUse, yaml_file: YamlFile) -> CostStatement:
        with deployment.as_operator() as transaction:
            sheet = record_costs(transaction, yaml_file, now=deployment.now())
        return CostStatement(
            period_start=sheet.period.start,
            period_end=sheet.period.end,
            currency=sheet.currency,
            booked=ledger_text(sheet.booked),
            pools=[pool.slug for pool in sheet.pools],
        )
