"""Meters: define what is counted by a YAML file, read versions back."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Controller, get, post

from api.auth import OPERATOR_ONLY, SECURITY
from api.bodies import YamlFile, YamlOperation
from api.deployment import DeploymentInUse
from api.fields import TextPath
from billing.operations.metering.define_meter import define_meter, list_meters, require_meter
from billing.planfiles.meter_file import dump_meter


class MeterVersionView(msgspec.Struct, frozen=True, kw_only=True):
    """A meter version; how it reads events has the members of a meter file."""

    code: str
    version: int
    unit: str
    aggregation: str
    state: str
    percentile: str | None
    informational: bool
    effective_from: str
    built_in: bool
    event_type: str | None = None
    value: str | None = None
    where: dict[str, str] = {}
    filter: str | None = None
    dimensions: list[dict[str, Any]] = []


class DefinedMeterView(MeterVersionView, frozen=True, kw_only=True):
    """What became of a meter file; `created` is false if it says what the newest version says."""

    created: bool


class MeterController(Controller):
    """Meters of this deployment."""

    path = "/operator/meters"
    tags = ("Operator: catalog",)
    guards = (OPERATOR_ONLY,)
    security = SECURITY

    @get(operation_id="operator_list_meters", summary="List meter versions", sync_to_thread=True)
    def meters(self, deployment: DeploymentInUse) -> list[MeterVersionView]:
        with deployment.as_operator() as transaction:
            versions = list_meters(transaction)
        return [msgspec.convert(dump_meter(version), MeterVersionView) for version in versions]

    @post(
        operation_id="operator_define_meter",
        summary="Define a meter file (YAML) as the next version of its meter",
        status_code=200,
        operation_class=YamlOperation,
        sync_to_thread=True,
    )
    def define(self, deployment: DeploymentInUse, yaml_file: YamlFile) -> DefinedMeterView:
        with deployment.as_operator() as transaction:
            defined = define_meter(transaction, yaml_file, now=deployment.now())
        members = {**dump_meter(defined.version), "created": defined.created}
        return msgspec.convert(members, DefinedMeterView)

    @get(
        "/{meter:str}",
        operation_id="operator_show_meter",
        summary="Show all versions of a meter, oldest first",
        sync_to_thread=True,
    )
    def meter(self, deployment: DeploymentInUse, meter: TextPath) -> list[MeterVersionView]:
        with deployment.as_operator() as transaction:
            versions = require_meter(transaction, meter)
        return [msgspec.convert(dump_meter(version), MeterVersionView) for version in versions]
