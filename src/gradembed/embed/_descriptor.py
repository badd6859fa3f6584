"""Units described by averages over their fields, blind to changes of basis: nothing is trained.

In shapes, a [u, m, d] are points, g [u, m, d] gradients, f [u, m] values and w [u, m] weights of the points, which add
up to 1 for each unit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.extmath import svd_flip
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from gradembed import _context
from gradembed._validation import as_integer, check_choice, is_finite, refuse
from gradembed.embed._coordinates import INVARIANCES, Canonical, Coordinates, slices
from gradembed.fields._fields import GradientFields, check_fields

SOFTNESS = 0.5  # vectors of a frame much shorter than this are noise and are not blown up
TOKEN_SCALE = 0.5  # length scale of half of the waves; the others' is twice that
CHUNK = 4_000_000  # numbers in the largest intermediate tensor
FLOOR = 1e-6  # components with less than this share of the largest spread are rounding


class Waves:
    """Random Fourier features cos(w·t + b) of tokens, half of them at one and half at twice the length scale.

    Args:
        n_tokens: Numbers per token, t.
        k: Features.
        scale: The smaller length scale.
        generator: Of the directions, [t, k], and phases, [k].
    """

    def __init__(self, n_tokens: int, k: int, scale: float, generator: torch.Generator) -> None:
        scales = torch.full((k,), scale)
        scales[k // 2 :] *= 2
        self.weights: Tensor = torch.randn(n_tokens, k, generator=generator) / scales
        self.phases: Tensor = 2 * torch.pi * torch.rand(k, generator=generator)

    def __call__(self, tokens: Tensor) -> Tensor:
        return (tokens @ self.weights + self.phases).cos()


Block = Callable[[Waves, Tensor, Tensor, Tensor | None, Tensor], Tensor]


def flat_block(_: Waves, a: Tensor, g: Tensor, f: Tensor | None, w: Tensor) -> Tensor:  # noqa: ARG001
    """Return the gradients in line, zero where unseen; the more is unseen, the larger is the rest: [u, m·d]."""
    return (g * (w[..., None] * float(g.shape[1] ** 0.5))).flatten(1)


def kernel_block(waves: Waves, a: Tensor, g: Tensor, f: Tensor | None, w: Tensor) -> Tensor:
    """Return the kernel mean E[φ(a) ⊗ (g, f)] with φ = 1 and waves of the point, [u, (k + 1)(d + 1)]."""
    channels = g if f is None else torch.cat([g, f[..., None]], 2)
    phi = torch.cat([torch.ones_like(a[..., :1]), waves(a)], 2) * w[..., None]  # [u, m, k + 1]
    return (phi.mT @ channels).flatten(1)


def frame_block(waves: Waves, a: Tensor, g: Tensor, f: Tensor | None, w: Tensor) -> Tensor:
    """Return the mean over points of waves of numbers that do not depend on the basis, [u, k].

    They are f (if known), a·g, |g|, a and g in the moment frame, and with C = E[g g'] of trace 1 the forms g'Cg, a'Ca
    and g'Ca, which see what an even function hides from the frame.
    """
    frame = moment_frame(g, _heights(a, g, f), w)
    second = (g * w[..., None]).mT @ g  # [u, d, d]
    second = second / second.diagonal(dim1=1, dim2=2).sum(1).clamp_min(1e-12)[:, None, None]
    ga, aa = g @ second, a @ second
    scalars = [(a * g).sum(2), g.square().sum(2).sqrt(), (ga * g).sum(2), (aa * a).sum(2), (ga * a).sum(2)]
    scalars = scalars if f is None else [f, *scalars]
    tokens = torch.cat([torch.stack(scalars, 2), a @ frame.mT, g @ frame.mT], 2)  # [u, m, 13 or 14]
    return torch.bmm(w[:, None], waves(tokens))[:, 0]


def coordinate_block(waves: Waves, a: Tensor, g: Tensor, f: Tensor | None, w: Tensor) -> Tensor:
    """Return the mean over coordinates of waves of moments over points, which no other coordinate enters, [u, k]."""
    f, w = _heights(a, g, f)[..., None], w[..., None]  # [u, m, 1]
    strength = a.shape[2] ** 0.5  # so that one coordinate of d counts like a whole gradient
    wg, wa, bend = w * g, w * a, f.square() - 1
    slopes = [wg.sum(1), (w * g.square()).sum(1).sqrt(), (wg * f).sum(1), (wg * bend).sum(1), (wa * g).sum(1)]
    places = [(wa * f).sum(1), (wa * bend).sum(1), (w * a.square()).sum(1).sqrt(), (w * a.pow(3)).sum(1) / 3]
    moments = [*(slope * strength for slope in slopes), *places]  # each [u, d]
    return waves(torch.stack(moments, 2)).mean(1)  # tokens [u, d, 9]


def moment_frame(g: Tensor, f: Tensor, w: Tensor) -> Tensor:
    """Return each unit's frame of four vectors that turn with its basis, from mean gradients, [u, 4, d].

    The vectors are E[ψ(f) g] with ψ = 1, f, f² - 1, tanh(3f/2), stacked to V and softly made orthonormal:
    (V V' + s²)^-½ V. Nothing has to be sorted and no sign chosen, so the frame depends smoothly on the field. A
    direction in which all four means vanish, as for a function that is even along it, is missing.
    """
    curves = torch.stack([torch.ones_like(f), f, f.square() - 1, torch.tanh(1.5 * f)], 1) * w[:, None]  # [u, 4, m]
    vectors = (curves @ g).double()  # [u, 4, d]
    squares, turns = torch.linalg.eigh(vectors @ vectors.mT)
    shrink = (squares.clamp_min(0) + SOFTNESS**2).rsqrt()
    frame: Tensor = (turns * shrink[:, None]) @ turns.mT @ vectors
    return frame.float()


def _heights(a: Tensor, g: Tensor, f: Tensor | None) -> Tensor:
    """Return the values or, where there are none, what the gradient says of them: a·g, standardized, [u, m]."""
    if f is not None:
        return f
    pairing = (a * g).sum(2)
    centered = pairing - pairing.mean(1, keepdim=True)
    return centered / centered.square().mean(1, keepdim=True).sqrt().clamp_min(1e-6)


class Features:
    """A map from canonical fields to one row of features per unit, fixed before it sees them: blocks, side by side.

    Args:
        invariance: As for `FieldDescriptor`.
        fields: Of the fit; only their dimension counts, and whether they have values.
        is_flat: Whether the units share their points, and gradients are just put in line.
        n: Random waves of each kind of token.
        seed: Of the waves.
    """

    def __init__(self, invariance: str, fields: GradientFields, *, is_flat: bool, n: int, seed: int) -> None:
        d, n_scalars = fields.dim, 5 + (fields.values is not None)
        frame, coordinates = (frame_block, n_scalars + 8, n, TOKEN_SCALE), (coordinate_block, 9, n, TOKEN_SCALE)
        kinds: list[tuple[Block, int, int, float]] = [frame, coordinates] if invariance == "permutation" else [frame]
        if invariance == "none":
            kinds = [(flat_block, 0, 0, 1) if is_flat else (kernel_block, d, max(n // 8, 8), 0.5 * d**0.5)]
        generator = torch.Generator().manual_seed(seed)
        self.blocks = [(block, Waves(n_tokens, k, scale, generator)) for block, n_tokens, k, scale in kinds]

    def transform(self, fields: Canonical, visible: Tensor | None = None) -> Tensor:
        """Return averages over the points that are seen, [u, m] of True, or over all: [u, p]."""
        a, g, f = fields.points, fields.gradients, fields.values
        u, m, d = g.shape
        seen = torch.ones(u, m) if visible is None else visible.float()
        w, parts = seen / seen.sum(1, keepdim=True), []
        for i in slices(u, max(CHUNK // (m * max([d, *(len(waves.phases) for _, waves in self.blocks)])), 1)):
            given = (a[i], g[i], None if f is None else f[i], w[i])
            parts.append(torch.cat([block(waves, *given) for block, waves in self.blocks], 1))
        rows = torch.cat(parts)
        if not is_finite(rows):
            refuse("fields", "have points whose products with gradients are finite", "an overflow", "Scale them down")
        return rows


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
        return np.asarray(self.features_.transform(canonical).double())

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
