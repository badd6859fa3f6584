"""Task modules against loops and paper, and what `ablated` holds, refuses and puts back."""

import math
import statistics
from functools import partial

import numpy as np
import pytest
import torch
from _asserts import assert_close, unchanged
from _networks import Convolutional, Net, Residual, linear
from _oracle import gradient_loop
from scipy.cluster.hierarchy import fcluster, linkage
from torch import nn

import gradembed as ge

EVERY = slice(None)


def samples(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def signs(d):
    """All corners of a cube: there, a ReLU of one input is 0 or 1, with a deviation of 1/2, and all are independent."""
    return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * d)


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


three_of = partial(ge.task_modules, layer="hidden1", n_modules=3)


def renumbered(modules, first):
    """Modules numbered in the order in which outputs come; -1 for those without one."""
    order = list(dict.fromkeys(first))
    return [order.index(module) if module in order else -1 for module in modules]


def relu_network():
    return ge.MLP([5, 9, 4], seed=2).double()


def gap(one, other):
    return (one - other).abs().max().item()


# Effects


def effect_cases():
    torch.manual_seed(0)
    r, c = Residual().double(), Convolutional().eval().double()
    image = samples(12, 16).reshape(12, 1, 4, 4)
    conv = lambda s: c.head(c.pool(torch.tanh(c.norm(s.reshape(-1, 2, 4, 4)))).flatten(1))  # noqa: E731
    from_stem = lambda kept: r.head(kept + torch.relu(r.branch(r.norm(kept))))  # noqa: E731
    cases = {
        "residual": (r, samples(12, 4), "stem", lambda s: from_stem(torch.relu(s)), r.stem),
        "residual, a run": (r, samples(12, 4), ge.Site("act", call=0), from_stem, lambda x: torch.relu(r.stem(x))),
        "convolution": (c, image, "conv", conv, c.conv),
    }
    for activation in (nn.ReLU, nn.Tanh):
        m = ge.MLP([5, 7, 6, 4], activation, seed=1).double()
        parts = [m.hidden1, m.hidden2, m.output]
        for depth, layer in enumerate(["input", "hidden1", "hidden2"]):
            halves = nn.Sequential(*parts[depth:]), nn.Sequential(*parts[:depth])
            cases[f"{activation.__name__}, {layer}"] = (m, samples(30, 5), layer, *halves)
    return cases


@pytest.mark.parametrize("case", effect_cases())
def test_effects_equal_the_loop(case):
    model, x, layer, head, body = effect_cases()[case]
    with unchanged(model):
        result = ge.task_modules(model, x, layer)
    expected = effects_loop(head, body, x)
    alive = expected.isfinite() & (expected > 0)
    assert int(alive.sum()) >= 12
    assert_close(result.effects[alive], expected[alive])
    assert not result.effects[~alive].any()
    streamed = ge.task_modules(model, [x[:5], x[5:]], layer, chunk_size=4)
    assert_close(streamed.effects, result.effects, atol=1e-9)


def test_outputs_can_be_units_directions_heads_or_parts_of_any_layer():
    network, x = ge.MLP([5, 7, 6, 4], nn.Tanh, seed=1).double(), samples(30, 5)
    ask = partial(ge.task_modules, network, x, "hidden1")
    whole, some = ask(), ask(units=[3, "0", 2])
    assert_close(some.effects, whole.effects[[3, 0, 2]])
    assert (some.unit_labels, some.unit_layer) == (("3", "0", "2"), "output")
    turn = samples(3, 4, seed=5)
    turned = ask(directions=turn)
    assert turned.unit_labels == ("direction 0", "direction 1", "direction 2")
    assert_close(turned.effects, ask(forward=lambda m, batch: m(batch) @ turn.T).effects)
    deeper = ask(unit_layer="hidden2")
    assert_close(deeper.effects, effects_loop(network.hidden2, network.hidden1, x))
    part = ge.task_modules(network, x, ge.Site("hidden1", index=(EVERY, [4, 1])))
    assert_close(part.effects, whole.effects[:, [4, 1]])
    headed = ask(forward=lambda m, batch: {"a": (out := m(batch))[:, 0], "b": out[:, 1:]})
    assert headed.unit_labels == ("a[0]", "b[0]", "b[1]", "b[2]")
    assert_close(headed.effects, whole.effects)


