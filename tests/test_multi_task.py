"""The networks of notebook 08: that they learn side by side what each would learn alone."""

import importlib.util
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.nn import functional as F

PATH = Path(__file__).resolve().parent.parent / "notebooks" / "multi_task.py"
spec = importlib.util.spec_from_file_location("multi_task", PATH)
mt = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mt)
WIDTHS, TASKS = [16, 12], (0, 2, 11)
SETTING = {"widths": WIDTHS, "epochs": 2, "seed": 5, "batch_size": 50}


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    digits, y = torch.rand(120, 784, generator=generator), torch.randint(10, (120,), generator=generator)
    return [*mt.overlay(digits, y, 150, 1), *mt.overlay(digits, y, 100, 2)]


@pytest.fixture(scope="module")
def run(data):
    networks = mt.plan(TASKS, len(WIDTHS))
    return networks, mt.train(networks, data, keep=[1, 2], **SETTING)


def heads_of(run, network):
    return [k for k, (i, _) in enumerate(run["heads"]) if i == network]


def test_images_hold_both_digits_and_classes_follow_from_them():
    digits = torch.zeros(10, 784)
    digits[:, 0] = torch.arange(10) / 9  # one pixel, as bright as the class
    images, y = mt.overlay(digits, torch.arange(10), 200, 0)
    assert images.shape == (200, 324)
    assert torch.allclose(images[:, 0] * 4 * 9, y[:, 0].float(), atol=1e-5)  # the left digit's corner
    assert torch.allclose(images[:, 4 * 18 + 4] * 4 * 9, y[:, 1].float(), atol=1e-5)
    assert torch.equal(y[:, 9], y[:, 0] + y[:, 1])
    assert torch.equal(
        y[:, 2] + y[:, 10] + y[:, 3], (y[:, 0] % 2 == 0).long() + (y[:, 1] % 2 == 0) + (y[:, 9] % 2 == 0)
    )
    assert torch.equal(y[:, 4].bool(), torch.isin(y[:, 0], torch.tensor([0, 6, 8, 9])))
    assert (y.amax(0) < torch.tensor(mt.SIZES)).all()


def test_a_network_learns_the_same_alone_as_side_by_side(data, run):
    networks, together = run
    for i, network in enumerate(networks):
        alone, heads = mt.train([network], data, **SETTING), heads_of(together, i)
        assert torch.allclose(alone["loss"], together["loss"][:, heads], atol=1e-4), network


def test_a_pair_learns_as_an_ordinary_module_does(data):
    x, y, *_ = data
    forest = mt.Forest([((0, 2), 2)], 324, WIDTHS, seed=5)
    model = mt.network(forest.layers(0)).train()
    trained = mt.train([((0, 2), 2)], data, keep=[2], **SETTING)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=6)
    order = torch.Generator().manual_seed(5)
    for _ in range(2):
        for index in torch.randperm(len(x), generator=order).split(50):
            scores, targets = model(x[index]).split([10, 2], 1), y[index][:, [0, 2]].T
            optimizer.zero_grad()
            sum(map(F.cross_entropy, scores, targets)).backward()
            optimizer.step()
            schedule.step()
    for parameter, expected in zip(mt.network(trained["kept"][0][0]).parameters(), model.parameters(), strict=True):
        assert torch.allclose(parameter, expected, atol=1e-5)


def test_kept_networks_have_the_accuracy_that_is_reported(data, run):
    networks, trained = run
    for i, (tasks, shared) in enumerate(networks):
        layers = trained["kept"][-1][i]
        assert bool(layers) == (shared == len(WIDTHS))
        if layers:
            scores = mt.network(layers)(data[2]).split([mt.SIZES[task] for task in tasks], 1)
            for score, task, head in zip(scores, tasks, heads_of(trained, i), strict=True):
                assert float((score.argmax(1) == data[3][:, task]).float().mean()) == pytest.approx(
                    float(trained["accuracy"][head])
                )


