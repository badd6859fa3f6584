"""A function at many settings: on this machine or a cluster, each result once, stored as soon as it is there."""

from __future__ import annotations

import inspect
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import BrokenExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from gradembed import _progress
from gradembed._validation import as_bool, as_integer, as_list, check_choice, check_kind, describe, refuse
from gradembed.store import Cache, fingerprint
from gradembed.sweep._run import Job, Outcome, limited_threads, run, versions

__all__ = ["SweepResult", "sweep"]

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
        setting, error, value = self.settings[index], self.errors[index], _plain(self.results[index])
        if not isinstance(value, dict | list) and hasattr(value, "to_frame"):
            value = value.to_frame()
        if isinstance(value, pd.DataFrame):
            value = value.to_dict("records")
        elif error is not None or value is None or isinstance(value, bool | int | float | str):
            value = {"result": value} if error is None else {"error": error}
        records = [value] if isinstance(value, dict) else value
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            rule = "return numbers, dictionaries, lists of dictionaries or data frames, to make a table"
            got = f"{describe(value)} at {_named(index, setting)}"
            refuse("function", rule, got, "Take what you need from .results", TypeError)
        left = {name: _label(value) for name, value in setting.items()}
        rows = [left | {name: _label(_plain(value)) for name, value in record.items()} for record in records]
        for name, row in ((name, row) for row in rows for name in left if row[name] != left[name]):
            got = f"{name!r}: {row[name]!r} at {_named(index, setting)}"
            refuse("function", "leave the settings' names their values", got, "Name it otherwise in the result")
        return rows


def sweep(
    function: Callable[..., Any], settings: Mapping[str, Iterable[Any]] | Iterable[Mapping[str, Any]], *,
    cache: Cache | None = None, n_jobs: int | None = None, n_threads: int = 1, on_error: str = "raise",
    progress: bool = True,
) -> SweepResult:  # fmt: skip
    """Call a function at every setting, here or on many machines, and give each result once, in order.

    The calls go through joblib, which decides where they are made::

        with joblib.parallel_config(backend="dask"):        # on the Dask cluster of the current client
            result = ge.sweep(function, settings, cache=ge.Cache())

    With a cache, every result is stored when it arrives and is not computed again: a sweep that was interrupted goes
    on where it stopped, with at most the calls in flight made anew. A call that a dying Dask worker takes with it is
    made again on another, and once more alone where Dask gives it up.

    Results do not depend on backend, number of jobs or order (machines of another kind round otherwise). For that,
    every call has its own copy of its setting, has ``n_threads`` threads, and finds torch's global generator seeded
    from the setting. Threads and that generator belong to a process, so **one process makes one call at a time**: use
    processes ("loky", Dask workers with one thread each), not threads. Randomness from elsewhere should come from a
    seed in the setting, and what a partial carries should not be changed.

    Args:
        function: Called as ``function(**setting)``; a partial carries what all calls share. What of it the cache
            knows says `Cache`: its code and the library's, not functions and constants beside it.
        settings: A list of dictionaries, or a dictionary of lists, of which all combinations are taken, the last
            name varying fastest. NumPy's numbers, and tensors without axes, arrive as Python's. Equal settings are
            computed once.
        cache: Where results are found and stored; they must be such as `Cache.call` stores. None: nowhere.
        n_jobs: How many calls are made at the same time; -1 for one per core. None is joblib's configuration, 1 if
            there is none. A Dask cluster uses all its workers.
        n_threads: How many threads each call may use. Sums in another order round otherwise, so results are equal
            to the bit for an equal number only, and the cache keeps them apart.
        on_error: What to do about a call that fails: "raise" an error that names the setting, with a cache after
            all other calls were made and stored; or "keep" its message, and return.
        progress: Show a progress bar over all settings.

    Returns:
        The results, with a table: see `SweepResult.to_frame`.

    Raises:
        ValueError: If there are no settings, or an argument is out of range.
        TypeError: If the settings do not fit the function, or cannot be sent to workers, or, with a cache, a result
            cannot be stored.
        RuntimeError: If a call fails, a worker dies (Dask replaces it), or the cluster goes away.

    Warns:
        UserWarning: If an entry of the cache is damaged, or cannot be written.

    Example:
        >>> import gradembed as ge
        >>> def accuracy(width, seed):
        ...     config = ge.TrainConfig(epochs=2, seed=seed, progress=False)
        ...     run = ge.train(ge.MLP([4, width, 3], seed=seed), ge.datasets.load_iris(), config)
        ...     return {"accuracy": run.test_accuracy}
        >>> result = ge.sweep(accuracy, {"width": [4, 16], "seed": range(3)}, progress=False)
        >>> result.to_frame().groupby("width")["accuracy"].count().tolist()
        [3, 3]
    """
    if not callable(function):
        refuse("function", "be a function", describe(function), "Pass it uncalled", TypeError)
    if cache is not None:
        check_kind("cache", cache, Cache, "Pass gradembed.Cache(folder), or None")
    n_jobs = None if n_jobs is None else as_integer("n_jobs", n_jobs)
    if n_jobs == 0:
        refuse("n_jobs", "be positive, or negative to count from all cores", 0, "Use -1 for all of them")
    n_threads = as_integer("n_threads", n_threads, 1)
    check_choice("on_error", on_error, ("raise", "keep"))
    progress = as_bool("progress", progress)
    rows = _expand(settings)
    identities, calls = _read_calls(function, rows)
    seen: dict[str, int] = {}
    first = [seen.setdefault(identity, i) for i, identity in enumerate(identities)]  # of equal settings
    name, counts = getattr(calls[0][0], "__name__", type(function).__name__), Counter(first)
    outcomes: dict[int, Outcome] = {}
    paths = {} if cache is None else _paths(cache, {i: calls[i] for i in counts}, name, n_threads)
    for i, path in paths.items():
        if cache is not None and (found := cache._find(path)) is not None:
            outcomes[i] = Outcome(i, found[0])
    n_cached, wanted = sum(counts[i] for i in outcomes), versions()
    jobs = [Job(i, rows[i], int(identities[i][:8], 16), n_threads, wanted) for i in counts if i not in outcomes]
    with _progress.bar(len(rows), f"sweep {name}", "setting", wanted=progress) as bar:
        bar.update(n_cached)
        try:
            with closing(run(function, jobs, n_jobs)) as arriving:
                for outcome in arriving:
                    outcomes[i := outcome.index] = outcome
                    if cache is not None and outcome.error is None:
                        _keep(cache, paths[i], outcome, rows[i])
                    bar.update(counts[i])
                    if cache is None and on_error == "raise":
                        _refuse_failures(outcomes, rows, cache)
        except BrokenExecutor as error:
            n_done = sum(counts[i] for i, outcome in outcomes.items() if outcome.error is None)
            got = f"a worker that died ({' '.join(str(error).split())}) after {n_done} settings"
            remedy = "With fewer jobs each has more memory; what was done is in the cache, if there is one"
            refuse("function", "leave its worker alive", got, remedy, RuntimeError)
    if on_error == "raise":
        _refuse_failures(outcomes, rows, cache)
    results, errors = (tuple(getattr(outcomes[i], key) for i in first) for key in ("value", "error"))
    return SweepResult(name, tuple(rows), results, errors, n_cached)


