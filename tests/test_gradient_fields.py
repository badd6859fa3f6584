"""Gradient fields of networks and ensembles: how they are taken, and their linear pieces."""

import numpy as np
import pytest
import torch
from _asserts import assert_close, unchanged
from _networks import Convolutional, Residual, linear
from _oracle import gradient_loop
from torch import nn

import gradembed as ge
from gradembed.gradients import chain
from gradembed.gradients.patterns import distinct, packed

# taken of networks


ACTIVATIONS = [nn.ReLU, nn.Tanh, lambda: nn.LeakyReLU(0.2), nn.GELU, nn.Hardtanh]


def ensemble_of(widths=(4, 7, 6, 3), e=5, activation=nn.ReLU):
    return ge.MLPEnsemble(list(widths), e, activation, seed=0).double()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fields_of_a_network_equal_the_loop(activation):
    network, x = ge.MLP([4, 7, 6, 3], activation, seed=0).double(), torch.randn(20, 4).double()
    with unchanged(network):
        fields = ge.gradient_fields(network, x)
        hidden = ge.gradient_fields(network, x, wrt="hidden1", unit_layer="hidden2")
    assert_close(fields.gradients.transpose(0, 1), gradient_loop(network, lambda s: s, x))
    assert_close(fields.values.T, network(x).detach())
    assert_close(fields.points, x, rtol=0, atol=0)
    assert_close(hidden.gradients.transpose(0, 1), gradient_loop(network.hidden2, network.hidden1, x))
    assert_close(hidden.points, network.hidden1(x).detach())
    assert (hidden.is_shared, fields.groups.tolist(), fields.labels) == (True, [0, 0, 0], None)
    assert (fields.regions is None) == (activation in (nn.Tanh, nn.GELU))


NETWORKS = [(Residual, (4,)), (Convolutional, (1, 4, 4)), (lambda: ge.MLP([4, 5, 3], seed=0), (2, 4))]


@pytest.mark.parametrize(("make", "shape"), NETWORKS)
def test_general_networks_equal_the_loop_axes_after_the_first_in_line(make, shape):
    model, x = make().double().eval(), torch.randn(9, *shape).double()
    with unchanged(model):
        fields = ge.gradient_fields(model, x)
    assert_close(fields.gradients.transpose(0, 1), gradient_loop(lambda z: model(z.clone()), lambda s: s, x))
    assert_close(fields.points, x.flatten(1))
    assert_close(fields.values.T, model(x).detach().flatten(1))


def test_chains_of_other_modules():
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(inplace=True), nn.Dropout(),
        nn.Linear(5, 5), nn.PReLU(5), nn.Hardsigmoid(), nn.Linear(5, 2),
    ).double().eval()  # fmt: skip
    model[2].running_var.uniform_(0.5, 2)
    x = torch.randn(30, 2, 2).double()
    fields = ge.gradient_fields(model, x)
    assert_close(fields.gradients.transpose(0, 1), gradient_loop(model, lambda s: s, x))
    assert fields.regions.amax() > 0


CASES = [
    {}, {"wrt": "hidden2"}, {"wrt": "hidden1.linear"}, {"wrt": "hidden1", "unit_layer": "hidden2"},
    {"wrt": "hidden2.linear", "unit_layer": "hidden2.activation"}, {"unit_layer": "hidden1", "units": [3, 0, 3]},
    {"directions": torch.randn(2, 3).double()},
    {"unit_layer": "hidden2", "directions": torch.randn(5, 2, 6).double()},
]  # fmt: skip


@pytest.mark.parametrize("group_bytes", [1, 8 * 2**20])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(case))
def test_ensemble_equals_its_members(case, activation, group_bytes, monkeypatch):
    monkeypatch.setattr(chain, "GROUP_BYTES", group_bytes)  # one member at a time, all at once
    ensemble = ensemble_of(activation=activation)
    for points in (torch.randn(20, 4).double(), torch.randn(5, 20, 4).double()):
        fields = ge.gradient_fields(ensemble, points, **case)
        assert fields.is_shared is (case.get("wrt", "input") == "input" and points.ndim == 2)
        u = len(fields) // 5
        assert fields.groups.tolist() == [i for i in range(5) for _ in range(u)]
        for i in range(5):
            own = {key: value[i] if key == "directions" and value.ndim == 3 else value for key, value in case.items()}
            x = points if points.ndim == 2 else points[i]
            expected = ge.unit_gradients(ensemble[i], x, **{"wrt": "input", **own})
            part = fields[i * u : (i + 1) * u]
            assert_close(part.gradients, expected.gradients.transpose(0, 1))
            assert_close(part.own_points(), expected.activations.expand(u, -1, -1))
            assert_close(part.values, expected.values.T)
            alone = ge.gradient_fields(ensemble[i], x, **own)
            assert (part.regions is None) == (alone.regions is None)
            assert part.regions is None or torch.equal(part.regions, alone.regions)


