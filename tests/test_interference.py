import math

import pytest
import torch
from _asserts import assert_close, unchanged
from _networks import Convolutional, Residual, crossing, linear
from _oracle import gradient_loop, interference_loop
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gradembed as ge

MEASURES = ("cosine", "abs_cosine", "conflict", "norm", "undefined", "count")


def expected_of(gradients):
    loop = interference_loop(gradients)
    return {name: loop[name] for name in MEASURES}


def assert_equal_to_loop(result, layer, gradients):
    for name, expected in expected_of(gradients).items():
        assert_close(getattr(result, name)[layer].double(), expected.double(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
def test_every_layer_equals_the_loop(activation):
    network, x = ge.MLP([20, 8, 6, 4], activation, seed=0).double(), torch.randn(30, 20, dtype=torch.float64)
    result = ge.interference(network, x)
    assert result.layers == ("input", "hidden1", "hidden2")
    for layer in result.layers:  # at "input" the gradients themselves are never formed: 20 > 8
        assert_equal_to_loop(result, layer, ge.unit_gradients(network, x, layer).gradients)
    assert_equal_to_loop(result, "input", gradient_loop(network, lambda s: s, x))


@pytest.mark.slow
def test_mnist_sample_equals_the_loop_on_a_subset():
    x = ge.load_mnist(source="sample").x_test[:40].double()
    network = ge.MLP([784, 64, 64, 10], seed=0).double()
    result = ge.interference(network, x)
    assert_equal_to_loop(result, "input", gradient_loop(network, lambda s: s, x))
    assert_equal_to_loop(
        result, "hidden1", gradient_loop(nn.Sequential(network.hidden2, network.output), network.hidden1, x)
    )


@pytest.mark.parametrize("make", [Residual, lambda: Convolutional().eval()])
def test_general_path_equals_the_loop(make):
    model = make().double()
    x = torch.randn(9, 4, dtype=torch.float64) if isinstance(model, Residual) else torch.randn(9, 1, 4, 4).double()
    with unchanged(model):
        result = ge.interference(model, x)
    expected = ("input", "stem", "norm", "branch") if isinstance(model, Residual) else ("input", "conv", "norm", "pool")
    assert result.layers == expected  # `act` runs twice, `head` is the output
    assert_equal_to_loop(result, "input", gradient_loop(lambda z: model(z.clone()), lambda s: s, x))


def test_hand_weighted_network():
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, -2.0], [-1.0, -1.0]], dtype=torch.float64)
    result = ge.interference(crossing(), x, layers=["input"])
    # cosines 0, 1, -1, 1 and none
    assert_close(result.cosine["input"], torch.tensor([[1, 0.25], [0.25, 1]], dtype=torch.float64))
    assert_close(result.abs_cosine["input"], torch.tensor([[1, 0.75], [0.75, 1]], dtype=torch.float64))
    assert_close(result.conflict["input"], torch.tensor([[0, 0.25], [0.25, 0]], dtype=torch.float64))
    assert_close(result.norm["input"], torch.full((2,), (math.sqrt(2) + 3) / 5, dtype=torch.float64))
    assert result.undefined["input"].tolist() == [1, 1]
    assert result.count["input"].tolist() == [[4, 4], [4, 4]]
    assert_close(torch.tensor(result.orthogonality()["input"]), torch.tensor(0.25))


def test_dead_units_are_counted_and_never_give_nan():
    network = nn.Sequential(linear([[1, 0], [0, 1]]), nn.ReLU(), linear([[1, 1], [0, 0], [1, -1]]))
    result = ge.interference(network, torch.rand(6, 2, dtype=torch.float64) + 0.1)
    frame = result.to_frame()
    assert not frame.isna().any().any()
    assert result.undefined["input"].tolist() == [0, 6, 0]
    assert result.count["input"].tolist() == [[6, 0, 6], [0, 0, 0], [6, 0, 6]]
    assert result.cosine["input"][1].tolist() == [0, 0, 0]
    assert frame.loc[frame["unit_a"] == "1", ["n_pairs", "undefined_a"]].to_numpy().tolist() == [[0, 6]] * 3
    assert "zero gradients left out: {'input': 6" in repr(result)
    assert result.orthogonality()["input"] == 1.0  # of the one pair that is defined


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e18])
def test_tiny_and_huge_gradients_keep_their_angles(scale):
    network = ge.MLP([6, 5, 3], nn.Tanh, seed=0)
    x = torch.randn(20, 6)
    expected = ge.interference(network, x)
    with torch.no_grad():
        network.output.weight.mul_(scale)
    result = ge.interference(network, x)
    for layer in result.layers:
        assert_close(result.cosine[layer], expected.cosine[layer], rtol=1e-4, atol=1e-5)
        assert_close(result.norm[layer], expected.norm[layer] * scale, rtol=1e-4, atol=0)
        assert result.undefined[layer].tolist() == [0, 0, 0]


