"""A function at many settings: on this machine or a cluster, each result once, stored as soon as it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gradembed import _progress, _validation
from gradembed.store import Cache
from gradembed.sweep._jobs import Job, Outcome, limited_threads, versions
from gradembed.sweep._result import SweepResult
from gradembed.sweep._run import run
from gradembed.sweep._settings import check_fit, describe, expand, identities, taken_apart

__all__ = ["SweepResult", "sweep"]


def sweep(
    function: Callable[..., Any],
    settings: Mapping[str, Iterable[Any]] | Iterable[Mapping[str, Any]],
    *,
    cache: Cache | None = None,
    n_jobs: int | None = None,
    n_threads: int = 1,
    on_error: str = "raise",
    progress: bool = True,
) -> SweepResult:
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
        function: Called as ``function(**setting)``; a partial carries what all calls share. The cache knows it by
            its source, defaults and closure, and does not see changes in functions outside the library that it calls.
        settings: A list of dictionaries, or a dictionary of lists, of which all combinations are taken, the last
            name varying fastest. Equal settings are computed once.
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
    _check_arguments(function, cache, n_jobs, n_threads, on_error, progress)
    rows = expand(settings)
    check_fit(function, rows)
    work = _Sweep(function, rows, cache, n_threads, stop_at_error=cache is None and on_error == "raise")
    with _progress.bar(len(rows), f"sweep {work.name}", "setting", wanted=progress) as bar:
        work.find(bar)
        work.compute(n_jobs, bar)
    if on_error == "raise":
        work.refuse_failures()
    return work.result()


def _check_arguments(
    function: object, cache: object, n_jobs: object, n_threads: object, on_error: object, progress: object
) -> None:
    """Refuse arguments of a wrong kind."""
    if not callable(function):
        _validation.refuse("function", "be a function", _validation.describe(function), "Pass it uncalled", TypeError)
    if cache is not None and not isinstance(cache, Cache):
        remedy = "Pass gradembed.Cache(folder)"
        _validation.refuse("cache", "be a Cache or None", _validation.describe(cache), remedy, TypeError)
    if n_jobs is not None:
        _validation.check_integer("n_jobs", n_jobs)
        if n_jobs == 0:
            _validation.refuse(
                "n_jobs", "be positive, or negative to count from all cores", 0, "Use -1 for all of them"
            )
    _validation.check_integer("n_threads", n_threads, 1)
    _validation.check_choice("on_error", on_error, ("raise", "keep"))
    if not isinstance(progress, bool):
        _validation.refuse("progress", "be True or False", _validation.describe(progress), "Pass a bool", TypeError)


class _Sweep:
    """A sweep on its way: what is known so far, by setting."""

    def __init__(
        self,
        function: Callable[..., Any],
        settings: list[dict[str, Any]],
        cache: Cache | None,
        n_threads: int,
        *,
        stop_at_error: bool,
    ) -> None:
        self.function, self.settings, self.cache, self.n_threads = function, settings, cache, n_threads
        self.stop_at_error = stop_at_error
        self.name = getattr(taken_apart(function, settings[0])[0], "__name__", type(function).__name__)
        self.seeds = identities(settings)
        self.equal: dict[str, list[int]] = {}  # which settings are one
        for index, identity in enumerate(self.seeds):
            self.equal.setdefault(identity, []).append(index)
        self.outcomes: dict[int, Outcome] = {}  # by the first of equal settings
        self.n_cached = 0
        self.paths = self._paths()

    def _paths(self) -> dict[int, Path]:
        """Where results are stored.

        Returns:
            Files by settings, none without a cache.
        """
        if self.cache is None:
            return {}
        with limited_threads(self.n_threads):  # which count in the entry's name
            try:
                calls = {i: taken_apart(self.function, self.settings[i]) for i, *_ in self.equal.values()}
                return {i: self.cache._path(inner, arguments, "sweep") for i, (inner, arguments) in calls.items()}
            except TypeError as error:
                got, remedy = f"{self.name!r}: {error}", "Write it with def, or do without the cache"
                _validation.refuse("function", "be known by its content, to be cached", got, remedy, TypeError)

    def find(self, bar: tqdm[Any]) -> None:
        """Read what is in the cache."""
        for index, path in self.paths.items():
            found = self.cache._find(path) if self.cache else None
            if found is not None:
                self.outcomes[index] = Outcome(index, found[0])
                self.n_cached += self._count(index)
        bar.update(self.n_cached)

    def compute(self, n_jobs: int | None, bar: tqdm[Any]) -> None:
        """Make the calls that are left, storing each result as it arrives."""
        wanted = versions()
        jobs = [
            Job(first, self.settings[first], int(identity[:8], 16), self.n_threads, wanted)
            for identity, (first, *_) in self.equal.items()
            if first not in self.outcomes
        ]
        try:
            with closing(run(self.function, jobs, n_jobs)) as outcomes:  # type: ignore[type-var]
                for outcome in outcomes:
                    self.outcomes[outcome.index] = outcome
                    self._keep(outcome)
                    bar.update(self._count(outcome.index))
                    if self.stop_at_error:
                        self.refuse_failures()
        except BrokenExecutor as error:
            got = f"a worker that died ({' '.join(str(error).split())}) after {self._done()} settings"
            remedy = "With fewer jobs each has more memory; what was done is in the cache, if there is one"
            _validation.refuse("function", "leave its worker alive", got, remedy, RuntimeError)

    def _keep(self, outcome: Outcome) -> None:
        """Store a result."""
        if self.cache is None or outcome.error is not None:
            return
        try:
            self.cache._keep(self.paths[outcome.index], outcome.value)
        except TypeError as error:
            got = f"something else at {describe(outcome.index, self.settings[outcome.index])}: {error}"
            remedy = "Return other things, or do without the cache"
            _validation.refuse("function", "return what the cache can store", got, remedy, TypeError)

    def _count(self, index: int) -> int:
        return len(self.equal[self.seeds[index]])

    def _done(self) -> int:
        return sum(self._count(i) for i, outcome in self.outcomes.items() if outcome.error is None)

    def refuse_failures(self) -> None:
        """Name the first setting at which the function failed, and how many others.

        Raises:
            RuntimeError: If there is one.
        """
        failed = [self.outcomes[i] for i in sorted(self.outcomes) if self.outcomes[i].error is not None]
        if not failed:
            return
        first = failed[0]
        others = f", and {len(failed) - 1} more that failed" if len(failed) > 1 else ""
        kept = "Mend it and sweep again: the results of the other settings are in the cache"
        lost = "Mend it; with cache= other results would be kept, with on_error='keep' they would be returned"
        got = f"{first.error} at {describe(first.index, self.settings[first.index])}{others}"
        try:
            _validation.refuse("function", "work at every setting", got, kept if self.cache else lost, RuntimeError)
        except RuntimeError as error:
            error.add_note(first.details)
            raise

    def result(self) -> SweepResult:
        """All outcomes in the order of the settings.

        Returns:
            The sweep's result.
        """
        outcomes: Sequence[Outcome] = [self.outcomes[self.equal[identity][0]] for identity in self.seeds]
        return SweepResult(
            function=self.name,
            settings=tuple(self.settings),
            results=tuple(outcome.value for outcome in outcomes),
            errors=tuple(outcome.error for outcome in outcomes),
            n_cached=self.n_cached,
        )
