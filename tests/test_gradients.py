from itertools import pairwise

import pytest
import torch
from _asserts import assert_close, unchanged
from _networks import BatchMean, Blocks, Convolutional, Noise, Residual, crossing, linear, random_networks
from _oracle import gradient_loop
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gradembed as ge
from gradembed.gradients import unit_rows
from gradembed.gradients.chain import Chain

ACTIVATIONS = [
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity, nn.ELU, nn.SELU, nn.CELU,
    nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Mish, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid,
    nn.Tanhshrink,
]  # fmt: skip


def samples(n):
    """Four features, drawn without touching the random state."""
    return torch.arange(4.0 * n).sin().reshape(n, 4)


def as_chain(model, x):
    return Chain.of(model, x) is not None


def parts_of(model, wrt, unit_layer):
    """Split an MLP or Sequential of named children into body (up to wrt) and head (from there to the units)."""
    names = [name for name, _ in model.named_children()]
    children = list(model.children())
    low = 0 if wrt == "input" else names.index(wrt) + 1
    return nn.Sequential(*children[:low]), nn.Sequential(*children[low : names.index(unit_layer) + 1])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_chain_equals_the_loop_for_every_activation_and_pair_of_layers(activation):
    network = ge.MLP([5, 7, 3, 6, 2], activation, seed=0).double()
    x = torch.randn(6, 5, dtype=torch.float64)
    assert as_chain(network, x)
    names = ["input", "hidden1", "hidden2", "hidden3", "output"]
    pairs = [(low, high) for i, low in enumerate(names) for high in names[i + 1 :]]
    assert len(pairs) == 10
    for wrt, unit_layer in pairs:
        body, head = parts_of(network, wrt, unit_layer)
        result = ge.unit_gradients(network, x, wrt, unit_layer=unit_layer)
        assert_close(result.gradients, gradient_loop(head, body, x))
        assert_close(result.activations, body(x).detach())
        assert_close(result.values, head(body(x)).detach())
        assert (result.unit_layer, result.wrt) == (unit_layer, wrt)


def chain_kinds():
    norm = nn.BatchNorm1d(6)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    shared = nn.Tanh()
    return {
        "in place": nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)),
        "leaky in place": nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(0.2, inplace=True), nn.Linear(6, 3)),
        "starts with activation": nn.Sequential(nn.Tanh(), nn.Linear(4, 6), nn.ELU(inplace=True), nn.Linear(6, 3)),
        "ends with activation": nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3), nn.Sigmoid()),
        "two linear in a row": nn.Sequential(
            nn.Linear(4, 9), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 7), nn.Linear(7, 3)
        ),
        "batch norm in eval mode": nn.Sequential(nn.Linear(4, 6), norm, nn.ReLU(), nn.Linear(6, 3)),
        "dropout in eval mode": nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3)),
        "no bias": nn.Sequential(nn.Linear(4, 6, bias=False), nn.SiLU(), nn.Linear(6, 3, bias=False)),
        "nested": nn.Sequential(nn.Sequential(nn.Linear(4, 6), nn.ReLU()), nn.Sequential(nn.Linear(6, 3))),
        "module used twice": nn.Sequential(nn.Linear(4, 6), shared, nn.Linear(6, 5), shared, nn.Linear(5, 3)),
        "only linear": nn.Sequential(nn.Linear(4, 3)),
    }


@pytest.mark.parametrize("kind", chain_kinds())
def test_every_kind_of_chain_equals_the_loop(kind):
    model = chain_kinds()[kind].double().eval()
    x = torch.randn(5, 4, dtype=torch.float64)
    assert as_chain(model, x)
    names = ["input", *(name for name, _ in model.named_children())]
    for position, (wrt, _) in enumerate(pairwise(names)):
        body, head = nn.Sequential(*list(model)[:position]), nn.Sequential(*list(model)[position:])
        out = ge.unit_gradients(model, x, wrt)
        assert_close(
            out.gradients, gradient_loop(lambda s, head=head: head(s.clone()), lambda s, body=body: body(s.clone()), x)
        )