# Modules


def test_hand_weighted_network():
    last = linear([[1, 1, 0], [0, 0, 3], [1, -2, 0], [0, 0, -1]], [5, 0, 0, 7])
    result = ge.task_modules(nn.Sequential(linear(torch.eye(3).tolist()), nn.ReLU(), last), signs(3), "1")
    half, fifth = math.sqrt(1 / 2), math.sqrt(1 / 5)
    expected = [[half, half, 0], [0, 0, 1], [fifth, 2 * fifth, 0], [0, 0, 1]]
    assert_close(result.effects, torch.tensor(expected, dtype=torch.float64))
    assert result.output_modules.tolist() == [0, 1, 0, 1]
    assert result.unit_modules.tolist() == [0, 0, 1]
    assert result.selectivity.tolist() == [1, 1, 1]
    assert (result.units(0), result.units(1), result.n_modules) == ([0, 1], [2], 2)


def test_selectivity_is_the_share_of_the_own_module():
    """The third unit moves both outputs alike, the fourth the second output twice as far."""
    last = linear([[3, 0, 1, 1, 0, 2], [0, 3, 1, 2, 1, 0]])  # of the same spread: 9 + 1 + 1 + 4 = 9 + 1 + 4 + 1
    result = ge.task_modules(nn.Sequential(linear(torch.eye(6).tolist()), nn.ReLU(), last), signs(6), "1")
    assert_close(result.selectivity, torch.tensor([1, 1, 0.5, 0.8, 1, 1], dtype=torch.float64))
    assert result.unit_modules[[0, 1, 3, 4, 5]].tolist() == [0, 1, 1, 1, 0]  # of what is alike, rounding decides


@pytest.mark.parametrize("seed", range(5))
def test_blocks_are_recovered_in_any_order_of_outputs_and_units_and_carry_their_outputs_alone(seed):
    generator, x = torch.Generator().manual_seed(seed), samples(60, 9, seed=seed)
    outputs = [OUTPUTS[i] for i in torch.randperm(len(OUTPUTS), generator=generator)]
    hidden = [HIDDEN[i] for i in torch.randperm(len(HIDDEN), generator=generator)]
    network = blocks(seed, outputs, hidden)
    result = three_of(network, x)
    assert result.output_modules.tolist() == renumbered(outputs, outputs)
    assert result.unit_modules.tolist() == renumbered(hidden, outputs)
    assert result.selectivity.tolist() == [1] * len(hidden)
    assert three_of(network, x, layer="input").unit_modules.tolist() == renumbered(INPUTS, outputs)
    for module in range(3):
        with ge.ablated(network, "hidden1", result.units(module)):
            values = network(x)
        own = result.output_modules == module
        assert torch.equal(values[:, own], network.output.bias[own].expand(60, -1))
        assert torch.equal(values[:, ~own], network(x)[:, ~own])


def test_a_network_without_blocks_is_not_selective():
    """The method gives as many modules as are asked for; selectivity tells them from real ones."""
    dense = three_of(ge.MLP([9, 40, 6], nn.Tanh, seed=0).double(), samples(60, 9))
    assert dense.n_modules == 3
    served = dense.selectivity[dense.unit_modules >= 0]
    assert float(served.min()) >= 1 / 3
    assert 0.4 < float(served.mean()) < 0.9


@pytest.mark.parametrize("n_modules", [2, 3, 8])
@pytest.mark.parametrize("seed", range(2))
def test_modules_are_those_of_average_linkage_numbered_by_first_output(n_modules, seed):
    result = ge.task_modules(ge.MLP([6, 12, 8], seed=seed).double(), samples(60, 6), "hidden1", n_modules=n_modules)
    groups = fcluster(linkage(result.effects.numpy(), "average", metric="cosine"), n_modules, "maxclust").tolist()
    expected = renumbered(groups, groups)
    assert result.output_modules.tolist() == expected
    squares = result.effects.square()
    rows = [torch.tensor(expected) == m for m in range(n_modules)]
    means = torch.stack([squares[own].mean(0) for own in rows])
    alive = means.sum(0) > 0
    assert torch.equal(result.unit_modules, torch.where(alive, means.argmax(0), -1))
    assert_close(result.selectivity[alive], (means.amax(0) / means.sum(0))[alive])
    assert not result.selectivity[~alive].any()


