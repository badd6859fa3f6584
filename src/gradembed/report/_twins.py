"""Fourth section of a report, continued: who computes nearly the same, and a few units one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch import Tensor

from gradembed import plots
from gradembed.cards import UnitCard, unit_card
from gradembed.cards._neighbours import interferers_of
from gradembed.fields import GradientFields
from gradembed.plots._render import pictures
from gradembed.report._page import Page, number, significant
from gradembed.report._request import Request

MOST_TWINS = 15  # rows of the table
CARD_PANELS = ((4.0, 3.4), (3.9, 3.2), (3.9, 3.2), (3.9, 3.2))  # of a card: two beside each other on a wide page


@dataclass(frozen=True)
class Units:
    """Units of all networks, and where an embedding puts them.

    Attributes:
        fields: Gradients with respect to the input; groups are the networks.
        names: One per unit.
        is_output: Which of them are outputs, [u].
        dropped: Number of units that were constant at the samples.
        z: Embedding, [u, k].
        control: Distance from each of the first network's units to the nearest one of an untrained copy, or ``None``.
    """

    fields: GradientFields
    names: list[str]
    is_output: Tensor
    dropped: int
    z: NDArray[np.float64]
    control: NDArray[np.float64] | None


def nearest(units: Units, across: bool) -> dict[int, tuple[int, float, float]]:
    """Find the nearest unit of another network, or in the same network where there is no other.

    Returns:
        For each unit of the first network: position and distance of its twin, median distance of all candidates.
    """
    groups = units.fields.groups.numpy(force=True)  # type: ignore[union-attr]
    found = {}
    for i in np.flatnonzero(groups == 0).tolist():
        candidates = np.flatnonzero(groups != 0 if across else np.arange(len(groups)) != i)
        if len(candidates):
            distances = cdist(units.z[i : i + 1], units.z[candidates])[0]
            j = int(distances.argmin())
            found[i] = (int(candidates[j]), float(distances[j]), float(np.median(distances)))
    return found


def write_twins(page: Page, request: Request, units: Units, twins: dict[int, tuple[int, float, float]]) -> None:
    """List the units with the nearest twins."""
    page.subsection("Nearest functional twins")
    if not twins:
        page.say("There is no other unit to compare with.")
        return
    across = len(request.networks) > 1
    rows = []
    for i in _by_distance(twins)[:MOST_TWINS]:
        j, distance, typical = twins[i]
        row = [units.names[i], units.names[j], significant(distance), significant(typical)]
        row += [number(_mean_cosine(units.fields, i, j), 2), number(_correlation(units.fields, i, j), 2)]
        rows.append(row + ([significant(float(units.control[i]))] if units.control is not None else []))
    head = ["unit", "nearest unit", "distance", "median distance", "cosine", "correlation of values"]
    note = (
        f"The {len(rows)} units with the nearest twin "
        f"{'in another network' if across else 'among the other units'}; chosen for their small distances. Every "
        "unit has a nearest one: it computes nearly the same only if the distance is far below the median distance "
        "of its candidates. Cosine: mean over samples between the two gradients. Correlation of values: the "
        "baseline that looks at no gradient; where it says as much, the gradients were not needed."
    )
    if units.control is not None:
        head.append("nearest in an untrained copy")
        note += " A distance no smaller than that to an untrained copy is no result."
    if not across:
        note += " One network only: which of these pairs another training run would have, this table cannot say."
    page.table(head, rows, name="Functional twins", note=note)


def _by_distance(twins: dict[int, tuple[int, float, float]]) -> list[int]:
    return sorted(twins, key=lambda i: twins[i][1])


def _mean_cosine(fields: GradientFields, i: int, j: int) -> float:
    """Compare two units' gradients, point by point.

    Returns:
        The mean cosine over points where both exist; NaN if there are none.
    """
    a, b = (fields.gradients[k].double() for k in (i, j))
    lengths = a.norm(dim=1) * b.norm(dim=1)
    defined = lengths > 0
    return float(((a * b).sum(1)[defined] / lengths[defined]).mean())


def _correlation(fields: GradientFields, i: int, j: int) -> float:
    values: Any = fields.values
    return float(np.corrcoef(values[[i, j]].double().numpy(force=True))[0, 1])


def write_cards(page: Page, request: Request, units: Units, twins: dict[int, tuple[int, float, float]]) -> None:
    """Draw the cards of the units with the nearest twins; none is on two cards as the unit or its nearest twin."""
    page.subsection("Unit cards")
    chosen: list[int] = []
    seen: set[int] = set()
    for i in _by_distance(twins):
        pair = {i, twins[i][0]}
        if len(chosen) < request.options["n_cards"] and not pair & seen:
            chosen.append(i)
            seen |= pair
    if not chosen:
        page.say("None: there is no twin to show, or n_cards= is 0.")
        return
    for i in chosen:
        card = _card(units, i, len(request.networks) > 1)
        drawn = pictures(lambda axes, card=card: plots.unit_card(card, title="field", axes=axes), CARD_PANELS)  # type: ignore[misc]
        twin = f"nearest twin {card.twin_names[0]} at {significant(float(card.distances[0]))}"
        alts = [
            f"Field of {card.name}: gradients as arrows at {len(card.values):,} samples",
            f"Spectrum of its gradients, effective dimension {number(card.effective_dimension, 1)} of {card.dim}",
            "Interferers: " + ", ".join(
                f"{name} {number(c, 2)}" for name, c in zip(card.interferer_names, card.cosines.tolist(), strict=True)
            ),
            f"Functional twins, {twin}",
        ]  # fmt: skip
        page.figures(list(zip(drawn, alts, strict=True)), f"{card.name}: {twin}. {_range_of(card)}")
    page.say(
        "How to read a card. Field: the unit's gradients in the two input directions in which they are largest, "
        "the highest values ringed. Effective dimension: the number of directions among which the gradient is "
        "spread. Interference: units of the same network with the largest mean cosine, red where both want the "
        "same, blue where they oppose each other. Functional twins: distances in the embedding, the dashed line "
        "that of the median unit; bars that reach it are no twins. The cards are of the units with the nearest "
        "twins: the best there are, not typical ones."
    )


def _range_of(card: UnitCard) -> str:
    low, mean, high = (significant(card.value_summary[name]) for name in ("min", "mean", "max"))
    return (
        f"Its values: {low} to {high}, mean {mean}; no gradient at {card.undefined:,} of {len(card.values):,} samples."
    )


def _card(units: Units, i: int, across: bool) -> UnitCard:
    """Describe a unit; of a single network, twins are its other units.

    Returns:
        The card.
    """
    if across:
        return unit_card(units.fields, i, units.z, names=units.names)
    each = replace(units.fields, groups=torch.arange(len(units.fields)))
    card = unit_card(each, i, units.z, names=units.names)
    found, cosines, note = interferers_of(replace(each, groups=torch.zeros_like(each.groups)), i, 5)  # type: ignore[arg-type]
    return replace(
        card,
        network=0,
        interferers=found,
        interferer_names=tuple(units.names[k] for k in found.tolist()),
        cosines=cosines,
        interferer_distances=torch.from_numpy(np.linalg.norm(units.z[found.numpy()] - units.z[i], axis=1)),
        interferer_note=note,
    )