def test_pictures_flattened_by_the_first_module_are_a_chain():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x = torch.randn(4, 1, 3, 4, dtype=torch.float64)
    assert as_chain(model, x)
    result = ge.unit_gradients(model, x, "input")
    assert_close(result.gradients, gradient_loop(model, lambda s: s, x))
    assert_close(result.activations, x.flatten(1))


def general_cases():
    residual, convolutional, blocks = Residual().double(), Convolutional().double().eval(), Blocks().double()
    flat, image = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 1, 4, 4, dtype=torch.float64)
    r, c, b = residual, convolutional, blocks
    stem = lambda x: torch.relu(r.stem(x))  # noqa: E731
    rest = lambda h: r.head(h + torch.relu(r.branch(r.norm(h))))  # noqa: E731
    return {
        "residual, input": (r, flat, "input", rest_of := (lambda x: rest(stem(x))), lambda x: x),
        "residual, before an in-place activation": (r, flat, "stem", lambda h: rest(torch.relu(h)), r.stem),
        "residual, last": (r, flat, "output", None, rest_of),
        "convolution, input": (c, image, "input", lambda x: c(x), lambda x: x),
        "convolution, conv": (c, image, "conv", lambda h: c.head(c.pool(torch.tanh(c.norm(h))).flatten(1)), c.conv),
        "convolution, pool": (c, image, "pool", lambda h: c.head(h.flatten(1)),
                              lambda x: c.pool(torch.tanh(c.norm(c.conv(x))))),
        "module list, input": (b, flat, "input", lambda x: b(x), lambda x: x),
    }  # fmt: skip


@pytest.mark.parametrize("case", [name for name in general_cases() if "last" not in name])
def test_general_path_equals_the_loop(case):
    model, x, wrt, head, body = general_cases()[case]
    assert not as_chain(model, x)
    with unchanged(model):
        result = ge.unit_gradients(model, x, wrt)
    assert_close(result.gradients, gradient_loop(head, body, x))
    assert_close(result.activations, body(x).detach().flatten(1))
    assert_close(result.values, model(x.clone()).detach())


def test_a_layer_that_feeds_two_places_collects_both_gradients():
    model = Blocks().double()
    x = torch.randn(5, 4, dtype=torch.float64)

    def head(hidden, sample):
        first = torch.relu(hidden) * sample
        return model.head(torch.relu(model.layers[1](first)) * sample)

    expected = torch.cat(
        [gradient_loop(lambda h, s=s: head(h, s), lambda z: model.layers[0](z), s) for s in x.split(1)]
    )
    assert_close(ge.unit_gradients(model, x, "layers.0").gradients, expected)


@pytest.mark.parametrize("name", ["0.linear", "hidden1.activation", "hidden2", "input"])
def test_chain_and_general_path_agree(name):
    network, x = ge.MLP([5, 7, 6, 3], nn.GELU, seed=1).double(), torch.randn(8, 5, dtype=torch.float64)
    name = name.replace("0.linear", "hidden1.linear")
    fast = ge.unit_gradients(network, x, name)
    handle = network.hidden1.register_forward_hook(lambda *_: None)  # a hook sends the model down the general path
    assert not as_chain(network, x)
    slow = ge.unit_gradients(network, x, name)
    handle.remove()
    for field in ("gradients", "activations", "values"):
        assert_close(getattr(fast, field), getattr(slow, field))
    assert fast.unit_labels == slow.unit_labels


@pytest.mark.parametrize("make", [lambda: ge.MLP([4, 8, 5, 3], seed=0), Residual])
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 7, 100])
def test_chunk_size_changes_nothing(make, chunk_size):
    model, x = make().double(), torch.randn(7, 4, dtype=torch.float64)
    whole, parts = ge.unit_gradients(model, x, "input"), ge.unit_gradients(model, x, "input", chunk_size=chunk_size)
    assert_close(parts.gradients, whole.gradients)
    assert_close(parts.values, whole.values)


