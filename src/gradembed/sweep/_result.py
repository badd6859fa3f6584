"""What goes into a sweep and what comes out: settings as dictionaries of plain values, results as a table."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from gradembed._validation import as_list, describe, refuse
from gradembed.store import fingerprint

Function = Callable[..., Any]
Setting = dict[str, Any]


@dataclass(frozen=True, repr=False, eq=False)
class SweepResult:
    """One result per setting, in the order of the settings.

    Attributes:
        function: Name of the function.
        settings: The arguments of each call.
        results: What each call returned; None where it failed.
        errors: What went wrong in each call; None where nothing did.
        n_cached: How many results were found in the cache.

    Example:
        >>> import gradembed as ge
        >>> def area(width, height):
        ...     return {"area": width * height}
        >>> result = ge.sweep(area, {"width": [1, 2], "height": [3, 4]}, progress=False)
        >>> result
        SweepResult(4 settings of 'area', 0 from the cache, 0 failed)
        >>> result.to_frame()
           width  height  area
        0      1       3     3
        1      1       4     4
        2      2       3     6
        3      2       4     8
    """

    function: str
    settings: tuple[dict[str, Any], ...]
    results: tuple[Any, ...]
    errors: tuple[str | None, ...]
    n_cached: int

    @property
    def failed(self) -> list[int]:
        """Numbers of the settings whose call failed."""
        return [i for i, error in enumerate(self.errors) if error is not None]

    def __len__(self) -> int:
        return len(self.settings)

    def __repr__(self) -> str:
        counts = f"{self.n_cached} from the cache, {len(self.failed)} failed"
        return f"SweepResult({len(self)} settings of {self.function!r}, {counts})"

    def to_frame(self) -> pd.DataFrame:
        """A tidy table: the settings' values beside what each call returned.

        Returns:
            One row per setting; several where a call returned several rows, none where it returned an empty list.
            Columns are the settings' names, then the results' (``result`` for bare numbers), then ``error`` if a
            call failed. Values that are no numbers or strings are shown by a short text.

        Raises:
            TypeError: If a result is no number, string, dictionary, list of dictionaries, data frame, or object with
                a ``to_frame``.
            ValueError: If a result gives a setting's name another value.
        """
        names = dict.fromkeys(name for setting in self.settings for name in setting)
        rows = [row for index in range(len(self)) for row in self._rows(index)]
        found = dict.fromkeys(name for row in rows for name in row if name not in names)
        if self.failed:
            found["error"] = found.pop("error", None)
        return pd.DataFrame(rows, columns=[*names, *found])

    def _rows(self, index: int) -> list[dict[str, Any]]:
        """Return the values of one setting beside each row of its result."""
        setting, error, value = self.settings[index], self.errors[index], plain(self.results[index])
        if not isinstance(value, dict | list) and hasattr(value, "to_frame"):
            value = value.to_frame()
        if isinstance(value, pd.DataFrame):
            value = value.to_dict("records")
        elif error is not None or value is None or isinstance(value, bool | int | float | str):
            value = {"result": value} if error is None else {"error": error}
        records = [value] if isinstance(value, dict) else value
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            rule = "return numbers, dictionaries, lists of dictionaries or data frames, to make a table"
            got = f"{describe(value)} at {named(index, setting)}"
            refuse("function", rule, got, "Take what you need from .results", TypeError)
        left = {name: label(value) for name, value in setting.items()}
        rows = [left | {name: label(plain(value)) for name, value in record.items()} for record in records]
        for name, row in ((name, row) for row in rows for name in left if row[name] != left[name]):
            got = f"{name!r}: {row[name]!r} at {named(index, setting)}"
            refuse("function", "leave the settings' names their values", got, "Name it otherwise in the result")
        return rows


def expand(settings: Any) -> list[dict[str, Any]]:
    """Turn a grid, or a list of settings, into dictionaries of plain values.

    Returns:
        One per setting; of a grid, all combinations, the last name varying fastest.
    """
    if isinstance(settings, Mapping):  # of tensors with several axes, rows are the values
        lists = {name: list(v) if getattr(v, "ndim", 0) > 1 else v for name, v in settings.items()}
        columns = [as_list(f"settings[{name!r}]", values, "a list of values") for name, values in lists.items()]
        settings = [dict(zip(settings, row, strict=True)) for row in itertools.product(*columns) if row]
    rows = as_list("settings", settings, "a list of dictionaries, or a dictionary of lists")
    for row in rows:
        if not isinstance(row, Mapping):
            remedy = "Pass arguments by name, as in [{'seed': 0}, {'seed': 1}]"
            refuse("settings", "hold dictionaries", describe(row), remedy, TypeError)
        for name in row:
            if not isinstance(name, str):
                remedy = "Use the names of the function's arguments"
                refuse("settings", "have strings as names", describe(name), remedy, TypeError)
    return [{name: plain(value) for name, value in row.items()} for row in rows]


def plain(value: Any) -> Any:
    """Turn NumPy's numbers, and tensors without axes, into Python's; other values stay as they are.

    Returns:
        The value.
    """
    is_number = isinstance(value, np.generic) or (isinstance(value, Tensor) and value.ndim == 0)
    return value.item() if is_number else value


def label(value: Any) -> Any:
    """Return what stands for a value in a table: numbers and strings as they are, short texts for the rest."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return repr(value)
    return value.__name__ if isinstance(value, type) or inspect.isfunction(value) else describe(value)


def named(index: int, setting: Mapping[str, Any]) -> str:
    """Return a setting's number and its values, for an error message."""
    text = ", ".join(f"{name}={label(value)!r}" for name, value in setting.items())
    return f"setting {index} ({text if len(text) <= 200 else text[:197] + '...'})"


def taken_apart(function: Function, setting: Mapping[str, Any]) -> tuple[Function, Any]:
    """Find the function behind partials, and all arguments of the call by name.

    Returns:
        Both.

    Raises:
        TypeError: If the arguments do not fit the function.
    """
    arguments: tuple[Any, ...] = ()
    chosen = dict(setting)
    while isinstance(function, partial):
        arguments, chosen, function = (*function.args, *arguments), {**function.keywords, **chosen}, function.func
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions that are written in C
        return function, [arguments, chosen]
    return function, signature.bind(*arguments, **chosen).arguments


def read_calls(function: Function, settings: list[Setting]) -> tuple[list[str], list[tuple[Function, Any]]]:
    """Hash each setting: equal ones are computed once, and each call's random numbers start from it.

    Returns:
        One hash per setting, whatever the order of its names; and the calls, taken apart.
    """
    identities, calls = [], []
    for index, setting in enumerate(settings):
        rule, remedy = "fit the function", "Name the function's arguments"
        try:
            calls.append(taken_apart(function, setting))
            rule = "hold numbers, strings, tensors, networks, or lists and dictionaries of them"
            remedy = "Make other things inside the function"
            identities.append(fingerprint(dict(sorted(setting.items()))))
        except TypeError as error:
            refuse("settings", rule, f"{named(index, setting)}: {error}", remedy, TypeError)
    return identities, calls
