"""Task modules against loops and paper, and what `ablated` holds, refuses and puts back."""

import dataclasses
import math
import statistics

import numpy as np
import pytest
import torch
from _asserts import assert_close, unchanged
from _networks import Convolutional, Residual, linear
from _oracle import gradient_loop
from scipy.cluster.hierarchy import fcluster, linkage
from torch import nn

import gradembed as ge


def samples(n, d, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def effects_loop(head, body, x):
    """Root mean square gradient times the unit's spread over the output's, one pair at a time."""
    gradients, inner = gradient_loop(head, body, x), body(x).detach().flatten(1)
    outer = head(inner.reshape(body(x).shape)).detach()
    u, d = gradients.shape[1:]
    table = torch.zeros(u, d, dtype=torch.float64)
    for a in range(u):
        for b in range(d):
            size = math.sqrt(statistics.fmean(float(g) ** 2 for g in gradients[:, a, b]))
            table[a, b] = size * statistics.pstdev(inner[:, b].tolist()) / statistics.pstdev(outer[:, a].tolist())
    return table


# Eight inputs of blocks, hidden units of blocks and outputs of blocks, in an order that is none.
OUTPUTS, HIDDEN, INPUTS = [2, 0, 1, 1, 0, 2], [1, 1, 0, 2, 0, 2, 0, 1, 2, 0, 1], [0, 0, 0, 1, 1, 1, 2, 2, 2]


def blocks(seed=0, outputs=OUTPUTS, hidden=HIDDEN):
    """Three networks in one: a weight between two of them is 0."""
    network = ge.MLP([len(INPUTS), len(hidden), len(outputs)], nn.Tanh, seed=seed).double()
    with torch.no_grad():
        for layer, readers, read in ((network.hidden1.linear, hidden, INPUTS), (network.output, outputs, hidden)):
            layer.weight.mul_(torch.tensor([[float(a == b) for b in read] for a in readers]))
    return network


def renumbered(modules, first):
    """Modules numbered in the order in which outputs come."""
    order = list(dict.fromkeys(first))
    return [order.index(module) for module in modules]


# Effects


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize(("layer", "depth"), [("input", 0), ("hidden1", 1), ("hidden2", 2)])
def test_effects_equal_the_loop(activation, layer, depth):
    network, x = ge.MLP([5, 7, 6, 4], activation, seed=1).double(), samples(30, 5)
    parts = [network.hidden1, network.hidden2, network.output]
    with unchanged(network):
        result = ge.task_modules(network, x, layer)
    expected = effects_loop(nn.Sequential(*parts[depth:]), nn.Sequential(*parts[:depth]), x)
    alive = expected.isfinite() & (expected > 0)
    assert int(alive.sum()) >= 20
    assert_close(result.effects[alive], expected[alive])
    assert not result.effects[~alive].any()


def test_effects_of_a_residual_network_equal_the_loop():
    model, x = Residual().double(), samples(12, 4)
    with unchanged(model):
        result = ge.task_modules(model, x, "stem")

    def head(site):
        kept = torch.relu(site)
        return model.head(kept + torch.relu(model.branch(model.norm(kept))))

    assert_close(result.effects, effects_loop(head, model.stem, x))
    assert result.layer == "stem"


def test_effects_of_a_convolution_equal_the_loop_flattened():
    model, x = Convolutional().eval().double(), samples(12, 16).reshape(12, 1, 4, 4)
    with unchanged(model):
        result = ge.task_modules(model, x, "conv")
    expected = effects_loop(
        lambda site: model.head(model.pool(torch.tanh(model.norm(site.reshape(-1, 2, 4, 4)))).flatten(1)), model.conv, x
    )
    assert result.effects.shape == (3, 32)
    assert_close(result.effects, expected)


def test_single_precision_agrees_with_double():
    network, x = ge.MLP([6, 8, 4], seed=0).double(), samples(50, 6)
    double = ge.task_modules(network, x, "hidden1")
    single = ge.task_modules(network.float(), x.float(), "hidden1")
    assert single.effects.dtype == torch.float64
    assert_close(single.effects, double.effects, rtol=1e-4, atol=1e-6)
    assert torch.equal(single.unit_modules, double.unit_modules)


@pytest.mark.parametrize("make", [lambda: ge.MLP([4, 9, 5], seed=0).double(), lambda: Residual().double()])
@pytest.mark.parametrize("chunk_size", [1, 2, 5, 100])
def test_chunk_size_changes_nothing(make, chunk_size):
    model, x = make(), samples(11, 4)
    layer = "hidden1" if isinstance(model, ge.MLP) else "stem"
    whole, parts = ge.task_modules(model, x, layer), ge.task_modules(model, x, layer, chunk_size=chunk_size)
    for field in ("effects", "selectivity"):
        assert_close(getattr(parts, field), getattr(whole, field))
    assert torch.equal(parts.unit_modules, whole.unit_modules)
    assert torch.equal(parts.output_modules, whole.output_modules)


def test_outputs_can_be_units_or_directions_of_any_layer():
    network, x = ge.MLP([5, 7, 6, 4], nn.Tanh, seed=1).double(), samples(30, 5)
    whole = ge.task_modules(network, x, "hidden1")
    some = ge.task_modules(network, x, "hidden1", units=[3, 0, 2])
    assert_close(some.effects, whole.effects[[3, 0, 2]])
    assert (some.unit_labels, some.unit_layer) == (("3", "0", "2"), "output")
    turn = samples(3, 4, seed=5)
    with torch.no_grad():
        turned = ge.MLP([5, 7, 6, 3], nn.Tanh, seed=1).double()
        turned.output.weight.copy_(turn @ network.output.weight)
        turned.output.bias.copy_(turn @ network.output.bias)
    result = ge.task_modules(network, x, "hidden1", directions=turn)
    assert result.unit_labels == ("direction 0", "direction 1", "direction 2")
    assert_close(result.effects, ge.task_modules(turned, x, "hidden1").effects)
    deeper = ge.task_modules(network, x, "hidden1", unit_layer="hidden2")
    assert deeper.effects.shape == (6, 7)
    assert_close(deeper.effects, effects_loop(network.hidden2, network.hidden1, x))


# Modules


def test_hand_weighted_network():
    """On all signs of three inputs a ReLU is 0 or 1, with a deviation of 1/2, and the three are independent."""
    x = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    last = linear([[1, 1, 0], [0, 0, 3], [1, -2, 0], [0, 0, -1]], [5, 0, 0, 7])
    result = ge.task_modules(nn.Sequential(linear(torch.eye(3).tolist()), nn.ReLU(), last), x, "1")
    half, fifth = math.sqrt(1 / 2), math.sqrt(1 / 5)
    expected = [[half, half, 0], [0, 0, 1], [fifth, 2 * fifth, 0], [0, 0, 1]]
    assert_close(result.effects, torch.tensor(expected, dtype=torch.float64))
    assert result.output_modules.tolist() == [0, 1, 0, 1]
    assert result.unit_modules.tolist() == [0, 0, 1]
    assert result.selectivity.tolist() == [1, 1, 1]
    assert (result.units(0), result.units(1), result.n_modules) == ([0, 1], [2], 2)


def test_selectivity_is_the_share_of_the_own_module():
    """The third unit moves both outputs alike, the fourth the second output twice as far."""
    x = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 6)
    last = linear([[3, 0, 1, 1, 0, 2], [0, 3, 1, 2, 1, 0]])  # of the same spread: 9 + 1 + 1 + 4 = 9 + 1 + 4 + 1
    result = ge.task_modules(nn.Sequential(linear(torch.eye(6).tolist()), nn.ReLU(), last), x, "1")
    assert_close(result.selectivity, torch.tensor([1, 1, 0.5, 0.8, 1, 1], dtype=torch.float64))
    assert result.unit_modules[[0, 1, 3, 4, 5]].tolist() == [0, 1, 1, 1, 0]  # of what is alike, rounding decides


