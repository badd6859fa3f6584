"""Settings: from what the caller gives to one dictionary of arguments per call."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from gradembed import _validation
from gradembed.store import fingerprint

WHAT = "a list of dictionaries, or a dictionary of lists"


def expand(settings: object) -> list[dict[str, Any]]:
    """Turn a grid, or a list of settings, into dictionaries of plain values.

    Returns:
        One per setting; of a grid, all combinations, the last name varying fastest.
    """
    if isinstance(settings, Mapping):
        _validation.check_sequence("settings", settings, WHAT)
        _check_names(settings)
        columns = [_choices(name, values) for name, values in settings.items()]
        rows: list[Any] = [dict(zip(settings, row, strict=True)) for row in itertools.product(*columns)]
    else:
        rows = _validation.check_sequence("settings", settings, WHAT)
        for row in rows:
            if not isinstance(row, Mapping):
                remedy = "Pass arguments by name, as in [{'seed': 0}, {'seed': 1}]"
                _validation.refuse("settings", "hold dictionaries", _validation.describe(row), remedy, TypeError)
            _check_names(row)
    return [{name: plain(value) for name, value in row.items()} for row in rows]


def _check_names(setting: Mapping[Any, Any]) -> None:
    for name in setting:
        if not isinstance(name, str):
            remedy = "Use the names of the function's arguments"
            _validation.refuse("settings", "have strings as names", _validation.describe(name), remedy, TypeError)


def _choices(name: str, values: object) -> list[Any]:
    """The values of one name of a grid.

    Returns:
        A list.
    """
    if isinstance(values, Tensor) and values.ndim == 0:
        values = values.item()
    return _validation.check_sequence(f"settings[{name!r}]", values, "a list of values")


def plain(value: Any) -> Any:
    """Turn NumPy's numbers, and tensors without axes, into Python's.

    Returns:
        A number; other values as they are.
    """
    is_number = isinstance(value, np.generic) or (isinstance(value, Tensor) and value.ndim == 0)
    return value.item() if is_number else value


def label(value: Any) -> Any:
    """What stands for a value in a table.

    Returns:
        Numbers and strings as they are; the text of tuples and lists; names of classes and functions; a short
        description of the rest.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return repr(value)
    if isinstance(value, type) or inspect.isfunction(value):
        return value.__name__
    return _validation.describe(value)


def describe(index: int, setting: Mapping[str, Any]) -> str:
    """Name a setting in an error message.

    Returns:
        Its number and its values.
    """
    text = ", ".join(f"{name}={label(value)!r}" for name, value in setting.items())
    return f"setting {index} ({text if len(text) <= 200 else text[:197] + '...'})"


def taken_apart(function: Callable[..., object], setting: Mapping[str, Any]) -> tuple[Callable[..., object], Any]:
    """The function behind partials, and all arguments of the call by name.

    Returns:
        Both.

    Raises:
        TypeError: If the arguments do not fit the function.
    """
    arguments: tuple[Any, ...] = ()
    named = dict(setting)
    while isinstance(function, partial):
        arguments, named = (*function.args, *arguments), {**function.keywords, **named}
        function = function.func
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions that are written in C
        return function, [arguments, named]
    return function, signature.bind(*arguments, **named).arguments


def check_fit(function: Callable[..., object], settings: list[dict[str, Any]]) -> None:
    """Refuse settings with which the function cannot be called."""
    for index, setting in enumerate(settings):
        try:
            taken_apart(function, setting)
        except TypeError as error:
            got, remedy = f"{describe(index, setting)}: {error}", "Name the function's arguments"
            _validation.refuse("settings", "fit the function", got, remedy, TypeError)


def identities(settings: list[dict[str, Any]]) -> list[str]:
    """A hash of each setting: equal settings are computed once, and each call's random numbers start from it.

    Returns:
        One per setting, whatever the order of its names.
    """
    result = []
    for index, setting in enumerate(settings):
        try:
            result.append(fingerprint(dict(sorted(setting.items()))))
        except TypeError as error:
            got, remedy = f"{describe(index, setting)}: {error}", "Make other things inside the function"
            rule = "hold numbers, strings, tensors, networks, or lists and dictionaries of them"
            _validation.refuse("settings", rule, got, remedy, TypeError)
    return result
