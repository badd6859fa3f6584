"""Elementwise modules with one slope or two, exactly: what an activation pattern is made of."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from gradembed.gradients import SKIPPED

ONE_SLOPE = (*SKIPPED, nn.BatchNorm1d)
TWO_SLOPES = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.Hardtanh, nn.Hardsigmoid)


def splits(step: nn.Module) -> bool:
    """Whether a module has two slopes.

    Returns:
        True if so.
    """
    return type(step) in TWO_SLOPES


def is_smooth(step: nn.Module) -> bool:
    """Whether a step of a chain has more than two slopes, and so no pattern.

    Returns:
        True if so.
    """
    return type(step) not in (nn.Linear, *ONE_SLOPE, *TWO_SLOPES)


def is_on(step: nn.Module, a: Tensor) -> Tensor:
    """Tell on which of its two pieces a module is; on the boundary as autograd does.

    Returns:
        Booleans like ``a``: True for the second of `slopes_of`.
    """
    if isinstance(step, nn.Hardtanh):  # ReLU6 is one
        return (a > step.min_val) & (a < step.max_val)
    if isinstance(step, nn.Hardsigmoid):
        return (a > -3) & (a < 3)
    return a > 0


def slopes_of(step: nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
    """The slopes of a module's two pieces for each unit, equal if it has only one.

    Returns:
        Off [w] and on [w].
    """
    one = like.new_ones(like.shape[1])
    if isinstance(step, nn.BatchNorm1d) and step.running_var is not None:
        scale = torch.rsqrt(step.running_var + step.eps) * (1 if step.weight is None else step.weight)
        return scale, scale
    if isinstance(step, nn.LeakyReLU):
        return one * step.negative_slope, one
    if isinstance(step, nn.PReLU):
        return one * step.weight, one
    if isinstance(step, nn.Hardsigmoid):
        return one * 0, one / 6
    return (one * 0, one) if splits(step) else (one, one)


def packed(flags: np.ndarray) -> np.ndarray:
    """Pack booleans [..., w] into words of 64 bits.

    Returns:
        [..., q].
    """
    short = -flags.shape[-1] % 64
    if short:
        flags = np.concatenate([flags, np.zeros((*flags.shape[:-1], short), dtype=bool)], axis=-1)
    return np.packbits(flags.ravel()).view(np.uint64).reshape(*flags.shape[:-1], -1)