def test_units_and_directions_read_the_unit_layer():
    network, x = ge.MLP([4, 8, 6, 3], seed=0).double(), torch.randn(7, 4, dtype=torch.float64)
    whole = ge.unit_gradients(network, x, "input", unit_layer="hidden2")
    some = ge.unit_gradients(network, x, "input", unit_layer="hidden2", units=[4, 0, 4])
    assert_close(some.gradients, whole.gradients[:, [4, 0, 4]])
    assert some.unit_labels == ("4", "0", "4")
    directions = torch.randn(2, 6, dtype=torch.float64)
    mixed = ge.unit_gradients(network, x, "input", unit_layer="hidden2", directions=directions)
    assert_close(mixed.gradients, torch.einsum("ku,nud->nkd", directions, whole.gradients))
    assert_close(mixed.values, whole.values @ directions.T)
    assert mixed.unit_labels == ("direction 0", "direction 1")
    # the logits are directions in the last hidden layer, up to the bias
    logits = ge.unit_gradients(network, x, "input")
    read = ge.unit_gradients(network, x, "input", unit_layer="hidden2", directions=network.output.weight)
    assert_close(read.gradients, logits.gradients)


def test_units_may_come_as_a_tensor_or_a_range():
    network, x = ge.MLP([4, 8, 3], seed=0), torch.randn(2, 4)
    for units in (torch.tensor([0, 2]), range(0, 3, 2)):
        assert ge.unit_gradients(network, x, "input", units=units).unit_labels == ("0", "2")


def test_gradients_are_of_one_sample_whatever_the_number_of_samples():
    network, x = ge.MLP([4, 8, 3], seed=0).double(), torch.randn(1, 4, dtype=torch.float64)
    alone = ge.unit_gradients(network, x, "input").gradients
    among = ge.unit_gradients(network, torch.cat([x, torch.randn(99, 4, dtype=torch.float64)]), "input").gradients[:1]
    assert_close(among, alone)
    assert float(alone.abs().max()) > 1e-3  # a hidden 1/n would show


def test_hand_weighted_network():
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    result = ge.unit_gradients(crossing(), x, "input")
    expected = [[[1, 1], [1, -1]], [[1, 0], [1, 0]], [[0, 1], [0, -1]], [[0, 0], [0, 0]]]
    assert_close(result.gradients, torch.tensor(expected, dtype=torch.float64))


def test_unit_vectors_have_length_one_and_zero_stays_zero():
    gradients = torch.tensor([[[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0], [1e30, 1e30]]])
    vectors = ge.UnitGradients(gradients, torch.zeros(1, 2), torch.zeros(1, 4), "output", "input", tuple("abcd"))
    expected = torch.tensor([[[0.6, 0.8], [0.0, 0.0], [1.0, 0.0], [0.5**0.5, 0.5**0.5]]])
    assert_close(vectors.unit_vectors(), expected, rtol=1e-6)
    assert repr(vectors) == "UnitGradients(1 samples, 4 units of 'output' with respect to 2 of 'input')"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unit_rows_of_any_size(dtype):
    kind = torch.finfo(dtype)
    sizes = torch.tensor([kind.tiny, 1e-30, 1, 1e30, kind.max / 2], dtype=dtype)
    rows = sizes[:, None] * torch.tensor([2.0, -2.0, 1.0], dtype=dtype)
    assert rows[-1].norm().isinf()
    vectors, lengths = unit_rows(rows)
    assert_close(vectors, torch.tensor([[2.0, -2.0, 1.0]], dtype=dtype).expand(5, 3) / 3, rtol=1e-6)
    assert_close(lengths, 3 * sizes.double(), rtol=1e-6)


