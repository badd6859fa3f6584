"""Networks and inputs that nobody chose: what holds for all of them, or hypothesis finds one for which it does not."""

from __future__ import annotations

import copy
import itertools
from functools import partial

import torch
from _asserts import assert_close, assert_is_tree, gradients_of, unchanged
from _networks import Net
from _oracle import all_pairs_loop, gradient_loop, interference_loop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import gradembed as ge

SETTINGS = settings(max_examples=60, suppress_health_check=list(HealthCheck))
PIECEWISE = [nn.ReLU, nn.LeakyReLU, nn.Hardtanh, nn.ReLU6]
ACTIVATIONS = [*PIECEWISE, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.Softplus]
MEASURES = ("cosine", "abs_cosine", "conflict", "norm_similarity")
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}


def block(width: int, activation: nn.Module, *, bias: bool) -> nn.Module:
    """The sum of its input and something made of it."""
    inner = nn.Linear(width, width, bias=bias)
    return Net(lambda m, x: x + m.activation(m.inner(x)), inner=inner, activation=activation)


def pictures(activation: nn.Module, *, bias: bool) -> nn.Module:
    """Rows as pictures of two lines, convolved, and rows again: d features become 3 d."""
    conv = nn.Conv2d(1, 2, (2, 3), padding=(1, 1), bias=bias)
    return Net(lambda m, x: m.activation(m.conv(x.reshape(len(x), 1, 2, -1))).flatten(1), conv=conv,
               activation=activation)  # fmt: skip


@st.composite
def cases(draw, kinds=("chain", "residual", "conv"), activations=ACTIVATIONS, dtypes=(torch.float64, torch.float32)):
    """A network of depth 1 to 4, some with dead units, and 1 to 7 samples of size 0.1 to 10, some of them equal."""
    kind, dtype, bias = draw(st.sampled_from(kinds)), draw(st.sampled_from(dtypes)), draw(st.booleans())
    widths, activation = draw(st.lists(st.integers(1, 9), min_size=2, max_size=5)), st.sampled_from(activations)
    n, size = draw(st.integers(1, 7)), draw(st.sampled_from([0.1, 1.0, 10.0]))
    chosen = [draw(activation)() for _ in widths]
    features = 2 * widths[0] if kind == "conv" else widths[0]
    torch.manual_seed(draw(st.integers(0, 2**20)))  # every test starts from a seed of its own
    network = nn.Sequential()
    if kind == "conv":
        network.add_module("pictures", pictures(chosen[0], bias=bias))
        widths[0] = 3 * features
    for i, (d, u) in enumerate(itertools.pairwise(widths), start=1):
        network.add_module(f"linear{i}", last := nn.Linear(d, u, bias=bias))
        if i < len(widths) - 1:
            network.add_module(f"activation{i}", chosen[i])
            if draw(st.booleans()):  # a unit that is never on
                last.weight.data[0], last.bias = 0, nn.Parameter(-torch.ones(u))
            if kind == "residual":
                network.add_module(f"block{i}", block(u, chosen[-1], bias=bias))
    if draw(st.booleans()):  # a unit that no root reads, a root that reads nothing
        last.weight.data[:, 0] = last.weight.data[-1] = 0
    x = size * torch.randn(n, features)
    x[-1] = x[0]
    return network.to(dtype), x.to(dtype)


chains = partial(cases, kinds=("chain",), activations=PIECEWISE, dtypes=(torch.float64,))


def layers_of(network: nn.Sequential) -> list[str]:
    """Where gradients of the outputs can be taken."""
    return ["input", *(name for name, _ in network.named_children())][:-1]


def in_double(network: nn.Sequential, x: Tensor, wrt: str) -> Tensor:
    """Gradients by a plain loop of autograd in float64: [n, u, d]."""
    network, place = copy.deepcopy(network).double(), layers_of(network).index(wrt)
    return gradient_loop(network[place:], network[:place], x.double())