def test_branches_have_half_the_units_and_touch_no_other_task(data):
    forest = mt.Forest([((0, 2), 1), ((0, 2), 2)], 324, WIDTHS, seed=0)
    assert [live.sum().item() for live in forest.live] == [16 + 16, 6 + 6 + 12]
    parts = [part.requires_grad_() for part in (*forest.weights, *forest.biases)]
    forest.losses(*data[:2])[0].backward()  # the first head of the network that branches
    assert parts[1].grad[0].abs().sum() > 0
    assert parts[1].grad[1:].abs().sum() == 0
    assert parts[1].grad[0][:, 6:].abs().sum() == 0


def test_a_second_task_leaves_the_head_of_the_first_alone(data, run):
    _, trained = run
    start = [trained["kept"][-1][0], trained["kept"][-1][1]]
    later = mt.train([((0, 2), 2), ((2, 0), 2)], data, start=start, keep=[2], **SETTING)
    for i, task in enumerate((0, 2)):
        assert later["before"][2 * i] == trained["accuracy"][i]
        (before,), size = [start[i][-1]["weight"]], mt.SIZES[task]
        assert torch.equal(later["kept"][0][i][-1]["weight"][:size], before)
        assert not torch.equal(later["kept"][0][i][0]["weight"], start[i][0]["weight"])


def test_measures_are_those_of_a_loop(data, run):
    networks, trained = run
    x, y, tasks = data[2][:20], data[3][:20], (0, 11)
    layers = trained["kept"][-1][networks.index((tasks, 2))]
    found, model, cosines = mt.measures(layers, tasks, x, y), mt.network(layers), []
    for one, classes in zip(x, y, strict=True):
        a = model.hidden1(one[None]).detach().requires_grad_()
        scores = model.output(model.hidden2(a)).split([10, 4], 1)
        losses = [F.cross_entropy(score, classes[[task]]) for score, task in zip(scores, tasks, strict=True)]
        grads = [torch.autograd.grad(loss, a, retain_graph=True)[0] for loss in losses]
        cosines.append(float(F.cosine_similarity(*grads)))
    assert float(found["cosine, hidden1"][0, 1]) == pytest.approx(np.mean(cosines), abs=1e-5)
    assert float(found["agreement, hidden1"][0, 1]) == pytest.approx(np.mean(np.array(cosines) >= 0))
    means = [F.cross_entropy(s, y[:, t]) for s, t in zip(model(x).split([10, 4], 1), tasks, strict=True)]
    for name, parameters in (("all", [*model.parameters()][:4]), ("hidden2", [*model.parameters()][2:4])):
        flat = [torch.cat([g.flatten() for g in torch.autograd.grad(m, parameters, retain_graph=True)]) for m in means]
        assert float(found[f"parameters, {name}"][0, 1]) == pytest.approx(
            float(F.cosine_similarity(*flat, dim=0)), abs=1e-5
        )
    flat = [
        torch.cat([g.flatten() for g in torch.autograd.grad(m, [*model.parameters()][:4], retain_graph=True)])
        for m in means
    ]
    expected = float(flat[0] @ flat[1]) * sum(1 / m.item() for m in means) / 2
    assert float(found["affinity"][0, 1]) == pytest.approx(expected, rel=1e-4)
    assert {name: v.shape for name, v in found.items()} == dict.fromkeys(found, (2, 2))


def test_rank_correlation_is_spearmans_and_takes_off_a_control():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3, 40))
    a, b = z + 0.1 * rng.normal(size=z.shape), z + 0.1 * rng.normal(size=z.shape)
    r = mt.rank_correlation(a, b, n_bootstrap=300)
    assert r[0] == pytest.approx(spearmanr(a.mean(0), b.mean(0))[0])
    assert len(r) == 301
    assert np.quantile(r[1:], 0.025) < r[0] < 1
    assert abs(mt.rank_correlation(a, b, z, n_bootstrap=1)[0]) < 0.4 < 0.9 < r[0]


