"""Fourth section of a report: units embedded by what they compute, and who computes nearly the same."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from gradembed import plots
from gradembed.embed import FieldDescriptor
from gradembed.fields import GradientFields, gradient_fields
from gradembed.gradients import unit_gradients
from gradembed.metrics import project_2d
from gradembed.models import untrained
from gradembed.plots._render import pictures
from gradembed.report._page import Page
from gradembed.report._request import Request
from gradembed.report._twins import Units, nearest, write_cards, write_twins

BUDGET = 2**24  # numbers in the fields of all units together
FEWEST_POINTS = 20
WHY = (
    "The functions that the units compute, as functions of the input: a unit's gradient field is its gradient with "
    "respect to the input at every sample. All units have the input in common, of whatever layer or network they "
    "are."
)


def write_units(page: Page, request: Request, layers: tuple[str, ...], shapes: dict[str, tuple[int, ...]]) -> None:
    """Embed units, list nearest twins, and describe a few units."""
    page.section("units", "Which units compute the same?")
    last = request.options["unit_layer"] or layers[-1]
    hidden = None if last == "input" else last
    page.say(WHY)
    u = len(request.networks) * (len(request.units) + (request.options["max_units"] if hidden else 0))
    most = min(request.options["max_samples"], BUDGET // (u * math.prod(shapes["input"])))
    if min(most, len(request.x)) < FEWEST_POINTS:
        page.say(
            f"Nothing is embedded. {u} units with gradients in {math.prod(shapes['input']):,} dimensions leave room "
            f"for {most:,} samples, and there are {len(request.x):,}; fewer than {FEWEST_POINTS} say too little."
        )
        return
    chosen = request.sample(most)
    try:
        units = _embed(request, hidden, request.x[chosen.to(request.x.device)])
    except ValueError as error:
        page.say("The units could not be embedded. The library refused with:")
        page.quote(str(error))
        return
    if units is None:
        page.say("Nothing is embedded: every unit is constant at these samples.")
        return
    _say_which(page, request, hidden, units, len(chosen))
    _write_embedding(page, request, units, chosen)
    twins = nearest(units, len(request.networks) > 1)
    write_twins(page, request, units, twins)
    write_cards(page, request, units, twins)


def _embed(request: Request, hidden: str | None, x: Tensor) -> Units | None:
    """Take the fields of all networks' units and embed them together.

    Returns:
        The units that are not constant, if there are any.
    """
    parts, names, is_output = [], [], []
    for i, network in enumerate(request.networks):
        home = f", net {i}" if len(request.networks) > 1 else ""
        indices = [] if hidden is None else _most_varied(network, x, hidden, request)
        parts.append(_fields_of(network, x, hidden, indices, request.units))
        names += [f"{hidden}[{j}]{home}" for j in indices] + [f"output {name}{home}" for name in request.names]
        is_output += [False] * len(indices) + [True] * len(request.units)
    together = GradientFields.concatenate(parts, new_networks=True)
    alive = (together.amplitudes() > 0).cpu()
    if not bool(alive.any()):
        return None
    fields = together[alive]
    given = request.options["embedder"]
    embedder = FieldDescriptor("none", random_state=request.seed) if given is None else copy.deepcopy(given)
    z = np.asarray(embedder.fit(fields).transform(fields), dtype=np.float64)
    own: Any = fields.groups == 0
    control = None
    if request.options["n_untrained"]:
        other = _control_fields(request, hidden, x)
        if other is not None:
            rows = np.asarray(embedder.transform(other), dtype=np.float64)
            control = cdist(z[own.numpy(force=True)], rows).min(1)
    kept = [name for name, is_alive in zip(names, alive.tolist(), strict=True) if is_alive]
    return Units(fields, kept, torch.tensor(is_output)[alive], int((~alive).sum()), z, control)


def _control_fields(request: Request, hidden: str | None, x: Tensor) -> GradientFields | None:
    """Take the fields of the same kinds of units of an untrained copy.

    Returns:
        Of those that are not constant; ``None`` if all are.
    """
    network = untrained(request.model, request.seed)
    indices = [] if hidden is None else _most_varied(network, x, hidden, request)
    fields = _fields_of(network, x, hidden, indices, request.units)
    alive = fields.amplitudes() > 0
    return fields[alive] if bool(alive.any()) else None


def _most_varied(network: nn.Module, x: Tensor, hidden: str, request: Request) -> list[int]:
    """Choose the units of a layer whose values vary most.

    Returns:
        Their indices, in order.
    """
    values = unit_gradients(network, x, hidden, units=request.units[:1]).activations.double()
    spread = values.std(0, correction=0)
    return sorted(spread.argsort(descending=True, stable=True)[: request.options["max_units"]].tolist())


def _fields_of(
    network: nn.Module, x: Tensor, hidden: str | None, indices: list[int], outputs: tuple[int, ...]
) -> GradientFields:
    """Take the fields of hidden units and outputs of one network.

    Returns:
        The hidden units first.
    """
    parts = [gradient_fields(network, x, units=outputs)]
    if hidden is not None:
        parts.insert(0, gradient_fields(network, x, unit_layer=hidden, units=indices))
    return replace(GradientFields.concatenate(parts), regions=None)


def _say_which(page: Page, request: Request, hidden: str | None, units: Units, m: int) -> None:
    """Say which units are embedded, at how many samples and how."""
    count = int((~units.is_output & (units.fields.groups == 0).cpu()).sum())  # type: ignore[union-attr]
    which = f"{count} units of {hidden!r}, those whose values vary most (max_units=), and the" if hidden else "The"
    embedder = request.options["embedder"]
    how = (
        "FieldDescriptor('none'): scale and offset of each unit are dropped and the gradients compared as they "
        "are; nothing is trained"
        if embedder is None
        else type(embedder).__name__
    )
    page.say(
        f"{which} {len(request.units)} outputs"
        + (" of each network" if len(request.networks) > 1 else "")
        + f", at {m:,} of "
        f"{len(request.x):,} samples (max_samples=). Embedded by {how}."
        + (f" {units.dropped} units were constant at these samples and are left out." if units.dropped else "")
    )


def _write_embedding(page: Page, request: Request, units: Units, chosen: Tensor) -> None:
    """Draw all units in two dimensions."""
    if len(units.z) < 3:
        page.say("There are fewer than three units: nothing to draw.")
        return
    labels, names, colours = _labels(request, units, chosen)
    layout = project_2d(units.z, method="pca").coordinates
    draw = lambda axes: plots.embedding(  # noqa: E731
        layout, labels, label_names=names, markers=units.is_output.long(), method="pca", ax=axes[0]
    )
    (picture,) = pictures(draw, [(4.8, 3.8)])
    page.figures(
        [(picture, f"{len(units.z)} units laid out in two dimensions by principal components; {colours}")],
        f"Units by what they compute, in the two principal directions of the embedding: {colours}. Discs are hidden "
        "units, squares outputs. Near each other in the picture need not be near in the embedding: for that, see "
        "the table below. Clusters here are a reason to look closer, not a result.",
    )


def _labels(request: Request, units: Units, chosen: Tensor) -> tuple[Tensor, list[str] | None, str]:
    """Colour each unit by the class at which its values are highest, or by its network.

    Returns:
        Whole numbers, their names, and what the colours mean.
    """
    classes, values = request.classes, units.fields.values
    if classes is not None and values is not None and int(classes.max()) < 10:
        own = classes[chosen]
        present = own.unique()
        means = torch.stack([values[:, (own == k).to(values.device)].double().mean(1) for k in present], dim=1).cpu()
        names = [request.all_names[k] if k < len(request.all_names) else str(k) for k in range(int(present.max()) + 1)]
        return present[means.argmax(1)], names, "colours are the class at which a unit's mean value is highest"
    if len(request.networks) > 1 and units.fields.groups is not None:
        return units.fields.groups.cpu(), [f"net {i}" for i in range(len(request.networks))], "colours are networks"
    return units.is_output.long(), ["hidden", "output"], "colours are layers"
