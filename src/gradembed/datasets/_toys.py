"""Two tasks that are as separate as one asks for."""

from __future__ import annotations

import math

import numpy as np
import torch

from gradembed import _validation
from gradembed.datasets._split import Split


def soft_mixing(mixing: float, n_samples: int = 10_000, seed: int = 0) -> Split:
    """Two regression tasks whose overlap is one number: two products of two inputs, mixed into two targets.

    With four independent inputs, uniform on [-√3, √3] (mean 0, variance 1), p₁ = x₀·x₁ and p₂ = x₂·x₃, the targets are

        y₁ = (1 - λ)·p₁ + λ·p₂,    y₂ = λ·p₁ + (1 - λ)·p₂.

    At λ = 0 the tasks are separate by construction: each reads two inputs that the other does not. At λ = 0.5 they
    are identical. In between their covariance is 2λ(1 - λ) and their variance (1 - λ)² + λ². Single inputs do not
    correlate with the targets, so a linear model explains nothing.

    Args:
        mixing: λ, from 0 (separate) to 0.5 (identical).
        n_samples: Of both parts together, at least 5; four fifths are for training.
        seed: Of the inputs, which are the same for every mixing.

    Returns:
        A split with ``x`` [n, 4] and ``y`` [n, 2], float32.

    Raises:
        ValueError: If a number is out of range.
        TypeError: If an argument is no number.

    Example:
        >>> import gradembed as ge
        >>> ge.datasets.soft_mixing(0.25)
        Split('soft mixing 0.25', 8,000 training and 2,000 test samples of 4 features,
              from products of inputs, drawn with seed 0)
    """
    _validation.check_number("mixing", mixing, 0, 0.5)
    _validation.check_integer("n_samples", n_samples, 5)
    _validation.check_integer("seed", seed, 0)
    drawn = np.random.default_rng(seed).uniform(-math.sqrt(3), math.sqrt(3), (n_samples, 4))
    x = torch.from_numpy(drawn).float()
    products = torch.stack([x[:, 0] * x[:, 1], x[:, 2] * x[:, 3]], 1)
    y = (1 - mixing) * products + mixing * products.flip(1)
    n_train = round(0.8 * n_samples)
    source = f"products of inputs, drawn with seed {seed}"
    return Split(x[:n_train], y[:n_train], x[n_train:], y[n_train:], f"soft mixing {mixing:g}", source)