# What changes nothing, and what does


def changed_outputs(network):
    network.output.weight.mul_(torch.tensor([1e-6, -3, 50, 1e6])[:, None])
    network.output.bias.add_(torch.tensor([0, 100.0, -7, 1e6]))


def rescaled(network, sign=1):
    factors = sign * torch.logspace(-3, 3, 9, dtype=torch.float64)
    network.hidden1.linear.weight.mul_(factors[:, None])
    network.hidden1.linear.bias.mul_(factors)
    network.output.weight.div_(factors)


@pytest.mark.parametrize(("activation", "change", "same"), [
    (nn.ReLU, changed_outputs, True), (nn.ReLU, rescaled, True),
    (nn.ReLU, lambda network: network.output.weight[0, 3:4].mul_(3), False),  # one weight alone is another function
    (nn.ReLU, partial(rescaled, sign=-1), False), (nn.Tanh, rescaled, False),
])  # fmt: skip
def test_scales_and_offsets_change_nothing_where_the_function_is_the_same(activation, change, same):
    network, x = ge.MLP([5, 9, 4], activation, seed=2).double(), samples(80, 5)
    before = ge.task_modules(network, x, "hidden1")
    with torch.no_grad():
        change(network)
    after = ge.task_modules(network, x, "hidden1")
    difference = gap(after.effects, before.effects)
    assert difference < 1e-8 if same else difference > 0.03
    assert torch.equal(after.unit_modules, before.unit_modules) or not same


@pytest.mark.parametrize("scale", [1e-30, 1, 1e18])
def test_single_precision_agrees_with_double_at_any_scale_of_the_outputs(scale):
    network, x = relu_network(), samples(80, 5)
    before = ge.task_modules(network, x, "hidden1")
    with torch.no_grad():
        network.float().output.weight.mul_(scale)
        network.output.bias.mul_(scale)
    single = ge.task_modules(network, x.float(), "hidden1")
    assert single.effects.dtype == torch.float64
    assert_close(single.effects, before.effects, rtol=1e-4, atol=1e-6)
    assert torch.equal(single.unit_modules, before.unit_modules)


# Nothing moves


def test_dead_units_and_constant_outputs_are_in_no_module():
    network, x = blocks(), samples(60, 9)
    with torch.no_grad():
        network.output.weight[0] = 0  # a constant output
        network.hidden1.linear.weight[1] = 0  # a constant unit that is read
        network.output.weight[:, 2] = 0  # a unit that nothing reads
    result = three_of(network, x)
    assert result.output_modules.tolist() == [-1, *renumbered(OUTPUTS[1:], OUTPUTS[1:])]
    expected = renumbered(HIDDEN, OUTPUTS[1:])
    expected[1] = expected[2] = -1
    assert result.unit_modules.tolist() == expected
    assert result.selectivity[[1, 2]].tolist() == [0, 0]
    assert not result.effects[0].any()
    assert not result.effects[:, [1, 2]].any()
    assert sorted(i for m in range(3) for i in result.units(m)) == [0, *range(3, 11)]
    assert repr(result) == "TaskModules(3 modules of 'hidden1': 3 and 3 and 3 of 11 units, mean selectivity 1.00)"
    frame = result.to_frame()
    assert list(frame.columns) == ["layer", "unit", "module", "selectivity", "effect"]
    keys = frame[["layer", "unit", "module"]].to_numpy().tolist()
    assert keys == [["hidden1", i, module] for i, module in enumerate(expected)]
    assert frame["effect"].tolist() == pytest.approx(result.effects.norm(dim=0).tolist())


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
    assert result.output_modules.tolist() == renumbered(OUTPUTS, alive)
    assert result.unit_modules.tolist() == renumbered(HIDDEN, alive)


def test_a_module_can_be_without_units():
    """Two units, and a third input that goes past them: out = (s0 + s1, s0 + s1, x2 + s0 / 2)."""
    model = Net(lambda m, x: torch.stack([(s := m.stem(x)).sum(1), s.sum(1), x[:, 2] + s[:, 0] / 2], 1),
                stem=linear([[1, 0, 0], [0, 1, 0]]))  # fmt: skip
    result = ge.task_modules(model, signs(3), "stem")
    assert (result.output_modules.tolist(), result.unit_modules.tolist()) == ([0, 0, 1], [0, 0])
    assert result.units(1) == []
    assert "2 and 0 of 2 units" in repr(result)