def assert_near(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Equal, up to rounding in a precision and in units of the largest number."""
    size = float(expected.abs().max()) if expected.numel() else 0.0
    assert_close(actual.double(), expected.double(), rtol=0, atol=TOLERANCE[dtype] * size + 1e-12)


@SETTINGS
@given(cases(), st.data())
def test_gradients_are_those_of_a_plain_loop(case, data):
    network, x = case
    wrt, chunk = data.draw(st.sampled_from(layers_of(network))), data.draw(st.integers(1, 9))
    with unchanged(network):
        found = ge.unit_gradients(network, x, wrt, chunk_size=chunk)
    assert_near(found.gradients, in_double(network, x, wrt), x.dtype)
    assert_near(found.values, copy.deepcopy(network).double()(x.double()).detach(), x.dtype)
    lengths = found.unit_vectors().double().norm(dim=2)
    assert bool(((lengths - 1).abs() < 1e-5).logical_or(lengths == 0).all())
    fields = ge.gradient_fields(network, x, wrt=wrt)
    assert_near(fields.gradients.transpose(0, 1), found.gradients, x.dtype)
    assert_near(fields.points, found.activations, x.dtype)
    assert_near(fields.values.T, found.values, x.dtype)


@settings(SETTINGS, max_examples=30)
@given(cases(dtypes=(torch.float64,)), st.sampled_from(["realised", "all"]), st.integers(1, 9))
def test_interference_is_that_of_a_plain_loop(case, pairing, chunk_size):
    network, x = case
    with unchanged(network):
        result = ge.interference(network, x, pairing=pairing, chunk_size=chunk_size)
    oracle = interference_loop if pairing == "realised" else all_pairs_loop
    for layer in result.layers:
        for name, expected in oracle(in_double(network, x, layer)).items():
            assert_close(getattr(result, name)[layer].double(), expected.double(), rtol=1e-9, atol=1e-9)


@SETTINGS
@given(cases(), st.sampled_from(["realised", "all"]))
def test_measures_are_bounded_symmetric_and_of_the_samples_and_units_at_hand(case, pairing):
    network, x = case
    result = ge.interference(network, x, pairing=pairing)
    u = len(result.unit_labels)
    order = torch.randperm(u)
    permuted = ge.interference(network, x.flip(0), layers=result.layers, units=order.tolist(), pairing=pairing)
    for layer in result.layers:
        for measure in MEASURES:
            matrix = getattr(result, measure)[layer]
            assert bool(matrix.isfinite().all())
            assert_close(matrix, matrix.T, atol=1e-12)
            assert float(matrix.min()) >= (-1 - 1e-6 if measure == "cosine" else 0)
            assert float(matrix.max()) <= 1 + 1e-6
            is_single = pairing == "all" and measure == "norm_similarity"  # over all pairs it is single precision
            rounding = torch.float32 if is_single else x.dtype
            assert_near(getattr(permuted, measure)[layer], matrix[order][:, order], rounding)
        assert bool((result.cosine[layer].abs() <= result.abs_cosine[layer] + 1e-6).all())
        assert_near(permuted.norm[layer], result.norm[layer][order], x.dtype)
        assert result.undefined[layer].tolist() == permuted.undefined[layer][order.argsort()].tolist()


@SETTINGS
@given(cases(dtypes=(torch.float64,)), st.sampled_from([1e-6, 0.3, 7.0, 1e6]))
def test_a_positive_factor_changes_no_cosine_and_a_negative_one_its_sign(case, factor):
    network, x = case
    u = network(x).shape[1]
    plain = ge.interference(network, x)
    scales, signs = torch.ones(u, dtype=x.dtype), torch.ones(u, u, dtype=x.dtype)
    scales[0], signs[0, 1:], signs[1:, 0] = factor, -1, -1
    read = [torch.diag(scales), torch.diag(torch.where(scales == factor, -1.0, scales))]
    scaled, turned = (ge.interference(network, x, layers=plain.layers, directions=rows) for rows in read)
    for layer in plain.layers:
        assert_close(scaled.cosine[layer], plain.cosine[layer], atol=1e-9)
        assert_close(scaled.abs_cosine[layer], plain.abs_cosine[layer], atol=1e-9)
        assert_close(scaled.norm[layer], plain.norm[layer] * scales, rtol=1e-9)
        assert_close(turned.cosine[layer], plain.cosine[layer] * signs, atol=1e-9)


# Trees


def groups_of(tree: ge.GradientTree, layer: str, names: list[int]) -> list[set[frozenset[int]]]:
    """Each root's nodes as sets of samples, under given names."""
    return [{frozenset(names[int(i)] for i in (row == node).nonzero()[:, 0]) for node in row.unique()}
            for row in tree.nodes[layer]]  # fmt: skip


def paths_of(network: nn.Sequential, sample: Tensor, root: int) -> dict[str, tuple]:
    """What tells a gradient apart at each layer: slopes that it passes through on the way down, one by one."""
    names, inputs, path = layers_of(network), [sample], ()
    for module in network[:-1]:
        inputs.append(module(inputs[-1]).detach())
    g, paths = network[-1].weight[root].detach(), {names[-1]: ()}
    for name, module, a in list(zip(names, network, inputs, strict=True))[-2::-1]:
        if isinstance(module, nn.Linear):
            g = g @ module.weight.detach()
        else:
            leaf = a.clone().requires_grad_()
            slopes = torch.autograd.grad(module(leaf).sum(), leaf)[0]
            path, g = (*path, tuple(slopes[g != 0].tolist())), g * slopes
        paths[name] = path
    return paths


@SETTINGS
@given(chains(), st.randoms())
def test_trees_hold_the_gradients_and_as_many_nodes_as_there_are_patterns(case, random):
    network, x = case
    n, r = len(x), network[-1].out_features
    order, some = random.sample(range(n), n), random.sample(range(r), r)
    tree, shuffled = (ge.gradient_tree(network, part, layers=layers_of(network)) for part in (x, x[order]))
    permuted = ge.gradient_tree(network, x, layers=layers_of(network), roots=some)
    product = ge.gradient_tree(network, x, layers=layers_of(network), mode="product", max_nodes=10**7)
    assert permuted.root_labels == tuple(map(str, some))
    paths = [[paths_of(network, sample, root) for sample in x] for root in range(r)]
    assert_is_tree(tree)
    for layer in tree.layers:
        assert len(tree.norms[layer]) == sum(len({path[layer] for path in samples}) for samples in paths)
        expected, nodes = in_double(network, x, layer), groups_of(tree, layer, list(range(n)))
        for other in (tree, product):
            assert_close(gradients_of(other, layer), expected, atol=1e-9)
        assert_close(gradients_of(shuffled, layer), expected[order], atol=1e-9)
        assert_close(gradients_of(permuted, layer), expected[:, some], atol=1e-9)
        assert groups_of(shuffled, layer, order) == nodes
        assert groups_of(permuted, layer, list(range(n))) == [nodes[root] for root in some]
        for fine, coarse in zip(groups_of(product, layer, list(range(n))), nodes, strict=True):
            assert all(any(part <= whole for whole in coarse) for part in fine)
