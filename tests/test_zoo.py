"""Models in the shapes that people use: right, or refused in one clear sentence."""

import re
from collections.abc import Mapping
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from _abuse import assert_house_grammar
from _asserts import assert_close, unchanged
from _networks import Net, Residual, randn
from _oracle import gradient_loop, interference_loop
from _zoo import CASES, EVERY, Place, oracle, passes_through, perceptron, slopes_by_nudging
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import gradembed as ge

REFUSALS = (ValueError, TypeError)
PLACES = [
    pytest.param(name, place, id=f"{name}-{place.name}-{i}")
    for name, case in CASES.items()
    for i, place in enumerate(case.places)
]


def site(place):
    return ge.Site(place.name, **place.arguments) if place.arguments else place.name


@contextmanager
def refused(names, match="."):
    """Refused in the house grammar, naming one of these arguments."""
    with pytest.raises(REFUSALS, match=match) as refusal:
        yield
    assert_house_grammar(refusal.value, names)


def assert_right(result, expected):
    for found, wanted in zip((result.gradients, result.activations, result.values), expected, strict=True):
        assert_close(found, wanted, rtol=1e-9, atol=1e-9 * float(wanted.abs().max()))


def assert_right_or_refused(call, expected):
    try:
        result = call()
    except REFUSALS as error:
        return assert_house_grammar(error, ".*")
    return assert_right(result, expected)


# The oracle itself


@pytest.mark.parametrize(("name", "place"), [p for p in PLACES if not p.values[1].refused])
def test_the_oracle_is_what_nudging_the_site_gives(name, place):
    model, x = CASES[name].made()
    gradients, activations, values = oracle(model, x, place, CASES[name].forward)
    directions, slopes = slopes_by_nudging(model, x, place, CASES[name].forward)
    assert_close(torch.einsum("nud,nd->nu", gradients, directions), slopes, rtol=1e-6, atol=1e-7)
    assert gradients.any()
    assert activations.shape == gradients[:, 0].shape
    assert values.shape == gradients[..., 0].shape


def test_the_oracle_is_the_loop_where_a_model_can_be_cut_by_hand():
    model, x = CASES["resnet"].made()
    head = lambda s: model.fc(model.pool(model.blocks[1](s)).flatten(1))  # noqa: E731
    expected = gradient_loop(head, lambda s: model.blocks[0](model.stem(s)), x)
    assert_close(oracle(model, x, Place("blocks.0"))[0], expected)
    with pytest.raises(AssertionError):  # the identity's output is not all that reads that tensor
        assert_close(oracle(model, x, Place("blocks.1.shortcut"))[0], expected)


# The zoo


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_gradients_at_a_site_equal_the_oracle(name, place):
    case = CASES[name]
    model, x = case.made()
    call = lambda **more: ge.unit_gradients(model, x, site(place), forward=case.forward, **more)  # noqa: E731
    if place.refused:
        with unchanged(model), refused(place.refused if place.element is None else f"{place.refused}|unit_layer"):
            call()
        return
    gradients, activations, values = oracle(model, x, place, case.forward)
    with unchanged(model):
        assert_right(call(chunk_size=2), (gradients, activations, values))
    model.requires_grad_(False)  # no fast path of torch's leads past the site
    with torch.no_grad():
        assert_right(call(units=[0]), (gradients[:, :1], activations, values[:, :1]))


def inputs_of(x):
    """The float inputs, by what results call them."""
    parts = {None: x} if isinstance(x, torch.Tensor) else dict(x) if isinstance(x, Mapping) else dict(enumerate(x))
    floats = [key for key, part in parts.items() if part.is_floating_point()]
    places = [Place("input") if len(floats) == 1 else Place("input", element=key) for key in floats]
    return {str(site(place)): place for place in places}