@pytest.mark.parametrize(("given", "message"), [
    ({"n_modules": 5}, "`n_modules` should be at most the number of outputs, and of units, with an effect. Got 5, for 4"
                       " outputs and 9 units with an effect. Lower it, or pass samples"),
    ({"units": [1]}, "Got 2, for 1 outputs and"),
    ({"weights": 1e200}, "`x` should give finite effects at 'hidden1'. Got (an overflow|NaN)"),
])  # fmt: skip
def test_bad_arguments_are_refused(given, message):
    network, x = relu_network(), samples(60, 5)
    with torch.no_grad():
        network.output.weight.mul_(given.pop("weights", 1))
    with unchanged(network), pytest.raises(ValueError, match=message):
        ge.task_modules(**({"model": network, "x": x, "layer": "hidden1"} | given))


# Units held at a constant


def held(model, x, *asked, **more):
    with unchanged(model), ge.ablated(model, *asked, **more) as same:
        assert same is model
        return model(x).detach()


def set_to(a, places, value):
    """A copy with numbers of every sample, counted flattened, replaced."""
    changed = a.detach().flatten(1).clone()
    changed[:, places] = torch.as_tensor(value, dtype=a.dtype)
    return changed.reshape(a.shape)


@pytest.mark.parametrize("units", [[0], [3, 1], range(9), np.array([2, 5]), torch.tensor([7]), (8, 8), {4, 6}])
def test_units_held_at_zero_are_as_if_nothing_read_them(units):
    network, x = relu_network(), samples(20, 5)
    values = held(network, x, "hidden1", units)
    cut = relu_network()
    with torch.no_grad():
        cut.output.weight[:, [int(i) for i in units]] = 0
    assert_close(values, cut(x))
    assert gap(values, network(x)) > 0.01


AT = samples(9, seed=3)


@pytest.mark.parametrize(("at", "values"), [
    (-1.5, -1.5), (2, 2), (np.float32(0.5), 0.5), (torch.tensor(0.25), 0.25), (AT, AT[[6, 1]]),
    (AT.numpy(), AT[[6, 1]]), (torch.ones(9), 1), (list(range(9)), [6, 1]), (torch.arange(9), [6, 1]),
])  # fmt: skip
def test_units_are_held_at_a_number_or_at_one_each(at, values):
    network, x = relu_network(), samples(20, 5)
    found = held(network, x, "hidden1", [6, 1], at=at)
    assert_close(found, network.output(set_to(network.hidden1(x), [6, 1], values)))
    assert gap(found, held(network, x, "hidden1", [6, 1])) > 0.01


def place_cases():
    torch.manual_seed(0)
    r, c, m, relu = Residual().double(), Convolutional().eval().double(), relu_network(), torch.relu
    flat, image, x = samples(6, 4), samples(6, 1, 4, 4), samples(6, 5)
    inner = nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 2)).double()
    tokens = Net(lambda m, x: m.head(m.pack(m.embed(x))[0].flatten(1)), embed=nn.Linear(3, 4),
                 pack=Net(lambda _, h: (torch.tanh(h), h)), head=nn.Linear(8, 2)).double()  # fmt: skip
    words = samples(6, 2, 3)
    from_conv = lambda s: c.head(c.pool(torch.tanh(c.norm(s))).flatten(1))  # noqa: E731
    rest = lambda kept, change=lambda a: a: r.head(kept + change(relu(r.branch(r.norm(kept)))))  # noqa: E731
    from_pack = lambda h: tokens.head(h.flatten(1))  # noqa: E731
    first = lambda a: set_to(a, [1], 3.0)  # noqa: E731
    return {
        "input": (m, x, "input", [0, 4], m(set_to(x, [0, 4], 3.0))),
        "a layer that is overwritten afterwards": (inner, x, "0", [2], inner[1:](set_to(inner[0](x), [2], 3.0))),
        "a convolution, flattened": (c, image, "conv", [0, 21], from_conv(set_to(c.conv(image), [0, 21], 3.0))),
        "a module that runs twice": (r, flat, "act", [1], rest(first(relu(r.stem(flat))), first)),
        "its first run": (r, flat, ge.Site("act", call=0), [1], rest(first(relu(r.stem(flat))))),
        "what a module takes": (r, flat, ge.Site("stem", input=True), [1], r(set_to(flat, [1], 3.0))),
        "a channel": (c, image, ge.Site("conv", index=(EVERY, 1)), [5, 0],
                      from_conv(set_to(c.conv(image), [21, 16], 3.0))),
        "units of some": (m, x, ge.Site("hidden1", index=(EVERY, [7, 2])), [1],
                          m.output(set_to(m.hidden1(x), [2], 3.0))),
        "the last token": (tokens, words, ge.Site("pack", index=(EVERY, -1)), [0, 2],
                           from_pack(set_to(torch.tanh(tokens.embed(words)), [4, 6], 3.0))),
        "an element that is not read": (tokens, words, ge.Site("pack", element=1), [0], tokens(words)),
    }  # fmt: skip