def _paths(cache: Cache, calls: Mapping[int, tuple[Function, Any]], name: str, n_threads: int) -> dict[int, Path]:
    """Return where results are stored."""
    try:
        with limited_threads(n_threads):  # which count in the entry's name
            return {i: cache._path(*call, "sweep") for i, call in calls.items()}
    except TypeError as error:
        got, remedy = f"{name!r}: {error}", "Write it with def, or do without the cache"
        refuse("function", "be known by its content, to be cached", got, remedy, TypeError)


def _refuse_failures(outcomes: Mapping[int, Outcome], settings: list[Setting], cache: Cache | None) -> None:
    """Name the first setting at which the function failed, and how many others."""
    failed = [outcome for _, outcome in sorted(outcomes.items()) if outcome.error is not None]
    if not failed:
        return
    remedy = "Mend it; with cache= other results would be kept, with on_error='keep' they would be returned"
    if cache is not None:
        remedy = "Mend it and sweep again: the results of the other settings are in the cache"
    others = f", and {len(failed) - 1} more that failed" if len(failed) > 1 else ""
    got = f"{failed[0].error} at {_named(failed[0].index, settings[failed[0].index])}{others}"
    try:
        refuse("function", "work at every setting", got, remedy, RuntimeError)
    except RuntimeError as error:
        error.add_note(failed[0].details)
        raise


def _keep(cache: Cache, path: Path, outcome: Outcome, setting: Setting) -> None:
    """Store a result."""
    try:
        cache._keep(path, outcome.value)
    except TypeError as error:
        got = f"something else at {_named(outcome.index, setting)}: {error}"
        remedy = "Return other things, or do without the cache"
        refuse("function", "return what the cache can store", got, remedy, TypeError)


def _expand(settings: Any) -> list[dict[str, Any]]:
    """Return a dictionary of plain values per setting; of a grid, all combinations, the last name varying fastest."""
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
    return [{name: _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    """Return NumPy's numbers, and tensors without axes, as Python's; other values as they are."""
    return value.item() if isinstance(value, np.generic | Tensor) and value.ndim == 0 else value


def _label(value: Any) -> Any:
    """Return what stands for a value in a table: numbers and strings as they are, short texts for the rest."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return repr(value)
    return value.__name__ if isinstance(value, type) or inspect.isfunction(value) else describe(value)


def _named(index: int, setting: Mapping[str, Any]) -> str:
    """Return a setting's number and its values, for an error message."""
    text = ", ".join(f"{name}={_label(value)!r}" for name, value in setting.items())
    return f"setting {index} ({text if len(text) <= 200 else text[:197] + '...'})"


def _taken_apart(function: Function, setting: Mapping[str, Any]) -> tuple[Function, Any]:
    """Return the function behind partials, and all arguments of the call by name, which have to fit it."""
    arguments: tuple[Any, ...] = ()
    chosen = dict(setting)
    while isinstance(function, partial):
        arguments, chosen, function = (*function.args, *arguments), {**function.keywords, **chosen}, function.func
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions that are written in C
        return function, [arguments, chosen]
    return function, signature.bind(*arguments, **chosen).arguments


def _read_calls(function: Function, settings: list[Setting]) -> tuple[list[str], list[tuple[Function, Any]]]:
    """Return a hash of each setting, whatever the order of its names, and the calls, taken apart.

    Equal settings are computed once, and each call's random numbers start from its hash.
    """
    identities, calls = [], []
    for index, setting in enumerate(settings):
        rule, remedy = "fit the function", "Name the function's arguments"
        try:
            calls.append(_taken_apart(function, setting))
            rule = "hold numbers, strings, tensors, networks, or lists and dictionaries of them"
            remedy = "Make other things inside the function"
            identities.append(fingerprint(dict(sorted(setting.items()))))
        except TypeError as error:
            refuse("settings", rule, f"{_named(index, setting)}: {error}", remedy, TypeError)
    return identities, calls
