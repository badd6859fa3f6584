"""The section on units: embedded by what they compute, who computes nearly the same, and a few units one by one."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gradembed import plots
from gradembed.cards import UnitCard, aligned_units, mean_cosine, unit_card
from gradembed.embed import FieldDescriptor
from gradembed.fields import GradientFields, gradient_fields
from gradembed.gradients import unit_gradients
from gradembed.metrics import project_2d, retrieval
from gradembed.models import untrained
from gradembed.plots._render import pictures
from gradembed.report._request import Request

FIELD_NUMBERS = 2**24  # in the fields of all units together
FEWEST_POINTS, FEWEST_UNITS = 20, 3  # to embed; to draw
MOST_TWINS = 15  # rows of the table
MOST_CLASSES = 10  # that have a colour of their own
CARD_PANELS = ((4.0, 3.4), (3.9, 3.2), (3.9, 3.2), (3.9, 3.2))  # of a card: two beside each other on a wide page


@dataclass(frozen=True, eq=False)
class Units:
    """Units of all networks that are not constant at the samples, and where an embedding puts them.

    Attributes:
        fields: Gradients with respect to the input; groups are the networks.
        groups: The network of each, [u].
        names: One per unit.
        is_output: Which of them are outputs, [u].
        dropped: Number of units that were constant.
        z: Embedding, [u, k].
        control: Embedding of the units of an untrained copy, if there is one.
    """

    fields: GradientFields
    groups: NDArray[np.int64]
    names: list[str]
    is_output: Tensor
    dropped: int
    z: NDArray[np.float64]
    control: NDArray[np.float64] | None


def units_section(request: Request, layers: tuple[str, ...]) -> dict[str, Any]:
    """Return embedded units, their nearest twins and a few cards; or why there are none."""
    options, n, d = request.options, len(request.x), math.prod(request.shapes["input"])
    last = options["unit_layer"] or layers[-1]
    hidden = None if last == "input" else last
    u = len(request.networks) * (len(request.units) + (options["max_units"] if hidden else 0))
    most = min(options["max_samples"], FIELD_NUMBERS // (u * d))
    data = {"state": "embedded", "u": u, "d": d, "most": most, "n": n, "fewest": FEWEST_POINTS, "hidden": hidden}
    if min(most, n) < FEWEST_POINTS:
        return data | {"state": "too few"}
    chosen = request.sample(most)
    try:
        units = _embed(request, hidden, request.x[chosen.to(request.x.device)])
        twins = [] if units is None else _twins(units, len(request.networks) > 1)
    except ValueError as error:
        return data | {"state": "refused", "refusal": str(error)}
    if units is None:
        return data | {"state": "constant"}
    picture = _layout(request, units, chosen) if len(units.z) >= FEWEST_UNITS else None
    data |= {"m": len(chosen), "dropped": units.dropped, "n_embedded": len(units.z), "picture": picture}
    data |= {"n_hidden": int((~units.is_output.numpy() & (units.groups == 0)).sum()), "twins": twins[:MOST_TWINS]}
    return data | {"cards": _cards(units, twins, options["n_cards"])}


def _embed(request: Request, hidden: str | None, x: Tensor) -> Units | None:
    """Return all networks' units that are not constant, embedded together, if there are any."""
    parts, names, is_output = [], [], []
    for i, network in enumerate(request.networks):
        home = f", net {i}" if len(request.networks) > 1 else ""
        fields, indices = _fields_of(network, x, hidden, request)
        parts.append(fields)
        names += [f"{hidden}[{j}]{home}" for j in indices] + [f"output {name}{home}" for name in request.names]
        is_output += [False] * len(indices) + [True] * len(request.units)
    together = GradientFields.concatenate(parts, new_networks=True)
    alive = (together.amplitudes() > 0).cpu()
    if not bool(alive.any()):
        return None
    fields, given, seed, control = together[alive], request.options["embedder"], request.options["seed"], None
    embedder = FieldDescriptor("none", random_state=seed) if given is None else copy.deepcopy(given)
    z = np.asarray(embedder.fit(fields).transform(fields), dtype=np.float64)
    if request.options["n_untrained"]:
        other, _ = _fields_of(untrained(request.model, seed), x, hidden, request)
        moving = other.amplitudes() > 0
        control = np.asarray(embedder.transform(other[moving]), dtype=np.float64) if bool(moving.any()) else None
    groups: Any = fields.groups
    kept = [name for name, is_alive in zip(names, alive.tolist(), strict=True) if is_alive]
    dropped = int((~alive).sum())
    return Units(fields, groups.numpy(force=True), kept, torch.tensor(is_output)[alive], dropped, z, control)


