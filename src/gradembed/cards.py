"""One unit on one page: what it does, which units share its directions, and which elsewhere do the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from sklearn.utils.extmath import svd_flip
from torch import Tensor

from gradembed._validation import as_doubles, as_integer, as_labels, as_names, as_positions, check_kind, refuse
from gradembed.embed._coordinates import sign_flip
from gradembed.fields import GradientFields
from gradembed.gradients import unit_rows
from gradembed.metrics import retrieval
from gradembed.metrics._uncertainty import Array, Labels

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["UnitCard", "unit_card"]

ABSENT = 1e-12  # a direction with a smaller share of the squared gradients, or of the points' variance, is rounding
TIE = 1e-9  # distances that differ by less, relatively, are equal


@dataclass(frozen=True, repr=False, eq=False)
class UnitCard:
    """What one unit does at its points, which units of its network share its directions, which elsewhere do the same.

    In shapes, r counts eigenvalues, i aligned units, j twins and s top samples. Positions of units are those in the
    fields. Aligned units share wires with the unit (cosine of gradients, of either sign); twins compute the same
    (distance in an embedding). The two say different things: both are given for every aligned unit.

    Attributes:
        unit: Its position.
        name: What it is called.
        network: Its group: the network that it is from.
        dim: Number of dimensions of its points, d.
        value_summary: "mean", "std", "min" and "max" of its values.
        undefined: Number of points at which its gradient is zero.
        spectrum: Eigenvalues of E[g gᵀ] as shares of their sum, largest first, [r], r = min(m, d); all 0 for a unit
            whose gradient is zero everywhere.
        effective_dimension: Participation ratio of the spectrum, 1 / Σ share²: the number of directions among which
            the gradient is spread; 0 where it is zero everywhere.
        directions: The two leading eigenvectors of E[g gᵀ], [2, d], as rows. Along each, the mean gradient is
            positive; where that is below a tenth of the root mean square, the skewness is; where there is none either,
            the direction's largest entry is. Of gradients that span less than a plane, what is missing is the
            direction in which the points vary most, orthogonal to the first; or 0 where there is none.
        points: The points, less their mean, along the two directions, [m, 2].
        gradients: The gradients along them, [m, 2].
        values: The unit's values, [m].
        aligned: Units of the same network with the largest |mean cosine|, that first, [i].
        aligned_names: What they are called.
        cosines: Mean cosine of the gradients over the points at which both exist, [i].
        aligned_distances: Their distances from the unit in the embedding, [i].
        aligned_note: Why there are no aligned units, or which units could not be compared; else empty.
        twins: Nearest units of other networks in the embedding, the nearest first, [j].
        twin_names: What they are called.
        twin_networks: Their groups, [j].
        distances: Their Euclidean distances in the embedding, [j].
        twin_quantiles: How near the first, second, ... twin is, compared with other units and *their* first, second,
            ... twin: share of the units whose twin is nearer, ties half, [j]. Near 0: this unit has an
            unusually close twin; 0.5: as close as that of the median unit (or no unit to compare with).
        typical_distance: Median distance of the unit from all units that could have been its twins.
        top: Points at which its values are highest, that first, [s].
        top_values: The values there, [s].

    Example:
        >>> import torch, gradembed as ge
        >>> fields = ge.gradient_fields(ge.MLPEnsemble([4, 8, 3], n_members=5, seed=0), torch.randn(100, 4))
        >>> card = ge.unit_card(fields, 4, torch.randn(15, 2))
        >>> card.name, card.aligned.tolist() in ([3, 5], [5, 3])
        ('unit 4 of network 1', True)
        >>> card.to_frame()["relation"].value_counts().to_dict()
        {'twin': 5, 'aligned': 2}
    """

    unit: int
    name: str
    network: int
    dim: int
    value_summary: dict[str, float]
    undefined: int
    spectrum: Float64[Tensor, " r"]
    effective_dimension: float
    directions: Float64[Tensor, "2 d"]
    points: Float64[Tensor, "m 2"]
    gradients: Float64[Tensor, "m 2"]
    values: Float64[Tensor, " m"]
    aligned: Int64[Tensor, " i"]
    aligned_names: tuple[str, ...]
    cosines: Float64[Tensor, " i"]
    aligned_distances: Float64[Tensor, " i"]
    aligned_note: str
    twins: Int64[Tensor, " j"]
    twin_names: tuple[str, ...]
    twin_networks: Int64[Tensor, " j"]
    distances: Float64[Tensor, " j"]
    twin_quantiles: Float64[Tensor, " j"]
    typical_distance: float
    top: Int64[Tensor, " s"]
    top_values: Float64[Tensor, " s"]

    def __repr__(self) -> str:
        zeros = f" ({self.undefined:,} without gradient)" if self.undefined else ""
        note = f", note: {self.aligned_note}" if self.aligned_note else ""
        i, j = len(self.aligned), len(self.twins)
        return (
            f"UnitCard({self.name!r}, {len(self.values):,} points{zeros}, effective dimension "
            f"{self.effective_dimension:.1f} of {self.dim}, {i} aligned unit{'s' * (i != 1)}, {j} twin{'s' * (j != 1)} "
            f"from {float(self.distances[0]):.3g} where {self.typical_distance:.3g} is typical{note})"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per aligned unit and twin.

        Returns:
            Columns ``unit``, ``name``, ``relation`` ("aligned" or "twin"), ``rank`` from 1, ``neighbor``,
            ``neighbor_name``, ``network`` (of the neighbor), ``cosine`` (NaN for twins: gradients of different
            networks have no common space), ``distance`` and ``quantile`` (NaN for aligned units).
        """
        import pandas as pd

        i, j, neighbors = len(self.aligned), len(self.twins), [*self.aligned.tolist(), *self.twins.tolist()]
        names, networks = [*self.aligned_names, *self.twin_names], [self.network] * i + self.twin_networks.tolist()
        columns = {"unit": self.unit, "name": self.name, "relation": ["aligned"] * i + ["twin"] * j}
        columns |= {"rank": [*range(1, i + 1), *range(1, j + 1)], "neighbor": neighbors}
        columns |= {"neighbor_name": names, "network": networks, "cosine": self.cosines.tolist() + [math.nan] * j}
        columns |= {"distance": self.aligned_distances.tolist() + self.distances.tolist()}
        return pd.DataFrame(columns | {"quantile": [math.nan] * i + self.twin_quantiles.tolist()})


