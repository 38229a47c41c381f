"""Sets aside, before dispatch, what a request can come to of its tenant's limits.

Decides: which limits a request needs, how much of each, and what becomes of it while limits
cannot be asked: prepaid and closed tenants are refused, of others so much is admitted as the
operator exposes itself to. A tenant without limits pays for none of this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final

from api.proxy.hold_port import HoldPort
from api.proxy.holding import Holding
from api.proxy.likely_output import LikelyOutput
from api.proxy.limit_errors import (
    HoldsUnavailable,
    LimitReached,
    LimitsCrowded,
    credit_limit,
)
from api.proxy.ports import Clock
from billing.admission.amounts import Rates
from billing.admission.backend import ServedModel
from billing.admission.bound import Bound, RequestSize, bound_of, cost_of
from billing.admission.lease_book import Held, Wanted
from billing.admission.limit import Limit, Unit
from billing.admission.route import Serving
from billing.admission.snapshot import Admission, KeyGrant
from billing.admission.terms import HoldSize, OnLoss, Payment, TenantTerms
from billing.engines.read_request import InferenceRequest

SCOPES: Final = 100_000
"""How many pairs of key and model are remembered with the limits that apply to them."""

_ONE_REQUEST: Final = {Unit.MONEY: 0, Unit.TOKENS: 0, Unit.REQUESTS: 1, Unit.SLOTS: 1}

_NO_OTHERS: Mapping[int, Sequence[tuple[Limit, bool]]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scope:
    """What applies to the requests of a key for a model."""

    terms: TenantTerms
    limits: tuple[tuple[Limit, bool], ...]
    rates: Rates


class Holds:
    """The holds of one process."""

    def __init__(self, port: HoldPort, clock: Clock) -> None:
        self._port = port
        self._clock = clock
        self._likely = LikelyOutput()
        self._scopes: dict[tuple[int, int], _Scope] = {}
        self._exposed: Counter[int] = Counter()  # by tenant, since its limits last answered

    async def hold(
        self,
        admission: Admission,
        request: InferenceRequest,
        fallbacks: Sequence[ServedModel] = (),
    ) -> Holding | None:
        """Set aside what a request can come to; None where no limit applies.

        Args:
            fallbacks: models that may answer in place of the one that was asked for.

        Raises:
            LimitReached: a limit has not that much left.
            HoldsUnavailable: limits cannot be asked, and the tenant is not admitted without.
        """
        terms = admission.terms
        if not terms.limits and terms.prepaid is None:
            return None
        scope = self._scope(admission)
        others = _limits_of_others(admission, fallbacks) if fallbacks else _NO_OTHERS
        if not scope.limits and not others:
            return None
        bound = bound_of(scope.rates, admission.model, size_of(request), fallbacks)
        lengths, likely = None, bound.choice_tokens
        if terms.policy.hold_size is HoldSize.LIKELY and likely:
            route = request.route.value
            lengths = self._likely.of(terms.tenant_id, admission.model.id, route)
            likely = min(likely, lengths.likely)
        covered = likely * bound.choices
        amounts = _Amounts(scope.rates, bound, covered, request)
        wanted = amounts.wanted(scope.limits)
        if not wanted and not others:
            return None  # it costs nothing that is counted
        holding = Holding(
            port=self._port,
            clock=self._clock,
            rates=scope.rates,
            prices=terms.rates,
            serving=admission.model,
            bound=bound,
            covered=covered,
            wanted=wanted,
            others={model_id: amounts.wanted(limits) for model_id, limits in others.items()},
            expose=partial(self._expose, terms),
            lengths=lengths,
        )
        held = await self._held(terms, wanted, bound) if wanted else Held(parts=())
        if held is None:
            holding.unasked, holding.covered = True, bound.choice_tokens * bound.choices
        else:
            holding.held.append(held)
        return holding

    async def _held(
        self, terms: TenantTerms, wanted: Sequence[Wanted], bound: Bound
    ) -> Held | None:
        """Set amounts aside; None where limits cannot be asked and it is admitted without.

        Raises:
            LimitReached, HoldsUnavailable: it is not admitted.
        """
        now_us = self._clock()
        held = self._port.take(wanted, now_us)
        if held is not None:
            return held
        try:
            held = await self._port.obtain(wanted, now_us)
        except LimitsCrowded:
            raise
        except HoldsUnavailable:
            self._expose(terms, wanted, bound.money)
            return None
        except LimitReached:
            self._exposed.pop(terms.tenant_id, None)
            raise
        self._exposed.pop(terms.tenant_id, None)
        return held

    def _scope(self, admission: Admission) -> _Scope:
        terms, grant, model = admission.terms, admission.grant, admission.model
        whose = grant.key_id, model.id
        scope = self._scopes.get(whose)
        if scope is not None and scope.terms is terms:
            return scope
        limits = _applying(terms, grant, model)
        if terms.prepaid is not None:
            limits.append((credit_limit(terms.prepaid, terms.currency), not terms.policy.shadow))
        scope = _Scope(
            terms=terms,
            limits=tuple(sorted(limits, key=lambda entry: entry[0].id)),
            rates=highest(
                terms.rates[name] for name in (model.name, *model.fallbacks) if name in terms.rates
            ),
        )
        if len(self._scopes) >= SCOPES:
            self._scopes.clear()
        self._scopes[whose] = scope
        return scope

    def _expose(self, terms: TenantTerms, wanted: Sequence[Wanted], money: int) -> None:
        """Admit without a hold what comes to so much, as far as the tenant's policy goes.

        Raises:
            HoldsUnavailable: not so far.
        """
        policy = terms.policy
        if not any(each.blocks for each in wanted):
            return
        tenant_id = terms.tenant_id
        exposed = self._exposed[tenant_id] + money
        closed = policy.payment is Payment.PREPAID or policy.on_database_loss is OnLoss.CLOSED
        if closed or exposed > policy.max_exposure // self._port.processes:
            raise HoldsUnavailable("Limits cannot be asked at the moment; please retry.")
        self._exposed[tenant_id] = exposed


def size_of(request: InferenceRequest) -> RequestSize:
    """What of a request bounds its cost."""
    return RequestSize(
        prompt_bytes=request.prompt_bytes,
        media_parts=request.media_parts,
        max_tokens=request.max_tokens,
        choices=max(request.choices, request.best_of) * request.prompts,
        generates=request.route.generates,
        stored_prompt=request.references.previous_response_id is not None
        or bool(request.references.file_ids),
        units=request.most_units,
    )


def highest(rates: Iterable[Rates]) -> Rates:
    """The highest of each price: what is held has to suffice for whichever model answers."""
    found = list(rates)
    if len(found) == 1:
        return found[0]
    return Rates(
        request=max((each.request for each in found), default=0),
        input=max((each.input for each in found), default=0),
        cached_input=max((each.cached_input for each in found), default=0),
        cache_write=max((each.cache_write for each in found), default=0),
        output=max((each.output for each in found), default=0),
        units={
            unit: max(each.units.get(unit, 0) for each in found)
            for unit in {unit for each in found for unit in each.units}
        },
    )


def _applying(terms: TenantTerms, grant: KeyGrant, model: ServedModel) -> list[tuple[Limit, bool]]:
    """The limits that count requests of a key for a model, and which of them refuse."""
    return [
        (limit, limit.hard and not limit.shadow and not terms.policy.shadow)
        for limit in terms.limits
        if limit.applies(project_id=grant.project_id, key_id=grant.key_id, model_id=model.id)
    ]


def _limits_of_others(
    admission: Admission, fallbacks: Sequence[ServedModel]
) -> Mapping[int, Sequence[tuple[Limit, bool]]]:
    """By fallback, the limits on that model alone: they count what it answers for another."""
    terms, grant = admission.terms, admission.grant
    found = {
        model.id: [entry for entry in _applying(terms, grant, model) if entry[0].model_id]
        for model in fallbacks
    }
    return {model_id: limits for model_id, limits in found.items() if limits}


class _Amounts:
    """What a request needs of limits.

    Only a stream can be ended where its hold ends: an answer in one piece that came out longer
    than was likely would exceed a hard limit, so there it holds all that it can come to.
    """

    __slots__ = ("_likely", "_most")

    def __init__(self, rates: Rates, bound: Bound, covered: int, request: InferenceRequest) -> None:
        self._likely = self._most = _amounts(rates, bound, covered, request)
        longest = bound.choice_tokens * bound.choices
        if covered < longest and not request.stream:
            self._most = _amounts(rates, bound, longest, request)

    def wanted(self, limits: Sequence[tuple[Limit, bool]]) -> list[Wanted]:
        """Of each limit; nothing of those that it leaves as they are."""
        return [
            Wanted(limit=limit, amount=amount, blocks=blocks)
            for limit, blocks in limits
            if (amount := (self._most if blocks else self._likely)[limit.unit])
        ]


def _amounts(
    rates: Rates, bound: Bound, output: int, request: InferenceRequest
) -> Mapping[Unit, int]:
    """What a request with so much output comes to at most, by unit."""
    if request.route.spec.serving is Serving.UNBILLED:
        return _ONE_REQUEST
    units = request.most_units
    return {
        Unit.MONEY: cost_of(rates, prompt=bound.prompt_tokens, output=output, units=units),
        Unit.TOKENS: bound.prompt_tokens + output,
        Unit.REQUESTS: 1,
        Unit.SLOTS: 1,
    }
