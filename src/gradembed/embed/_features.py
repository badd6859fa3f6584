"""From fields to rows of features, block by block, and what estimators that use them have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from gradembed._validation import as_bool, as_integer, check_choice, is_finite, refuse
from gradembed.embed import _blocks
from gradembed.embed._coordinates import INVARIANCES, Canonical, Coordinates, slices
from gradembed.embed._orbits import Orbits, as_orders
from gradembed.fields._fields import GradientFields, check_fields

CHUNK = 2_000_000  # numbers in the largest intermediate tensor
ROUNDING = 1e-5  # blocks of features, which are of order 1, that vary by less are not blown up
UNITS = 256  # whose halves say how reliable blocks are


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


class FieldEstimator(BaseEstimator):
    """What estimators of fields share: coordinates and features, learned in a fit, applied to any fields."""

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
        some = torch.linspace(0, len(fields) - 1, min(len(fields), UNITS)).long().split(16)  # copies of a few at a time
        halves = [self.features_.halves(part) for few in some for part in self.coordinates_.parts(fields[few])]
        rows = self.features_.standardize(rows, torch.cat(halves, 1))
        self.block_names_, self.reliability_ = tuple(self.features_.places), self.features_.reliability
        return rows

    def _rows(self, fields: GradientFields) -> Tensor:
        """Return the blocks of units, a few at a time, [u, p], in float64."""
        rows = [self.features_.transform(part)[0] for part in self.coordinates_.parts(fields)]
        return torch.cat(rows).double()


def _kind(fields: GradientFields) -> str:
    return f"{fields.dim} dimensions {'and no' if fields.values is None else 'and'} values"
