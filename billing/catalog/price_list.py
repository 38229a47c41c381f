"""Price lists: the short form in which prices per model and token class are usually written.

Decides: which charges a price list stands for and how they are keyed. A price list is only a way
of writing; a plan holds the charges.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from billing.catalog.charge import Charge
from billing.catalog.price import PerUnit
from billing.catalog.selector import Selector, require_model
from billing.metering.token_class import TokenClass

_WORDS = {
    TokenClass.INPUT: "input tokens",
    TokenClass.CACHED_INPUT: "cached input tokens",
    TokenClass.CACHE_WRITE: "cache write tokens",
    TokenClass.OUTPUT: "output tokens",
}


def token_charge(model: str, token_class: TokenClass, price: Decimal, *, per: int) -> Charge:
    """The charge for one token class of one model, keyed `tokens/<model>/<class>`.

    Raises:
        InvalidPlan: a malformed model name or price.
    """
    require_model(model, field="model")
    return Charge(
        key=f"tokens/{model}/{token_class.value}",
        description=f"{model}: {_WORDS[token_class]}",
        selector=Selector(meter=token_class.meter, models=frozenset({model})),
        price=PerUnit(price=price),
        per=per,
    )


def expand_price_list(
    prices: Mapping[str, Mapping[TokenClass, Decimal]], *, per: int
) -> tuple[Charge, ...]:
    """One charge per model and token class, in the order written.

    Args:
        prices: for each model, the price of `per` tokens of each class that is sold.
        per: how many tokens a price is for.
    """
    return tuple(
        token_charge(model, token_class, price, per=per)
        for model, classes in prices.items()
        for token_class, price in classes.items()
    )