@pytest.mark.parametrize("seed", range(5))
def test_blocks_are_recovered(seed):
    result = ge.task_modules(blocks(seed), samples(60, 9, seed), "hidden1", n_modules=3)
    assert result.output_modules.tolist() == renumbered(OUTPUTS, OUTPUTS)
    assert result.unit_modules.tolist() == renumbered(HIDDEN, OUTPUTS)
    assert result.selectivity.tolist() == [1] * len(HIDDEN)
    inputs = ge.task_modules(blocks(seed), samples(60, 9, seed), "input", n_modules=3)
    assert inputs.unit_modules.tolist() == renumbered(INPUTS, OUTPUTS)
    assert [inputs.units(m) for m in range(3)] == [[6, 7, 8], [0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("seed", range(5))
def test_blocks_are_recovered_in_any_order_of_outputs_and_units(seed):
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randperm(len(OUTPUTS), generator=generator)
    hidden = torch.randperm(len(HIDDEN), generator=generator)
    network, x = blocks(), samples(60, 9)
    before = ge.task_modules(network, x, "hidden1", n_modules=3)
    with torch.no_grad():
        first, last = network.hidden1.linear, network.output
        first.weight.copy_(first.weight[hidden].clone())
        first.bias.copy_(first.bias[hidden].clone())
        last.weight.copy_(last.weight[outputs][:, hidden].clone())
        last.bias.copy_(last.bias[outputs].clone())
    after = ge.task_modules(network, x, "hidden1", n_modules=3)
    blocks_of_outputs = [OUTPUTS[i] for i in outputs]
    assert_close(after.effects, before.effects[outputs][:, hidden])
    assert after.output_modules.tolist() == renumbered(blocks_of_outputs, blocks_of_outputs)
    assert after.unit_modules.tolist() == renumbered([HIDDEN[i] for i in hidden], blocks_of_outputs)


def test_a_network_without_blocks_is_not_selective():
    """The method gives as many modules as are asked for; selectivity tells them from real ones."""
    dense = ge.task_modules(ge.MLP([9, 40, 6], nn.Tanh, seed=0).double(), samples(60, 9), "hidden1", n_modules=3)
    assert dense.n_modules == 3
    served = dense.selectivity[dense.unit_modules >= 0]
    assert float(served.min()) >= 1 / 3
    assert 0.4 < float(served.mean()) < 0.9


@pytest.mark.parametrize("n_modules", [2, 3, 4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_modules_are_those_of_average_linkage_numbered_by_first_output(n_modules, seed):
    result = ge.task_modules(ge.MLP([6, 12, 8], seed=seed).double(), samples(60, 6), "hidden1", n_modules=n_modules)
    groups = fcluster(linkage(result.effects.numpy(), "average", metric="cosine"), n_modules, "maxclust").tolist()
    expected = renumbered(groups, groups)
    assert result.output_modules.tolist() == expected
    assert result.n_modules == n_modules
    for i in range(12):
        means = [
            statistics.fmean(float(result.effects[a, i]) ** 2 for a in range(8) if expected[a] == m)
            for m in range(n_modules)
        ]
        if max(means) > 0:
            assert int(result.unit_modules[i]) == means.index(max(means))
            assert float(result.selectivity[i]) == pytest.approx(max(means) / sum(means), rel=1e-9)
        else:
            assert (int(result.unit_modules[i]), float(result.selectivity[i])) == (-1, 0)


# What changes nothing, and what does


def relu_network():
    return ge.MLP([5, 9, 4], seed=2).double()


def gap(one, other):
    return (one - other).abs().max().item()


def changed(result, other):
    return gap(result.effects, other.effects)


def test_scaling_and_shifting_outputs_changes_nothing():
    network, x = relu_network(), samples(80, 5)
    before = ge.task_modules(network, x, "hidden1")
    with torch.no_grad():
        factors = torch.tensor([1e-6, -3, 50, 1e6], dtype=torch.float64)
        network.output.weight.mul_(factors[:, None])
        network.output.bias.add_(torch.tensor([0, 100.0, -7, 1e6]))
    after = ge.task_modules(network, x, "hidden1")
    assert_close(after.effects, before.effects, rtol=1e-8)
    assert torch.equal(after.unit_modules, before.unit_modules)
    with torch.no_grad():
        network.output.weight[0, 3] *= 3  # one weight alone is another function
    assert changed(ge.task_modules(network, x, "hidden1"), before) > 0.05


@pytest.mark.parametrize(
    ("sign", "activation", "same"), [(1, nn.ReLU, True), (-1, nn.ReLU, False), (1, nn.Tanh, False)]
)
def test_rescaling_a_relu_changes_nothing(sign, activation, same):
    network, x = ge.MLP([5, 9, 4], activation, seed=2).double(), samples(80, 5)
    before = ge.task_modules(network, x, "hidden1")
    factors = sign * torch.logspace(-3, 3, 9, dtype=torch.float64)
    with torch.no_grad():
        network.hidden1.linear.weight.mul_(factors[:, None])
        network.hidden1.linear.bias.mul_(factors)
        network.output.weight.div_(factors)
    difference = changed(ge.task_modules(network, x, "hidden1"), before)
    assert difference < 1e-9 if same else difference > 0.05


def test_order_of_samples_changes_nothing_and_the_samples_do():
    network, x = relu_network(), samples(80, 5)
    before = ge.task_modules(network, x, "hidden1")
    for same in (x.flip(0), torch.cat([x, x])):
        after = ge.task_modules(network, same, "hidden1")
        assert_close(after.effects, before.effects)
        assert torch.equal(after.unit_modules, before.unit_modules)
    assert changed(ge.task_modules(network, x[:20], "hidden1"), before) > 0.01


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e18])
def test_tiny_and_huge_outputs_have_the_same_effects(scale):
    network, x = relu_network().float(), samples(80, 5).float()
    before = ge.task_modules(network, x, "hidden1")
    with torch.no_grad():
        network.output.weight.mul_(scale)
        network.output.bias.mul_(scale)
    assert_close(ge.task_modules(network, x, "hidden1").effects, before.effects, rtol=1e-4, atol=1e-6)


# Nothing moves


def test_dead_units_and_constant_outputs_are_in_no_module():
    network, x = blocks(), samples(60, 9)
    with torch.no_grad():
        network.output.weight[0] = 0  # a constant output
        network.hidden1.linear.weight[1] = 0  # a constant unit that is read
        network.output.weight[:, 2] = 0  # a unit that nothing reads
    result = ge.task_modules(network, x, "hidden1", n_modules=3)
    assert result.output_modules.tolist() == [-1, *renumbered(OUTPUTS[1:], OUTPUTS[1:])]
    expected = renumbered(HIDDEN, OUTPUTS[1:])
    expected[1] = expected[2] = -1
    assert result.unit_modules.tolist() == expected
    assert [float(result.selectivity[i]) for i in (1, 2)] == [0, 0]
    assert not result.effects[0].any()
    assert not result.effects[:, [1, 2]].any()
    assert not result.to_frame().isna().any().any()
    assert sorted(i for m in range(3) for i in result.units(m)) == [0, *range(3, 11)]
    assert math.isfinite(float(repr(result).split()[-1].rstrip(")")))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_constant_but_for_rounding_is_in_no_module(dtype):
    """Inputs of one block differ by the last bit alone, and so do its units and outputs."""
    network, x = blocks().to(dtype), samples(60, 9).to(dtype)
    x[:, 6:] = torch.tensor([0.3, -1.7, 2.9])
    x[::2, 6:] = x[::2, 6:].nextafter(torch.full((), 9, dtype=dtype))
    parts = network.hidden1(x)[:, 3], network(x)[:, 0]
    assert all(0 < gap(part[::2], part[1::2]) < 1e-5 for part in parts)
    result = ge.task_modules(network, x, "hidden1", chunk_size=37)
    alive = [block for block in OUTPUTS if block != 2]
    assert result.output_modules.tolist() == [-1 if b == 2 else renumbered([b], alive)[0] for b in OUTPUTS]
    assert result.unit_modules.tolist() == [-1 if b == 2 else renumbered([b], alive)[0] for b in HIDDEN]


def test_a_module_can_be_without_units():
    """Both units move the first two outputs further than the third."""
    x = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    model = Skip()
    result = ge.task_modules(model, x, "stem")
    assert result.output_modules.tolist() == [0, 0, 1]
    assert result.unit_modules.tolist() == [0, 0]
    assert result.units(1) == []
    assert "2 and 0 of 2 units" in repr(result)


class Skip(nn.Module):
    """Two units, and a third input that goes past them: out = (s0 + s1, s0 + s1, x2 + s0 / 2)."""

    def __init__(self):
        super().__init__()
        self.stem = linear([[1, 0, 0], [0, 1, 0]])

    def forward(self, x):
        s = self.stem(x)
        return torch.stack([s.sum(1), s.sum(1), x[:, 2] + s[:, 0] / 2], 1)


def test_overflow_is_refused():
    network, x = relu_network(), samples(20, 5)
    with torch.no_grad():
        network.output.weight.mul_(1e200)
    with pytest.raises(ValueError, match=r"`x` should give finite effects at 'hidden1'. Got an overflow. Scale x down"):
        ge.task_modules(network, x, "hidden1")


# The result


def test_frame_has_a_row_per_unit():
    result = ge.task_modules(blocks(), samples(60, 9), "hidden1", n_modules=3)
    frame = result.to_frame()
    assert list(frame.columns) == ["layer", "unit", "module", "selectivity", "effect"]
    assert frame["layer"].unique().tolist() == ["hidden1"]
    assert frame["unit"].tolist() == list(range(11))
    assert frame["module"].tolist() == result.unit_modules.tolist()
    assert frame["selectivity"].tolist() == result.selectivity.tolist()
    expected = [math.sqrt(sum(float(e) ** 2 for e in result.effects[:, i])) for i in range(11)]
    assert frame["effect"].tolist() == pytest.approx(expected)


def test_repr_counts_units_and_leaves_out_the_dead():
    network = blocks()
    with torch.no_grad():
        network.output.weight[:, 2] = 0
    result = ge.task_modules(network, samples(60, 9), "hidden1", n_modules=3)
    assert repr(result) == "TaskModules(3 modules of 'hidden1': 3 and 3 and 4 of 11 units, mean selectivity 1.00)"


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (2, ValueError, "`module` should lie between 0 and 1. Got 2. Choose one of them"),
        (-1, ValueError, "`module` should lie between 0 and 1. Got -1"),
        (1.0, TypeError, "`module` should be an integer. Got 1.0"),
        (True, TypeError, "`module` should be an integer. Got True"),
    ],
)
def test_unknown_module_is_refused(module, error, message):
    with pytest.raises(error, match=message):
        ge.task_modules(relu_network(), samples(9, 5), "hidden1").units(module)


