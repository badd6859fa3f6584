"""Stacked tasks, softly mixed tasks, random waves: what they promise, and what would break the promise."""

import dataclasses
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from _asserts import assert_close

import gradembed as ge

N, N_TEST, D = 40, 10, 3


@pytest.fixture
def numbered():
    """Training samples 0 to 39, test samples 100 to 109: entries tell sample and column, targets the sample."""
    return number_samples(N, N_TEST)


def number_samples(n, n_test):
    train, test = torch.arange(n), 100 + torch.arange(n_test)
    columns = torch.tensor([0.0, 0.25, 0.5])
    return ge.datasets.Split(train[:, None] + columns, train, test[:, None] + columns, test, "numbers", "counted")


def samples_of(x, d=D):
    """Which sample each copy's block was taken from, [n, t]."""
    return x.reshape(len(x), -1, d)[:, :, 0].long()


# Stacked tasks


def test_each_copy_is_a_sample_with_its_own_target(numbered):
    stacked = ge.datasets.stack_tasks(numbered, 3)
    for x, y in ((stacked.x_train, stacked.y_train), (stacked.x_test, stacked.y_test)):
        blocks = x.reshape(len(x), 3, D)
        assert torch.equal(samples_of(x), y)
        assert torch.equal(blocks, y[:, :, None] + torch.tensor([0.0, 0.25, 0.5]))
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("n_tasks", [1, 2, 5])
def test_each_copy_has_every_sample_once_and_parts_are_not_mixed(numbered, n_tasks):
    stacked = ge.datasets.stack_tasks(numbered, n_tasks)
    assert stacked.n_tasks == n_tasks
    assert torch.equal(stacked.y_train.sort(0).values, torch.arange(N)[:, None].expand(N, n_tasks))
    assert torch.equal(stacked.y_test.sort(0).values, 100 + torch.arange(N_TEST)[:, None].expand(N_TEST, n_tasks))


@pytest.mark.parametrize("n_samples", [1, 17, 40, 41, 100, 400])
def test_more_or_fewer_rows_use_samples_equally_often_up_to_one(numbered, n_samples):
    stacked = ge.datasets.stack_tasks(numbered, 2, n_samples=n_samples)
    assert stacked.x_train.shape == (n_samples, 2 * D)
    for copy in stacked.y_train.T:
        counts = copy.bincount(minlength=N)
        assert int(counts.max() - counts.min()) <= 1
    assert torch.equal(stacked.x_test, ge.datasets.stack_tasks(numbered, 2).x_test)


def correlation(a, b):
    return float(np.corrcoef(a.double(), b.double())[0, 1])


def test_copies_are_independent():
    n = 2000
    pairs = samples_of(ge.datasets.stack_tasks(number_samples(n, 1), 2).x_train)
    limit = 4 / math.sqrt(n)
    assert abs(correlation(*pairs.T)) < limit
    one_order_for_all = pairs[:, 0]
    assert correlation(one_order_for_all, one_order_for_all) > limit
    # neither copy keeps the order of the base, nor is the other one's order shifted
    assert all(abs(correlation(torch.arange(n), copy)) < limit for copy in pairs.T)
    assert abs(correlation(pairs[:-1, 0], pairs[1:, 1])) < limit


def chi_square(counts, cells, total):
    return sum((counts[cell] - total / len(cells)) ** 2 for cell in cells) / (total / len(cells))


@pytest.mark.parametrize("part", ["train", "test"])
def test_every_pairing_is_equally_likely(part):
    base, cells, total = number_samples(3, 3), list(itertools.permutations(range(3))), 600
    pairings = Counter()
    for seed in range(total):
        y = getattr(ge.datasets.stack_tasks(base, 2, seed=seed), f"y_{part}") % 100
        pairings[tuple(y[y[:, 0].argsort(), 1].tolist())] += 1
    limit = 20.5  # of chi-square with 5 degrees of freedom, passed once in a thousand times
    assert chi_square(pairings, cells, total) < limit
    assert chi_square(Counter({cells[0]: total}), cells, total) > limit  # one order for both copies


