"""Ensembles: equal to their members one by one, in what they compute and in what they learn."""

import copy
import dataclasses
import itertools
import re

import numpy as np
import pytest
import torch
from _learning import IRIS, double, quick, values_split, weights_of
from sklearn.metrics import r2_score
from torch import nn

import gradembed as ge
from gradembed import training
from gradembed.models import ACTIVATIONS

FOUR = ge.MLPEnsemble([4, 3], 4, seed=0)
WAVES, IRIS64 = ge.datasets.random_waves(3, 2), double(IRIS)


def alone(i, split, widths, config, activation=nn.ReLU):
    """What `train` makes of member i."""
    network = ge.MLP(widths, activation, seed=config.seed + i).to(split.x_train.dtype)
    return ge.train(network, split, dataclasses.replace(config, seed=config.seed + i))


def far_apart(one, other):
    return float((weights_of(one) - weights_of(other)).abs().max()) > 1e-3


# What an ensemble is


@pytest.mark.parametrize("widths", [[4, 3], [1, 8, 7, 1]])
def test_members_are_networks_with_consecutive_seeds(widths):
    ensemble = ge.MLPEnsemble(widths, 3, nn.Tanh, seed=5)
    for i, member in enumerate(ensemble):
        assert type(member) is ge.MLP
        assert member.widths == ensemble.widths == tuple(widths)
        assert torch.equal(weights_of(member), weights_of(ge.MLP(widths, nn.Tanh, seed=5 + i)))
        assert repr(member) == repr(ge.MLP(widths, nn.Tanh))
    assert far_apart(ensemble[0], ensemble[2])


def test_parameters_have_the_names_of_a_network_and_it_is_shown_as_what_it_is():
    ensemble, network = ge.MLPEnsemble([4, 8, 7, 3], 5, nn.Tanh), ge.MLP([4, 8, 7, 3])
    shapes = {key: (5, *value.shape) for key, value in network.state_dict().items()}
    assert {key: tuple(value.shape) for key, value in ensemble.state_dict().items()} == shapes
    assert [name for name, _ in ensemble.named_children()] == ["hidden1", "hidden2", "output"]
    assert str(ensemble.output) == "StackedLinear(5 members, 7 to 3)"
    assert (ensemble.scores, ensemble.labels, ensemble.losses, ensemble.history) == (None,) * 4
    assert repr(ge.MLPEnsemble([4, 3], 1)) == "MLPEnsemble(1 member, 4-3)"
    ensemble.scores = torch.tensor([0.5, 0.75], dtype=torch.float64)
    assert repr(ensemble) == "MLPEnsemble(5 members, 4-8-7-3, Tanh, median score 0.6250)"


def test_seed_leaves_the_global_generator_alone_and_none_draws_from_it():
    before = torch.get_rng_state()
    ge.MLPEnsemble([4, 3], 2, seed=1)[0]
    assert torch.equal(torch.get_rng_state(), before)
    drawn = ge.MLPEnsemble([4, 3], 2)
    torch.set_rng_state(before)
    assert torch.equal(weights_of(drawn[1]), [weights_of(ge.MLP([4, 3])) for _ in range(2)][1])


@pytest.mark.parametrize("activation", ACTIVATIONS.values())
def test_outputs_and_layers_are_those_of_the_members(activation):
    ensemble = ge.MLPEnsemble([4, 8, 6, 3], 3, activation, seed=0).double()
    shared, own = torch.randn(7, 4, dtype=torch.float64), torch.randn(3, 7, 4, dtype=torch.float64)
    for x, rows in ((shared, [shared] * 3), (own, own)):
        layers = ensemble.activations(x)
        assert list(layers) == ["input", "hidden1", "hidden2", "output"]
        assert torch.equal(layers["output"], ensemble(x))
        for i, (member, row) in enumerate(zip(ensemble, rows, strict=True)):
            hidden1 = member.hidden1(row)
            expected = [row, hidden1, member.hidden2(hidden1), member(row)]
            for layer, value in zip(layers.values(), expected, strict=True):
                assert torch.allclose(layer[i], value, atol=1e-12, rtol=0)
    assert not torch.allclose(ensemble(own)[0], ensemble[0](own[1]), atol=1e-3)
    leaf, twin = (shared.clone().requires_grad_() for _ in range(2))
    ensemble(leaf)[1].square().sum().backward()
    ensemble[1](twin).square().sum().backward()
    assert torch.allclose(leaf.grad, twin.grad, atol=1e-12)


