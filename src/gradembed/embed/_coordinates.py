"""Coordinates of a unit's own, which a change of basis does not move or only turns, and the alignment of their axes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradembed.fields._fields import GradientFields, varying_amplitudes

INVARIANCES = ("none", "permutation", "orthogonal", "linear")
RANK_TOLERANCE = 1e-9  # directions of the points with less than this share of the largest variance are not there
AT_A_TIME = 1_500_000  # numbers: what stays in the caches
SHARE = 0.99  # of the gradients' squared length that the axes should hold
MOST_AXES = 6
FULL = 4  # with at most so many axes all combinations of signs are tried, with more one flip at a time
MEAN_DECIDES = 0.1  # a mean below this share of the root mean square leaves the sign to the skewness
SYMMETRIC = 1e-9  # a skewness below this is rounding

Basis = Tensor | float  # matrices [u or 1, d, d] to be multiplied from the right, or a factor for all coordinates


@dataclass(frozen=True, eq=False)
class Canonical:
    """Fields without scale and offset, in float32, and the way between these coordinates and the layer's own.

    Attributes:
        points: Centered, [u, m, d].
        gradients: Of the values below, [u, m, d].
        values: Mean 0, variance 1, [u, m]; or ``None``.
        center: What was subtracted from the points, [u or 1, 1, d].
        basis: Points of these coordinates are (a - center) @ basis.
        amplitudes: Gradients in the layer's own coordinates are amplitude · g @ basis', [u].
        zero: The layer's zero in these coordinates, [u or 1, 1, d].
        offsets: Mean of the values, in units of their spread, [u]; 0 where there are none.
    """

    points: Tensor
    gradients: Tensor
    values: Tensor | None
    center: Tensor
    basis: Basis
    amplitudes: Tensor
    zero: Tensor
    offsets: Tensor

    def transform(self, points: Tensor) -> Tensor:
        """Return other points, [u, m, d], in these coordinates."""
        return _times(points.to(self.center) - self.center, self.basis).to(self.points)

    def inverse_transform(self, gradients: Tensor) -> Tensor:
        """Return gradients, [u, m, d], in the layer's own coordinates and with the unit's own scale, in float64."""
        back = self.basis.mT if isinstance(self.basis, Tensor) else self.basis
        return _times(gradients.to(self.center), back) * self.amplitudes[:, None, None]


class Coordinates:
    """How fields are made canonical: learned from the fields of a fit, applied to any.

    Args:
        fields: Of the fit.
        invariance: As for `FieldDescriptor`.
        origin: Whether zero has a meaning. If not, each unit's mean point and mean value stand in for it.

    Attributes:
        center: Where the basis is shared: the mean of all points, [1, 1, d]. Else each unit has its own.
        scale: Root mean square of the centered points' coordinates; 1 where each unit is whitened by itself.
    """

    def __init__(self, fields: GradientFields, invariance: str, *, origin: bool = True) -> None:
        self.invariance, self.origin, self.center, self.scale = invariance, origin, None, 1.0
        if invariance == "linear":
            return
        points = fields.points if fields.points.ndim == 3 else fields.points[None]
        parts = slices(len(points), _units_at_a_time(points))
        # in one piece: small results kept between large ones would keep memory from being given back
        centers = torch.empty(len(points), 1, points.shape[2], dtype=torch.float64)
        for part in parts:
            centers[part] = points[part].mean(1, keepdim=True, dtype=torch.float64).cpu()
        if invariance == "none":
            self.center = centers.mean(0, keepdim=True)
            centers = self.center.expand_as(centers)
        squares = [float(_shifted(points[part].cpu(), centers[part]).square().sum()) for part in parts]
        self.scale = (sum(squares) / points.numel()) ** 0.5 or 1.0

    def transform(self, fields: GradientFields) -> Canonical:
        """Return the fields in these coordinates; refuses constant ones."""
        parts = list(self.parts(fields))
        if len(parts) == 1:
            return parts[0]
        common = ("center", "basis", "zero") if fields.is_shared or self.center is not None else ()
        joined: dict[str, Any] = {}
        for name, first in vars(parts[0]).items():
            is_common = name in common or not isinstance(first, Tensor)
            joined[name] = first if is_common else torch.cat([getattr(part, name) for part in parts])
        return Canonical(**joined)

    def parts(self, fields: GradientFields) -> Iterator[Canonical]:
        """Yield the fields in these coordinates, a few units at a time."""
        amplitudes = varying_amplitudes(fields).double().cpu()
        u, m, d = fields.gradients.shape
        for part in slices(u, _units_at_a_time(fields.gradients)):
            if not fields.is_shared or part.start == 0:
                points = (fields.points[None] if fields.is_shared else fields.points[part]).cpu()  # [u or 1, m, d]
                center, basis, inverse = self._frame(points)
                a = _times(_shifted(points, center), basis).float()
                zero = _times(-center if self.origin else torch.zeros_like(center), basis).float()
            scale, values, offsets = amplitudes[part], None, torch.zeros(len(amplitudes[part]))
            g = _times(fields.gradients[part].cpu(), inverse)  # [u, m, d]
            if fields.values is None:  # then the scale is the gradients' own, in these coordinates
                scale = g.double().square().sum(2).mean(1).sqrt()
                scale = torch.where(scale > 0, scale, 1)  # no point differs along any of it: it stays zero
            else:
                values = fields.values[part].double().cpu() / scale[:, None]
                middle = values.mean(1)
                values, offsets = (values - middle[:, None]).float(), middle.float() if self.origin else offsets
            g = (g / scale[:, None, None].to(g)).float()
            yield Canonical(a.expand(len(g), m, d), g, values, center, basis, scale, zero, offsets)

    def _frame(self, points: Tensor) -> tuple[Tensor, Basis, Basis]:
        """Return the center of points, [u or 1, m, d], the basis for them, and the one for gradients."""
        center = points.mean(1, keepdim=True, dtype=torch.float64) if self.center is None else self.center
        if self.invariance != "linear":
            return center, 1 / self.scale, 1 / self.scale * self.scale**2
        shifted = points.double() - center
        covariance = shifted.mT @ shifted / points.shape[1]  # [u, d, d]
        variances, vectors = torch.linalg.eigh(covariance)
        is_there = variances > RANK_TOLERANCE * variances[:, -1:]  # what no point differs along is zero in both bases
        spreads = torch.where(is_there, variances, 1).sqrt()
        shrink, stretch = (torch.where(is_there, factor, 0)[:, None] for factor in (1 / spreads, spreads))
        return center, vectors * shrink, vectors * stretch


def sign_flip(along: Tensor) -> Tensor:
    """Tell to which side numbers lie: by their mean, or by their skewness where the mean is small.

    Args:
        along: What lies along each of k directions, [..., m, k].

    Returns:
        -1 where a direction should be turned round, else 1, [..., k].
    """
    mean, third, size = along.mean(-2), along.pow(3).mean(-2), along.square().mean(-2).sqrt()
    skewness = torch.where(third.abs() > SYMMETRIC * size**3, third, 0)
    return torch.where(torch.where(mean.abs() > MEAN_DECIDES * size, mean, skewness) < 0, -1, 1)


def principal_axes(fields: Canonical, q: int | None = None) -> Tensor:
    """Find the leading eigenvectors of E[g g'], along which the mean gradient, or else its skewness, is positive.

    Args:
        fields: The units.
        q: How many; ``None`` counts those that hold the gradients of three units in four.

    Returns:
        [u, q, d].
    """
    d, leading, counts = fields.gradients.shape[2], [], []
    for g in fields.gradients.split(_units_at_a_time(fields.gradients)):
        shares, vectors = torch.linalg.eigh((g.mT @ g).double())  # [u, d] and [u, d, d], the largest last
        shares = shares.flip(1).cumsum(1)
        counts.append((shares < SHARE * shares[:, -1:]).sum(1) + 1)
        leading.append(vectors.flip(2)[:, :, :MOST_AXES].float())
    q = q or min(int(torch.cat(counts).double().quantile(0.75)), MOST_AXES, d)
    axes = torch.cat(leading)[:, :, :q].contiguous()
    return (axes * sign_flip(fields.gradients @ axes)[:, None]).mT.contiguous()


@torch.no_grad()
def align_axes(
    decoder: nn.Module, embedded: Tensor, fields: Canonical, axes: Tensor, points: Tensor, rounds: int = 2
) -> Tensor:
    """Flip each unit's axes, then turn them, to where the decoder predicts its gradients best.

    An embedding says what the function is, not how it lies in the unit's space. What is invariant to that cannot
    tell, and eigenvectors leave signs open and, where eigenvalues are close, directions too.

    Args:
        decoder: In evaluation mode.
        embedded: [u, k].
        fields: The units.
        axes: To start from, [u, q, d].
        points: Which of the points to look at, [m'].
        rounds: Of turning, each towards the best rotation for the present prediction (Procrustes).

    Returns:
        [u, q, d]. Never worse at these points than the axes to start from.
    """
    a, g, q = fields.points[:, points] @ axes.mT, fields.gradients[:, points] @ axes.mT, axes.shape[1]  # [u, m', q]
    flips = torch.cat([torch.ones(1, q), 1 - 2 * torch.eye(q)])  # signs to try, the first without a flip
    if q <= FULL:
        flips = torch.tensor(list(itertools.product([1.0, -1.0], repeat=q)))
    losses = torch.stack([(decoder(a * s, embedded) * s - g).square().sum((1, 2)) for s in flips], 1)
    turns, best = torch.diag_embed(flips[losses.argmin(1)]), losses.amin(1)  # [u, q, q], [u]
    for _ in range(rounds):
        left, _, right = torch.linalg.svd(decoder(a @ turns.mT, embedded).mT @ g)
        tried = left @ right
        loss = (decoder(a @ tried.mT, embedded) @ tried - g).square().sum((1, 2))
        turns, best = torch.where((loss < best)[:, None, None], tried, turns), torch.minimum(loss, best)
    return turns @ axes


def slices(n: int, size: int) -> list[slice]:
    """Return where chunks of n things lie."""
    return [slice(start, start + size) for start in range(0, n, size)]


def _units_at_a_time(numbers: Tensor) -> int:
    return max(AT_A_TIME // max(numbers[0].numel(), 1), 1)


def _times(rows: Tensor, basis: Basis) -> Tensor:
    return rows.double() @ basis if isinstance(basis, Tensor) else rows * basis


def _shifted(points: Tensor, center: Tensor) -> Tensor:
    """Subtract a center in float64 from points in two steps, so that nothing is lost where the points are float32."""
    rounded = center.to(points)
    return (points - rounded).sub_((center - rounded).to(points))