def test_further_rows_are_new_pairs(numbered):
    rows = ge.datasets.stack_tasks(numbered, 2, n_samples=10 * N).y_train
    distinct = len({tuple(row) for row in rows.tolist()})
    assert 310 < distinct < 380  # 354 expected of 1,600 possible pairs; the first 40 pairs repeated would be 40


def test_same_seed_same_pairs(numbered):
    one, again, other = (ge.datasets.stack_tasks(numbered, seed=seed) for seed in (3, 3, 4))
    assert all(
        torch.equal(getattr(one, key), getattr(again, key)) for key in ("x_train", "y_train", "x_test", "y_test")
    )
    assert not torch.equal(one.y_train, other.y_train)
    assert not torch.equal(one.y_test, other.y_test)


def test_resampling_pairs_the_same_samples_anew(numbered):
    stacked = ge.datasets.stack_tasks(numbered, 2, features=[2, 0], seed=5, n_samples=60)
    again = stacked.resample(6)
    expected = ge.datasets.stack_tasks(numbered, 2, features=[2, 0], seed=6, n_samples=60)
    for key in ("x_train", "y_train", "x_test", "y_test"):
        assert torch.equal(getattr(again, key), getattr(expected, key))
        assert not torch.equal(getattr(again, key), getattr(stacked, key))
    assert torch.equal(again.y_test.sort(0).values, stacked.y_test.sort(0).values)
    assert (again.seed, again.features, again.name, again.base) == (6, (2, 0), stacked.name, numbered)
    assert again.source == stacked.source.replace("seed 5", "seed 6")
    assert torch.equal(again.resample(5).x_train, stacked.x_train)


@pytest.mark.parametrize("features", [[0], [2, 0], (0, 1, 2), range(1, 3)])
def test_features_pick_columns_of_each_copy_in_order(numbered, features):
    everything, picked = ge.datasets.stack_tasks(numbered, 2), ge.datasets.stack_tasks(numbered, 2, features)
    columns = list(features) + [D + column for column in features]
    assert torch.equal(picked.x_train, everything.x_train[:, columns])
    assert torch.equal(picked.x_test, everything.x_test[:, columns])
    assert torch.equal(picked.y_train, everything.y_train)
    assert picked.features == tuple(features)


def test_values_stack_like_classes(numbered):
    values = dataclasses.replace(numbered, y_train=numbered.y_train.float(), y_test=numbered.y_test.float())
    stacked = ge.datasets.stack_tasks(values)
    assert stacked.y_train.dtype == torch.float32
    assert torch.equal(stacked.y_train.long(), ge.datasets.stack_tasks(numbered).y_train)


def test_base_is_kept_and_left_alone(numbered):
    before = numbered.x_train.clone()
    stacked = ge.datasets.stack_tasks(numbered, 2)
    stacked.x_train.zero_()
    assert stacked.base is numbered
    assert torch.equal(numbered.x_train, before)
    single = ge.datasets.stack_tasks(numbered, 1, n_samples=1)
    single.x_train.zero_()
    assert torch.equal(numbered.x_train, before)


@pytest.mark.parametrize(
    ("arguments", "name", "source"),
    [
        ({}, "iris x 2", "2 independently shuffled copies side by side (seed 0)"),
        ({"n_tasks": 1, "seed": 3}, "iris x 1", "1 shuffled copy (seed 3)"),
        (
            {"features": (3, 2), "n_samples": 1000},
            "iris x 2",
            "2 independently shuffled copies side by side (seed 0), features [3, 2] of each, "
            "1,000 training rows out of 120 samples",
        ),
    ],
)
def test_source_says_what_was_done(arguments, name, source):
    stacked = ge.datasets.stack_tasks(ge.datasets.load_iris(), **arguments)
    assert (stacked.name, stacked.source) == (name, f"Fisher's Iris (150 flowers, scikit-learn), {source}")


def test_stacked_split_is_a_split_with_its_own_name(numbered):
    stacked = ge.datasets.stack_tasks(numbered)
    assert isinstance(stacked, ge.datasets.Split)
    sizes = "40 training and 10 test samples of 6 features"
    assert repr(stacked).startswith(f"StackedSplit('numbers x 2', {sizes}, from counted, 2 independently")