def result_of(network, x):
    return ge.task_modules(network, x, "hidden1", n_modules=3)


def test_result_comes_back_from_a_cache_exactly(tmp_path):
    cache, network, x = ge.Cache(tmp_path), blocks(), samples(60, 9)
    first, second = (cache.call(result_of, network, x) for _ in range(2))
    assert type(second) is ge.TaskModules
    assert second is not first
    for field in dataclasses.fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, torch.Tensor):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
        else:
            assert (type(one), one) == (type(other), other)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_modules": 1}, ValueError, "`n_modules` should be at least 2. Got 1"),
        ({"n_modules": 2.0}, TypeError, "`n_modules` should be an integer. Got 2.0"),
        ({"n_modules": 5}, ValueError, "`n_modules` should be at most the number of outputs, and of units, with an effe"
         "ct. Got 5, for 4 outputs and 9 units with an effect. Lower it, or pass samples"),
        ({"units": [1]}, ValueError, "Got 2, for 1 outputs and"),
        ({"x": torch.ones(8, 5).double()}, ValueError, "Got 2, for 0 outputs and 0 units with an effect. Lower it, or"),
        ({"x": torch.ones(1, 5).double()}, ValueError, "Got 2, for 0 outputs and 0 units with an effect"),
        ({"layer": "hidden7"}, ValueError, "`layer` should name a layer of the model. Got 'hidden7'. Choose one"),
        ({"layer": ["hidden1"]}, TypeError, r"`layer` should be one layer's name. Got list \['hidden1'\]. Call once"),
        ({"layer": None}, TypeError, "`layer` should be one layer's name. Got None"),
        ({"layer": "output"}, ValueError, "`unit_layer` should come after 'output'"),
        ({"unit_layer": "logits"}, ValueError, "`unit_layer` should name a layer of the model. Got 'logits'"),
        ({"units": [4]}, ValueError, "`units` should lie between 0 and 3, the units of 'output'. Got 4"),
        ({"directions": torch.ones(2, 3)}, ValueError, r"`directions` should have shape \[u, 4\]"),
        ({"units": [0, 1], "directions": torch.eye(4)}, ValueError, "`directions` should be None when `units`"),
        ({"chunk_size": 0}, ValueError, "`chunk_size` should be at least 1"),
        ({"x": [[1.0]]}, TypeError, "`x` should be a torch.Tensor"),
        ({"x": samples(3, 4)}, ValueError, "`x` should have 5 features"),
        ({"x": torch.full((3, 5), math.nan).double()}, ValueError, "`x` should be finite"),
        ({"model": abs}, TypeError, "`model` should be a torch.nn.Module"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(arguments, error, message):
    network = relu_network()
    given = {"model": network, "x": samples(60, 5), "layer": "hidden1", **arguments}
    with unchanged(network), pytest.raises(error, match=message):
        ge.task_modules(**given)


# Units held at a constant


def held_by_hand(network, x, units, at=0.0):
    hidden = network.hidden1(x).clone()
    for i in units:
        hidden[:, i] = at[i] if isinstance(at, torch.Tensor) else at
    return network.output(hidden)


@pytest.mark.parametrize("units", [[0], [3, 1], range(9), np.array([2, 5]), torch.tensor([7]), (8, 8), {4, 6}])
def test_units_held_at_zero_are_as_if_nothing_read_them(units):
    network, x = relu_network(), samples(20, 5)
    with unchanged(network), ge.ablated(network, "hidden1", units) as same:
        assert same is network
        values = network(x)
    cut = relu_network()
    with torch.no_grad():
        cut.output.weight[:, [int(i) for i in units]] = 0
    assert_close(values, cut(x))
    assert gap(values, network(x)) > 0.01


@pytest.mark.parametrize("at", [-1.5, 2, samples(1, 9, seed=3)[0], torch.arange(9), torch.ones(9, dtype=torch.float32)])
def test_units_are_held_at_a_number_or_at_one_each(at):
    network, x = relu_network(), samples(20, 5)
    with unchanged(network), ge.ablated(network, "hidden1", [6, 1], at=at):
        values = network(x)
    assert_close(values, held_by_hand(network, x, [6, 1], at))
    assert gap(values, held_by_hand(network, x, [6, 1])) > 0.01


def test_held_at_their_mean_units_lose_their_information_only():
    network, x = relu_network(), samples(200, 5)
    mean = ge.unit_gradients(network, x, "hidden1").activations.mean(0)
    with ge.ablated(network, "hidden1", range(9), at=mean):
        values = network(x)
    assert_close(values, network(x).mean(0).expand_as(values))  # what reads them is linear


def test_inputs_can_be_held_and_the_callers_stay():
    network, x = relu_network(), samples(20, 5)
    given = x.clone()
    with unchanged(network), ge.ablated(network, "input", [0, 4], at=2.0):
        values = network(given)
    by_hand = x.clone()
    by_hand[:, [0, 4]] = 2.0
    assert_close(values, network(by_hand))
    assert torch.equal(given, x)


def test_a_layer_that_is_overwritten_afterwards_can_be_held():
    network, x = nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 2)).double(), samples(20, 5)
    with ge.ablated(network, "0", [2], at=1.25):
        values = network(x)
    site = network[0](x).clone()
    site[:, 2] = 1.25
    assert_close(values, network[2](torch.relu(site)))


