"""Many calls: in this process, in others through joblib, or on a Dask cluster."""

from __future__ import annotations

import queue
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import cloudpickle
import joblib
from joblib.parallel import get_active_backend

from gradembed import _validation
from gradembed.sweep._jobs import Job, Outcome, compute, failure, is_inside_a_sweep, unpacked

PATIENCE = 1.0  # seconds between two looks at a cluster from which nothing comes


def run(function: Callable[..., Any], jobs: Sequence[Job], n_jobs: int | None) -> Iterator[Outcome]:
    """Make all calls where joblib's configuration says, giving each outcome as soon as it is there.

    A sweep inside a call of another sweep has no workers of its own: its calls are made one after the other.

    Yields:
        Outcomes, in the order in which the calls end.
    """
    if is_inside_a_sweep() or not jobs:
        yield from (compute(function, job) for job in jobs)
        return
    backend, _ = get_active_backend()
    if type(backend).__name__ == "DaskDistributedBackend":
        with _connected(backend.client):
            joblib.effective_n_jobs(n_jobs)  # asks a cluster that has no workers yet for some
        yield from _on_dask(backend, *_packed(function, jobs))
    elif joblib.effective_n_jobs(n_jobs) == 1 or getattr(backend, "supports_sharedmem", False):
        yield from _through_joblib(function, jobs, n_jobs)
    else:
        yield from _through_joblib(*_packed(function, jobs), n_jobs)


def _packed(function: Callable[..., Any], jobs: Sequence[Job]) -> tuple[bytes, list[Job]]:
    """Pickle what goes to other processes.

    Returns:
        Function and jobs.
    """
    return _pickled("function", function), [replace(job, setting=_pickled("settings", job.setting)) for job in jobs]


def _pickled(name: str, value: object) -> bytes:
    """Pickle as joblib does, functions of notebooks included.

    Returns:
        The pickle.
    """
    try:
        return cloudpickle.dumps(value)  # type: ignore[no-any-return]
    except Exception as error:
        got = f"{_validation.describe(value)}, of which pickle says: {error}"
        remedy = "Make files, locks and generators inside the function, or use n_jobs=1"
        _validation.refuse(name, "be something that can be sent to workers", got, remedy, TypeError)


def _through_joblib(function: Callable[..., Any] | bytes, jobs: Sequence[Job], n_jobs: int | None) -> Iterator[Outcome]:
    """Make the calls through `joblib.Parallel`, one a batch, so that each outcome is there when its call ends.

    Yields:
        Outcomes.
    """
    parallel = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1)
    outcomes = parallel(joblib.delayed(compute)(function, job) for job in jobs)
    try:
        for outcome in outcomes:  # "yield from" would close them before the warning is off
            yield unpacked(outcome) if isinstance(function, bytes) else outcome
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
    again = set()
    with closing(_tasks(backend, function, jobs)) as outcomes:
        for outcome in outcomes:
            if outcome.worker_died:
                again.add(outcome.index)
            else:
                yield outcome
    for job in jobs:
        if job.index in again:
            yield from _tasks(backend, function, [job])


def _tasks(backend: Any, function: bytes, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
    """Make every call a task.

    Yields:
        Outcomes.
    """
    client, ended = backend.client, queue.SimpleQueue[Any]()
    sweep = f"sweep-{uuid4().hex[:12]}"
    # The function is a task of its own: sent once, and computed again if the worker that has it dies.
    with _connected(client):
        shared = client.submit(bytes, function, key=f"{sweep}-function")
    futures = {}
    try:
        for job in jobs:
            key = f"{sweep}-{job.index}"
            with _connected(client):
                futures[key] = client.submit(compute, shared, job, key=key, **backend.submit_kwargs), job
            futures[key][0].add_done_callback(ended.put)
        with backend.retrieval_context():  # lets other tasks run, should this be a task itself
            while futures:
                future = _next(ended, client)
                yield _outcome(future, futures[future.key][1], client)
                del futures[future.key]
    finally:
        if client.status == "running":
            client.cancel([shared, *(future for future, _ in futures.values())])


def _next(ended: queue.SimpleQueue[Any], client: Any) -> Any:
    """Wait for a task to end.

    Returns:
        Its future.
    """
    while True:
        try:
            return ended.get(timeout=PATIENCE)
        except queue.Empty:
            _check_connected(client)


@contextmanager
def _connected(client: Any) -> Iterator[None]:
    """Whatever is raised because a client closes says so.

    Yields:
        Nothing.
    """
    try:
        yield
    except Exception:
        _check_connected(client)
        raise


def _check_connected(client: Any) -> None:
    """Refuse to wait for a cluster that is no longer there."""
    if client.status in ("closing", "closed"):
        got, remedy = f"a client that is {client.status}", "Start a cluster and sweep again"
        _validation.refuse("backend", "stay connected to its cluster", got, remedy, RuntimeError)


def _outcome(future: Any, job: Job, client: Any) -> Outcome:
    """What came of a task.

    Returns:
        Its call's outcome; a failure if the cluster gave it up, for instance because workers died with it.
    """
    while True:
        try:
            return unpacked(future.result(timeout=PATIENCE))
        except TimeoutError:  # an ended task's result is fetched, and the client may close meanwhile
            _check_connected(client)
        except Exception as error:
            _check_connected(client)
            given_up = failure(job, error, "a task that the cluster gave up: ")
            return replace(given_up, worker_died=type(error).__name__ == "KilledWorker")