@pytest.mark.parametrize("n_tasks", [1, 2])
def test_stacked_split_trains(n_tasks):
    stacked = ge.datasets.stack_tasks(ge.datasets.load_iris(), n_tasks)
    network = ge.MLP([4 * n_tasks, 32, 3 * n_tasks], seed=0)
    config = ge.TrainConfig(epochs=30, batch_size=16, learning_rate=0.01, progress=False)
    assert ge.train(network, stacked, config).test_accuracy > 0.8  # chance is a third


def test_stacked_split_is_read_back_from_a_cache(tmp_path):
    cache, iris = ge.Cache(tmp_path), ge.datasets.load_iris()
    first = cache.call(ge.datasets.stack_tasks, iris, 2, features=(0, 1))
    again = cache.call(ge.datasets.stack_tasks, iris, 2, features=(0, 1))
    assert type(again) is ge.datasets.StackedSplit
    assert again is not first
    assert torch.equal(again.x_train, first.x_train)
    assert torch.equal(again.resample(1).x_train, first.resample(1).x_train)
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_other_pairs_are_another_argument_to_a_cache(tmp_path):
    cache, stacked = ge.Cache(tmp_path), ge.datasets.stack_tasks(ge.datasets.load_iris())
    means = [float(cache.call(first_product, split)) for split in (stacked, stacked.resample(1), stacked)]
    assert means[0] == means[2] != means[1]
    assert len(list(tmp_path.glob("*.json"))) == 2


def first_product(split):
    return (split.x_train[:, 0] * split.x_train[:, 4]).mean()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"split": "iris"}, TypeError, "`split` should be a gradembed.Split. Got 'iris'. Build one"),
        ({"n_tasks": 0}, ValueError, "`n_tasks` should be at least 1. Got 0"),
        ({"n_tasks": 2.0}, TypeError, "`n_tasks` should be an integer. Got 2.0"),
        ({"seed": -1}, ValueError, "`seed` should be at least 0. Got -1"),
        ({"seed": None}, TypeError, "`seed` should be an integer. Got None"),
        ({"n_samples": 0}, ValueError, "`n_samples` should be at least 1. Got 0"),
        ({"n_samples": 10.0}, TypeError, "`n_samples` should be an integer. Got 10.0"),
        ({"features": []}, ValueError, "`features` should be a sequence of column numbers, not empty"),
        ({"features": "01"}, TypeError, "`features` should be a sequence of column numbers. Got '01'"),
        ({"features": 2}, TypeError, "`features` should be a sequence of column numbers. Got 2"),
        ({"features": [0, 3]}, ValueError, "`features` should lie between 0 and 2. Got 3. Drop or correct it"),
        ({"features": [-1]}, ValueError, "`features` should lie between 0 and 2. Got -1"),
        ({"features": [1, 0, 1]}, ValueError, "`features` should name each column once. Got 1 more than once"),
        ({"features": [True]}, TypeError, "`features` should be an integer. Got True"),
        ({"features": [0.0]}, TypeError, "`features` should be an integer. Got 0.0"),
    ],
)
def test_stacking_refuses(numbered, arguments, error, message):
    with pytest.raises(error, match=message):
        ge.datasets.stack_tasks(**{"split": numbered, **arguments})


def test_stacking_refuses_what_is_stacked_already(numbered):
    with pytest.raises(ValueError, match=r"`split` should have one target per sample, \[n\]. Got .*\[40, 2\]. Choose"):
        ge.datasets.stack_tasks(ge.datasets.stack_tasks(numbered))


def test_resampling_refuses_a_negative_seed(numbered):
    with pytest.raises(ValueError, match=r"`seed` should be at least 0\. Got -2"):
        ge.datasets.stack_tasks(numbered).resample(-2)


# Soft mixing

MIXINGS = [0, 0.1, 0.25, 0.4, 0.5]


def whole(split):
    return torch.cat([split.x_train, split.x_test]).double(), torch.cat([split.y_train, split.y_test]).double()