@pytest.mark.parametrize("case", place_cases())
def test_units_are_held_at_any_place(case):
    model, x, place, units, expected = place_cases()[case]
    given = x.clone()
    found = held(model, given, place, units, at=3.0)
    assert_close(found, expected.detach())
    assert torch.equal(given, x)
    assert gap(found, model(x)) > 0.01 or "not read" in case


def test_blocks_nest():
    network, x = ge.MLP([5, 9, 6, 4], seed=2).double(), samples(20, 5)
    plain = network(x)
    with unchanged(network), ge.ablated(network, "hidden1", [0], at=1.0):
        outer = network(x)
        with ge.ablated(network, "hidden1", [3]), ge.ablated(network, "hidden2", [2]):
            inner = network(x)
        assert torch.equal(network(x), outer)
    assert torch.equal(network(x), plain)
    hidden = set_to(network.hidden1(x), [0, 3], [1.0, 0.0])
    assert_close(inner, network.output(set_to(network.hidden2(hidden), [2], 0.0)))
    assert gap(outer, inner) > 0.01


def test_hooks_of_others_run_and_stay():
    network, x, seen = relu_network(), samples(20, 5), []
    network.hidden1.register_forward_hook(lambda *_: seen.append("before"))
    with ge.ablated(network, "hidden1", [0]):
        network.hidden1.register_forward_hook(lambda _m, _a, out: seen.append(out[:, 0].abs().max().item()))
        network(x)
    assert seen == ["before", 0.0]
    network(x)
    assert seen[2] == "before"
    assert seen[3] > 0


def test_gradients_in_the_block_are_those_of_the_cut_network_and_a_constant_can_be_learned():
    network, x = relu_network(), samples(20, 5)
    at = torch.zeros(9, dtype=torch.float64, requires_grad=True)
    weight = network.output.weight.detach().clone()
    with unchanged(network), ge.ablated(network, "hidden1", [0, 3]):
        cut = ge.unit_gradients(network, x, "input").gradients
    read = weight.index_fill(1, torch.tensor([0, 3]), 0)
    slopes = (network.hidden1(x) > 0).double()
    assert_close(cut, torch.einsum("uh,nh,hd->nud", read, slopes, network.hidden1.linear.weight.detach()))
    with ge.ablated(network, "hidden1", [2], at=at):
        network(x).sum().backward()
    assert_close(at.grad, 20 * weight.sum(0) * (torch.arange(9) == 2))


class Scaled(Net):
    """Takes more than the samples."""

    def forward(self, x, factor, *, shift=0.0):
        return self.stem(x) * factor + shift


@pytest.mark.parametrize("call", [
    lambda model, x, factor: model(x, factor, shift=1.0),
    lambda model, x, factor: model(shift=1.0, factor=factor, x=x),
], ids=["position", "keyword last"])  # fmt: skip
@pytest.mark.parametrize("layer", ["input", "stem"])
def test_only_the_first_argument_is_held_however_it_is_passed(call, layer):
    model, x, factor = Scaled(None, stem=linear([[1, 2, 0], [0, 1, -1]])), samples(4, 3), samples(4, 1, seed=1)
    with unchanged(model), ge.ablated(model, layer, [0]):
        values = call(model, x, factor)
    site = model.stem(set_to(x, [0], 0.0)) if layer == "input" else set_to(model.stem(x), [0], 0.0)
    assert_close(values, site * factor + 1)