@pytest.mark.parametrize("name", CASES)
def test_default_layers_are_those_that_one_wants_and_equal_the_oracle(name):
    case = CASES[name]
    model, x = case.made()
    with unchanged(model):
        result = ge.interference(model, x, forward=case.forward)
    inputs = inputs_of(x)
    inner = set(result.layers) - set(inputs)
    assert inner
    assert not inner & (passes_through(model, x, case.forward) | set(case.never))
    assert set(inputs) <= set(result.layers)
    if not inputs:
        with refused("wrt"):
            ge.unit_gradients(model, x, "input", forward=case.forward)
    for layer in result.layers:
        place = inputs.get(layer, Place(layer))
        expected = oracle(model, x, place, case.forward)
        assert bool(expected[0].flatten(2).any(2).any(0).all()), f"{layer} does not feed all units"
        loop = interference_loop(expected[0])
        for measure in ("cosine", "abs_cosine", "norm_similarity", "norm"):
            assert_close(getattr(result, measure)[layer], loop[measure], rtol=1e-9, atol=1e-9)
        assert_right(ge.unit_gradients(model, x, site(place), forward=case.forward), expected)


@pytest.mark.parametrize(("name", "wrt", "units"), [
    ("resnet", Place("stem.0", index=(EVERY, 1)), Place("blocks.1.conv2", mean=(2, 3))),  # channels, pooled
    ("vit", Place("blocks.0", index=(EVERY, 0)), Place("blocks.1.mlp.0", index=(EVERY, 0))),  # the class token's units
    ("encoder", Place("embed"), Place("blocks.1", element=0, index=(EVERY, -1))),
    ("four_runs", Place("cell", call=0), Place("cell", call=3)),
    ("lstm", Place("stem"), Place("rnn", element=0, mean=(1,))),
])  # fmt: skip
def test_units_can_be_parts_and_pooled_features(name, wrt, units):
    model, x = CASES[name].made()
    expected = oracle(model, x, wrt, units=units)
    assert_right(ge.unit_gradients(model, x, site(wrt), unit_layer=site(units)), expected)


def test_patterns_name_several_layers_where_several_are_allowed():
    model, x = CASES["vit"].made()
    result = ge.interference(model, x, layers=["blocks.*.mlp"])
    assert result.layers == ("blocks.0.mlp", "blocks.1.mlp")
    with refused("wrt", match=r"blocks\.0\.mlp"):
        ge.unit_gradients(model, x, "blocks.*.mlp")
    for pattern in ("block.*", "blocks.*.nothing"):
        with refused("layers", match=re.escape(pattern)):
            ge.interference(model, x, layers=[pattern])


def test_fields_are_the_same_gradients_seen_by_unit():
    case = CASES["decoder"]
    model, x = case.made()
    fields = ge.gradient_fields(model, x, forward=case.forward, wrt=ge.Site("wte", index=(EVERY, -1)))
    gradients = oracle(model, x, case.places[0], case.forward)[0]
    assert_close(fields.gradients, gradients.transpose(0, 1))


@pytest.mark.parametrize(("name", "labels"), [("heads_by_name", {"seg": 8, "kind": 3}), ("heads_in_a_tuple", None)])
def test_heads_have_labels_and_can_be_compared(name, labels):
    model, x = CASES[name].made()
    result = ge.interference(model, x, layers=["trunk"])
    if labels:
        assert result.unit_labels == tuple(f"{head}[{i}]" for head, size in labels.items() for i in range(size))
    between = result.abs_cosine["trunk"][:8, 8:]
    assert result.orthogonality(groups="heads")["trunk"] == pytest.approx(1 - float(between.mean()))
    one_head = oracle(model, x, Place("seg", input=True))  # class scores do not depend on it: no gradient, or refused
    assert_right_or_refused(lambda: ge.unit_gradients(model, x, ge.Site("seg", input=True)), one_head)


# Samples that mix


def large_values_lead(m, x):
    hidden = torch.tanh(m.stem(x))
    return m.early(hidden) if hidden.square().mean() > 0.4 else m.late(hidden)


def mixing(mix, width=3):
    return Net(lambda m, x: m.body(mix(x)), body=perceptron(width, 4, 3))