@pytest.mark.parametrize("mixing", MIXINGS)
def test_targets_are_mixed_products(mixing):
    x, y = whole(ge.datasets.soft_mixing(mixing, 500, seed=2))
    first, second = x[:, 0] * x[:, 1], x[:, 2] * x[:, 3]
    expected = torch.stack([first + mixing * (second - first), second + mixing * (first - second)], 1)
    assert_close(y, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mixing", MIXINGS)
def test_mixed_targets_have_the_stated_moments(mixing):
    n = 40_000
    _, y = whole(ge.datasets.soft_mixing(mixing, n))
    covariance = np.cov(y.T.numpy())
    limit = 5 * 2 / math.sqrt(n)  # five standard errors: the products' fourth moment is 81/25, so theirs is below 2
    variance, shared = (1 - mixing) ** 2 + mixing**2, 2 * mixing * (1 - mixing)
    assert np.abs(y.mean(0).numpy()).max() < limit
    assert np.abs(covariance - [[variance, shared], [shared, variance]]).max() < limit
    assert (covariance[0, 1] > limit) == (mixing > 0)


def test_inputs_are_uniform_and_independent():
    n = 40_000
    x, y = whole(ge.datasets.soft_mixing(0.3, n))
    limit = 5 / math.sqrt(n)
    assert x.abs().max() <= math.sqrt(3) + 1e-6
    shares = torch.histc(x, 10, -math.sqrt(3), math.sqrt(3)) / x.numel()
    assert (shares - 0.1).abs().max() < 0.005
    assert (x.mT @ x / n - torch.eye(4)).abs().max() < limit
    assert (x.mT @ y / n).abs().max() < 2 * limit  # nothing for a linear model


def test_separate_tasks_read_inputs_of_their_own_and_others_do_not():
    """The gradient of each target, by hand: zero outside its own two inputs only without mixing."""
    x, y = whole(ge.datasets.soft_mixing(0, 200))
    _, mixed = whole(ge.datasets.soft_mixing(0.1, 200))
    assert_close(y[:, 0] / x[:, 0], x[:, 1], rtol=1e-5, atol=1e-6)
    assert_close(y[:, 1] / x[:, 2], x[:, 3], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(mixed[:, 0] / (0.9 * x[:, 0]), x[:, 1], rtol=1e-2)


def test_tasks_are_identical_at_one_half_only():
    half, less = ge.datasets.soft_mixing(0.5), ge.datasets.soft_mixing(0.45)
    assert torch.equal(half.y_train[:, 0], half.y_train[:, 1])
    assert torch.equal(half.y_test[:, 0], half.y_test[:, 1])
    assert not torch.allclose(less.y_train[:, 0], less.y_train[:, 1], atol=0.01)


def test_inputs_are_the_same_for_every_mixing_and_differ_between_seeds():
    one, other = ge.datasets.soft_mixing(0, 100, seed=1), ge.datasets.soft_mixing(0.3, 100, seed=1)
    assert torch.equal(one.x_train, other.x_train)
    assert torch.equal(one.x_test, other.x_test)
    assert not torch.equal(one.x_train, ge.datasets.soft_mixing(0, 100, seed=2).x_train)


@pytest.mark.parametrize(("n_samples", "n_train"), [(10_000, 8000), (5, 4), (7, 6)])
def test_four_fifths_are_for_training(n_samples, n_train):
    split = ge.datasets.soft_mixing(0.2, n_samples)
    assert (len(split.x_train), len(split.x_test)) == (n_train, n_samples - n_train)
    assert {split.x_train.dtype, split.y_train.dtype, split.x_test.dtype, split.y_test.dtype} == {torch.float32}
    assert (split.name, split.source) == ("soft mixing 0.2", "products of inputs, drawn with seed 0")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mixing": -0.1}, ValueError, "`mixing` should be finite, at least 0 and at most 0.5. Got -0.1"),
        ({"mixing": 0.6}, ValueError, "`mixing` should be .* at most 0.5. Got 0.6"),
        ({"mixing": float("nan")}, ValueError, "`mixing` should be finite.* Got nan"),
        ({"mixing": "0"}, TypeError, "`mixing` should be a number. Got '0'"),
        ({"n_samples": 4}, ValueError, "`n_samples` should be at least 5. Got 4"),
        ({"n_samples": 1e4}, TypeError, "`n_samples` should be an integer. Got 10000.0"),
        ({"seed": -1}, ValueError, "`seed` should be at least 0. Got -1"),
    ],
)
def test_mixing_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        ge.datasets.soft_mixing(**{"mixing": 0.2, **arguments})


