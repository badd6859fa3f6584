"""One of two opposite directions, where an eigenvector may be either."""

from __future__ import annotations

import torch
from torch import Tensor

MEAN_DECIDES = 0.1  # a mean below this share of the root mean square leaves the sign to the skewness
SYMMETRIC = 1e-9  # a skewness below this is rounding


def upright(vectors: Tensor) -> Tensor:
    """Choose the signs of vectors so that the largest entry of each is positive.

    Returns:
        The vectors, [k, p].
    """
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return vectors * torch.where(largest < 0, -1, 1)


def lean(along: Tensor) -> Tensor:
    """Tell to which side numbers lie: by their mean, or by their skewness where the mean is small.

    Args:
        along: What lies along each of k directions, [..., m, k].

    Returns:
        1 or -1, or 0 where they lie evenly, [..., k].
    """
    mean, third, size = along.mean(-2), along.pow(3).mean(-2), along.square().mean(-2).sqrt()
    skewness = torch.where(third.abs() > SYMMETRIC * size**3, third, 0)
    return torch.where(mean.abs() > MEAN_DECIDES * size, mean, skewness).sign()
