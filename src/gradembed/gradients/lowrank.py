"""Gradients of one layer, kept as a product so that the widest matrix need not be formed.

Axes: [u, n, d], the units first, and before them [e], where an ensemble is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor


class Basis:
    """The weight [*e, r, d] of the linear layer through which gradients reach a layer of width d."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    @cached_property
    def isometry(self) -> Tensor:
        """A matrix M [r, min(r, d)] with M Mᵀ = W Wᵀ: rows @ M have the inner products of rows @ W.

        From the QR decomposition Wᵀ = QR, M = Rᵀ, in float64, which unlike the Gram matrix W Wᵀ squares
        no rounding error.
        """
        r, d = self.weight.shape[-2:]
        if d <= r:
            return self.weight
        triangle: Tensor = torch.linalg.qr(self.weight.mT.double(), mode="r").R
        return triangle.mT.to(self.weight.dtype).contiguous()


@dataclass(frozen=True)
class LowRank:
    """Gradients of u units at n samples, as factors: g = (rows * slope) @ basis.

    Attributes:
        rows: [*e, u, n, r], or [*e, u, 1, r] where they are common to all samples: there, nothing but linear layers
            lies above, save the slope.
        n: Samples.
        common: Whether the rows are common to all samples.
        slope: By which common rows are multiplied at each sample, [*e, n, r], or ``None``.
        basis: What maps the product to the layer, or ``None`` if it is the gradients.
    """

    rows: Float[Tensor, "*e u m r"]
    n: int
    common: bool = False
    slope: Float[Tensor, "*e n r"] | None = None
    basis: Basis | None = None

    @property
    def is_constant(self) -> bool:
        """Whether they are the same at every sample."""
        return self.common and self.slope is None

    def factors(self) -> Float[Tensor, "*e u n r"]:
        """The gradients without their basis, one row per unit and sample; may be an expanded view."""
        rows = self.rows if self.slope is None else self.rows * self.slope[..., None, :, :]
        return self._for_all(rows)

    def dense(self) -> Float[Tensor, "*e u n d"]:
        """The gradients themselves; may be an expanded view."""
        return self._for_all(product(self.rows, self.slope, None if self.basis is None else self.basis.weight))

    def coordinates(self) -> Float[Tensor, "*e u n c"]:
        """The gradients in an orthonormal basis of their common span: same norms and angles, c = min(r, d) numbers."""
        return self._for_all(product(self.rows, self.slope, None if self.basis is None else self.basis.isometry))

    def _for_all(self, rows: Tensor) -> Tensor:
        return rows.expand(*rows.shape[:-2], self.n, -1)


def product(rows: Tensor, slope: Tensor | None, weight: Tensor | None) -> Tensor:
    """(rows * slope) @ weight, for common rows without writing down their multiples at every sample.

    Common rows are folded into the weights: the sum over k of slope[n, k] (rows[u, k] weight[k, c]) is one product of
    the slopes with a table [u, k, c], unless that table is larger than the result.

    Args:
        rows: [*e, u, n, r] or, common, [*e, u, 1, r].
        slope: [*e, n, r], only with common rows, or ``None``.
        weight: [*e, r, c], or ``None`` for the identity.

    Returns:
        [*e, u, n, c], or [*e, u, 1, c] where rows are common and there is no slope.
    """
    if slope is not None:
        (n, r), u, is_ensemble = slope.shape[-2:], rows.shape[-3], rows.ndim > 3
        if weight is None or n < r or (is_ensemble and u > 1):
            rows = rows * slope[..., None, :, :]  # [*e, u, n, r]
        else:
            table = rows.mT * weight[..., None, :, :]  # [*e, u, r, c]
            made: Tensor = (slope @ table[:, 0])[:, None] if is_ensemble else slope @ table
            return made
    if weight is None:
        return rows
    flat: Tensor = rows.flatten(-3, -2) @ weight  # one product for all units and samples
    return flat.reshape(*rows.shape[:-1], -1)


def unit_rows(rows: Tensor, *, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Split rows into directions and lengths, without overflow or underflow; a zero row stays zero.

    Args:
        rows: [..., d].
        out: Where to write the directions, which may be ``rows``; ``None`` for a new tensor.

    Returns:
        Rows of length 1, [..., d], and the lengths in float64, [...].
    """
    largest = torch.maximum(rows.amax(-1, keepdim=True), -rows.amin(-1, keepdim=True)).abs()  # rows.abs() would copy
    scaled = torch.div(rows, torch.where(largest > 0, largest, 1), out=out)
    length = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)  # 1 or longer, or 0
    vectors = torch.div(scaled, torch.where(length > 0, length, 1), out=out)
    return vectors, (length.double() * largest.double())[..., 0]


@dataclass(frozen=True)
class Capture:
    """What one pass through a network, or a group of an ensemble's networks, gives.

    Attributes:
        values: The units' outputs, [*e, u, n].
        activations: For each layer asked for, [*e, n, d].
        gradients: For each layer asked for, the units' gradients there.
        patterns: The states of all units with two slopes that a gradient passes through, as bits packed in words
            [*e, u, n, q]; or ``None`` if they were not asked for, or are not known.
    """

    values: Float[Tensor, "*e u n"]
    activations: dict[str, Tensor]
    gradients: Mapping[str, LowRank]
    patterns: NDArray[np.uint64] | None = None