# Random waves

DIMS = [1, 2, 8, 64]


def cube(n, dim, seed=0, dtype=torch.float64):
    return 2 * torch.rand(n, dim, dtype=dtype, generator=torch.Generator().manual_seed(seed)) - 1


def by_hand(waves, i, point):
    """One function at one point, term by term."""
    terms = [
        float(a) * math.sin(sum(float(w) * float(c) for w, c in zip(vector, point, strict=True)) + float(phase))
        for vector, phase, a in zip(waves.wave_vectors[i], waves.phases[i], waves.amplitudes[i], strict=True)
    ]
    return sum(terms) - float(waves.offsets[i])


@pytest.mark.parametrize("dim", DIMS)
def test_values_are_sums_of_waves(dim):
    waves, x = ge.datasets.random_waves(3, dim, seed=4), cube(5, dim)
    expected = torch.tensor([[by_hand(waves, i, point) for point in x] for i in range(3)], dtype=torch.float64)
    assert_close(waves(x), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dim", DIMS)
def test_gradients_are_those_of_autograd(dim):
    waves, x = ge.datasets.random_waves(4, dim, seed=1), cube(20, dim).requires_grad_()
    expected = torch.stack([torch.autograd.grad(row.sum(), x, retain_graph=True)[0] for row in waves(x)])
    gradients = waves.gradient(x.detach())
    assert gradients.shape == (4, 20, dim)
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
    n = 20_000
    values = ge.datasets.random_waves(20, dim, seed=3)(cube(n, dim, seed=9))
    fourth = values.pow(4).mean(1)
    assert (values.mean(1).abs() < 5 / math.sqrt(n)).all()
    assert ((values.var(1) - 1).abs() < 5 * ((fourth - 1) / n).sqrt()).all()
    outside = ge.datasets.random_waves(20, dim, seed=3)(3 * cube(n, dim, seed=9))
    assert not ((outside.var(1) - 1).abs() < 5 * ((fourth - 1) / n).sqrt()).all()  # of this cube, not of any


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("roughness", [0.5, 2])
def test_wave_vectors_have_lengths_that_do_not_hang_on_the_dimension(dim, roughness):
    waves = ge.datasets.random_waves(200, dim, n_waves=3, roughness=roughness)
    spread = waves.wave_vectors.norm(dim=2) / math.sqrt(3) / roughness
    assert 0.75 <= spread.min() < 0.8
    assert 1.7 < spread.max() <= 1.75
    x = cube(20_000, dim, seed=1)
    measured = torch.einsum("nd,fwd->nfw", x, waves.wave_vectors[:5]).std(0) / roughness
    assert_close(measured, spread[:5], rtol=0.05)


def test_gradients_are_about_as_large_in_every_dimension():
    def size(dim, roughness=1.0):
        waves = ge.datasets.random_waves(400, dim, roughness=roughness)
        return float(waves.gradient(cube(500, dim)).square().sum(2).mean(1).median())

    sizes = {dim: size(dim) for dim in DIMS}
    assert max(sizes.values()) < 1.2 * min(sizes.values())
    assert size(8, roughness=2) > 2 * sizes[8]


@pytest.mark.parametrize("dim", [2, 8])
def test_directions_are_uniform(dim):
    directions = torch.nn.functional.normalize(ge.datasets.random_waves(1000, dim).wave_vectors, dim=2).reshape(-1, dim)
    n = len(directions)
    assert directions.mean(0).abs().max() < 5 / math.sqrt(n * dim)
    assert (directions.mT @ directions / n - torch.eye(dim) / dim).abs().max() < 5 / math.sqrt(n) / dim
    fourth = 3 / (dim * (dim + 2))  # E of a coordinate to the fourth; 1/dim if waves ran along the axes
    assert (directions.pow(4).mean() - fourth).abs() < 0.05 * fourth


@pytest.mark.parametrize("dim", [1, 8])
def test_phases_and_amplitudes_spread_and_no_wave_is_negligible(dim):
    waves = ge.datasets.random_waves(500, dim)
    shares = torch.histc(waves.phases, 8, 0, 2 * math.pi) / waves.phases.numel()
    assert (shares - 1 / 8).abs().max() < 0.04
    ratio = waves.amplitudes.amax(1) / waves.amplitudes.amin(1)
    assert (waves.amplitudes > 0).all()
    assert 2.5 < ratio.max() <= 3


@pytest.mark.parametrize(("dim", "roughness", "stated"), [(1, 1, 0.62), (2, 1, 0.37), (8, 1, 0.13), (1, 4, 0.35)])
def test_functions_resemble_each_other_as_stated(dim, roughness, stated):
    values = ge.datasets.random_waves(300, dim, roughness=roughness)(cube(4000, dim))
    correlations = values.corrcoef().abs()[~torch.eye(300, dtype=torch.bool)]
    assert abs(float(correlations.mean()) - stated) < 0.03


def same(one, other):
    keys = ("wave_vectors", "phases", "amplitudes", "offsets")
    return all(torch.equal(getattr(one, key), getattr(other, key)) for key in keys)


def test_functions_do_not_depend_on_how_many_are_drawn():
    five, ten = ge.datasets.random_waves(5, 3, seed=2), ge.datasets.random_waves(10, 3, seed=2)
    assert same(five, ten[:5])
    assert not same(five, ten[5:])


def test_seed_decides_the_functions():
    assert same(ge.datasets.random_waves(4, 3, seed=1), ge.datasets.random_waves(4, 3, seed=1))
    assert not same(ge.datasets.random_waves(4, 3, seed=1), ge.datasets.random_waves(4, 3, seed=2))
    # the functions of one seed are not those of the next one, moved up
    assert not same(ge.datasets.random_waves(4, 3, seed=1)[1:], ge.datasets.random_waves(3, 3, seed=2))


@pytest.mark.parametrize("pick", [2, -1, slice(1, 4), slice(None, None, 2), slice(-2, None)])
def test_indexing_gives_fewer_of_the_functions(pick):
    waves, x = ge.datasets.random_waves(6, 3), cube(7, 3)
    rows = [pick] if isinstance(pick, int) else pick
    assert_close(waves[pick](x), waves(x)[rows])
    assert_close(waves[pick].gradient(x), waves.gradient(x)[rows])
    assert len(waves[pick]) == waves[pick].n_functions == len(waves(x)[rows])


def test_subsets_know_which_functions_they_are():
    waves = ge.datasets.random_waves(10, 2)
    some = waves.subset([7, 2, 5])
    assert some.indices == (7, 2, 5)
    assert some[1:].indices == (2, 5)
    assert same(some[1:], waves.subset([2, 5]))
    assert (some.seed, some.roughness, some.dim, some.n_waves) == (0, 1.0, 2, 4)


def test_iterating_gives_every_function_once():
    waves, x = ge.datasets.random_waves(4, 2), cube(5, 2)
    assert len(waves) == 4
    assert_close(torch.cat([function(x) for function in waves]), waves(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_that_of_the_points(dtype):
    waves, x = ge.datasets.random_waves(5, 8), cube(50, 8)
    values, gradients = waves(x.to(dtype)), waves.gradient(x.to(dtype))
    assert (values.dtype, gradients.dtype) == (dtype, dtype)
    assert_close(values.double(), waves(x), rtol=0, atol=1e-5)
    assert_close(gradients.double(), waves.gradient(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("roughness", [0.1, 100])
def test_single_precision_is_enough_at_both_ends_of_roughness(roughness):
    waves, x = ge.datasets.random_waves(200, 1, roughness=roughness), cube(100, 1, dtype=torch.float32)
    assert_close(waves(x).double(), waves(x.double()), rtol=0, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_device_is_that_of_the_points():
    waves, x = ge.datasets.random_waves(5, 8), cube(50, 8)
    assert waves(x.cuda()).is_cuda
    assert_close(waves.gradient(x.cuda()).cpu(), waves.gradient(x))


@pytest.mark.parametrize(
    ("waves", "text"),
    [
        (ge.datasets.random_waves(10, 64), "10 functions of 64 inputs, 4 waves each, roughness 1, seed 0"),
        (ge.datasets.random_waves(1, 1, 7, 1, 0.5), "1 function of 1 input, 1 wave each, roughness 0.5, seed 7"),
        (ge.datasets.random_waves(10, 2)[3], "function 3 of 2 inputs, 4 waves each, roughness 1, seed 0"),
        (
            ge.datasets.random_waves(30, 2)[10:],
            "functions 10, 11, 12, 13, 14, 15, 16, 17, ... of 2 inputs, 4 waves each",
        ),
    ],
)
def test_waves_say_what_they_are(waves, text):
    assert repr(waves).startswith(f"RandomWaves({text}")


def test_waves_are_read_back_from_a_cache(tmp_path):
    cache = ge.Cache(tmp_path)
    first, again = (cache.call(ge.datasets.random_waves, 3, 2) for _ in range(2))
    assert again is not first
    assert same(first, again)
    assert repr(again) == repr(first)


def test_toys_leave_the_random_state_alone(numbered):
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    ge.datasets.stack_tasks(numbered).resample(1)
    ge.datasets.soft_mixing(0.1, 50)
    ge.datasets.random_waves(2, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_functions": 0}, ValueError, "`n_functions` should be at least 1. Got 0"),
        ({"dim": 0}, ValueError, "`dim` should be at least 1. Got 0"),
        ({"dim": 2.0}, TypeError, "`dim` should be an integer. Got 2.0"),
        ({"seed": -1}, ValueError, "`seed` should be at least 0. Got -1"),
        ({"n_waves": 0}, ValueError, "`n_waves` should be at least 1. Got 0"),
        ({"roughness": 0}, ValueError, "`roughness` should be finite, at least 0.1 and at most 100. Got 0"),
        ({"roughness": 101}, ValueError, "`roughness` should be finite, at least 0.1 and at most 100. Got 101"),
        ({"roughness": "1"}, TypeError, "`roughness` should be a number. Got '1'"),
    ],
)
def test_waves_refuse(arguments, error, message):
    with pytest.raises(error, match=message):
        ge.datasets.random_waves(**{"n_functions": 2, "dim": 2, **arguments})


@pytest.mark.parametrize("method", ["__call__", "gradient"])
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(4, 3), ValueError, r"`x` should have shape \[n, 2\]. Got a float32 tensor of shape \[4, 3\]"),
        (torch.zeros(4, 2, 2), ValueError, r"`x` should have shape \[n, 2\]"),
        (torch.zeros(2), ValueError, "`x` should have a sample axis and a feature axis"),
        (torch.zeros(4, 2, dtype=torch.int64), ValueError, "`x` should be float32 or float64"),
        (torch.tensor([[0, torch.nan]]), ValueError, "`x` should be finite"),
        ([[0.0, 0.0]], TypeError, "`x` should be a torch.Tensor. Got list"),
    ],
)
def test_waves_refuse_points(method, x, error, message):
    with pytest.raises(error, match=message):
        getattr(ge.datasets.random_waves(3, 2), method)(x)


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([3], IndexError, "`indices` should lie between -3 and 2. Got 3. Drop or correct it"),
        ([0, -4], IndexError, "`indices` should lie between -3 and 2. Got -4"),
        ([], ValueError, "`indices` should be a sequence of positions, not empty"),
        ([1.0], TypeError, "`indices` should be an integer. Got 1.0"),
        (1, TypeError, "`indices` should be a sequence of positions. Got 1"),
    ],
)
def test_subsets_refuse(indices, error, message):
    with pytest.raises(error, match=message):
        ge.datasets.random_waves(3, 2).subset(indices)


@pytest.mark.parametrize(("index", "error"), [(3, IndexError), (slice(3, 3), ValueError), ("a", TypeError)])
def test_indexing_refuses(index, error):
    with pytest.raises(error, match="`indices` should"):
        ge.datasets.random_waves(3, 2)[index]
