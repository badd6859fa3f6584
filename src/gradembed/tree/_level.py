"""What both ways of making a tree share: the nodes of one layer, their order, their scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from gradembed._validation import refuse


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
        remedy = "Raise it, or pass fewer samples or `roots`"
        refuse("max_nodes", f"be at least {needed:,}, the nodes at {layer!r}", max_nodes, remedy)
