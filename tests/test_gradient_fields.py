"""Gradient fields of networks and ensembles: how they are taken, and their linear pieces."""

import numpy as np
import pytest
import torch
from _asserts import assert_close, unchanged
from _networks import Convolutional, Residual, linear
from _oracle import gradient_loop
from torch import nn

import gradembed as ge
from gradembed.gradients import session
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
    assert hidden.is_shared
    assert fields.groups.tolist() == [0, 0, 0]
    assert fields.labels is None
    assert (fields.regions is None) == (activation in (nn.Tanh, nn.GELU))


@pytest.mark.parametrize("make", [Residual, Convolutional])
def test_general_networks_equal_the_loop(make):
    model = make().double().eval()
    x = torch.randn(9, 4).double() if make is Residual else torch.randn(9, 1, 4, 4).double()
    with unchanged(model):
        fields = ge.gradient_fields(model, x)
    assert_close(fields.gradients.transpose(0, 1), gradient_loop(lambda z: model(z.clone()), lambda s: s, x))
    assert_close(fields.points, x.flatten(1))
    assert_close(fields.values.T, model(x).detach())
    assert fields.regions is None


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
    {},
    {"wrt": "hidden1"},
    {"wrt": "hidden2"},
    {"wrt": "hidden1.linear"},
    {"wrt": "hidden1", "unit_layer": "hidden2"},
    {"wrt": "hidden2.linear", "unit_layer": "hidden2.activation"},
    {"wrt": "input", "unit_layer": "hidden1", "units": [3, 0, 3]},
    {"wrt": "hidden1", "units": [-0]},
    {"directions": "shared"},
    {"unit_layer": "hidden2", "directions": "own"},
]


@pytest.mark.parametrize("group_bytes", [1, 8 * 2**20])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_ensemble_equals_its_members(case, activation, group_bytes, monkeypatch):
    monkeypatch.setattr(session, "GROUP_BYTES", group_bytes)  # one member at a time, all at once
    ensemble, case = ensemble_of(activation=activation), dict(case)
    width = {"hidden2": 6}.get(case.get("unit_layer"), 3)
    directions = torch.randn(5, 2, width).double()
    if "directions" in case:
        case["directions"] = directions if case["directions"] == "own" else directions[0]
    for points in (torch.randn(20, 4).double(), torch.randn(5, 20, 4).double()):
        fields = ge.gradient_fields(ensemble, points, **case)
        assert fields.is_shared is (case.get("wrt", "input") == "input" and points.ndim == 2)
        u = len(fields) // 5
        assert fields.groups.tolist() == [i for i in range(5) for _ in range(u)]
        for i in range(5):
            own = dict(case)
            if isinstance(own.get("directions"), torch.Tensor) and own["directions"].ndim == 3:
                own["directions"] = own["directions"][i]
            x = points if points.ndim == 2 else points[i]
            expected = ge.unit_gradients(ensemble[i], x, own.pop("wrt", "input"), **own)
            part = fields[i * u : (i + 1) * u]
            assert_close(part.gradients, expected.gradients.transpose(0, 1))
            assert_close(part.own_points(), expected.activations.expand(u, -1, -1))
            assert_close(part.values, expected.values.T)
            alone = ge.gradient_fields(ensemble[i], x, **{**case, **own})
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


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": 3}, TypeError, "`model` should be a torch.nn.Module"),
        ({"points": [[0.0]]}, TypeError, "`points` should be a torch.Tensor"),
        ({"points": torch.zeros(5, 4)}, ValueError, "`points` should have the model's precision, torch.float64"),
        (
            {"points": torch.zeros(5, 3).double()},
            ValueError,
            r"`points` should have shape \[m, 4\] for all members, or",
        ),
        ({"points": torch.zeros(4, 5, 4).double()}, ValueError, r"or \[5, m, 4\]. Got a float64 tensor of shape"),
        ({"points": torch.zeros(0, 4).double()}, ValueError, "`points` should hold at least one sample"),
        ({"points": torch.full((5, 4), torch.nan).double()}, ValueError, "`points` should be finite"),
        ({"wrt": 3}, TypeError, "`wrt` should be one layer's name"),
        ({"wrt": "hidden9"}, ValueError, "`wrt` should name a layer of the model. Got 'hidden9'"),
        ({"wrt": "output"}, ValueError, "`unit_layer` should come after 'output', and depend on it. Got 'output'"),
        ({"unit_layer": None}, TypeError, "`unit_layer` should be one layer's name"),
        ({"unit_layer": "top"}, ValueError, "`unit_layer` should name a layer of the model"),
        ({"wrt": "hidden2", "unit_layer": "hidden1"}, ValueError, "`unit_layer` should come after 'hidden2'"),
        ({"units": [3]}, ValueError, "`units` should lie between 0 and 2, the units of 'output'"),
        ({"units": []}, ValueError, "`units` should be a list of indices, not empty"),
        ({"units": [0], "directions": torch.eye(3)}, ValueError, "`directions` should be None when `units` is given"),
        ({"directions": torch.eye(4)}, ValueError, r"`directions` should have shape \[u, 3\]"),
        ({"directions": torch.ones(4, 1, 3)}, ValueError, r"`directions` should have shape \[u, 3\], or \[5, u, 3\]"),
        ({"directions": torch.zeros(5, 1, 3)}, ValueError, "`directions` should be non-zero"),
        ({"directions": [1.0, 0, 0]}, TypeError, "`directions` should be a torch.Tensor"),
        ({"labels": torch.arange(5)}, ValueError, r"`labels` should be a tensor of shape \[3\] or \[15\]"),
        ({"labels": [0, 1, 2]}, TypeError, r"`labels` should be a tensor of shape"),
        ({"labels": torch.zeros(3)}, ValueError, "`labels` should be int64"),
    ],
)
def test_gradient_fields_are_refused(arguments, error, message):
    defaults = {"model": ensemble_of(), "points": torch.zeros(5, 4).double()}
    given = defaults | arguments
    with pytest.raises(error, match=message):
        ge.gradient_fields(given.pop("model"), given.pop("points"), **given)


