"""Scores across networks: can a unit's class be read off its embedding, or off its nearest neighbors'?"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from gradembed._validation import as_categories, as_doubles, as_integer, as_labels, as_number, describe, refuse
from gradembed.metrics._uncertainty import Array, Estimate, Labels, bootstrap_share

BLOCK = 4_000_000  # distances at a time: 32 MB
WIDE = 64  # dimensions from which distances by matrix product are much faster
TIE = 1e-12  # squared distances that differ by less, relatively, are equal
SAME = 1e-13  # squared distances below this, relative to the squared norms, are rounding of matrix products


@dataclass(frozen=True, repr=False, eq=False)
class ProbeScore:
    """How often a linear probe names the class of units that it was not trained on.

    Attributes:
        accuracy: Share of the tested units that it names correctly: 1 is perfect.
        chance: Share of the commonest class among the tested units: what always giving the same answer can reach.
            A random answer is right 1 / ``n_classes`` of the time; with equal classes the two are the same.
        folds: Accuracy in each fold.
        interval: Bootstrap interval of the accuracy over networks (over units where no groups were given). Where
            every unit is right it has no width, though the next network may differ: with n networks, the share of
            networks with errors is below about 3/n. With one network it is (0, 1).
        n_classes: Number of classes.
        n_groups: Number of networks that the tested units are from; of units, if no groups were given.
        grouped: Whether networks were kept apart; if not, the accuracy may come from recognizing the network.
        correct: Whether each tested unit was named correctly, [u].
        confidence: Of the interval.

    Example:
        >>> import torch, gradembed as ge
        >>> y = torch.arange(40) % 2
        >>> ge.metrics.linear_probe(y[:, None] + 0.1 * torch.randn(40, 3), y, groups=torch.arange(40) // 4)
        ProbeScore(accuracy 1.00 [1.00, 1.00], chance 0.50, 2 folds, held-out networks: 10)
    """

    accuracy: float
    chance: float
    folds: tuple[float, ...]
    interval: tuple[float, float]
    n_classes: int
    n_groups: int
    grouped: bool
    correct: Bool[Tensor, " u"]
    confidence: float = 0.95

    @property
    def estimate(self) -> Estimate:
        """The accuracy with its interval, for printing."""
        return Estimate(self.accuracy, *self.interval, self.n_groups, self.confidence)

    def __repr__(self) -> str:
        folds = f"{len(self.folds)} fold{'s' * (len(self.folds) > 1)}"
        kind = "held-out networks" if self.grouped else "not split by network, held-out units"
        return f"ProbeScore(accuracy {self.estimate}, chance {self.chance:.2f}, {folds}, {kind}: {self.n_groups})"


def linear_probe(
    z: Array, y: Labels, groups: Labels | None = None, seed: int = 0, *, n_folds: int = 2, confidence: float = 0.95
) -> ProbeScore:
    """Train a logistic regression on the units of some networks and test it on those of the others.

    Networks are dealt at random into folds that have about equal shares of each class; each fold is tested once, by a
    probe trained on the rest. So with two folds the probe is trained on half of the networks and tested on the other
    half, both ways. Features are standardized by the training part; the penalty is scikit-learn's (L2, C = 1).

    Args:
        z: Embeddings, [u, k].
        y: Their classes, [u].
        groups: The network that each unit is from, [u]. ``None`` holds out units, not networks: right only if each
            unit is from a network of its own.
        seed: Of the folds and the bootstrap.
        n_folds: Number of folds, from 2 to 10.
        confidence: Of the interval.

    Returns:
        Accuracy beside chance. A random embedding is at chance up to 2·sqrt(chance·(1 - chance) / n), with n the
        number of networks if their units stand or fall together, and of units if they do not.

    Raises:
        ValueError: If shapes do not fit, numbers are not finite or out of range, there is one class, fewer networks
            than folds, or a class that too few networks have to be in training and test.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> y, network = torch.arange(60) % 3, torch.arange(60) // 6
        >>> z = torch.nn.functional.one_hot(y) + 0.1 * torch.randn(60, 3)
        >>> ge.metrics.linear_probe(z, y, groups=network).accuracy
        1.0
        >>> ge.metrics.linear_probe(torch.randn(60, 3), y, groups=network).accuracy < 0.7
        True
    """
    points = as_doubles("z", z)
    known, classes = as_classes("y", y, len(points))
    members = np.arange(len(points)) if groups is None else as_labels("groups", groups, len(points))
    seed, confidence = as_integer("seed", seed, 0), float(as_number("confidence", confidence, 0.5, 0.9999))
    n_folds = as_integer("n_folds", n_folds, 2, 10)
    if (n := int(members.max()) + 1) < n_folds:
        refuse("groups", "name as many networks as folds", f"{n} for {n_folds} folds", "Add networks, or lower n_folds")
    homes = np.bincount(np.unique(np.stack([classes, members]), axis=1)[0])  # networks that have a class
    remedy = "Leave rare classes out, add networks, or try another seed"
    if homes.min() < n_folds:
        what = "units" if groups is None else "networks"
        refuse("y", f"have every class in at least {n_folds} {what}", f"one in {homes.min()}", remedy)
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    splits = kind(n_folds, shuffle=True, random_state=seed).split(points, classes, None if groups is None else members)
    correct, folds = np.zeros(len(points), dtype=bool), []
    for train, test in splits:
        if len(np.unique(classes[train])) < len(known):
            refuse("y", "leave every class in every training part", "a part without one", remedy)
        correct[test] = _probe(points[train], classes[train], points[test]) == classes[test]
        folds.append(float(correct[test].mean()))
    share = bootstrap_share(correct.astype(float), members, confidence, seed)
    return _score(share, correct, classes, folds, len(known), grouped=groups is not None)


def transfer_probe(
    z_train: Array, y_train: Labels, z_test: Array, y_test: Labels, *, groups_train: Labels | None = None,
    groups_test: Labels | None = None, seed: int = 0, confidence: float = 0.95,
) -> ProbeScore:  # fmt: skip
    """Train a logistic regression on some units and test it on others, of another task or from elsewhere.

    The scale of the features is that of the training units, in the test too: a task whose embeddings are shifted
    counts against the embedding.

    Args:
        z_train: Embeddings to train on, [u, k].
        y_train: Their classes, [u].
        z_test: Embeddings to test on, [v, k].
        y_test: Their classes, [v], each of them found in ``y_train``.
        groups_train: The network that each training unit is from, [u]. Given with ``groups_test``, no network may be
            on both sides.
        groups_test: The network that each tested unit is from, [v], for the interval; ``None`` counts every unit
            as one of its own, and the interval comes out too narrow if they are not.
        seed: Of the bootstrap.
        confidence: Of the interval.

    Returns:
        Accuracy beside chance, which is the share of the commonest class among the tested units.

    Raises:
        ValueError: If shapes do not fit, numbers are not finite or out of range, there is one class to train on, a
            tested class is not among those, or a network is on both sides.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> y = torch.arange(40) % 2
        >>> z = y[:, None] + 0.1 * torch.randn(40, 3)
        >>> ge.metrics.transfer_probe(z[:20], y[:20], z[20:], y[20:]).accuracy
        1.0
    """
    points = as_doubles("z_train", z_train)
    tested = as_doubles("z_test", z_test, k=points.shape[1])
    seed, confidence = as_integer("seed", seed, 0), float(as_number("confidence", confidence, 0.5, 0.9999))
    known, trained = as_classes("y_train", y_train, len(points))
    asked = as_categories("y_test", y_test, len(tested))
    if foreign := sorted(set(asked.tolist()) - set(known.tolist()), key=repr):
        remedy = "Leave those units out, or train on them too"
        refuse("y_test", "hold classes of y_train only", reprlib.repr(foreign), remedy)
    sides = (("groups_train", groups_train, len(points)), ("groups_test", groups_test, len(tested)))
    homes = [set(as_categories(*side).tolist()) for side in sides if side[1] is not None]
    if len(homes) == 2 and (shared := homes[0] & homes[1]):
        got, remedy = f"{len(shared)} on both sides", "Train and test on different networks"
        refuse("groups_test", "share no network with groups_train", got, remedy)
    classes = np.searchsorted(known, asked)
    members = np.arange(len(tested)) if groups_test is None else as_labels("groups_test", groups_test, len(tested))
    correct = _probe(points, trained, tested) == classes
    share = bootstrap_share(correct.astype(float), members, confidence, seed)
    return _score(share, correct, classes, [share.mean], len(known), grouped=groups_test is not None)


def as_classes(name: str, value: Any, n: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the sorted names of at least two classes, and the number of each unit's."""
    known, classes = np.unique(as_categories(name, value, n), return_inverse=True)
    if len(known) < 2:
        refuse(name, "name at least two classes", "one", "Pass units of several classes")
    return known, classes


def _probe(z: NDArray[np.float64], classes: NDArray[np.int64], tested: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the classes that a probe trained on some units gives to others."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000)).fit(z, classes)
    return np.asarray(probe.predict(tested))


def _score(
    share: Estimate, correct: NDArray[np.bool_], y: NDArray[np.int64], folds: list[float], k: int, *, grouped: bool
) -> ProbeScore:
    """Return the score of a probe of k classes."""
    chance, interval = float(np.bincount(y).max() / len(y)), (share.low, share.high)
    marks, confidence = torch.from_numpy(correct), share.confidence
    return ProbeScore(share.mean, chance, tuple(folds), interval, k, share.n, grouped, marks, confidence)


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
    z: Array, y: Labels, groups: Labels | None = None, *, queries: Labels | None = None,
    candidates: Labels | None = None, exclude: Sequence[Labels] = (), k: int = 1, seed: int = 0,
    confidence: float = 0.95,
) -> RetrievalScore:  # fmt: skip
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
    right, asked, nearest, lengths = map(torch.from_numpy, (hits, rows, neighbors, distances))
    interval, grouped = (share.low, share.high), groups is not None
    return RetrievalScore(share.mean, chance, interval, right, asked, nearest, lengths, share.n, grouped, confidence)


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
