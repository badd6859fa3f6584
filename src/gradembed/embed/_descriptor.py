"""Units described by averages over their fields, blind to changes of basis: nothing is trained."""

from __future__ import annotations

from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from gradembed import _context
from gradembed._validation import as_bool, as_doubles, refuse
from gradembed.embed._features import FieldEstimator
from gradembed.fields._fields import GradientFields, check_fields

SHRINK = 0.07  # of what differs between groups: variance below which a direction is left as it is


class FieldDescriptor(FieldEstimator):
    """A row of features per unit that says what function it is, whatever the basis; nothing is trained.

    A row is made of blocks, each an average over a unit's points or over pairs of them, divided by the block's spread
    over the units of the fit and multiplied by r^½: r is the share of its variance that another draw of points keeps,
    or the correlation of what two halves of a unit's points say. Rows are near each other where points, values and
    gradients have nearly the same joint distribution, in what the invariance lets through. Scale of the unit's output
    is dropped; its sign is not.

    =========== ========================================================================= ================
    block       average of                                                                leaves it alone
    =========== ========================================================================= ================
    waves       random waves of f, g·a, length of g, a and g in a frame of mean gradients rotation, shift (¹)
    reach       (g_i·a_j)², i and j in eighths by rank of the value                       matrix, shift
    step        tanh of the first-order change g_i·(a_j - a_i), the same eighths          matrix, shift
    near        exp(-gap²), the same eighths: which values lie together, no gradient      rotation, shift
    pairs       random waves of f_i, f_j, both changes, g_i'Σg_j; g_i·g_j and gap (²)     rotation, shift (¹)
    level       (quantiles) values, with their offset                                     any map of the points
    floor       (quantiles) value at zero of the affine piece at each point               matrix
    coordinates (*permutation* only) moments of each coordinate, as a set                 order, shift
    =========== ========================================================================= ================


    (¹) With "linear" any invertible matrix. (²) Not with "linear". Points are centered but in level and floor.

    ``invariance`` is one of:

    - "permutation": coordinates may come in any order, as hidden units do; the best on the development suite
      (``python -m benchmarks.suite``). Assumes that units share one scale of inputs.
    - "orthogonal": rotations and reflections: as "permutation" without coordinates. For exact invariance where a
      basis is arbitrary. Blind to which direction of the layer a function reads.
    - "linear": any invertible matrix, a → Ma and g → M⁻ᵀg, such as rescaled hidden units. Gradients are measured by
      the covariance of the unit's points, (g'Σg)^½. Assumes that the points of different units come from the same
      distribution up to such a map. Blind to the scale at which a function varies: a function of half as wide
      inputs looks like one of all of them.
    - "none": all units share one basis. Own points: kernel mean E[φ(a) ⊗ (g, f)] with random waves φ of the point.
      Shared points: the gradients themselves, flattened. Blind to nothing; networks with hidden bases of their own
      look unrelated.
    - a symmetry that you name, orders of the coordinates, [t, d], or permutation matrices, [t, d, d]: shifts of an
      image, translations of a group. Order t moves coordinate i to the place [t, i]. Rows are blind to these, one
      after the other, as often as you like (so name generators, not the whole group), and to as little else as second
      moments can be. Two blocks instead of those above, sums over orbits of pairs of coordinates: *means*, of products
      of E[g] and E[f g], and *moments*, E[g g']. Assumes that points come from a distribution with that symmetry.

    Args:
        invariance: "none", "permutation", "orthogonal" or "linear"; or orders of the coordinates, [t, d] or [t, d, d].
        n_features: Random waves of a point's tokens; half as many of a pair's. With "none" an eighth of it, times
            d + 1 channels.
        random_state: Seed of the waves. Rows of descriptors with different seeds cannot be compared.
        origin: Whether zero has a meaning, for points and values: in a layer of ReLUs it has. ``False`` makes all
            blocks blind to shifts of the points and to the offset of the output.
        discount_groups: Whether to take out what differs between the groups of the fields, such as networks: each
            group's mean row; and, from what differs between mutual nearest neighbors in two groups, the directions
            that say more of the group than of the unit are shrunk. Labels are not looked at. For groups that
            hold comparable sets of units.

    Attributes:
        n_features_in_: Dimension d of the fields.
        block_names_: Of the blocks, in their order.
        reliability_: Of each block, r, by name.

    Example:
        >>> import torch, gradembed as ge
        >>> x = torch.randn(2, 200, 3)
        >>> fields = ge.GradientFields(x, gradients=x, values=x.square().sum(2) / 2)
        >>> descriptor = ge.FieldDescriptor("linear").fit(fields)
        >>> rows = descriptor.transform(fields)
        >>> rows.shape
        (2, 576)
        >>> remixed = fields.transformed(torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 5.0]]))
        >>> bool(abs(descriptor.transform(remixed) - rows).max() < 1e-3 * abs(rows).max())
        True
        >>> {name: block.shape[1] for name, block in descriptor.blocks(rows).items()}
        {'waves': 256, 'reach': 64, 'step': 64, 'pairs': 128, 'level': 32, 'floor': 32}

        >>> image = torch.arange(9).view(3, 3)
        >>> shifts = torch.stack([image.roll(1, axis).flatten() for axis in (0, 1)])  # a named symmetry
        >>> x = torch.randn(2, 200, 9)
        >>> fields = ge.GradientFields(x, gradients=x.cos(), values=x.sin().sum(2))
        >>> moved = ge.GradientFields(x[..., shifts[0]], fields.gradients[..., shifts[0]], fields.values)
        >>> descriptor = ge.FieldDescriptor(shifts).fit(fields)
        >>> bool(abs(descriptor.transform(moved) - descriptor.transform(fields)).max() < 1e-4)
        True

    References:
        K. Muandet, K. Fukumizu, B. Sriperumbudur, B. Schölkopf (2017), Kernel mean embedding of distributions.
        A. Rahimi, B. Recht (2007), Random features for large-scale kernel machines.
        A. Bar-Hillel, T. Hertz, N. Shental, D. Weinshall (2005), Learning a Mahalanobis metric from equivalence
        constraints: the discount of groups is theirs, with mutual neighbors in place of given pairs.
        B. Haasdonk, H. Burkhardt (2007), Invariant kernel functions for pattern analysis and machine learning: means
        over a group.
    """

    def __init__(
        self, invariance: str | Tensor = "permutation", *, n_features: int = 256, random_state: int = 0,
        origin: bool = True, discount_groups: bool = False,
    ) -> None:  # fmt: skip
        self.invariance, self.n_features, self.random_state = invariance, n_features, random_state
        self.origin, self.discount_groups = origin, discount_groups

    def fit(self, fields: GradientFields, y: Any = None) -> Self:  # noqa: ARG002
        """Measure the common scale of the points, spread and reliability of each block, and draw the waves.

        Args:
            fields: The units.
            y: Ignored.

        Returns:
            The fitted descriptor.

        Raises:
            ValueError: If a setting is out of range, there are fewer than two points, or groups that should be
                discounted are unknown, fewer than two, or of one unit.
            TypeError: If an argument has the wrong type.
        """
        self._fit(fields)
        return self

    def _fit(self, fields: GradientFields) -> Tensor:
        check_fields("fields", fields, least_points=2)
        with _context.all_or_nothing(self):
            is_flat = isinstance(self.invariance, str) and self.invariance == "none" and fields.is_shared
            self._fit_features(fields, is_flat=is_flat, whiten=False)
            rows = self._standardized(fields, self._rows(fields))
            self.discount_ = None
            if as_bool("discount_groups", self.discount_groups):
                self.discount_ = Discount(rows, fields.groups)
                rows = self.discount_(rows, fields.groups)
        return rows

    def transform(self, fields: GradientFields) -> NDArray[np.float64]:
        """Describe units.

        Args:
            fields: Of the dimension of the fit; where it had shared points and ``invariance="none"``, at these.

        Returns:
            [u, p].

        Raises:
            NotFittedError: If `fit` was not called.
            ValueError: If the fields do not fit those of `fit`, or a unit is constant.
            TypeError: If they are no `GradientFields`.
        """
        self._check_kind(fields)
        rows = self._rows(fields)
        return np.asarray(rows if self.discount_ is None else self.discount_(rows, fields.groups))

    def fit_transform(self, fields: GradientFields, y: Any = None) -> NDArray[np.float64]:  # noqa: ARG002
        """Fit, and describe the same units.

        Args:
            fields: The units.
            y: Ignored.

        Returns:
            [u, p].
        """
        return np.asarray(self._fit(fields))

    def blocks(self, rows: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Cut rows of this descriptor into its blocks, by name.

        Args:
            rows: As `transform` gives them, [u, p].

        Returns:
            Name → [u, features].

        Raises:
            NotFittedError: If `fit` was not called.
            ValueError: If the rows are not as wide as this descriptor's.
            TypeError: If they are no numbers.
        """
        check_is_fitted(self)
        width = max(place.stop for place in self.features_.places.values())
        table = as_doubles("rows", rows, "u p", p=width)
        return {name: table[:, place] for name, place in self.features_.places.items()}


class Discount:
    """Take out what differs between groups of comparable units: mean rows, and what tells neighbors apart.

    With D the differences of the rows of mutual nearest neighbors in different groups and W = E[DD'] / 2, rows are
    multiplied by (W / λ + 1)^-½, λ a share of the trace of W: the metric of relevant component analysis.

    Args:
        rows: Of a fit, [u, p].
        groups: Of the units, [u].
    """

    def __init__(self, rows: Tensor, groups: Tensor | None) -> None:
        rows = without_means(rows, groups)
        names, group = torch.unique(cast(Tensor, groups), return_inverse=True)
        if len(names) < 2:
            refuse("fields", "have two groups to be compared", "one", "Pass discount_groups=False")
        distances = torch.cdist(rows, rows)
        members = [torch.nonzero(group == k)[:, 0] for k in range(len(names))]
        nearest = torch.stack([some[distances[:, some].argmin(1)] for some in members], 1)  # [u, groups]
        i, k = torch.nonzero(group[:, None] < torch.arange(len(names)), as_tuple=True)
        j = nearest[i, k]
        mutual = nearest[j, group[i]] == i
        differences = rows[i[mutual]] - rows[j[mutual]]
        basis = torch.linalg.qr(rows.mT)[0]  # differences lie in the span of the rows
        inside = differences @ basis
        variances, vectors = torch.linalg.eigh(inside.mT @ inside / (2 * max(len(inside), 1)))
        floor = SHRINK * variances.sum().clamp_min(1e-300)
        self.matrix: Tensor = basis @ vectors * (1 - (variances.clamp_min(0) / floor + 1).rsqrt()).sqrt()

    def __call__(self, rows: Tensor, groups: Tensor | None) -> Tensor:
        """Return rows, [u, p], without their group's mean, and with what differs between groups shrunk."""
        rows = without_means(rows, groups)
        return rows - rows @ self.matrix @ self.matrix.mT


def without_means(rows: Tensor, groups: Tensor | None) -> Tensor:
    """Return rows, [u, p], without their group's mean, refusing what is no group."""
    if groups is None or bool((torch.unique(groups, return_counts=True)[1] < 2).any()):
        got = "no groups" if groups is None else "a group of one unit"
        refuse("fields", "have groups of two or more units", got, "Pass discount_groups=False, or group them")
    index = torch.unique(groups, return_inverse=True)[1]
    totals = torch.zeros(int(index.max()) + 1, rows.shape[1], dtype=rows.dtype).index_add_(0, index, rows)
    return rows - (totals / torch.bincount(index)[:, None])[index]
