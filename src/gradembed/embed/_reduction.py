"""Fewer numbers per unit: the leading principal components of the rows of a fit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradembed._signs import upright

FLOOR = 1e-6  # components with less than this share of the largest spread are rounding


@dataclass(frozen=True)
class Reduction:
    """A projection on principal components, all divided by one number: distances keep their proportions.

    Attributes:
        centre: Mean row, [p].
        matrix: [p, k].
    """

    centre: Tensor
    matrix: Tensor

    @classmethod
    def fit(cls, rows: Tensor, k: int) -> Reduction:
        """Find the components; fewer than k if the rows have fewer.

        Returns:
            The projection.
        """
        centre = rows.double().mean(0)
        centred = rows.double() - centre
        _, spreads, vectors = torch.linalg.svd(centred, full_matrices=False)
        n = max(int((spreads > FLOOR * spreads[0]).sum()), 1)
        basis = upright(vectors[: min(n, k)]).T
        size = (centred @ basis).square().mean().sqrt()
        return cls(centre.to(rows), (basis / torch.where(size > 0, size, 1)).to(rows))

    def apply(self, rows: Tensor) -> Tensor:
        """Project.

        Args:
            rows: [..., p].

        Returns:
            [..., k].
        """
        return (rows - self.centre) @ self.matrix
