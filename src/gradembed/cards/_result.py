"""What `unit_card` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float64, Int64
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False, eq=False)
class UnitCard:
    """What one unit does at its points, which units of its network it disturbs, and which elsewhere do the same.

    In shapes, r counts eigenvalues, i interferers, j twins and s top samples. Positions of units are those in the
    fields. Interferers share wires with the unit (cosine of gradients); twins compute the same (distance in an
    embedding). The two say different things: both are given for every interferer.

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
        interferers: Units of the same network with the largest |mean cosine|, that first, [i].
        interferer_names: What they are called.
        cosines: Mean cosine of the gradients over the points at which both exist, [i].
        interferer_distances: Their distances from the unit in the embedding, [i].
        interferer_note: Why there are no interferers, or which units could not be compared; else empty.
        twins: Nearest units of other networks in the embedding, nearest first, [j].
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
        >>> card.name, card.interferers.tolist() in ([3, 5], [5, 3])
        ('unit 4 of network 1', True)
        >>> card.to_frame()["relation"].value_counts().to_dict()
        {'twin': 5, 'interferer': 2}
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
    interferers: Int64[Tensor, " i"]
    interferer_names: tuple[str, ...]
    cosines: Float64[Tensor, " i"]
    interferer_distances: Float64[Tensor, " i"]
    interferer_note: str
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
        interferers, twins = (
            f"{number} {word}{'s' if number != 1 else ''}"
            for word, number in (("interferer", len(self.interferers)), ("twin", len(self.twins)))
        )
        note = f", note: {self.interferer_note}" if self.interferer_note else ""
        return (
            f"UnitCard({self.name!r}, {len(self.values):,} points{zeros}, effective dimension "
            f"{self.effective_dimension:.1f} of {self.dim}, {interferers}, {twins} from "
            f"{float(self.distances[0]):.3g} where {self.typical_distance:.3g} is typical{note})"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per interferer and twin.

        Returns:
            Columns ``unit``, ``name``, ``relation`` ("interferer" or "twin"), ``rank`` from 1, ``neighbour``,
            ``neighbour_name``, ``network`` (of the neighbour), ``cosine`` (NaN for twins: gradients of different
            networks have no common space), ``distance`` and ``quantile`` (NaN for interferers).
        """
        import pandas as pd

        i, j = len(self.interferers), len(self.twins)
        return pd.DataFrame(
            {
                "unit": [self.unit] * (i + j),
                "name": [self.name] * (i + j),
                "relation": ["interferer"] * i + ["twin"] * j,
                "rank": [*range(1, i + 1), *range(1, j + 1)],
                "neighbour": self.interferers.tolist() + self.twins.tolist(),
                "neighbour_name": [*self.interferer_names, *self.twin_names],
                "network": [self.network] * i + self.twin_networks.tolist(),
                "cosine": self.cosines.tolist() + [float("nan")] * j,
                "distance": self.interferer_distances.tolist() + self.distances.tolist(),
                "quantile": [float("nan")] * i + self.twin_quantiles.tolist(),
            }
        )
