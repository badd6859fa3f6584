"""Interference of samples that come in batches."""

import weakref
from pathlib import Path

import pytest
import torch
from _asserts import assert_close, unchanged
from _networks import Convolutional, Residual, linear
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import gradembed as ge
from gradembed.gradients import Session
from gradembed.gradients.batches import Stream

MEASURES = ("cosine", "abs_cosine", "conflict", "norm_similarity", "norm", "undefined", "count")
X = torch.randn(150, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(len(X)) % 3


class Drawn(IterableDataset):
    """A data set without a length."""

    def __iter__(self):
        return iter(X)


class Reused:
    """Gives one and the same tensor again and again, filled anew."""

    def __iter__(self):
        buffer = torch.empty(10, 6, dtype=torch.float64)
        for part in X.split(10):
            yield buffer.copy_(part)


SOURCES = {
    "list": lambda: [X[:1], X[1:90], X[90:]],
    "tuple": lambda: (X[:70], X[70:]),
    "generator": lambda: (part for part in X.split(37)),
    "one sample each": lambda: X.split(1),
    "one batch": lambda: [X],
    "loader": lambda: DataLoader(TensorDataset(X), batch_size=32),
    "loader with labels": lambda: DataLoader(TensorDataset(X, LABELS), batch_size=64),
    "loader without length": lambda: DataLoader(Drawn(), batch_size=40),
    "pairs": lambda: [(X[:50], LABELS[:50]), [X[50:], LABELS[50:], "more"]],
    "buffer filled anew": Reused,
    "with gradients": lambda: [part.clone().requires_grad_() for part in X.split(60)],
}


def network_of(u=3, activation=nn.ReLU):
    return ge.MLP([6, 9, 8, u], activation, seed=0).double()


def assert_same(result, expected):
    assert result.layers == expected.layers
    assert result.n_samples == expected.n_samples
    assert result.unit_labels == expected.unit_labels
    for layer in expected.layers:
        for name in MEASURES:
            assert_close(getattr(result, name)[layer], getattr(expected, name)[layer], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("chunk_size", [None, 7, 50])
def test_batches_give_what_one_tensor_gives(source, chunk_size):
    expected = ge.interference(network_of(), X, n_bootstrap=20)
    result = ge.interference(network_of(), SOURCES[source](), n_bootstrap=20, chunk_size=chunk_size)
    assert_same(result, expected)
    assert result.effective_dimension == pytest.approx(expected.effective_dimension, rel=1e-12)  # all gradients fit in
    assert result.chance == pytest.approx(expected.chance, rel=1e-12)
    for name, layers in expected.intervals.items():
        for layer, ends in layers.items():
            assert_close(result.intervals[name][layer], ends, rtol=1e-12, atol=1e-12)
            assert result.summary_intervals[name][layer] == pytest.approx(expected.summary_intervals[name][layer])


def test_other_samples_give_something_else():
    result, expected = ge.interference(network_of(), X.split(50)[:2]), ge.interference(network_of(), X)
    assert result.n_samples == 100
    assert float((result.cosine["input"] - expected.cosine["input"]).abs().max()) > 1e-3


@pytest.mark.parametrize("make", [Residual, lambda: Convolutional().eval()])
def test_general_modules_take_batches_too(make):
    model = make().double()
    x = torch.randn(23, 4).double() if isinstance(model, Residual) else torch.randn(23, 1, 4, 4).double()
    expected = ge.interference(model, x)
    for source in (x.split(5), list(DataLoader(TensorDataset(x), batch_size=9))):
        with unchanged(model):
            result = ge.interference(model, source)
        assert_same(result, expected)


def test_units_layers_and_dead_gradients_are_those_of_one_tensor():
    network = nn.Sequential(linear([[1, 0], [0, 1]]), nn.ReLU(), linear([[1, 1], [0, 0], [1, -1]]))
    x = torch.randn(40, 2, dtype=torch.float64)
    for arguments in ({}, {"units": [2, 0]}, {"directions": torch.eye(3).double()[:2]}, {"layers": ["0", "input"]}):
        assert_same(ge.interference(network, x.split(9), **arguments), ge.interference(network, x, **arguments))
    assert ge.interference(network, x.split(9)).undefined["1"].tolist() == [0, 40, 0]


@pytest.mark.parametrize(("u", "rel"), [(2, 0.05), (10, 0.05), (50, 0.15)])  # of 50 units, 36 samples instead of 41
def test_effective_dimension_is_close_where_other_samples_are_chosen(u, rel):
    network, x = network_of(u), torch.randn(9001, 6, dtype=torch.float64)
    expected = ge.interference(network, x, layers=["input", "hidden1"])
    result = ge.interference(network, x.split(1000), layers=["input", "hidden1"])
    assert result.effective_dimension == pytest.approx(expected.effective_dimension, rel=rel)
    assert result.chance == pytest.approx(expected.chance, rel=rel)
    assert result.effective_dimension != expected.effective_dimension


def test_effective_dimension_does_not_depend_on_how_the_samples_are_cut():
    network, x = network_of(), torch.randn(5000, 6, dtype=torch.float64)
    whole = ge.interference(network, [x])
    for size, chunk_size in ((1, None), (333, 50), (1000, 5000)):
        parts = ge.interference(network, x.split(size), chunk_size=chunk_size)
        assert parts.effective_dimension == pytest.approx(whole.effective_dimension, rel=1e-9)


def test_many_units_keep_few_samples_for_the_dimension():
    network, x = ge.MLP([6, 9, 1100], seed=0).double(), torch.randn(5, 6, dtype=torch.float64)
    expected = ge.interference(network, x, layers=["input"]).effective_dimension
    assert ge.interference(network, x.split(2), layers=["input"]).effective_dimension == pytest.approx(expected)


def test_untrained_control_goes_through_the_batches_again():
    expected = ge.interference(network_of(), X, n_untrained=2, seed=5)
    for source in ("list", "loader", "buffer filled anew"):
        result = ge.interference(network_of(), SOURCES[source](), n_untrained=2, seed=5)
        assert_same(result, expected)
        for control, other in zip(result.untrained, expected.untrained, strict=True):
            assert_same(control, other)


# What a run keeps


def counted(alive, most, n_batches):
    """Batches that are counted as long as they live."""
    for _ in range(n_batches):
        batch = torch.randn(1000, 6)
        alive.append(weakref.ref(batch))
        most[0] = max(most[0], sum(ref() is not None for ref in alive))
        yield batch
        del batch


def test_no_more_than_a_few_batches_are_alive():
    most = [0]
    ge.interference(ge.MLP([6, 8, 3], seed=0), counted([], most, 40), n_bootstrap=3)
    assert 1 <= most[0] <= 3  # the first, one in work and the next


PEAKS = """
import torch, gradembed as ge
from pathlib import Path

def peak(n):
    ge.interference(network, (torch.randn(1000, 256) for _ in range(n // 1000)))
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

network = ge.MLP([256, 32, 32, 5], seed=0)
print(peak(20_000), peak(200_000))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_samples(run_python):
    before, after = map(int, run_python(PEAKS).split())  # kilobytes
    assert after - before < 60_000  # all samples are 204,800; what the allocator keeps varies


@pytest.mark.parametrize(
    ("network", "directions", "expected"),
    [
        (ge.MLP([4, 64, 10], seed=0), None, 10 * 2**20 // (10 * 64 * 4)),
        (ge.MLP([4, 1024, 1024, 8], seed=0), None, 10 * 2**20 // (8 * 1024 * 4)),  # the widest gradients count
        (ge.MLP([4, 8, 3], seed=0), torch.randn(400, 3), 10 * 2**20 // (400 * 400 * 4)),  # so do pairs
        (ge.MLP([4, 8, 3], seed=0), torch.randn(1000, 3), 8),  # a few at least
        (ge.MLP([4, 8, 3], seed=0), torch.randn(5000, 3), 1),  # but not at any price
    ],
)
def test_chunks_fit_the_memory_budget(network, directions, expected):
    with Session.open(network, Stream([torch.randn(5, 4)]), None, "output", None, directions) as session:
        assert session.samples_at_a_time() == expected


# The caller's iterable, model and random numbers


class BrokenError(Exception):
    pass


def breaking(after):
    for _ in range(after):
        yield torch.randn(5, 4, dtype=torch.float64)
    raise BrokenError("no more")


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("make", [Residual, lambda: ge.MLP([4, 5, 3], seed=0)])
def test_an_error_of_the_iterable_passes_through_and_the_model_is_as_before(after, make):
    model = make().double()
    hooks = [len(module._forward_hooks) for module in model.modules()]
    modes = [module.training for module in model.modules()]
    with pytest.raises(BrokenError, match="no more"):
        ge.interference(model, breaking(after), chunk_size=2)
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("make", [Residual, lambda: ge.MLP([4, 5, 3], seed=0)])
def test_random_numbers_that_the_iterable_draws_are_drawn(make):
    """Two passes see other samples, also on the general path, which puts the model's random state back."""
    model = make()
    draw = lambda: (torch.randn(20, 4) for _ in range(3))  # noqa: E731
    torch.manual_seed(1)
    first, second = ge.interference(model, draw()), ge.interference(model, draw())
    torch.manual_seed(1)
    expected = [torch.cat(list(draw())) for _ in range(2)]
    for result, x in zip((first, second), expected, strict=True):
        assert_close(result.norm["input"], ge.interference(model, x).norm["input"], rtol=1e-5, atol=0)
    assert float((first.norm["input"] - second.norm["input"]).abs().max()) > 0


def test_batches_work_in_inference_mode():
    model = Residual().double()
    with torch.inference_mode():
        result = ge.interference(model, [torch.randn(5, 4).double() for _ in range(3)])
    assert result.n_samples == 15


def test_a_long_stream_goes_on_where_standard_error_is_missing(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    assert ge.interference(network_of(), X.split(50)).n_samples == len(X)
    assert ge.interference(network_of(), X[:20], pairing="all").n_samples == 20


# Refusals


def ones(*shape, dtype=torch.float64):
    return torch.ones(shape, dtype=dtype)


BAD = ones(5, 6)
BAD[2, 3] = float("nan")


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], ValueError, r"`x` should give at least one batch. Got none. Pass one with samples"),
        (iter(()), ValueError, r"`x` should give at least one batch"),
        ([ones(5, 6), BAD], ValueError, r"`x\[1\]` should be finite. Got 1 NaN or infinite values of 30"),
        ([BAD], ValueError, r"`x\[0\]` should be finite"),
        ([ones(5, 6), ones(5, 7)], ValueError, r"`x\[1\]` should have samples of the shape of the first batch, \[6\]"),
        ([ones(5, 6), ones(5, 2, 3)], ValueError, r"`x\[1\]` should have samples of the shape .* Got \[2, 3\]"),
        (
            [ones(5, 6), ones(5, 6), ones(5, 6).float()],
            ValueError,
            r"`x\[2\]` should have the precision of the first batch, torch.float64. Got torch.float32. Make all",
        ),
        ([ones(5, 6), ones(0, 6)], ValueError, r"`x\[1\]` should hold at least one sample"),
        ([ones(5, 6), ones(6)], ValueError, r"`x\[1\]` should have samples of the shape .* Got \[\]"),
        ([ones(5, 6), LABELS], ValueError, r"`x\[1\]` should have the precision .* Got torch.int64"),  # (x, y)
        ([ones(5, 6), "b"], TypeError, r"`x\[1\]` should be a torch.Tensor of samples, or a tuple or list that"),
        ([ones(5, 6), None], TypeError, r"`x\[1\]` should be a torch.Tensor of samples.* Got None"),
        ((number for number in range(3)), TypeError, r"`x\[0\]` should be a torch.Tensor of samples.* Got 0. Have the"),
        (({"x": ones(5, 6)} for _ in range(3)), TypeError, r"`x\[0\]` should be a torch.Tensor .* Got dict"),
        ([[ones(5, 6)], []], TypeError, r"`x\[1\]` should be a torch.Tensor .* Got list \[\]"),
        ([ones(5, 7)], ValueError, r"`x` should have 6 features"),
        ([ones(5, 6).float()], ValueError, r"`x` should have the model's precision, torch.float64"),
        ([[1.0, 2.0], [3.0, 4.0]], TypeError, r"`x` should be a torch.Tensor. Got list"),
        ({"x": ones(5, 6)}, TypeError, r"`x` should be a torch.Tensor. Got dict"),
        ("samples", TypeError, r"`x` should be a torch.Tensor. Got 'samples'"),
        (ones(5, 6).numpy(), TypeError, r"`x` should be a torch.Tensor. Got ndarray"),
        (TensorDataset(X), TypeError, r"`x` should be a torch.Tensor. Got TensorDataset"),
    ],
)
def test_bad_batches_are_refused(batches, error, message):
    network = network_of()
    with unchanged(network), pytest.raises(error, match=message):
        ge.interference(network, batches)


