"""Which unit is which: one-to-one matching, and clusters against classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from gradembed import _validation
from gradembed.metrics._inputs import Array, Labels, classes, labels, numbers


@dataclass(frozen=True, repr=False)
class UnitMatching:
    """Pairs of units, one from each of two sets, such that their distances add up to the least.

    In shapes, c counts the pairs: as many as the smaller set has units.

    Attributes:
        pairs: Positions in the first and in the second set, [c, 2], in the order of the first.
        distance: Euclidean distance of each pair, [c]. Every unit of the smaller set gets a partner, good or not:
            a long distance says that it has no twin.
        n_a: Units in the first set.
        n_b: Units in the second set.

    Example:
        >>> import torch, gradembed as ge
        >>> z = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
        >>> matching = ge.metrics.match_units(z, z[[2, 0, 1]])
        >>> matching
        UnitMatching(3 pairs of 3 and 3 units, mean distance 0)
        >>> matching.accuracy(["a", "b", "c"], ["c", "a", "b"])
        1.0
    """

    pairs: Int64[Tensor, "c 2"]
    distance: Float64[Tensor, " c"]
    n_a: int
    n_b: int

    def __repr__(self) -> str:
        return (
            f"UnitMatching({len(self.pairs)} pairs of {self.n_a} and {self.n_b} units, "
            f"mean distance {float(self.distance.mean()):.3g})"
        )

    def accuracy(self, labels_a: Labels, labels_b: Labels) -> float:
        """Share of the pairs whose labels agree; 1 is perfect, and ``chance`` says what a random matching reaches.

        Args:
            labels_a: Labels of the first set, [a].
            labels_b: Labels of the second set, [b].

        Returns:
            The share.

        Raises:
            ValueError: If there are not as many labels as units.
            TypeError: If they are no integers, booleans or strings.
        """
        a, b = self._labels(labels_a, labels_b)
        return float(np.mean([a[i] == b[j] for i, j in self.pairs.tolist()]))

    def chance(self, labels_a: Labels, labels_b: Labels) -> float:
        """Accuracy that matchings drawn at random have in the mean: the share of equal labels among all a·b pairs.

        Args:
            labels_a: Labels of the first set, [a].
            labels_b: Labels of the second set, [b].

        Returns:
            The share.

        Raises:
            ValueError: If there are not as many labels as units.
            TypeError: If they are no integers, booleans or strings.
        """
        a, b = self._labels(labels_a, labels_b)
        counts = dict(zip(*np.unique(b, return_counts=True), strict=True))
        return float(np.mean([counts.get(label, 0) for label in a]) / self.n_b)

    def _labels(self, labels_a: Labels, labels_b: Labels) -> tuple[NDArray[Any], NDArray[Any]]:
        """Check the labels of both sets: strings never equal numbers.

        Returns:
            Both, as they are.
        """
        a, b = labels("labels_a", labels_a, self.n_a), labels("labels_b", labels_b, self.n_b)
        if (a.dtype.kind == "U") != (b.dtype.kind == "U"):
            got, remedy = f"{b.dtype} beside {a.dtype}", "Label both sets alike"
            _validation.refuse("labels_b", "be strings exactly if labels_a are", got, remedy, TypeError)
        return a, b


def match_units(z_a: Array, z_b: Array) -> UnitMatching:
    """Match the units of two sets one to one, so that the Euclidean distances of the pairs add up to the least.

    The sets may differ in size; the larger one then keeps units without a partner. Solved exactly, in cubic time:
    1,000 units of each take about a tenth of a second.

    Args:
        z_a: Embeddings of the first set, [a, k].
        z_b: Embeddings of the second set, [b, k], from the same embedder.

    Returns:
        Pairs and their distances.

    Raises:
        ValueError: If shapes do not fit or numbers are not finite.
        TypeError: If they are no tensors or arrays of real numbers.

    Example:
        >>> import torch, gradembed as ge
        >>> ge.metrics.match_units(torch.tensor([[0.0], [5.0]]), torch.tensor([[5.1], [9.0], [0.2]])).pairs.tolist()
        [[0, 2], [1, 0]]
    """
    a, b = numbers("z_a", z_a), numbers("z_b", z_b)
    if a.shape[1] != b.shape[1]:
        rule = f"have as many columns as z_a, {a.shape[1]}"
        _validation.refuse("z_b", rule, b.shape[1], "Embed both with the same embedder")
    distances = cdist(a, b)
    rows, columns = linear_sum_assignment(distances)
    pairs = np.stack([rows, columns], 1).astype(np.int64)
    return UnitMatching(torch.from_numpy(pairs), torch.from_numpy(distances[rows, columns]), len(a), len(b))


def cluster_agreement(z: Array, y: Labels, seed: int = 0) -> float:
    """Cluster by k-means, with as many clusters as there are classes, and compare with the classes.

    The embeddings are taken as they are: columns in different units should be scaled before. k-means prefers
    round clusters of equal size; a low value beside a high probe says that classes are separate, but not round.

    Args:
        z: Embeddings, [u, k].
        y: Their classes, [u]. Used to count the clusters and to compare, not to find them.
        seed: Of the 20 starts, of which the best by k-means' own criterion counts.

    Returns:
        The adjusted Rand index: 1 for equal partitions, 0 in the mean for a random one (that is chance), negative
        for less agreement than that. A constant embedding gives 0.

    Raises:
        ValueError: If shapes do not fit, numbers are not finite or out of range, there is one class, or each unit is
            a class of its own.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> y = torch.arange(40) % 2
        >>> ge.metrics.cluster_agreement(y[:, None] + 0.1 * torch.randn(40, 3), y)
        1.0
    """
    points = numbers("z", z)
    y_codes = classes("y", y, len(points))
    _validation.check_integer("seed", seed, 0)
    n_classes = int(y_codes.max()) + 1
    if n_classes == len(points):
        _validation.refuse("y", "have two units in some class", "one in each", "Pass more units")
    n_clusters = min(n_classes, len(np.unique(points, axis=0)))  # k-means cannot tell equal points apart
    clusters = KMeans(n_clusters, n_init=20, random_state=seed).fit_predict(points)
    return float(adjusted_rand_score(y_codes, clusters))