def test_units_of_a_convolution_are_counted_flattened():
    model, x = Convolutional().eval().double(), samples(6, 16).reshape(6, 1, 4, 4)
    with unchanged(model), ge.ablated(model, "conv", [0, 21], at=3.0):
        values = model(x)
    site = model.conv(x).clone()
    site[:, 0, 0, 0] = 3.0
    site[:, 1, 1, 1] = 3.0  # 21 = 16 + 4 + 1
    assert_close(values, model.head(model.pool(torch.tanh(model.norm(site))).flatten(1)))
    with unchanged(model), ge.ablated(model, "input", [6]):
        values = model(x)
    changed = x.clone()
    changed[:, 0, 1, 2] = 0
    assert_close(values, model(changed))


def test_a_module_that_runs_twice_is_held_twice():
    model, x = Residual().double(), samples(6, 4)
    with unchanged(model), ge.ablated(model, "act", [1]):
        values = model(x)
    mask = torch.tensor([1, 0, 1, 1, 1], dtype=torch.float64)
    stem = torch.relu(model.stem(x)) * mask
    assert_close(values, model.head(stem + torch.relu(model.branch(model.norm(stem))) * mask))


def test_blocks_nest():
    network, x = ge.MLP([5, 9, 6, 4], seed=2).double(), samples(20, 5)
    plain = network(x)
    with unchanged(network), ge.ablated(network, "hidden1", [0], at=1.0):
        outer = network(x)
        with ge.ablated(network, "hidden1", [3]), ge.ablated(network, "hidden2", [2]):
            inner = network(x)
        assert torch.equal(network(x), outer)
    assert torch.equal(network(x), plain)
    hidden = network.hidden1(x).clone()
    hidden[:, 0], hidden[:, 3] = 1.0, 0.0
    above = network.hidden2(hidden).clone()
    above[:, 2] = 0
    assert_close(inner, network.output(above))
    assert gap(outer, inner) > 0.01