def test_batches_on_another_device_are_refused():
    with pytest.raises(ValueError, match=r"`x\[1\]` should be on the device of the first batch, cpu. Got meta"):
        ge.interference(network_of(), [ones(5, 6), ones(5, 6).to("meta")])


def test_what_batches_cannot_give_is_refused():
    for batches in (X.split(50), DataLoader(TensorDataset(X), batch_size=50)):
        message = r"`pairing` should be 'realised' for samples in batches. Got 'all', which .* Pass all samples as one"
        with pytest.raises(ValueError, match=message):
            ge.interference(network_of(), batches, pairing="all")
    for iterator in ((part for part in X.split(50)), iter([X]), iter(DataLoader(TensorDataset(X), batch_size=50))):
        message = r"`n_untrained` should be 0 for an iterator, whose samples come only once. Got 2. Pass batches that"
        with pytest.raises(ValueError, match=message):
            ge.interference(network_of(), iterator, n_untrained=2)


def test_refused_arguments_leave_the_iterator_untouched():
    iterator = iter([X])
    with pytest.raises(ValueError, match="`pairing`"):
        ge.interference(network_of(), iterator, pairing="all")
    with pytest.raises(TypeError, match=r"`model` should be a torch.nn.Module"):
        ge.interference("network", iterator)
    assert next(iterator) is X