def unit_card(
    fields: GradientFields, unit: int, z: Array, *, names: Sequence[str] | None = None, n_neighbors: int = 5,
    exclude: Labels | None = None, n_top: int = 8,
) -> UnitCard:  # fmt: skip
    """Describe one unit by its field, the units of its network that share its directions, and its twins in others.

    The field and its spectrum are in the coordinates and the units of the fields as given; pass normalized or
    transformed fields for others. Distances are Euclidean, of the embedding as given.

    Args:
        fields: Of all units, with values and groups.
        unit: Which one, from 0.
        z: Embeddings of all units, [u, k].
        names: One per unit; ``None`` writes "unit 12 of network 3", with the unit's position in the fields.
        n_neighbors: Aligned units, and twins, to list: as many as there are, up to so many.
        exclude: A label per unit, [u]: units with the unit's own are no twins. With the task, twins come from
            another network *and* another task.
        n_top: Samples to list: as many as there are points, up to so many.

    Returns:
        The card. Alignment is known only for units that have the same points, shared or equal; where there are
        none, ``aligned_note`` says why.

    Raises:
        ValueError: If there is no such unit, the fields have no values or groups, ``z``, ``names`` or ``exclude`` do
            not fit the units, numbers are not finite or too small, or no unit is left that could be a twin.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> ensemble = ge.MLPEnsemble([4, 8, 3], n_members=5, seed=0)
        >>> fields = ge.gradient_fields(ensemble, torch.randn(5, 100, 4), wrt="hidden1")
        >>> z = torch.arange(15)[:, None] % 3
        >>> card = ge.unit_card(fields, 4, z, names=[f"{'abc'[i % 3]}{i // 3}" for i in range(15)], n_neighbors=2)
        >>> card.name, sorted(card.aligned_names), card.twin_names, card.distances.tolist()
        ('b1', ['a1', 'c1'], ('b0', 'b2'), [0.0, 0.0])
    """
    check_kind("fields", fields, GradientFields, "Take them with gradient_fields")
    if fields.values is None or fields.groups is None:
        rule = "have values, to rank points by, and groups, which say what network a unit is from"
        remedy = "Take them with gradient_fields, or add them with dataclasses.replace"
        refuse("fields", rule, "fields without", remedy)
    (unit,) = as_positions("unit", [unit], len(fields), "fields' units")
    n_neighbors, n_top = as_integer("n_neighbors", n_neighbors, 1), as_integer("n_top", n_top, 1)
    embedded, groups = as_doubles("z", z, u=len(fields)), fields.groups.cpu()
    made_up = [f"unit {i} of network {group}" for i, group in enumerate(groups.tolist())]
    called = made_up if names is None else as_names("names", names, len(fields), "units")
    points, gradients = fields.own_points()[unit].double().cpu(), fields.gradients[unit].double().cpu()  # [m, d] each
    values, centered = fields.values[unit].double().cpu(), points - points.mean(0)
    energies = torch.linalg.svdvals(_scaled(gradients)).square()  # eigenvalues of E[g gᵀ], but for a factor, [r]
    spectrum = energies / energies.sum() if bool(energies.any()) else energies
    directions = _gradient_pca(gradients, centered)  # [2, d]
    top = values.argsort(descending=True, stable=True)[:n_top]
    summary = {"mean": values.mean(), "std": values.std(correction=0), "min": values.min(), "max": values.max()}
    card: dict[str, Any] = {"unit": unit, "name": called[unit], "network": int(groups[unit]), "dim": fields.dim}
    card |= {"value_summary": {key: float(value) for key, value in summary.items()}, "spectrum": spectrum}
    card |= {"effective_dimension": float(1 / spectrum.square().sum()) if bool(spectrum.any()) else 0.0}
    card |= {"undefined": int((gradients == 0).all(1).sum()), "directions": directions}
    card |= {"points": centered @ directions.T, "gradients": gradients @ directions.T, "values": values.clone()}
    card |= {"top": top, "top_values": values[top]} | aligned_units(fields, unit, embedded, called, n_neighbors)
    return UnitCard(**card, **_twins(groups, unit, embedded, called, exclude, n_neighbors))


