"""Samples that come in batches, of every structure: what is read, what a run keeps, and what is refused."""

import weakref
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from _asserts import assert_close, unchanged
from _networks import Residual, randn
from _oracle import gradient_loop
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import gradembed as ge
from gradembed.gradients import Session, batches

MEASURES = ("cosine", "abs_cosine", "conflict", "norm_similarity", "norm", "undefined", "count")
X = torch.randn(150, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(len(X)) % 3
Pair = namedtuple("Pair", "x mask")


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
    "generator": lambda: (part for part in X.split(37)),
    "one sample each": lambda: list(X.split(1)),
    "arrays": lambda: [part.numpy() for part in X.split(60)],
    "loader": lambda: DataLoader(TensorDataset(X), batch_size=32),
    "loader with labels": lambda: DataLoader(TensorDataset(X, LABELS), batch_size=64),
    "loader without length": lambda: DataLoader(Drawn(), batch_size=40),
    "pairs": lambda: [(X[:50], LABELS[:50]), [X[50:], LABELS[50:], "more"]],
    "mappings": lambda: [{"x": part} for part in X.split(60)],
    "buffer filled anew": Reused,
    "with gradients": lambda: [part.clone().requires_grad_() for part in X.split(60)],
}


def network_of(u=3):
    return ge.MLP([6, 9, 8, u], seed=0).double()


