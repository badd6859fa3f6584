"""What needs no gradient: the correlation of the units' values over samples."""

from __future__ import annotations

import torch
from torch import Tensor


class Correlation:
    """Running sums of values and their products, in float64, less the first chunk's mean so that no digits are lost."""

    def __init__(self) -> None:
        self.n, self.shift = 0, torch.zeros(())
        self.sums = self.products = torch.zeros(())

    def add(self, values: Tensor) -> None:
        """Add a chunk, [u, n]."""
        values = values.double()
        if not self.n:
            self.shift = values.mean(1, keepdim=True)
        left = values - self.shift
        self.n += left.shape[1]
        self.sums, self.products = self.sums + left.sum(1), self.products + left @ left.T

    def matrix(self) -> Tensor:
        """Pearson's correlation of every two units, [u, u]; 0 for a unit whose value does not vary."""
        mean = self.sums / self.n
        moments = self.products / self.n
        covariance = moments - mean[:, None] * mean
        spread = covariance.diagonal().clamp_min(0).sqrt()
        # what rounding leaves of a constant is no spread
        exists = spread > 1e-7 * (self.shift[:, 0].abs() + moments.diagonal().clamp_min(0).sqrt())
        scale = torch.where(exists, 1 / spread, 0)
        found = (covariance * scale[:, None] * scale).clamp(-1, 1)
        return found.fill_diagonal_(0).add_(exists.double().diag()).cpu()
