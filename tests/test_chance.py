"""The level of chance, the gauge of logits and what needs no gradient."""

import math

import numpy as np
import pytest
import torch
from _asserts import assert_close, unchanged
from _networks import Net, linear, mlp, randn
from torch import nn

import gradembed as ge


def isotropic(d):
    """Mean |cosine| of independent directions in d dimensions."""
    return math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2)) / math.sqrt(math.pi)


def participation(network, x, layer):
    """The level of v0.1: that of independent directions in the dimension that all gradients fill, taken together."""
    vectors = ge.unit_gradients(network, x, layer).unit_vectors().flatten(0, 1).double()
    n, moment = len(vectors), vectors.T @ vectors
    return isotropic(n * (n - 1) / (float(moment.square().sum()) - n))


def convolutional():
    parts = nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 12, 3, padding=1), nn.ReLU()
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(12 * 16, 32), nn.ReLU(), nn.Linear(32, 10))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        return x + self.second(torch.relu(self.first(x)))


def residual():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), Block(48), Block(48), nn.ReLU(), nn.Linear(48, 10))


def two_heads(model, x):
    hidden = torch.tanh(model.trunk(x))
    return {"a": model.a(hidden), "b": model.b(hidden)}


def pooled():
    """Averages over places and reads out by functions between the modules."""
    parts = {"conv": nn.Conv2d(1, 8, 3), "mix": nn.Conv2d(8, 24, 3), "fc": nn.Linear(24, 10)}
    return Net(lambda m, x: m.fc(torch.relu(m.mix(torch.relu(m.conv(x)))).mean((2, 3))), **parts)


UNTRAINED = {
    "784-64-64-10": (lambda: ge.MLP([784, 64, 64, 10]), (784,)), "convolutional": (convolutional, (1, 8, 8)),
    "residual": (residual, (1, 8, 8)), "pooled by a function": (pooled, (1, 8, 8)),
}  # fmt: skip


@pytest.mark.parametrize("name", UNTRAINED)
def test_untrained_networks_meet_the_level_of_chance_which_the_participation_ratio_misses(name):
    make, shape = UNTRAINED[name]
    x, networks = torch.randn(300, *shape), []
    for seed in range(12):
        torch.manual_seed(100 + seed)
        networks.append(make().eval())
    results = [ge.interference(network, x) for network in networks]
    old = []
    for layer in results[0].layers:
        mean = np.mean([result.pair_mean("abs_cosine", layer) for result in results])
        assert np.mean([result.chance[layer] for result in results]) == pytest.approx(mean, rel=0.1)
        old.append(np.mean([participation(network, x[:40], layer) for network in networks[:3]]) / mean)
    assert max(abs(ratio - 1) for ratio in old) > 0.1


@pytest.mark.parametrize("name", ["chain", "general"])
def test_chance_of_a_trained_network_is_a_loop_over_random_readouts(name):
    split = ge.datasets.load_iris()
    config = ge.TrainConfig(epochs=30, progress=False)
    network = ge.train(ge.MLP([4, 32, 32, 3], seed=0), split, config).model
    trunk = nn.Sequential(network.hidden1, network.hidden2)
    model = network if name == "chain" else Net(lambda m, x: m.read(m.trunk(x)), trunk=trunk, read=network.output)
    x = split.x_train
    cosines = []
    generator = torch.Generator().manual_seed(1)
    for _ in range(40):
        leaf = x.clone().requires_grad_()
        pair = torch.randn(2, 32, generator=generator)
        values = trunk(leaf) @ pair.T
        a, b = (torch.autograd.grad(values[:, i].sum(), leaf, retain_graph=True)[0] for i in (0, 1))
        cosines.append(nn.functional.cosine_similarity(a, b).abs().mean())
    loop, luck = torch.stack(cosines).mean(), torch.stack(cosines).std() / 40**0.5
    levels = [ge.interference(model, x, seed=seed).chance["input"] for seed in range(8)]
    assert np.mean(levels) == pytest.approx(float(loop), abs=max(0.1 * float(loop), 2 * float(luck)))
    assert np.std(levels) < 0.1 * np.mean(levels)
    assert (
        min(abs(isotropic(d) / float(loop) - 1) for d in (4, 32)) > 0.2
    )  # the widths of input and reference do not give it


@pytest.mark.parametrize("d", [1, 2, 64])
def test_layer_of_reference_has_the_closed_form(d):
    result = ge.interference(ge.MLP([6, d, 300], seed=0).double(), randn(20, 6), layers=["hidden1"])
    assert result.chance["hidden1"] == pytest.approx(isotropic(d), rel=1e-12)
    vectors = nn.functional.normalize(randn(1500, d), dim=1)
    assert float((vectors @ vectors.T).abs()[np.triu_indices(1500, 1)].mean()) == pytest.approx(isotropic(d), rel=0.01)


