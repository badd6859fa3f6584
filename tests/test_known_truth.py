"""What notebook 07 does with published networks: symmetries of a group, claims of twins, frequencies."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import gradembed as ge

PATH = Path(__file__).resolve().parent.parent / "notebooks" / "known_truth.py"
spec = importlib.util.spec_from_file_location("known_truth", PATH)
truth = sys.modules["known_truth"] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
spec.loader.exec_module(truth)


@pytest.fixture(scope="module")
def addition():
    return ge.datasets.train_addition_networks(7, n_networks=2, n_hidden=24, seed=0)


@pytest.fixture(scope="module")
def does(addition):
    return truth.behavior(addition, 30, 3)


def dihedral(n):
    """Multiplication of rotations r^i and reflections r^i s, numbered i and n + i."""
    i, flip = torch.arange(2 * n) % n, torch.arange(2 * n) // n
    return (i[:, None] + (1 - 2 * flip[:, None]) * i) % n + n * (flip[:, None] ^ flip)


def test_inverses_and_kinds_of_a_dihedral_group():
    table = dihedral(5)
    neutral, inverse = truth.inverses(table)
    assert neutral == 0
    assert (table[torch.arange(10), inverse] == 0).all()
    assert sorted(truth.kinds(table).bincount().tolist()) == [1, 4, 5]  # the neutral element, rotations, reflections


def test_symmetries_take_a_product_to_a_translate_of_it():
    table = dihedral(5)  # not commutative
    for first, second in zip(*truth.symmetries(table, 4), strict=True):
        assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(10))
        products = torch.full((10,), -1)
        products[table.flatten()] = table[first[:, None], second].flatten()
        assert (products[table] == table[first[:, None], second]).all()  # g(ab)h, whichever a and b make ab
        assert len(products.unique()) == 10


def test_behavior_is_that_of_a_unit_and_its_translates(addition, does):
    z, moved = does["mean gradient"], does["symmetry named"]
    e, h, d = z.shape
    assert (e, h, d) == (2, 24, 14)
    assert moved.shape == (2, 72, 14)
    a, b = (order[1] for order in truth.symmetries(addition.table, 3))
    assert torch.equal(moved[1, 24 + 5], torch.cat([z[1, 5, a], z[1, 5, 7 + b]]))
    assert does["activations"].mean(2).abs().max() < 1e-5


def test_a_set_of_units_has_its_twin_under_named_symmetries(addition, does):
    found = truth.match_sets(addition, does["symmetry named"], 0, n_permutations=19)
    assert found.labels_a == tuple(np.unique(addition.labels[0][addition.labels[0] >= 0]).tolist())
    both = [i for i, label in enumerate(found.labels_a) if label in found.labels_b]
    assert both
    assert all(found.labels_b[found.partner[i]] == found.labels_a[i] for i in both)


def test_nearest_claims_the_closest_first():
    z = torch.tensor([[0.0], [5.0], [9.0], [1.0], [5.5]])
    units, donors = truth.nearest(z, z, torch.tensor([0, 1, 2]), torch.tensor([3, 4]))
    assert units.tolist() == [1, 0, 2]
    assert donors.tolist() == [4, 3, 4]


def test_claims_leave_dead_units_out(addition, does):
    dead = {name: z.clone() for name, z in does.items()}
    dead["mean gradient"][0, 3] = 0
    found = truth.claims(dead, 0)
    assert list(found) == ["mean gradient", "activations", "values"]
    for units, donors in found.values():
        assert sorted(units.tolist()) == [u for u in range(24) if u != 3]
        assert donors.max() < 24


def test_sets_are_claimed_among_all_translates(addition, does):
    labels = [addition.labels[e] for e in (0, 1)]
    common = next(c for c in labels[0].unique().tolist() if c >= 0 and bool((labels[1] == c).any()))
    read = truth.readings(addition, truth.scored_pairs(addition, 20), 3)
    assert {way: tuple(a.shape) for way, a in read.items()} == {
        "mean gradient": (2, 20, 24), "activations": (2, 20, 24), "symmetry named": (2, 20, 72),
    }  # fmt: skip
    ((mine, theirs),) = truth.set_claims(addition, 0, pd.DataFrame({"set": [common], "partner": [common]}), 72)
    assert (labels[0][mine] == common).all()
    assert (labels[1][theirs % 24] == common).all()
    assert len(theirs) == 3 * int((labels[1] == common).sum())
    with torch.no_grad():  # what the first donor reads at translated pairs
        a, b = (order[0] for order in truth.symmetries(addition.table, 3))
        places = truth.scored_pairs(addition, 20)
        x = addition.inputs[a[places // 7] * 7 + b[places % 7]]
        assert torch.allclose(read["symmetry named"][1][:, :24], addition.networks[1].hidden1(x), atol=1e-5)


def test_margin_and_what_is_kept_of_it():
    outputs = torch.tensor([[3.0, 1.0, 0.0], [2.0, 5.0, 4.0]])
    assert truth.margin(outputs, torch.tensor([0, 2])) == pytest.approx((2 - 1) / 2)
    table = pd.DataFrame({"loss": [0.1, 0.3], "random": [0.4, 0.4], "ablation": [0.5, 0.3]})
    assert truth.kept(table, "loss") == pytest.approx(0.5)
    assert truth.kept(table, "random") == pytest.approx(0)


def test_means_over_networks_weigh_networks_alike():
    table = pd.DataFrame({"network": [0, 0, 0, 1], "overlap": [1.0, 1.0, 1.0, 0.0]})
    assert truth.over_networks(table, "overlap").startswith("0.50 [")
    assert truth.over_networks(table[:0], "overlap") == ""


def test_frequencies_and_what_they_are_to_each_other(addition, does):
    sets = truth.frequency_sets(addition, does["mean gradient"], 0)
    assert sorted(len(units) for _, units in sets) == sorted(
        addition.labels[0][addition.labels[0] >= 0].unique(return_counts=True)[1].tolist()
    )
    assert {f for f, _ in sets} <= {1, 2, 3}
    assert [truth.relation(2, g, 113) for g in (2, 1, 4, 109, 3)] == ["f", "f/2", "2f", "2f", "none of these"]
    assert truth.relation(100, 113 - 50, 113) == "f/2"  # the frequency 13, as -100


def test_the_clock_depends_on_the_sum_alone_and_the_pizza_on_the_difference_too():
    p, k = 11, 3
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    c, s, d = torch.arange(p), pairs.sum(1)[:, None], (pairs[:, 0] - pairs[:, 1])[:, None]
    clock = torch.cos(2 * torch.pi * k * (c - s) / p).double()
    pizza = clock * torch.cos(torch.pi * k * d / p).abs()
    assert torch.allclose(truth.amplitude(clock, pairs, k), torch.tensor(p / 2, dtype=torch.float64), atol=1e-4)
    assert truth.amplitude(clock, pairs, k + 1).max() < 1e-4
    assert truth.distance_irrelevance(truth.amplitude(pizza, pairs, k), pairs, p) < 1e-3
    noise = torch.randn(p * p, generator=torch.Generator().manual_seed(0))
    assert truth.distance_irrelevance(noise, pairs, p) == pytest.approx(1, abs=0.1)
    waves = truth.waves(p)
    assert waves.shape == (p, 2, 5)
    assert torch.allclose(waves[:, 0, k - 1], torch.cos(2 * torch.pi * k * c / p), atol=1e-6)
