"""Per-sample gradients: both paths against loops over samples, sites, units, heads, and what is refused."""

from collections import namedtuple
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
from _asserts import assert_close, unchanged
from _networks import BatchMean, Blocks, Convolutional, Net, Noise, Residual, crossing, linear, randn
from _oracle import gradient_loop
from torch import nn

import gradembed as ge
from gradembed.gradients import autograd, unit_rows
from gradembed.gradients.chain import Chain

ACTIVATIONS = [
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity, nn.ELU, nn.SELU, nn.CELU,
    nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Mish, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid,
    nn.Tanhshrink,
]  # fmt: skip
EVERY = slice(None)
FIELDS = ("gradients", "activations", "values")


def as_chain(model, x):
    return Chain.of(model, x) is not None


def assert_is_loop(result, head, body, x):
    assert_close(result.gradients, gradient_loop(lambda s: head(s.clone()), lambda s: body(s.clone()), x))
    assert_close(result.activations, body(x.clone()).detach().flatten(1))
    assert_close(result.values, head(body(x.clone())).detach().flatten(1))


def assert_chain_is_loop(model, x):
    """Every layer with respect to every one before it, from the named children of a chain."""
    assert as_chain(model, x)
    names, children = zip(*model.named_children(), strict=True)
    names = ("input", *names)
    for low, high in combinations(range(len(names)), 2):
        body, head = nn.Sequential(*children[:low]), nn.Sequential(*children[low:high])
        result = ge.unit_gradients(model, x, names[low], unit_layer=names[high])
        assert_is_loop(result, head, body, x)
        assert (result.unit_layer, result.wrt) == (names[high], names[low])


# Chains of matrix products


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_chain_equals_the_loop_for_every_activation_and_pair_of_layers(activation):
    assert_chain_is_loop(ge.MLP([5, 7, 3, 6, 2], activation, seed=0).double(), randn(6, 5))


def chain_kinds():
    norm = nn.BatchNorm1d(6)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    kinds = {
        "in place": [nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)],
        "leaky in place": [nn.Linear(4, 6), nn.LeakyReLU(0.2, inplace=True), nn.Linear(6, 3)],
        "starts with activation": [nn.Tanh(), nn.Linear(4, 6), nn.ELU(inplace=True), nn.Linear(6, 3)],
        "ends with activation": [nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3), nn.Sigmoid()],
        "two linear in a row": [nn.Linear(4, 9), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 7), nn.Linear(7, 3)],
        "norm and dropout in eval mode": [nn.Linear(4, 6), norm, nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3)],
        "no bias": [nn.Linear(4, 6, bias=False), nn.SiLU(), nn.Linear(6, 3, bias=False)],
        "nested": [nn.Sequential(nn.Linear(4, 6), nn.ReLU()), nn.Sequential(nn.Linear(6, 3))],
        "only linear": [nn.Linear(4, 3)],
    }
    return {kind: nn.Sequential(*parts).double().eval() for kind, parts in kinds.items()}


@pytest.mark.parametrize("kind", chain_kinds())
def test_every_kind_of_chain_equals_the_loop(kind):
    assert_chain_is_loop(chain_kinds()[kind], randn(5, 4))


def test_images_are_flattened_and_an_activation_may_be_used_twice():
    shared = nn.Tanh()
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), shared, nn.Linear(6, 5), shared, nn.Linear(5, 3)).double()
    x = randn(4, 1, 3, 4)
    assert as_chain(model, x)
    assert_is_loop(ge.unit_gradients(model, x, "input"), model, lambda s: s, x)


def test_hand_weighted_network():
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    expected = [[[1, 1], [1, -1]], [[1, 0], [1, 0]], [[0, 1], [0, -1]], [[0, 0], [0, 0]]]
    assert_close(ge.unit_gradients(crossing(), x, "input").gradients, torch.tensor(expected, dtype=torch.float64))


def test_subclasses_hooks_parametrizations_and_patched_forwards_leave_the_chain():
    class Doubling(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    x = randn(3, 4)
    hooked, patched = nn.Sequential(nn.Linear(4, 3)), nn.Sequential(nn.Linear(4, 3))
    hooked[0].register_forward_hook(lambda _m, _a, out: 3 * out)
    patched[0].forward = lambda z: 4 * z
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))
    for model in (nn.Sequential(Doubling(4, 3)), hooked, patched, normed):
        model.double()
        assert not as_chain(model, x)
        assert_close(ge.unit_gradients(model, x, "input").gradients, gradient_loop(model, lambda s: s, x))


