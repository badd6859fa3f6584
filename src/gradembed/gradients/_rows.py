"""Gradients of one layer, kept as a product so that the widest matrix need not be formed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor


class Basis:
    """The weight [r, d] of the linear layer through which gradients reach a layer of width d."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.detach()

    @cached_property
    def isometry(self) -> Tensor:
        """A matrix M [r, min(r, d)] with M Mᵀ = W Wᵀ: rows @ M have the inner products of rows @ W.

        From the QR decomposition Wᵀ = QR, M = Rᵀ, in float64, which unlike the Gram matrix W Wᵀ squares
        no rounding error.
        """
        r, d = self.weight.shape
        if d <= r:
            return self.weight
        triangle: Tensor = torch.linalg.qr(self.weight.T.double(), mode="r").R
        return triangle.T.to(self.weight.dtype).contiguous()


@dataclass(frozen=True)
class Rows:
    """Gradients of n samples and u units at a layer, as factors: g = (rows * slope) @ basis.

    Attributes:
        rows: [n, u, r], or [u, r] where they are the same at every sample: there, nothing but linear layers lies
            above, save the slope.
        n: Samples.
        slope: By which rows [u, r] are multiplied at each sample, [n, r], or ``None``.
        basis: What maps the product to the layer, or ``None`` if it is the gradients.
    """

    rows: Float[Tensor, "n u r"] | Float[Tensor, "u r"]
    n: int
    slope: Float[Tensor, "n r"] | None = None
    basis: Basis | None = None

    @property
    def is_constant(self) -> bool:
        """Whether they are the same at every sample."""
        return self.rows.ndim == 2 and self.slope is None

    def factors(self) -> Float[Tensor, "n u r"]:
        """The gradients without their basis.

        Returns:
            One row per sample and unit. May be an expanded view: never write to it.
        """
        if self.slope is not None:
            return self.rows * self.slope[:, None]
        return self.rows.expand(self.n, -1, -1)

    def dense(self) -> Float[Tensor, "n u d"]:
        """The gradients themselves.

        Returns:
            One gradient per sample and unit.
        """
        if self.basis is None:
            return self.factors()
        return product(self.rows, self.slope, self.basis.weight).expand(self.n, -1, -1)

    def coordinates(self) -> Float[Tensor, "n u c"]:
        """The gradients in an orthonormal basis of their common span: same norms and angles, fewer numbers.

        Returns:
            c = min(r, d) numbers per sample and unit.
        """
        if self.basis is None:
            return self.factors()
        return product(self.rows, self.slope, self.basis.isometry).expand(self.n, -1, -1)


def product(rows: Tensor, slope: Tensor | None, weight: Tensor) -> Tensor:
    """(rows * slope) @ weight, for common rows without writing down their multiples at every sample.

    Sums over k slope[n, k] rows[u, k] weight[k, c]: one product of the slopes with a table [k, u·c], unless that
    table is larger than the result.

    Args:
        rows: [n, u, r] or [u, r].
        slope: [n, r], only with common rows, or ``None``.
        weight: [r, c].

    Returns:
        [n, u, c], or [u, c] where rows are common and there is no slope.
    """
    if slope is None:
        return rows @ weight
    if len(slope) < len(weight):
        return (rows * slope[:, None]) @ weight
    table = (rows.T[:, :, None] * weight[:, None]).flatten(1)
    flat: Tensor = slope @ table
    return flat.reshape(len(slope), len(rows), -1)


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
    """What one pass through a network gives.

    Attributes:
        values: The units' outputs, [n, u].
        activations: For each layer asked for, [n, d].
        gradients: For each layer asked for, the units' gradients there.
    """

    values: Float[Tensor, "n u"]
    activations: dict[str, Tensor]
    gradients: dict[str, Rows]