EXITS = {"stem": nn.Linear(3, 4), "early": nn.Linear(4, 3), "late": nn.Linear(4, 3)}
SEQUENCES = nn.TransformerEncoderLayer(4, 2, 5, norm_first=True)  # forgotten: batch_first
MIXING = {
    "sequences second": (nn.Sequential(SEQUENCES, mixing(lambda x: x[:, -1], 4)), (6, 3, 4), 1),
    "mean at a large scale": (mixing(lambda x: x + x.mean(0)), (6, 3), 1e5),
    "centering before a norm": (mixing(lambda x: nn.functional.layer_norm(x - x.mean(0), [3])), (6, 3), 1),
    "centering": (mixing(lambda x: x - x.mean(0)), (6, 3), 1),
    "early exit": (Net(large_values_lead, **EXITS), (6, 3), torch.tensor([0.1, 0.1, 0.1, 10, 10, 10]).view(6, 1)),
    "neighbors": (mixing(lambda x: x + x.roll(1, 0)), (6, 3), 1),
    "places in the batch": (mixing(lambda x: x * torch.arange(len(x))[:, None]), (6, 3), 1),
    "the largest": (mixing(lambda x: x / x.abs().max()), (6, 3), 1),
}


@pytest.mark.parametrize("ask", [lambda m, x: ge.unit_gradients(m, x, "input"), ge.interference,
                                 lambda m, x: ge.interference(m, list(x.split(3)))])  # fmt: skip
@pytest.mark.parametrize("kind", MIXING)
def test_samples_that_mix_are_refused(kind, ask):
    model, shape, scale = MIXING[kind]
    model, x = model.double().eval(), scale * randn(*shape)
    with unchanged(model), refused("model", match="should .*sample"):
        ask(model, x)


@pytest.mark.parametrize("name", ["resnet", "encoder", "two_inputs", "categories", "probabilities", "four_runs"])
def test_models_see_real_samples_only(name):
    model, x = CASES[name].made()
    rows = lambda batch: [{tuple(row.flatten().tolist()) for row in part} for part in tree_leaves(batch)]  # noqa: E731
    seen = []
    model.register_forward_pre_hook(lambda _m, args, named: seen.append([args, named]), with_kwargs=True)
    ge.interference(model, x)
    assert seen
    assert all(part <= real for batch in seen for part, real in zip(rows(batch), rows(x), strict=True))


# What a model is asked with


