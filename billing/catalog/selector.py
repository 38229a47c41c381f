"""Selectors: which metered quantities a charge prices, and how meters, models and keys are named.

Decides: the form of names that plans use, which meters exist without being declared, when two
selectors can pick the same quantity. Decides nothing about prices.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from billing.catalog.window import Window
from billing.errors import InvalidPlan
from billing.metering.dimension import ABSENT, require_dimension
from billing.metering.token_class import TokenClass
from billing.metering.unit_meter import UnitMeter

OUTCOME_PREFIX = "outcome."
"""Meters of outcomes: `outcome.<slug>`, one per outcome definition."""

REQUESTS = "requests"
"""The built-in meter that counts operations."""

_TOKENS = "tokens"
_UNITS = {
    REQUESTS: "requests",
    **{token_class.meter: _TOKENS for token_class in TokenClass},
    UnitMeter.IMAGES.value: "images",
    UnitMeter.AUDIO_MS.value: "seconds",
    UnitMeter.CHARACTERS.value: "characters",
    UnitMeter.SEARCHES.value: "searches",
}

BUILT_IN_METERS = frozenset(_UNITS)

_METER = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9][a-z0-9_-]*)*")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*")
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]*")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*")

RESIDUAL_KEY = "residual"
"""Key of the invoice line that bills carried fractions; no charge may take it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Which values of one dimension are meant.

    Attributes:
        dimension: its name.
        values: the values that are meant, or, where `others`, those that are not.
        others: whether all but the values are meant: the fallback that a plan writes.

    Raises:
        InvalidPlan: a malformed name, or no values, which would select nothing.
    """

    dimension: str
    values: frozenset[str]
    others: bool = False

    def __post_init__(self) -> None:
        require_dimension(self.dimension, field="dimension")
        if not self.values and not self.others:
            raise InvalidPlan(
                "the list of values is empty", field="values", remedy="leave the dimension out"
            )

    def meets(self, value: str) -> bool:
        """Whether a value is meant."""
        return (value in self.values) is not self.others

    def intersects(self, other: Condition) -> bool:
        """Whether some value is meant by both; of the same dimension."""
        if self.others and other.others:
            return True
        if self.others:
            return not other.values <= self.values
        if other.others:
            return not self.values <= other.values
        return not self.values.isdisjoint(other.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """The quantities that a charge prices.

    Attributes:
        meter: code of one meter.
        models: names of the models whose usage is meant; None means any model, and usage that
            names none.
        where: conditions on dimensions of the meter, all of which must be met; at most one for
            each dimension.
        window: the part of the week that is meant; None: all of it.

    Raises:
        InvalidPlan: a malformed meter or model name, two conditions on one dimension, or an empty
            set of models, which would select nothing and read as if it selected everything.
    """

    meter: str
    models: frozenset[str] | None = None
    where: tuple[Condition, ...] = ()
    window: Window | None = None

    def __post_init__(self) -> None:
        _require(_METER, self.meter, length=100, field="meter", form="tokens.input")
        names = [condition.dimension for condition in self.where]
        if len(set(names)) < len(names):
            raise InvalidPlan(
                "two conditions on one dimension", field="where", remedy="join their values"
            )
        if self.models is None:
            return
        if not self.models:
            raise InvalidPlan(
                "the list of models is empty", field="models", remedy="leave it out for any model"
            )
        for model in sorted(self.models):
            require_model(model, field="models")

    def selects(
        self,
        meter: str,
        model: str | None,
        dimensions: Mapping[str, str] | None = None,
        at: datetime | None = None,
        zone: ZoneInfo | None = None,
    ) -> bool:
        """Whether usage of this meter and model is priced by the charge.

        Args:
            dimensions: values by name; None leaves dimensions out of the question, as where only
                meters and models are known.
            at, zone: when it was used, and by whose clock; None leaves the window out of it.
        """
        if meter != self.meter or not (self.models is None or model in self.models):
            return False
        if dimensions is not None and not all(
            condition.meets(dimensions.get(condition.dimension, ABSENT)) for condition in self.where
        ):
            return False
        return self.window is None or at is None or zone is None or self.window.holds(at, zone)

    def intersects(self, other: Selector) -> bool:
        """Whether some quantity would be picked by both."""
        if self.meter != other.meter:
            return False
        if (
            self.models is not None
            and other.models is not None
            and self.models.isdisjoint(other.models)
        ):
            return False
        others = {condition.dimension: condition for condition in other.where}
        if any(
            condition.dimension in others and not condition.intersects(others[condition.dimension])
            for condition in self.where
        ):
            return False
        return self.window is None or other.window is None or self.window.intersects(other.window)


def is_built_in(meter: str) -> bool:
    """Whether a meter exists without being declared: tokens, requests, outcomes, audio and such."""
    if meter.startswith(OUTCOME_PREFIX):
        return _SLUG.fullmatch(meter.removeprefix(OUTCOME_PREFIX)) is not None
    return meter in BUILT_IN_METERS


def unit_of(meter: str) -> str:
    """What one unit of a meter is called on an invoice, in the plural."""
    if meter.startswith(OUTCOME_PREFIX):
        return "outcomes"
    return _UNITS.get(meter, _TOKENS if meter.startswith("tokens.") else "units")


def require_model(name: str, *, field: str) -> str:
    """Return a well-formed model name.

    Raises:
        InvalidPlan: spaces, control characters or an overlong name.
    """
    return _require(_MODEL, name, length=128, field=field, form="org/model-8b")


def require_slug(slug: str, *, field: str) -> str:
    """Return a well-formed slug.

    Raises:
        InvalidPlan: capitals, spaces or an overlong slug.
    """
    return _require(_SLUG, slug, length=63, field=field, form="inference-standard")


def require_key(key: str, *, field: str = "key") -> str:
    """Return a well-formed charge key that is not reserved.

    Raises:
        InvalidPlan: malformed, overlong, or the key of the residual line.
    """
    if key == RESIDUAL_KEY:
        raise InvalidPlan("this key is reserved", field=field, remedy="choose another key")
    return _require(_KEY, key, length=160, field=field, form="tokens/sim-small/input")


def _require(pattern: re.Pattern[str], text: str, *, length: int, field: str, form: str) -> str:
    if len(text) > length or pattern.fullmatch(text) is None:
        raise InvalidPlan(
            f"malformed name, or longer than {length} characters",
            field=field,
            remedy=f"write it like {form}",
        )
    return text