def test_ensemble_without_hidden_layers_and_at_a_single_point():
    for widths, x in [([4, 2], torch.randn(6, 4).double()), ([4, 7, 1], torch.randn(1, 4).double())]:
        ensemble = ensemble_of(widths)
        fields = ge.gradient_fields(ensemble, x)
        expected = torch.cat([ge.unit_gradients(net, x, "input").gradients.transpose(0, 1) for net in ensemble])
        assert_close(fields.gradients, expected)
        assert fields.regions.unique().tolist() == [0]


def test_single_precision_agrees_with_double():
    ensemble, x = ge.MLPEnsemble([64, 64, 64, 1], 3, seed=0), torch.randn(200, 64)
    single, double = ge.gradient_fields(ensemble, x), ge.gradient_fields(ensemble.double(), x.double())
    assert single.gradients.dtype == torch.float32
    assert_close(single.gradients.double(), double.gradients, rtol=1e-3, atol=1e-5)


def test_labels_come_from_the_ensemble_or_the_caller():
    ensemble, x = ensemble_of(e=2), torch.randn(5, 4).double()
    assert ge.gradient_fields(ensemble, x).labels is None
    ensemble.labels = torch.tensor([4, 9])
    assert ge.gradient_fields(ensemble, x).labels.tolist() == [4, 4, 4, 9, 9, 9]
    assert ge.gradient_fields(ensemble, x, labels=torch.arange(3)).labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert ge.gradient_fields(ensemble, x, labels=torch.arange(6)).labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert ge.gradient_fields(ensemble[0], x, labels=torch.arange(3)).labels.tolist() == [0, 1, 2]


def test_fields_do_not_share_memory_with_the_inputs():
    x = torch.randn(5, 4).double()
    for model, points in [(ensemble_of(), x), (ensemble_of(), x.repeat(5, 1, 1)), (ensemble_of()[0], x)]:
        fields = ge.gradient_fields(model, points)
        before = fields.points.clone()
        points += 1
        assert torch.equal(fields.points, before)


@pytest.mark.parametrize("kind", [torch.Tensor.numpy, torch.Tensor.tolist])
def test_arrays_and_lists_are_taken_as_tensors_are(kind):
    x, directions, labels = torch.randn(5, 4).double(), torch.randn(2, 3).double(), torch.tensor([1, 0])
    for model in (ensemble_of(), ensemble_of()[0], nn.Sequential(ensemble_of()[0])):
        expected = ge.gradient_fields(model, x, directions=directions, labels=labels)
        fields = ge.gradient_fields(model, kind(x), directions=kind(directions), labels=kind(labels))
        assert fields.gradients.dtype == torch.float64
        for name in ("points", "gradients", "values", "labels"):
            assert_close(getattr(fields, name), getattr(expected, name))


X = torch.zeros(5, 4).double()
REFUSED = [  # with a word of their own; the rest is in the table of abuses
    (ensemble_of, X[:, :3], {}, r"`points` should have shape \[m, 4\] for all members, or"),
    (ensemble_of, X.expand(4, 5, 4), {}, r"or \[5, m, 4\]. Got a float64 tensor of shape"),
    (ensemble_of, X, {"wrt": "output"}, "`wrt` should come before 'output', where the units are"),
    (ensemble_of, X, {"wrt": "hidden2", "unit_layer": "hidden1"}, "`wrt` should come before 'hidden1'"),
    (ensemble_of, X, {"units": [3]}, "`units` should lie between 0 and 2, the units of 'output'"),
    (ensemble_of, X, {"units": [0], "directions": torch.eye(3)}, "`directions` should be None when `units` is given"),
    (ensemble_of, X, {"directions": torch.ones(4, 1, 3)}, r"`directions` should have shape \[u, 3\] or \[5, u, 3\]"),
    (ensemble_of, X, {"directions": torch.zeros(5, 1, 3)}, "`directions` should be non-zero"),
    (ensemble_of, X, {"labels": torch.arange(5)}, r"`labels` should have shape \[3\] or \[15\]. Got \[5\]. Give"),
    (lambda: ensemble_of()[0], X, {"labels": torch.arange(4)}, r"`labels` should have shape \[3\]. Got \[4\]"),
    (lambda: ensemble_of()[0], X[:, :3], {}, "`points` should have 4 features"),
    (lambda: nn.Conv1d(2, 3, 2), torch.zeros(5, 3, 4), {}, "`points` should fit the model"),
    (lambda: nn.Conv1d(2, 3, 2), torch.zeros(5, 2, 4).double(), {}, "`points` should have the model's precision, t"),
]