class Masked(nn.Module):
    """Takes two inputs, or one."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x, mask=None):
        return self.head(torch.tanh(self.body(x if mask is None else x * mask)))


@pytest.mark.parametrize("kind", ["loader", "list of tuples", "generator"])
def test_a_mask_in_a_batch_is_neither_dropped_nor_taken_for_samples(kind):
    model, x, mask = Masked().double(), randn(6, 3), (randn(6, 3) > 0).double()
    pairs = list(zip(x.split(2), mask.split(2), strict=True))
    batches = lambda: {"loader": DataLoader(TensorDataset(x, mask), batch_size=2), "list of tuples": pairs,  # noqa: E731
                       "generator": iter(pairs)}[kind]  # fmt: skip
    with refused(r"forward|x|x\[0\]", match="forward"):
        ge.interference(model, batches())
    result = ge.interference(model, batches(), forward=lambda m, batch: m(*batch), layers=["body"])
    whole = ge.interference(model, (x, mask), layers=["body"])
    assert_close(result.cosine["body"], whole.cosine["body"])
    assert_close(result.cosine["body"], interference_loop(oracle(model, (x, mask), Place("body"))[0])["cosine"])
    assert whole.n_samples == result.n_samples == 6


@pytest.mark.parametrize("make", [Residual, lambda: ge.MLP([4, 5, 3], seed=0)])
def test_labels_behind_the_samples_are_dropped_where_a_model_takes_one_input(make):
    model, x = make().double(), randn(7, 4)
    loader = DataLoader(TensorDataset(x, torch.arange(7)), batch_size=3)
    assert_close(ge.interference(model, loader).cosine["input"], ge.interference(model, x).cosine["input"])
    assert ge.interference(model, loader).n_samples == 7


def test_batches_of_mappings_are_gone_through():
    model, x = CASES["graphs"].made()
    batches = [{key: value[i : i + 2] for key, value in x.items()} for i in (0, 2)]
    result, expected = ge.interference(model, batches), ge.interference(model, x)
    assert_close(result.cosine, expected.cosine)


@pytest.mark.parametrize("change", [lambda x: {**x, "adjacency": x["adjacency"][:2]}, lambda _: {},
                                    lambda x: {**x, "more": x["nodes"]}, lambda x: (x["nodes"],)])  # fmt: skip
def test_inputs_that_do_not_fit_are_refused(change):
    model, x = CASES["graphs"].made()
    with unchanged(model), refused("x.*"):
        ge.interference(model, change(x))


REMEDY = re.compile(r"\b(model|x)\.(?:(float|double|long)\(\)|to\((?:torch\.)?(\w+)\))")  # what can be typed


@pytest.mark.parametrize("make", [lambda: perceptron(3, 4, 3).eval(), Masked])
@pytest.mark.parametrize("dtypes", [("bfloat16", "bfloat16"), ("float32", "bfloat16"), ("float16", "float16"),
                                    ("bfloat16", "float32"), ("float32", "int64"), ("float64", "int64")])  # fmt: skip
def test_the_remedies_for_precision_lead_out(make, dtypes):
    model_type, x_type = (getattr(torch, dtype) for dtype in dtypes)
    asked = {"model": make().to(model_type), "x": (2 * torch.randn(5, 3)).to(x_type)}
    layer = next(name for name, module in asked["model"].named_modules() if isinstance(module, nn.Linear))
    result, told = None, []
    while result is None and len(told) < 3:  # at most two words on how to change what was passed
        try:
            result = ge.unit_gradients(asked["model"], asked["x"], layer)
        except REFUSALS as error:
            assert_house_grammar(error, "x|model")
            name, short, dtype = REMEDY.search(str(error)).groups()
            asked[name] = getattr(asked[name], short)() if short else asked[name].to(getattr(torch, dtype))
            told.append(str(error))
    assert result is not None, f"no way out: {told}"
    expected = oracle(asked["model"].double(), asked["x"].double(), Place(layer))[0]
    assert_close(result.gradients.double(), expected, rtol=0, atol=0.05 * float(expected.abs().max()))


# Hooks, and models that are no longer plain Python


@pytest.mark.parametrize("make", [lambda: ge.MLP([3, 4, 3], seed=0), Masked])
def test_global_forward_hooks_are_respected(make):
    model, x = make().double(), randn(5, 3)
    plain = oracle(model, x, Place("input"))[0]
    double = lambda module, _args, output: 2 * output if isinstance(module, nn.Linear) else None  # noqa: E731
    handle = torch.nn.modules.module.register_module_forward_hook(double)
    try:
        expected, result = oracle(model, x, Place("input")), ge.unit_gradients(model, x, "input")
    finally:
        handle.remove()
    assert float((expected[0] - plain).abs().max()) > 0.01
    assert_right(result, expected)


DRESSES = {
    "script": lambda model, _x: torch.jit.script(model),
    "trace": torch.jit.trace,
    "compile": lambda model, _x: torch.compile(model, backend="eager"),
    "export": lambda model, x: torch.export.export(model, (x,)).module(),
    "checkpoint": lambda model, _x: Net(lambda m, x: checkpoint(m.model, x, use_reentrant=True), model=model),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layer", ["input", "0"])
@pytest.mark.parametrize("kind", DRESSES)
def test_compiled_models_are_right_or_refused(kind, layer):
    model, x = perceptron(3, 4, 3, activation=nn.Tanh).double().eval(), randn(5, 3)
    expected = oracle(model, x, Place(layer))
    dressed = DRESSES[kind](model, x)
    names = [name for name, _ in dressed.named_modules() if name == layer or name.endswith(f".{layer}")]
    assert_right_or_refused(lambda: ge.unit_gradients(dressed, x, names[0] if names else "input"), expected)


# Controls


@pytest.mark.parametrize("name", ["bent_weights", "decoder", "vit", "torch_encoder", "mobilenet", "lstm"])
def test_an_untrained_control_is_given_or_refused_before_the_measurement(name):
    case, calls = CASES[name], []
    model, x = case.made()
    batches = [x[i : i + 1] for i in range(len(x))] * 20
    model.register_forward_pre_hook(lambda module, _args: calls.append(0) if module is model else None)
    ask = lambda **more: ge.interference(model, batches, forward=case.forward, n_untrained=1, **more)  # noqa: E731
    with unchanged(model):
        try:
            results = [ask()]
        except REFUSALS as error:
            assert_house_grammar(error, "model|n_untrained|reinitialize")
            assert "reinitialize" in str(error)  # noqa: PT017
            assert len(calls) < len(batches) / 2, "measured before it was refused"
            results = []
        results.append(ask(reinitialize=lambda model, *_: [nn.init.normal_(p) for p in model.parameters()]))
    for result in results:
        control = result.untrained[0]
        assert control.layers == result.layers
        assert not any(torch.allclose(control.norm[layer], result.norm[layer]) for layer in result.layers)


def test_a_control_reaches_what_hooks_call_or_is_refused():
    """A copy's hooks still call the original's modules."""
    model, x = CASES["sparse_autoencoder"].made()
    fill = lambda model, *_: [nn.init.uniform_(p, 0.1, 0.1) for p in model.parameters()]  # noqa: E731
    try:
        result = ge.interference(model, x, n_untrained=1, reinitialize=fill, layers=["body.0"])
    except REFUSALS as error:
        return assert_house_grammar(error, ".*")
    fill(model)
    return assert_close(result.untrained[0].norm["body.0"], ge.interference(model, x).norm["body.0"])


# NumPy's numbers and arrays, and results beside results


@pytest.mark.parametrize("make", [Residual, lambda: ge.MLP([4, 5, 3], seed=0)])
def test_numpys_numbers_and_arrays_are_taken(make):
    model, x = make().double(), randn(6, 4)
    ask = lambda x, **more: ge.unit_gradients(model, x, "input", **more).gradients  # noqa: E731
    for units in (np.array([2, 0]), [np.int64(2), np.int32(0)], torch.tensor([2, 0]), (2, 0)):
        assert torch.equal(ask(x.numpy(), units=units, chunk_size=np.int64(2)), ask(x, units=[2, 0], chunk_size=2))
    directions = randn(2, 3)
    assert torch.equal(ask(x, directions=directions.numpy()), ask(x, directions=directions))
    plain = ge.interference(model, x)
    numpys = ge.interference(model, x.numpy(), layers=np.array(plain.layers))
    groups = np.array([0, 0, 1])
    assert numpys.orthogonality(groups) == plain.orthogonality(groups.tolist())


def test_a_frame_of_nodes_leads_to_their_subtrees():
    tree = ge.gradient_tree(ge.MLP([4, 6, 6, 3], seed=0), torch.randn(20, 4))
    node = tree.largest("hidden1")["node"][0]
    assert tree.subtree("hidden1", node).n_samples == tree.subtree("hidden1", int(node)).n_samples


def test_results_can_be_compared_and_kept_in_sets():
    network, x = ge.MLP([4, 6, 3], seed=0), torch.randn(20, 4)
    asks = [lambda: ge.unit_gradients(network, x, "input"), lambda: ge.interference(network, x),
            lambda: ge.gradient_tree(network, x), lambda: ge.gradient_fields(network, x)]  # fmt: skip
    for ask in asks:
        one, other = ask(), ask()
        assert (one == one, one == other, one != other) == (True, False, True)
        assert len({one, other}) == 2