def test_unit_rows_in_place_are_the_same_and_zero_stays_zero():
    rows = torch.cat([samples(6), torch.zeros(1, 4), -torch.zeros(1, 4)])
    vectors, lengths = unit_rows(rows)
    written, again = unit_rows(rows, out=rows)
    assert written is rows
    assert torch.equal(rows, vectors)
    assert torch.equal(lengths, again)
    assert (vectors[6:] == 0).all()
    assert not lengths[6:].signbit().any()  # no minus zero


@settings(max_examples=200)
@given(random_networks(), st.data())
def test_random_networks_equal_the_loop(case, data):
    network, x = case
    names = ["input", *(name for name, _ in network.named_children())]
    high = data.draw(st.integers(1, len(names) - 1))
    low = data.draw(st.integers(0, high - 1))
    body, head = parts_of(network, names[low], names[high])
    result = ge.unit_gradients(network, x, names[low], unit_layer=names[high])
    assert_close(result.gradients, gradient_loop(head, body, x))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("make", [lambda: ge.MLP([4, 8, 3], nn.Tanh, seed=0), Residual])
def test_works_where_gradients_are_switched_off(make, mode):
    model, x = make(), torch.randn(3, 4)
    expected = ge.unit_gradients(model, x, "input").gradients
    with mode():
        inside = ge.unit_gradients(model, x * 1, "input")
    assert_close(inside.gradients, expected, rtol=1e-5, atol=1e-7)
    assert not inside.gradients.requires_grad


def test_samples_that_require_a_gradient_or_are_not_contiguous():
    network, x = ge.MLP([4, 8, 3], seed=0), torch.randn(4, 5).T
    assert not x.is_contiguous()
    expected = ge.unit_gradients(network, x.contiguous(), "input").gradients
    result = ge.unit_gradients(network, x.clone().requires_grad_(), "input").gradients
    assert torch.equal(ge.unit_gradients(network, x, "input").gradients, expected)
    assert torch.equal(result, expected)
    assert not result.requires_grad


def test_a_frozen_model_has_gradients_too():
    for model in (ge.MLP([4, 8, 3], seed=0), Residual()):
        x = torch.randn(3, 4)
        expected = ge.unit_gradients(model, x, "input").gradients
        assert torch.equal(ge.unit_gradients(model.requires_grad_(False), x, "input").gradients, expected)


def test_the_results_are_the_callers_own():
    network, x = ge.MLP([4, 3], seed=0), torch.randn(5, 4)
    weight = network.output.weight.clone()
    result = ge.unit_gradients(network, x, "input")
    result.gradients.add_(1)
    result.activations.add_(1)
    assert torch.equal(network.output.weight, weight)
    assert bool((result.gradients[0] == result.gradients[1]).all())


BAD_X = {
    "no tensor": ([[1.0] * 4], TypeError, r"`x` should be a torch.Tensor. Got list"),
    "integers": (torch.ones(3, 4, dtype=torch.int64), ValueError, r"`x` should be float32 or float64. Got a int64"),
    "half": (torch.ones(3, 4, dtype=torch.float16), ValueError, r"`x` should be float32 or float64. Got a float16"),
    "one axis": (torch.ones(4), ValueError, r"`x` should have a sample axis.*x\[None\]"),
    "no samples": (torch.ones(0, 4), ValueError, r"`x` should hold at least one sample"),
    "NaN": (torch.full((3, 4), torch.nan), ValueError, r"`x` should be finite. Got 12 NaN or infinite values of 12"),
    "infinity": (torch.tensor([[1.0, 1, 1, torch.inf]]), ValueError, r"`x` should be finite. Got 1 NaN or infinite"),
    "precision": (torch.ones(3, 4, dtype=torch.float64), ValueError, r"`x` should have the model's precision"),
}


@pytest.mark.parametrize("function", [lambda m, x: ge.unit_gradients(m, x, "input"), ge.interference])
@pytest.mark.parametrize("make", [lambda: ge.MLP([4, 8, 3], seed=0), Residual])
@pytest.mark.parametrize("case", BAD_X)
def test_bad_samples_are_refused(function, make, case):
    x, error, message = BAD_X[case]
    model = make()
    with unchanged(model), pytest.raises(error, match=message):
        function(model, x)


