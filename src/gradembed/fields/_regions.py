"""Linear pieces of a network's function, told apart by activation pattern, never by comparing floats."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def mixed(keys: np.ndarray) -> np.ndarray:
    """Make one number of several words; different words may by chance give the same.

    Args:
        keys: [..., q].

    Returns:
        [...].
    """
    total = keys[..., 0].copy()
    for j in range(1, keys.shape[-1]):
        total = (total ^ (total >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15) + keys[..., j]
    return total


def numbered(words: np.ndarray, mix: Callable[[np.ndarray], np.ndarray] = mixed) -> Tensor:
    """Number the distinct patterns of each unit.

    Patterns are sorted by one number made of each, which is fast; where two patterns share it, by their words.

    Args:
        words: Patterns, [e, u, m, q].
        mix: How the number is made.

    Returns:
        Numbers of the patterns, from 0 on for each unit and in no particular order, [e, u, m].
    """
    e, u, m, q = words.shape
    keys = words.reshape(e * u, m, q)
    sorting = mix(keys)
    order = np.argsort(sorting, axis=1)
    differs = _changes(keys, order)
    ordered = np.take_along_axis(sorting, order, axis=1)
    if (differs & (ordered[:, 1:] == ordered[:, :-1])).any():
        unit = np.repeat(np.arange(e * u), m)
        order = np.lexsort((*keys.reshape(-1, q).T, unit)).reshape(e * u, m) % m
        differs = _changes(keys, order)
    numbers = np.zeros((e * u, m), dtype=np.int64)
    np.put_along_axis(numbers, order[:, 1:], differs.cumsum(1), axis=1)
    return torch.from_numpy(numbers.reshape(e, u, m))


def _changes(keys: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Compare neighbours in an order.

    Args:
        keys: [u, m, q].
        order: [u, m].

    Returns:
        Whether each but the first differs from the one before, [u, m - 1].
    """
    differs = np.zeros((len(order), order.shape[1] - 1), dtype=bool)
    for j in range(keys.shape[2]):
        column = np.take_along_axis(keys[:, :, j], order, axis=1)
        differs |= column[:, 1:] != column[:, :-1]
    return differs
