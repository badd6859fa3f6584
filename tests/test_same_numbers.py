"""The same numbers again, from data to tables: twice, in chunks, from the cache, with other threads, after a change.

What is exact and what is not: a second run on the same machine with as many threads, and a result from the cache, are
equal to the bit. Another chunk size sums in another order: counts are exact, means equal to 1e-12 in float64. Another
number of threads splits matrix products otherwise: equal to rounding, which training repeats many times over.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from _networks import Residual
from torch import Tensor, nn

import gradembed as ge
from gradembed import store

SPLIT = ge.datasets.load_iris()
CONFIG = ge.TrainConfig(epochs=3, batch_size=16, seed=1, progress=False)


def network(seed: int = 0) -> nn.Module:
    return ge.MLP([4, 8, 6, 3], seed=seed)


def smooth() -> nn.Module:
    return ge.MLP([4, 8, 3], nn.Tanh, seed=0).double()


def residual() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Residual().double()


def samples(n: int = 40) -> Tensor:
    return torch.randn(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def fields() -> ge.GradientFields:
    ensemble = ge.MLPEnsemble([4, 8, 3], n_members=4, seed=0)
    return ge.gradient_fields(ensemble, samples(30).float(), wrt="hidden1")


def trained(seed: int) -> dict[str, float]:
    run = ge.train(network(seed), SPLIT, dataclasses.replace(CONFIG, seed=seed))
    result = ge.interference(run.model, SPLIT.x_test)
    return {"loss": float(run.history["test_loss"].iloc[-1]), "orthogonality": result.orthogonality()["input"]}


def embedded(given: ge.GradientFields) -> Tensor:
    embedder = ge.GradientFieldEmbedder(2, max_steps=5, width=16, n_features=32, n_views=2, progress=False)
    return torch.from_numpy(embedder.fit_transform(given))


def described(given: ge.GradientFields) -> Tensor:
    return torch.from_numpy(ge.FieldDescriptor(n_features=64).fit_transform(given))


def whole_way(seed: int) -> dict[str, Any]:
    """From data to a probe's score: everything depends on everything before."""
    ensemble = ge.train_ensemble(SPLIT, [4, 8, 3], 6, dataclasses.replace(CONFIG, seed=seed))
    taken = ge.gradient_fields(ensemble, SPLIT.x_test, wrt="hidden1")
    y, groups = torch.arange(18) % 3, torch.arange(18) // 3
    z = described(taken)
    return {"z": z, "probe": ge.metrics.linear_probe(z, y, groups), "neighbours": ge.metrics.retrieval(z, y, groups)}