def test_member_has_weights_of_its_own():
    ensemble = ge.MLPEnsemble([4, 3], 2, seed=0).eval()
    before = weights_of(ensemble)
    member, fewer, rebuilt = ensemble[0], ensemble[:1], ge.MLPEnsemble.from_parts(ensemble.parts())
    assert [network.training for network in (member, fewer, rebuilt)] == [False, False, True]
    for network in (member, fewer, rebuilt):
        nn.init.zeros_(network.output.weight)
    assert torch.equal(weights_of(ensemble), before)


@pytest.mark.parametrize(("index", "members"), [
    (slice(1, 3), [1, 2]), (slice(None, None, -2), [3, 1]), ([3, 0, 3], [3, 0, 3]), (torch.tensor([1, 2]), [1, 2]),
    (np.array([-1, 0]), [3, 0]),
])  # fmt: skip
def test_fewer_members_know_what_they_learned(index, members):
    ensemble = ge.MLPEnsemble([4, 8, 3], 4, nn.GELU, seed=0)
    ensemble.scores, ensemble.labels = torch.arange(4.0).double(), torch.tensor([7, 8, 9, 10])
    ensemble.losses = torch.rand(4, 5)
    fewer, x = ensemble[index], torch.randn(6, 4)
    assert type(fewer) is ge.MLPEnsemble
    assert torch.allclose(fewer(x), ensemble(x)[members], atol=1e-6)
    for name in ("scores", "labels", "losses"):
        assert torch.equal(getattr(fewer, name), getattr(ensemble, name)[members])


def test_one_member_by_any_integer():
    for index in (-2, np.int64(2), torch.tensor(2)):
        assert torch.equal(weights_of(FOUR[index]), weights_of(ge.MLP([4, 3], seed=2)))


MIXED = itertools.cycle([nn.Tanh, nn.ReLU])


@pytest.mark.parametrize("activation", [lambda: nn.Hardtanh(-2, 3), lambda: next(MIXED)()])
def test_networks_are_stacked_and_taken_apart_again(activation):
    networks = [ge.MLP([4, 8, 6, 3], activation, seed=seed).double() for seed in (3, 1, 4)]
    ensemble, x = ge.MLPEnsemble.from_members(networks), 5 * torch.randn(7, 4, dtype=torch.float64)
    for network, member in zip(networks, ensemble, strict=True):
        assert torch.equal(weights_of(network), weights_of(member))
        assert torch.allclose(network(x), member(x), atol=1e-12)
        assert repr(network) == repr(member)
    again = ge.MLPEnsemble.from_members(list(ge.MLPEnsemble.from_parts(ensemble.parts())))
    with torch.no_grad():
        networks[0].output.bias.add_(1)
    assert torch.equal(again(x), ensemble(x))


class Cubed(nn.ReLU):
    def forward(self, x):
        return x**3


UNSHARED = [nn.PReLU, nn.Dropout, nn.Softmax, Cubed]


class Other(ge.MLP):
    pass


OF = ge.MLPEnsemble.from_members
SHAPES = r"`x` should have shape \[n, 4\] or \[4, n, 4\]. Got a float32 tensor"


@pytest.mark.parametrize(("call", "argument", "error", "message"), [
    *[(lambda kind: ge.MLPEnsemble([4, 8, 3], 2, kind), kind, ValueError,
       "`activation` should be one of torch's elementwise .* one by one") for kind in UNSHARED],
    *[(OF, [ge.MLP([4, 8, 3], kind)], ValueError, "`members` should be one of torch's elem") for kind in UNSHARED],
    (OF, [Other([4, 3])], TypeError, "`members` should be gradembed.MLP. Got Other"),
    (OF, [ge.MLP([4, 3]), ge.MLP([4, 2])], ValueError, r"`members` should give .* Got \(4, 2\).*member 1"),
    (OF, [ge.MLP([4, 5, 3], nn.ELU), ge.MLP([4, 5, 3], lambda: nn.ELU(2))], ValueError, "`members` should give"),
    (OF, [ge.MLP([4, 3]), ge.MLP([4, 3]).double()], ValueError, "`members` .* precision .* Got .*float64"),
    (FOUR.__getitem__, 4, IndexError, "`index` should lie between -4 and 3. Got 4"),
    (FOUR.__getitem__, [0, -5], IndexError, "`index` should lie between -4 and 3. Got -5"),
    (FOUR.__getitem__, slice(4, 9), ValueError, "`index` should be a list of positions, not empty"),
    (FOUR.__getitem__, [True, False, True, False], TypeError, "`index` should be an integer. Got True"),
    *[(FOUR, torch.zeros(shape), ValueError, SHAPES) for shape in ((4,), (3, 7, 4), (2, 2, 7, 4))],
])  # fmt: skip
def test_what_is_no_ensemble_no_member_or_no_sample_is_refused(call, argument, error, message):
    with pytest.raises(error, match=message):
        call(argument)


