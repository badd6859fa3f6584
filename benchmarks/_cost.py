"""What `gradembed.interference` should cost: operations counted from shapes, times what each takes on this machine.

The seconds of an analysis of n samples in chunks of m, of a chain d0-w1-...-wk-u, are predicted as

    call + (n / m) · (chunk + Σ counts · seconds per operation) + Σ counts · seconds of what is done once,

where an operation is a product of matrices, a pass over the elements of arrays, and so on, at the size at which it
is done. Counts follow from the shapes alone. For each sample: 2ab floating-point operations forward through a layer
a-b, 2uab back through a hidden one, 2u²c for the inner products of u gradients of c numbers; some 30 numbers moved for
each of the u(u-1)/2 pairs, and 4uw to scale gradients of a hidden layer of width w by the slopes. Seconds per operation
are measured with torch alone, at that size: small matrices multiply below the rate of large ones, and arrays that fit
into a cache are faster. `call` and `chunk` are what Python and dispatch cost, measured on networks of two units a
layer. Nothing is fitted to the times that are predicted.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import gradembed as ge
from benchmarks import _measure
from gradembed.gradients import Session
from gradembed.interference.realised import WIDE

Operation = tuple[str, tuple[int, ...]]  # its kind, and the sizes of what it is done on
Work = Counter[Operation]  # how often an operation is done; parts of one where it moves less
TINY, FEW, MANY = 2, 2, 8  # units a layer and numbers of hidden layers, of the networks that show the overhead


def works(widths: Sequence[int], m: int) -> tuple[Work, Work]:
    """Count what an analysis costs.

    Returns:
        Operations for each chunk of m samples, and those that are done once.
    """
    return forward(widths, m) + backward(widths, m), once(widths)


def forward(widths: Sequence[int], m: int) -> Work:
    """Count what one chunk of samples costs on the way up.

    Returns:
        Operations.
    """
    u = widths[-1]
    work = Work({("gather", (m, u, u)): 1, ("pass", (m, widths[0])): 2})  # values; samples checked and copied
    for a, b in itertools.pairwise(widths):
        work["product", (m, a, b)] += 1
    for width in widths[1:-1]:
        work["pass", (m, width)] += 2  # rectified, slopes
    return work


def backward(widths: Sequence[int], m: int) -> Work:
    """Count what one chunk costs on the way down: gradients at each layer, and all that pairs of them need.

    Returns:
        Operations.
    """
    *below, top, u = widths
    work: Work = Work()  # the last layer's gradients are its weights
    r = top
    for level, d in reversed(list(enumerate(below))):
        c = min(r, d)  # numbers that a gradient at the layer of width d is described by
        for columns in {c, d} if level else {c}:
            if r == top and level == len(below) - 1:  # rows that all samples share, times their slopes
                work["pass", (m, u * r) if m < r else (r, u * columns)] += 1
                work["product", (m * u, r, columns) if m < r else (m, r, u * columns)] += 1
            else:
                work["product", (m * u, r, columns)] += 1
        work += pairs(m, u, c)
        if level:
            work["pass", (m, u * d)] += 1
        r = d
    return work


def pairs(m: int, u: int, c: int) -> Work:
    """Count what the measures of all pairs of u gradients of c numbers need at m samples.

    Returns:
        Operations.
    """
    p = u * (u - 1) // 2
    work: Work = Work()
    for kind, shape, times in (
        ("gram", (m, u, c), 1),
        ("gather", (m, u * u, u), 1),  # lengths
        ("gather", (m, u * u, p), 1),  # products of pairs
        ("gather", (m, u, p), 4),  # lengths of both, to scale and to compare
        ("pass", (m, u), 8),
        ("pass", (m, p), 8),  # two to scale, six to compare lengths, one for conflicts; some read one array, not two
        ("sum", (m, p), 4),
        ("norm", (m, p), 1),
        ("pass", (5, p), 6),  # running sums of five measures, in float64
    ):
        work[kind, shape] += times
    return work


def once(widths: Sequence[int]) -> Work:
    """Count what an analysis costs beside its chunks.

    Returns:
        Operations.
    """
    u, top = widths[-1], widths[-2]
    work: Work = Work()
    for a, b in itertools.pairwise(widths):
        work["pass", (a, b)] += 1  # parameters checked
    if widths[0] > widths[1]:
        work["triangle", (widths[0], widths[1])] += 1
    work["scatter", (u,)] += 10  # five matrices out of their halves
    work["pass", (u, u)] += 20
    return work + pairs(1, u, min(top, u))


class Machine:
    """How long operations take on a device, measured again in each round.

    Attributes:
        device: Where.
        overhead: Seconds of Python and dispatch: of a call, and of a chunk, each as (without layers, per layer).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._functions: dict[Operation, tuple[Callable[[], object], int]] = {}
        self._seconds: dict[Operation, float] = {}
        few, many = self._tiny(FEW), self._tiny(MANY)
        self.overhead = []
        for a, b in zip(few, many, strict=True):
            each = max(0.0, (b - a) / (MANY - FEW))
            self.overhead.append((max(0.0, a - FEW * each), each))

    def prepare(self, *works: Work) -> None:
        """Set up all operations of a setting, and forget those of the one before."""
        self._functions = {key: _operation(*key, self.device) for work in works for key in work}
        for function, _ in self._functions.values():
            function()

    def round(self) -> None:
        """Measure each operation that is set up."""
        self._seconds = {key: self.measure(function) / times for key, (function, times) in self._functions.items()}

    def total(self, work: Work, kinds: tuple[str, ...] = ()) -> float:
        """Add up, as measured in the last round.

        Args:
            work: Operations.
            kinds: Of which kinds; none for all.

        Returns:
            Seconds.
        """
        return sum(times * self._seconds[key] for key, times in work.items() if not kinds or key[0] in kinds)

    def predict(self, widths: Sequence[int], n: int, m: int) -> tuple[float, float]:
        """Predict an analysis from the last round; see the top of this file.

        Args:
            widths: Of the network.
            n: Samples.
            m: Samples at a time.

        Returns:
            Seconds, and the share of matrix products in them.
        """
        hidden, (chunk, rest) = len(widths) - 2, works(widths, m)
        call, each = (fixed + hidden * layer for fixed, layer in self.overhead)
        seconds = call + n / m * (each + self.total(chunk)) + self.total(rest)
        products = ("product", "gram", "triangle")
        return seconds, (n / m * self.total(chunk, products) + self.total(rest, products)) / seconds

    def measure(self, function: Callable[[], Any], least: int = 1, budget: float = 0.01, most: int = 20) -> float:
        """Time a function: often if it is fast, and on another device several times before it is waited for.

        Returns:
            Median seconds.
        """
        times: list[float] = []
        several = 1 if self.device.type == "cpu" else 10
        while len(times) < least or (sum(times) * several < budget and len(times) < most):
            self._wait()
            start = time.perf_counter()
            for _ in range(several):
                function()
            self._wait()
            times.append((time.perf_counter() - start) / several)
        return statistics.median(times)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _tiny(self, hidden: int) -> tuple[float, float]:
        """Time a network that has next to nothing to compute.

        Returns:
            Seconds of a call and of a chunk, without what the counted operations take.
        """
        widths, n = [TINY] * (hidden + 2), 100
        network, x = ge.MLP(widths, seed=0).to(self.device), torch.rand(n, TINY, device=self.device)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.abs_()  # no unit is ever off
        _measure.measures(network, x)
        one = self.measure(lambda: _measure.measures(network, x[:1], chunk_size=1), least=9)
        chunk = (self.measure(lambda: _measure.measures(network, x, chunk_size=1), least=9) - one) / (n - 1)
        step, rest = works(widths, 1)
        self.prepare(step, rest)
        self.round()
        return max(0.0, one - chunk - self.total(rest)), max(0.0, chunk - self.total(step))


