"""Calls, the same wherever they are made: in this process, in others through joblib, or on a Dask cluster."""

from __future__ import annotations

import copy
import queue
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any
from uuid import uuid4

import cloudpickle
import joblib
import torch
from joblib.parallel import get_active_backend
from threadpoolctl import threadpool_limits

from gradembed import _context
from gradembed._validation import describe, refuse

PATIENCE = 1.0  # seconds between two looks at a cluster from which nothing comes
GONE = ("closing", "closed")  # what a client says that has no cluster any more
# Thread counts and torch's random numbers belong to a process, so a process makes one call at a time.
_ALONE = threading.RLock()
_INSIDE = ContextVar("_INSIDE", default=False)  # whether a call of a sweep is being made


@dataclass(frozen=True, eq=False)
class Job:
    """One call to be made: pickled, if it goes to another process, its setting before the rest."""

    index: int  # of the setting
    setting: Any
    seed: int  # where torch's random numbers start
    n_threads: int
    versions: str  # under which the result is wanted


@dataclass(frozen=True, eq=False)
class Outcome:
    """How a call ended; its value pickled, if it comes from another process."""

    index: int
    value: Any = None
    error: str | None = None  # what was raised, in one line
    details: str = ""  # where it was raised, in many


def versions() -> str:
    """Return what a worker must have in common with the process that asked."""
    return f"gradembed {metadata.version('gradembed')} and torch {torch.__version__}"


@contextmanager
def limited_threads(n_threads: int) -> Iterator[None]:
    """Use so many threads in torch, BLAS and OpenMP for the duration of the block.

    Yields:
        Nothing.
    """
    with _context.kept_threads(), threadpool_limits(n_threads):
        torch.set_num_threads(n_threads)
        yield


def compute(function: Callable[..., Any] | bytes, job: Job) -> Outcome:
    """Make one call.

    In another process function, arguments and value travel as bytes, so that one that cannot be pickled is an error
    of its call, not of the workers. Errors travel as text, because not every exception can be sent.

    Returns:
        What came of it.
    """
    if versions() != job.versions:
        return Outcome(job.index, error=f"a worker with {versions()}, where {job.versions} are wanted")
    with _ALONE, limited_threads(job.n_threads), _context.seeded(job.seed):
        before = _INSIDE.set(True)
        try:
            if isinstance(function, bytes):
                value = cloudpickle.loads(function)(**cloudpickle.loads(job.setting))
                return Outcome(job.index, cloudpickle.dumps(value))
            return Outcome(job.index, function(**copy.deepcopy(job.setting)))
        except (Exception, SystemExit) as error:
            return _failure(job.index, error)
        finally:
            _INSIDE.reset(before)


def _unpacked(outcome: Outcome) -> Outcome:
    """Return an outcome that has arrived with its value, or the error that stands in its way."""
    try:
        return outcome if outcome.error is not None else replace(outcome, value=cloudpickle.loads(outcome.value))
    except Exception as error:
        return _failure(outcome.index, error)


def _failure(index: int, error: BaseException, prefix: str = "") -> Outcome:
    line = prefix + " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return Outcome(index, error=line, details="".join(traceback.format_exception(error)))


def run(function: Callable[..., Any], jobs: Sequence[Job], n_jobs: int | None) -> Generator[Outcome, None, None]:
    """Make all calls where joblib's configuration says, giving each outcome as soon as it is there.

    A sweep inside a call of another sweep has no workers of its own: its calls are made one after the other.

    Yields:
        Outcomes, in the order in which the calls end.
    """
    if _INSIDE.get() or not jobs:
        yield from (compute(function, job) for job in jobs)
        return
    backend, _ = get_active_backend()
    is_dask = type(backend).__name__ == "DaskDistributedBackend"
    with _connected(backend.client) if is_dask else nullcontext():
        n_workers = joblib.effective_n_jobs(n_jobs)  # asks a cluster that has no workers yet for some
    if not is_dask and (n_workers == 1 or getattr(backend, "supports_sharedmem", False)):
        yield from _through_joblib(function, jobs, n_jobs)
        return
    packed = _pickled("function", function)
    jobs = [replace(job, setting=_pickled("settings", job.setting)) for job in jobs]
    yield from _on_dask(backend, packed, jobs) if is_dask else _through_joblib(packed, jobs, n_jobs)


