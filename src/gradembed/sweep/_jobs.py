"""One call, the same wherever it is made."""

from __future__ import annotations

import copy
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import cloudpickle
import torch
from threadpoolctl import threadpool_limits

from gradembed import _context

# Thread counts and torch's random numbers belong to a process, so a process makes one call at a time.
_ALONE = threading.RLock()
_here = threading.local()


@dataclass(frozen=True)
class Job:
    """One call to be made.

    Attributes:
        index: Number of the setting.
        setting: A dictionary of arguments; pickled, if they go to another process.
        seed: Where torch's random numbers start.
        n_threads: How many threads the call may use.
        versions: Under which its result is wanted.
    """

    index: int
    setting: Any
    seed: int
    n_threads: int
    versions: str


@dataclass(frozen=True)
class Outcome:
    """How a call ended.

    Attributes:
        index: Number of the setting.
        value: What was returned; pickled, if it comes from another process.
        error: What was raised, in one line; None if nothing was.
        details: Where it was raised, in many.
        worker_died: Whether all that is known is that workers died with the call.
    """

    index: int
    value: Any = None
    error: str | None = None
    details: str = ""
    worker_died: bool = False


def versions() -> str:
    """What a worker must have in common with the process that asked.

    Returns:
        Versions of the library and of torch.
    """
    return f"gradembed {metadata.version('gradembed')} and torch {torch.__version__}"


def compute(function: Callable[..., Any] | bytes, job: Job) -> Outcome:
    """Make one call.

    In another process function, arguments and value travel as bytes, so that one that cannot be pickled is an error
    of its call, not of the workers. Errors travel as text, because not every exception can be sent.

    Returns:
        What came of it.
    """
    if versions() != job.versions:
        return Outcome(job.index, error=f"a worker with {versions()}, where {job.versions} are wanted")
    with _ALONE, _inside_a_sweep(), limited_threads(job.n_threads), _context.seeded(job.seed):
        try:
            if isinstance(function, bytes):
                value = cloudpickle.loads(function)(**cloudpickle.loads(job.setting))
                return Outcome(job.index, cloudpickle.dumps(value))
            return Outcome(job.index, function(**copy.deepcopy(job.setting)))
        except (Exception, SystemExit) as error:
            return failure(job, error)


def unpacked(outcome: Outcome) -> Outcome:
    """Unpickle a value that has arrived.

    Returns:
        The outcome with its value, or the error that stands in its way.
    """
    if outcome.error is not None:
        return outcome
    try:
        return Outcome(outcome.index, cloudpickle.loads(outcome.value))
    except Exception as error:
        return failure(outcome, error)


def failure(job: Job | Outcome, error: BaseException, prefix: str = "") -> Outcome:
    """What comes of a call that fails.

    Returns:
        The error, as text.
    """
    line = prefix + " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return Outcome(job.index, error=line, details="".join(traceback.format_exception(error)))


@contextmanager
def _inside_a_sweep() -> Iterator[None]:
    before = is_inside_a_sweep()
    _here.computes = True
    try:
        yield
    finally:
        _here.computes = before


def is_inside_a_sweep() -> bool:
    """Whether this thread is in the middle of a call of a sweep.

    Returns:
        True if so.
    """
    return getattr(_here, "computes", False)


@contextmanager
def limited_threads(n_threads: int) -> Iterator[None]:
    """Use so many threads in torch, BLAS and OpenMP for the duration of the block.

    Yields:
        Nothing.
    """
    with _context.kept_threads(), threadpool_limits(n_threads):
        torch.set_num_threads(n_threads)
        yield