def test_layer_that_a_linear_module_reads_is_the_reference_and_an_earlier_one_can_be_named():
    torch.manual_seed(0)
    model, x = pooled().double(), randn(30, 1, 8, 8)
    default = ge.interference(model, x)
    named = ge.interference(model, x, reference=ge.Site("fc", input=True))
    assert default.chance == named.chance
    of_places = ge.interference(model, x, reference="mix")
    assert of_places.chance["mix"] == pytest.approx(isotropic(24 * 16))
    assert default.chance["mix"] > 2 * of_places.chance["mix"]  # read-outs are forced to treat places alike
    with unchanged(model), pytest.raises(ValueError, match="`reference` should name a layer of the model"):
        ge.interference(model, x, reference="nothing")


def test_models_without_default_layers_and_models_that_squeeze_have_a_level():
    parts = {"left": nn.Embedding(9, 4), "right": nn.Embedding(9, 6), "a": nn.Linear(4, 2), "b": nn.Linear(6, 2)}
    model = Net(lambda m, x: {"a": m.a(m.left(x[:, 0])), "b": m.b(m.right(x[:, 1]))}, **parts).double()
    tokens = torch.randint(9, (30, 2))
    with pytest.raises(ValueError, match="`layers` should name a layer, since none by itself feeds all units"):
        ge.interference(model, tokens)
    found = ge.interference(model, tokens, layers=["left"], units=["a[0]", "a[1]"])
    assert found.chance["left"] == pytest.approx(isotropic(4))
    parts = {"trunk": nn.Linear(5, 7), "act": nn.Tanh(), "read": nn.Linear(7, 3)}
    squeezing = Net(lambda m, x: m.read(m.act(m.trunk(x))).squeeze(), **parts).double()
    for n in (1, 2):
        assert ge.interference(squeezing, randn(n, 5)).chance["act"] == pytest.approx(isotropic(7))


def test_layers_beside_the_reference_are_their_own():
    children = {name: nn.Linear(*size) for name, size in (("left", (5, 4)), ("right", (5, 7)), ("top", (4, 3)))}
    model = Net(lambda m, x: m.top(torch.relu(m.left(x))) + torch.relu(m.right(x))[:, :3], **children).double()
    result = ge.interference(model, randn(40, 5), layers=["input", "left", "right"], reference="left")
    assert result.chance["right"] == pytest.approx(isotropic(7))
    assert result.chance["left"] == pytest.approx(isotropic(4))
    assert result.chance["input"] != pytest.approx(isotropic(5), rel=1e-3)


def test_hidden_units_heads_and_all_pairs_have_a_level_too():
    network, x = mlp(6, 9, 8, 4), randn(50, 6)
    assert ge.interference(network, x, unit_layer="hidden2").chance["hidden1"] == pytest.approx(isotropic(9))
    heads = {"trunk": nn.Linear(6, 8), "a": nn.Linear(8, 3), "b": nn.Linear(8, 2)}
    model = Net(two_heads, **heads).double()
    assert ge.interference(model, x).chance["trunk"] == pytest.approx(isotropic(8))
    every = ge.interference(network, x, pairing="all", seed=3)
    assert every.chance["hidden2"] == pytest.approx(isotropic(8))
    assert every.chance["input"] < ge.interference(network, x, seed=3).chance["input"]  # other samples, other trunks


def test_dead_networks_have_no_level_and_no_nan():
    network = mlp(4, 6, 5, 3)
    with torch.no_grad():
        network.hidden2.linear.bias.fill_(-100)
    result = ge.interference(network, randn(30, 4))
    assert (result.chance["input"], result.excess("input")[0]) == (0, 0)
    assert not result.to_frame().isna().any().any()


def test_excess_contains_zero_for_random_outputs_and_not_for_outputs_that_share():
    x, covered = torch.randn(200, 20), 0
    for seed in range(60):
        result = ge.interference(ge.MLP([20, 24, 24, 6], seed=seed), x, seed=seed)
        excess, low, high = result.excess("hidden1")
        assert excess == pytest.approx(result.pair_mean("abs_cosine", "hidden1") - result.chance["hidden1"])
        covered += low <= 0 <= high
    assert covered >= 52  # of 60, 57 expected: a binomial number is below with probability 0.01
    network = ge.MLP([20, 24, 24, 6], seed=0)
    with torch.no_grad():
        network.output.weight.add_(0.3)
    plain, sure = (ge.interference(network, x, n_bootstrap=k).excess("hidden1") for k in (0, 100))
    assert plain[1] > 0.1
    assert sure[0] == plain[0]
    assert sure[2] - sure[1] > plain[2] - plain[1]  # the samples count too


def test_excess_is_refused_where_there_is_none():
    for asked, got in (({"n_readouts": 0}, "n_readouts=0"), ({"units": [1]}, "one unit")):
        result = ge.interference(mlp(4, 5, 3), randn(9, 4), **asked)
        message = f"`result` should have two units or more, and a level of chance. Got {got}. Measure it with"
        with pytest.raises(ValueError, match=message):
            result.excess("input")
    with pytest.raises(ValueError, match="`reference` should be None with n_readouts=0"):
        ge.interference(mlp(4, 5, 3), randn(9, 4), n_readouts=0, reference="input")
    with pytest.raises(ValueError, match=r"`n_readouts` should be 0 or at least 4, to tell how much they vary. Got 3"):
        ge.interference(mlp(4, 5, 3), randn(9, 4), n_readouts=3)


