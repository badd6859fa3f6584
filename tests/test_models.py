"""The multi-layer perceptron: names, arithmetic, seeds; and drawing the weights of any network anew."""

import copy
from contextlib import suppress
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import gradembed as ge
from gradembed.models import check_reinitializable, redrawn


def same_weights(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_any_integers_will_do():
    for widths in (iter([4, 8, 3]), np.array([4, 8, 3]), torch.tensor([4, 8, 3])):
        network = ge.MLP(widths, seed=np.int64(0))
        assert same_weights(network, ge.MLP([4, 8, 3], seed=0))
        assert [type(width) for width in network.widths] == [int] * 3


def test_forward_is_a_chain_of_matrix_products_under_fixed_names():
    network, x = ge.MLP([4, 8, 6, 3], nn.Tanh, seed=0).double(), torch.randn(5, 4, dtype=torch.float64)
    weights = dict(network.named_parameters())
    assert network.widths == (4, 8, 6, 3)
    assert [name for name, _ in network.named_children()] == ["hidden1", "hidden2", "output"]
    assert [name for name, _ in network.hidden1.named_children()] == ["linear", "activation"]
    expected = x
    for name in ("hidden1.linear", "hidden2.linear", "output"):
        expected = torch.einsum("nd,hd->nh", expected, weights[f"{name}.weight"]) + weights[f"{name}.bias"]
        expected = expected if name == "output" else expected.tanh()
    assert torch.allclose(network(x), expected, atol=1e-12, rtol=0)


def test_each_hidden_layer_has_an_activation_of_its_own_from_any_factory():
    network = ge.MLP([4, 8, 8, 3], lambda: nn.PReLU(init=0.3))
    assert network.hidden1.activation is not network.hidden2.activation
    assert network.hidden2.activation.weight.tolist() == pytest.approx([0.3])


def test_weights_are_drawn_as_torch_draws_them():
    torch.manual_seed(7)
    expected = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    weights = list(ge.MLP([4, 8, 5, 3], seed=7).parameters())
    assert all(torch.equal(a, b) for a, b in zip(weights, expected.parameters(), strict=True))


class Explodes(nn.Module):
    def __init__(self):
        raise ZeroDivisionError


def test_seed_leaves_the_global_generator_alone_and_none_draws_from_it():
    before = torch.get_rng_state()
    ge.MLP([4, 8, 3], seed=1)
    with pytest.raises(ZeroDivisionError):
        ge.MLP([4, 8, 3], Explodes, seed=1)
    assert ge.MLP([4, 3], Explodes, seed=0).widths == (4, 3)  # an activation that no layer needs is not called
    assert torch.equal(torch.get_rng_state(), before)
    first = ge.MLP([4, 8, 3])
    assert not same_weights(first, ge.MLP([4, 8, 3]))
    torch.set_rng_state(before)
    assert same_weights(ge.MLP([4, 8, 3]), first)


def test_wrong_networks_are_refused():
    with pytest.raises(ValueError, match=r"`widths` should give at least .* Got \[4\]. Pass \[d, ..., u\]"):
        ge.MLP([4])
    for wrong in (nn.ReLU(), lambda: 3, torch.relu):
        with pytest.raises(TypeError, match=r"`activation` should be a class or .* Pass torch\.nn\.Tanh, not"):
            ge.MLP([4, 8, 3], wrong)


# Drawn anew


@pytest.mark.parametrize("make", [
    lambda: ge.MLP([4, 8, 3], nn.Tanh), lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True),
    lambda: nn.TransformerEncoderLayer(4, 2, 8)], ids=["MLP", "attention", "transformer"])  # fmt: skip
def test_untrained_copy_has_the_weights_that_the_seed_gives_a_new_network(make):
    torch.manual_seed(3)
    expected, network = make(), make()
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    old, random_before = copy.deepcopy(network), torch.get_rng_state()
    assert same_weights(ge.untrained(network, seed=np.int64(3)), expected)
    assert same_weights(ge.untrained(expected, seed=3), expected)  # drawn, though nothing changes
    assert not same_weights(ge.untrained(network, seed=4), expected)
    assert same_weights(network, old)
    assert torch.equal(torch.get_rng_state(), random_before)


def test_untrained_copy_resets_running_statistics():
    norm = nn.BatchNorm1d(3)
    norm.running_mean.fill_(9)
    assert torch.equal(ge.untrained(nn.Sequential(nn.Linear(4, 3), norm))[1].running_mean, torch.zeros(3))
    assert norm.running_mean.tolist() == [9, 9, 9]


class LayerScale(nn.Module):
    def __init__(self, d=3):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((d,), 1e-5))

    def forward(self, x):
        return x * self.gamma


class Conv1D(nn.Module):
    """As in GPT-2."""

    def __init__(self, d=4, u=3):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(d, u)), nn.Parameter(torch.zeros(u))

    def forward(self, x):
        return x @ self.weight + self.bias


class Scaled(nn.Linear):
    """Inherits a way to draw weights that does not know the scale."""

    def __init__(self):
        super().__init__(4, 3)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return super().forward(x) * self.scale


