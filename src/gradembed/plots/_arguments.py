"""What figures refuse: things that are no results, numbers that cannot be drawn, names that fit nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype
from torch import Tensor

from gradembed import _validation

if TYPE_CHECKING:
    import pandas as pd


def check_result(name: str, value: object, kind: type, remedy: str, needed: Sequence[str] = ()) -> None:
    """Refuse what is not the result that the figure is of, nor has what is ``needed`` of it."""
    stands_in = bool(needed) and all(hasattr(value, part) for part in needed)
    if not isinstance(value, kind) and not stands_in:
        _validation.refuse(name, f"be a {kind.__name__}", _validation.describe(value), remedy, TypeError)


def several(value: object) -> list[Any]:
    """Take one thing for a list of one.

    Returns:
        A list.
    """
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def check_levels(levels: object) -> None:
    """Refuse what is not finite numbers under names."""
    if not isinstance(levels, Mapping):
        remedy = "Pass a dictionary, as in {'chance': 0.1}"
        _validation.refuse("levels", "be names with numbers", _validation.describe(levels), remedy, TypeError)
    for name, level in levels.items():
        _validation.check_number(f"levels[{name!r}]", level, -math.inf)


def check_column(name: object, columns: Sequence[object]) -> None:
    """Refuse what does not name a column of a table."""
    if not isinstance(name, str):
        rule, remedy = "have columns with names", "Name a column by a string"
        _validation.refuse("table", rule, f"a request for {_validation.describe(name)}", remedy, TypeError)
    if name not in columns:
        _validation.refuse("table", f"have a column {name!r}", list(columns), "Name one of these")


def check_table(table: pd.DataFrame, names: Sequence[str], numbers: Sequence[str]) -> None:
    """Refuse tables without rows or columns, or with words in columns of numbers."""
    if not hasattr(table, "columns"):
        remedy = "Pass the sweep's table"
        _validation.refuse("table", "be a pandas.DataFrame", _validation.describe(table), remedy, TypeError)
    for name in (*names, *numbers):
        check_column(name, list(table.columns))
    if not len(table):
        _validation.refuse("table", "have at least one row", "none", "Pass the sweep's table")
    for name in numbers:
        if not is_numeric_dtype(table[name]):
            _validation.refuse("table", f"have numbers in its column {name!r}", table[name].dtype, "Convert it")


def numbers(name: str, value: object, *, gaps: bool = False) -> NDArray[Any]:
    """Refuse anything but a dense tensor of real, finite numbers (``gaps`` lets NaN pass).

    Returns:
        The numbers, off their graph and device.
    """
    array = dense(name, value)
    bad = np.isinf(array) if gaps else ~np.isfinite(array)
    if bad.any():
        _validation.refuse(name, "be finite", f"{int(bad.sum())} of {array.size} that are not", "Clean or drop them")
    return array


def dense(name: str, value: object) -> NDArray[Any]:
    """Refuse anything but a dense tensor of real numbers.

    Returns:
        The numbers, off their graph and device.
    """
    if not isinstance(value, Tensor):
        remedy = f"Convert it with torch.as_tensor({name})"
        _validation.refuse(name, "be a torch.Tensor", _validation.describe(value), remedy, TypeError)
    _validation.check_dense(name, value)
    if value.is_complex():
        _validation.refuse(name, "hold real numbers", _validation.describe(value), f"Draw {name}.abs()")
    plain = value.float() if value.is_floating_point() and value.itemsize < 4 else value
    array: NDArray[Any] = plain.numpy(force=True)
    return array


def names(name: str, value: object, n: int | None = None, things: str = "units") -> list[str]:
    """Refuse anything but strings, one for each of n things (``None`` takes any number).

    Returns:
        The strings.
    """
    listed = _validation.check_sequence(name, value, "a list of names")
    wrong = [item for item in listed if not isinstance(item, str)]
    if wrong:
        _validation.refuse(
            name, "hold strings", _validation.describe(wrong[0]), f"Convert them with map(str, {name})", TypeError
        )
    if n is not None and len(listed) != n:
        _validation.refuse(name, f"name each of {n} {things}", len(listed), "Name them all")
    return listed


def pair(name: str, value: object, rule: str, remedy: str) -> tuple[Any, Any]:
    """Refuse anything but two things in a row.

    Returns:
        Both.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        _validation.refuse(name, rule, _validation.describe(value), remedy, TypeError)
    if len(value) != 2:
        _validation.refuse(name, rule, len(value), remedy)
    return value[0], value[1]