# Each result as a function of the library with arguments made anew: what is called, and with what.
CALLS: dict[str, Any] = {
    "train": (ge.train, lambda: (network(), SPLIT, CONFIG)),
    "train_ensemble": (ge.train_ensemble, lambda: (SPLIT, [4, 8, 3], 5, CONFIG)),
    "train_ensemble of waves": (
        ge.train_ensemble,
        lambda: (ge.datasets.random_waves(2, 3), [3, 8, 1], 4, dataclasses.replace(CONFIG, epochs=1)),
    ),
    "interference": (measured := lambda model, x: ge.interference(model, x, n_bootstrap=20, n_untrained=2, seed=5),
                     lambda: (network().double(), samples())),
    "interference, general": (ge.interference, lambda: (residual(), samples())),
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
    """Equal to the bit, whatever it is; clocks excepted."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, nn.Module):
        known = [getattr(m, k, None) for k in ("scores", "losses", "labels") for m in (one, other)]
        pairs = zip(known[::2], known[1::2], strict=True)
        return identical(dict(one.state_dict()), dict(other.state_dict())) and all(identical(a, b) for a, b in pairs)
    if isinstance(one, pd.DataFrame):
        return one.drop(columns="seconds", errors="ignore").equals(other.drop(columns="seconds", errors="ignore"))
    if dataclasses.is_dataclass(one):
        names = [f.name for f in dataclasses.fields(one) if f.name != "seconds"]
        return all(identical(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, dict):
        return list(one) == list(other) and all(identical(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(identical(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def test_the_comparison_finds_the_last_bit():
    one = {"a": (torch.tensor([1.0]), pd.DataFrame({"x": [0.5]})), "b": network()}
    other = copy.deepcopy(one)
    assert identical(one, other)
    with torch.no_grad():
        other["b"].output.bias[0] = torch.nextafter(other["b"].output.bias[0], torch.tensor(9.0))
    assert not identical(one, other)
    assert not identical(one, one | {"a": (torch.tensor([1.0 + 2**-23]), one["a"][1])})
    assert not identical(one, one | {"a": (one["a"][0], pd.DataFrame({"x": [0.5 + 2**-52]}))})


# Twice


@pytest.mark.parametrize("name", CALLS)
def test_a_second_run_gives_the_same_to_the_bit(name):
    function, arguments = CALLS[name]
    first = copy.deepcopy(function(*arguments()))
    torch.rand(7)  # where the global generator stands does not matter
    assert identical(function(*arguments()), first)


@pytest.mark.parametrize("name", ["train", "train_ensemble", "GradientFieldEmbedder", "whole way"])
def test_another_seed_gives_other_numbers(name):
    function, arguments = CALLS[name]
    given = arguments()
    if name == "GradientFieldEmbedder":
        other = ge.GradientFieldEmbedder(2, max_steps=5, width=16, n_features=32, n_views=2, progress=False,
                                         random_state=1).fit_transform(*given)  # fmt: skip
        other = torch.from_numpy(other)
    else:
        changed = [dataclasses.replace(part, seed=2) if part is CONFIG else part for part in given]
        other = function(*(changed if name != "whole way" else [5]))
    assert not identical(other, function(*arguments()))


def test_a_sweep_gives_the_same_table():
    first, second = (ge.sweep(trained, {"seed": [0, 1, 2]}, progress=False).to_frame() for _ in range(2))
    assert first.equals(second)
    assert len(set(first["loss"])) == 3


# In chunks


def counted(model: nn.Module, x: Tensor, chunk_size: int | None) -> tuple[Any, list[Tensor]]:
    result = ge.interference(model, x, chunk_size=chunk_size)
    exact = (result.count, result.undefined, result.n_samples)
    means = [m[layer] for m in (result.cosine, result.abs_cosine, result.norm, result.norm_similarity)
             for layer in result.layers]  # fmt: skip
    rest = torch.tensor([*result.effective_dimension.values(), *result.chance.values()], dtype=torch.float64)
    return exact, [*means, rest]


CHUNKED = {
    "interference": counted,
    "unit_gradients": lambda model, x, n: (None, list(_parts(ge.unit_gradients(model, x, "input", chunk_size=n)))),
    "task_modules": lambda model, x, n: _modules(ge.task_modules(model, x, _first(model), chunk_size=n)),
}


def _parts(result: ge.UnitGradients) -> tuple[Tensor, ...]:
    return result.gradients, result.activations, result.values


def _modules(result: ge.TaskModules) -> tuple[Any, list[Tensor]]:
    return (result.unit_modules, result.output_modules), [result.effects, result.selectivity]


def _first(model: nn.Module) -> str:
    return "stem" if isinstance(model, Residual) else "hidden1"


@pytest.mark.parametrize("chunk_size", [1, 7, 39, 40, 1000])
@pytest.mark.parametrize("make", [lambda: network().double(), smooth, residual], ids=["ReLU", "smooth", "general"])
@pytest.mark.parametrize("name", CHUNKED)
def test_chunks_leave_counts_as_they_are_and_means_to_rounding(name, make, chunk_size):
    model, x = make(), samples()
    exact, numbers = CHUNKED[name](model, x, None)
    again, parts = CHUNKED[name](model, x, chunk_size)
    assert identical(exact, again)
    for whole, part in zip(numbers, parts, strict=True):
        torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-12 * float(whole.abs().max()))


@pytest.mark.parametrize("group_size", [1, 2, 5])
def test_groups_of_members_differ_by_rounding_only(group_size):
    whole = ge.train_ensemble(SPLIT, [4, 8, 3], 5, CONFIG)
    parts = ge.train_ensemble(SPLIT, [4, 8, 3], 5, CONFIG, group_size=group_size)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


# From the cache


def call(cache: ge.Cache, name: str) -> Any:
    function, arguments = CALLS[name]
    return cache.call(function, *arguments())


@pytest.mark.parametrize("name", CALLS)
def test_what_comes_from_the_cache_is_what_a_fresh_run_gives(tmp_path, monkeypatch, name):
    cache = ge.Cache(tmp_path)
    function, arguments = CALLS[name]
    fresh, stored = copy.deepcopy(function(*arguments())), copy.deepcopy(call(cache, name))
    with monkeypatch.context() as patch:  # nothing may be computed and kept a second time
        patch.setattr(ge.Cache, "_keep", lambda *_: pytest.fail("computed again"))
        read = call(cache, name)
    assert identical(stored, fresh)
    assert identical(read, fresh)


def test_a_swept_table_from_the_cache_is_the_fresh_one(tmp_path):
    cache, settings = ge.Cache(tmp_path), {"seed": [0, 1]}
    fresh, stored, read = (ge.sweep(trained, settings, cache=c, progress=False) for c in (None, cache, cache))
    assert (stored.n_cached, read.n_cached) == (0, 2)
    assert fresh.to_frame().equals(stored.to_frame())
    assert fresh.to_frame().equals(read.to_frame())


# Entries of another version


def edited(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more comment in one file of the library."""
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"# changed" * (path.name == "_chain.py"))


def renumbered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.metadata, "version", lambda _name: "0.0.1")


VERSIONS = {
    "library's version": renumbered,
    "library's source": edited,
    "torch": lambda monkeypatch: monkeypatch.setattr(torch, "__version__", "2.0.0"),
    "threads": lambda monkeypatch: monkeypatch.setattr(torch, "get_num_threads", lambda: 97),
}
POISON = 1e9


