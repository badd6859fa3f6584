"""How a unit's gradients lie: their spectrum, and the plane to draw them in."""

from __future__ import annotations

import torch
from torch import Tensor

ABSENT = 1e-12  # a direction with a smaller share of the squared gradients, or of the points' variance, is rounding
MEAN_DECIDES = 0.1  # a mean gradient below this share of its root mean square leaves the sign to the skewness
SYMMETRIC = 1e-9  # a skewness below this is rounding


def _scaled(rows: Tensor) -> Tensor:
    """Divide by the largest number, so that squares neither overflow nor vanish.

    Returns:
        The rows, [m, d]; zeros stay zeros.
    """
    largest = rows.abs().max()
    return rows / largest if largest > 0 else rows


def spectrum_of(gradients: Tensor) -> Tensor:
    """Eigenvalues of E[g g'] as shares.

    Returns:
        Largest first, [r].
    """
    eigenvalues: Tensor = torch.linalg.svdvals(_scaled(gradients)).square()
    return eigenvalues / eigenvalues.sum() if bool(eigenvalues.any()) else eigenvalues


def plane_of(gradients: Tensor, centred: Tensor) -> Tensor:
    """Choose the plane to draw a field in: of the gradients, and of the points where those span less than a plane.

    Returns:
        Orthonormal rows, [2, d]; a row of zeros where there is no such direction.
    """
    found: list[Tensor] = []
    for rows in (gradients, centred):
        if len(found) == 2:
            break
        scaled = _scaled(rows)
        left = scaled - sum((torch.outer(scaled @ row, row) for row in found), torch.zeros_like(scaled))
        _, singular, vectors = torch.linalg.svd(left, full_matrices=False)
        is_there = singular.square() > ABSENT * scaled.square().sum()
        found += [row * _sign(scaled @ row, row) for row in vectors[is_there][: 2 - len(found)]]
    missing = [torch.zeros_like(gradients[0])] * (2 - len(found))
    return torch.stack(found + missing)


def _sign(along: Tensor, direction: Tensor) -> float:
    """Choose between a direction and its opposite, as `UnitCard.directions` says.

    Returns:
        1 or -1.
    """
    mean, size, third = along.mean(), along.square().mean().sqrt(), along.pow(3).mean()
    if mean.abs() > MEAN_DECIDES * size:
        decides = mean
    else:
        decides = third if third.abs() > SYMMETRIC * size**3 else direction[direction.abs().argmax()]
    return 1.0 if decides > 0 else -1.0
