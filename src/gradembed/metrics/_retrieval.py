"""Nearest neighbors across networks, and whether they share a label more often than by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch import Tensor

from gradembed._validation import as_categories, as_doubles, as_integer, as_labels, as_number, describe, refuse
from gradembed.metrics._uncertainty import Array, Enrichment, Estimate, Labels, bootstrap_share, permutation_null

BLOCK = 4_000_000  # distances at a time: 32 MB
WIDE = 64  # dimensions from which distances by matrix product are much faster
TIE = 1e-12  # squared distances that differ by less, relatively, are equal
SAME = 1e-13  # squared distances below this, relative to the squared norms, are rounding of matrix products


@dataclass(frozen=True, repr=False, eq=False)
class RetrievalScore:
    """How often a unit's nearest neighbor in another network has the unit's label.

    In shapes, q counts the queries and k the neighbors of each.

    Attributes:
        accuracy: Mean over the queries of the share of their k nearest candidates that have the query's label:
            1 is perfect. Candidates at the same distance share the places that are left, so a constant embedding is
            exactly at chance.
        chance: The same for candidates drawn at random, from the same candidates of each query.
        interval: Bootstrap interval of the accuracy over the queries' networks (over queries where no groups were
            given); of no width where every query is right, and (0, 1) for one network.
        hits: The share for each query, [q].
        queries: Positions of the queries among the units, [q].
        neighbors: Positions of their nearest candidates, nearest first, [q, k].
        distances: Their Euclidean distances, [q, k].
        n_groups: Number of networks that the queries are from; of queries, if no groups were given.
        grouped: Whether neighbors had to be from another network.
        confidence: Of the interval.

    Example:
        >>> import torch, gradembed as ge
        >>> y = torch.arange(40) % 2
        >>> ge.metrics.retrieval(y[:, None] + 0.1 * torch.randn(40, 3), y, groups=torch.arange(40) // 4)
        RetrievalScore(accuracy 1.00 [1.00, 1.00], chance 0.50, k=1, 40 queries, 10 networks)
    """

    accuracy: float
    chance: float
    interval: tuple[float, float]
    hits: Float64[Tensor, " q"]
    queries: Int64[Tensor, " q"]
    neighbors: Int64[Tensor, "q k"]
    distances: Float64[Tensor, "q k"]
    n_groups: int
    grouped: bool
    confidence: float = 0.95

    @property
    def estimate(self) -> Estimate:
        """The accuracy with its interval, for printing."""
        return Estimate(self.accuracy, *self.interval, self.n_groups, self.confidence)

    def __repr__(self) -> str:
        homes = f"{self.n_groups} networks" if self.grouped else "networks not kept apart"
        asked = f"k={self.neighbors.shape[1]}, {len(self.queries)} queries"
        return f"RetrievalScore(accuracy {self.estimate}, chance {self.chance:.2f}, {asked}, {homes})"


def retrieval(
    z: Array,
    y: Labels,
    groups: Labels | None = None,
    *,
    queries: Labels | None = None,
    candidates: Labels | None = None,
    exclude: Sequence[Labels] = (),
    k: int = 1,
    seed: int = 0,
    confidence: float = 0.95,
) -> RetrievalScore:
    """Look up each unit's nearest neighbors in other networks and compare labels.

    Distances are Euclidean, of the embeddings as given: scale them before, if their columns have different units. The
    unit itself is never a candidate, nor is any unit of its network.

    Args:
        z: Embeddings, [u, k].
        y: Labels to compare, [u].
        groups: The network that each unit is from, [u]; ``None`` excludes only the unit itself.
        queries: Mask of the units to look up neighbors for, [u]; ``None`` for all.
        candidates: Mask of the units that can be neighbors, [u]; ``None`` for all.
        exclude: Further labels, each [u]: a unit that shares any of them with the query is no candidate. With
            ``exclude=[task]``, neighbors come from another network *and* another task.
        k: Neighbors of each query.
        seed: Of the bootstrap.
        confidence: Of the interval.

    Returns:
        Accuracy beside chance, with the neighbors. A query whose label no candidate has counts as wrong, and
        lowers chance too.

    Raises:
        ValueError: If shapes do not fit, numbers are not finite or out of range, a mask is empty, or a query has fewer
            than k candidates.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> y, network = torch.arange(60) % 3, torch.arange(60) // 6
        >>> task = torch.arange(60) % 6 // 3
        >>> z = torch.nn.functional.one_hot(y) + 0.1 * torch.randn(60, 3)
        >>> ge.metrics.retrieval(z, y, groups=network, exclude=[task]).accuracy
        1.0
    """
    points = as_doubles("z", z)
    n, k, seed = len(points), as_integer("k", k, 1), as_integer("seed", seed, 0)
    confidence = float(as_number("confidence", confidence, 0.5, 0.9999))
    labels = as_labels("y", y, n)
    if not isinstance(exclude, list | tuple):
        refuse("exclude", "be a list of labels", describe(exclude), "Put them in a list", TypeError)
    members = np.arange(n) if groups is None else as_labels("groups", groups, n)
    apart = [members, *(as_labels("exclude", item, n) for item in exclude)]
    rows, columns = _positions("queries", queries, n), _positions("candidates", candidates, n)
    points = points - points.mean(0)
    blocks, step = [], max(1, BLOCK // len(columns))
    for part in np.split(rows, range(step, len(rows), step)):
        allowed = np.logical_and.reduce([label[part, None] != label[columns] for label in apart])  # [q, c]
        if short := int((allowed.sum(1) < k).sum()):
            rule, got = f"leave every query {k} or more candidates", f"{short} with fewer, or more of them"
            refuse("groups", rule, got, "Pass units of more networks, exclude less, or lower k")
        squares = np.where(allowed, _squared_distances(points[part], points[columns]), np.inf)
        same = labels[part, None] == labels[columns]
        places, distances = _nearest(squares, k)
        chances = (same & allowed).sum(1) / allowed.sum(1)
        blocks.append((_precision(squares, same, k), chances, columns[places], distances))
    hits, chances, neighbors, distances = (np.concatenate(column) for column in zip(*blocks, strict=True))
    share, chance = bootstrap_share(hits, members[rows], confidence, seed), float(chances.mean())
    found = map(torch.from_numpy, (hits, rows, neighbors, distances))
    return RetrievalScore(
        share.mean, chance, (share.low, share.high), *found, share.n, groups is not None, share.confidence
    )


def _positions(name: str, mask: Labels | None, n: int) -> NDArray[np.int64]:
    """Return where a mask of n units is true, at least once; ``None`` is all."""
    marks = np.ones(n, dtype=bool) if mask is None else as_categories(name, mask, n)
    if marks.dtype.kind != "b":
        refuse(name, "be a mask of booleans", f"labels of type {marks.dtype}", "Compare, as in task == 'a'", TypeError)
    if not marks.any():
        refuse(name, "be true for at least one unit", "none", "Correct the mask, or leave it out")
    return np.flatnonzero(marks)


def _squared_distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return squared Euclidean distances, [a, b]; equal points are at 0 exactly."""
    if a.shape[1] <= WIDE:
        return np.asarray(cdist(a, b, "sqeuclidean"))
    norms = (a**2).sum(1)[:, None] + (b**2).sum(1)
    squares = norms - 2 * (a @ b.T)
    return np.where(squares < SAME * norms, 0, squares)


def _precision(squares: NDArray[np.float64], same: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """Return the share of the k nearest that have the query's label, averaged over the ways to break ties, [q]."""
    limit = np.partition(squares, k - 1)[:, k - 1 : k]  # the k-th distance, [q, 1]
    closer = squares < limit * (1 - TIE)
    tied = (squares <= limit * (1 + TIE)) & ~closer
    left = k - closer.sum(1)  # places for those at the limit
    return np.asarray(((closer & same).sum(1) + left * (tied & same).sum(1) / tied.sum(1)) / k)


def _nearest(squares: NDArray[np.float64], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return columns and distances of the k nearest, nearest first, [q, k] each."""
    some = squares.argmin(1)[:, None] if k == 1 else np.sort(np.argpartition(squares, k - 1)[:, :k])
    found = np.take_along_axis(squares, some, 1)
    order = found.argsort(kind="stable")
    return np.take_along_axis(some, order, 1), np.sqrt(np.take_along_axis(found, order, 1))


def enrichment(
    z: Array,
    y: Labels,
    groups: Labels,
    n_permutations: int = 1000,
    seed: int = 0,
    *,
    exclude: Sequence[Labels] = (),
    within: Labels | None = None,
    k: int = 1,
) -> Enrichment:
    """Test whether nearest neighbors in other networks share a label more often than permuted labels would.

    The neighbors stay what they are; the labels of each network are dealt to its units anew. So the null keeps
    how many units of each label a network has, and which networks lie close to each other.

    Args:
        z: Embeddings, [u, k].
        y: Labels, [u].
        groups: The network that each unit is from, [u].
        n_permutations: Permutations to draw, at least 19.
        seed: Of the permutations.
        exclude: Further labels, each [u], that a neighbor must not share with the unit, as in `retrieval`.
        within: Permute labels among units that share this, [u], say network and task together; ``None`` for the
            network.
        k: Neighbors of each unit.

    Returns:
        The share of pairs (unit, neighbor) with equal labels, beside the permuted ones.

    Raises:
        ValueError: As `retrieval` and `permutation_null`.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> y, network = torch.arange(60) % 3, torch.arange(60) // 6
        >>> z = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
        >>> ge.metrics.enrichment(z, y, network, n_permutations=99).p_value > 0.05
        True
    """
    found = retrieval(z, y, groups, exclude=exclude, k=k)
    units, neighbors = found.queries.numpy()[:, None], found.neighbors.numpy()
    labels = as_labels("y", y, len(units))
    places = groups if within is None else as_labels("within", within, len(units))
    return permutation_null(
        lambda dealt: float((dealt[units] == dealt[neighbors]).mean()), labels, places,
        n_permutations=n_permutations, seed=seed,
    )  # fmt: skip
