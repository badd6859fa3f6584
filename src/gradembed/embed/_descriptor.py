"""Units described by averages over their fields, blind to changes of basis: nothing is trained."""

from __future__ import annotations

from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.extmath import svd_flip
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from gradembed import _context
from gradembed._validation import as_bool, as_doubles, as_integer, check_choice, is_finite, refuse
from gradembed.embed import _blocks
from gradembed.embed._coordinates import INVARIANCES, Canonical, Coordinates, slices
from gradembed.embed._orbits import Orbits, as_orders
from gradembed.fields._fields import GradientFields, check_fields

CHUNK = 2_000_000  # numbers in the largest intermediate tensor
ROUNDING = 1e-5  # blocks of features, which are of order 1, that vary by less are not blown up
UNITS = 256  # whose halves say how reliable blocks are
FLOOR = 1e-6  # components with less than this share of the largest spread are rounding
SHRINK = 0.07  # of what differs between groups: variance below which a direction is left as it is


class Features:
    """A map from canonical fields to one row of features per unit, fixed before it sees them: blocks, side by side.

    Args:
        invariance: As for `FieldDescriptor`.
        fields: Of the fit; only their dimension counts, and whether they have values.
        is_flat: Whether the units share their points, and gradients are just put in line.
        n: Random waves of each kind of token.
        seed: Of the waves.
        orders: Of the coordinates, [t, d]: a symmetry that was named instead of an invariance; or ``None``.
    """

    def __init__(
        self, invariance: str, fields: GradientFields, *, is_flat: bool, n: int, seed: int, orders: Tensor | None = None
    ) -> None:
        d, affine, few = fields.dim, invariance == "linear", max(n // 2, 2)
        self.is_affine = affine
        none = (0, 0, 1.0)  # waves
        kinds: dict[str, tuple[Any, int, int, float]] = {
            "waves": (_blocks.frame, 10 + (fields.values is not None), n, 0.5),
            "reach": (_blocks.reach, *none),
            "step": (_blocks.step, *none),
            "near": (_blocks.near, *none),
            "pairs": (_blocks.affine_pairs, 5, few, 0.7) if affine else (_blocks.metric_pairs, 7, few, 0.7),
            "level": (_blocks.level, *none),
            "floor": (_blocks.floor, *none),
            "coordinates": (_blocks.coordinates, 9, n, 0.5),
        }
        if invariance == "none":
            kinds = {"kernel": (_blocks.kernel, d, max(n // 8, 8), 0.5 * d**0.5)}
            kinds = {"flat": (_blocks.flat, *none)} if is_flat else kinds
        unfit = {"linear": ("near", "coordinates"), "orthogonal": ("coordinates",)}.get(invariance, ())
        generator = torch.Generator().manual_seed(seed)
        if orders is not None:
            orbits = Orbits(orders, n, generator)
            kinds = {"means": (orbits.means, *none), "moments": (orbits.moments, *none)}
        self.blocks = [
            _blocks.Block(name, function, _blocks.Waves(n_tokens, k, scale, generator))
            for name, (function, n_tokens, k, scale) in kinds.items()
            if name not in unfit
        ]
        self.draws = torch.rand(2, _blocks.PAIRS, generator=generator)
        self.places: dict[str, slice] = {}
        self.middle, self.size = torch.zeros(()), torch.ones(())
        self.reliability: dict[str, float] = {}

    def halves(self, fields: Canonical) -> Tensor:
        """Return rows of each unit from one and from the other half of its points, drawn at random, [2, u, p]."""
        u, m, _ = fields.gradients.shape
        first = torch.randperm(m, generator=torch.Generator().manual_seed(0)) < m / 2
        return self.transform(fields, torch.stack([first, ~first])[:, None].expand(-1, u, -1))

    def standardize(self, rows: Tensor, halves: Tensor) -> Tensor:
        """Center each block of a fit's rows, [u, p], and divide it by its spread over r^½, from now on.

        r, the block's reliability, is the correlation over units of what halves of their points say, [2, u', p]: of
        the block's variance 1 - r is noise.

        Returns:
            The rows, in which the total variance of a block is r.
        """
        self.middle, self.size = rows.mean(0), torch.ones(rows.shape[1], dtype=rows.dtype)
        variances = (rows - self.middle).square().mean(0)  # [p]
        halves = halves.to(rows) - halves.to(rows).mean(1, keepdim=True)
        for name, place in self.places.items():
            self.reliability[name] = correlation(*halves[..., place])
            if variances[place].mean() > ROUNDING**2:
                self.size[place] = (variances[place].sum() / self.reliability[name]).sqrt()
        return (rows - self.middle) / self.size

    def transform(self, fields: Canonical, views: Tensor | None = None) -> Tensor:
        """Return averages over the points seen in each of v views, [v, u, m] of True, or over all: [v, u, p]."""
        u, m, d = fields.gradients.shape
        views = torch.ones(1, u, m, dtype=torch.bool) if views is None else views
        weights = views / views.sum(2, keepdim=True)
        widest = max([d, min(m, _blocks.REFERENCES), *(len(block.waves.phases) for block in self.blocks)])
        parts = [self._described(fields, i, weights[:, i]) for i in slices(u, max(CHUNK // (m * widest), 1))]
        rows = (torch.cat(parts, 1) - self.middle) / self.size
        if not is_finite(rows):
            refuse("fields", "have points whose products with gradients are finite", "an overflow", "Scale them down")
        return rows

    def _described(self, fields: Canonical, i: slice, weights: Tensor) -> Tensor:
        units, described = None, []
        for w in weights:
            if units is None or fields.values is None:
                units = self._units(fields, i, w)
            blocks = {block.name: block.function(block.waves, units, w) for block in self.blocks}
            described.append(torch.cat(list(blocks.values()), 1))
        ends = np.cumsum([0, *(rows.shape[1] for rows in blocks.values())])
        self.places = dict(zip(blocks, map(slice, ends[:-1], ends[1:]), strict=True))
        return torch.stack(described)

    def _units(self, fields: Canonical, i: slice, w: Tensor) -> _blocks.Units:
        """Return some units; without values their scale and heights are those of the gradients that are seen."""
        a, g, f = fields.points[i], fields.gradients[i], fields.values
        zero = fields.zero[i] if len(fields.zero) > 1 else fields.zero

        def units(g: Tensor, known: Tensor) -> _blocks.Units:
            return _blocks.Units(
                a, g, known, zero, fields.offsets[i], self.draws, has_values=f is not None, is_affine=self.is_affine
            )

        if f is not None:
            return units(g, f[i])
        g = g * (w > 0)[..., None]
        size = (w * units(g, w).length.square()).sum(1).sqrt()
        g = g / torch.where(size > 0, size, 1)[:, None, None]
        return units(g, _blocks.heights(a, g, w))


def correlation(first: Tensor, second: Tensor) -> float:
    """Return the correlation of two blocks of centered features, [u, p], pooled, or 0.01 where it is less."""
    size = float((first.square().sum() * second.square().sum()).sqrt())
    return max(float((first * second).sum()) / size, 0.01) if size > ROUNDING**2 * first.numel() else 1.0


class PrincipalComponents:
    """A projection on principal components, all divided by one number: distances keep their proportions.

    Args:
        rows: What to find the components of, [u, p].
        k: How many; fewer if the rows have fewer.

    Attributes:
        n: How many there are.
        center: Mean row, [p].
        matrix: [p, n].
    """

    def __init__(self, rows: Tensor, k: int) -> None:
        center = rows.double().mean(0)
        centered = rows.double() - center
        _, spreads, vectors = torch.linalg.svd(centered, full_matrices=False)
        self.n = min(max(int((spreads > FLOOR * spreads[0]).sum()), 1), k)
        basis = flipped(vectors[: self.n]).T
        size = (centered @ basis).square().mean().sqrt()
        self.center, self.matrix = center.to(rows), (basis / torch.where(size > 0, size, 1)).to(rows)

    def transform(self, rows: Tensor) -> Tensor:
        """Return rows, [..., p], projected, [..., n]."""
        return (rows - self.center) @ self.matrix


def flipped(vectors: Tensor) -> Tensor:
    """Return vectors, [k, p], with the signs that make the largest entry of each positive."""
    return torch.from_numpy(svd_flip(None, vectors.numpy().copy("K"), u_based_decision=False)[1])


class FieldEstimator(BaseEstimator):
    """What estimators of fields have in common: coordinates and features, learnt in a fit and applied to any fields."""

    invariance: Any
    n_features: int
    random_state: int
    origin: bool

    def _fit_features(self, fields: GradientFields, *, is_flat: bool, whiten: bool) -> None:
        invariance, orders = self.invariance, None
        if isinstance(invariance, Tensor | np.ndarray | list | tuple):
            invariance, orders = "none", as_orders("invariance", invariance, fields.dim)
        check_choice("invariance", invariance, INVARIANCES)
        n, seed = as_integer("n_features", self.n_features, 2), as_integer("random_state", self.random_state, 0)
        self.n_features_in_, self.kind_ = fields.dim, _kind(fields)
        self.points_ = fields.points.double().cpu() if is_flat else None
        kind = "orthogonal" if invariance == "linear" and not whiten else invariance
        self.coordinates_ = Coordinates(fields, kind, origin=as_bool("origin", self.origin))
        self.features_ = Features(invariance, fields, is_flat=is_flat, n=n, seed=seed, orders=orders)

    def _check_kind(self, fields: GradientFields) -> None:
        """Refuse fields that are of another kind than those of the fit."""
        check_is_fitted(self)
        check_fields("fields", fields, least_points=2)
        if (kind := _kind(fields)) != self.kind_:
            refuse("fields", f"have {self.kind_}, as in fit", kind, "Match them, or fit again")
        if not (self.points_ is None or (fields.is_shared and torch.equal(fields.points.double().cpu(), self.points_))):
            remedy = "Take fields at those points, or fit again to fields with own points"
            refuse("fields", "have the shared points of fit", "other points", remedy)

    def _standardized(self, fields: GradientFields, rows: Tensor) -> Tensor:
        """Standardize the rows of a fit, [u, p], by what up to 256 units say of how reliable each block is."""
        some = fields[torch.linspace(0, len(fields) - 1, min(len(fields), UNITS)).long()]
        halves = torch.cat([self.features_.halves(part) for part in self.coordinates_.parts(some)], 1)
        rows = self.features_.standardize(rows, halves)
        self.block_names_, self.reliability_ = tuple(self.features_.places), self.features_.reliability
        return rows

    def _rows(self, fields: GradientFields) -> Tensor:
        """Return the blocks of units, a few at a time, [u, p], in float64."""
        rows = [self.features_.transform(part)[0] for part in self.coordinates_.parts(fields)]
        return torch.cat(rows).double()


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
        invariance: "none", "permutation", "orthogonal" or "linear".
        n_features: Random waves of a point's tokens; half as many of a pair's. With "none" an eighth of it, times
            d + 1 channels.
        random_state: Seed of the waves. Rows of descriptors with different seeds cannot be compared.
        origin: Whether zero has a meaning, for points and values: in a layer of ReLUs it has. ``False`` makes all
            blocks blind to shifts of the points and to the offset of the output.
        discount_groups: Whether to take out what differs between the groups of the fields, such as networks: each
            group's mean row; and, from what differs between mutual nearest neighbours in two groups, the directions
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
        constraints: the discount of groups is theirs, with mutual neighbours in place of given pairs.
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
        """Measure the common scale of the points and the spread of each block, and draw the waves.

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
    """Take out what differs between groups of comparable units: mean rows, and what tells neighbours apart.

    With D the differences of the rows of mutual nearest neighbours in different groups and W = E[DD'] / 2, rows are
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


def _kind(fields: GradientFields) -> str:
    return f"{fields.dim} dimensions {'and no' if fields.values is None else 'and'} values"