def poisoned(*arguments: Any) -> ge.Interference:
    """What an older version, with a bug, would have stored."""
    result = ge.interference(*arguments)
    return dataclasses.replace(result, norm={layer: values + POISON for layer, values in result.norm.items()})


@pytest.mark.parametrize("version", VERSIONS)
def test_entries_of_another_version_are_neither_trusted_nor_touched(tmp_path, monkeypatch, version):
    cache, arguments = ge.Cache(tmp_path), (network().double(), samples())
    right = ge.interference(*arguments)
    poisoned.__name__ = "interference"

    def store_by_an_older_version(result: Any) -> None:
        cache._keep(cache._path(ge.interference, _bound(arguments)), result, [arguments[0]])

    store._library.cache_clear()
    with monkeypatch.context() as patch:
        VERSIONS[version](patch)
        store_by_an_older_version(poisoned(*arguments))
        trusted = cache.call(ge.interference, *arguments)  # the older version would believe itself
        assert float(trusted.norm["input"].min()) > POISON / 2
    store._library.cache_clear()
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(old) == 2
    for _ in range(2):
        assert identical(cache.call(ge.interference, *arguments), right)
    assert len(list(tmp_path.iterdir())) == 4
    assert all((tmp_path / name).read_bytes() == content for name, content in old.items())


def _bound(arguments: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(("model", "x"), arguments, strict=True))


@pytest.mark.parametrize("version", [name for name in VERSIONS if name != "threads"])  # a sweep sets them itself
def test_sweeps_compute_anew_what_another_version_stored(tmp_path, monkeypatch, version):
    cache, settings = ge.Cache(tmp_path), [{"seed": 0}]
    store._library.cache_clear()
    with monkeypatch.context() as patch:
        VERSIONS[version](patch)
        assert ge.sweep(trained, settings, cache=cache, progress=False).n_cached == 0
        assert ge.sweep(trained, settings, cache=cache, progress=False).n_cached == 1
    store._library.cache_clear()
    assert ge.sweep(trained, settings, cache=cache, progress=False).n_cached == 0
    assert ge.sweep(trained, settings, cache=cache, progress=False).n_cached == 1


# Other threads

PROGRAM = """
import json, os
os.environ["OMP_WAIT_POLICY"] = "passive"  # threads that wait do not keep the cores from others
import torch
torch.set_num_threads({threads})
import gradembed as ge
split = ge.datasets.load_iris()
config = ge.TrainConfig(epochs=2, batch_size=30, seed=1, progress=False)
run = ge.train(ge.MLP([4, 64, 3], seed=0), split, config)
ensemble = ge.train_ensemble(split, [4, 64, 3], 4, config)
x = torch.randn(500, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
model = ge.MLP([32, 128, 128, 8], seed=0).double()
result, tree = ge.interference(model, x), ge.gradient_tree(model, x[:50])
fields = ge.gradient_fields(model, x[:100], wrt="hidden1")
rows = ge.FieldDescriptor("orthogonal", n_features=64).fit_transform(fields)
embedder = ge.GradientFieldEmbedder(2, max_steps=5, width=16, n_features=32, n_views=2, progress=False)
def size(seed):
    return {{"norm": float(ge.MLP([4, 3], seed=seed)(split.x_test).detach().norm())}}
table = ge.sweep(size, {{"seed": [0, 1]}}, progress=False).to_frame()
print(json.dumps({{
    "threads": torch.get_num_threads(),
    "train": [p.flatten().tolist()[:50] for p in run.model.parameters()][0] + run.history["test_loss"].tolist(),
    "train_ensemble": ensemble.output.weight.flatten().tolist()[:100],
    "interference": [m for layer in result.layers for m in result.cosine[layer].flatten().tolist()],
    "counts": [c for layer in result.layers for c in result.count[layer].flatten().tolist()],
    "tree": [tree.counts[layer].sort().values.tolist() for layer in tree.layers],
    "norms": tree.norms["input"].sort().values.tolist(),
    "fields": fields.gradients[0, 0].tolist(),
    "FieldDescriptor": rows.flatten().tolist(),
    "GradientFieldEmbedder": embedder.fit(fields).embedding_.flatten().tolist(),
    "sweep": table["norm"].tolist(),
}}))
"""
EXACT = ("counts", "tree")
ROUNDING = {"interference": 1e-12, "norms": 1e-12, "fields": 1e-12, "FieldDescriptor": 1e-5, "sweep": 1e-5,
            "train": 1e-3, "train_ensemble": 1e-3, "GradientFieldEmbedder": 1e-2}  # fmt: skip


@pytest.mark.slow
def test_another_number_of_threads_differs_by_rounding_only(run_python):
    one, again, two = (json.loads(run_python(PROGRAM.format(threads=n))) for n in (1, 1, 2))
    assert one == again
    assert (one.pop("threads"), two.pop("threads")) == (1, 2)
    assert set(one) == {*EXACT, *ROUNDING}
    for name in EXACT:
        assert one[name] == two[name], name
    for name, rounding in ROUNDING.items():
        a, b = np.array(one[name]), np.array(two[name])
        assert np.abs(a - b).max() <= rounding * np.abs(a).max(), name