@pytest.mark.parametrize("function", [lambda m, x: ge.unit_gradients(m, x, "input"), ge.interference])
def test_wrong_width_is_refused(function):
    with pytest.raises(ValueError, match=r"`x` should have 4 features.*shape \[3, 5\]"):
        function(ge.MLP([4, 8, 3], seed=0), torch.ones(3, 5))
    model = Residual()
    with (
        unchanged(model),
        pytest.raises(ValueError, match=r"`x` should fit the model. Got.*\[2, 5\], on which Residual"),
    ):
        function(model, torch.ones(3, 5))


def test_no_module_and_broken_modules_are_refused():
    with pytest.raises(TypeError, match=r"`model` should be a torch.nn.Module. Got function"):
        ge.unit_gradients(lambda x: x, torch.ones(3, 4), "input")
    network = ge.MLP([4, 8, 3], seed=0)
    with torch.no_grad():
        network.hidden1.linear.bias[0] = torch.nan
    with pytest.raises(
        ValueError, match=r"`model` should have finite parameters. Got NaN or infinity in 'hidden1.linear.b"
    ):
        ge.unit_gradients(network, torch.ones(3, 4), "input")


def test_another_device_is_refused():
    with pytest.raises(ValueError, match=r"`x` should be on the model's device, meta. Got cpu. Move it"):
        ge.unit_gradients(nn.Sequential(nn.Linear(4, 2, device="meta")), torch.ones(3, 4), "input")


LAYERS = {
    "unknown wrt": ({"wrt": "hidden9"}, ValueError, r"`wrt` should name a layer of the model. Got 'hidden9'"),
    "wrt no name": ({"wrt": 3}, TypeError, r"`wrt` should be one layer's name"),
    "unknown unit layer": ({"wrt": "input", "unit_layer": "x"}, ValueError, r"`unit_layer` should name a layer"),
    "unit layer no name": ({"wrt": "input", "unit_layer": 3}, TypeError, r"`unit_layer` should be a layer's name"),
    "units of the same layer": ({"wrt": "FIRST", "unit_layer": "FIRST"}, ValueError, r"`unit_layer` should come after"),
    "unit layer before": ({"wrt": "LATER", "unit_layer": "FIRST"}, ValueError, r"`unit_layer` should come after"),
    "unit too large": ({"wrt": "input", "units": [3]}, ValueError, r"`units` should lie between 0 and 2.*Got 3"),
    "unit negative": ({"wrt": "input", "units": [-1]}, ValueError, r"`units` should lie between 0 and 2.*Got -1"),
    "unit far negative": ({"wrt": "input", "units": [-9]}, ValueError, r"`units` should lie between 0 and 2.*Got -9"),
    "unit no integer": ({"wrt": "input", "units": [0.5]}, TypeError, r"`units` should be an integer. Got 0.5"),
    "units a number": ({"wrt": "input", "units": 1}, TypeError, r"`units` should be a list of indices. Got 1"),
    "no units": ({"wrt": "input", "units": []}, ValueError, r"`units` should be a list of indices, not empty"),
    "both": ({"wrt": "input", "units": [0], "directions": torch.ones(1, 3)}, ValueError, r"`directions` should be N"),
    "directions a list": ({"wrt": "input", "directions": [[1.0]]}, TypeError, r"`directions` should be a torch.Tensor"),
    "directions too wide": ({"wrt": "input", "directions": torch.ones(2, 4)}, ValueError, r"shape \[u, 3\]"),
    "no directions": ({"wrt": "input", "directions": torch.ones(0, 3)}, ValueError, r"shape \[u, 3\]"),
    "integer directions": ({"wrt": "input", "directions": torch.ones(2, 3).long()}, ValueError, r"be finite"),
    "NaN directions": ({"wrt": "input", "directions": torch.full((2, 3), torch.nan)}, ValueError, r"be finite"),
    "zero direction": ({"wrt": "input", "directions": torch.zeros(2, 3)}, ValueError, r"should be non-zero"),
    "chunk of none": ({"wrt": "input", "chunk_size": 0}, ValueError, r"`chunk_size` should be at least 1. Got 0"),
    "chunk no integer": ({"wrt": "input", "chunk_size": 2.0}, TypeError, r"`chunk_size` should be an integer. Got 2.0"),
    "chunk true": ({"wrt": "input", "chunk_size": True}, TypeError, r"`chunk_size` should be an integer. Got True"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["chain", "general"])
@pytest.mark.parametrize("case", LAYERS)
def test_bad_layers_and_units_are_refused(case, kind):
    model = ge.MLP([4, 5, 5, 3], seed=0) if kind == "chain" else Residual()
    first, later = ("hidden1", "hidden2") if kind == "chain" else ("stem", "branch")
    arguments, error, message = LAYERS[case]
    names = {"FIRST": first, "LATER": later}
    arguments = {k: names.get(v, v) if isinstance(v, str) else v for k, v in arguments.items()}
    with unchanged(model), pytest.raises(error, match=message):
        ge.unit_gradients(model, samples(3), **arguments)


MIXING = {
    "batch norm": (
        nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
        r"sample by itself. Got BatchNorm1d at '1'.*eval\(\)",
    ),
    "batch norm alone": (nn.BatchNorm1d(4), r"sample by itself. Got BatchNorm1d in train mode"),
    "dropout": (
        nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3)),
        r"same output twice. Got Dropout at '0' in train mode",
    ),
    "own mixing": (nn.Sequential(nn.Linear(4, 3), BatchMean()), r"sample by itself. Got an output that changed"),
    "own noise": (nn.Sequential(nn.Linear(4, 3), Noise()), r"the same output twice. Got two different ones"),
}


