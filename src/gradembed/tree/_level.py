"""What both ways of making a tree share: the nodes of one layer, their order, their scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gradembed import _checks


@dataclass(frozen=True)
class Level:
    """The nodes of one layer.

    Attributes:
        directions: [c, d].
        norms: [c].
        parents: In the level above, [c].
        roots: [c].
        counts: [c].
        nodes: The node of each root and sample, [r, n].
    """

    directions: Tensor
    norms: Tensor
    parents: Tensor
    roots: Tensor
    counts: Tensor
    nodes: Tensor


def normalise_(gradients: Tensor) -> Tensor:
    """Scale rows to length 1 in place, without overflow, underflow or a copy; zero rows stay zero.

    Returns:
        Their norms in double precision, [c].
    """
    largest = torch.maximum(gradients.amax(1), -gradients.amin(1))
    gradients.div_(torch.where(largest > 0, largest, 1)[:, None])
    length: Tensor = torch.linalg.vector_norm(gradients, dim=1)
    gradients.div_(torch.where(length > 0, length, 1)[:, None])
    return length.double() * largest.double()


def ranks(roots: np.ndarray, counts: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order nodes by root, then from most to fewest samples, then by first sample.

    Returns:
        The order, [c], and the rank of each node in it, [c].
    """
    order = np.lexsort((first, -counts, roots))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return order, rank


def check_size(needed: int, max_nodes: int, layer: str) -> None:
    """Refuse a realised tree that is larger than the caller wants to hold."""
    if needed > max_nodes:
        _checks.refuse(
            "max_nodes",
            f"be at least {needed:,}, the nodes at {layer!r}",
            max_nodes,
            "Raise it, or pass fewer samples or `roots`",
        )