@pytest.mark.parametrize("make", [lambda: ge.MLP([7, 5, 4, 3], seed=0), Residual])
@pytest.mark.parametrize("chunk_size", [1, 2, 5, 100])
def test_chunk_size_changes_nothing(make, chunk_size):
    model = make().double()
    x = torch.randn(11, 7 if isinstance(model, ge.MLP) else 4, dtype=torch.float64)
    whole, parts = ge.interference(model, x), ge.interference(model, x, chunk_size=chunk_size)
    for name in MEASURES:
        for layer in whole.layers:
            assert_close(getattr(parts, name)[layer], getattr(whole, name)[layer])


def test_single_precision_agrees_with_double():
    network, x = ge.MLP([784, 64, 64, 10], seed=0), torch.randn(200, 784)
    single, double = ge.interference(network, x), ge.interference(network.double(), x.double())
    for layer in single.layers:
        assert_close(single.cosine[layer], double.cosine[layer], rtol=0, atol=1e-6)


def test_matrices_are_symmetric_bounded_and_one_on_the_diagonal():
    result = ge.interference(ge.MLP([6, 9, 5], seed=3).double(), torch.randn(40, 6, dtype=torch.float64))
    for layer in result.layers:
        for name in ("cosine", "abs_cosine", "conflict"):
            matrix = getattr(result, name)[layer]
            assert_close(matrix, matrix.T)
            assert float(matrix.abs().max()) <= 1
        assert_close(result.cosine[layer].diagonal(), torch.ones(5, dtype=torch.float64))
        assert bool((result.cosine[layer].abs() <= result.abs_cosine[layer] + 1e-12).all())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_random_networks_equal_the_loop_and_have_its_symmetries(data):
    depth = data.draw(st.integers(1, 5))
    widths = data.draw(st.lists(st.integers(1, 12), min_size=depth + 1, max_size=depth + 1))
    network = ge.MLP(widths, seed=data.draw(st.integers(0, 10**6))).double()
    if depth > 1 and data.draw(st.booleans()):  # a dead unit
        with torch.no_grad():
            network.hidden1.linear.weight[0] = 0
            network.hidden1.linear.bias[0] = -1
    x = torch.randn(5, widths[0], dtype=torch.float64)
    x[-1] = x[0]  # a repeated sample
    result = ge.interference(network, x)
    for layer in result.layers:
        assert_equal_to_loop(result, layer, ge.unit_gradients(network, x, layer).gradients)
    shuffled = ge.interference(network, x.flip(0))
    order = torch.randperm(widths[-1])
    permuted = ge.interference(network, x, units=order.tolist())
    for layer in result.layers:
        assert_close(shuffled.cosine[layer], result.cosine[layer])
        assert_close(permuted.cosine[layer], result.cosine[layer][order][:, order])
        assert_close(permuted.norm[layer], result.norm[layer][order])


def rescaled(network, factors):
    """The same function: hidden units of the first layer scaled up, the next layer's weights down."""
    with torch.no_grad():
        network.hidden1.linear.weight.mul_(factors[:, None])
        network.hidden1.linear.bias.mul_(factors)
        network.hidden2.linear.weight.div_(factors)
    return network


def test_rescaling_hidden_units_moves_their_own_layer_only():
    x, factors = torch.randn(50, 6, dtype=torch.float64), torch.tensor([0.1, 10, 1, 3, 7], dtype=torch.float64)
    before = ge.interference(ge.MLP([6, 5, 5, 3], seed=0).double(), x)
    after = ge.interference(rescaled(ge.MLP([6, 5, 5, 3], seed=0).double(), factors), x)
    for layer in ("input", "hidden2"):
        assert_close(after.cosine[layer], before.cosine[layer])
    moved = (after.cosine["hidden1"] - before.cosine["hidden1"]).abs().max()
    assert float(moved) > 0.01  # a cosine at a layer depends on that layer's scales: the negative control
    with torch.no_grad():
        turned = rescaled(ge.MLP([6, 5, 5, 3], seed=0).double(), -factors)  # another function
    assert float((ge.interference(turned, x).cosine["input"] - before.cosine["input"]).abs().max()) > 0.01


def test_separate_tasks_are_orthogonal_and_shared_ones_are_not():
    separate = ge.MLP([8, 12, 2], seed=0).double()
    with torch.no_grad():
        separate.hidden1.linear.weight[:6, 4:] = 0
        separate.hidden1.linear.weight[6:, :4] = 0
        separate.output.weight[0, 6:] = 0
        separate.output.weight[1, :6] = 0
    x = torch.randn(100, 8, dtype=torch.float64)
    shared = ge.MLP([8, 12, 2], seed=0).double()
    for layer in ("input", "hidden1"):
        assert ge.interference(separate, x).orthogonality()[layer] == pytest.approx(1, abs=1e-12)
        assert ge.interference(shared, x).orthogonality()[layer] < 0.9
        assert float(ge.interference(separate.float(), x.float()).conflict[layer][0, 1]) == 0  # not rounding noise
        separate.double()


