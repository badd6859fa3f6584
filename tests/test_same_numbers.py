"""The same numbers again, from data to tables: twice, in chunks, from the cache, with other threads.

What is exact and what is not: a second run on the same machine with as many threads, and a result from the cache, are
equal to the bit. Another chunk size sums in another order: counts are exact, means equal to 1e-12 in float64. Another
number of threads splits matrix products otherwise: equal to rounding, which training repeats many times over.
"""

from __future__ import annotations

import copy
import dataclasses
from functools import partial
from typing import Any

import pandas as pd
import pytest
import torch
from _abuse import numbers_of
from _abuse_networks import general, smooth
from torch import Tensor, nn

import gradembed as ge
from gradembed import _context

SPLIT = ge.datasets.load_iris()
CONFIG = ge.TrainConfig(epochs=3, batch_size=16, seed=1, progress=False)


def network(seed: int = 0) -> nn.Module:
    return ge.MLP([4, 8, 6, 3], seed=seed)


def samples(n: int = 40, d: int = 4) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def fields() -> ge.GradientFields:
    ensemble = ge.MLPEnsemble([4, 8, 3], n_members=4, seed=0)
    return ge.gradient_fields(ensemble, samples(30).float(), wrt="hidden1")


def embedded(given: ge.GradientFields, seed: int = 0) -> Tensor:
    embedder = ge.GradientFieldEmbedder(2, max_steps=5, width=16, n_features=32, n_views=2, progress=False,
                                        random_state=seed)  # fmt: skip
    return torch.from_numpy(embedder.fit_transform(given))


def described(given: ge.GradientFields) -> Tensor:
    return torch.from_numpy(ge.FieldDescriptor(n_features=64).fit_transform(given))


def whole_way(seed: int) -> dict[str, Any]:
    """From data to a probe's score: everything depends on everything before."""
    ensemble = ge.train_ensemble(SPLIT, [4, 8, 3], 6, dataclasses.replace(CONFIG, seed=seed))
    taken = ge.gradient_fields(ensemble, SPLIT.x_test, wrt="hidden1")
    y, groups = torch.arange(18) % 3, torch.arange(18) // 3
    z = described(taken)
    return {"z": z, "probe": ge.metrics.linear_probe(z, y, groups), "neighbors": ge.metrics.retrieval(z, y, groups)}


# Each result as a function of the library with arguments made anew: what is called, and with what.
CALLS: dict[str, Any] = {
    "train": (ge.train, lambda: (network(), SPLIT, CONFIG)),
    "train_ensemble": (ge.train_ensemble, lambda: (SPLIT, [4, 8, 3], 5, CONFIG)),
    "train_ensemble of waves": (ge.train_ensemble, lambda: (ge.datasets.random_waves(2, 3), [3, 8, 1], 4, CONFIG)),
    "interference": (measured := lambda model, x: ge.interference(model, x, n_bootstrap=20, n_untrained=2, seed=5),
                     lambda: (network().double(), samples())),
    "interference, general": (ge.interference, lambda: (general(), samples())),
    "gradient_tree": (ge.gradient_tree, lambda: (network().double(), samples())),
    "gradient_tree, smooth": (merged := lambda model, x: ge.gradient_tree(model, x, tolerance=0.01),
                              lambda: (smooth(), samples())),
    "gradient_fields": (ge.gradient_fields, lambda: (network().double(), samples())),
    "task_modules": (ge.task_modules, lambda: (network().double(), samples(), "hidden2")),
    "FieldDescriptor": (described, lambda: (fields(),)),
    "GradientFieldEmbedder": (embedded, lambda: (fields(),)),
    "whole way": (whole_way, lambda: (4,)),
}  # fmt: skip


def identical(one: Any, other: Any) -> bool:
    """Equal to the bit, clocks excepted; that the cache keeps types and labels is tested beside it."""
    numbers = numbers_of(one), numbers_of(other)
    assert numbers[0]
    return len(numbers[0]) == len(numbers[1]) and all(map(same, *numbers))


