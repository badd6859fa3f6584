"""What stands beside notebooks 04, 05 and 06: known cosines are those of autograd, and curves are read rightly."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cosine_similarity

import gradembed as ge

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


bg, sm, om, own = (load(name) for name in ("bottleneck_grid", "soft_mixing", "own_model", "own_project"))


def cosine_by_autograd(tasks, x):
    """Cosine between the gradients of two tasks, functions of [n, d] that give [n, 2], at each sample."""
    x = x.double().requires_grad_()
    first, second = (torch.autograd.grad(tasks(x)[:, k].sum(), x)[0] for k in (0, 1))
    return cosine_similarity(first, second, dim=1)


# ---------------------------------------------------------------- 04


def test_bases_show_the_same_functions_at_own_points():
    waves = bg.exact_waves(3, 5, 0, active=2)
    parts = bg.in_bases(waves, 2, 10, seed=0)
    turns = bg.rotations(2, 5, seed=0)
    assert torch.allclose(turns @ turns.mT, torch.eye(5).expand(2, 5, 5), atol=1e-5)
    for part, turn in zip(parts, turns, strict=True):
        x = part.points @ turn.T
        assert torch.allclose(part.values, waves(x), atol=1e-5)
        assert torch.allclose(part.gradients @ turn.T, waves.gradient(x), atol=1e-4)
        assert torch.equal(waves.gradient(x)[..., 2:], torch.zeros(3, 10, 3))  # idle inputs
    assert not torch.equal(parts[0].points, parts[1].points)


def test_families_are_the_sums_that_their_contents_say():
    contents = bg.shares([0.1], [0.5])
    assert torch.allclose(torch.cat([*contents.values()]).square().sum(1), torch.ones(12))  # variance 1
    both = bg.exact_waves(2, 3, 0)
    plain = bg.in_bases(both, 2, 10, seed=0)
    for part, exact in zip(bg.families(both, contents["mixture", 0.1], 2, 10, 0), plain, strict=True):
        assert torch.allclose(part.values[0], exact.values[0], atol=1e-6)
        assert torch.allclose(part.gradients[5], 0.75**0.5 * exact.gradients[0] + 0.5 * exact.gradients[1], atol=1e-5)
        assert part.labels.tolist() == [*range(6)]


@pytest.mark.parametrize(("accuracy", "where"), [([0.5, 1.0], 20.0), ([0.9, 1.0], 10.0), ([0.1, 0.2], np.inf)])
def test_a_crossing_is_read_in_log_x(accuracy, where):
    assert bg.crossing([10, 40], accuracy, 0.75) == pytest.approx(where)


def test_numbers_of_seeds_are_written_with_interval_and_bound():
    assert bg.over_seeds(np.array([4.0])) == "4"
    assert bg.over_seeds(np.array([100.0, 400.0]), "> ").startswith("> 200 [")


def needs(points_of_gradients, points_of_values):
    """A table in which each method gets from 0.8 to 1 at the given numbers of points."""
    rows = [
        {"seed": 0, "method": method, "points": m, "neighbor": 0.8 if m < first else 1.0}
        for method, first in ((bg.GRADIENTS, points_of_gradients), (bg.VALUES, points_of_values))
        for m in (10, 40, 160, 640)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("needed", "rate"), [((40, 160), "4"), ((10, 160), "≥ 8"), ((160, 999), "≥ 8"), ((640, 10), "≤ 0.031"),
                         ((10, 10), "not known")]
)  # fmt: skip
def test_an_exchange_rate_is_a_bound_where_curves_give_no_more(needed, rate):
    assert bg.exchange(needs(*needed), "neighbor")["exchange rate"] == rate


def test_a_break_point_says_what_is_beyond_the_sizes_tried():
    table = pd.DataFrame({"seed": 0, "size": [0.01, 0.04], "neighbor": [0.5, 1.0]})
    assert [bg.break_point(table, level) for level in (0.75, 0.4, 1.1)] == ["0.02", "≤ 0.01", "> 0.04"]


def test_without_group_means_nothing_of_the_group_is_left():
    rows, groups = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.arange(6) // 3
    assert torch.allclose(bg.less_group_means(rows, groups)[:3].mean(0), torch.zeros(2), atol=1e-6)


# ---------------------------------------------------------------- 05


@pytest.mark.parametrize("mixing", [0.0, 0.2, 0.5])
def test_the_true_cosine_is_that_of_autograd(mixing):
    x = ge.datasets.soft_mixing(mixing, n_samples=50).x_test

    def tasks(z):
        p = torch.stack([z[:, 0] * z[:, 1], z[:, 2] * z[:, 3]], 1)
        return (1 - mixing) * p + mixing * p.flip(1)

    assert torch.allclose(sm.true_cosine(x, mixing).double(), cosine_by_autograd(tasks, x), atol=1e-5)


def test_tied_and_folded_tasks_are_what_they_are_called():
    tied, folded = sm.tied_split(0.0, 0, 0.9), sm.folded_split(0)
    assert np.corrcoef(tied.x_train.T)[0, 2] == pytest.approx(0.9, abs=0.01)
    assert torch.allclose(tied.y_train, torch.stack([tied.x_train[:, :2].prod(1), tied.x_train[:, 2:].prod(1)], 1))
    assert torch.allclose(folded.y_train.std(0), torch.ones(2), atol=0.05)
    assert np.corrcoef(folded.y_train[:, 0].abs(), folded.y_train[:, 1])[0, 1] == pytest.approx(1)


def test_cosines_of_tasks_on_images_are_those_of_autograd():
    images = torch.rand(300, 784, generator=torch.Generator().manual_seed(0))
    mix, mixing = sm.ImageMixing.of(images), torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]).double()
    x = images[:5]
    for k in range(5):

        def pair(z, k=k):
            return mix.targets(z, mixing)[:, 2 * k : 2 * k + 2]

        assert torch.allclose(mix.true_cosine(x, mixing)[:, k], cosine_by_autograd(pair, x), atol=1e-9)  # fmt: skip
    split = mix.split(images, x, mixing, "noise")
    assert torch.allclose(split.y_train.std(0), torch.ones(10), atol=1e-5)


def test_cosines_estimated_from_values_are_near_the_true_ones():
    x = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    values = torch.stack([x[:, 0] ** 2 + x[:, 1], x[:, 1] ** 2 - x[:, 0]], 1)  # gradients (2a, 1) and (-1, 2b)
    true = cosine_similarity(
        torch.stack([2 * x[:, 0], x[:, 0] * 0 + 1], 1), torch.stack([x[:, 0] * 0 - 1, 2 * x[:, 1]], 1)
    )
    assert float((sm.estimated_cosine(x, values) - true).abs().mean()) < 0.01


def test_a_mixing_is_read_off_a_curve_that_may_dip():
    frame = pd.DataFrame({"mixing": [0.0, 0.1, 0.2, 0.3], "score": [0.1, 0.5, 0.4, 0.9], "repeat": 0})
    assert np.allclose(sm.read(frame, "score", [0.3, 0.7, 2.0]), [0.05, 0.25, 0.3], atol=1e-6)
    twice = pd.concat([frame, frame.assign(repeat=1, score=frame["score"] + 0.01)])
    assert sm.reading_errors(twice, "score").shape == (2,)


def test_pairs_of_stacked_outputs_are_within_a_copy_or_across():
    pairs = sm.pairs_of("stacked Iris", 6)
    assert [len(found) for found in pairs.values()] == [9, 6]
    assert sm.pairs_of("Iris", 3) == {"Iris": [(0, 1), (0, 2), (1, 2)]}


# ---------------------------------------------------------------- 06


def test_purity_counts_the_most_frequent_label_of_each_node():
    assert om.purity(np.array([0, 0, 0, 7]), np.array([1, 1, 2, 2])) == 0.75


def test_what_controls_explain_is_not_left():
    rng = np.random.default_rng(0)
    control, other = rng.normal(size=(2, 45))
    assert np.allclose(om.left(control**3 - 2 * control, [control]), 0)
    a, b = ({"cosines": c + other, "outputs": c} for c in (control, rng.normal(size=45)))
    assert om.agreement([a], [a, b])["beyond outputs"] == om.partial_correlation(a, b, ["outputs"]) > 0.9


def test_firm_pairs_have_one_sign_in_all_tables():
    one, two = torch.zeros(2, 10, 10)
    one[0, 1], two[0, 1], one[0, 2], two[0, 2], one[3, 4], two[3, 4] = 0.2, 0.4, 0.1, -0.1, -0.5, -0.5
    found = om.firm([one, two])
    assert found["share"] == [(0, 1, pytest.approx(0.3))]
    assert found["oppose"] == [(3, 4, pytest.approx(-0.5))]


def test_units_are_labeled_by_the_digit_they_raise_most_and_find_each_other():
    readout = torch.eye(10)[:, [3, 5]]  # two hidden units
    generator = torch.Generator().manual_seed(0)
    points, gradients = torch.randn(20, 4, generator=generator), torch.randn(12, 20, 4, generator=generator)
    fields = ge.GradientFields(points, gradients, gradients.sum(2), groups=torch.zeros(12, dtype=torch.int64))
    parts = [om.labeled(fields, readout)] * 2
    assert parts[0].labels.tolist() == [3, 5, *range(10)]
    outputs = ge.GradientFields.concatenate(parts, new_networks=True)[torch.arange(24) % 12 >= 2]
    scores, z = om.twins(outputs, outputs.groups)
    assert [score.accuracy for score in scores.values()] == [1, 1]
    assert len(z) == 20


def test_networks_with_two_heads_learn_both():
    images, labels = torch.zeros(200, 1, 8, 8), torch.arange(200) % 2
    images[labels == 1] = 1

    def loss(model, batch):
        return own.heads_loss(images, {"digit": labels, "second": 1 - labels}, model, batch)

    heads = own.heads(own.trained(own.two_heads, loss, 200, 10, seed=0), images)
    assert torch.equal(heads["digit"].argmax(1), labels)
    assert torch.equal(heads["second"].argmax(1), 1 - labels)