def test_the_plan_holds_every_pair_at_every_split():
    planned = mt.plan([0, 1, 2, 3], 3)
    assert len(planned) == 4 + 4 + 6 * 3 + 1
    assert {tasks for tasks, shared in planned if shared == 2} == set(combinations(range(4), 2))


def test_draws_in_which_nothing_varies_have_no_correlation():
    equal, varied = np.zeros((2, 5)), np.arange(10.0).reshape(2, 5)
    assert (mt.rank_correlation(equal, varied) == 0).all()
    assert np.isfinite(mt.rank_correlation(varied, varied, varied)).all()


def test_reliability_is_one_of_equal_seeds_and_none_of_noise():
    rng = np.random.default_rng(0)
    z = rng.normal(size=400)
    assert mt.reliability(np.stack([z, z, z])) == pytest.approx(1)
    half = mt.reliability(z + rng.normal(size=(2, 400)))  # as much signal as noise: correlation 1/2, of the mean 2/3
    assert half == pytest.approx(2 / 3, abs=0.08)
    assert abs(mt.reliability(rng.normal(size=(2, 400)))) < 0.2


def test_ranks_of_pairs_stand_in_a_symmetric_table():
    table = mt.rank_table(np.array([0.3, -1.0, 7.0]), [(0, 1), (0, 2), (1, 2)])
    assert table.tolist() == [[0, 2, 1], [2, 0, 3], [1, 3, 0]]
    assert mt.interval(np.array([0.5, *np.linspace(0, 1, 101)])) == "0.50 [0.03, 0.97]"


def test_tasks_are_of_the_same_digit_of_one_each_or_of_both():
    assert mt.digits_of("left digit", "left even") == "same digit"
    assert mt.digits_of("left digit", "right loop") == "one digit each"
    assert mt.digits_of("left larger", "left digit") == mt.digits_of("sum", "ink") == "a task of both digits"


def test_a_pair_is_foretold_from_pairs_of_other_tasks():
    pairs = [*combinations(range(7), 2)]
    target = np.random.default_rng(0).normal(size=len(pairs))
    assert spearmanr(mt.foretold([target], target, pairs), target)[0] > 0.95
    linked = [i for i, pair in enumerate(pairs) if {*pair} & {0, 1}]
    changed, others = target.copy(), target.copy()
    changed[linked] = target[linked][::-1]  # what pairs with one of its tasks gain says nothing
    assert mt.foretold([target], changed, pairs)[0] == mt.foretold([target], target, pairs)[0]
    others[-10:] = target[-10:][::-1]  # pairs of tasks 3 to 6
    assert mt.foretold([target], others, pairs)[0] != mt.foretold([target], target, pairs)[0]


def test_points_lost_are_those_of_the_reported_accuracy(data, run):
    _, trained = run
    start = [trained["kept"][-1][0], trained["kept"][-1][1]]
    later = mt.train([((0, 2), 2), ((2, 0), 2)], data, start=start, keep=[2], **SETTING)
    lost = mt.points_lost(start, later["kept"][0], [0, 2], data[2], data[3])
    assert lost == pytest.approx(100 * (later["before"] - later["accuracy"])[::2].numpy(), abs=1e-3)


def test_splits_are_shared_below_the_first_conflict_and_judged_against_the_best():
    conflicts = np.array([[[False, True, False], [False, True, True], [True, False, False]]])  # [s, layers, p]
    assert mt.deepest(conflicts).tolist() == [[2, 0, 1]]
    assert mt.deepest(np.zeros((1, 3, 1), bool)).tolist() == [[3]]
    accuracies = np.array([[[90.0, 91.0, 92.0], [80.0, 80.0, 79.5]]])  # [s, p, splits]
    hit, below = mt.within(np.array([[1, 2]]), accuracies)
    assert hit.tolist() == [[1, 1]]
    assert below.tolist() == [[1, 0.5]]
    assert mt.within(np.array([[0, 2]]), accuracies)[0].tolist() == [[0, 1]]
