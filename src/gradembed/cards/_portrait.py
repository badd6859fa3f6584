"""How a unit's gradients lie: their spectrum, and the plane to draw them in."""

from __future__ import annotations

import torch
from torch import Tensor

from gradembed.embed._coordinates import sign_flip
from gradembed.embed._features import flipped

ABSENT = 1e-12  # a direction with a smaller share of the squared gradients, or of the points' variance, is rounding


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
        chosen = flipped(vectors[is_there][: 2 - len(found)])
        found += list(chosen * sign_flip(scaled @ chosen.mT)[:, None])
    missing = [torch.zeros_like(gradients[0])] * (2 - len(found))
    return torch.stack(found + missing)