@pytest.mark.parametrize("function", [lambda m, x: ge.unit_gradients(m, x, "input"), ge.interference])
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("case", MIXING)
def test_models_whose_samples_depend_on_each_other_are_refused(function, case, n):
    model, message = MIXING[case]
    model.train()
    with unchanged(model), pytest.raises(ValueError, match=r"`model` should (treat|give) .*" + message):
        function(model, samples(n))


def test_batch_norm_without_running_statistics_is_refused_in_eval_mode_too():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval()
    with pytest.raises(
        ValueError, match=r"BatchNorm1d at '1' without running statistics. Use track_running_stats=True"
    ):
        ge.unit_gradients(model, torch.randn(5, 4), "input")


def test_batch_norm_and_dropout_are_accepted_in_eval_mode():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).eval()
    assert ge.unit_gradients(model, torch.randn(5, 4), "input").gradients.shape == (5, 3, 4)


class Reuse(nn.Module):
    def __init__(self):
        super().__init__()
        self.twice, self.unused, self.many = nn.Linear(4, 4), nn.Linear(4, 4), nn.LSTM(4, 4, batch_first=True)

    def forward(self, x):
        return self.twice(torch.tanh(self.twice(x))) + self.many(x[:, None])[0][:, 0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("twice", r"runs once in a forward pass. Got 'twice', which runs more often"),
        ("unused", r"`wrt` should name a layer that the forward pass runs. Got 'unused'"),
        ("many", r"returns one float tensor with a row per sample. Got 'many', which returned tuple"),
    ],
)
def test_layers_without_one_clear_output_are_refused(name, message):
    model, x = Reuse(), torch.randn(3, 4)
    with unchanged(model), pytest.raises(ValueError, match=message):
        ge.unit_gradients(model, x, name)


def test_a_module_used_twice_elsewhere_does_no_harm():
    model = Reuse().double()
    x = torch.randn(3, 4, dtype=torch.float64)
    with unchanged(model):
        result = ge.unit_gradients(model, x, "input")
    assert_close(result.gradients, gradient_loop(model, lambda s: s, x))
    assert ge.interference(model, x).layers == ("input",)


