"""A data set in two parts, and several independent copies of one side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from gradembed._validation import as_integer, as_positions, as_tensor, check_kind, describe, refuse


@dataclass(frozen=True, repr=False, eq=False)
class Split:
    """A data set in two parts, in memory; arrays and lists are kept as tensors.

    Attributes:
        x_train: Training samples, [n, d], float32.
        y_train: Their targets: classes [n] or [n, t] (int64), or values [n] or [n, u] (float32).
        x_test: Held-out samples, [n, d].
        y_test: Their targets.
        name: Short name of the data set.
        source: Where the data come from and how many there are; belongs in every figure drawn from them.

    Example:
        >>> import torch, gradembed as ge
        >>> x, y = torch.randn(8, 3), torch.arange(8) % 2
        >>> ge.datasets.Split(x[:6], y[:6], x[6:], y[6:], name="noise", source="drawn by hand")
        Split('noise', 6 training and 2 test samples of 3 features, from drawn by hand)
    """

    x_train: Float[Tensor, "n d"]
    y_train: Int64[Tensor, " n *t"] | Float[Tensor, " n *t"]
    x_test: Float[Tensor, "n_test d"]
    y_test: Int64[Tensor, " n_test *t"] | Float[Tensor, " n_test *t"]
    name: str
    source: str

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            x = as_tensor(f"x_{part}", getattr(self, f"x_{part}"), "n d")
            object.__setattr__(self, f"x_{part}", x)
            object.__setattr__(self, f"y_{part}", _as_targets(f"y_{part}", getattr(self, f"y_{part}"), len(x)))
        for name, train, test in (("x_test", self.x_train, self.x_test), ("y_test", self.y_train, self.y_test)):
            if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
                rule = f"have the row shape and type of the training part, {describe(train)}"
                refuse(name, rule, describe(test), "Cut both from one data set")

    def __repr__(self) -> str:
        sizes = f"{len(self.x_train):,} training and {len(self.x_test):,} test samples"
        return f"{type(self).__name__}({self.name!r}, {sizes} of {self.x_train.shape[1]} features, from {self.source})"


def _as_targets(name: str, value: object, n: int) -> Tensor:
    """Return classes as int64, numbered from 0, or values as they are; [n] or [n, t]."""
    y = as_tensor(name, value, "n | n t", kind="any", n=n)
    y = as_tensor(name, y, "n | n t", kind="float" if y.is_floating_point() else "int")
    if not y.is_floating_point() and int(y.min()) < 0:
        refuse(name, "number the classes from 0", int(y.min()), "Renumber them")
    return y


@dataclass(frozen=True, repr=False, eq=False)
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
    split: Split, n_tasks: int = 2, features: Sequence[int] | None = None, seed: int = 0, n_samples: int | None = None
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
    check_kind("split", split, Split, "Build one with ge.datasets.Split")
    if split.y_train.ndim != 1:
        got = f"targets of shape {list(split.y_train.shape)}"
        refuse("split", "have one target per sample, [n]", got, "Choose one column, or stack the single task")
    n_tasks, seed = as_integer("n_tasks", n_tasks, 1), as_integer("seed", seed, 0)
    n_base, d = split.x_train.shape
    n = n_base if n_samples is None else as_integer("n_samples", n_samples, 1)
    columns = list(range(d)) if features is None else as_positions("features", features, d, f"columns of {split.name}")
    if len(set(columns)) < len(columns):
        refuse("features", "name each column once", columns, "Drop the repetition")
    rng = np.random.default_rng(seed)
    # The test part comes first, so that it does not depend on the size of the training part.
    x_test, y_test = _stack(split.x_test, split.y_test, columns, n_tasks, len(split.x_test), rng)
    x_train, y_train = _stack(split.x_train, split.y_train, columns, n_tasks, n, rng)
    copies = f"{n_tasks} independently shuffled copies side by side" if n_tasks > 1 else "1 shuffled copy"
    picked = "" if columns == list(range(d)) else f", features {columns} of each"
    drawn = "" if n == n_base else f", {n:,} training rows out of {n_base:,} samples"
    name, source = f"{split.name} x {n_tasks}", f"{split.source}, {copies} (seed {seed}){picked}{drawn}"
    return StackedSplit(x_train, y_train, x_test, y_test, name, source, split, tuple(columns), seed)


def _stack(
    x: Tensor, y: Tensor, columns: list[int], n_tasks: int, n: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return samples [n, t·d] and targets [n, t]: for each copy random orders of all samples, cut where there are n."""
    rounds = -(-n // len(x))
    orders = [np.concatenate([rng.permutation(len(x)) for _ in range(rounds)])[:n] for _ in range(n_tasks)]
    rows = torch.from_numpy(np.stack(orders)).to(x.device)  # [t, n]
    return x[:, columns][rows.T].flatten(1), y[rows.T]
