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
    """Gradients g = rows @ basis of n samples and u units at a layer; without a basis, rows themselves.

    Attributes:
        rows: [n, u, r]; without a basis r = d. May be an expanded view: never write to it.
        basis: What maps them to the layer, or ``None``.
        is_constant: Whether they are the same at every sample, because nothing but linear layers lies above.
    """

    rows: Float[Tensor, "n u r"]
    basis: Basis | None = None
    is_constant: bool = False

    def dense(self) -> Float[Tensor, "n u d"]:
        """The gradients themselves.

        Returns:
            One gradient per sample and unit.
        """
        return self.rows if self.basis is None else self.rows @ self.basis.weight

    def coordinates(self) -> Float[Tensor, "n u c"]:
        """The gradients in an orthonormal basis of their common span: same norms and angles, fewer numbers.

        Returns:
            c = min(r, d) numbers per sample and unit.
        """
        if self.basis is None:
            return self.rows
        if self.is_constant:  # multiply once
            return (self.rows[0] @ self.basis.isometry).expand(len(self.rows), -1, -1)
        return self.rows @ self.basis.isometry


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
