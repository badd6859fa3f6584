"""A data set in two parts, and how to cut one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from gradembed import _validation


@dataclass(frozen=True, repr=False)
class Split:
    """A data set in two parts, in memory.

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
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            _validation.check_samples(x, f"x_{part}")
            _validation.check_targets(y, len(x), f"y_{part}")
            if x.ndim != 2:
                _validation.refuse(
                    f"x_{part}", "have shape [n, d]", _validation.describe(x), f"Use x_{part}.flatten(1)"
                )
        for name, train, test in (("x_test", self.x_train, self.x_test), ("y_test", self.y_train, self.y_test)):
            if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
                rule = f"have the row shape and type of the training part, {_validation.describe(train)}"
                _validation.refuse(name, rule, _validation.describe(test), "Cut both from one data set")

    def __repr__(self) -> str:
        sizes = f"{len(self.x_train):,} training and {len(self.x_test):,} test samples"
        return f"{type(self).__name__}({self.name!r}, {sizes} of {self.x_train.shape[1]} features, from {self.source})"


def stratified(x: Any, y: Any, test_fraction: float, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Split arrays with equal class shares in both parts.

    Returns:
        x_train, x_test (float32), y_train, y_test (int64).
    """
    from sklearn.model_selection import train_test_split

    parts = train_test_split(
        x.astype(np.float32), y.astype(np.int64), test_size=test_fraction, stratify=y, random_state=seed
    )
    x_train, x_test, y_train, y_test = (torch.from_numpy(part) for part in parts)
    return x_train, x_test, y_train, y_test