def same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def test_the_comparison_finds_the_last_bit():
    one = {"a": (torch.tensor([1.0]), pd.DataFrame({"x": [0.5]})), "b": network()}
    other = copy.deepcopy(one)
    assert identical(one, other)
    with torch.no_grad():
        other["b"].output.bias[0] = torch.nextafter(other["b"].output.bias[0], torch.tensor(9.0))
    assert not identical(one, other)
    assert not identical(one, one | {"a": (torch.tensor([1.0 + 2**-23]), one["a"][1])})
    assert not identical(one, one | {"a": (one["a"][0], pd.DataFrame({"x": [0.5 + 2**-52]}))})


# Twice, and from the cache


@pytest.mark.parametrize("name", CALLS)
def test_a_second_run_and_the_cache_give_the_same_to_the_bit(name, tmp_path, monkeypatch):
    function, arguments = CALLS[name]
    first = copy.deepcopy(function(*arguments()))
    torch.rand(7)  # where the global generator stands does not matter
    cache = ge.Cache(tmp_path)
    assert identical(cache.call(function, *arguments()), first)
    monkeypatch.setattr(ge.Cache, "_keep", lambda *_: pytest.fail("computed and kept a second time"))
    assert identical(cache.call(function, *arguments()), first)


@pytest.mark.parametrize(("name", "other"), [
    ("train", (network(), SPLIT, dataclasses.replace(CONFIG, seed=2))),
    ("train_ensemble", (SPLIT, [4, 8, 3], 5, dataclasses.replace(CONFIG, seed=2))),
    ("GradientFieldEmbedder", (fields(), 1)), ("whole way", (5,)),
])  # fmt: skip
def test_another_seed_gives_other_numbers(name, other):
    function, arguments = CALLS[name]
    assert not identical(function(*other), function(*arguments()))


# In chunks


@pytest.mark.parametrize("chunk_size", [1, 7, 39, 1000])
@pytest.mark.parametrize("make", [lambda: network().double(), smooth, general], ids=["ReLU", "smooth", "general"])
@pytest.mark.parametrize("ask", [
    ge.interference, partial(ge.unit_gradients, wrt="input"),
    partial(ge.task_modules, layer="input"),
], ids=["interference", "unit_gradients", "task_modules"])  # fmt: skip
def test_chunks_leave_counts_as_they_are_and_means_to_rounding(ask, make, chunk_size):
    model, x = make(), samples()
    whole, parts = (numbers_of(ask(model, x, chunk_size=size)) for size in (None, chunk_size))
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12 * float(one.abs().max()))


# Other threads


def numbers_at(threads: int) -> tuple[list[Tensor], dict[float, list[Tensor]]]:
    """What has to be equal, and by rounding what may differ by it."""
    torch.set_num_threads(threads)
    run = ge.train(ge.MLP([4, 64, 3], seed=0), SPLIT, CONFIG)
    ensemble = ge.train_ensemble(SPLIT, [4, 64, 3], 4, CONFIG)
    x, model = samples(500, 32), ge.MLP([32, 128, 128, 8], seed=0).double()
    result, tree = ge.interference(model, x), ge.gradient_tree(model, x[:50])
    taken = ge.gradient_fields(model, x[:100], wrt="hidden1")
    exact = [*result.count.values(), *(tree.counts[layer].sort().values for layer in tree.layers)]
    loss = torch.from_numpy(run.history["test_loss"].to_numpy(copy=True))
    return exact, {
        1e-12: [*result.cosine.values(), tree.norms["input"].sort().values, taken.gradients],
        1e-5: [described(taken)],
        1e-3: [*(p.detach() for p in run.model.parameters()), loss, ensemble.output.weight.detach()],
        1e-2: [embedded(taken)],
    }


def test_another_number_of_threads_differs_by_rounding_only():
    with _context.kept_threads():
        (exact, rounded), (same, near) = numbers_at(1), numbers_at(2)
    assert identical(exact, same)
    for rounding, tensors in rounded.items():
        for one, other in zip(tensors, near[rounding], strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=rounding * float(one.abs().max()))
