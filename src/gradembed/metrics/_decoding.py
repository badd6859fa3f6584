"""How much of a field an embedding knows."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from gradembed import _validation
from gradembed.metrics._inputs import Array, numbers

CONSTANT = 1e-12  # variation below this, relative to the squared length, is float32 rounding


def field_r2(predicted: Array, gradients: Array, *, baseline: str = "mean") -> Float64[Tensor, " u"]:
    """Score decoded gradients of each unit: 1 - Σ|predicted - gradient|² / Σ|gradient - baseline|².

    1 is perfect, 0 is no better than the baseline, negative is worse. Sums are over the points and the d components
    of a unit's gradients.

    Args:
        predicted: Decoded gradients, [u, m, d].
        gradients: True gradients at the same points, [u, m, d].
        baseline: "mean": the unit's mean gradient over these points, that is, the best linear function; a decoder has
            to know how the gradient *changes*. "zero": no gradient at all; a decoder that knows the mean is
            above 0 already.

    Returns:
        R² of each unit, [u]. Where the true gradients do not differ from the baseline there is nothing to explain:
        1 if the prediction is right to rounding, else 0.

    Raises:
        ValueError: If shapes differ or are not [u, m, d], numbers are not finite, the baseline is unknown, or there
            is one point only and the baseline is its mean.
        TypeError: If an argument is no tensor or array of real numbers.

    Example:
        >>> import torch, gradembed as ge
        >>> gradients = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
        >>> ge.metrics.field_r2(gradients, gradients)
        tensor([1., 1.], dtype=torch.float64)
        >>> ge.metrics.field_r2(gradients.mean(1, keepdim=True).expand(-1, 50, -1), gradients).abs() < 1e-6
        tensor([True, True])
    """
    _validation.check_choice("baseline", baseline, ("mean", "zero"))
    guess, truth = numbers("predicted", predicted, "u m d"), numbers("gradients", gradients, "u m d")
    if guess.shape != truth.shape:
        rule = f"have the shape of gradients, {list(truth.shape)}"
        _validation.refuse("predicted", rule, list(guess.shape), "Decode at the points of the gradients")
    if baseline == "mean" and truth.shape[1] < 2:
        remedy = "Sample more points, or use baseline='zero'"
        _validation.refuse("gradients", "be taken at two points or more", "one", remedy)
    error = ((guess - truth) ** 2).sum((1, 2))
    centre = truth.mean(1, keepdims=True) if baseline == "mean" else 0.0
    total = ((truth - centre) ** 2).sum((1, 2))
    rounding = CONSTANT * (truth**2).sum((1, 2))
    defined = total > rounding
    score = np.where(defined, 1 - error / np.where(defined, total, 1), (error <= rounding).astype(float))
    return torch.from_numpy(score)
