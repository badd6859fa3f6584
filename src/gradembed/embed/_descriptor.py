"""Units described by averages over their fields: nothing is trained."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from gradembed import _context, _validation
from gradembed.embed._arguments import check_invariance, check_like_fit, check_seed, check_units, shared_points
from gradembed.embed._canonical import Coordinates
from gradembed.embed._pooling import Pooling, pooling_kind
from gradembed.fields import GradientFields


class FieldDescriptor(BaseEstimator):
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
        self.invariance = invariance
        self.n_features = n_features
        self.random_state = random_state

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
        check_invariance(self.invariance)
        _validation.check_integer("n_features", self.n_features, 2)
        check_seed(self.random_state)
        check_units(fields)
        with _context.all_or_nothing(self):
            is_flat = self.invariance == "none" and fields.is_shared
            self.n_features_in_, self.has_values_ = fields.dim, fields.values is not None
            self.points_ = shared_points(fields) if is_flat else None
            self.coordinates_ = Coordinates.fit(fields, self.invariance)
            kind = pooling_kind(self.invariance, is_flat=is_flat)
            self.pooling_ = Pooling.draw(kind, fields.dim, self.has_values_, self.n_features, self.random_state)
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
        check_is_fitted(self)
        check_like_fit(fields, self.n_features_in_, self.has_values_, self.points_)
        rows: NDArray[np.float64] = self.pooling_.rows(self.coordinates_.apply(fields)).double().numpy()
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