# The gauge


def test_centered_logits_are_the_directions_less_their_mean_under_their_own_names():
    network, x = mlp(5, 7, 6, 4), randn(40, 5)
    expected = ge.interference(network, x, directions=torch.eye(4) - 1 / 4)
    result = ge.interference(network, x, centered=True, units=[2, 0])
    assert (result.unit_labels, expected.unit_labels[0]) == (("2", "0"), "direction 0")
    for layer in result.layers:
        assert_close(result.cosine[layer], expected.cosine[layer][[2, 0]][:, [2, 0]])
    assert_close(result.output_correlation[0, 1], expected.output_correlation[2, 0])


@pytest.mark.parametrize("general", [False, True])
def test_what_is_added_to_all_logits_counts_unless_they_are_centered(general):
    network, moved, x = mlp(5, 7, 4), mlp(5, 7, 4), randn(30, 5)
    with torch.no_grad():
        moved.output.weight.add_(randn(7))
    asked = {"forward": lambda model, batch: model(batch)} if general else {}
    pair = [[ge.interference(m, x, centered=c, **asked) for m in (network, moved)] for c in (True, False)]
    for layer in pair[0][0].layers:
        assert_close(pair[0][0].cosine[layer], pair[0][1].cosine[layer])
        assert (pair[1][0].cosine[layer] - pair[1][1].cosine[layer]).abs().max() > 0.1
    # gradients of centered logits add up to nothing: of C alike, every two have cosine -1 / (C - 1)
    simplex = nn.Sequential(linear(torch.eye(4).tolist()))
    assert ge.interference(simplex, randn(3, 4), centered=True).pair_mean("cosine", "input") == pytest.approx(-1 / 3)


def test_heads_are_centered_each_by_itself_and_lonely_units_are_refused():
    parts = {"trunk": nn.Linear(5, 6), "a": nn.Linear(6, 3), "b": nn.Linear(6, 1)}
    model, x = Net(two_heads, **parts).double(), randn(20, 5)
    message = (
        "`centered` should be False where a unit has no others to be held against. Got one unit in head 'b'. Leave"
    )
    with pytest.raises(ValueError, match=message):
        ge.interference(model, x, centered=True)
    only = ge.interference(model, x, centered=True, forward=lambda m, batch: {"a": m(batch)["a"]})
    alone = ge.interference(model, x, directions=torch.eye(3) - 1 / 3, forward=lambda m, batch: m(batch)["a"])
    assert_close(only.cosine["trunk"], alone.cosine["trunk"])
    with pytest.raises(ValueError, match="`centered` should be False with `directions`"):
        ge.interference(model, x, centered=True, directions=torch.eye(4))


def test_chance_of_centered_logits_is_that_of_centered_random_readouts():
    x, networks = torch.randn(200, 20), [ge.MLP([20, 24, 24, 4], seed=seed) for seed in range(30)]
    for asked in ({"centered": True}, {"directions": torch.eye(4) - 1 / 4}, {"directions": torch.tensor(
            [[1.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]])}):  # fmt: skip
        results = [ge.interference(network, x, seed=i, **asked) for i, network in enumerate(networks)]
        for layer in results[0].layers:
            mean = np.mean([result.pair_mean("abs_cosine", layer) for result in results])
            assert np.mean([result.chance[layer] for result in results]) == pytest.approx(mean, rel=0.1)
        independent = np.mean([ge.interference(network, x).chance["hidden2"] for network in networks[:3]])
        assert abs(independent / mean - 1) > 0.2  # at the last layer: what is forced by the directions counts


def test_directions_of_a_wide_layer_take_no_matrix_as_wide_as_that_and_the_reference():
    """Nor do centered units: 40,000 x 40,000 numbers would not fit into memory."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)).eval()
    x, means = torch.randn(2, 1, 100, 100), torch.eye(4).repeat_interleave(10_000, 1) / 10_000
    for asked in ({"directions": means}, {"units": [5, 20_000], "centered": True}):
        found = ge.interference(model, x, unit_layer="2", layers=["0", "1"], **asked)
        assert 0 < found.chance["0"] < 0.02


# Outputs


@pytest.mark.parametrize("offset", [0, 1e6])
def test_output_correlation_is_that_of_the_values_whatever_the_chunks(offset):
    network, x = mlp(5, 7, 4), randn(60, 5)
    with torch.no_grad():
        network.output.bias.add_(offset)
        network.output.weight[3] = 0  # a unit that is constant
    for size in (None, 7):
        found = ge.interference(network, x, chunk_size=size).output_correlation
        assert_close(found[:3, :3], torch.corrcoef(network(x).detach()[:, :3].T), rtol=0, atol=1e-8)
        assert found[3].tolist() == [0, 0, 0, 0]