@pytest.mark.parametrize("shape", [(5, 3), (5, 5, 4)])
def test_points_that_do_not_fit_a_network_are_refused(shape):
    with pytest.raises(ValueError, match=r"`points` should have shape \[m, 4\]. Got a float64 tensor of shape"):
        ge.gradient_fields(ensemble_of()[0], torch.zeros(shape).double())


class Square(nn.Module):
    def forward(self, x):
        return x.square()


@pytest.mark.parametrize(
    ("model", "points", "message"),
    [
        (nn.Sequential(nn.Linear(4, 2)), torch.zeros(5, 3), "`points` should have 4 features"),
        (nn.Conv1d(2, 3, 2), torch.zeros(5, 3, 4), "`points` should fit the model"),
        (nn.Conv1d(2, 3, 2), torch.zeros(5, 2, 4).double(), "`points` should have the model's precision, torch"),
        (
            Square(),
            torch.full((5, 4), 1e30),
            "`points` should give finite values at 'output'. Got an overflow. Scale points",
        ),
    ],
)
def test_errors_of_other_modules_name_the_points(model, points, message):
    with pytest.raises(ValueError, match=message):
        ge.gradient_fields(model, points)


def test_ensembles_and_networks_that_are_not_finite_are_refused():
    ensemble = ensemble_of()
    with torch.no_grad():
        ensemble.output.weight[0] = torch.nan
    for model in (ensemble, ensemble[0]):
        with pytest.raises(ValueError, match=r"`model` should have finite parameters. Got NaN or infinity in"):
            ge.gradient_fields(model, torch.zeros(5, 4).double())
    with pytest.raises(ValueError, match=r"`labels` should be a tensor of shape \[3\]. Got a int64"):
        ge.gradient_fields(ensemble_of()[0], torch.zeros(5, 4).double(), labels=torch.arange(4))


@pytest.mark.parametrize(
    ("layer", "factor", "scale", "message"),
    [
        ("output", 1e308, 1, r"`points` should give finite gradients at 'hidden1'. Got an overflow. Scale"),
        ("output", 1e200, 1e200, "`points` should give finite values at 'output'"),
        ("hidden1.linear", 1e200, 1e200, "`points` should give finite activations at 'hidden1'"),
    ],
)
def test_overflow_is_refused(layer, factor, scale, message):
    ensemble = ensemble_of([4, 7, 3])
    with torch.no_grad():
        ensemble.get_submodule(layer).weight.mul_(factor)
    directions = torch.full((1, 3), 10.0 if factor == 1e308 else 1.0).double()
    for model in (ensemble, ensemble[0], nn.Sequential(ensemble[0].hidden1, ensemble[0].output)):
        names = {"wrt": "hidden1"} if not isinstance(model, nn.Sequential) else {"wrt": "0"}
        with pytest.raises(ValueError, match=message.replace("'hidden1'", repr(names["wrt"]))):
            ge.gradient_fields(model, torch.ones(5, 4).double() * scale, directions=directions, **names)


# regions


def patterns_by_hand(network, x, unit):
    """For each sample: which units of each hidden layer the unit's gradient passes through, and are on."""
    result = []
    for sample in x[:, None]:
        tape, a = [], sample
        for layer in list(network.children())[:-1]:
            before = layer.linear(a)
            a = layer.activation(before)
            tape.append((before, a))
        gradients = torch.autograd.grad(network.output(a)[0, unit], [after for _, after in tape])
        result.append(
            tuple(
                tuple(((g[0] != 0) & (before[0] > 0)).tolist()) for g, (before, _) in zip(gradients, tape, strict=True)
            )
        )
    return result


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU])
@pytest.mark.parametrize("widths", [(2, 6, 3), (2, 70, 2), (2, 5, 4, 3)])
def test_regions_are_the_patterns_that_a_unit_reads(widths, activation):
    network = ge.MLP(widths, activation, seed=1).double()
    with torch.no_grad():
        network.output.weight[0, ::2] = 0  # unit 0 reads half of the last hidden layer
        if len(widths) == 4:
            network.hidden2.linear.bias -= 0.3  # at some samples all of it is off
    x = torch.randn(80, 2).double()
    fields = ge.gradient_fields(network, x)
    counts = []
    for unit in range(widths[-1]):
        patterns, regions = patterns_by_hand(network, x, unit), fields.regions[unit].tolist()
        pairs = set(zip(patterns, regions, strict=True))
        assert len(pairs) == len(set(patterns)) == len(set(regions))  # one number to each pattern
        assert sorted(set(regions)) == list(range(len(set(regions))))
        for region in set(regions):
            gradients = fields.gradients[unit][fields.regions[unit] == region]
            assert_close(gradients, gradients[:1].expand_as(gradients))
        counts.append(len(set(regions)))
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
    words = np.concatenate([packed(flags.numpy()), packed(flags.numpy()[..., 50:])], axis=-1)
    words = words.reshape(6, 40, -1)
    exact = torch.from_numpy(distinct(words))
    for mix in (lambda keys: keys[..., 0] * 0, lambda keys: keys[..., -1] % 3):
        for one, two in zip(exact, torch.from_numpy(distinct(words, mix)), strict=True):
            assert torch.equal(one[:, None] == one, two[:, None] == two)
    for row, bits in zip(exact, flags.flatten(0, 1), strict=True):
        assert torch.equal(row[:, None] == row, (bits[:, None] == bits).all(-1))