# Any other module, and places in it


def site_cases():
    torch.manual_seed(0)
    r, c, b = Residual().double(), Convolutional().double().eval(), Blocks().double()
    flat, image = randn(5, 4), randn(5, 1, 4, 4)
    stem = lambda x: torch.relu(r.stem(x))  # noqa: E731
    rest = lambda h: r.head(h + torch.relu(r.branch(r.norm(h))))  # noqa: E731
    conv = lambda h: c.head(c.pool(torch.tanh(c.norm(h))).flatten(1))  # noqa: E731
    return {
        "before an in-place activation": (r, flat, "stem", lambda h: rest(torch.relu(h)), r.stem),
        "the first of two runs": (r, flat, ge.Site("act", call=0), rest, stem),
        "what a module takes": (r, flat, ge.Site("stem", input=True), lambda x: rest(stem(x)), lambda x: x),
        "what the first of two runs takes": (r, flat, ge.Site("act", call=0, input=True),
                                             lambda h: rest(torch.relu(h)), r.stem),
        "convolution, conv": (c, image, "conv", conv, c.conv),
        "module list, input": (b, flat, "input", b, lambda x: x),
    }  # fmt: skip


@pytest.mark.parametrize("case", site_cases())
def test_general_path_equals_the_loop(case):
    model, x, wrt, head, body = site_cases()[case]
    assert not as_chain(model, x)
    with unchanged(model):
        result = ge.unit_gradients(model, x, wrt)
    assert_is_loop(result, head, body, x)


def test_parts_and_means_of_a_site_are_those_of_the_whole():
    model, x = Convolutional().double().eval(), randn(5, 1, 4, 4)
    ask = partial(ge.unit_gradients, model, x)
    whole = ask("conv")
    maps = whole.gradients.unflatten(2, (2, 4, 4)), whole.activations.unflatten(1, (2, 4, 4))
    for site, part, pooled in [
        (ge.Site("conv", index=(EVERY, 1)), lambda a: a[..., 1, :, :].flatten(-2), None),
        (ge.Site("conv", index=(EVERY, [1, 0], -1)), lambda a: a[..., [1, 0], -1, :].flatten(-2), None),
        (ge.Site("conv", index=(EVERY, ..., slice(0, 3, 2))), lambda a: a[..., 0:3:2].flatten(-3), None),
        (ge.Site("conv", mean=(2, 3)), lambda a: a.sum((-1, -2)), lambda a: a.mean((-1, -2))),
        (ge.Site("conv", index=(EVERY, 0), mean=-1), lambda a: a[..., 0, :, :].sum(-1), lambda a: a[:, 0].mean(-1)),
    ]:
        result = ask(site)
        assert_close(result.gradients, part(maps[0]))
        assert_close(result.activations, (pooled or part)(maps[1]))
        assert result.wrt == str(site)
        # as units, a part or mean is a direction in the layer
        directions = (pooled or part)(torch.eye(32, dtype=torch.float64).unflatten(1, (2, 4, 4))).T
        units, read = (ask("input", unit_layer=site), ask("input", unit_layer="conv", directions=directions))
        assert_close(units.gradients, read.gradients)
        assert_close(units.values, read.values)


Pair = namedtuple("Pair", "first second")


@pytest.mark.parametrize(("pack", "keys"), [
    (lambda a, b: (a, b), (0, 1)), (lambda a, b: [a, b], (-2, -1)), (Pair, (0, 1)),
    (lambda a, b: {"a": a, "b": b}, ("a", "b")), (lambda a, b: (torch.ones(2).long(), a, b), (1, 2)),
])  # fmt: skip
def test_elements_of_what_a_module_returns(pack, keys):
    read = lambda packed: list(packed.values() if isinstance(packed, dict) else packed)[-2:]  # noqa: E731
    packer = Net(lambda _, h: pack(2 * h, 3 * h))
    model = Net(lambda m, x: (lambda a, b: m.head(a + b**2))(*read(m.packer(torch.tanh(m.stem(x))))),
                stem=nn.Linear(4, 3), packer=packer, head=nn.Linear(3, 2)).double()  # fmt: skip
    x = randn(5, 4)
    h = torch.tanh(model.stem(x)).detach()
    ask = partial(ge.unit_gradients, model, x)
    first, second = (ask(ge.Site("packer", element=key)) for key in keys)
    assert_close(first.gradients, model.head.weight.expand(5, -1, -1).detach())
    assert_close(second.gradients, model.head.weight.detach() * (6 * h)[:, None])
    assert_close(second.activations, 3 * h)
    assert_close(ask("packer").gradients, first.gradients)  # the first float tensor
    assert "packer" in ge.interference(model, x).layers
    for key in (5, "c"):
        with unchanged(model), pytest.raises(ValueError, match=rf"`wrt` should name a place .*'packer element {key}'"):
            ask(ge.Site("packer", element=key))


