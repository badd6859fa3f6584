"""How a unit lies in its space: the axes in which the decoder predicts its gradients."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from gradembed._signs import lean
from gradembed.embed._canonical import Canonical
from gradembed.embed._network import Decoder

SHARE = 0.99  # of the gradients' squared length that the axes should hold
MOST_AXES = 6
FULL = 4  # with at most so many axes all combinations of signs are tried, with more one flip at a time


def count_axes(fields: Canonical) -> int:
    """Count the directions that hold the gradients of three units in four.

    Returns:
        At least 1.
    """
    second = fields.gradients.mT @ fields.gradients
    shares = torch.linalg.eigvalsh(second.double()).flip(1).cumsum(1)
    needed = (shares < SHARE * shares[:, -1:]).sum(1) + 1
    return min(int(needed.double().quantile(0.75)), MOST_AXES, fields.gradients.shape[2])


def principal_axes(fields: Canonical, q: int) -> Tensor:
    """Find the leading eigenvectors of E[g g'], along which the mean gradient, or else its skewness, is positive.

    Returns:
        [u, q, r].
    """
    second = (fields.gradients.mT @ fields.gradients).double()
    vectors = torch.linalg.eigh(second).eigenvectors.flip(2)[:, :, :q].float()
    sign = lean(fields.gradients @ vectors)
    axes: Tensor = (vectors * torch.where(sign < 0, -1, 1)[:, None]).mT
    return axes.contiguous()


@torch.no_grad()
def turn_axes(
    decoder: Decoder, embedded: Tensor, fields: Canonical, axes: Tensor, points: Tensor, rounds: int = 2
) -> Tensor:
    """Flip each unit's axes, then turn them, to where the decoder predicts its gradients best.

    An embedding says what the function is, not how it lies in the unit's space. What is invariant to that cannot
    tell, and eigenvectors leave signs open and, where eigenvalues are close, directions too.

    Args:
        decoder: In evaluation mode.
        embedded: [u, k].
        fields: The units.
        axes: To start from, [u, q, r].
        points: Which of the points to look at, [m'].
        rounds: Of turning, each towards the best rotation for the present prediction (Procrustes).

    Returns:
        [u, q, r]. Never worse at these points than the axes to start from.
    """
    a, g = fields.points[:, points] @ axes.mT, fields.gradients[:, points] @ axes.mT
    flips = _flips(axes.shape[1])
    losses = torch.stack([(decoder(a * s, embedded) * s - g).square().sum((1, 2)) for s in flips], 1)
    turns, best = torch.diag_embed(flips[losses.argmin(1)]), losses.amin(1)
    for _ in range(rounds):
        left, _, right = torch.linalg.svd(decoder(a @ turns.mT, embedded).mT @ g)
        tried = left @ right
        loss = (decoder(a @ tried.mT, embedded) @ tried - g).square().sum((1, 2))
        turns, best = torch.where((loss < best)[:, None, None], tried, turns), torch.minimum(loss, best)
    return turns @ axes


def _flips(q: int) -> Tensor:
    """List the signs to try.

    Returns:
        Rows of 1 and -1, the first without a flip, [number of tries, q].
    """
    if q <= FULL:
        return torch.tensor(list(itertools.product([1.0, -1.0], repeat=q)))
    return torch.cat([torch.ones(1, q), 1 - 2 * torch.eye(q)])
