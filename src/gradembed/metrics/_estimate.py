"""Means with intervals: over seeds, and over networks within one result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from torch import Tensor

from gradembed import _validation
from gradembed.metrics._inputs import Array, numbers

N_BOOTSTRAP = 2000
BLOCK = 2_000_000  # draws at a time


@dataclass(frozen=True, repr=False)
class Estimate:
    """A mean with an interval, printed as ``0.97 [0.95, 0.99]``.

    A format applies to each number: ``f"{estimate:.3f}"``. One value has no interval: its bounds are infinite, and it
    is printed as ``0.97 (n=1)``.

    Attributes:
        mean: The mean.
        low: Lower bound of the interval.
        high: Upper bound.
        n: Independent values (seeds, networks) that it rests on.
        confidence: Of the interval.

    Example:
        >>> import gradembed as ge
        >>> estimate = ge.metrics.Estimate(mean=0.97, low=0.95, high=0.99, n=5)
        >>> print(estimate, f"or {estimate:.3f}", estimate.n)
        0.97 [0.95, 0.99] or 0.970 [0.950, 0.990] 5
    """

    mean: float
    low: float
    high: float
    n: int
    confidence: float = 0.95

    def __float__(self) -> float:
        return self.mean

    def __format__(self, spec: str) -> str:
        spec = spec or ".2f"
        if self.n == 1:
            return f"{self.mean:{spec}} (n=1)"
        return f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def __str__(self) -> str:
        return format(self)

    def __repr__(self) -> str:
        return f"Estimate({self}, n={self.n}, {self.confidence:.0%})" if self.n > 1 else f"Estimate({self})"


def spread(
    values: Array | Sequence[float], confidence: float = 0.95, bounds: tuple[float, float] | None = None
) -> Estimate:
    """Average over independent runs, with Student's t interval of the mean.

    For few values a bootstrap would be far too narrow: it cannot leave their range. The t interval assumes that the
    values are about normal; for shares it can reach beyond 0 and 1, where ``bounds`` cuts it.

    Args:
        values: One number per seed (or other independent run), [n].
        confidence: Of the interval.
        bounds: The least and the greatest value that the mean can have, say ``(0, 1)`` for an accuracy.

    Returns:
        Mean and interval; the interval is not for comparing two methods run on the same seeds: give it their
        differences.

    Raises:
        ValueError: If the values are no non-empty, finite [n], or a bound or the confidence is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import gradembed as ge
        >>> ge.metrics.spread([0.96, 0.98, 0.97], bounds=(0, 1))
        Estimate(0.97 [0.95, 0.99], n=3, 95%)
    """
    _validation.check_number("confidence", confidence, 0.5, 0.9999)
    if not isinstance(values, Tensor | np.ndarray):
        items = _validation.check_sequence("values", values, "a sequence of numbers")
        values = np.array(items) if all(np.ndim(item) == 0 for item in items) else np.empty((0, 0))
    array = numbers("values", values, "n")
    low, high = _bounds(bounds)
    if array.min() < low or array.max() > high:
        got = f"values from {array.min():g} to {array.max():g}"
        _validation.refuse("bounds", "hold all values between them", got, "Widen them, or leave them out")
    n, mean = len(array), float(array.mean())
    half = math.inf
    if n > 1:
        half = float(stdtrit(n - 1, (1 + confidence) / 2) * array.std(ddof=1) / math.sqrt(n))
    return Estimate(mean, max(mean - half, low), min(mean + half, high), n, float(confidence))


def _bounds(bounds: object) -> tuple[float, float]:
    """Refuse what is no pair of numbers in ascending order.

    Returns:
        The pair; infinite ones for ``None``.
    """
    if bounds is None:
        return -math.inf, math.inf
    pair = _validation.check_sequence("bounds", bounds, "a pair of numbers")
    for bound in pair:
        _validation.check_number("bounds", bound, -math.inf)
    if len(pair) != 2 or pair[0] >= pair[1]:
        _validation.refuse("bounds", "be a lower and an upper bound", _validation.describe(bounds), "Pass (low, high)")
    return float(pair[0]), float(pair[1])


def bootstrap_share(
    scores: NDArray[np.float64], groups: NDArray[np.int64], confidence: float, seed: int
) -> tuple[float, float]:
    """Draw whole groups with replacement and take quantiles of the units' mean score.

    Returns:
        Lower and upper bound; 0 and 1 for a single group, which says nothing about others.
    """
    sums, counts = np.bincount(groups, scores), np.bincount(groups)
    sums, counts = sums[counts > 0], counts[counts > 0]
    n = len(counts)
    if n == 1:
        return 0.0, 1.0
    rng, means = np.random.default_rng(seed), []
    step = max(1, BLOCK // n)
    for start in range(0, N_BOOTSTRAP, step):
        drawn = rng.integers(0, n, (min(step, N_BOOTSTRAP - start), n))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def check_common(seed: Any, confidence: Any) -> None:
    """Refuse a seed or a confidence out of range."""
    _validation.check_integer("seed", seed, 0)
    _validation.check_number("confidence", confidence, 0.5, 0.9999)


def share(value: float, interval: tuple[float, float]) -> str:
    """Print a share with its interval.

    Returns:
        Text such as ``0.97 [0.95, 0.99]``.
    """
    return f"{value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"