def test_hooks_of_others_run_and_stay():
    network, x, seen = relu_network(), samples(20, 5), []
    network.hidden1.register_forward_hook(lambda *_: seen.append("before"))
    with ge.ablated(network, "hidden1", [0]):
        network.hidden1.register_forward_hook(
            lambda _module, _args, output: seen.append(output[:, 0].abs().max().item())
        )
        network(x)
    assert seen == ["before", 0.0]
    network(x)
    assert seen[2] == "before"
    assert seen[3] > 0


def test_gradients_in_the_block_are_those_of_the_cut_network():
    network, x = relu_network(), samples(20, 5)
    with unchanged(network), ge.ablated(network, "hidden1", [0, 3]):
        cut = ge.unit_gradients(network, x, "input").gradients
    weight = network.output.weight.detach().clone()
    weight[:, [0, 3]] = 0
    slopes = (network.hidden1(x) > 0).double()
    assert_close(cut, torch.einsum("uh,nh,hd->nud", weight, slopes, network.hidden1.linear.weight.detach()))


def test_a_constant_can_be_learned():
    network, x = relu_network(), samples(20, 5)
    at = torch.zeros(9, dtype=torch.float64, requires_grad=True)
    with ge.ablated(network, "hidden1", [2], at=at):
        network(x).sum().backward()
    expected = torch.zeros(9, dtype=torch.float64)
    expected[2] = 20 * network.output.weight.detach()[:, 2].sum()
    assert_close(at.grad, expected)