class Masked(nn.Module):
    """Takes two inputs, or one, and what is no tensor."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x, mask=None, *, scale=None, double=False):
        kept = x if mask is None else x - 2 * mask
        return self.head(torch.tanh(self.body(2 * kept if double else kept))) * (1 if scale is None else scale)


def assert_same(result, expected):
    assert (result.layers, result.n_samples) == (expected.layers, expected.n_samples)
    assert result.unit_labels == expected.unit_labels
    for layer in expected.layers:
        for name in MEASURES:
            assert_close(getattr(result, name)[layer], getattr(expected, name)[layer], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("chunk_size", [None, 7])
def test_batches_give_what_one_tensor_gives(source, chunk_size):
    network = network_of()
    asked = {"n_bootstrap": 20, "layers": ["input", "hidden1"]}
    with torch.no_grad():
        network.output.weight[1] = 0  # a unit without gradients
    expected = ge.interference(network, X, **asked)
    assert not torch.equal(ge.interference(network, X[1:]).norm["input"], expected.norm["input"])  # samples matter
    result = ge.interference(network, SOURCES[source](), chunk_size=chunk_size, **asked)
    assert_same(result, expected)
    assert_close(result.output_correlation, expected.output_correlation, rtol=1e-12, atol=1e-12)
    # mappings do not take the path of chains, and chance looks at fewer samples there
    assert result.chance == pytest.approx(expected.chance, rel=0.15 if source == "mappings" else 1e-12)
    for name, intervals in expected.intervals.items():
        for layer, ends in intervals.items():
            assert_close(result.intervals[name][layer], ends, rtol=1e-12, atol=1e-12)
            assert result.summary_intervals[name][layer] == pytest.approx(expected.summary_intervals[name][layer])


# Structures


STRUCTURES = {
    "tuple": lambda x, mask: (x, mask),
    "named tuple": Pair,
    "mapping": lambda x, mask: {"mask": mask, "x": x},
    "arrays": lambda x, mask: (x.numpy(), mask.numpy()),
    "None and a flag": lambda x, mask: {"x": x / 2, "mask": mask / 2, "scale": None, "double": True},
}


@pytest.mark.parametrize("kind", STRUCTURES)
def test_several_inputs_are_cut_and_streamed_together(kind):
    make, model, x, mask = STRUCTURES[kind], Masked().double(), X[:40], (X[:40] > 0).double()
    expected = gradient_loop(lambda h: model.head(torch.tanh(h)), model.body, x - 2 * mask)
    assert_close(ge.unit_gradients(model, make(x, mask), "body", chunk_size=7).gradients, expected)
    parts = [make(x[:13], mask[:13]), make(x[13:], mask[13:])]
    if isinstance(parts[0], dict):
        parts[1] = dict(reversed(parts[1].items()))  # the order of the keys does not matter
        asked = {}
    else:
        message = r"`forward` should say what of a batch Masked takes, since it may take more than one input. Got None"
        with unchanged(model), pytest.raises(ValueError, match=message):
            ge.interference(model, parts)
        asked = {"forward": lambda m, batch: m(*batch)}
    assert_close(ge.unit_gradients(model, parts, "body", chunk_size=9, **asked).gradients, expected)


def test_read_keeps_the_structure_and_what_is_no_tensor():
    model, mask = Masked(), X[:4] > 0
    read = lambda x: batches.read(x, model, None)  # noqa: E731
    named = read(Pair(X[:4].numpy(), mask))
    assert isinstance(named, Pair)
    assert torch.equal(named.x, X[:4])
    found = read({"x": X[:4].clone().requires_grad_(), "mask": mask.numpy(), "deep": [LABELS[:4], None], "flag": "on"})
    assert (found["x"].requires_grad, found["flag"], found["deep"][1]) == (False, "on", None)
    assert (found["mask"].dtype, found["deep"][0].dtype) == (torch.bool, torch.int64)
    assert read(np.arange(6, dtype=np.uint8)).dtype == torch.uint8
    assert isinstance(read([X[:4]]), batches.Stream)
    assert batches.size_of(batches.part(found, 1, 3)) == 2
    assert batches.chosen(found, [3, 0])["deep"][0].tolist() == [0, 0]


# What a run keeps, and what it leaves alone


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
print(peak(10_000), peak(100_000))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_samples(run_python):
    before, after = map(int, run_python(PEAKS).split())  # kilobytes
    assert after - before < 40_000  # all samples are 102,400; what the allocator keeps varies


@pytest.mark.parametrize(("widths", "n_directions", "expected"), [
    ([4, 64, 10], 0, 10 * 2**20 // (10 * 64 * 4)),
    ([4, 1024, 1024, 8], 0, 10 * 2**20 // (8 * 1024 * 4)),  # the widest gradients count
    ([4, 8, 3], 400, 10 * 2**20 // (400 * 400 * 4)),  # so do pairs
    ([4, 8, 3], 1000, 8),  # a few at least
    ([4, 8, 3], 5000, 1),  # but not at any price
])  # fmt: skip
def test_chunks_fit_the_memory_budget(widths, n_directions, expected):
    directions = torch.randn(n_directions, widths[-1]) if n_directions else None
    asked = {"unit_layer": "output", "directions": directions}
    with Session.open(ge.MLP(widths, seed=0), [torch.randn(5, 4)], **asked) as session:
        assert session.samples_at_a_time() == expected


def test_untrained_control_goes_through_the_batches_again():
    expected = ge.interference(network_of(), X, n_untrained=2, seed=5)
    for source in ("list", "loader", "buffer filled anew"):
        result = ge.interference(network_of(), SOURCES[source](), n_untrained=2, seed=5)
        for one, other in zip((result, *result.untrained), (expected, *expected.untrained), strict=True):
            assert_same(one, other)


def breaking(after):
    for _ in range(after):
        yield torch.randn(5, 4, dtype=torch.float64)
    raise LookupError("no more")


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("make", [Residual, lambda: ge.MLP([4, 5, 3], seed=0)])
def test_an_error_of_the_iterable_passes_through_and_the_model_is_as_before(after, make):
    model, modes = make().double(), []
    for _ in range(2):
        modes.append([(module.training, len(module._forward_hooks)) for module in model.modules()])
        with pytest.raises(LookupError, match="no more"):
            ge.interference(model, breaking(after), chunk_size=2)
    assert modes[0] == modes[1]
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


def test_batches_work_in_inference_mode_and_where_standard_error_is_missing(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    model = Residual().double()
    with torch.inference_mode():
        assert ge.interference(model, [randn(5, 4) for _ in range(3)]).n_samples == 15
    assert ge.interference(network_of(), X[:20], pairing="all").n_samples == 20


# Refusals

ONES = torch.ones(5, 6, dtype=torch.float64)
BAD = ONES.clone().index_fill(1, torch.tensor(3), torch.nan)
LIKE = r"`x\[1\]` should be like the first batch, float64 \[n, 6\] on cpu. Got "


@pytest.mark.parametrize(("given", "error", "message"), [
    ([], ValueError, r"`x` should give at least one batch. Got none. Pass one with samples"),
    ([ONES, BAD], ValueError, r"`x\[1\]` should be finite. Got 5 NaN or infinite values of 30"),
    ([ONES, ONES[:, 1:]], ValueError, LIKE + r"float64 \[n, 5\]"),
    ([ONES, ONES.float()], ValueError, LIKE + r"float32 \[n, 6\] on cpu. Make all batches alike"),
    ([ONES, LABELS], ValueError, LIKE + "int64"),  # (x, y) in a list
    ([{"x": ONES}, {"y": ONES}], ValueError, r"`x(\[1\])?` should (be like the first batch|fit the model)"),
    ([ONES, ONES.to("meta")], ValueError, r"`x\[1\]` should hold numbers"),
    ([ONES, ONES[:0]], ValueError, r"`x\[1\]` should hold at least one sample"),
    ([ONES, ONES[0]], ValueError, r"`x\[1\]` should have a sample axis and a feature axis"),
    ([ONES, None], TypeError, r"`x\[1\]` should be a batch: a tensor.* Got None. Have the iterable give batches"),
    ([[ONES], []], TypeError, r"`x\[1\]` should hold samples.* Got list \[\]"),
    ([ONES[:, 1:]], ValueError, r"`x` should have 6 features"),
    ({"x": "text"}, TypeError, r"`x` should hold samples: a tensor, or a mapping or tuple with tensors"),
    ((np.array(["a"]),), TypeError, r"`x` should"),
    (TensorDataset(X), TypeError, r"`x` should be samples, or give batches .*TensorDataset\. Wrap it: .*DataLoader\("),
])  # fmt: skip
def test_bad_batches_are_refused(given, error, message):
    network = network_of()
    with unchanged(network), pytest.raises(error, match=message):
        ge.interference(network, given)


def test_flags_that_change_between_batches_are_refused():
    parts = [{"x": ONES, "double": flag} for flag in (True, False)]
    with pytest.raises(ValueError, match=r"`x\[1\]` should be like the first batch"):
        ge.interference(Masked().double(), parts)


@pytest.mark.parametrize(("asked", "message"), [
    ({"pairing": "all"}, r"`pairing` should be 'realised' for samples in batches. Got .all., which .* Pass all"),
    ({"n_untrained": 2}, r"`n_untrained` should be 0 for an iterator, whose samples come only once. Got 2. Pass "),
])  # fmt: skip
def test_what_batches_cannot_give_is_refused(asked, message):
    loader = DataLoader(TensorDataset(X), batch_size=50)
    for source in (part for part in X.split(50)), iter([X]), iter(loader), *([loader] if "pairing" in asked else []):
        with pytest.raises(ValueError, match=message):
            ge.interference(network_of(), source, **asked)


def test_refused_arguments_leave_the_iterator_untouched():
    iterator = iter([X])
    for asked in ({"pairing": "some"}, {"model": "network"}, {"forward": 3}, {"seed": -1}):
        with pytest.raises((ValueError, TypeError), match=f"`{next(iter(asked))}` should"):
            ge.interference(**({"model": network_of(), "x": iterator} | asked))
    assert next(iterator) is X