def test_a_site_says_what_it_is():
    site = ge.Site("block", index=(EVERY, [0, 1], ..., slice(1, 5, 2), -1), mean=[np.int64(1)], call=2, element="h",
                   input=True)  # fmt: skip
    assert str(site) == "block input run 2 element h [:, [0, 1], ..., 1:5:2, -1] mean (1,)"
    same = ge.Site("block", index=(EVERY, np.array([0, 1]), ..., slice(1, 5, 2), np.int64(-1)), mean=1, call=2,
                   element="h", input=True)  # fmt: skip
    assert site == same
    assert len({site, same, ge.Site("block")}) == 2
    assert (str(ge.Site("a")), ge.Site("a").is_plain, site.is_plain) == ("a", True, False)
    a = torch.arange(24.0).reshape(2, 3, 4)
    assert torch.equal(ge.Site("a", index=(EVERY, -1), mean=1).part(a), a[:, -1].mean(1, keepdim=True))


# Both paths


@pytest.mark.parametrize("name", ["hidden1.linear", "hidden1.activation", "hidden2", "input"])
def test_chain_and_general_path_agree(name):
    network, x = ge.MLP([5, 7, 6, 3], nn.GELU, seed=1).double(), randn(8, 5)
    fast = ge.unit_gradients(network, x, name)
    asked = [(x, {"forward": lambda m, batch: m(batch)}), ((x,), {}), ({"x": x}, {}), ([x[:3], x[3:]], {})]
    network.hidden1.register_forward_hook(lambda *_: None)  # a hook sends the model down the general path
    assert not as_chain(network, x)
    for given, more in asked:
        slow = ge.unit_gradients(network, given, name, **more)
        for field in FIELDS:
            assert_close(getattr(fast, field), getattr(slow, field))
        assert fast.unit_labels == slow.unit_labels


def test_units_and_directions_read_the_unit_layer():
    network, x = ge.MLP([4, 8, 6, 3], seed=0).double(), randn(7, 4)
    ask = partial(ge.unit_gradients, network, x, "input", unit_layer="hidden2")
    whole, some = ask(), ask(units=[4, "0", 4])
    assert_close(some.gradients, whole.gradients[:, [4, 0, 4]])
    assert_close(some.values, whole.values[:, [4, 0, 4]])
    assert some.unit_labels == ("4", "0", "4")
    directions = randn(2, 6)
    mixed = ask(directions=directions)
    assert_close(mixed.gradients, torch.einsum("ku,nud->nkd", directions, whole.gradients))
    assert_close(mixed.values, whole.values @ directions.T)
    assert mixed.unit_labels == ("direction 0", "direction 1")
    # the logits are directions in the last hidden layer, up to the bias
    read = ask(directions=network.output.weight)
    assert_close(read.gradients, ge.unit_gradients(network, x, "input").gradients)


def headed(shape):
    """What a model may return of six class scores and a number."""
    return Net(lambda m, x: shape(m.seg(h := torch.tanh(m.trunk(x))).unflatten(1, (2, 3)), m.kind(h)[:, 0]),
               trunk=nn.Linear(4, 5), seg=nn.Linear(5, 6), kind=nn.Linear(5, 1)).double()  # fmt: skip


SEG = tuple(str(i) for i in range(6))
HEADS = {
    "a tensor [n, 2, 3]": (lambda seg, _: seg, SEG),
    "a tensor [n]": (lambda _, kind: kind, ("0",)),
    "a mapping": (lambda seg, kind: {"seg": seg, "kind": kind}, (*(f"seg[{i}]" for i in SEG), "kind[0]")),
    "a tuple": (lambda seg, kind: (seg, kind), (*(f"0[{i}]" for i in SEG), "1[0]")),
    "a named tuple": (Pair, (*(f"first[{i}]" for i in SEG), "second[0]")),
    "a list of one": (lambda seg, _: [seg], SEG),
    "an object": (lambda seg, _: type("Out", (), {"logits": seg, "loss": None})(), SEG),
}


