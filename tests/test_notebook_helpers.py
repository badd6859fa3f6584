"""What notebooks 01, 02 and 03 compute in modules beside them, on cases whose answer is known."""

import importlib.util
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

import gradembed as ge


def helper(name):
    path = Path(__file__).resolve().parent.parent / "notebooks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


digits, tasks, twins = map(helper, ("digits", "iris_tasks", "twins"))


@pytest.fixture
def x():
    return torch.randn(60, 784, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def networks():
    return [ge.MLP([784, 16, 16, 10], seed=seed) for seed in range(2)]


# ---------------------------------------------------------------- digits


def test_three_ways_to_the_mean_cosines_agree(x, networks):
    ours = ge.interference(networks[0], x).cosine["input"]
    assert torch.allclose(digits.loop(networks[0], x), ours.float(), atol=1e-5)
    assert torch.allclose(digits.with_torch_func(networks[0], x), ours.float(), atol=1e-5)


def test_cosines_at_images_average_to_those_of_interference(x, networks):
    at = digits.cosines_at(networks[0], x, "hidden1")
    mean = ge.interference(networks[0], x, centered=True).cosine["hidden1"]
    assert at.shape == (60, 45)
    assert at.mean(0) == pytest.approx(digits.pattern(mean), abs=1e-5)


def test_a_network_agrees_with_itself_at_images_and_another_hardly(x, networks):
    same = digits.agreement_at_images([networks[0], networks[0]], x, "hidden1")
    other = digits.agreement_at_images(networks, x, "hidden1")
    assert same["two networks agree"] == pytest.approx(1)
    assert same["beyond both outputs"] == pytest.approx(1)
    assert abs(other["two networks agree"]) < 0.3


def test_what_a_regression_leaves_does_not_follow_its_predictors():
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(200, 3)), rng.normal(size=200)
    left = digits.left_over(2 + x @ [1.0, 2.0, 3.0] + noise, x)
    assert np.abs(x.T @ left).max() < 1e-9
    assert np.corrcoef(left, noise)[0, 1] > 0.95


def test_patterns_correlate_with_each_other_or_with_their_own():
    tables = [table + table.T for table in torch.rand(3, 10, 10, generator=torch.Generator().manual_seed(0))]
    assert digits.correlations(tables, tables) == pytest.approx([1, 1, 1])
    assert len(digits.correlations(tables)) == 3
    assert digits.correlations([tables[0], -tables[0]]) == pytest.approx([-1])


# ---------------------------------------------------------------- iris_tasks