def test_units_of_a_module_carry_its_outputs_alone():
    network, x = blocks(), samples(60, 9)
    result = ge.task_modules(network, x, "hidden1", n_modules=3)
    for module in range(3):
        with ge.ablated(network, "hidden1", result.units(module)):
            values = network(x)
        own = result.output_modules == module
        assert torch.equal(values[:, own], network.output.bias[own].expand(60, -1))
        assert torch.equal(values[:, ~own], network(x)[:, ~own])


# Several arguments


class Scaled(nn.Module):
    """Takes more than the samples."""

    def __init__(self):
        super().__init__()
        self.stem = linear([[1, 2, 0], [0, 1, -1]])

    def forward(self, x, factor=None, *, shift=0.0):
        return self.stem(x) * (1 if factor is None else factor) + shift


class Anything(Scaled):
    def forward(self, *args, **named):
        return super().forward(*args, **named)


@pytest.mark.parametrize(
    "call",
    [
        lambda model, x, factor: model(x, factor, shift=1.0),
        lambda model, x, factor: model(x, factor=factor, shift=1.0),
        lambda model, x, factor: model(x=x, factor=factor, shift=1.0),
        lambda model, x, factor: model(shift=1.0, factor=factor, x=x),
    ],
    ids=["position", "both", "keyword", "keyword last"],
)
@pytest.mark.parametrize("layer", ["input", "stem"])
def test_only_the_first_argument_is_held_however_it_is_passed(call, layer):
    model, x = Scaled(), samples(4, 3)
    factor = samples(4, 1, seed=1)
    with unchanged(model), ge.ablated(model, layer, [0]):
        values = call(model, x, factor)
    site, keep = (x, [0.0, 1, 1]) if layer == "input" else (model.stem(x), [0.0, 1])
    site = site * torch.tensor(keep, dtype=torch.float64)
    assert_close(values, (model.stem(site) if layer == "input" else site) * factor + 1)


