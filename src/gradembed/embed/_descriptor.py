"""Units described by averages over their fields: nothing is trained."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from gradembed import _context
from gradembed._validation import as_integer, check_choice, refuse
from gradembed.embed._coordinates import INVARIANCES, Canonical, Coordinates
from gradembed.embed._features import Features
from gradembed.fields._fields import GradientFields, check_fields


class FieldEstimator(BaseEstimator):
    """What estimators of fields have in common: coordinates and features, learnt in a fit and applied to any fields."""

    invariance: str
    n_features: int
    random_state: int

    def _fit_features(self, fields: GradientFields, *, is_flat: bool) -> None:
        check_choice("invariance", self.invariance, INVARIANCES)
        n, seed = as_integer("n_features", self.n_features, 2), as_integer("random_state", self.random_state, 0)
        self.n_features_in_, self.kind_ = fields.dim, _kind(fields)
        self.points_ = fields.points.double().cpu() if is_flat else None
        self.coordinates_ = Coordinates(fields, self.invariance)
        self.features_ = Features(self.invariance, fields, is_flat=is_flat, n=n, seed=seed)

    def _canonical(self, fields: GradientFields) -> Canonical:
        """Return fields in the coordinates of the fit, refusing those that are of another kind."""
        check_is_fitted(self)
        check_fields("fields", fields, least_points=2)
        if (kind := _kind(fields)) != self.kind_:
            refuse("fields", f"have {self.kind_}, as in fit", kind, "Match them, or fit again")
        if not (self.points_ is None or (fields.is_shared and torch.equal(fields.points.double().cpu(), self.points_))):
            remedy = "Take fields at those points, or fit again to fields with own points"
            refuse("fields", "have the shared points of fit", "other points", remedy)
        return self.coordinates_.transform(fields)


class FieldDescriptor(FieldEstimator):
    """A row of features per unit that says what function it is, whatever the basis; nothing is trained.

    A feature is the mean over a unit's points of a random wave cos(w·t + b) of the point's token t. Rows of two units
    are near each other if their tokens have nearly the same joint distribution (a kernel mean). What the tokens are
    decides which changes of basis leave the rows as they are. In all, scale and offset of the unit's output are
    dropped; its sign is not.

    ``invariance`` is one of:

    - "linear": any invertible affine map of the layer, a → Ma + c and g → M⁻ᵀg. Points are whitened with their own
      covariance Σ, a → Σ^-½ (a - ā), and gradients the opposite way, then as "orthogonal". Assumes that the points of
      different units come from the same distribution up to such a map. Blind to the scale at which a function varies:
      a function of half as wide inputs looks like one of all of them.
    - "orthogonal": shifts, rotations and reflections. Tokens hold f, a·g, |g|, and a and g in a frame of four vectors
      built from mean gradients, which turns with the basis. Assumes that units share one scale of inputs. Blind to
      which direction of the layer a function reads, and to how it differs from its mirror images along
      directions in which the mean gradients of high, low and all values vanish.
    - "permutation": also sees, per coordinate of the layer, how the gradient is distributed along it (strongest,
      sparse or spread); coordinates may come in any order. The fields of two units are compared as sets of
      coordinates, so it is blind to which coordinates act together, except as "orthogonal" sees it. Assumes that
      units share one scale of inputs, and that coordinates are hidden units, not arbitrary directions.
    - "none": all units share one basis. Own points: kernel mean E[φ(a) ⊗ (g, f)] with random waves φ of the point.
      Shared points: the gradients themselves, flattened. Blind to nothing; networks with hidden bases of their own
      look unrelated.

    Args:
        invariance: "none", "permutation", "orthogonal" or "linear".
        n_features: Random waves of each kind of token. With "none" an eighth of it, times d + 1 channels.
        random_state: Seed of the waves. Rows of descriptors with different seeds cannot be compared.

    Attributes:
        n_features_in_: Dimension d of the fields.

    Example:
        >>> import torch, gradembed as ge
        >>> x = torch.randn(2, 200, 3)
        >>> fields = ge.GradientFields(x, gradients=x, values=x.square().sum(2) / 2)
        >>> rows = ge.FieldDescriptor().fit_transform(fields)
        >>> rows.shape
        (2, 512)
        >>> remixed = fields.transformed(torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 5.0]]))
        >>> bool(abs(ge.FieldDescriptor().fit_transform(remixed) - rows).max() < 1e-4)
        True

    References:
        K. Muandet, K. Fukumizu, B. Sriperumbudur, B. Schölkopf (2017), Kernel mean embedding of distributions.
        A. Rahimi, B. Recht (2007), Random features for large-scale kernel machines.
    """

    def __init__(self, invariance: str = "linear", *, n_features: int = 512, random_state: int = 0) -> None:
        self.invariance, self.n_features, self.random_state = invariance, n_features, random_state

    def fit(self, fields: GradientFields, y: Any = None) -> Self:  # noqa: ARG002
        """Measure the common scale of the points, and draw the waves.

        Args:
            fields: The units.
            y: Ignored.

        Returns:
            The fitted descriptor.

        Raises:
            ValueError: If a setting is out of range, or there are fewer than two points.
            TypeError: If an argument has the wrong type.
        """
        check_fields("fields", fields, least_points=2)
        with _context.all_or_nothing(self):
            self._fit_features(fields, is_flat=self.invariance == "none" and fields.is_shared)
        return self

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
        canonical = self._canonical(fields)
        rows: NDArray[np.float64] = self.features_.transform(canonical).double().numpy()
        return rows

    def fit_transform(self, fields: GradientFields, y: Any = None) -> NDArray[np.float64]:
        """Fit, and describe the same units.

        Args:
            fields: The units.
            y: Ignored.

        Returns:
            [u, p].
        """
        return self.fit(fields, y).transform(fields)


def _kind(fields: GradientFields) -> str:
    return f"{fields.dim} dimensions {'and no' if fields.values is None else 'and'} values"