@pytest.mark.parametrize("kind", HEADS)
def test_outputs_of_any_shape_are_units(kind):
    shape, labels = HEADS[kind]
    model, x = headed(shape), randn(5, 4)
    flat = headed(lambda seg, number: torch.cat([seg.flatten(1), number[:, None]], 1))
    flat.load_state_dict(model.state_dict())
    chosen = [6] if kind == "a tensor [n]" else list(range(len(labels)))
    result, expected = ge.unit_gradients(model, x, "trunk"), ge.unit_gradients(flat, x, "trunk", units=chosen)
    assert result.unit_labels == labels
    for field in FIELDS:
        assert_close(getattr(result, field), getattr(expected, field))
    last = ge.unit_gradients(model, x, "trunk", units=[labels[-1]])  # by label
    assert (last.unit_labels, last.values.shape) == (labels[-1:], (5, 1))
    assert_close(last.gradients, expected.gradients[:, -1:])
    ones = ge.unit_gradients(model, x, "trunk", directions=torch.ones(1, len(labels), dtype=torch.float64))
    assert_close(ones.gradients, expected.gradients.sum(1, keepdim=True))  # a direction over all heads


def test_output_is_what_the_model_returns_and_a_site_the_child_of_that_name():
    model = Net(lambda m, x: m.last(torch.tanh(m.output(x))), output=nn.Linear(4, 5), last=nn.Linear(5, 2)).double()
    x = randn(6, 4)
    assert_close(ge.unit_gradients(model, x, "input").values, model(x).detach())
    child = ge.unit_gradients(model, x, "input", unit_layer=ge.Site("output"))
    assert_close(child.gradients, model.output.weight.expand(6, -1, -1).detach())
    assert_is_loop(ge.unit_gradients(model, x, "output"), lambda s: model.last(torch.tanh(s)), model.output, x)
    assert ge.interference(model, x).layers == ("input", "output")


@pytest.mark.parametrize("u", [1, 3])
def test_a_model_that_squeezes_gives_the_same_in_chunks_of_one(u):
    model = Net(lambda m, x: m.head(torch.tanh(m.body(x))).squeeze(), body=nn.Linear(4, 5), head=nn.Linear(5, u))
    model, x = model.double(), randn(7, 4)
    for size in (1, 2, 3, 6, 7):
        result = ge.unit_gradients(model, x, "body", chunk_size=size)
        assert_is_loop(result, lambda s: model.head(torch.tanh(s)), model.body, x)
        assert_close(ge.interference(model, x, chunk_size=size).cosine, ge.interference(model, x).cosine)


def test_units_of_a_wide_layer_have_no_rows_as_wide_as_it(monkeypatch):
    monkeypatch.setattr(nn.functional, "one_hot", None)
    units, x = [6, 0, 6], randn(5, 4)
    ensemble = ge.MLPEnsemble([4, 9, 3], 2, nn.Tanh, seed=0).double()
    fields = ge.gradient_fields(ensemble, x, unit_layer="hidden1", units=units)
    loops = [gradient_loop(lambda s, one=one: one.hidden1(s)[:, units], lambda s: s, x) for one in ensemble]
    assert_close(fields.gradients, torch.cat(loops, 1).transpose(0, 1))
    linear = nn.Sequential(nn.Linear(4, 9), nn.Identity()).double()
    assert_close(
        ge.unit_gradients(linear, x, "input", units=units).gradients, linear[0].weight[units].expand(5, -1, -1)
    )


def test_regions_of_an_ensemble_are_those_of_each_network_and_smooth_networks_have_none():
    ensemble, x = ge.MLPEnsemble([4, 6, 5, 3], 3, seed=0).double(), randn(40, 4)
    whole = ge.gradient_fields(ensemble, x).regions
    alone = torch.cat([ge.gradient_fields(ensemble[i], x).regions for i in range(3)])
    same = [regions[:, :, None] == regions[:, None] for regions in (whole, alone)]  # which points share a piece
    assert torch.equal(*same)
    assert same[0].double().mean() < 0.5
    smooth = [nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2)]
    assert ge.gradient_fields(nn.Sequential(*smooth).double(), x).regions is None
    assert ge.gradient_fields(nn.Sequential(*smooth).double(), x, unit_layer="2").regions is not None


