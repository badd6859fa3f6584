"""Activation patterns of piecewise-linear networks, told apart exactly, never by comparing floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SKIPPED = (nn.Flatten, nn.Identity, nn.Dropout)  # they do nothing, once samples are rows and the model is in eval mode
TWO_SLOPES = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.Hardtanh, nn.Hardsigmoid)


def splits(step: nn.Module) -> bool:
    """Whether a module has two slopes.

    Returns:
        True if so.
    """
    return type(step) in TWO_SLOPES


def is_smooth(step: Any) -> bool:
    """Whether a step of a chain is a module with more than two slopes, and so no pattern.

    Returns:
        True if so.
    """
    return isinstance(step, nn.Module) and type(step) not in (*SKIPPED, nn.BatchNorm1d, *TWO_SLOPES)


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


def pattern_words(step: nn.Module, g: Tensor, state: Tensor) -> np.ndarray:
    """Note the states of a step's units, apart from those that a gradient does not pass through.

    Args:
        step: One with two slopes.
        g: The gradients above it, [*e, u, n, w], or [*e, u, 1, w] where all samples have the same.
        state: What enters it, or for ReLU what leaves it, [*e, n, w].

    Returns:
        Bits packed in words, [*e, u, n, q].
    """
    low, high = slopes_of(step, state.flatten(0, -2))
    on: Any = is_on(step, state.numpy(force=True))  # type: ignore[arg-type]  # comparing is slow in torch
    passed = (g.numpy(force=True) != 0) & (low != high).numpy(force=True)
    words: np.ndarray = packed(on)[..., None, :, :] & packed(passed)
    return words


def distinct(words: np.ndarray, mix: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:
    """Number the distinct patterns in each of several lists.

    Patterns are sorted by one number made of each, which is fast; where two patterns share it, by their words.

    Args:
        words: Patterns, [b, m, q].
        mix: How the number is made; `mixed` if none is given.

    Returns:
        Numbers of the patterns, from 0 on in each list and in no particular order, [b, m].
    """
    b, m, q = words.shape
    keys = (mix or mixed)(words)
    order = np.argsort(keys, axis=1)
    differs = _changes(words, order)
    ordered = np.take_along_axis(keys, order, axis=1)
    if (differs & (ordered[:, 1:] == ordered[:, :-1])).any():
        order = np.lexsort((*words.reshape(-1, q).T, np.repeat(np.arange(b), m))).reshape(b, m) % m
        differs = _changes(words, order)
    numbers = np.zeros((b, m), dtype=np.int64)
    np.put_along_axis(numbers, order[:, 1:], differs.cumsum(1), axis=1)
    return numbers


def mixed(words: np.ndarray) -> np.ndarray:
    """Make one number of several words; different words may by chance give the same.

    Args:
        words: [..., q].

    Returns:
        [...].
    """
    total = words[..., 0].copy()
    for j in range(1, words.shape[-1]):
        total = (total ^ (total >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15) + words[..., j]
    return total


def _changes(words: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Whether each pattern but the first differs from the one before it in an order [b, m], [b, m - 1]."""
    differs = np.zeros((len(order), order.shape[1] - 1), dtype=bool)
    for j in range(words.shape[2]):
        column = np.take_along_axis(words[:, :, j], order, axis=1)
        differs |= column[:, 1:] != column[:, :-1]
    return differs