def test_samples_that_cannot_be_told_from_other_keywords_are_refused():
    model, x = Anything(), samples(4, 3)
    with unchanged(model), ge.ablated(model, "input", [0]):
        assert_close(model(x), model.stem(x * torch.tensor([0.0, 1, 1])))
        message = (
            r"`model` should be called with the samples as its first argument. Got \['x'\]. Pass the samples by pos"
        )
        with pytest.raises(ValueError, match=message):
            model(x=x)


# Errors, and what is put back after them


class Unequal(nn.Module):
    """Layers of every kind that has no units: no tensor, no row per sample, no float; and one that never runs."""

    def __init__(self):
        super().__init__()
        self.pair, self.total, self.sign = Pair(), Total(), Sign()
        self.idle, self.many = nn.Linear(3, 3), nn.ModuleList([nn.Identity()])

    def forward(self, x):
        return self.pair(x)[0] + self.total(x)[:, None] + self.sign(x) + self.many[0](x)


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Total(nn.Module):
    def forward(self, x):
        return x.sum(1)


class Sign(nn.Module):
    def forward(self, x):
        return (x > 0).long()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("pair", r"`layer` should name a layer with one float tensor, a row per sample. Got 'pair', which has tuple"),
        ("total", r"a row per sample. Got 'total', which has a float32 tensor of shape \[4\]. Choose another layer"),
        ("sign", r"a row per sample. Got 'sign', which has .* int64 tensor of shape \[4, 3\]"),
    ],
)
def test_layers_without_units_are_refused(layer, message):
    model, x = Unequal(), samples(4, 3).float()
    with unchanged(model), pytest.raises(ValueError, match=message), ge.ablated(model, layer, [0]):
        model(x)


@pytest.mark.parametrize("layer", ["idle", "many"])
def test_a_layer_that_does_not_run_is_refused_when_the_block_ends(layer):
    model, x, reached = Unequal(), samples(4, 3).float(), []
    message = f"`layer` should name a layer that runs in the block. Got '{layer}', which did not run. Call the model in"
    with unchanged(model), pytest.raises(ValueError, match=message), ge.ablated(model, layer, [0]):
        reached.append(model(x))
    assert len(reached) == 1


@pytest.mark.parametrize("layer", ["input", "hidden1"])
def test_a_block_without_the_model_is_refused(layer):
    network, x = relu_network(), samples(4, 5)
    with unchanged(network), pytest.raises(ValueError, match="which did not run"), ge.ablated(network, layer, [0]):
        relu_network()(x)  # another one
    with unchanged(network), pytest.raises(ValueError, match="'input', which did not run"):  # noqa: SIM117
        with ge.ablated(network, "input", [0]):
            network.forward(x)  # past the hooks