# Training


CASES = {
    "classes": (IRIS64, [4, 8, 3]),
    "two tasks": (double(ge.datasets.stack_tasks(IRIS)), [8, 8, 7, 6]),
    "values": (double(values_split()), [5, 8, 1]),
    "values, one input": (double(values_split(d=1)), [1, 8, 8, 1]),
    "three values": (double(values_split(3)), [5, 8, 3]),
    "more outputs than classes, no hidden layer": (IRIS64, [4, 5]),
}


@pytest.mark.parametrize(("case", "batch_size"), [
    *((case, 32) for case in CASES), ("two tasks", 500), ("classes", 1), ("three values", 1)])  # fmt: skip
def test_every_member_becomes_what_it_becomes_alone(case, batch_size):
    split, widths = CASES[case]
    config = quick(seed=4, batch_size=batch_size, epochs=1 if batch_size == 1 else 3)
    ensemble = ge.train_ensemble(split, widths, 3, config)
    for i, member in enumerate(ensemble):
        run = alone(i, split, widths, config)
        assert torch.allclose(weights_of(member), weights_of(run.model), atol=1e-8, rtol=0)
        score = run.test_accuracy if run.test_r2 is None else run.test_r2
        assert float(ensemble.scores[i]) == pytest.approx(score, abs=1e-8)
        assert np.allclose(ensemble.losses[i].numpy(), run.history["train_loss"], atol=1e-8)
    assert far_apart(ensemble[1], ensemble[2])
    assert far_apart(ensemble[0], ge.MLP(widths, seed=4).double())


@pytest.mark.parametrize("activation", [*ACTIVATIONS.values(), lambda: nn.ReLU(True), lambda: nn.ELU(2.0, True)])
def test_every_activation_is_differentiated_right(activation):
    split, config = double(values_split()), quick()
    ensemble = ge.train_ensemble(split, [5, 8, 6, 1], 2, config, activation=activation)
    run = alone(1, split, [5, 8, 6, 1], config, activation)
    assert torch.allclose(weights_of(ensemble[1]), weights_of(run.model), atol=1e-8, rtol=0)


def test_weights_and_order_both_follow_the_seed():
    split = CASES["values"][0]
    member = ge.train_ensemble(split, [5, 8, 1], 2, quick())[1]
    for weights, order in ((1, 0), (0, 1)):
        assert far_apart(member, ge.train(ge.MLP([5, 8, 1], seed=weights).double(), split, quick(seed=order)).model)


def test_members_learn_their_own_data():
    stacked = ge.datasets.stack_tasks(IRIS)
    a, b, c = (double(stacked.resample(seed)) for seed in (5, 3, 8))
    splits, config = [a, b, a, c], quick()
    ensemble = ge.train_ensemble(splits, [8, 8, 6], 4, config)
    for i, split in enumerate(splits):
        run = alone(i, split, [8, 8, 6], config)
        assert torch.allclose(weights_of(ensemble[i]), weights_of(run.model), atol=1e-8, rtol=0)
        assert float(ensemble.scores[i]) == run.test_accuracy
    assert ensemble.labels.tolist() == [0, 1, 0, 2]
    assert far_apart(ensemble[1], alone(1, splits[0], [8, 8, 6], config).model)


def test_waves_are_learned_function_by_function():
    seed, config = 3, quick(seed=3, epochs=8)
    ensemble = ge.train_ensemble(WAVES, [2, 16, 1], 6, config, n_samples=500)
    assert ensemble.labels.tolist() == [0, 0, 1, 1, 2, 2]
    x = 2 * torch.rand(2500, 2, generator=torch.Generator().manual_seed(seed)) - 1
    y = WAVES(x)
    for i, label in ((1, 0), (4, 2)):
        member = ensemble[i]
        split = ge.datasets.Split(x[:500], y[label, :500], x[500:], y[label, 500:], "waves", "drawn again")
        assert torch.allclose(weights_of(member), weights_of(alone(i, split, [2, 16, 1], config).model), atol=1e-3)
        with torch.no_grad():
            expected = r2_score(y[label, 500:].numpy(), member(x[500:])[:, 0].numpy())
            other = r2_score(y[(label + 1) % 3, 500:].numpy(), member(x[500:])[:, 0].numpy())
        assert float(ensemble.scores[i]) == pytest.approx(expected, abs=1e-4)
        assert other < 0.5 < expected