def _fields_of(network: nn.Module, x: Tensor, hidden: str | None, request: Request) -> tuple[GradientFields, list[int]]:
    """Return fields of the hidden units whose values vary most, then of the outputs; and which hidden ones."""
    outputs = gradient_fields(network, x, units=request.units, **request.calling)
    if hidden is None:
        return replace(outputs, regions=None), []
    values = unit_gradients(network, x, hidden, units=request.units[:1], **request.calling).activations.double()
    order = values.std(0, correction=0).argsort(descending=True, stable=True)
    indices = sorted(order[: request.options["max_units"]].tolist())
    inner = gradient_fields(network, x, unit_layer=hidden, units=indices, **request.calling)
    return replace(GradientFields.concatenate([inner, outputs]), regions=None), indices


def _twins(units: Units, across: bool) -> list[dict[str, Any]]:
    """Return each unit of the first network with its nearest in another one (if any), nearest first."""
    own = units.groups == 0
    homes = units.groups if across else np.arange(len(own))
    n_candidates = int((~own).sum()) if across else len(own) - 1
    if not (own.any() and n_candidates):
        return []
    found = retrieval(units.z, homes, homes, queries=own, k=n_candidates)
    rows = []
    for i, near, distances in zip(found.queries.tolist(), found.neighbours.tolist(), found.distances, strict=True):
        row = {"unit": i, "twin": near[0], "name": units.names[i], "twin_name": units.names[near[0]]}
        row |= {"distance": float(distances[0]), "typical": float(np.median(distances.numpy()))}
        a, b = (units.fields.gradients[k].double() for k in (i, near[0]))
        values: Any = units.fields.values
        correlation = np.corrcoef(values[[i, near[0]]].double().numpy(force=True))[0, 1]
        rows.append(row | {"cosine": mean_cosine(a, b), "correlation": float(correlation)})
    if units.control is not None:
        both = np.concatenate([units.z[own], units.control])
        kind = np.arange(len(both)) >= own.sum()
        nearest = retrieval(both, kind, kind, queries=~kind).distances[:, 0].tolist()
        rows = [row | {"untrained": distance} for row, distance in zip(rows, nearest, strict=True)]
    return sorted(rows, key=lambda row: row["distance"])


def _cards(units: Units, twins: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Return cards of the units with the nearest twins; none is on two cards as the unit or its nearest twin."""
    cards: list[dict[str, Any]] = []
    seen: set[int] = set()
    for row in twins:
        pair = {row["unit"], row["twin"]}
        if len(cards) < most and not pair & seen:
            seen |= pair
            card = _card(units, row["unit"])
            draw = lambda axes, card=card: plots.unit_card(card, title="field", axes=axes)  # noqa: E731
            cards.append({"card": card, "panels": pictures(draw, CARD_PANELS)})
    return cards


def _card(units: Units, i: int) -> UnitCard:
    """Return a unit's card; of a single network, twins are its other units."""
    if units.groups.any():
        return unit_card(units.fields, i, units.z, names=units.names)
    each = replace(units.fields, groups=torch.arange(len(units.fields)))
    card = unit_card(each, i, units.z, names=units.names)
    return replace(card, network=0, **aligned_units(units.fields, i, units.z, units.names, 5))


def _layout(request: Request, units: Units, chosen: Tensor) -> dict[str, Any]:
    """Return all units in two dimensions, colored by class, network or layer, whichever there is."""
    classes, values = request.classes, units.fields.values
    labels, colours, legend = units.is_output.long(), "layers", ["hidden", "output"]
    if classes is not None and values is not None and int(classes.max()) < MOST_CLASSES:
        own = classes[chosen]
        means = torch.stack([values[:, own == k].double().mean(1) for k in own.unique()], dim=1).cpu()  # [u, classes]
        labels, colours = own.unique()[means.argmax(1)], "classes"
        legend = request.all_names[: int(own.max()) + 1]
    elif units.groups.any():
        labels, colours = torch.from_numpy(units.groups), "networks"
        legend = [f"net {i}" for i in range(len(request.networks))]
    layout = project_2d(units.z, method="pca").coordinates
    shown: dict[str, Any] = {"label_names": legend, "markers": units.is_output.long(), "method": "pca"}
    (png,) = pictures(lambda axes: plots.embedding(layout, labels, ax=axes[0], **shown), [(4.8, 3.8)])
    return {"png": png, "colours": colours}