@pytest.mark.parametrize("layer", ["input", "hidden1"])
@pytest.mark.parametrize("run_first", [True, False])
def test_hooks_go_after_an_error_in_the_block_which_is_the_one_that_is_seen(layer, run_first):
    network, x = relu_network(), samples(4, 5)

    def stop():
        if run_first:
            network(x)
        raise ZeroDivisionError

    with unchanged(network), pytest.raises(ZeroDivisionError), ge.ablated(network, layer, [0]):
        stop()
    assert torch.equal(network(x), relu_network()(x))


@pytest.mark.parametrize("layer", ["input", "hidden1"])
def test_hooks_go_after_a_forward_pass_that_fails(layer):
    network, x = relu_network(), samples(4, 7)
    with unchanged(network), pytest.raises(RuntimeError, match="shapes"), ge.ablated(network, layer, [0]):
        network(x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": [9]}, "`units` should lie between 0 and 8, the units of 'hidden1'. Got 9. Drop or correct it"),
        ({"units": [0, 5], "layer": "input"}, "`units` should lie between 0 and 4, the units of 'input'. Got 5"),
        ({"at": torch.zeros(2)}, r"`at` should be a number, or have shape \[9\], one for each unit of 'hidden1'. Got a "
         r"float32 tensor of shape \[2\]. Pass activations.mean\(0\)"),
        ({"at": torch.zeros(4, 9)}, r"`at` should be a number, or have shape \[9\]"),
        ({"at": torch.tensor(1.0)}, r"`at` should be a number, or have shape \[9\]"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_layer_is_refused_in_the_block(arguments, message):
    network = relu_network()
    given = {"layer": "hidden1", "units": [0], **arguments}
    with unchanged(network), pytest.raises(ValueError, match=message), ge.ablated(network, **given):
        network(samples(4, 5))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": abs}, TypeError, "`model` should be a torch.nn.Module"),
        ({"model": ge.MLPEnsemble([4, 3, 2], n_members=2)}, ValueError, "`model` should be one network. Got "
         r"MLPEnsemble.*Take a member out by ensemble\[i\]"),
        ({"layer": "hidden7"}, ValueError, "`layer` should name a layer of the model. Got 'hidden7'. Choose one"),
        ({"layer": ""}, ValueError, "`layer` should name a layer of the model. Got ''"),
        ({"layer": 1}, TypeError, "`layer` should be a layer's name. Got 1"),
        ({"layer": ["hidden1"]}, TypeError, "`layer` should be a layer's name. Got list"),
        ({"units": []}, ValueError, "`units` should be a list of indices, not empty"),
        ({"units": 3}, TypeError, "`units` should be a list of indices. Got 3"),
        ({"units": torch.tensor(3)}, TypeError, "`units` should be a list of indices. Got 3"),
        ({"units": "01"}, TypeError, "`units` should be a list of indices. Got '01'"),
        ({"units": None}, TypeError, "`units` should be a list of indices. Got None"),
        ({"units": [-1]}, ValueError, "`units` should be at least 0. Got -1"),
        ({"units": [1.0]}, TypeError, "`units` should be an integer. Got 1.0"),
        ({"units": torch.arange(9) > 4}, TypeError, "`units` should be an integer. Got False"),
        ({"units": np.arange(9) < 4}, TypeError, "`units` should be an integer. Got True"),
        ({"at": math.nan}, ValueError, "`at` should be finite, .* Got nan"),
        ({"at": math.inf}, ValueError, "`at` should be finite, .* Got inf"),
        ({"at": 1e39}, ValueError, r"`at` should be finite, at least -3e\+38 and at most 3e\+38. Got 1e\+39"),
        ({"at": True}, TypeError, "`at` should be a number. Got True"),
        ({"at": "mean"}, TypeError, "`at` should be a number. Got 'mean'"),
        ({"at": np.zeros(9)}, TypeError, "`at` should be a number. Got ndarray"),
        ({"at": torch.tensor([0, math.nan, math.inf])}, ValueError, "`at` should be finite. Got 2 NaN or infinite"),
    ],
)  # fmt: skip
def test_bad_ablations_are_refused_before_the_block(arguments, error, message):
    network = relu_network()
    given = {"model": network, "layer": "hidden1", "units": [0], **arguments}
    with unchanged(network), pytest.raises(error, match=message), ge.ablated(**given):
        pytest.fail("the block was entered")
