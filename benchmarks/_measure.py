"""Timing that a noisy machine can bear: contestants take turns, and medians are compared; and peak memory."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

import gradembed as ge

measures = partial(ge.interference, n_readouts=0)  # rivals know no level of chance


def medians(contestants: Mapping[str, Callable[[], Any]], repeats: int = 7) -> dict[str, float]:
    """Time functions in turns, so that a slow spell hits all of them.

    Args:
        contestants: Functions by name. Each runs once before it is timed.
        repeats: Rounds.

    Returns:
        Median seconds by name.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats + 1):
        for name, function in contestants.items():
            start = time.perf_counter()
            function()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def product_rate(size: int = 1024, repeats: int = 9) -> float:
    """The machine's speed in multiplying square float32 matrices.

    Args:
        size: Rows of the matrices.
        repeats: Products; their median counts.

    Returns:
        Floating-point operations per second.
    """
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / medians({"product": lambda: a @ b}, repeats)["product"]


def high_water() -> float:
    """Greatest resident memory of this process so far, in megabytes.

    From /proc where there is one: what getrusage says starts with the parent's on Linux.

    Returns:
        Megabytes.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes here
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def in_own_process(measure: Callable[..., float], *arguments: object) -> float:
    """Measure memory where nothing else has used any.

    Returns:
        Megabytes.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()
