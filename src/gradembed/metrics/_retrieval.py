"""Nearest neighbours across networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch import Tensor

from gradembed import _validation
from gradembed.metrics._estimate import Estimate, bootstrap_share, check_common, share
from gradembed.metrics._inputs import Array, Labels, codes, mask, numbers

BLOCK = 4_000_000  # distances at a time: 32 MB
WIDE = 64  # dimensions from which distances by matrix product are much faster
TIE = 1e-12  # squared distances that differ by less, relatively, are equal
SAME = 1e-13  # squared distances below this, relative to the squared norms, are rounding of matrix products


@dataclass(frozen=True, repr=False)
class RetrievalScore:
    """How often a unit's nearest neighbour in another network has the unit's label.

    In shapes, q counts the queries and k the neighbours of each.

    Attributes:
        accuracy: Mean over the queries of the share of their k nearest candidates that have the query's label:
            1 is perfect. Candidates at the same distance share the places that are left, so a constant embedding is
            exactly at chance.
        chance: The same for candidates drawn at random, from the same candidates of each query.
        interval: Bootstrap interval of the accuracy over the queries' networks (over queries where no groups were
            given); of no width where every query is right, and (0, 1) for one network.
        hits: The share for each query, [q].
        queries: Positions of the queries among the units, [q].
        neighbours: Positions of their nearest candidates, nearest first, [q, k].
        distances: Their Euclidean distances, [q, k].
        n_groups: Number of networks that the queries are from; of queries, if no groups were given.
        grouped: Whether neighbours had to be from another network.
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
    neighbours: Int64[Tensor, "q k"]
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
        return (
            f"RetrievalScore(accuracy {share(self.accuracy, self.interval)}, chance {self.chance:.2f}, "
            f"k={self.neighbours.shape[1]}, {len(self.queries)} queries, {homes})"
        )


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
    """Look up each unit's nearest neighbours in other networks and compare labels.

    Distances are Euclidean, of the embeddings as given: scale them before, if their columns have different units. The
    unit itself is never a candidate, nor is any unit of its network.

    Args:
        z: Embeddings, [u, k].
        y: Labels to compare, [u].
        groups: The network that each unit is from, [u]; ``None`` excludes only the unit itself.
        queries: Mask of the units to look up neighbours for, [u]; ``None`` for all.
        candidates: Mask of the units that can be neighbours, [u]; ``None`` for all.
        exclude: Further labels, each [u]: a unit that shares any of them with the query is no candidate. With
            ``exclude=[task]``, neighbours come from another network *and* another task.
        k: Neighbours of each query.
        seed: Of the bootstrap.
        confidence: Of the interval.

    Returns:
        Accuracy beside chance, with the neighbours. A query whose label no candidate has counts as wrong, and
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
    check_common(seed, confidence)
    search = _search(z, groups, queries, candidates, exclude, k)
    y_codes, rows = codes("y", y, len(search.points)), search.rows
    hits, chances = np.empty(len(rows)), np.empty(len(rows))
    neighbours, distances = np.empty((len(rows), k), dtype=np.int64), np.empty((len(rows), k))
    for here, squares in search.blocks():
        same = y_codes[rows[here], None] == y_codes[search.columns]
        allowed = squares < np.inf
        hits[here], chances[here] = _precision(squares, same, k), (same & allowed).sum(1) / allowed.sum(1)
        nearest, distances[here] = _nearest(squares, k)
        neighbours[here] = search.columns[nearest]
    homes = np.unique(search.apart[0][rows], return_inverse=True)[1]
    return RetrievalScore(
        accuracy=float(hits.mean()),
        chance=float(chances.mean()),
        interval=bootstrap_share(hits, homes, confidence, seed),
        hits=torch.from_numpy(hits),
        queries=torch.from_numpy(rows),
        neighbours=torch.from_numpy(neighbours),
        distances=torch.from_numpy(distances),
        n_groups=int(homes.max()) + 1,
        grouped=groups is not None,
        confidence=float(confidence),
    )


@dataclass(frozen=True)
class _Search:
    """Who looks for neighbours, and among whom.

    Attributes:
        points: Embeddings, [u, k].
        rows: Positions of the queries.
        columns: Positions of the candidates.
        apart: Numbered labels that a query and its neighbour must not share, each [u]; first the
            networks, or the units themselves.
        k: Neighbours of each query.
    """

    points: NDArray[np.float64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    apart: list[NDArray[np.int64]]
    k: int

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Go through the queries, some at a time.

        Yields:
            Which of them, and the squared distances to all candidates, infinite to those that are excluded.
        """
        step = max(1, BLOCK // len(self.columns))
        for start in range(0, len(self.rows), step):
            part = self.rows[start : start + step]
            allowed = np.logical_and.reduce([label[part, None] != label[self.columns] for label in self.apart])
            short = int((allowed.sum(1) < self.k).sum())
            if short:
                rule, got = f"leave every query {self.k} or more candidates", f"{short} with fewer, or more of them"
                remedy = "Pass units of more networks, exclude less, or lower k"
                _validation.refuse("groups", rule, got, remedy)
            yield (
                slice(start, start + len(part)),
                np.where(allowed, _squared_distances(self.points[part], self.points[self.columns]), np.inf),
            )


def _search(
    z: Array,
    groups: Labels | None,
    queries: Labels | None,
    candidates: Labels | None,
    exclude: Sequence[Labels],
    k: int,
) -> _Search:
    """Check what to search.

    Returns:
        The search.
    """
    points = numbers("z", z)
    n = len(points)
    if not isinstance(exclude, list | tuple):
        _validation.refuse(
            "exclude", "be a list of labels", _validation.describe(exclude), "Put them in a list", TypeError
        )
    members = np.arange(n) if groups is None else codes("groups", groups, n)
    apart = [members, *(codes("exclude", item, n) for item in exclude)]
    _validation.check_integer("k", k, 1)
    rows = np.flatnonzero(mask("queries", queries, n))
    columns = np.flatnonzero(mask("candidates", candidates, n))
    return _Search(points - points.mean(0), rows, columns, apart, k)


def _squared_distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared Euclidean distances; equal points are at 0 exactly.

    Returns:
        A matrix, [a, b].
    """
    if a.shape[1] <= WIDE:
        return np.asarray(cdist(a, b, "sqeuclidean"))
    norms = (a**2).sum(1)[:, None] + (b**2).sum(1)
    squares = norms - 2 * (a @ b.T)
    squares[squares < SAME * norms] = 0
    return np.asarray(squares)


def _precision(squares: NDArray[np.float64], same: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """Share of the k nearest that have the query's label, averaged over the ways to break ties.

    Returns:
        A share per query.
    """
    limit = np.partition(squares, k - 1)[:, k - 1 : k]
    closer = squares < limit * (1 - TIE)
    tied = (squares <= limit * (1 + TIE)) & ~closer
    left = k - closer.sum(1)
    return np.asarray(((closer & same).sum(1) + left * (tied & same).sum(1) / tied.sum(1)) / k)


def _nearest(squares: NDArray[np.float64], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Sort out the k nearest.

    Returns:
        Their columns and distances, nearest first, [q, k] each.
    """
    some = squares.argmin(1)[:, None] if k == 1 else np.sort(np.argpartition(squares, k - 1)[:, :k])
    found = np.take_along_axis(squares, some, 1)
    order = found.argsort(kind="stable")
    return np.take_along_axis(some, order, 1), np.sqrt(np.take_along_axis(found, order, 1))
