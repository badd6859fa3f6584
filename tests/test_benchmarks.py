"""The cost model of the benchmarks counts what is done. Its predictions are judged by ``make bench``, not here."""

import math

import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import gradembed as ge
from benchmarks import _cost, _measure, scale, suite


class FlopCounter(TorchDispatchMode):
    """As torch's own, whose hooks on every module would keep the library from its path of matrix products."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out, count = func(*args, **(kwargs or {})), flop_registry.get(func._overloadpacket)
        self.total += count(*args, **(kwargs or {}), out_val=out) if count else 0
        return out


def products(work):
    """Floating-point operations of the matrix products among counted operations."""
    total = 0
    for (kind, shape), times in work.items():
        if kind in ("product", "gram"):
            total += 2 * math.prod(shape) * (shape[1] if kind == "gram" else 1) * times
    return total


@pytest.mark.parametrize(
    ("widths", "n"),
    [
        ([784, 64, 64, 10], 8192),
        ([100, 256, 256, 256, 10], 2048),  # fewer inputs than hidden units
        ([784, 512, 512, 10], 1024),
        ([784, 64, 64, 300], 150),
        ([50, 64, 64, 128], 640),  # more outputs than hidden units
        ([20, 64, 10], 4096),
    ],
)
def test_counted_products_are_those_that_torch_counts(widths, n):
    network, x = ge.MLP(widths, seed=0), torch.randn(1000, widths[0])
    m = _cost.chunk_size(network, x)
    with FlopCounter() as counter:
        _measure.measures(network, scale.stream(x, n))
    chunk, rest = _cost.works(widths, m)
    counted = products(chunk) * n / m + products(rest)
    assert counter.total == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize("n", [1, 999, 1000, 2500])
def test_the_stream_gives_as_many_samples_as_asked_for(n):
    assert sum(map(len, scale.stream(torch.randn(1000, 2), n))) == n


def test_predictions_add_up(monkeypatch):
    monkeypatch.setattr(_cost.Machine, "_tiny", lambda _, hidden: (0.5 + 0.1 * hidden, 0.01 * hidden))
    widths, machine = [4, 8, 8, 8, 3], _cost.Machine(torch.device("cpu"))
    machine.prepare(*_cost.works(widths, 10))
    monkeypatch.setattr(machine, "measure", lambda _: 0.0)
    machine.round()
    # a call and ten chunks, through three hidden layers
    assert machine.predict(widths, 100, 10) == (pytest.approx(0.5 + 0.3 + 10 * 0.03), 0)
    monkeypatch.undo()
    machine.round()
    seconds, share = machine.predict(widths, 100, 10)
    assert seconds > 1.1
    assert 0 < share < 1


def test_the_suite_judges_every_method_on_every_cell():
    assert len(suite.cells()) == 2 * (2 * 13 + 3)
    assert not {cell[0] for cell in suite.cells()} & {cell[0] for cell in suite.cells(held_out=True)}
    units = suite.rotated_waves(10, 16, 3, 1.0, seed=0, m=40)
    assert units.fields.gradients.shape == (160, 40, 3)
    cube = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    size = ge.datasets.random_waves(10, 3).gradient(cube).norm(dim=2).mean(1).repeat(16)  # rotations leave it alone
    assert torch.allclose(units.fields.gradients.norm(dim=2).mean(1), size, rtol=0.4)
    assert (units.fields.points[:10] == units.fields.points[0]).all()
    table = suite.judged(("waves", "input", 40), lambda: units)
    assert list(table["method"]) == list(suite.METHODS)
    assert table[suite.MEASURES].notna().all(axis=None)


def test_the_gap_is_to_the_best_method_of_each_cell():
    probes = {("a", 140): (1.0, 0.75), ("b", 140): (0.5, 0.75), ("b", 600): (1.0, 0.5)}
    table = pd.DataFrame(
        [
            {"problem": problem, "wrt": "input", "points": m, "method": method, "neighbor": 1, "probe": probe, "ARI": 0}
            for (problem, m), both in probes.items()
            for method, probe in zip(("one", "other"), both, strict=True)
        ]
    )
    told = suite.summary(table)
    assert told["all", "mean gap"].tolist() == pytest.approx([0.25 / 3, 0.75 / 3])
    assert told["all", "worst gap"].tolist() == [0.25, 0.5]
    assert told["input, 140", "probe"].tolist() == [0.75, 0.75]
