"""The multi-layer perceptron: names, arithmetic, seeds, refusals."""

import pytest
import torch
from torch import nn

import gradembed as ge


def same_weights(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    ("widths", "children"),
    [
        ([4, 3], ["output"]),
        ([4, 8, 3], ["hidden1", "output"]),
        ([4, 8, 7, 6, 3], ["hidden1", "hidden2", "hidden3", "output"]),
    ],
    ids=["no hidden layer", "one", "three"],
)
def test_children_and_widths_are_as_named(widths, children):
    network = ge.MLP(widths)
    assert [name for name, _ in network.named_children()] == children
    assert network.widths == tuple(widths)
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert [module.in_features for module in linear] == widths[:-1]
    assert [module.out_features for module in linear] == widths[1:]


def test_any_sequence_of_widths_will_do():
    assert same_weights(ge.MLP((4, 8, 3), seed=0), ge.MLP(iter([4, 8, 3]), seed=0))


def test_parts_of_a_hidden_layer_have_names():
    modules = dict(ge.MLP([4, 8, 3], nn.Tanh).named_modules())
    assert isinstance(modules["hidden1.linear"], nn.Linear)
    assert isinstance(modules["hidden1.activation"], nn.Tanh)


@pytest.mark.parametrize(("activation", "function"), [(nn.ReLU, lambda z: z.clamp_min(0)), (nn.Tanh, torch.tanh)])
def test_forward_is_a_chain_of_matrix_products(activation, function):
    network, x = ge.MLP([4, 8, 6, 3], activation, seed=0).double(), torch.randn(5, 4, dtype=torch.float64)
    weights = [parameter.detach() for parameter in network.parameters()]
    expected = x
    for i in range(0, 6, 2):
        expected = torch.einsum("nd,hd->nh", expected, weights[i]) + weights[i + 1]
        expected = function(expected) if i < 4 else expected
    assert torch.allclose(network(x), expected, atol=1e-12, rtol=0)
    linear = torch.einsum("nd,hd->nh", x, weights[0])
    assert not torch.allclose(network.hidden1(x), linear + weights[1])  # the activation does something


def test_each_hidden_layer_has_an_activation_of_its_own():
    network = ge.MLP([4, 8, 8, 3], nn.PReLU)
    assert network.hidden1.activation is not network.hidden2.activation


def test_activation_may_be_any_function_that_makes_a_module():
    network = ge.MLP([4, 8, 3], lambda: nn.LeakyReLU(0.3))
    assert network.hidden1.activation.negative_slope == 0.3


def test_weights_are_drawn_as_torch_draws_them():
    torch.manual_seed(7)
    expected = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    weights = list(ge.MLP([4, 8, 5, 3], seed=7).parameters())
    assert all(torch.equal(a, b) for a, b in zip(weights, expected.parameters(), strict=True))


def test_seed_decides_the_weights():
    assert same_weights(ge.MLP([4, 8, 3], seed=1), ge.MLP([4, 8, 3], seed=1))
    assert not same_weights(ge.MLP([4, 8, 3], seed=1), ge.MLP([4, 8, 3], seed=2))


def test_seed_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    ge.MLP([4, 8, 3], seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_weights_come_from_the_global_generator():
    before = torch.get_rng_state()
    first, second = ge.MLP([4, 8, 3]), ge.MLP([4, 8, 3])
    assert not same_weights(first, second)
    torch.set_rng_state(before)
    assert same_weights(ge.MLP([4, 8, 3]), first)


class Explodes(nn.Module):
    def __init__(self):
        raise ZeroDivisionError


def test_failure_in_the_middle_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        ge.MLP([4, 8, 3], Explodes, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("widths", "error", "message"),
    [
        ([], ValueError, r"`widths` should be a sequence of layer widths, not empty. Got list \[\]. Pass at least one"),
        ([4], ValueError, r"`widths` should give at least features and outputs. Got \[4\]. Pass \[d, ..., u\]"),
        ([4, 0, 3], ValueError, "`widths` should be at least 1. Got 0"),
        ([4, -2], ValueError, "`widths` should be at least 1. Got -2"),
        ([4, 2.0, 3], TypeError, "`widths` should be an integer. Got 2.0. Pass an int"),
        ([4, True, 3], TypeError, "`widths` should be an integer. Got True"),
        (["4", "3"], TypeError, "`widths` should be an integer. Got '4'"),
        ("43", TypeError, "`widths` should be a sequence of layer widths. Got '43'. Pass a list"),
        (4, TypeError, "`widths` should be a sequence of layer widths. Got 4. Pass a list"),
        (None, TypeError, "`widths` should be a sequence of layer widths. Got None"),
    ],
)
def test_widths_are_refused(widths, error, message):
    with pytest.raises(error, match=message):
        ge.MLP(widths)


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (-1, ValueError, "`seed` should be at least 0. Got -1"),
        (0.5, TypeError, "`seed` should be an integer. Got 0.5"),
        (True, TypeError, "`seed` should be an integer. Got True"),
        ("0", TypeError, "`seed` should be an integer. Got '0'"),
    ],
)
def test_seed_is_refused(seed, error, message):
    with pytest.raises(error, match=message):
        ge.MLP([4, 3], seed=seed)


@pytest.mark.parametrize(
    "activation",
    [
        nn.ReLU(),
        "relu",
        None,
        lambda: 3,
        list,
        torch.relu,
        nn.functional.relu,
    ],
)
def test_activation_is_refused(activation):
    message = r"`activation` should be a class or function that makes a module .* Pass torch\.nn\.Tanh, not"
    with pytest.raises(TypeError, match=message):
        ge.MLP([4, 8, 3], activation)


def test_activation_that_no_layer_needs_is_not_called():
    assert ge.MLP([4, 3], Explodes, seed=0).widths == (4, 3)


# untrained


def test_untrained_copy_has_the_weights_that_the_seed_gives_a_new_network():
    network = ge.MLP([4, 8, 3], nn.Tanh, seed=7)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    twin = ge.untrained(network, seed=3)
    for key, value in ge.MLP([4, 8, 3], seed=3).state_dict().items():
        assert torch.equal(twin.state_dict()[key], value)
        assert torch.equal(network.state_dict()[key], state[key])
    assert not torch.equal(ge.untrained(network, seed=4).output.weight, twin.output.weight)


def test_untrained_copy_resets_running_statistics_and_leaves_the_random_state():
    norm = nn.BatchNorm1d(3)
    norm.running_mean.fill_(9)
    network = nn.Sequential(nn.Linear(4, 3), norm)
    before = torch.random.get_rng_state()
    assert torch.equal(ge.untrained(network)[1].running_mean, torch.zeros(3))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert norm.running_mean.tolist() == [9, 9, 9]


class OwnParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


def test_untrained_refuses_what_cannot_be_drawn_again():
    with pytest.raises(ValueError, match=r"`model` should have reset_parameters .* Got OwnParameter at '0' without"):
        ge.untrained(nn.Sequential(OwnParameter()))
    with pytest.raises(TypeError, match=r"`model` should be a torch.nn.Module. Got 3"):
        ge.untrained(3)
    with pytest.raises(ValueError, match=r"`seed` should be at least 0"):
        ge.untrained(nn.Linear(2, 2), seed=-1)