def _scaled(rows: Tensor) -> Tensor:
    """Return rows divided by their largest number, so that squares neither overflow nor vanish."""
    largest = rows.abs().max()
    return rows / largest if largest > 0 else rows


def _gradient_pca(gradients: Tensor, centered: Tensor) -> Tensor:
    """Return the plane of the gradients, and of the points where those span less than a plane: rows, [2, d]."""
    found: list[Tensor] = []  # orthonormal directions, [d] each
    for rows in map(_scaled, (gradients, centered)):  # [m, d]
        left = rows - sum((torch.outer(rows @ row, row) for row in found), torch.zeros_like(rows))
        _, singular, vectors = torch.linalg.svd(left, full_matrices=False)  # [r], [r, d]
        chosen = vectors[singular.square() > ABSENT * rows.square().sum()][: 2 - len(found)]
        if len(chosen):
            chosen = torch.from_numpy(svd_flip(None, chosen.numpy(), u_based_decision=False)[1])  # largest entry > 0
            found += list(chosen * sign_flip(rows @ chosen.mT)[:, None])
    return torch.stack(found + [torch.zeros_like(gradients[0])] * (2 - len(found)))


def aligned_units(fields: GradientFields, unit: int, z: Any, called: Sequence[str], k: int) -> dict[str, Any]:
    """Return what the card says of the network's other units, where these have the same points; z is [u, k]."""
    groups: Any = fields.groups
    peers = [i for i in (groups == groups[unit]).nonzero().flatten().tolist() if i != unit]
    comparable = [i for i in peers if fields.is_shared or torch.equal(fields.points[i], fields.points[unit])]
    every = ((i, mean_cosine(fields.gradients[unit], fields.gradients[i])) for i in comparable)
    cosine = {i: value for i, value in every if not math.isnan(value)}
    order = sorted(cosine, key=lambda i: -abs(cosine[i]))[:k]
    elsewhere, silent = len(peers) - len(comparable), len(comparable) - len(cosine)
    lost = [f"{elsewhere} at other points"] * bool(elsewhere) + [f"{silent} without a common gradient"] * bool(silent)
    note = f"{len(peers)} other units of the network, of which {' and '.join(lost)}" if lost else ""
    part = {"aligned": torch.tensor(order, dtype=torch.int64), "aligned_names": tuple(called[i] for i in order)}
    part |= {"cosines": torch.tensor([cosine[i] for i in order], dtype=torch.float64)}
    part |= {"aligned_distances": torch.from_numpy(np.linalg.norm(z[order] - z[unit], axis=1))}
    return part | {"aligned_note": note if peers else "no other unit of the network"}


def mean_cosine(a: Tensor, b: Tensor) -> float:
    """Return the mean cosine of two units' gradients, [m, d] each, over points where both exist; NaN for none."""
    a, b = (unit_rows(rows.double().cpu())[0] for rows in (a, b))  # of length 1 or 0
    return float((a * b).sum(1)[a.any(1) & b.any(1)].mean())


def _twins(groups: Tensor, unit: int, z: Any, called: Sequence[str], exclude: Any, k: int) -> dict[str, Any]:
    """Return what the card says of the nearest units in other networks; z is [u, k], exclude [u] labels or None."""
    network = as_labels("groups", groups, len(z))
    label = network if exclude is None else as_labels("exclude", exclude, len(z))
    candidates = (network != network[unit]) & (label != label[unit])
    if not candidates.any():
        rule = "leave the unit another network" + (" with another label in `exclude`" if exclude is not None else "")
        refuse("fields", rule, "no unit that could be its twin", "Pass units of more networks, exclude less")
    k = min(k, int(candidates.sum()))
    # [u] how many units share neither label with a unit, by inclusion and exclusion
    both = np.unique(np.stack([network, label]), axis=1, return_inverse=True)[1].reshape(-1)
    n_candidates = len(z) - sum(np.bincount(one)[one] for one in (network, label)) + np.bincount(both)[both]
    found = retrieval(z, network, network, queries=n_candidates >= k, exclude=[label], k=k)
    is_own = found.queries == unit
    twins, own, others = found.neighbors[is_own][0], found.distances[is_own][0], found.distances[~is_own]
    tied = (others - own).abs() <= TIE * own  # [q - 1, j]
    nearer = ((others < own) & ~tied).double() + tied.double() / 2
    names, quantiles = tuple(called[i] for i in twins.tolist()), nearer.mean(0)
    part = {"twins": twins, "twin_names": names, "twin_networks": groups[twins], "distances": own}
    part |= {"twin_quantiles": quantiles if len(others) else torch.full_like(own, 0.5)}
    return part | {"typical_distance": float(np.median(np.linalg.norm(z[candidates] - z[unit], axis=1)))}
