"""Linear probes: can the class of a unit be read off its embedding, in networks that the probe never saw?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from gradembed import _validation
from gradembed.metrics._estimate import Estimate, bootstrap_share, check_common, share
from gradembed.metrics._inputs import Array, Labels, classes, codes, labels, numbers


@dataclass(frozen=True, repr=False)
class ProbeScore:
    """How often a linear probe names the class of units that it was not trained on.

    Attributes:
        accuracy: Share of the tested units that it names correctly: 1 is perfect.
        chance: Share of the commonest class among the tested units: what always giving the same answer can reach.
            A random answer is right 1 / ``n_classes`` of the time; with equal classes the two are the same.
        folds: Accuracy in each fold.
        interval: Bootstrap interval of the accuracy over networks (over units where no groups were given). Where
            every unit is right it has no width, though the next network may differ: with n networks, the share of
            networks with errors is below about 3/n. With one network it is (0, 1).
        n_classes: Number of classes.
        n_groups: Number of networks that the tested units are from; of units, if no groups were given.
        grouped: Whether networks were kept apart; if not, the accuracy may come from recognising the network.
        correct: Whether each tested unit was named correctly, [u].
        confidence: Of the interval.

    Example:
        >>> import torch, gradembed as ge
        >>> y = torch.arange(40) % 2
        >>> ge.metrics.linear_probe(y[:, None] + 0.1 * torch.randn(40, 3), y, groups=torch.arange(40) // 4)
        ProbeScore(accuracy 1.00 [1.00, 1.00], chance 0.50, 2 folds, held-out networks: 10)
    """

    accuracy: float
    chance: float
    folds: tuple[float, ...]
    interval: tuple[float, float]
    n_classes: int
    n_groups: int
    grouped: bool
    correct: Bool[Tensor, " u"]
    confidence: float = 0.95

    @property
    def estimate(self) -> Estimate:
        """The accuracy with its interval, for printing."""
        return Estimate(self.accuracy, *self.interval, self.n_groups, self.confidence)

    def __repr__(self) -> str:
        folds = f"{len(self.folds)} fold{'s' * (len(self.folds) > 1)}"
        kind = "held-out networks" if self.grouped else "not split by network, held-out units"
        accuracy = share(self.accuracy, self.interval)
        return f"ProbeScore(accuracy {accuracy}, chance {self.chance:.2f}, {folds}, {kind}: {self.n_groups})"


def linear_probe(
    z: Array,
    y: Labels,
    groups: Labels | None = None,
    seed: int = 0,
    *,
    n_folds: int = 2,
    confidence: float = 0.95,
) -> ProbeScore:
    """Train a logistic regression on the units of some networks and test it on those of the others.

    Networks are dealt at random into folds that have about equal shares of each class; each fold is tested once, by a
    probe trained on the rest. So with two folds the probe is trained on half of the networks and tested on the other
    half, both ways. Features are standardised by the training part; the penalty is scikit-learn's (L2, C = 1).

    Args:
        z: Embeddings, [u, k].
        y: Their classes, [u].
        groups: The network that each unit is from, [u]. ``None`` holds out units, not networks: right only if each
            unit is from a network of its own.
        seed: Of the folds and the bootstrap.
        n_folds: Number of folds, from 2 to 10.
        confidence: Of the interval.

    Returns:
        Accuracy beside chance. A random embedding is at chance up to 2·sqrt(chance·(1 - chance) / n), with n the
        number of networks if their units stand or fall together, and of units if they do not.

    Raises:
        ValueError: If shapes do not fit, numbers are not finite or out of range, there is one class, fewer networks
            than folds, or a class that too few networks have to be in training and test.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> y, network = torch.arange(60) % 3, torch.arange(60) // 6
        >>> z = torch.nn.functional.one_hot(y) + 0.1 * torch.randn(60, 3)
        >>> ge.metrics.linear_probe(z, y, groups=network).accuracy
        1.0
        >>> ge.metrics.linear_probe(torch.randn(60, 3), y, groups=network).accuracy < 0.7
        True
    """
    points = numbers("z", z)
    y_codes = classes("y", y, len(points))
    members = np.arange(len(points)) if groups is None else codes("groups", groups, len(points))
    check_common(seed, confidence)
    _validation.check_integer("n_folds", n_folds, 2)
    _validation.check_number("n_folds", n_folds, 2, 10)
    correct, folds = np.zeros(len(points), dtype=bool), []
    for train, test in _folds(y_codes, members, groups is not None, n_folds, seed):
        correct[test] = _probe().fit(points[train], y_codes[train]).predict(points[test]) == y_codes[test]
        folds.append(float(correct[test].mean()))
    return _score(correct, y_codes, members, tuple(folds), groups is not None, seed, confidence)


def transfer_probe(
    z_train: Array,
    y_train: Labels,
    z_test: Array,
    y_test: Labels,
    *,
    groups_train: Labels | None = None,
    groups_test: Labels | None = None,
    seed: int = 0,
    confidence: float = 0.95,
) -> ProbeScore:
    """Train a logistic regression on some units and test it on others, of another task or from elsewhere.

    The scale of the features is that of the training units, in the test too: a task whose embeddings are shifted
    counts against the embedding.

    Args:
        z_train: Embeddings to train on, [u, k].
        y_train: Their classes, [u].
        z_test: Embeddings to test on, [v, k].
        y_test: Their classes, [v], each of them found in ``y_train``.
        groups_train: The network that each training unit is from, [u]. Given with ``groups_test``, no network may be
            on both sides.
        groups_test: The network that each tested unit is from, [v], for the interval; ``None`` counts every unit
            as one of its own, and the interval comes out too narrow if they are not.
        seed: Of the bootstrap.
        confidence: Of the interval.

    Returns:
        Accuracy beside chance, which is the share of the commonest class among the tested units.

    Raises:
        ValueError: If shapes do not fit, numbers are not finite or out of range, there is one class to train on, a
            tested class is not among those, or a network is on both sides.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> y = torch.arange(40) % 2
        >>> z = y[:, None] + 0.1 * torch.randn(40, 3)
        >>> ge.metrics.transfer_probe(z[:20], y[:20], z[20:], y[20:]).accuracy
        1.0
    """
    points, tested = numbers("z_train", z_train), numbers("z_test", z_test)
    if points.shape[1] != tested.shape[1]:
        rule = f"have as many columns as z_train, {points.shape[1]}"
        _validation.refuse("z_test", rule, tested.shape[1], "Embed both with the same embedder")
    check_common(seed, confidence)
    trained, y_codes = _common_classes(y_train, len(points), y_test, len(tested))
    members = np.arange(len(tested)) if groups_test is None else codes("groups_test", groups_test, len(tested))
    _check_apart(groups_train, len(points), groups_test, len(tested))
    correct = _probe().fit(points, trained).predict(tested) == y_codes
    return _score(
        correct,
        y_codes,
        members,
        (float(correct.mean()),),
        groups_test is not None,
        seed,
        confidence,
        n_classes=int(trained.max()) + 1,
    )


def _probe() -> Pipeline:
    """Standardise, then separate linearly.

    Returns:
        The untrained probe.
    """
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000))


def _folds(
    y: NDArray[np.int64], groups: NDArray[np.int64], grouped: bool, n_folds: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Deal groups into folds, stratified by class.

    Yields:
        Training and test units.
    """
    what = "networks" if grouped else "units"
    if groups.max() + 1 < n_folds:
        got = f"{groups.max() + 1} for {n_folds} folds"
        _validation.refuse("groups", "name as many networks as folds", got, "Add networks, or lower n_folds")
    homes = np.bincount(np.unique(np.stack([y, groups]), axis=1)[0])
    remedy = "Leave rare classes out, add networks, or try another seed"
    if homes.min() < n_folds:
        got = f"one in {homes.min()}"
        _validation.refuse("y", f"have every class in at least {n_folds} {what}", got, remedy)
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    for train, test in kind(n_folds, shuffle=True, random_state=seed).split(y, y, groups if grouped else None):
        if len(np.unique(y[train])) < y.max() + 1:
            _validation.refuse("y", "leave every class in every training part", "a part without one", remedy)
        yield train, test


def _score(
    correct: NDArray[np.bool_],
    y: NDArray[np.int64],
    groups: NDArray[np.int64],
    folds: tuple[float, ...],
    grouped: bool,
    seed: int,
    confidence: float,
    n_classes: int | None = None,
) -> ProbeScore:
    """Put the numbers of tested units together.

    Returns:
        The score.
    """
    return ProbeScore(
        accuracy=float(correct.mean()),
        chance=float(np.bincount(y).max() / len(y)),
        folds=folds,
        interval=bootstrap_share(correct.astype(float), groups, confidence, seed),
        n_classes=int(y.max()) + 1 if n_classes is None else n_classes,
        n_groups=int(groups.max()) + 1,
        grouped=grouped,
        correct=torch.from_numpy(correct),
        confidence=float(confidence),
    )


def _common_classes(
    y_train: object, n_train: int, y_test: object, n_test: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the classes of two sides alike.

    Returns:
        Numbers of the training and of the tested units.
    """
    trained = classes("y_train", y_train, n_train)
    known, asked = np.unique(labels("y_train", y_train, n_train)), labels("y_test", y_test, n_test)
    foreign = set(asked.tolist()) - set(known.tolist())
    if foreign:
        got = ", ".join(sorted(map(repr, foreign))[:3]) + (", ..." if len(foreign) > 3 else "")
        _validation.refuse("y_test", "hold classes of y_train only", got, "Leave those units out, or train on them too")
    return trained, np.searchsorted(known, asked).astype(np.int64)


def _check_apart(groups_train: object, n_train: int, groups_test: object, n_test: int) -> None:
    """Refuse a network on both sides, where both are named."""
    sides = [
        set() if value is None else set(labels(name, value, n).tolist())
        for name, value, n in (("groups_train", groups_train, n_train), ("groups_test", groups_test, n_test))
    ]
    shared = len(sides[0] & sides[1])
    if shared:
        rule, got = "share no network with groups_train", f"{shared} on both sides"
        _validation.refuse("groups_test", rule, got, "Train and test on different networks")
