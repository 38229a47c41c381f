"""JSON documents of what commands show: stable keys, amounts and quantities as text."""

from __future__ import annotations

from typing import Any, TypeAlias

from billing.catalog.contract import Contract
from billing.catalog.price_plan import PricePlan
from billing.exports.csv_text import instant_text
from billing.money import plain
from billing.outcomes.claim import Claim
from billing.period import Period
from billing.planfiles.plan_dump import digest, dump
from billing.rating.line import RatedLine, UnratedQuantity
from billing.tenancy.api_key import ApiKey
from billing.tenancy.tenant import LegalEntity, Tenant

Json: TypeAlias = dict[str, Any]


def period_document(period: Period) -> Json:
    """A half-open period."""
    return {"start": instant_text(period.start), "end": instant_text(period.end)}


def entity_document(entity: LegalEntity) -> Json:
    """A legal entity."""
    return {
        "slug": entity.slug,
        "name": entity.name,
        "country": entity.country,
        "currency": entity.currency,
        "zone": entity.zone,
    }


def tenant_document(tenant: Tenant) -> Json:
    """A tenant."""
    return {
        "slug": tenant.slug,
        "name": tenant.name,
        "legal_entity": tenant.legal_entity,
        "zone": tenant.zone,
        "anchor_day": tenant.anchor_day,
    }


def key_document(key: ApiKey) -> Json:
    """A key without its secret."""
    return {
        "id": key.id,
        "public": key.public,
        "role": key.role.value,
        "tenant": key.tenant,
        "project": key.project,
        "name": key.name,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }


def plan_document(plan: PricePlan) -> Json:
    """A plan with its charges, as stored."""
    return {"version": plan.version, "digest": digest(plan), **dump(plan)}


def plan_summary(plan: PricePlan) -> Json:
    """A plan version without its charges."""
    return {
        "slug": plan.slug,
        "version": plan.version,
        "name": plan.name,
        "currency": plan.currency.code,
        "charges": len(plan.charges),
        "payment_terms_days": plan.payment_terms_days,
        "digest": digest(plan),
    }


def contract_document(contract: Contract, tenant: str) -> Json:
    """A contract of the tenant with this slug."""
    return {
        "id": contract.id,
        "tenant": tenant,
        "plan": contract.plan_slug,
        "version": contract.plan_version,
        "currency": contract.currency.code,
        "valid_from": contract.valid_from,
        "valid_until": contract.valid_until,
    }


def rated_line_document(line: RatedLine) -> Json:
    """A rated line with its arithmetic."""
    return {
        "key": line.key,
        "description": line.description,
        "meter": line.meter,
        "unit": line.unit,
        "quantity": plain(line.quantity),
        "exact": plain(line.exact),
        "amount": f"{line.amount.major():f}",
        "currency": line.amount.currency.code,
        "explanation": [
            {
                "step": step.step,
                "text": step.text,
                "amount": None if step.amount is None else plain(step.amount),
            }
            for step in line.explanation
        ],
        "by_model": [{"model": model, "weight": plain(weight)} for model, weight in line.by_model],
    }


def unrated_document(row: UnratedQuantity) -> Json:
    """Usage without a price; values of dimensions where prices of the meter ask for them."""
    document: Json = {"meter": row.meter, "model": row.model, "quantity": plain(row.quantity)}
    return document | ({"dimensions": dict(row.dimensions)} if row.dimensions else {})


def claim_document(claim: Claim) -> Json:
    """An outcome claim."""
    return {
        "id": str(claim.id),
        "tenant": claim.tenant,
        "outcome": claim.outcome,
        "subject": claim.subject,
        "state": claim.state.value,
        "reported_at": claim.reported_at,
        "confirmed_at": claim.confirmed_at,
        "usage_event_id": None if claim.usage_event_id is None else str(claim.usage_event_id),
    }