@pytest.mark.parametrize(("model", "points", "arguments", "message"), REFUSED)
def test_gradient_fields_are_refused(model, points, arguments, message):
    with pytest.raises(ValueError, match=message):
        ge.gradient_fields(model(), points, **arguments)


OVERFLOWS = [(1e200, 0, 1e200, "finite values at 'output'"), (1e308, -1, 0, "finite gradients at '(hidden1|0)'")]


@pytest.mark.parametrize(("factor", "bias", "scale", "message"), OVERFLOWS)
def test_overflow_and_weights_that_are_not_finite_are_refused(factor, bias, scale, message):
    """At the second of them the hidden units are off: the values are finite, the gradients are not."""
    ensemble = ensemble_of([4, 7, 3])
    with torch.no_grad():
        ensemble.output.weight.fill_(factor)
        ensemble.hidden1.linear.bias.fill_(bias)
    models = {"hidden1": [ensemble, ensemble[0]], "0": [nn.Sequential(ensemble[0].hidden1, ensemble[0].output)]}
    for wrt, model in [(wrt, model) for wrt, some in models.items() for model in some]:
        with pytest.raises(ValueError, match=f"`points` should give {message}. Got an overflow. Scale"):
            ge.gradient_fields(model, torch.ones(5, 4).double() * scale, directions=[[10.0] * 3], wrt=wrt)
        with torch.no_grad():
            model.get_parameter(f"{'output' if wrt == 'hidden1' else '1'}.weight")[0] = torch.nan
        with pytest.raises(ValueError, match=r"`model` should have finite parameters. Got NaN or infinity in"):
            ge.gradient_fields(model, X)


# regions


def patterns_by_hand(network, x, unit):
    """For each sample: which units of each hidden layer the unit's gradient passes through, and are on."""
    result = []
    for a in x:
        before, after = [], []
        for layer in list(network.children())[:-1]:
            before.append(layer.linear(a))
            a = layer.activation(before[-1])
            after.append(a)
        gradients = torch.autograd.grad(network.output(a)[unit], after)
        on = [(g != 0) & (b > 0) for g, b in zip(gradients, before, strict=True)]
        result.append(tuple(torch.cat(on).tolist()))
    return result


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU])
@pytest.mark.parametrize("widths", [(2, 6, 3), (2, 70, 2), (2, 5, 4, 3)])
def test_regions_are_the_patterns_that_a_unit_reads(widths, activation):
    network, x, counts = ge.MLP(widths, activation, seed=1).double(), torch.randn(80, 2).double(), []
    with torch.no_grad():
        network.output.weight[0, ::2] = 0  # unit 0 reads half of the last hidden layer
        if len(widths) == 4:
            network.hidden2.linear.bias -= 0.3  # at some samples all of it is off
    fields = ge.gradient_fields(network, x)
    for unit in range(widths[-1]):
        patterns, regions = patterns_by_hand(network, x, unit), fields.regions[unit].tolist()
        counts.append(len(set(regions)))
        assert len(set(zip(patterns, regions, strict=True))) == len(set(patterns)) == counts[-1]  # one to each pattern
        assert set(regions) == set(range(counts[-1]))
        for region in set(regions):
            gradients = fields.gradients[unit][fields.regions[unit] == region]
            assert_close(gradients, gradients[:1].expand_as(gradients))
    assert 1 < counts[0] < counts[1]


def test_unit_that_reads_nothing_has_one_region():
    network = nn.Sequential(linear([[1, 0], [0, 1]]), nn.ReLU(), linear([[1, 1], [0, 0], [1, 0]]))
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [2.0, -3.0], [-1.0, -1.0]], dtype=torch.float64)
    regions = ge.gradient_fields(network, x).regions
    assert [len(row.unique()) for row in regions] == [4, 1, 2]
    assert regions[0, 1] == regions[0, 3]
    assert regions[2, 0] == regions[2, 1] == regions[2, 3] != regions[2, 2] == regions[2, 4]


def test_colliding_numbers_do_not_merge_patterns():
    flags = torch.rand(2, 3, 40, 130) > 0.2
    flags[..., :100] = flags[:, :, :1, :100]  # of 30 units that differ
    flags[:, :, 20:] = flags[:, :, :20]  # every pattern twice
    words = np.concatenate([packed(flags.numpy()), packed(flags.numpy()[..., 50:])], axis=-1).reshape(6, 40, -1)
    exact = torch.from_numpy(distinct(words))
    for mix in (lambda keys: keys[..., 0] * 0, lambda keys: keys[..., -1] % 3):
        for one, two in zip(exact, torch.from_numpy(distinct(words, mix)), strict=True):
            assert torch.equal(one[:, None] == one, two[:, None] == two)
    for row, bits in zip(exact, flags.flatten(0, 1), strict=True):
        assert torch.equal(row[:, None] == row, (bits[:, None] == bits).all(-1))
