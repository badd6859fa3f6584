"""A function at many settings: on this machine or a cluster, each result once, stored as soon as it is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import BrokenExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gradembed import _progress
from gradembed._validation import as_bool, as_integer, check_choice, check_kind, describe, refuse
from gradembed.store import Cache
from gradembed.sweep._result import Function, Setting, SweepResult, expand, named, read_calls
from gradembed.sweep._run import Job, Outcome, limited_threads, run, versions

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
    work = _Sweep(function, expand(settings), cache, n_threads)
    with _progress.bar(len(work.settings), f"sweep {work.name}", "setting", wanted=progress) as bar:
        bar.update(work.n_cached)
        work.compute(n_jobs, bar, stops=cache is None and on_error == "raise")
    if on_error == "raise":
        work.refuse_failures()
    return work.result()


class _Sweep:
    """A sweep on its way: what is known so far, by the first of equal settings."""

    def __init__(self, function: Function, settings: list[Setting], cache: Cache | None, n_threads: int) -> None:
        self.function, self.settings, self.cache, self.n_threads = function, settings, cache, n_threads
        self.identities, calls = read_calls(function, settings)
        self.name = getattr(calls[0][0], "__name__", type(function).__name__)
        seen: dict[str, int] = {}
        self.first = [seen.setdefault(identity, i) for i, identity in enumerate(self.identities)]
        self.counts = Counter(self.first)
        self.outcomes: dict[int, Outcome] = {}
        self.paths: dict[int, Path] = {}  # where results are stored
        if cache is not None:
            try:
                with limited_threads(n_threads):  # which count in the entry's name
                    self.paths = {i: cache._path(*calls[i], "sweep") for i in self.counts}
            except TypeError as error:
                got, remedy = f"{self.name!r}: {error}", "Write it with def, or do without the cache"
                refuse("function", "be known by its content, to be cached", got, remedy, TypeError)
            for i, path in self.paths.items():
                if (found := cache._find(path)) is not None:
                    self.outcomes[i] = Outcome(i, found[0])
        self.n_cached = sum(self.counts[i] for i in self.outcomes)

    def compute(self, n_jobs: int | None, bar: tqdm[Any], *, stops: bool) -> None:
        """Make the calls that are left, storing each result as it arrives; the first error may stop them."""
        wanted = versions()
        seeds = {i: int(self.identities[i][:8], 16) for i in self.counts if i not in self.outcomes}
        jobs = [Job(index, self.settings[index], seed, self.n_threads, wanted) for index, seed in seeds.items()]
        try:
            with closing(run(self.function, jobs, n_jobs)) as outcomes:
                for outcome in outcomes:
                    self.outcomes[outcome.index] = outcome
                    self._keep(outcome)
                    bar.update(self.counts[outcome.index])
                    if stops:
                        self.refuse_failures()
        except BrokenExecutor as error:
            n_done = sum(self.counts[i] for i, outcome in self.outcomes.items() if outcome.error is None)
            got = f"a worker that died ({' '.join(str(error).split())}) after {n_done} settings"
            remedy = "With fewer jobs each has more memory; what was done is in the cache, if there is one"
            refuse("function", "leave its worker alive", got, remedy, RuntimeError)

    def _keep(self, outcome: Outcome) -> None:
        """Store a result."""
        if self.cache is None or outcome.error is not None:
            return
        try:
            self.cache._keep(self.paths[outcome.index], outcome.value)
        except TypeError as error:
            got = f"something else at {named(outcome.index, self.settings[outcome.index])}: {error}"
            remedy = "Return other things, or do without the cache"
            refuse("function", "return what the cache can store", got, remedy, TypeError)

    def refuse_failures(self) -> None:
        """Name the first setting at which the function failed, and how many others.

        Raises:
            RuntimeError: If there is one.
        """
        failed = [outcome for _, outcome in sorted(self.outcomes.items()) if outcome.error is not None]
        if not failed:
            return
        remedy = "Mend it; with cache= other results would be kept, with on_error='keep' they would be returned"
        if self.cache is not None:
            remedy = "Mend it and sweep again: the results of the other settings are in the cache"
        others = f", and {len(failed) - 1} more that failed" if len(failed) > 1 else ""
        got = f"{failed[0].error} at {named(failed[0].index, self.settings[failed[0].index])}{others}"
        try:
            refuse("function", "work at every setting", got, remedy, RuntimeError)
        except RuntimeError as error:
            error.add_note(failed[0].details)
            raise

    def result(self) -> SweepResult:
        """Return all outcomes in the order of the settings."""
        outcomes = [self.outcomes[index] for index in self.first]
        results, errors = tuple(o.value for o in outcomes), tuple(o.error for o in outcomes)
        return SweepResult(self.name, tuple(self.settings), results, errors, self.n_cached)
