"""Which units of its network a unit disturbs, and which of other networks do the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradembed import _validation
from gradembed._validation import as_labels
from gradembed.fields import GradientFields
from gradembed.gradients import unit_rows
from gradembed.metrics import retrieval
from gradembed.metrics._uncertainty import Labels

TIE = 1e-9  # distances that differ by less, relatively, are equal


def interferers_of(fields: GradientFields, unit: int, k: int) -> tuple[Tensor, Tensor, str]:
    """Compare gradients with those of the same network's units, where these have the same points.

    Returns:
        Positions and mean cosines, largest |cosine| first, [i] each, and why there are no more.
    """
    points, network = fields.points, as_labels("groups", fields.groups, len(fields))
    peers = [i for i in np.flatnonzero(network == network[unit]).tolist() if i != unit]
    comparable = [i for i in peers if fields.is_shared or torch.equal(points[i], points[unit])]
    own, _ = unit_rows(fields.gradients[unit].double().cpu())
    found: dict[int, float] = {}
    for i in comparable:
        other, _ = unit_rows(fields.gradients[i].double().cpu())
        defined = own.any(1) & other.any(1)
        if bool(defined.any()):
            found[i] = float((own * other).sum(1)[defined].mean())
    order = sorted(found, key=lambda i: -abs(found[i]))[:k]
    elsewhere, silent = len(peers) - len(comparable), len(comparable) - len(found)
    lost = [f"{elsewhere} at other points"] * bool(elsewhere) + [f"{silent} without a common gradient"] * bool(silent)
    note = f"{len(peers)} other units of the network, of which {' and '.join(lost)}" if lost else ""
    if not peers:
        note = "no other unit of the network"
    return torch.tensor(order, dtype=torch.int64), torch.tensor([found[i] for i in order], dtype=torch.float64), note


def twins_of(
    fields: GradientFields, unit: int, z: NDArray[np.float64], exclude: Labels | None, k: int
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Look up the nearest units of other networks, and how near those of all other units are.

    Returns:
        Positions, distances and their quantiles, [j] each, and the median distance of all that could be twins.
    """
    u = len(z)
    network = as_labels("groups", fields.groups, u)
    apart = [network] if exclude is None else [network, as_labels("exclude", exclude, u)]
    candidates = np.logical_and.reduce([label != label[unit] for label in apart])
    if not candidates.any():
        rule = "leave the unit another network" + (" with another label in `exclude`" if len(apart) > 1 else "")
        _validation.refuse(
            "fields", rule, "no unit that could be its twin", "Pass units of more networks, exclude less"
        )
    k = min(k, int(candidates.sum()))
    score = retrieval(z, network, network, queries=_n_candidates(apart) >= k, exclude=apart[1:], k=k)
    row = score.queries.tolist().index(unit)
    typical = float(np.median(np.linalg.norm(z[candidates] - z[unit], axis=1)))
    return score.neighbors[row], score.distances[row], _quantiles(score.distances, row), typical


def _quantiles(distances: Tensor, row: int) -> Tensor:
    """Rank one unit's distances among those of the other units, column by column.

    Returns:
        Share of the others that are smaller, ties half, [j]; 0.5 if there are no others.
    """
    own, others = distances[row], distances[torch.arange(len(distances)) != row]
    if not len(others):
        return torch.full_like(own, 0.5)
    tied = (others - own).abs() <= TIE * own
    smaller = (others < own) & ~tied
    return (smaller.double() + tied.double() / 2).mean(0)


def _n_candidates(apart: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Count the units that share none of the labels with a unit.

    Returns:
        A number for each unit, [u].
    """
    shared = [np.bincount(label)[label] for label in apart]
    if len(apart) == 1:
        return np.asarray(len(apart[0]) - shared[0])
    both = np.unique(np.stack(apart), axis=1, return_inverse=True)[1].reshape(-1)
    return np.asarray(len(apart[0]) - shared[0] - shared[1] + np.bincount(both)[both])
