"""Several independent copies of one task, side by side in one data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64  # noqa: F401  the inherited fields' shapes are looked up here
from torch import Tensor

from gradembed import _validation
from gradembed.datasets._split import Split


@dataclass(frozen=True, repr=False)
class StackedSplit(Split):
    """A split whose rows hold one sample of each of several copies of a task, paired at random.

    Everything that takes a `Split` takes it. Columns i·d to (i+1)·d of ``x`` and column i of ``y`` belong to copy i.

    Attributes:
        x_train: Training samples, the copies side by side, [n, t·d].
        y_train: Their targets, one column per copy, [n, t].
        x_test: Held-out samples, [n, t·d].
        y_test: Their targets, [n, t].
        name: Short name of the data set.
        source: Where the data come from, and how they were stacked.
        base: The split that was stacked.
        features: Columns of the base that each copy holds.
        seed: Of the pairing.

    Example:
        >>> import gradembed as ge
        >>> stacked = ge.datasets.stack_tasks(ge.datasets.load_iris(), n_tasks=3)
        >>> stacked.n_tasks, stacked.base.name, stacked.features
        (3, 'iris', (0, 1, 2, 3))
    """

    base: Split
    features: tuple[int, ...]
    seed: int

    @property
    def n_tasks(self) -> int:
        """Number of copies."""
        return self.y_train.shape[1]

    def resample(self, seed: int) -> StackedSplit:
        """Pair the same samples anew.

        Args:
            seed: Of the new pairing.

        Returns:
            The same stacking of the same base with other pairs, of as many rows.

        Raises:
            ValueError: If ``seed`` is negative.
            TypeError: If it is no integer.

        Example:
            >>> import gradembed as ge
            >>> stacked = ge.datasets.stack_tasks(ge.datasets.load_iris())
            >>> again = stacked.resample(1)
            >>> bool((again.y_train == stacked.y_train).all())
            False
        """
        return stack_tasks(self.base, self.n_tasks, self.features, seed, len(self.x_train))


def stack_tasks(
    split: Split,
    n_tasks: int = 2,
    features: Sequence[int] | None = None,
    seed: int = 0,
    n_samples: int | None = None,
) -> StackedSplit:
    """Put copies of a task side by side whose samples are independent of each other: tasks with nothing in common.

    Each copy's samples are a random order of its own of the split's samples, training part from training
    part and test part from test part. So what a copy's columns hold says nothing about another copy, while each
    copy alone is the task as it was. A network that learns all copies has no reason to share anything
    between them except room, and learns the same function several times.

    Args:
        split: The task, with one target per sample: classes or values, [n].
        n_tasks: Number of copies; 1 gives the task alone in the same form, for comparison.
        features: Columns of ``x`` that each copy holds, in this order; ``None`` for all.
        seed: Of the pairing.
        n_samples: Rows of the training part; ``None`` for as many as the split has. More than that
            appends further random orders, and all samples of a copy occur equally often, up to one. The test part
            always holds every test sample of each copy once.

    Returns:
        A split with ``x`` [n, t·d] and ``y`` [n, t], which can be paired anew. Its outputs are t equal blocks for
        classes (see `train`), and one column per task for values.

    Raises:
        ValueError: If a number is out of range, ``features`` is empty, repeats a column or names one that is not
            there, or the split has more than one target per sample.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import gradembed as ge
        >>> stacked = ge.datasets.stack_tasks(ge.datasets.load_iris(), features=[0, 2, 3])
        >>> stacked.name, stacked.x_train.shape, stacked.y_train.shape
        ('iris x 2', torch.Size([120, 6]), torch.Size([120, 2]))
        >>> network = ge.MLP([6, 64, 64, 2 * 3], seed=0)  # three classes per copy
    """
    _check_base(split)
    _validation.check_integer("n_tasks", n_tasks, 1)
    _validation.check_integer("seed", seed, 0)
    if n_samples is not None:
        _validation.check_integer("n_samples", n_samples, 1)
    columns = _check_features(features, split.x_train.shape[1])
    rng = np.random.default_rng(seed)
    # The test part comes first, so that it does not depend on the size of the training part.
    x_test, y_test = _stack(split.x_test, split.y_test, columns, n_tasks, None, rng)
    x_train, y_train = _stack(split.x_train, split.y_train, columns, n_tasks, n_samples, rng)
    source = _source(split, columns, len(x_train), n_tasks, seed)
    name = f"{split.name} x {n_tasks}"
    return StackedSplit(x_train, y_train, x_test, y_test, name, source, split, columns, seed)


def _stack(
    x: Tensor, y: Tensor, columns: tuple[int, ...], n_tasks: int, n_samples: int | None, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Draw an order of the samples for each copy.

    Returns:
        Samples [n, t·d] and targets [n, t].
    """
    n = len(x) if n_samples is None else n_samples
    rows = [_balanced(len(x), n, rng).to(x.device) for _ in range(n_tasks)]
    if columns != tuple(range(x.shape[1])):
        x = x[:, list(columns)]
    return torch.cat([x[order] for order in rows], 1), torch.stack([y[order] for order in rows], 1)


def _balanced(n_there: int, n_wanted: int, rng: np.random.Generator) -> Tensor:
    """As many random orders of all samples as it takes, cut where there are enough.

    Returns:
        Numbers of samples, [n_wanted].
    """
    rounds = [rng.permutation(n_there) for _ in range(-(-n_wanted // n_there))]
    return torch.from_numpy(np.concatenate(rounds)[:n_wanted])


def _source(split: Split, columns: tuple[int, ...], n_samples: int, n_tasks: int, seed: int) -> str:
    """Tell what was done to the base.

    Returns:
        A line that goes on from the base's own.
    """
    copies = f"{n_tasks} independently shuffled copies side by side" if n_tasks > 1 else "1 shuffled copy"
    parts = [split.source, f"{copies} (seed {seed})"]
    if columns != tuple(range(split.x_train.shape[1])):
        parts.append(f"features {list(columns)} of each")
    if n_samples != len(split.x_train):
        parts.append(f"{n_samples:,} training rows out of {len(split.x_train):,} samples")
    return ", ".join(parts)


def _check_base(split: object) -> None:
    """Refuse what cannot be stacked."""
    if not isinstance(split, Split):
        remedy = "Build one with gradembed.Split"
        _validation.refuse("split", "be a gradembed.Split", _validation.describe(split), remedy, TypeError)
    if split.y_train.ndim != 1:
        got, remedy = f"targets of shape {list(split.y_train.shape)}", "Choose one column, or stack the single task"
        _validation.refuse("split", "have one target per sample, [n]", got, remedy)


def _check_features(features: Sequence[int] | None, d: int) -> tuple[int, ...]:
    """Refuse columns that are not there or there twice.

    Returns:
        The columns.
    """
    if features is None:
        return tuple(range(d))
    columns = _validation.check_sequence("features", features, "a sequence of column numbers")
    for column in columns:
        _validation.check_integer("features", column)
        if not 0 <= column < d:
            _validation.refuse("features", f"lie between 0 and {d - 1}", column, "Drop or correct it")
        if columns.count(column) > 1:
            _validation.refuse("features", "name each column once", f"{column} more than once", "Drop the repetition")
    return tuple(columns)
