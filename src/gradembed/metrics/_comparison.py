"""Which unit is which: matching, clusters and neighbors against labels, decoded fields, and pictures of all units."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from gradembed import _context
from gradembed._validation import as_categories, as_doubles, as_integer, as_labels, check_choice, refuse
from gradembed.metrics._scores import as_classes, retrieval
from gradembed.metrics._uncertainty import Array, Enrichment, Labels, permutation_null

CONSTANT = 1e-12  # variation below this, relative to the squared length, is float32 rounding
FEWEST = 4  # units that UMAP can lay out
MANY = 500  # units and dimensions beyond which two principal components are iterated for: all of them take longer


@dataclass(frozen=True, repr=False, eq=False)
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
        mean = float(self.distance.mean())
        return f"UnitMatching({len(self.pairs)} pairs of {self.n_a} and {self.n_b} units, mean distance {mean:.3g})"

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
        first, second = self.pairs.T.numpy()
        return float((a[first] == b[second]).mean())

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
        return float((a[:, None] == b).mean())

    def _labels(self, labels_a: Labels, labels_b: Labels) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the labels of both sets as they are: strings never equal numbers."""
        a, b = as_categories("labels_a", labels_a, self.n_a), as_categories("labels_b", labels_b, self.n_b)
        if (a.dtype.kind == "U") != (b.dtype.kind == "U"):
            got = f"{b.dtype} beside {a.dtype}"
            refuse("labels_b", "be strings exactly if labels_a are", got, "Label both sets alike", TypeError)
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
        TypeError: If they hold no real numbers.

    Example:
        >>> import torch, gradembed as ge
        >>> ge.metrics.match_units(torch.tensor([[0.0], [5.0]]), torch.tensor([[5.1], [9.0], [0.2]])).pairs.tolist()
        [[0, 2], [1, 0]]
    """
    a = as_doubles("z_a", z_a)
    b = as_doubles("z_b", z_b, k=a.shape[1])
    distances = cdist(a, b)
    pairs = np.stack(linear_sum_assignment(distances), 1).astype(np.int64)
    return UnitMatching(torch.from_numpy(pairs), torch.from_numpy(distances[tuple(pairs.T)]), len(a), len(b))


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
    points, seed = as_doubles("z", z), as_integer("seed", seed, 0)
    known, classes = as_classes("y", y, len(points))
    if len(known) == len(points):
        refuse("y", "have two units in some class", "one in each", "Pass more units")
    n_clusters = min(len(known), len(np.unique(points, axis=0)))  # k-means cannot tell equal points apart
    clusters = KMeans(n_clusters, n_init=20, random_state=seed).fit_predict(points)
    return float(adjusted_rand_score(classes, clusters))


def field_r2(predicted: Array, gradients: Array, *, baseline: str = "mean") -> Float64[Tensor, " u"]:
    """Score decoded gradients of each unit: 1 - Σ|predicted - gradient|² / Σ|gradient - baseline|².

    1 is perfect, 0 is no better than the baseline, negative is worse. Sums are over the points and the d components
    of a unit's gradients.

    Args:
        predicted: Decoded gradients, [u, m, d].
        gradients: True gradients at the same points, [u, m, d].
        baseline: "mean": the unit's mean gradient over these points, that is, the best linear function; a decoder has
            to know how the gradient *changes*. "zero": no gradient at all; a decoder that knows the mean is
            above 0 already.

    Returns:
        R² of each unit, [u]. Where the true gradients do not differ from the baseline there is nothing to explain:
        1 if the prediction is right to rounding, else 0.

    Raises:
        ValueError: If shapes differ or are not [u, m, d], numbers are not finite, the baseline is unknown, or there
            is one point only and the baseline is its mean.
        TypeError: If an argument holds no real numbers.

    Example:
        >>> import torch, gradembed as ge
        >>> gradients = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
        >>> ge.metrics.field_r2(gradients, gradients)
        tensor([1., 1.], dtype=torch.float64)
        >>> ge.metrics.field_r2(gradients.mean(1, keepdim=True).expand(-1, 50, -1), gradients).abs() < 1e-6
        tensor([True, True])
    """
    check_choice("baseline", baseline, ("mean", "zero"))
    truth = as_doubles("gradients", gradients, "u m d")
    guess = as_doubles("predicted", predicted, "u m d", **dict(zip("umd", truth.shape, strict=True)))
    if baseline == "mean" and truth.shape[1] < 2:
        refuse("gradients", "be taken at two points or more", "one", "Sample more points, or use baseline='zero'")
    center = truth.mean(1, keepdims=True) if baseline == "mean" else 0.0
    error, total = ((guess - truth) ** 2).sum((1, 2)), ((truth - center) ** 2).sum((1, 2))
    rounding = CONSTANT * (truth**2).sum((1, 2))
    defined = total > rounding
    score = np.where(defined, 1 - error / np.where(defined, total, 1), (error <= rounding).astype(float))
    return torch.from_numpy(score)


@dataclass(frozen=True, repr=False, eq=False)
class Projection:
    """Where to draw each unit.

    Attributes:
        coordinates: One point per unit, [u, 2].
        method: "umap" or "pca", for the axis labels.

    Example:
        >>> import torch, gradembed as ge
        >>> ge.metrics.project_2d(torch.randn(20, 8), method="pca")
        Projection(20 units, pca)
    """

    coordinates: Float64[Tensor, "u 2"]
    method: str

    def __repr__(self) -> str:
        return f"Projection({len(self.coordinates)} units, {self.method})"


def project_2d(z: Array, seed: int = 0, method: str = "auto") -> Projection:
    """Lay embeddings out in two dimensions, for pictures only: no number should be computed from the result.

    UMAP keeps neighbors together; distances between clusters and the sizes of clusters mean nothing in it, and it
    draws clusters into noise. PCA keeps the two directions of greatest variance, with distances as they are in them.
    The first call of UMAP in a process compiles for 10 to 20 seconds.

    Args:
        z: Embeddings, [u, k].
        seed: Of UMAP; PCA draws nothing.
        method: "umap", "pca", or "auto" for UMAP where umap-learn is installed and there are four units or more,
            else PCA.

    Returns:
        Coordinates and the name of the method, which belongs into the figure. A constant embedding is one point.

    Raises:
        ValueError: If ``z`` is no finite [u, k] of two units or more (four for UMAP), ``seed`` is negative or
            ``method`` unknown.
        TypeError: If an argument has the wrong type.
        ImportError: If UMAP is asked for by name and umap-learn is missing.

    Example:
        >>> import torch, gradembed as ge
        >>> ge.metrics.project_2d(torch.randn(20, 8), method="pca").coordinates.shape
        torch.Size([20, 2])
    """
    points, seed = as_doubles("z", z), as_integer("seed", seed, 0)
    check_choice("method", method, ("auto", "umap", "pca"))
    installed = find_spec("umap") is not None
    if method == "auto":
        method = "umap" if installed and len(points) >= FEWEST else "pca"
    least = FEWEST if method == "umap" else 2
    if len(points) < least:
        refuse("z", f"hold {least} units or more for {method}", len(points), "Pass more units")
    if method == "umap" and not installed:
        remedy = "Install umap-learn, or use method='pca'"
        refuse("method", "be installed", "'umap' without umap-learn", remedy, ImportError)
    points = np.pad(points, ((0, 0), (0, max(0, 2 - points.shape[1]))))
    layout = np.zeros((len(points), 2))
    if np.ptp(points, axis=0).any():
        pca = PCA(2, svd_solver="arpack" if min(points.shape) > MANY else "full", random_state=0)
        layout = _umap(points, seed) if method == "umap" else pca.fit_transform(points)
    return Projection(torch.from_numpy(np.ascontiguousarray(layout, dtype=np.float64)), method)


def _umap(points: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Return coordinates, [u, 2], starting from PCA; on one thread, without which a seed does not fix the result."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)  # of a part not used here
        from umap import UMAP
    reducer = UMAP(n_neighbors=min(15, len(points) - 1), init="pca", n_jobs=1, random_state=seed)
    with _context.kept_threads():
        return np.asarray(reducer.fit_transform(points))


def enrichment(
    z: Array, y: Labels, groups: Labels, n_permutations: int = 1000, seed: int = 0, *, exclude: Sequence[Labels] = (),
    within: Labels | None = None, k: int = 1,
) -> Enrichment:  # fmt: skip
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

    def share(dealt: Any) -> float:
        return float((dealt[units] == dealt[neighbors]).mean())

    return permutation_null(share, labels, places, n_permutations=n_permutations, seed=seed)