def circle(x):
    return x.square().sum(1)


def inside(x):
    return (circle(x) < 0.7).long()


@pytest.mark.parametrize("function", [lambda x: torch.stack([circle(x), x.sum(1)], 1), lambda x: inside(x).numpy()])
def test_any_function_is_learned(function):
    ensemble = ge.train_ensemble(function, [2, 16, 2], 2, quick(epochs=20), n_samples=1000)
    assert ensemble.labels.tolist() == [0, 0]
    assert float(ensemble.scores.min()) > 0.9
    x = 2 * torch.rand(3000, 2, generator=torch.Generator().manual_seed(0)) - 1
    output, y = ensemble(x[1000:])[1].detach(), torch.as_tensor(function(x[1000:]))
    expected = r2_score(y, output) if y.is_floating_point() else (output.argmax(1) == y).double().mean()
    assert float(ensemble.scores[1]) == pytest.approx(float(expected), abs=1e-4)


def test_defaults_depend_on_what_is_learned(monkeypatch):
    seen = []
    monkeypatch.setattr(training, "_train_group", lambda *args: seen.append((args[3], args[2].n)))
    for target, widths in ((IRIS, [4, 3]), (ge.datasets.random_waves(2, 17), [17, 1]), (circle, [2, 1])):
        with pytest.raises(TypeError):  # nothing was trained
            ge.train_ensemble(target, widths, 2)
    expected = [(ge.TrainConfig(), 120), (ge.TrainConfig.for_waves(17), 16384), (ge.TrainConfig.for_waves(2), 16384)]
    assert seen == expected


@pytest.mark.parametrize("dim", [1, 8])
def test_ready_made_settings_learn_waves(dim):
    config = dataclasses.replace(ge.TrainConfig.for_waves(dim), progress=False)
    ensemble = ge.train_ensemble(ge.datasets.random_waves(4, dim), [dim, 64, 64, 1], 4, config)
    assert float(ensemble.scores.median()) > 0.98
    assert float(ensemble.scores.min()) > 0.95