@pytest.fixture
def apart():
    """A network whose first half of units serves the first task, the second half the second; its data."""
    generator = torch.Generator().manual_seed(0)
    network = ge.MLP([8, 12, 12, 6], seed=0)
    with torch.no_grad():
        for linear in (m for m in network.modules() if isinstance(m, torch.nn.Linear)):
            out, into = (side // 2 for side in linear.weight.shape)
            linear.weight[:out, into:], linear.weight[out:, :into] = 0, 0
    inputs = torch.randn(200, 8, generator=generator)
    y = network(inputs).unflatten(1, (2, 3)).argmax(2)
    return network, ge.datasets.Split(inputs[:150], y[:150], inputs[150:], y[150:], "apart", "made up")


@pytest.mark.parametrize("layer", ["hidden1", "hidden2"])
def test_every_method_recovers_which_unit_serves_which_task(apart, layer):
    row = tasks.recover(*apart, layer, n_judged=150, matters=0.01)
    for method in ("gradients", "outgoing", "incoming"):
        assert row[f"{method}, matter"] == 1, method
    assert row["correlation, matter"] > 0.4
    assert row["outputs right"] == 1
    assert row["own task loses"] > 0
    assert row["other, most"] == pytest.approx(0)


def test_an_empty_module_costs_nothing(apart):
    network, split = apart
    kept = tasks.without(network, "hidden1", [], torch.zeros(12), tasks.accuracies, split.x_test, split.y_test)
    assert kept.tolist() == [1, 1]


def test_nodes_come_by_root_and_then_by_the_class_of_their_samples(apart):
    network, split = apart
    tree = ge.gradient_tree(network, split.x_test)
    y = split.y_test.T.repeat_interleave(3, 0)
    order = tasks.sorted_nodes(tree, "input", y)
    roots = tree.roots["input"][order]
    assert sorted(order) == list(range(len(tree.norms["input"])))
    assert (roots.diff() >= 0).all()
    at = [y[root][tree.nodes["input"][root] == node].mode().values for node, root in zip(order, roots, strict=True)]
    for root in range(6):
        classes = torch.stack([label for label, own in zip(at, roots, strict=True) if own == root])
        assert (classes.diff() >= 0).all()


def test_pictures_name_roots_and_modules(apart):
    network, split = apart
    axes = plt.subplots(1, 2)[1]
    tree = ge.gradient_tree(network, split.x_test)
    names = [f"{task}{k}" for task in "AB" for k in range(3)]
    tasks.nodes(axes[0], tree, "input", split.y_test.T.repeat_interleave(3, 0), names, heavy=(3,))
    result = ge.task_modules(network, split.x_train, "hidden2")
    tasks.modules(axes[1], result, names)
    assert [text.get_text() for text in axes[0].get_xticklabels()] == names
    served = [int((result.unit_modules == m).sum()) for m in (0, 1, -1)]
    expected = [f"{t}: {n} units" for t, n in zip(("module 0", "module 1", "no effect"), served, strict=True) if n]
    assert [text.get_text() for text in axes[1].get_xticklabels()] == expected
    assert tasks.middles(np.array([2, 6])).tolist() == [0.5, 3.5]
    plt.close()


# ---------------------------------------------------------------- twins


@pytest.fixture
def fields():
    ensemble = ge.MLPEnsemble([6, 64, 64, 6], 4, seed=0)
    split = twins.tents(0)
    return twins.components([split] * 4, ensemble, "hidden1", 0, 80)


def test_a_permuted_copy_computes_the_same():
    network, inputs = ge.MLP([8, 64, 64, 6], seed=0), torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    other, order = twins.permuted(network, 1)
    assert torch.allclose(network(inputs), other(inputs), atol=1e-5)
    found = twins.exact_twins(network, inputs, 1)
    assert found["components matched"] == found["hidden units matched"] == 1
    assert found["descriptor moved by"] < 1e-4
    assert sorted(order.tolist()) == list(range(64))


def test_tents_have_one_distribution_and_copies_do_not_see_each_other():
    split = twins.tents(0)
    y = split.y_train.sort(0).values
    assert y.std(0).tolist() == pytest.approx([1] * 12, abs=0.02)
    assert float((y - y[:, :1]).abs().max()) < 0.1
    assert float(torch.corrcoef(split.y_train.T)[:6, 6:].abs().max()) < 0.05


def test_principal_components_are_uncorrelated_and_share_one_scale():
    generator = torch.Generator().manual_seed(0)
    inputs, y = torch.randn(300, 20, generator=generator) * torch.arange(20) + 5, torch.zeros(300, dtype=torch.int64)
    split = twins.principal_components(ge.datasets.Split(inputs[:200], y[:200], inputs[200:], y[200:], "a", "b"), 3)
    covariance = split.x_train.T.cov()
    assert split.x_test.shape == (100, 3)
    assert float(split.x_train.std()) == pytest.approx(1)
    assert float((covariance - covariance.diag().diag()).abs().max()) < 1e-4
    assert split.name == "a components"


def test_scores_are_one_for_labels_and_chance_for_noise(fields):
    y, generator = fields.labels, torch.Generator().manual_seed(0)
    told = twins.scores(torch.eye(8)[y] + 1e-3 * torch.randn(len(y), 8, generator=generator), fields)
    noise = twins.scores(torch.randn(len(y), 8, generator=generator), fields)
    assert twins.copy_of(fields).tolist() == [0, 0, 0, 1, 1, 1] * 4
    assert all(told[name] == 1 for name in ("neighbor", "transfer probe", "ARI class", "matching"))
    assert told["ARI copy"] < 0.05
    assert noise["neighbor"] < 0.7
    assert noise["ARI class"] < 0.4


def test_the_nearest_of_the_other_copy_is_a_planted_twin():
    z = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    assert twins.twin_is_nearest(torch.cat([z, z + 1e-3])) == 1
    assert twins.twin_is_nearest(torch.cat([z, z[[1, 2, 0]]])) == 0


def test_each_block_of_the_descriptor_is_judged_alone_and_left_out(fields):
    rows = list(twins.blocks(fields))
    names = {row["block"] for row in rows}
    assert len(rows) == 2 * len(names) > 2
    assert {row["which"] for row in rows} == {"alone", "without"}


def test_children_and_hidden_units_name_the_output_that_they_belong_to():
    network, inputs = ge.MLP([6, 12, 12, 6], seed=0), torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
    found, outputs = twins.children(network, inputs)
    assert len(found) == len(outputs) == 18
    assert outputs.bincount().tolist() == [3] * 6
    found, outputs = twins.hidden_units(network, inputs)
    assert len(found) == len(outputs) == 12


def test_matching_by_activations_beats_random_matchings_and_finds_planted_twins():
    generator = torch.Generator().manual_seed(0)
    network = ge.MLP([6, 20, 20, 3], seed=0)
    points = torch.randn(2, 90, 6, generator=generator)
    parts = [ge.gradient_fields(network, p, unit_layer="hidden2", labels=torch.arange(20)) for p in points]
    units = ge.GradientFields.concatenate(parts, new_networks=True)
    a = network.hidden2(network.hidden1(torch.randn(200, 6, generator=generator))).detach()
    units = units[twins.alive(units) & (a.std(0)[units.labels] > 0)]
    told = torch.eye(20)[units.labels]
    table = twins.compare_matchings(units, torch.stack([a, a]), {"told": told}, generator)
    assert table.loc["told", "mean correlation"] == pytest.approx(1, abs=1e-5)
    assert table.loc["told", "p"] == 1 / 500
    assert table.loc["each unit's best partner", "mean correlation"] == pytest.approx(1, abs=1e-5)
    assert abs(table.loc["told", "random pairs"]) < 0.3


def test_the_ladder_draws_a_bar_only_where_seeds_repeat():
    runs = pd.DataFrame(
        {
            "task": "t", "wrt": "input", "score": [0.9, 1.0, 0.8, 0.5],
            "method": ["descriptor", "descriptor", "descriptor", "raw"],
        }
    )  # fmt: skip
    ax = plt.subplots()[1]
    twins.ladder(ax, runs, "score", {("t", "input"): 0.1})
    legend = [line.get_label() for line in ax.lines if not line.get_label().startswith("_")]
    assert legend == ["true gradients", "raw", "chance"]
    assert len(ax.lines) == 4  # two marks, one bar, chance
    assert [text.get_text() for text in ax.get_yticklabels()] == ["t, input"]
    plt.close()
