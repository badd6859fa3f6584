"""How far a number can be trusted: intervals over seeds and networks, and labels dealt at random."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from scipy.stats import bootstrap
from torch import Tensor

from gradembed._validation import as_categories, as_doubles, as_integer, as_labels, as_list, as_number, describe, refuse

Array = Tensor | NDArray[Any] | Sequence[Any]
Labels = Tensor | NDArray[Any] | Sequence[Any]
Statistic = Callable[[NDArray[Any]], float]
BLOCK = 2_000_000  # draws at a time


@dataclass(frozen=True, repr=False, eq=False)
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
        around = "(n=1)" if self.n == 1 else f"[{self.low:{spec}}, {self.high:{spec}}]"
        return f"{self.mean:{spec}} {around}"

    def __str__(self) -> str:
        return format(self)

    def __repr__(self) -> str:
        return f"Estimate({self}, n={self.n}, {self.confidence:.0%})" if self.n > 1 else f"Estimate({self})"


def spread(values: Array, confidence: float = 0.95, bounds: tuple[float, float] | None = None) -> Estimate:
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
    confidence = float(as_number("confidence", confidence, 0.5, 0.9999))
    array = as_doubles("values", values, "n")
    pair = [-math.inf, math.inf]
    if bounds is not None:
        pair = [float(as_number("bounds", x, -math.inf)) for x in as_list("bounds", bounds, "a pair of numbers")]
    if len(pair) != 2 or pair[0] >= pair[1]:
        refuse("bounds", "be a lower and an upper bound", describe(bounds), "Pass (low, high)")
    low, high = pair
    if array.min() < low or array.max() > high:
        got = f"values from {array.min():g} to {array.max():g}"
        refuse("bounds", "hold all values between them", got, "Widen them, or leave them out")
    n, mean, half = len(array), float(array.mean()), math.inf
    if n > 1:
        half = float(stdtrit(n - 1, (1 + confidence) / 2) * array.std(ddof=1) / math.sqrt(n))
    return Estimate(mean, max(mean - half, low), min(mean + half, high), n, confidence)


def bootstrap_share(scores: NDArray[np.float64], groups: NDArray[np.int64], confidence: float, seed: int) -> Estimate:
    """Draw whole groups with replacement and take quantiles of the units' mean score.

    Returns:
        The mean and its bounds: 0 and 1 for a single group, which says nothing about others.
    """
    sums, counts = np.bincount(groups, scores), np.bincount(groups)
    sums, counts = sums[counts > 0], counts[counts > 0]
    if len(counts) == 1:
        return Estimate(float(scores.mean()), 0.0, 1.0, 1, confidence)
    drawn = bootstrap(
        (sums, counts), lambda sums, counts, axis: sums.sum(axis) / counts.sum(axis), n_resamples=2000, paired=True,
        method="percentile", confidence_level=confidence, batch=max(1, BLOCK // len(counts)),
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Estimate(float(scores.mean()), float(drawn.low), float(drawn.high), len(counts), confidence)


@dataclass(frozen=True, repr=False, eq=False)
class Enrichment:
    """A statistic beside what it is when the labels are permuted.

    Attributes:
        observed: The statistic of the true labels.
        null_mean: Its mean over the permutations: chance.
        null_std: Its standard deviation over the permutations.
        p_value: Share of permutations that reach the observed value, the true labels counted as one of them: at least
            1 / (``n_permutations`` + 1). One-sided: small where the observed value is *greater* than chance.
        effect_size: (observed - null_mean) / null_std. It grows with the number of units; ``ratio`` does not.
            0 where the null has no spread and the observed value is its mean, infinite where it has none otherwise.
        n_permutations: Permutations drawn.

    Example:
        >>> import torch, gradembed as ge
        >>> y, network = torch.arange(60) % 3, torch.arange(60) // 6
        >>> ge.metrics.enrichment(y[:, None] + 0.1 * torch.randn(60, 2), y, network, n_permutations=99)
        Enrichment(observed 1.00, null 0.3... ± ..., ratio ..., effect size ..., p ≤ 0.01, 99 permutations)
    """

    observed: float
    null_mean: float
    null_std: float
    p_value: float
    effect_size: float
    n_permutations: int

    @property
    def ratio(self) -> float:
        """Observed over chance: 1 is no enrichment; infinite where chance is 0 and the observed value is not."""
        at_zero = 1.0 if self.observed == 0 else math.inf
        return self.observed / self.null_mean if self.null_mean else at_zero

    def __repr__(self) -> str:
        sign = "≤" if self.p_value <= (1 + 1e-9) / (self.n_permutations + 1) else "="  # its least value
        null = f"null {self.null_mean:.2f} ± {self.null_std:.2g}, ratio {self.ratio:.2f}"
        test = f"effect size {self.effect_size:.1f}, p {sign} {self.p_value:.2g}, {self.n_permutations:,} permutations"
        return f"Enrichment(observed {self.observed:.2f}, {null}, {test})"


def permutation_null(
    statistic: Statistic, y: Labels, groups: Labels | None = None, *, n_permutations: int = 1000, seed: int = 0
) -> Enrichment:
    """Compare a statistic of labels with its values for labels permuted within each network.

    Permuting within networks leaves everything as it is that distinguishes the networks: what is tested is whether
    the labels belong to these units and not to others of the same network.

    Args:
        statistic: A function of labels, [u], that gives a number, greater where there is more of what is looked for.
        y: The true labels, [u]; passed on as an array.
        groups: Labels are permuted among the units of each group, [u]; ``None`` permutes them among all.
        n_permutations: Permutations to draw, at least 19 (with fewer, no p reaches 0.05).
        seed: Of the permutations.

    Returns:
        The observed value beside mean, spread and upper tail of the permuted ones.

    Raises:
        ValueError: If shapes do not fit, a number is out of range, the labels are the same throughout each group, or
            the statistic is not finite.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> y = torch.arange(30) % 3
        >>> result = ge.metrics.permutation_null(lambda labels: float((labels == y.numpy()).mean()), y)
        >>> result.observed, round(result.null_mean, 1)
        (1.0, 0.3)
    """
    if not callable(statistic):
        refuse("statistic", "be a function", describe(statistic), "Pass a function of labels", TypeError)
    true = as_categories("y", y)
    n = len(true)
    places = np.zeros(n, dtype=np.int64) if groups is None else as_labels("groups", groups, n)
    n_permutations, seed = as_integer("n_permutations", n_permutations, 19), as_integer("seed", seed, 0)
    kinds = np.unique(np.stack([places, as_labels("y", true, n)]), axis=1)
    if kinds.shape[1] == places.max() + 1:
        remedy = "Permute within larger groups, or among all with groups=None"
        refuse("y", "differ within some group", "one label in each", remedy)

    def score(labels: NDArray[Any]) -> float:
        value: Any = statistic(labels)
        number = float(value) if np.ndim(value) == 0 and not isinstance(value, str | type(None)) else math.nan
        if not math.isfinite(number):
            refuse("statistic", "give a finite number", describe(value), "Correct the function")
        return number

    rng, order = np.random.default_rng(seed), np.argsort(places, kind="stable")
    observed, null = score(true), np.empty(n_permutations)
    for i in range(n_permutations):
        permuted = np.empty_like(true)
        permuted[order] = true[np.lexsort((rng.random(n), places))]  # group by group, in random order
        null[i] = score(permuted)
    mean, std, distance = float(null.mean()), float(null.std()), observed - float(null.mean())
    slack = 1e-12 * max(abs(observed), float(np.abs(null).max()))  # values equal up to rounding count as reached
    p_value = (1 + int((null >= observed - slack).sum())) / (1 + n_permutations)
    effect = math.copysign(math.inf, distance) if abs(distance) > slack else 0.0
    effect, std = (distance / std, std) if std > slack else (effect, 0.0)
    return Enrichment(observed, mean, std, p_value, effect, n_permutations)


def mantel(
    a: Array, b: Array, control: Array | None = None, *, n_permutations: int = 1000, seed: int = 0
) -> Enrichment:
    """Test whether two patterns over pairs of units agree more than by chance (Mantel's permutation test).

    Pairs are not independent, each unit is in many. So whole units of one pattern are permuted, rows with columns
    (Mantel 1967, The detection of disease clustering and a generalized regression approach).

    Args:
        a: A number for every pair of units, [u, u], symmetric: say mean cosines at a layer.
        b: Another, say the correlation of the outputs.
        control: A third, [u, u], or several, [c, u, u], whose share is taken off both: the partial correlation is
            tested (Smouse, Long and Sokal 1986, Multiple regression and correlation extensions of the Mantel test).
            For patterns of two networks pass each network's own control, not their mean: the mean holds the other's
            noise, and makes patterns that have nothing in common oppose each other.
        n_permutations: Permutations to draw, at least 19.
        seed: Of the permutations.

    Returns:
        Pearson's correlation over the pairs of different units, beside what it is for permuted units; one-sided.

    Raises:
        ValueError: If the matrices do not fit each other, have fewer than 4 units, are not symmetric, or do not vary
            (beyond the control).
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> cosine = torch.corrcoef(torch.randn(8, 20))
        >>> ge.metrics.mantel(cosine, 2 * cosine + 1, n_permutations=99)
        Enrichment(observed 1.00, null ... p ≤ 0.01, 99 permutations)
    """
    read = {name: as_doubles(name, value, "u v") for name, value in (("a", a), ("b", b))}
    u, above = len(read["a"]), np.triu_indices(len(read["a"]), 1)
    if control is not None:
        held = as_doubles("control", control, "u v | c u v")
        read["control"] = held.reshape(-1, *held.shape[-2:])
    for name, table in read.items():
        if table.shape[-2:] != (u, u) or not np.allclose(table, table.swapaxes(-1, -2), atol=1e-6) or u < 4:
            rule, got = "be a symmetric matrix of the same 4 or more units", f"shape {list(table.shape)}"
            refuse(name, rule, got, "Pass [u, u] with [i, j] equal to [j, i]")
    controls = read.get("control", np.empty((0, u, u)))
    known = np.stack([np.ones(len(above[0])), *controls[:, *above]], 1)  # [pairs, 1 + c]

    def beyond(name: str, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        left: NDArray[np.float64] = numbers - known @ np.linalg.lstsq(known, numbers, rcond=None)[0]
        if np.linalg.norm(left) <= 1e-9 * np.linalg.norm(numbers):
            refuse(name, "vary over pairs, beyond what the control says", "a pattern that does not", "Leave it out")
        return left / float(np.linalg.norm(left))

    other = beyond("b", read["b"][above])

    def agreement(order: NDArray[np.int64]) -> float:
        return float(beyond("a", read["a"][np.ix_(order, order)][above]) @ other)

    return permutation_null(agreement, np.arange(u), n_permutations=n_permutations, seed=seed)