@pytest.mark.parametrize("make", [lambda: ge.MLP([4, 8, 3], seed=0), Residual])
def test_half_precision_is_answered_in_single(make):
    model, x = make().bfloat16(), torch.randn(6, 4).bfloat16()
    found, same = ge.unit_gradients(model, x, "input"), ge.unit_gradients(model.float(), x.float(), "input")
    assert (found.gradients.dtype, found.values.dtype) == (torch.float32, torch.float32)
    assert_close(found.gradients, same.gradients, rtol=0, atol=0.05 * float(same.gradients.abs().max()))


def test_gradients_are_of_one_sample_whatever_the_number_of_samples():
    network, x = ge.MLP([4, 8, 3], seed=0).double(), randn(100, 4)
    alone, among = (ge.unit_gradients(network, part, "input").gradients[:1] for part in (x[:1], x))
    assert_close(among, alone)
    assert float(alone.abs().max()) > 1e-3  # a hidden 1/n would show


def test_unit_vectors_have_length_one_and_zero_stays_zero():
    gradients = torch.tensor([[[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0], [1e30, 1e30]]])
    vectors = ge.UnitGradients(gradients, torch.zeros(1, 2), torch.zeros(1, 4), "output", "input", tuple("abcd"))
    expected = torch.tensor([[[0.6, 0.8], [0.0, 0.0], [1.0, 0.0], [0.5**0.5, 0.5**0.5]]])
    assert_close(vectors.unit_vectors(), expected, rtol=1e-6)
    assert repr(vectors) == "UnitGradients(1 sample, 4 units of 'output' with respect to 2 of 'input')"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unit_rows_of_any_size_also_in_place(dtype):
    kind = torch.finfo(dtype)
    sizes = torch.tensor([kind.tiny, 1e-30, 1, 1e30, kind.max / 2, 0, -0.0], dtype=dtype)
    rows = sizes[:, None] * torch.tensor([2.0, -2.0, 1.0], dtype=dtype)
    assert rows[4].norm().isinf()
    vectors, lengths = unit_rows(rows)
    assert_close(vectors[:5], torch.tensor([[2.0, -2.0, 1.0]], dtype=dtype).expand(5, 3) / 3, rtol=1e-6)
    assert_close(lengths, 3 * sizes.double().abs(), rtol=1e-6)
    assert not vectors[5:].any()
    assert not lengths[5:].signbit().any()  # no minus zero
    written, again = unit_rows(rows, out=rows)
    assert written is rows
    assert torch.equal(rows, vectors)
    assert torch.equal(lengths, again)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("make", [lambda: ge.MLP([4, 8, 3], nn.Tanh, seed=0), Residual])
def test_works_where_gradients_are_switched_off(make, mode):
    model, x = make(), torch.randn(3, 4)
    expected = ge.unit_gradients(model, x.clone().requires_grad_(), "input").gradients
    with mode():
        inside = ge.unit_gradients(model, x * 1, "input").gradients
    assert_close(inside, expected, rtol=1e-5, atol=1e-7)
    assert not inside.requires_grad
    assert not expected.requires_grad


def test_the_results_are_the_callers_own():
    network, x = ge.MLP([4, 3], seed=0), torch.randn(5, 4)
    weight, given = network.output.weight.clone(), x.clone()
    result = ge.unit_gradients(network, x, "input")
    result.gradients.add_(1)
    result.activations.add_(1)
    assert torch.equal(network.output.weight, weight)
    assert torch.equal(x, given)
    assert bool((result.gradients[0] == result.gradients[1]).all())


# Refusals with words of their own; all others stand in the table of abuses