def test_same_seed_same_result():
    before = torch.get_rng_state()
    one, same, other = (ge.train_ensemble(IRIS, [4, 8, 3], 3, quick(seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert {(p.requires_grad, p.grad) for p in one.parameters()} == {(True, None)}
    assert torch.equal(weights_of(one), weights_of(same))
    assert torch.equal(one.scores, same.scores)
    assert far_apart(one, other)
    assert torch.allclose(weights_of(one[1]), weights_of(other[0]), atol=1e-4)  # the same seed in another place


@pytest.mark.parametrize(("group_size", "chunk"), [(1, 2048), (2, 7)])
@pytest.mark.parametrize("target", [IRIS64, [double(ge.datasets.stack_tasks(IRIS, 1).resample(i)) for i in range(5)]])
def test_size_of_groups_and_of_pieces_does_not_matter(target, group_size, chunk, monkeypatch):
    whole = ge.train_ensemble(target, [4, 8, 3], 5, quick())
    monkeypatch.setattr(training, "ENSEMBLE_CHUNK", chunk)
    ensemble = ge.train_ensemble(target, [4, 8, 3], 5, quick(), group_size=group_size)
    assert torch.allclose(weights_of(ensemble), weights_of(whole), atol=1e-9, rtol=0)
    assert torch.allclose(ensemble.losses, whole.losses, atol=1e-9)
    assert torch.equal(ensemble.scores, whole.scores)


def test_groups_are_about_equal_and_not_too_large():
    def size(widths, n_members, batch_size):
        return training._group_size(ge.MLPEnsemble(widths, 1)[[0] * n_members], quick(batch_size=batch_size))

    # 16 groups of at most 64; rather one group of 20 than 16 and 4
    assert [size([1, 4, 1], n, 1) for n in (1000, 70, 3)] == [63, 35, 3]
    assert [size([784, 512, 512, 10], n, 256) for n in (160, 20)] == [16, 20]


def test_history_tells_of_all_members():
    ensemble = ge.train_ensemble(IRIS, [4, 8, 3], 5, quick(epochs=4))
    history, losses = ensemble.history, ensemble.losses.double().numpy()
    assert list(history.columns) == ["epoch", "mean_loss", "median_loss", "worst_loss"]
    expected = [[1, 2, 3, 4], losses.mean(0), np.median(losses, 0), losses.max(0)]
    np.testing.assert_allclose(history.to_numpy().T, expected, atol=1e-6)
    assert history["mean_loss"].iloc[-1] < history["mean_loss"].iloc[0]


def test_one_progress_bar_for_all_groups(capsys):
    ge.train_ensemble(IRIS, [4, 8, 3], 5, quick(progress=True), group_size=2)
    assert re.search(r"train 5 on iris: 100%.* 6/6", capsys.readouterr().err)


def test_divergence_names_the_member_and_the_epoch():
    splits = [double(values_split(seed=i)) for i in range(5)]
    splits[3] = dataclasses.replace(splits[3], y_train=splits[3].y_train * 1e200)
    message = r"Got a loss of inf for member 3 in epoch 1, at a peak rate of 0\.01\..*all weights are as they were"
    with pytest.raises(FloatingPointError, match=message):
        ge.train_ensemble(splits, [5, 8, 1], 5, quick(), group_size=2)
    far = dataclasses.replace(splits[0], x_test=splits[0].x_test * 1e200)  # the last step is seen on the test part
    with pytest.raises(FloatingPointError, match="for member 0 on the test part after epoch 2"):
        ge.train_ensemble(far, [5, 8, 1], 2, quick())


@pytest.mark.parametrize(("changes", "message"), [
        ({"target": [IRIS, 3]}, "`target` should be a gradembed.datasets.Split, one for each member, or a function"),
        ({"target": [IRIS] * 3}, "`target` should hold one split for each member. Got 3 splits for 2"),
        ({"target": [IRIS, double(IRIS)]}, "`target` should hold splits of equal .*float64.* for member 1"),
        ({"target": lambda _: "waves"}, "`target` should be a tensor, or an array or list of numbers. Got 'waves'"),
        ({"target": lambda x: x[:, 0] / 0}, "`target` should be finite. Got .* NaN or infinite"),
        ({"target": lambda x: x.T}, r"`target` should have shape \[2050\] or \[2050, t\]"),
        ({"target": lambda x: x[:, 0] > 0}, "`target` should hold integers. Got a bool tensor"),
        ({"target": WAVES, "widths": [3, 1]}, "`widths` should start with 2, the inputs of the waves"),
        ({"target": WAVES, "widths": [2, 1]}, "`n_members` should be a multiple of 3, .* Got 2"),
        ({"widths": [5, 3]}, "`widths` should start with 4, the features of the data. Got 5"),
        ({"widths": [4, 2]}, r"`widths` should give 1 x 3 outputs, one per task and class. Got \[4, 2\]"),
        ({"config": quick(max_shift=1)}, "`max_shift` should be 0 for an ensemble. Got 1. .* one by one"),
        ({"n_samples": 50}, "`n_samples` should be None unless a function is sampled. Got 50 with Split"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(changes, message):
    arguments = {"target": IRIS, "widths": [4, 3], "n_members": 2, "config": quick(), **changes}
    if callable(arguments["target"]):
        arguments |= {"n_samples": 50, "widths": changes.get("widths", [2, 1])}
    with pytest.raises((ValueError, TypeError), match=message):
        ge.train_ensemble(**arguments)


# On disk


def test_trained_ensemble_is_read_from_the_cache(tmp_path, monkeypatch):
    cache = ge.Cache(tmp_path)

    def call(activation=nn.Tanh):
        return cache.call(ge.train_ensemble, WAVES, [2, 8, 1], 3, quick(), n_samples=50, activation=activation)

    first = call()
    monkeypatch.setattr(training, "_train_group", None)  # cannot train again
    second = call()
    assert (type(second), repr(second)) == (ge.MLPEnsemble, repr(first))
    assert torch.equal(weights_of(first), weights_of(second))
    assert torch.equal(first(torch.ones(1, 2)), second(torch.ones(1, 2)))
    for name in ("scores", "labels", "losses"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=0, atol=0)  # of one dtype
    with pytest.raises(TypeError, match="not callable"):
        call(nn.ReLU)  # another activation is another call


@pytest.mark.parametrize("activation", [*ACTIVATIONS.values(), lambda: nn.LeakyReLU(0.3), lambda: nn.Softplus(2, 10)])
def test_parts_of_any_ensemble_can_be_stored(tmp_path, activation):
    ensemble, x = ge.MLPEnsemble([4, 8, 3], 2, activation, seed=0).double(), torch.randn(5, 4, dtype=torch.float64)
    for _ in range(2):
        again = ge.MLPEnsemble.from_parts(ge.Cache(tmp_path).call(copy.deepcopy, ensemble.parts()))
        assert torch.equal(again(x), ensemble(x))
        assert again.scores is None
