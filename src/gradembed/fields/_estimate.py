"""The control: gradients from points and values alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from sklearn.metrics.pairwise import euclidean_distances

from gradembed._validation import refuse
from gradembed.fields._fields import GradientFields, check_fields

SCALES = (0.5, 2.0, 8.0)  # squared widths of the kernel, in units of the points' median squared distance
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def estimated_fields(fields: GradientFields) -> GradientFields:
    """Estimate the units' gradients from their points and values, by kernel ridge regression.

    What an embedding of true gradients has to beat: whoever can run a unit at many points needs no gradients to know
    its function, and the estimate says how far its values go. A Gaussian kernel exp(-|a - b|² / 2h) is fitted to each
    unit's values; width and ridge are chosen for each unit by the exact leave-one-out error (Rifkin and Lippert 2007,
    Notes on regularized least squares). The estimate is the gradient of the fit.

    Args:
        fields: With values, at least 3 points of each unit. Their gradients are not looked at.

    Returns:
        The same units, points and values with estimated gradients, without regions; and ``fit_r2``, [u]: the share of
        the variance of a unit's values that is predicted at points left out, 0 or below where nothing is. Time
        grows with the third power of the points, once for all units that share them.

    Raises:
        ValueError: If there are no values, or too few points.
        TypeError: If ``fields`` are none.

    Example:
        >>> import torch, gradembed as ge
        >>> x = 2 * torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) - 1
        >>> true = ge.GradientFields(x, gradients=(2 * x)[None], values=x.square().sum(1)[None])
        >>> estimated = ge.estimated_fields(true)
        >>> float(estimated.fit_r2) > 0.99
        True
        >>> error = (estimated.gradients - true.gradients).square().mean() / true.gradients.square().mean()
        >>> bool(error < 0.01)
        True
    """
    check_fields("fields", fields, least_points=3)
    if fields.values is None:
        refuse("fields", "have values, which gradients are estimated from", "none", "Take them with gradient_fields")
    points, values = fields.points.double().numpy(force=True), fields.values.double().numpy(force=True)
    gradients, r2 = np.empty(fields.gradients.shape), np.empty(len(fields))
    alike: dict[bytes, list[int]] = {}  # units with the same points
    for i in range(len(fields)):
        alike.setdefault(b"" if fields.is_shared else points[i].tobytes(), []).append(i)
    for units in alike.values():
        gradients[units], r2[units] = _fitted(points if fields.is_shared else points[units[0]], values[units])
    found, share = (torch.from_numpy(array).to(fields.gradients) for array in (gradients, r2))
    return replace(fields, gradients=found, regions=None, fit_r2=share)


def _fitted(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return gradients, [u, m, d], and the share of the variance predicted, [u], of values [u, m] at points [m, d]."""
    u, m = y.shape
    mean, spread = y.mean(1, keepdims=True), y.std(1, keepdims=True)
    varies = (spread > 1e-7 * np.abs(y).max(1, keepdims=True))[:, 0]
    target = ((y - mean) / np.where(spread > 0, spread, 1))[varies].T  # [m, v]
    squared = euclidean_distances(x, squared=True)
    median = np.median(squared[np.triu_indices(m, 1)]) or 1.0
    gradients, r2 = np.zeros((u, *x.shape)), np.zeros(u)
    best, places = np.full(int(varies.sum()), -np.inf), np.flatnonzero(varies)
    for h in (scale * median for scale in SCALES if len(places)):
        kernel = np.exp(-squared / (2 * h))
        eigenvalues, vectors = eigh(kernel)
        along = vectors.T @ target  # [m, v]
        for ridge in RIDGES:
            inverse = 1 / (np.clip(eigenvalues, 0, None) + ridge)
            weights = vectors @ (inverse[:, None] * along)
            left_out = weights / (vectors**2 @ inverse)[:, None]  # error of the fit without the point
            score = -(left_out**2).mean(0)
            for k in np.flatnonzero(score > best):
                pull = kernel * weights[:, k]  # [m, m]: of each point on each
                gradients[places[k]] = (pull @ x - pull.sum(1, keepdims=True) * x) / h * spread[places[k]]
                best[k] = score[k]
    r2[places] = 1 + best
    return gradients, r2