def _operation(kind: str, shape: tuple[int, ...], device: torch.device) -> tuple[Callable[[], object], int]:
    """Set up an operation, with arrays of its own.

    Returns:
        What to time, and how often it does the operation.
    """
    if kind == "product":
        a, b = torch.randn(shape[:2], device=device), torch.randn(shape[1:], device=device)
        return lambda: a @ b, 1
    if kind == "triangle":
        matrix = torch.randn(shape, dtype=torch.float64, device=device)
        return lambda: torch.linalg.qr(matrix, mode="r"), 1
    if kind == "gather":
        source = torch.rand(shape[:2], device=device)
        places = torch.arange(shape[2], device=device) * shape[1] // max(1, shape[2])
        return lambda: source.index_select(1, places), 1
    if kind == "pass":  # from one array to the next, so that a cache must hold as many as in an analysis
        arrays = [torch.rand(shape, device=device) for _ in range(8)]
        return lambda: [first * second for first, second in itertools.pairwise(arrays)], 7
    if kind == "scatter":
        return _scatter(shape[0], device), 1
    values = torch.randn(shape, device=device)
    if kind == "gram":
        return lambda: values @ values.mT, 1
    if kind == "norm" and shape[1] <= WIDE:
        return lambda: torch.linalg.vector_norm(values, ord=1, dim=0), 1
    return (lambda: values.abs().sum(0)) if kind == "norm" else (lambda: values.sum(0)), 1


def _scatter(u: int, device: torch.device) -> Callable[[], None]:
    a, b = torch.triu_indices(u, u, 1, device=device)
    matrix, values = torch.zeros(u, u, dtype=torch.float64, device=device), torch.rand(len(a), device=device).double()

    def write() -> None:
        matrix[a, b] = values

    return write


def chunk_size(network: torch.nn.Module, x: Tensor) -> int:
    """Ask the library how many samples of a stream it takes at a time.

    Returns:
        Samples.
    """
    with Session.open(network, [x]) as session:
        return session.samples_at_a_time()