def test_random_directions_meet_the_level_that_the_docstring_states():
    d = 64
    model = nn.Sequential(nn.Identity(), nn.Linear(d, 400, bias=False))
    with torch.no_grad():
        model[1].weight.normal_()
    level = 1 - math.sqrt(2 / (math.pi * d))
    assert ge.interference(model, torch.randn(1, d)).orthogonality()["input"] == pytest.approx(level, abs=2e-3)


def test_orthogonality_compares_groups():
    network, x = ge.MLP([6, 8, 4], seed=0).double(), torch.randn(30, 6, dtype=torch.float64)
    result = ge.interference(network, x)
    pairs = [(0, 2), (0, 3), (1, 2), (1, 3)]
    for layer in result.layers:
        expected = 1 - sum(float(result.abs_cosine[layer][a, b]) for a, b in pairs) / 4
        assert result.orthogonality(["a", "a", "b", "b"])[layer] == pytest.approx(expected, abs=1e-12)
    assert ge.interference(network, x, units=[1, 1]).orthogonality()["input"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ([0, 1], ValueError, r"`groups` should name a group for each of 3 units. Got 2"),
        ([0, 0, 0], ValueError, r"`groups` should name at least two groups. Got one"),
        ([], ValueError, r"`groups` should be a list of groups, not empty"),
        ("abc", TypeError, r"`groups` should be a list of groups. Got 'abc'"),
        (3, TypeError, r"`groups` should be a list of groups. Got 3"),
    ],
)
def test_bad_groups_are_refused(groups, error, message):
    result = ge.interference(ge.MLP([4, 5, 3], seed=0), torch.randn(5, 4))
    with pytest.raises(error, match=message):
        result.orthogonality(groups)


def test_orthogonality_of_one_unit_or_of_dead_ones_is_refused():
    network, x = ge.MLP([4, 5, 3], seed=0), torch.randn(5, 4)
    with pytest.raises(ValueError, match=r"`groups` should name at least two groups"):
        ge.interference(network, x, units=[1]).orthogonality()
    with torch.no_grad():
        network.output.weight.zero_()
    with pytest.raises(
        ValueError, match=r"`groups` should have a defined cosine between them at 'input'. Got zero grad"
    ):
        ge.interference(network, x).orthogonality()


def test_frame_has_a_row_per_layer_and_pair():
    result = ge.interference(ge.MLP([4, 5, 3], seed=0), torch.randn(5, 4), units=[2, 0, 1])
    frame = result.to_frame()
    assert list(frame.columns) == ["layer", "unit_a", "unit_b", "cosine", "abs_cosine", "conflict", "norm_a", "norm_b",
                                   "undefined_a", "undefined_b", "n_pairs"]  # fmt: skip
    assert frame[["layer", "unit_a", "unit_b"]].to_numpy().tolist() == [
        [layer, *pair] for layer in ("input", "hidden1") for pair in (["2", "0"], ["2", "1"], ["0", "1"])
    ]
    assert frame["cosine"].tolist()[:3] == [float(result.cosine["input"][a, b]) for a, b in ((0, 1), (0, 2), (1, 2))]


def test_labels_and_repr():
    result = ge.interference(ge.MLP([4, 5, 3], seed=0), torch.randn(5, 4), directions=torch.eye(3)[:2])
    assert result.unit_labels == ("direction 0", "direction 1")
    assert repr(result) == "Interference(2 units of 'output', layers ['input', 'hidden1'], 5 samples)"
    hidden = ge.interference(ge.MLP([4, 5, 6, 3], seed=0), torch.randn(5, 4), unit_layer="hidden2")
    assert hidden.layers == ("input", "hidden1")
    assert len(hidden.unit_labels) == 6


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"pairing": "some"}, ValueError, r"`pairing` should be one of 'realised'"),
        ({"layers": "input"}, TypeError, r"`layers` should be a list of layer names. Got 'input'"),
        ({"layers": []}, ValueError, r"`layers` should be a list of layer names, not empty"),
        ({"layers": ["hidden7"]}, ValueError, r"`wrt` should name a layer of the model. Got 'hidden7'"),
        ({"layers": ["output"]}, ValueError, r"`unit_layer` should come after 'output'"),
        ({"unit_layer": "hidden1", "layers": ["hidden1"]}, ValueError, r"`unit_layer` should come after 'hidden1'"),
        ({"unit_layer": "input"}, ValueError, r"`unit_layer` should come after 'input'"),
        ({"units": [3]}, ValueError, r"`units` should lie between 0 and 2"),
        ({"chunk_size": 0}, ValueError, r"`chunk_size` should be at least 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    network = ge.MLP([4, 5, 3], seed=0)
    x = torch.randn(5, 4)
    with unchanged(network), pytest.raises(error, match=message):
        ge.interference(network, x, **arguments)
