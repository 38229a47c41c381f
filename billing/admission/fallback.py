"""Which models may answer in place of the one that was asked for.

Decides: those that the configuration names, as far as the tenant's contract prices them: nobody
is billed for a model that it has no price for. Does not decide when one of them is tried.
"""

from __future__ import annotations

from billing.admission.backend import ServedModel
from billing.admission.decision import priced_terms
from billing.admission.route import Route
from billing.admission.snapshot import Admission, Snapshot
from billing.errors import UnpricedModel


def fallbacks_for(
    snapshot: Snapshot, admission: Admission, route: Route
) -> tuple[ServedModel, ...]:
    """The fallbacks of an admitted request, in their order."""
    usable: list[ServedModel] = []
    for name in admission.model.fallbacks:
        model = snapshot.models.get(name)
        if model is None or model.kind is not admission.model.kind:
            continue
        try:
            priced_terms(snapshot, admission.grant, model, route)
        except UnpricedModel:
            continue
        usable.append(model)
    return tuple(usable)