MODELS = {"chain": lambda: ge.MLP([4, 5, 5, 3], seed=0), "general": Residual}
LAYERS = {"chain": ("hidden1", "hidden2"), "general": ("stem", "branch")}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("asked", "error", "message"), [
    ({"wrt": "first", "unit_layer": "first"}, ValueError, r"`wrt` should come before '\w+', where the units are"),
    ({"wrt": "later", "unit_layer": "first"}, ValueError, r"`wrt` should come before .*Choose an earlier layer"),
    ({"wrt": "*i*n*"}, ValueError, r"`wrt` should (match one layer only|name a layer of the model). Got '\*i\*n\*'"),
    ({"wrt": "h?dden*"}, ValueError, r"`wrt` should name a layer of the model. Got 'h\?dden\*'. Choose one of 'input'"),
    ({"units": ["7"]}, ValueError, r"`units` should name units of 'output'. Got .*7.*Choose labels like '0'"),
    ({"units": [3]}, ValueError, r"`units` should lie between 0 and 2, the units of 'output'. Got 3. Drop or correct"),
    ({"units": [0], "directions": torch.ones(1, 3)}, ValueError, r"`directions` should be None when `units` is given"),
    ({"x": torch.ones(3, 5)}, ValueError, r"`x` should (have 4 features, the width|fit the model. Got .*\[n)"),
    ({"x": torch.ones(4)}, ValueError, r"`x` should have a sample axis.*Use x\[None\] for one sample"),
    ({"x": torch.ones(3, 4).double()}, ValueError, r"`x` should have the model's precision, torch.float32"),
    ({"x": (torch.ones(3, 4), torch.ones(2, 1))}, ValueError, r"`x` should have the samples along axis 0 of every ten"),
    ({"x": {"y": torch.ones(3, 4)}}, ValueError, r"`x` should fit the model.*unexpected keyword argument 'y'"),
    ({"forward": lambda _m, _batch: "no"}, ValueError, r"`model` should return float tensors with a row per sample"),
    ({"forward": lambda _m, _batch: {}}, ValueError, r"`model` should return a tensor. Got .*Pass forward=lambda"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(asked, error, message, kind):
    model = MODELS[kind]()
    names = dict(zip(("first", "later"), LAYERS[kind], strict=True))
    given = {"x": torch.arange(12.0).sin().reshape(3, 4), "wrt": "input"} | asked
    given = {key: names.get(value, value) if isinstance(value, str) else value for key, value in given.items()}
    with unchanged(model), pytest.raises(error, match=message):
        ge.unit_gradients(model, **given)


@pytest.mark.parametrize(("named", "error", "message"), [
    ({"index": 5}, ValueError, r"`index` should keep all samples, which are axis 0.*Pass \(slice\(None\), ...\)"),
    ({"index": (slice(1, None), 0)}, ValueError, "`index` should keep all samples"),
    ({"index": (..., 0)}, ValueError, "`index` should keep all samples"),
    ({"index": (EVERY, 0.5)}, TypeError, "`index` should be an integer"),
    ({"index": (EVERY, "last")}, TypeError, "`index` should be positions. Got 'last'"),
    ({"index": ()}, ValueError, "`index` should"),
    ({"mean": 0}, ValueError, "`mean` should leave out axis 0, the samples"),
])  # fmt: skip
def test_sites_that_are_none_are_refused(named, error, message):
    with pytest.raises(error, match=message):
        ge.Site(**({"name": "stem"} | named))


@pytest.mark.parametrize("argument", ["wrt", "unit_layer"])
@pytest.mark.parametrize("part", [
    {"index": (EVERY, 99)}, {"index": (EVERY, 0, 0)}, {"index": (EVERY, [0, 99])}, {"index": (EVERY, slice(3, 3))},
    {"index": (EVERY, ..., 0, 0)}, {"mean": 2}, {"mean": -2}, {"mean": (1, -1)},
])  # fmt: skip
def test_parts_that_a_layer_does_not_have_are_refused(argument, part):
    model, x = Residual(), torch.randn(6, 4)
    with unchanged(model), pytest.raises(ValueError, match=f"`{argument}` should .*stem"):
        ge.unit_gradients(model, x, **({"wrt": "input"} | {argument: ge.Site("stem", **part)}))


MIXING = {
    "batch norm": ([nn.Linear(4, 3), nn.BatchNorm1d(3)], r"sample by itself. Got BatchNorm1d at '1'.*eval\(\)"),
    "batch norm without statistics": ([nn.BatchNorm1d(4, track_running_stats=False).eval()],
                                      r"BatchNorm1d at '0' without running statistics. Use track_running_stats=True"),
    "dropout": ([nn.Dropout(0.5), nn.Linear(4, 3)], r"same output twice. Got Dropout at '0' in train mode"),
    "own noise": ([nn.Linear(4, 3), Noise()], r"the same output twice. Got two different ones"),
    "own mixing": ([nn.Linear(4, 3), BatchMean()], r"sample by itself. Got an? (output that ch|gradient that)"),
}  # fmt: skip


@pytest.mark.parametrize("function", [lambda m, x: ge.unit_gradients(m, x, "input"), ge.interference])
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("case", MIXING)
def test_models_whose_samples_depend_on_each_other_are_refused(function, case, n):
    parts, message = MIXING[case]
    model = nn.Sequential(*parts)
    x = torch.randn(n, 4)
    with unchanged(model), pytest.raises(ValueError, match=r"`model` should (treat|give) .*" + message):
        function(model, x)


def odd():
    """A module that runs twice, one that never runs, a gradient that is cut."""
    layers = {name: nn.Linear(4, 4) for name in ("twice", "unused", "low", "high")}
    return Net(lambda m, x: m.twice(torch.tanh(m.twice(x))) + m.high(m.low(x).detach()), **layers)


@pytest.mark.parametrize(("asked", "message"), [
    ({"wrt": "twice"}, r"`wrt` should name a module that runs once.*Got 'twice', which runs .*Say which run"),
    ({"wrt": ge.Site("twice", call=2)}, r"`wrt` should name one of the 2 runs of 'twice', from 0. Got 2. Lower `call`"),
    ({"wrt": "unused"}, r"`wrt` should name a layer that the forward pass runs. Got 'unused'"),
    ({"wrt": "input", "unit_layer": "twice"}, r"`unit_layer` should name a module that runs once .*Site\('twice', cal"),
    ({"wrt": "input", "unit_layer": "unused"}, r"`unit_layer` should name a layer that the forward pass runs"),
    ({"wrt": "low"}, r"`wrt` should come before '\w+', where the units are, and feed it"),
])  # fmt: skip
def test_layers_without_one_clear_gradient_are_refused(asked, message):
    model, x = odd(), torch.randn(3, 4)
    with unchanged(model), pytest.raises(ValueError, match=message):
        ge.unit_gradients(model, x, **asked)


def test_odd_layers_elsewhere_do_no_harm():
    model, x = odd().double(), randn(3, 4)
    inner = lambda s: model.twice(torch.tanh(model.twice(s))) + model.high(model.low(x[:1]))  # noqa: E731
    assert_close(ge.unit_gradients(model, x, "input").gradients, gradient_loop(inner, lambda s: s, x))
    assert ge.interference(model, x).layers == ("input", "high")


class Failing(nn.Module):
    """Changes everything about itself, and stops after some calls."""

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


@pytest.mark.parametrize("after", [0, 3, 7, 12])
@pytest.mark.parametrize("function", [partial(ge.unit_gradients, wrt="layer"), ge.interference])
def test_nothing_about_the_model_changes_when_the_call_fails_half_way(function, after):
    model = Failing(after)
    with unchanged(model), pytest.raises(ValueError, match=r"`x` should fit the model.*stopped with: half-way"):
        function(model, torch.arange(36.0).sin().reshape(9, 4), chunk_size=1)  # drawn without touching the random state
    assert len(model.calls) == after + 1


@pytest.mark.parametrize("slope", [nn.ReLU, nn.Tanh])
def test_overflow_is_refused_not_returned(slope):
    steep = nn.Sequential(linear([[1e30]]), slope(), linear([[1e30]])).float()  # ReLU: infinite values, Tanh: slopes
    x = torch.ones(2, 1) if slope is nn.ReLU else torch.zeros(2, 1)
    message = r"`x` should give finite (values|gradients) at '(output|input)'. Got an overflow. Scale x down"
    for function in (lambda m, x: ge.unit_gradients(m, x, "input"), ge.interference):
        with pytest.raises(ValueError, match=message):
            function(steep, x)


def test_wide_layers_are_gone_to_group_by_group(monkeypatch):
    model, x = Residual().double(), torch.randn(7, 4, dtype=torch.float64)
    whole = ge.interference(model, x)
    monkeypatch.setattr(autograd, "GRADIENT_BYTES", 7 * 3 * 8 * 9)  # two layers of 4 and 5 numbers at a time
    passes = []
    monkeypatch.setattr(
        torch.autograd,
        "grad",
        lambda *asked, grad=torch.autograd.grad, **more: passes.append(0) or grad(*asked, **more),
    )
    parts = ge.interference(model, x)
    assert len(passes) > 3 * len(parts.layers) / 2 > 3
    for layer in whole.layers:
        assert_close(parts.cosine[layer], whole.cosine[layer])
        assert_close(parts.norm[layer], whole.norm[layer])
