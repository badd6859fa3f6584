"""Symmetries that a user names: a group of orders of the coordinates, and quadratic features blind to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from gradembed._validation import as_tensor, refuse
from gradembed.embed._blocks import Units, Waves
from gradembed.embed._coordinates import slices

AT_ONCE = 10_000_000  # numbers in the largest intermediate tensor
TINY = 1e-20  # lengths below it are 0


def as_orders(name: str, value: Any, d: int) -> Tensor:
    """Read orders of d coordinates, [t, d], given as such or as permutation matrices, [t, d, d].

    Returns:
        Integers: order t moves coordinate i to the place [t, i].
    """
    given = as_tensor(name, value, "t d|t d d", kind="any", d=d)
    orders = given
    if given.ndim == 3:
        orders = given.argmax(1)
        if not torch.equal(given, torch.zeros_like(given).scatter_(1, orders[:, None], 1)):
            refuse(name, "hold permutation matrices", "others", "Name the symmetry by orders of the coordinates")
    if orders.is_floating_point() or not bool((orders.sort(1).values == torch.arange(d)).all()):
        refuse(name, f"hold orders of {d} coordinates, each of them once", "others", "Number the places from 0")
    return orders.long()


class Orbits:
    """Orbits of pairs of coordinates under a group of orders, and sums over them: what no order of the group changes.

    Args:
        orders: Any that generate the group, [t, d].
        n: Sums at most: of more orbits, several are added with random signs.
        generator: Of the signs.
    """

    def __init__(self, orders: Tensor, n: int, generator: torch.Generator) -> None:
        d = orders.shape[1]
        orbit = np.arange(d * d)  # of the pair i, j, at i·d + j
        for order in orders.numpy():
            moved = orbit[(order[:, None] * d + order).ravel()]
            if not np.array_equal(orbit, moved):  # else the orders before it generate this one
                links = coo_array((np.ones(d * d, bool), (orbit, moved)), shape=(orbit.max() + 1,) * 2)
                orbit = connected_components(links, directed=False)[1][orbit]
        sizes = np.bincount(orbit)
        self.weights = torch.from_numpy(1 / np.sqrt(sizes[orbit])).float().view(d, d)
        self.orbit, self.n = torch.from_numpy(orbit).long(), min(len(sizes), n)
        if len(sizes) > n:
            places = torch.randint(n, (len(sizes),), generator=generator)
            signs = 2.0 * torch.randint(2, (len(sizes),), generator=generator) - 1
            self.weights *= signs[self.orbit].view(d, d)
            self.orbit = places[self.orbit]

    def means(self, _: Waves, units: Units, w: Tensor) -> Tensor:
        """Sum products of the mean gradients v_1 = E[g] and v_2 = E[f g], over (v_1² + v_2²)^½.

        Averaged over the group, E[T v v' T'] is constant on orbits. Inner products of such rows are the second-order
        kernel of Haar integration, E[(v·Tw)²].

        Returns:
            [u, n], or [u, 3n] with values.
        """
        weights = torch.stack([w, w * units.f], 1) if units.has_values else w[:, None]
        v = weights @ units.g  # [u, 1 or 2, d]
        v = v / v.square().sum((1, 2), keepdim=True).sqrt().sqrt().clamp_min(TINY)
        pairs = [(0, 0), (0, 1), (1, 1)] if units.has_values else [(0, 0)]
        return torch.cat([self._sums(v[:, k, :, None], v[:, None, j]) for k, j in pairs], 1)

    def moments(self, _: Waves, units: Units, w: Tensor) -> Tensor:
        """Return sums of E[g g'] over E[g²]^½, [u, n]: what is left where mean gradients vanish, if f is even."""
        g = units.g * w.sqrt()[..., None]
        g = g / g.square().sum((1, 2), keepdim=True).sqrt().sqrt().clamp_min(TINY)
        return self._sums(g.mT, g)

    def _sums(self, left: Tensor, right: Tensor) -> Tensor:
        """Return sums over orbits of left @ right, [u, d, d]."""
        parts = []
        for i in slices(len(left), max(AT_ONCE // self.orbit.numel(), 1)):
            products = (left[i] @ right[i]).mul_(self.weights).flatten(1)
            parts.append(torch.zeros(len(products), self.n).index_add_(1, self.orbit, products))
        return torch.cat(parts)