def _pickled(name: str, value: object) -> bytes:
    """Return a pickle as joblib makes it, functions of notebooks included."""
    try:
        return cloudpickle.dumps(value)  # type: ignore[no-any-return]
    except Exception as error:
        got = f"{describe(value)}, of which pickle says: {error}"
        remedy = "Make files, locks and generators inside the function, or use n_jobs=1"
        refuse(name, "be something that can be sent to workers", got, remedy, TypeError)


def _through_joblib(function: Callable[..., Any] | bytes, jobs: Sequence[Job], n_jobs: int | None) -> Iterator[Outcome]:
    """Make the calls through `joblib.Parallel`, one a batch, so that each outcome is there when its call ends.

    Yields:
        Outcomes.
    """
    parallel = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1)
    outcomes = parallel(joblib.delayed(compute)(function, job) for job in jobs)
    try:
        for outcome in outcomes:  # "yield from" would close them before the warning is off
            yield _unpacked(outcome) if isinstance(function, bytes) else outcome
    finally:
        with warnings.catch_warnings():  # after an interruption joblib says that results were not used
            warnings.simplefilter("ignore", UserWarning)
            outcomes.close()


def _on_dask(backend: Any, function: bytes, jobs: Sequence[Job]) -> Iterator[Outcome]:
    """Make the calls on the cluster that joblib's configuration names.

    Not through `joblib.Parallel`, which (joblib 1.6) waits for ever if the cluster gives a task up or goes away,
    makes the calls in the client's process if there is one worker, and does not notice workers that come later.
    Whatever is on a worker when it dies is blamed for it. So tasks that were given up for that get a second chance,
    one by one: those that only waited beside the one that killed their worker end well.

    Yields:
        Outcomes.
    """
    again: list[Job] = []
    with _connected(backend.client):
        yield from _tasks(backend, function, jobs, again)
        for job in again:
            yield from _tasks(backend, function, [job])


def _tasks(backend: Any, function: bytes, jobs: Sequence[Job], again: list[Job] | None = None) -> Iterator[Outcome]:
    """Make every call a task, and set those aside, if they may be made again, with which a worker died.

    Yields:
        Outcomes; a failure where the cluster gave the task up.
    """
    client, name, ended = backend.client, f"sweep-{uuid4().hex[:12]}", queue.SimpleQueue[Any]()
    futures = {}
    # The function is a task of its own: sent once, and computed again if the worker that has it dies.
    shared = client.submit(bytes, function, key=f"{name}-function")
    try:
        for job in jobs:
            future = client.submit(compute, shared, job, key=f"{name}-{job.index}", **backend.submit_kwargs)
            futures[future.key] = future, job
            future.add_done_callback(ended.put)
        with backend.retrieval_context():  # lets other tasks run, should this be a task itself
            while futures:
                future = _patiently(ended.get, client)
                job = futures.pop(future.key)[1]
                try:  # to fetch it; the client may close meanwhile
                    outcome = _unpacked(_patiently(future.result, client))
                except Exception as error:
                    if client.status in GONE:
                        raise
                    if again is not None and type(error).__name__ == "KilledWorker":
                        again.append(job)
                        continue
                    outcome = _failure(job.index, error, "a task that the cluster gave up: ")
                yield outcome
    finally:
        if client.status == "running":
            client.cancel([shared, *(future for future, _ in futures.values())])


def _patiently(ask: Callable[..., Any], client: Any) -> Any:
    """Return an answer, however long it takes, while there is a cluster."""
    while True:
        try:
            return ask(timeout=PATIENCE)
        except (queue.Empty, TimeoutError):
            if client.status in GONE:
                raise


@contextmanager
def _connected(client: Any) -> Iterator[None]:
    """Whatever is raised because a client closes says so.

    Yields:
        Nothing.
    """
    try:
        yield
    except Exception:
        if client.status not in GONE:
            raise
        got, remedy = f"a client that is {client.status}", "Start a cluster and sweep again"
        refuse("backend", "stay connected to its cluster", got, remedy, RuntimeError)
