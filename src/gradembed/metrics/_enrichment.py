"""Permutation tests: would labels dealt at random within networks do as well?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradembed import _validation
from gradembed.metrics._inputs import Array, Labels, codes, labels
from gradembed.metrics._retrieval import retrieval


@dataclass(frozen=True, repr=False)
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
        if self.null_mean == 0:
            return 1.0 if self.observed == 0 else math.inf
        return self.observed / self.null_mean

    def __repr__(self) -> str:
        least = 1 / (self.n_permutations + 1)
        sign = "≤" if self.p_value <= least * (1 + 1e-9) else "="
        return (
            f"Enrichment(observed {self.observed:.2f}, null {self.null_mean:.2f} ± {self.null_std:.2g}, "
            f"ratio {self.ratio:.2f}, effect size {self.effect_size:.1f}, p {sign} {self.p_value:.2g}, "
            f"{self.n_permutations:,} permutations)"
        )


def permutation_null(
    statistic: Callable[[NDArray[Any]], float],
    y: Labels,
    groups: Labels | None = None,
    *,
    n_permutations: int = 1000,
    seed: int = 0,
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
    _check_function(statistic)
    true = labels("y", y, None)
    n = len(true)
    places = np.zeros(n, dtype=np.int64) if groups is None else codes("groups", groups, n)
    _validation.check_integer("n_permutations", n_permutations, 19, "With fewer, no p-value reaches 0.05")
    _validation.check_integer("seed", seed, 0)
    kinds = np.unique(np.stack([places, codes("y", true, n)]), axis=1)
    if kinds.shape[1] == places.max() + 1:
        got, remedy = "one label in each", "Permute within larger groups, or among all with groups=None"
        _validation.refuse("y", "differ within some group", got, remedy)
    rng, order = np.random.default_rng(seed), np.argsort(places, kind="stable")
    observed, null = _number(statistic(true)), np.empty(n_permutations)
    for i in range(n_permutations):
        permuted = np.empty_like(true)
        permuted[order] = true[np.lexsort((rng.random(n), places))]
        null[i] = _number(statistic(permuted))
    return _summary(observed, null)


def enrichment(
    z: Array,
    y: Labels,
    groups: Labels,
    n_permutations: int = 1000,
    seed: int = 0,
    *,
    exclude: Sequence[Labels] = (),
    within: Labels | None = None,
    k: int = 1,
) -> Enrichment:
    """Test whether nearest neighbours in other networks share a label more often than permuted labels would.

    The neighbours stay what they are; the labels of each network are dealt to its units anew. So the null keeps
    how many units of each label a network has, and which networks lie close to each other.

    Args:
        z: Embeddings, [u, k].
        y: Labels, [u].
        groups: The network that each unit is from, [u].
        n_permutations: Permutations to draw, at least 19.
        seed: Of the permutations.
        exclude: Further labels, each [u], that a neighbour must not share with the unit, as in `retrieval`.
        within: Permute labels among units that share this, [u], say network and task together; ``None`` for the
            network.
        k: Neighbours of each unit.

    Returns:
        The share of pairs (unit, neighbour) with equal labels, beside the permuted ones.

    Raises:
        ValueError: As `retrieval` and `permutation_null`.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> y, network = torch.arange(60) % 3, torch.arange(60) // 6
        >>> z = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
        >>> ge.metrics.enrichment(z, y, network, n_permutations=99).p_value > 0.05
        True
    """
    found = retrieval(z, y, groups, exclude=exclude, k=k)
    units, neighbours = found.queries.numpy()[:, None], found.neighbours.numpy()

    def share_of_equal(given: NDArray[Any]) -> float:
        return float((given[units] == given[neighbours]).mean())

    numbered = codes("y", y, len(units))
    return permutation_null(
        share_of_equal,
        numbered,
        groups if within is None else codes("within", within, len(numbered)),
        n_permutations=n_permutations,
        seed=seed,
    )


def _check_function(statistic: object) -> None:
    """Refuse what cannot be called."""
    if not callable(statistic):
        remedy = "Pass a function of labels"
        _validation.refuse("statistic", "be a function", _validation.describe(statistic), remedy, TypeError)


def _number(value: Any) -> float:
    """Refuse statistics that are no finite number.

    Returns:
        The number.
    """
    number = float(value) if np.ndim(value) == 0 and not isinstance(value, str | type(None)) else math.nan
    if not math.isfinite(number):
        _validation.refuse("statistic", "give a finite number", _validation.describe(value), "Correct the function")
    return number


def _summary(observed: float, null: NDArray[np.float64]) -> Enrichment:
    """Describe where a value lies among permuted ones; values equal up to rounding count as reached.

    Returns:
        The result.
    """
    mean, std = float(null.mean()), float(null.std())
    slack = 1e-12 * max(abs(observed), float(np.abs(null).max()))
    if std <= slack:
        std = 0.0
    distance = observed - mean
    without_spread = 0.0 if abs(distance) <= slack else math.copysign(math.inf, distance)
    effect = distance / std if std else without_spread
    p_value = (1 + int((null >= observed - slack).sum())) / (1 + len(null))
    return Enrichment(observed, mean, std, p_value, effect, len(null))