class Idle(nn.Linear):
    """Draws nothing once it is made."""

    def reset_parameters(self):
        if not hasattr(self, "made"):
            super().reset_parameters()
        self.made = True


def old_weight_norm():
    with pytest.warns(FutureWarning, match="weight_norm"):
        return weight_norm(nn.Linear(4, 3))


KINDS = {
    "pruned": (lambda: prune.l1_unstructured(nn.Linear(4, 3), "weight", 0.5), "'0.weight_orig' of Linear as it was"),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(4, 3)), "'0.p.*weight.original0' of Param"),
    "old weight norm": (old_weight_norm, "'0.weight_g' of Linear as it was"),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Linear(4, 3)), "'0.p.*weight.original' of Param"),
    "old spectral norm": (lambda: spectral_norm(nn.Linear(4, 3)), "'0.weight_orig' of Linear as it was"),
    "layer scale": (lambda: LayerScale(4), "'0.gamma' of LayerScale as it was"),
    "Conv1D": (Conv1D, "'0.weight' of Conv1D as it was"),
    "scaled": (Scaled, "'0.scale' of Scaled as it was"),
    "idle": (lambda: Idle(4, 3), "'0.weight' of Idle as it was"),
}


def build(kind):
    torch.manual_seed(0)
    return nn.Sequential(KINDS[kind][0]())


def draw_all(module):
    return [p.normal_(0, 0.1) for p in module.parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_drawn_is_refused_and_the_remedy_works(kind):
    network, x = build(kind).eval(), torch.randn(5, 4)
    with torch.no_grad():
        for parameter in network.parameters():  # trained
            parameter.mul_(1.5).add_(0.2)
    output, state = network(x).detach(), {k: v.clone() for k, v in network.state_dict().items()}
    message = rf"`model` should draw all .* Got {KINDS[kind][1]}.* Pass reinitialize, .* say reinitialize=lambda m: \["
    for refusing in (check_reinitializable, ge.untrained):
        with pytest.raises(ValueError, match=message):
            refusing(network)
    for remedy in (draw_all, lambda _: build(kind).double()):
        check_reinitializable(network, remedy)
        twin, other = (ge.untrained(network, seed, remedy) for seed in (3, 3))
        assert same_weights(twin, other)
        assert not torch.allclose(twin(x), output, atol=1e-3)
        if hasattr(network[0], "weight"):  # also without another forward pass
            assert not torch.allclose(ge.untrained(network, 3, remedy)[0].weight, network[0].weight)
        assert not any(module.training for module in twin.modules())
    assert not same_weights(ge.untrained(network, 3, draw_all), ge.untrained(network, 4, draw_all))
    assert torch.equal(network(x), output)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())


@pytest.mark.parametrize("kind", ["pruned", "old weight norm", "weight norm", "Conv1D", "idle"])
def test_function_that_leaves_weights_trained_is_refused(kind):
    network = build(kind)
    message = r"`reinitialize` should draw all weights of the copy anew. Got '0\..*' of .* as it was. Draw it too"

    def reset(module):
        return [part.reset_parameters() for part in module.modules() if hasattr(part, "reset_parameters")]

    for idle in (lambda _: None, lambda m: m, lambda _: network, reset):
        with pytest.raises(ValueError, match=message):
            ge.untrained(network, reinitialize=idle)


def test_function_may_read_the_weights_and_leave_what_is_fixed():
    network = nn.Sequential(Conv1D(), LayerScale().requires_grad_(False))

    def like(module):
        module[0].weight.copy_(module[0].weight.std() * torch.randn(4, 3))
        module[0].bias.zero_()

    twin = ge.untrained(network, 0, like)
    assert not torch.equal(twin[0].weight, network[0].weight)
    assert torch.equal(twin[1].gamma, network[1].gamma)
    with pytest.raises(ValueError, match=r"Got '1.gamma' of LayerScale as it was"):
        ge.untrained(network.requires_grad_(True), 0, like)


def test_each_copy_is_drawn_once_unless_a_weight_keeps_its_numbers():
    draw, network = Mock(side_effect=draw_all), nn.Linear(4, 3)
    drawn = ge.untrained(network, 0, draw)
    assert draw.call_count == 1
    ge.untrained(drawn, 0, draw)  # drawn as it was: a second copy, with others, tells
    assert draw.call_count == 3


class Tapped(nn.Module):
    """Its hook calls a trained module that a copy's hook would still call."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.stem.register_forward_hook(lambda *called: self.head(called[2]))

    def forward(self, x):
        return self.stem(x)


def test_network_whose_hooks_hold_trained_modules_is_redrawn_in_place_and_put_back():
    for model, is_copy in ((Tapped(), False), (nn.Linear(4, 3), True)):
        x = torch.randn(5, 4)
        output = model(x).detach()
        with suppress(ZeroDivisionError), redrawn(model, 1, None) as drawn:
            assert (drawn is not model) is is_copy
            assert not torch.allclose(drawn(x), output)
            raise ZeroDivisionError
        assert torch.equal(model(x), output)