def test_an_argument_is_held_by_its_name():
    model, x, factor = Scaled(None, stem=linear([[1, 2, 0], [0, 1, -1]])), samples(4, 3), samples(4, 1, seed=1)
    for named in (ge.Site("input", element="factor"), ge.Site("stem", input=True, element=0)):
        with unchanged(model), ge.ablated(model, named, [0]):
            values = model(x=x, factor=factor)
        kept = named.name == "stem"
        assert_close(values, model.stem(set_to(x, [0], 0.0)) * factor if kept else torch.zeros(4, 2).double())


# Errors, and what is put back after them


def unequal():
    """Layers of every kind: two tensors, one number a sample, no float; and one that never runs."""
    return Net(
        lambda m, x: m.pair(x)[0] + m.total(x)[:, None] + m.sign(x),
        pair=Net(lambda _, x: (x, x)), total=Net(lambda _, x: x.sum(1)), sign=Net(lambda _, x: (x > 0).long()),
        idle=nn.Linear(3, 3),
    )  # fmt: skip


@pytest.mark.parametrize(("layer", "units", "message"), [
    ("sign", [0], r"`layer` should name a layer with one float tensor.*'sign', which has .* int64 tensor"),
    (ge.Site("pair", element=2), [0], r"`layer` should name a layer with one float tensor.*'pair element 2', which"),
    ("total", [1], r"`units` should lie between 0 and 0, the units of 'total'. Got 1. Drop or correct it"),
    ("input", [0, 5], r"`units` should lie between 0 and 2, the units of 'input'. Got 5"),
    ("idle", [0], r"`layer` should name a layer that runs in the block. Got 'idle', which did not run. Call the"),
    (ge.Site("total", call=1), [0], r"Got 'total run 1', which ran 1 times"),
])  # fmt: skip
def test_layers_and_units_that_are_not_there_are_refused_in_the_block_or_when_it_ends(layer, units, message):
    model, x = unequal(), torch.arange(12.0).reshape(4, 3)
    with unchanged(model), pytest.raises(ValueError, match=message), ge.ablated(model, layer, units):
        model(x)
    assert model(x).shape == (4, 3)


@pytest.mark.parametrize(("layer", "run"), [
    ("input", lambda _: relu_network()), ("hidden1", lambda _: relu_network()),  # another one
    ("input", lambda network: network.forward),  # past the hooks
])  # fmt: skip
def test_a_block_without_the_model_is_refused(layer, run):
    network, x = relu_network(), samples(4, 5)
    with unchanged(network), pytest.raises(ValueError, match="which did not run"), ge.ablated(network, layer, [0]):
        run(network)(x)


@pytest.mark.parametrize("layer", ["input", "hidden1"])
@pytest.mark.parametrize(("d", "error"), [(5, ZeroDivisionError), (7, RuntimeError)])
def test_hooks_go_after_an_error_in_the_block_which_is_the_one_that_is_seen(layer, d, error):
    network, x = relu_network(), samples(4, d)
    with unchanged(network), pytest.raises(error), ge.ablated(network, layer, [0]):  # noqa: PT012
        network(x)  # which may fail itself
        raise ZeroDivisionError
    assert torch.equal(network(samples(4, 5)), relu_network()(samples(4, 5)))


@pytest.mark.parametrize(("given", "message"), [
    ({"at": torch.zeros(2)}, r"`at` should be a number, or have shape \[9\] or \[4, 9\], one for each unit of "
                             r"'hidden1'. Got a .* tensor of shape \[2\]. Pass activations.mean\(0\)"),
    ({"at": 1e39}, r"`at` should be finite, at least -3e\+38 and at most 3e\+38. Got 1e\+39"),
    ({"model": ge.MLPEnsemble([4, 3, 2], n_members=2)}, "`model` should be one network. Got MLPEnsemble.*"
                                                        r"Take a member out by ensemble\[i\]"),
    ({"layer": ""}, "`layer` should name a layer of the model. Got ''"),
    ({"layer": ge.Site("hidden1", mean=1)}, "`layer` should name units, not their mean. Got 'hidden1"),
])  # fmt: skip
def test_bad_ablations_are_refused(given, message):
    network, x = relu_network(), samples(4, 5)
    with unchanged(network), pytest.raises(ValueError, match=message):  # noqa: SIM117
        with ge.ablated(**({"model": network, "layer": "hidden1", "units": [0]} | given)) as model:
            model(x)