def test_unused_unit_layer_is_refused():
    with pytest.raises(ValueError, match=r"`unit_layer` should name a layer that the forward pass runs. Got 'unused'"):
        ge.unit_gradients(Reuse(), torch.randn(3, 4), "input", unit_layer="unused")


class Failing(nn.Module):
    """Changes everything about itself, then stops: the second time, or the first time in a large batch."""

    def __init__(self, after):
        super().__init__()
        self.layer, self.norm, self.calls, self.after = nn.Linear(4, 3), nn.BatchNorm1d(3), [], after
        self.norm.eval()

    def forward(self, x):
        self.calls.append(len(x))
        x = self.layer(x)
        self.norm.running_mean.add_(1)
        self.norm.running_var = self.norm.running_var * 2
        self.norm.training = not self.norm.training
        torch.randn(3)
        if len(self.calls) > self.after:
            raise RuntimeError("half-way")
        return x


@pytest.mark.parametrize("after", range(6))
@pytest.mark.parametrize("function", [lambda m, x: ge.unit_gradients(m, x, "layer", chunk_size=1), ge.interference])
def test_nothing_about_the_model_changes_when_the_call_fails_half_way(function, after):
    model = Failing(after)
    with unchanged(model), pytest.raises(ValueError, match=r"`x` should fit the model.*stopped with: half-way"):
        function(model, samples(9))
    assert len(model.calls) == after + 1


@pytest.mark.parametrize(
    "output", [lambda x: (x, x), lambda x: x.sum(), lambda x: x[:1].expand(7, -1), lambda x: x[:, 0]]
)
def test_models_that_return_anything_but_a_row_per_sample_are_refused(output):
    class Odd(nn.Module):
        def forward(self, x):
            return output(x)

    with pytest.raises(ValueError, match=r"`model` should return one tensor with a row per sample. Got"):
        ge.unit_gradients(Odd(), torch.randn(3, 4), "input")


def test_overflow_is_refused_not_returned():
    model = nn.Sequential(linear([[1e30]]), nn.ReLU(), linear([[1e30]])).float()
    with pytest.raises(
        ValueError, match=r"`x` should give finite (values|gradients) at '(output|input)'. Got an overflow"
    ):
        ge.unit_gradients(model, torch.ones(2, 1), "input")
    steep = nn.Sequential(linear([[1e30]]), nn.Tanh(), linear([[1e30]])).float()  # finite values, infinite slope
    with pytest.raises(ValueError, match=r"`x` should give finite gradients at 'input'. Got an overflow. Scale x down"):
        ge.unit_gradients(steep, torch.zeros(2, 1), "input")
    with pytest.raises(ValueError, match=r"`x` should give finite gradients at 'input'. Got an overflow. Scale x down"):
        ge.interference(steep, torch.zeros(2, 1))


def test_a_gradient_cut_inside_the_model_is_said_so():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.low, self.high = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.high(self.low(x).detach())

    model, x = Cut(), torch.randn(3, 4)
    with pytest.raises(ValueError, match=r"`unit_layer` should come after 'low', and depend on it"):
        ge.unit_gradients(model, x, "low")
    with pytest.raises(ValueError, match=r"`unit_layer` should come after 'input', and depend on it"):
        ge.unit_gradients(model, x, "input")


def test_subclasses_hooks_parametrisations_and_patched_forwards_leave_the_chain():
    class Doubling(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    x = torch.randn(3, 4, dtype=torch.float64)
    hooked = nn.Sequential(nn.Linear(4, 3))
    hooked[0].register_forward_hook(lambda _m, _a, out: 3 * out)
    patched = nn.Sequential(nn.Linear(4, 3))
    patched[0].forward = lambda z: 4 * z
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))
    for model in (nn.Sequential(Doubling(4, 3)), hooked, patched, normed):
        model.double()
        assert not as_chain(model, x)
        assert_close(ge.unit_gradients(model, x, "input").gradients, gradient_loop(model, lambda s: s, x))
