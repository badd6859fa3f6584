"""Arrays, tensors and labels of callers, checked and brought into one form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gradembed import _validation

Array = Tensor | NDArray[Any]
Labels = Tensor | NDArray[Any] | Sequence[Any]
LARGEST = 1e100  # squares of larger numbers overflow


def numbers(name: str, value: object, axes: str = "u k") -> NDArray[np.float64]:
    """Refuse anything but finite numbers in an array or a tensor of the stated axes.

    Returns:
        The numbers in float64.
    """
    if not isinstance(value, Tensor | np.ndarray):
        remedy = f"Convert it with np.asarray({name})"
        _validation.refuse(name, "be a tensor or an array", _validation.describe(value), remedy, TypeError)
    array = _plain(name, value)
    if array.dtype.kind not in "fiu":
        got = f"numbers of type {array.dtype}"
        _validation.refuse(name, "hold real numbers", got, "Convert it to float", TypeError)
    names = axes.split()
    if array.ndim != len(names) or array.size == 0:
        rule = f"have shape [{', '.join(names)}], not empty"
        _validation.refuse(name, rule, f"shape {list(array.shape)}", "Reshape it")
    array = array.astype(np.float64)
    bad = int((~(np.abs(array) < LARGEST)).sum())
    if bad:
        rule, got = f"be finite, below {LARGEST:g}", f"{bad} numbers of {array.size} that are not"
        _validation.refuse(name, rule, got, "Clean or drop those units")
    return array


def labels(name: str, value: object, n: int | None) -> NDArray[Any]:
    """Refuse anything but one integer, boolean or string for each of n units (``None`` takes any number).

    Returns:
        The labels as they are, [u].
    """
    if isinstance(value, Tensor | np.ndarray):
        array = _plain(name, value)
    else:
        items = _validation.check_sequence(name, value, "a sequence of labels")
        kinds = {isinstance(item, str) for item in items}
        array = np.array(items) if len(kinds) == 1 and all(np.ndim(item) == 0 for item in items) else np.array(None)
    if array.dtype.kind == "O" and array.ndim == 1 and all(isinstance(item, str) for item in array):
        array = array.astype(str)  # a column of a data frame
    if array.dtype.kind not in "biuU":
        rule, remedy = "hold integers, booleans or strings", "Number the classes"
        _validation.refuse(name, rule, _validation.describe(value), remedy, TypeError)
    if array.ndim != 1 or array.size == 0 or n not in (None, len(array)):
        rule, got = f"hold one label for each of {'the' if n is None else n} units", f"shape {list(array.shape)}"
        _validation.refuse(name, rule, got, "Pair them up")
    return array


def codes(name: str, value: object, n: int) -> NDArray[np.int64]:
    """Number labels from 0, in sorted order.

    Returns:
        One number per unit, [u].
    """
    return np.unique(labels(name, value, n), return_inverse=True)[1].astype(np.int64)


def classes(name: str, value: object, n: int) -> NDArray[np.int64]:
    """Number the labels of at least two classes.

    Returns:
        One number per unit, [u].
    """
    numbered = codes(name, value, n)
    if numbered.max() == 0:
        _validation.refuse(name, "name at least two classes", "one", "Pass units of several classes")
    return numbered


def mask(name: str, value: object, n: int) -> NDArray[np.bool_]:
    """Refuse anything but a boolean for each of n units, at least one of them true; ``None`` is all.

    Returns:
        The mask, [u].
    """
    if value is None:
        return np.ones(n, dtype=bool)
    array = labels(name, value, n)
    if array.dtype.kind != "b":
        remedy = "Compare, as in task == 'a'"
        _validation.refuse(name, "be a mask of booleans", f"labels of type {array.dtype}", remedy, TypeError)
    if not array.any():
        _validation.refuse(name, "be true for at least one unit", "none", "Correct the mask, or leave it out")
    return array


def _plain(name: str, value: Tensor | NDArray[Any]) -> NDArray[Any]:
    """Take a dense tensor out of its graph and off its device; bfloat16 has no array of its own.

    Returns:
        An array.
    """
    if not isinstance(value, Tensor):
        return value
    _validation.check_dense(name, value)
    return (value.double() if value.is_floating_point() else value).numpy(force=True)
