"""The gradient tree: on paper, against loops over samples, under symmetries, and everything that is refused."""

import dataclasses
import math

import matplotlib.pyplot as plt
import pytest
import torch
from _asserts import assert_close, unchanged
from _networks import BatchMean, Blocks, Convolutional, Residual, crossing, linear, random_networks
from _oracle import gradient_loop
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gradembed as ge
from gradembed import plots
from gradembed.store import STORABLE
from gradembed.tree import _exact, _merge

# The five samples of `crossing` by pattern: both on (twice), first on, second on, none on.
CROSSED = torch.tensor([[1, 1], [2, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
HALF = math.sqrt(0.5)


def assert_is_tree(tree):
    """What holds for every tree: partitions that get finer, counts that add up, the stated order."""
    r, n = len(tree.root_labels), tree.n_samples
    above = None
    for layer in tree.layers:
        nodes, roots, parents, counts = (getattr(tree, f)[layer] for f in ("nodes", "roots", "parents", "counts"))
        assert torch.equal(nodes.flatten().bincount(minlength=len(counts)), counts)
        assert torch.equal(counts.new_zeros(r).index_add_(0, roots, counts), torch.full((r,), n))
        assert torch.equal(roots[nodes], torch.arange(r)[:, None].expand(r, n))
        if above is None:
            assert parents.tolist() == [-1] * len(parents)
        else:
            assert torch.equal(parents[nodes], tree.nodes[above])  # a child's samples are its parent's
            assert torch.equal(tree.roots[above][parents], roots)
            sums = torch.zeros_like(tree.counts[above]).index_add_(0, parents, counts)
            assert torch.equal(sums, tree.counts[above])
        first = [int(row[0]) if len(row := (nodes == c).any(0).nonzero()) else n for c in range(len(counts))]
        keys = list(zip(roots.tolist(), (-counts).tolist(), first, strict=True))
        assert keys == sorted(keys)
        lengths = tree.directions[layer].norm(dim=1)
        assert_close(lengths, (tree.norms[layer] > 0).to(lengths), rtol=1e-6)
        above = layer


def gradients_of(tree, layer):
    """Direction times norm of every root and sample: [n, r, d]."""
    nodes = tree.nodes[layer]
    return (tree.directions[layer][nodes] * tree.norms[layer][nodes][..., None]).transpose(0, 1)


def sets_of(tree, layer, names=None):
    """Each root's samples as a set of sets, under other names if given."""
    names = list(range(tree.n_samples)) if names is None else names
    return [
        {frozenset(names[int(i)] for i in (row == node).nonzero()[:, 0]) for node in row.unique()}
        for row in tree.nodes[layer]
    ]


def oracle(network, layer, x):
    children = dict(network.named_children())
    place = 0 if layer == "input" else list(children).index(layer) + 1
    parts = list(children.values())
    return gradient_loop(nn.Sequential(*parts[place:]), nn.Sequential(*parts[:place]), x)


def masked_paths(network, x, root):
    """For each sample and layer, what tells its gradient apart: the masked patterns on the way down, one by one."""
    children = list(network.named_children())
    if len(children) == 1:
        return {"input": [()] * len(x)}
    paths = {name: [] for name, _ in children[:-1]} | {"input": []}
    for sample in x:
        signs, a = {}, sample
        for name, child in children[:-1]:
            a = child.linear(a)
            signs[name] = [bool(v > 0) for v in a]
            a = child.activation(a)
        g, path = network.output.weight[root].detach(), ()
        for (name, child), below in zip(children[-2::-1], [*(n for n, _ in children[-3::-1]), "input"], strict=True):
            paths[name].append(path)
            slope = getattr(child.activation, "negative_slope", 0.0)
            path = (*path, tuple(on for on, v in zip(signs[name], g, strict=True) if v != 0))
            g = (g * torch.tensor([1.0 if on else slope for on in signs[name]], dtype=g.dtype)) @ child.linear.weight
            if below == "input":
                paths["input"].append(path)
    return paths


# On paper


def test_crossing_on_paper():
    tree = ge.gradient_tree(crossing(), CROSSED)
    assert tree.layers == ("1", "0", "input")
    assert_is_tree(tree)
    assert_close(tree.directions["1"], torch.tensor([[HALF, HALF], [HALF, -HALF]], dtype=torch.float64))
    assert tree.counts["1"].tolist() == [5, 5]
    for layer in ("0", "input"):
        first = [[HALF, HALF], [1, 0], [0, 1], [0, 0]]
        second = [[HALF, -HALF], [1, 0], [0, -1], [0, 0]]
        assert_close(tree.directions[layer], torch.tensor(first + second, dtype=torch.float64))
        assert_close(tree.norms[layer], torch.tensor([math.sqrt(2), 1, 1, 0] * 2, dtype=torch.float64))
        assert tree.counts[layer].tolist() == [2, 1, 1, 1] * 2
        assert tree.nodes[layer].tolist() == [[0, 0, 1, 2, 3], [4, 4, 5, 6, 7]]
        assert tree.roots[layer].tolist() == [0] * 4 + [1] * 4
    assert tree.parents["0"].tolist() == [0] * 4 + [1] * 4
    assert tree.parents["input"].tolist() == list(range(8))
    assert tree.root_labels == ("0", "1")
    assert tree.samples.tolist() == [0, 1, 2, 3, 4]


def test_units_that_a_root_does_not_read_never_divide_its_samples():
    network = nn.Sequential(linear([[1, 0], [0, 1]]), nn.ReLU(), linear([[1, 0], [1, 1], [0, 0]]))
    tree = ge.gradient_tree(network, CROSSED, layers=["input"])
    assert sets_of(tree, "input") == [{frozenset({0, 1, 2}), frozenset({3, 4})},
                                      {frozenset({0, 1}), frozenset({2}), frozenset({3}), frozenset({4})},
                                      {frozenset({0, 1, 2, 3, 4})}]  # fmt: skip
    assert tree.counts["input"].tolist() == [3, 2, 2, 1, 1, 1, 5]
    assert tree.norms["input"][-1] == 0


def test_nodes_of_different_parents_stay_apart_where_their_gradients_agree():
    # off at the second ReLU, or on there and off at both of the first: no gradient at the input either way
    network = nn.Sequential(
        linear([[1, 0], [0, 1]]), nn.ReLU(), linear([[1, 1]], [-0.5]), nn.LeakyReLU(0.0), linear([[2]])
    )
    x = torch.tensor([[1, 1], [-1, -1], [0.2, 0.1], [-1, -2]], dtype=torch.float64)
    tree = ge.gradient_tree(network, x, layers=["2", "input"])
    assert tree.counts["2"].tolist() == [3, 1]
    assert tree.counts["input"].tolist() == [3, 1]  # without a gradient nothing is read, so nothing divides
    assert tree.norms["input"][0] == 0


def test_a_boundary_is_off_as_in_autograd():
    tree = ge.gradient_tree(crossing(), torch.tensor([[0, 1], [-1, 1]], dtype=torch.float64), layers=["input"])
    assert tree.counts["input"].tolist() == [2, 2]


# Against loops


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU(inplace=True), nn.LeakyReLU(0.3, inplace=True), nn.LeakyReLU(1.0), nn.PReLU(), nn.PReLU(4), nn.ReLU6(),
     nn.Hardtanh(-1, 2), nn.Hardsigmoid(), nn.Identity(), nn.Dropout()],
    ids=lambda m: type(m).__name__,
)  # fmt: skip
def test_every_elementwise_step_equals_the_loop_also_on_its_boundaries(activation):
    norm = nn.BatchNorm1d(4)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    nn.init.uniform_(norm.weight, -2, 2)
    network = nn.Sequential(linear([[1, 0], [0, 1], [1, -1], [2, 1]]), activation, norm, nn.Linear(4, 3)).eval()
    network = network.double()
    edges = [-3, -1, 0, 1, 2, 3, 6, 0.5, -7, 9]
    x = torch.tensor([[a, b] for a in edges for b in (0, 3, -0.5)], dtype=torch.float64)
    with unchanged(network):
        tree = ge.gradient_tree(network, x)
    assert_is_tree(tree)
    # torch differentiates a hard sigmoid with 1/6 in single precision
    rtol = 1e-7 if isinstance(activation, nn.Hardsigmoid) else 1e-9
    assert_close(gradients_of(tree, "input"), gradient_loop(network, lambda s: s, x), rtol=rtol)


def test_equal_slopes_are_one_piece():
    network = nn.Sequential(nn.Linear(3, 5), nn.LeakyReLU(1.0), nn.Linear(5, 2))
    assert ge.gradient_tree(network, torch.randn(20, 3)).counts["input"].tolist() == [20, 20]
    plain = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5, affine=False), nn.Linear(5, 2)).eval()
    assert ge.gradient_tree(plain, torch.randn(20, 3)).counts["input"].tolist() == [20, 20]


def test_images_are_flattened_as_the_chain_does():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    x = torch.randn(9, 1, 4, 4, dtype=torch.float64)
    tree = ge.gradient_tree(network, x, layers=["input"])
    assert_close(gradients_of(tree, "input"), gradient_loop(network, lambda s: s, x))


@settings(max_examples=200)
@given(random_networks())
def test_random_networks_equal_the_loop(case):
    network, x = case
    tree = ge.gradient_tree(network, x)
    assert_is_tree(tree)
    paths = [masked_paths(network, x, root) for root in range(network.widths[-1])]
    for layer in tree.layers:
        assert_close(gradients_of(tree, layer), oracle(network, layer, x), rtol=1e-9, atol=1e-12)
        assert len(tree.norms[layer]) == sum(len(set(path[layer])) for path in paths)
        assert (tree.nodes[layer][:, 0] == tree.nodes[layer][:, -1]).all()


@settings(max_examples=60)
@given(random_networks(), st.randoms())
def test_order_of_samples_and_of_roots_does_not_matter(case, random):
    network, x = case
    tree = ge.gradient_tree(network, x)
    order = random.sample(range(len(x)), len(x))
    shuffled = ge.gradient_tree(network, x[order])
    roots = random.sample(range(network.widths[-1]), network.widths[-1])
    permuted = ge.gradient_tree(network, x, roots=roots)
    assert permuted.root_labels == tuple(map(str, roots))
    for layer in tree.layers:
        assert sets_of(shuffled, layer, order) == sets_of(tree, layer)
        assert_close(gradients_of(shuffled, layer), gradients_of(tree, layer)[order])
        assert [sets_of(tree, layer)[r] for r in roots] == sets_of(permuted, layer)
        assert_close(gradients_of(permuted, layer), gradients_of(tree, layer)[:, roots])


@settings(max_examples=30)
@given(random_networks(min_depth=3), st.randoms())
def test_order_of_hidden_units_moves_their_own_axis_only(case, random):
    network, x = case
    tree = ge.gradient_tree(network, x)
    order = random.sample(range(network.widths[1]), network.widths[1])
    with torch.no_grad():
        for parameter in (network.hidden1.linear.weight, network.hidden1.linear.bias):
            parameter.copy_(parameter[order].clone())
        network.hidden2.linear.weight.copy_(network.hidden2.linear.weight[:, order].clone())
    after = ge.gradient_tree(network, x)
    for layer in tree.layers:
        assert torch.equal(after.nodes[layer], tree.nodes[layer])
        expected = tree.directions[layer][:, order] if layer == "hidden1" else tree.directions[layer]
        assert_close(after.directions[layer], expected, atol=1e-9)


def rescaled(factors):
    """Hidden units of the first layer scaled up, the next layer's weights down."""
    network = ge.MLP([6, 5, 5, 3], seed=0).double()
    with torch.no_grad():
        network.hidden1.linear.weight.mul_(factors[:, None])
        network.hidden1.linear.bias.mul_(factors)
        network.hidden2.linear.weight.div_(factors)
    return network


def test_rescaling_hidden_units_keeps_the_input_and_moves_their_own_layer():
    x, factors = torch.randn(50, 6, dtype=torch.float64), torch.tensor([0.1, 10, 1, 3, 7], dtype=torch.float64)
    before = ge.gradient_tree(rescaled(torch.ones(5, dtype=torch.float64)), x)
    after = ge.gradient_tree(rescaled(factors), x)
    for layer in before.layers:
        assert torch.equal(after.nodes[layer], before.nodes[layer])
        assert torch.equal(after.parents[layer], before.parents[layer])
    for layer in ("input", "hidden2"):
        assert_close(after.directions[layer], before.directions[layer])
        assert_close(after.norms[layer], before.norms[layer])
    assert float((after.directions["hidden1"] - before.directions["hidden1"]).abs().max()) > 0.1
    flipped = ge.gradient_tree(rescaled(-factors), x)  # another function: the negative control
    assert sets_of(flipped, "hidden1") != sets_of(before, "hidden1")
    assert float((gradients_of(flipped, "input") - gradients_of(before, "input")).abs().max()) > 0.01


def test_roots_at_any_layer_and_layers_in_any_order():
    network, x = ge.MLP([6, 5, 4, 3], seed=0).double(), torch.randn(30, 6, dtype=torch.float64)
    tree = ge.gradient_tree(network, x, unit_layer="hidden2", roots=torch.tensor([3, 1]))
    assert tree.layers == ("hidden1", "input")
    assert tree.root_labels == ("3", "1")
    assert_is_tree(tree)
    body = nn.Sequential(network.hidden1, network.hidden2)
    assert_close(gradients_of(tree, "input"), gradient_loop(body, lambda s: s, x)[:, [3, 1]])
    whole = ge.gradient_tree(network, x)
    mixed = ge.gradient_tree(network, x, layers=["input", "hidden1.linear", "hidden1", "hidden1.activation"])
    assert mixed.layers == ("hidden1.activation", "hidden1", "hidden1.linear", "input")
    assert_is_tree(mixed)
    for layer in ("input", "hidden1"):
        assert torch.equal(mixed.nodes[layer], whole.nodes[layer])
        assert_close(mixed.directions[layer], whole.directions[layer])
    assert_close(mixed.directions["hidden1.activation"], whole.directions["hidden1"])
    lowest = ge.gradient_tree(network, x, layers=["hidden1", "hidden1.activation"])  # twice the same place
    assert_close(lowest.norms["hidden1"], lowest.norms["hidden1.activation"])
    assert_close(lowest.directions["hidden1"], whole.directions["hidden1"])
    repeated = ge.gradient_tree(network, x, roots=[1, 1])
    assert_close(gradients_of(repeated, "input")[:, 0], gradients_of(repeated, "input")[:, 1])


def test_chunks_change_nothing(monkeypatch):
    network, x = ge.MLP([7, 70, 9, 4], seed=0).double(), torch.randn(40, 7, dtype=torch.float64)
    whole = ge.gradient_tree(network, x)
    monkeypatch.setattr(_exact, "CHUNK_BYTES", 1000)
    parts = ge.gradient_tree(network, x)
    for layer in whole.layers:
        assert torch.equal(parts.nodes[layer], whole.nodes[layer])
        assert_close(parts.directions[layer], whole.directions[layer])


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e18])
def test_tiny_and_huge_gradients_keep_their_directions(scale):
    network, x = ge.MLP([6, 5, 3], seed=0), torch.randn(20, 6)
    expected = ge.gradient_tree(network, x)
    with torch.no_grad():
        network.output.weight.mul_(scale)
    tree = ge.gradient_tree(network, x)
    for layer in tree.layers:
        assert torch.equal(tree.nodes[layer], expected.nodes[layer])
        assert_close(tree.directions[layer], expected.directions[layer], rtol=1e-4, atol=1e-6)
        assert_close(tree.norms[layer], expected.norms[layer] * scale, rtol=1e-4, atol=0)
        assert tree.directions[layer].dtype == torch.float32


def test_the_network_is_left_as_it_was():
    network, x = ge.MLP([4, 5, 3], seed=0), torch.randn(9, 4)
    weight = network.output.weight.detach().clone()
    with unchanged(network):
        ge.gradient_tree(network, x)
        ge.gradient_tree(network, x, layers=["hidden1"])  # the weight itself is the gradient there
    assert torch.equal(network.output.weight, weight)
    before = x.clone()
    ge.gradient_tree(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2)), x)
    assert torch.equal(x, before)
    with unchanged(model := Residual()):
        ge.gradient_tree(model, x, tolerance=0.1)


@pytest.mark.slow
def test_two_thousand_images_worth_of_noise():
    network, x = ge.MLP([784, 64, 64, 10], seed=0), torch.randn(2000, 784)
    tree = ge.gradient_tree(network, x)
    for layer in tree.layers:
        assert_close(tree.counts[layer].sum(), torch.tensor(20_000))
    expected = ge.unit_gradients(network.double(), x[:300].double(), "input").gradients
    found = tree.directions["input"][tree.nodes["input"][:, :300]].double()
    found *= tree.norms["input"][tree.nodes["input"][:, :300]][..., None]
    assert_close(found.transpose(0, 1), expected, rtol=0, atol=1e-6)


# Products


@pytest.mark.parametrize(("n", "leaves"), [(4, 160), (8, 640), (16, 2560)])
def test_products_have_a_node_for_every_combination(n, leaves):
    network, x = ge.MLP([784, 64, 64, 10], seed=0), torch.randn(n, 784)
    tree = ge.gradient_tree(network, x, mode="product")
    assert [len(tree.norms[layer]) for layer in tree.layers] == [10, 10 * n, leaves]
    assert (tree.counts["input"] == 0).sum() == leaves - 10 * n
    assert_is_tree(tree)


@settings(max_examples=30)
@given(random_networks(min_depth=2))
def test_products_hold_the_realised_gradients(case):
    network, x = case
    product = ge.gradient_tree(network, x, mode="product", max_nodes=10**6)
    realised = ge.gradient_tree(network, x)
    assert_is_tree(product)
    for layer in product.layers:
        assert_close(gradients_of(product, layer), gradients_of(realised, layer))
        for fine, coarse in zip(sets_of(product, layer), sets_of(realised, layer), strict=True):
            assert all(any(part <= whole for whole in coarse) for part in fine)


def test_product_of_crossing_on_paper():
    network = nn.Sequential(*crossing()[:2], linear([[1, 1]]), nn.ReLU(), linear([[3]]))
    tree = ge.gradient_tree(network, CROSSED[[0, 2, 3, 4]], mode="product", layers=["2", "input"])
    # on at three samples, off at the last; each with all four patterns of the first ReLUs
    assert tree.counts["2"].tolist() == [3, 1]
    assert tree.parents["input"].tolist() == [0, 0, 0, 1, 0, 1, 1, 1]
    assert tree.counts["input"].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    expected = torch.tensor([math.sqrt(18), 3, 3, 0, 0, 0, 0, 0], dtype=torch.float64)
    assert_close(tree.norms["input"], expected)
    assert tree.subtree("input", 7).n_samples == 0
    assert "0 samples, product" in repr(tree.subtree("input", 7))
    assert tree.subtree("input", 7).largest("input")["share"].tolist() == [0.0]


# Smooth networks


def followed(gradients, parents, tolerance):
    """Merge one sample after the other: the leader that each sample follows."""
    leaders, found = [], []
    for i, g in enumerate(gradients):
        for lead in leaders:
            h = gradients[lead]
            both_zero = float(g.norm()) == 0 and float(h.norm()) == 0
            one_zero = (float(g.norm()) == 0) != (float(h.norm()) == 0)
            agree = both_zero or (not one_zero and float(g @ h / g.norm() / h.norm()) >= 1 - tolerance)
            if parents[i] == parents[lead] and agree:
                found.append(lead)
                break
        else:
            leaders.append(i)
            found.append(i)
    return found


def assert_is_merged(tree, tolerance, gradients):
    """Each layer is what going through the samples one by one gives; directions are the leaders'."""
    assert_is_tree(tree)
    for root in range(len(tree.root_labels)):
        parents = [0] * tree.n_samples
        for layer in tree.layers:
            rows = gradients[layer][:, root]
            leads = followed(rows, parents, tolerance)
            nodes = tree.nodes[layer][root]
            assert [leads.index(lead) for lead in leads] == [nodes.tolist().index(node) for node in nodes.tolist()]
            for node in nodes.unique():
                members = rows[nodes == node]
                assert_close(tree.norms[layer][node], members.norm(dim=1).mean(), rtol=1e-9)
                assert_close(tree.directions[layer][node] * members[0].norm(), members[0], atol=1e-9)
            cosine = torch.cosine_similarity(rows, tree.directions[layer][nodes], dim=1)
            assert bool((cosine[rows.norm(dim=1) > 0] >= 1 - tolerance - 1e-9).all())
            parents = nodes.tolist()


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU])
@pytest.mark.parametrize("tolerance", [1e-12, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("block", [1, 3, 256])  # parents with four times as many samples are gone through by themselves
def test_smooth_chains_are_merged_one_sample_after_the_other(monkeypatch, activation, tolerance, block):
    monkeypatch.setattr(_merge, "BLOCK", block)
    network, x = ge.MLP([20, 8, 6, 3], activation, seed=0).double(), torch.randn(40, 20, dtype=torch.float64)
    x[-1] = x[3]
    with unchanged(network):
        tree = ge.gradient_tree(network, x, tolerance=tolerance)
    assert_is_merged(tree, tolerance, {layer: oracle(network, layer, x) for layer in tree.layers})
    if tolerance == 1e-12:
        assert [len(tree.norms[layer]) for layer in tree.layers] == [3, 3 * 39, 3 * 39]
    assert tree.tolerance == tolerance


@pytest.mark.parametrize("make", [Residual, lambda: Convolutional().eval(), Blocks])
@pytest.mark.parametrize("tolerance", [0.01, 0.2])
def test_general_modules_are_merged_one_sample_after_the_other(make, tolerance):
    model = make().double()
    x = torch.randn(12, *((1, 4, 4) if isinstance(model, Convolutional) else (4,)), dtype=torch.float64)
    with unchanged(model):
        tree = ge.gradient_tree(model, x, tolerance=tolerance)
    gradients = {layer: ge.unit_gradients(model, x, layer).gradients for layer in tree.layers}
    assert_close(gradients["input"], gradient_loop(lambda z: model(z.clone()), lambda s: s, x))
    assert_is_merged(tree, tolerance, gradients)


def test_layers_of_general_modules_run_from_the_top_down():
    x = torch.randn(9, 4)
    assert ge.gradient_tree(Residual(), x, tolerance=0.1).layers == ("branch", "norm", "stem", "input")
    given = ge.gradient_tree(Residual(), x, tolerance=0.1, layers=["stem", "branch", "input", "norm"])
    assert given.layers == ("branch", "norm", "stem", "input")
    assert_is_tree(given)


def test_zero_gradients_of_smooth_networks_are_nodes_of_their_own():
    network = nn.Sequential(linear([[1, 0], [0, 1]]), nn.ReLU(), nn.Tanh(), linear([[1, 1]]))
    tree = ge.gradient_tree(network, CROSSED[[4, 0, 2, 4]], layers=["input"], tolerance=1.0)
    assert tree.counts["input"].tolist() == [2, 2]
    assert tree.norms["input"][0] == 0
    assert tree.directions["input"][0].tolist() == [0, 0]


def test_smooth_steps_outside_the_layers_asked_for_do_not_matter():
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2), nn.Sigmoid())
    tree = ge.gradient_tree(network, torch.randn(20, 4), layers=["1"], unit_layer="4")
    assert tree.tolerance is None
    assert_is_tree(tree)


# What results can do


def make_tree(**named):
    torch.manual_seed(1)
    network, x = ge.MLP([5, 6, 6, 3], seed=2).double(), torch.randn(60, 5, dtype=torch.float64)
    return network, x, ge.gradient_tree(network, x, **named)


@pytest.mark.parametrize("named", [{}, {"mode": "product"}])
def test_subtrees_are_nodes_with_their_descendants(named):
    network, x, tree = make_tree(**named)
    for layer in tree.layers:
        for node in range(0, len(tree.norms[layer]), 7):
            part = tree.subtree(layer, node)
            root, count = int(tree.roots[layer][node]), int(tree.counts[layer][node])
            assert part.layers == tree.layers[tree.layers.index(layer) :]
            assert (part.n_samples, part.root_labels) == (count, (tree.root_labels[root],))
            assert_is_tree(part)
            assert part.samples.tolist() == (tree.nodes[layer][root] == node).nonzero()[:, 0].tolist()
            assert_close(part.directions[layer], tree.directions[layer][[node]])
            if count and not named:  # what those samples alone would give
                alone = ge.gradient_tree(network, x[part.samples], roots=[root])
                for name in part.layers:
                    assert torch.equal(part.nodes[name], alone.nodes[name])
                    assert_close(part.directions[name], alone.directions[name])
            assert int(tree.largest(layer, 10**6).set_index("node")["n_leaves"][node]) == len(part.norms["input"])


def test_a_subtree_of_a_subtree_keeps_the_samples():
    _, _, tree = make_tree()
    outer = tree.subtree("hidden1", int(tree.roots["hidden1"].tolist().index(1)) + 1)  # not the largest node
    inner = outer.subtree("input", 1)
    first = int(outer.nodes["input"][0].eq(1).nonzero()[0])
    same = tree.subtree("input", int(tree.nodes["input"][1, outer.samples[first]]))
    assert inner.samples.tolist() == same.samples.tolist() != list(range(inner.n_samples))
    assert inner.root_labels == same.root_labels == ("1",)
    assert_close(inner.directions["input"], same.directions["input"])


def test_similarity_is_the_cosine_of_gradients():
    tree = ge.gradient_tree(crossing(), CROSSED)
    cosine = tree.similarity("input")
    assert cosine.shape == (8, 8)
    assert_close(cosine, cosine.T)
    assert_close(cosine.diagonal(), torch.tensor([1, 1, 1, 0] * 2, dtype=torch.float64))
    assert_close(cosine[0], torch.tensor([1, HALF, HALF, 0, 0, HALF, -HALF, 0], dtype=torch.float64))
    assert float(make_tree()[2].similarity("input").abs().max()) <= 1


def test_frames():
    _, x, tree = make_tree(roots=[2, 0])
    frame = tree.to_frame()
    assert list(frame.columns) == ["layer", "node", "parent", "root", "count", "norm"]
    assert len(frame) == sum(map(len, tree.norms.values()))
    assert frame.groupby(["layer", "root"])["count"].sum().tolist() == [len(x)] * 6
    assert frame.loc[frame["layer"] == "hidden2", ["node", "parent", "root"]].to_numpy().tolist() == [
        [0, -1, "2"],
        [1, -1, "0"],
    ]
    for layer in tree.layers:
        largest = tree.largest(layer, k=4)
        assert list(largest.columns) == ["node", "root", "count", "share", "norm", "n_children", "n_leaves"]
        rows = frame[frame["layer"] == layer].sort_values("count", ascending=False, kind="stable").head(4)
        for name in ("node", "root", "count", "norm"):
            assert largest[name].tolist() == rows[name].tolist()
        assert largest["share"].tolist() == [count / len(x) for count in largest["count"]]
        below = tree.layers[tree.layers.index(layer) + 1 :][:1]
        for node, children in zip(largest["node"], largest["n_children"], strict=True):
            assert children == sum(int((tree.parents[name] == node).sum()) for name in below)
    assert tree.largest("input", 10**6)["n_leaves"].tolist() == [1] * len(tree.norms["input"])


def test_repr_and_store(tmp_path):
    network, x, tree = make_tree()
    sizes = f"hidden2: 3, hidden1: {len(tree.norms['hidden1'])}, input: {len(tree.norms['input'])}"
    assert repr(tree) == f"GradientTree(3 roots of 'output', nodes {{{sizes}}}, 60 samples, realised)"
    assert repr(tree.subtree("hidden2", 0)).startswith("GradientTree(1 root of 'output', nodes {hidden2: 1, ")
    smooth = ge.gradient_tree(ge.MLP([4, 3], nn.Tanh), torch.randn(3, 4), unit_layer="output")
    assert repr(smooth) == "GradientTree(3 roots of 'output', nodes {input: 3}, 3 samples, realised)"
    merged = ge.gradient_tree(ge.MLP([4, 3, 2], nn.Tanh), torch.ones(3, 4), tolerance=0.01)
    assert repr(merged).endswith("3 samples, realised, merged within a cosine distance of 0.01)")
    assert STORABLE["GradientTree"] is ge.GradientTree
    cache = ge.Cache(tmp_path)
    for found in (cache.call(ge.gradient_tree, network, x), cache.call(ge.gradient_tree, network, x)):
        assert found.layers == tree.layers
        for field in dataclasses.fields(tree):
            here, there = getattr(found, field.name), getattr(tree, field.name)
            if isinstance(there, dict):
                assert all(torch.equal(here[layer], there[layer]) for layer in there)


# Refusals


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mode": "some"}, ValueError, r"`mode` should be one of 'realised', 'product'. Got 'some'"),
        ({"max_nodes": 0}, ValueError, r"`max_nodes` should be at least 1. Got 0"),
        ({"max_nodes": 1e5}, TypeError, r"`max_nodes` should be an integer"),
        ({"max_nodes": 2}, ValueError, r"`max_nodes` should be at least \d+, the nodes at '.*'. Got 2. Raise it"),
        ({"max_nodes": 2, "layers": ["hidden1"]}, ValueError, r"`max_nodes` should be at least 3, the nodes at 'hid"),
        ({"max_nodes": 4}, ValueError, r"`max_nodes` should be at least \d+, the nodes at 'input'. Got 4. Raise it, "),
        ({"tolerance": 0.1}, ValueError, r"`tolerance` should be None for a piecewise-linear network. Got 0.1. Leave"),
        ({"tolerance": 0}, ValueError, r"`tolerance` should be finite, above 0 and at most 1. Got 0"),
        ({"tolerance": 1.5}, ValueError, r"`tolerance` should be finite, above 0 and at most 1. Got 1.5"),
        ({"tolerance": "1%"}, TypeError, r"`tolerance` should be a number. Got '1%'"),
        ({"roots": [3]}, ValueError, r"`roots` should lie between 0 and 2, the units of 'output'. Got 3"),
        ({"roots": [-1]}, ValueError, r"`roots` should lie between 0 and 2, the units of 'output'. Got -1"),
        ({"roots": [0.5]}, TypeError, r"`roots` should be an integer. Got 0.5"),
        ({"roots": []}, ValueError, r"`roots` should be a list of indices, not empty"),
        ({"roots": 1}, TypeError, r"`roots` should be a list of indices. Got 1"),
        ({"layers": "input"}, TypeError, r"`layers` should be a list of layer names. Got 'input'"),
        ({"layers": ["hidden7"]}, ValueError, r"`layers` should name a layer of the model. Got 'hidden7'"),
        ({"layers": ["output"]}, ValueError, r"`unit_layer` should come after 'output'"),
        ({"unit_layer": "input"}, ValueError, r"`unit_layer` should come after 'input'"),
        ({"x": torch.randn(5, 3)}, ValueError, r"`x` should have 4 features"),
        ({"x": torch.full((5, 4), torch.nan)}, ValueError, r"`x` should be finite"),
        ({"model": BatchMean(), "tolerance": 0.1}, ValueError, r"`model` should treat every sample by itself"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(arguments, error, message):
    network = ge.MLP([4, 5, 3], seed=0)
    call = {"model": network, "x": torch.randn(50, 4)} | arguments
    with unchanged(network), pytest.raises(error, match=message):
        ge.gradient_tree(**call)


def test_products_say_beforehand_how_many_nodes_they_need(monkeypatch):
    network, x = ge.MLP([9, 64, 64, 10], seed=0), torch.randn(200, 9)
    monkeypatch.setattr(_exact._Descent, "product", None)  # nothing is ever made
    hidden = network.hidden1(x)
    n = [len((a > 0).unique(dim=0)) for a in (hidden, network.hidden2(hidden))]
    needed = 10 * n[0] * n[1]
    message = (
        rf"`max_nodes` should be at least {needed:,}, one node at 'input' for each of 10 roots and all combinations of "
        rf"{n[0]} × {n[1]} patterns. Got 200000. Use mode='realised', which needs at most 2,000"
    )
    with pytest.raises(ValueError, match=message):
        ge.gradient_tree(network, x, mode="product")


@pytest.mark.parametrize(
    ("model", "named", "message"),
    [
        (ge.MLP([4, 5, 3], nn.Tanh), {}, r"`tolerance` should be given for a network without activation patterns. "
                                         r"Got None for Tanh at 'hidden1.activation'. Pass tolerance=0.01"),
        (nn.Sequential(nn.Linear(4, 2), nn.GELU(), nn.Linear(2, 2)), {}, r"Got None for GELU at '1'"),
        (Residual(), {}, r"Got None for Residual, which is no chain of linear layers and elementwise modules"),
        (ge.MLP([4, 5, 3], nn.Tanh), {"mode": "product", "tolerance": 0.1},
         r"`mode` should be 'realised' for a network without activation patterns. Got Tanh at"),
        (Residual(), {"mode": "product"}, r"`mode` should be 'realised' for a network without .*Got Residual"),
        (ge.MLP([4, 5, 3], nn.Tanh), {"tolerance": 1e-9, "max_nodes": 7}, r"`max_nodes` should be at least \d+, the"),
    ],
)  # fmt: skip
def test_networks_without_patterns_need_a_tolerance(model, named, message):
    with pytest.raises(ValueError, match=message):
        ge.gradient_tree(model, torch.randn(5, 4), **named)


@pytest.mark.parametrize("tolerance", [None, 0.1])
def test_overflow_is_refused(tolerance):
    network = ge.MLP([4, 5, 3], nn.ReLU if tolerance is None else nn.Tanh, seed=0)
    with torch.no_grad():
        network.output.weight.fill_(3e38)
        network.hidden1.linear.weight.fill_(-10)
        network.hidden1.linear.bias.fill_(0.001)
    with pytest.raises(ValueError, match=r"`x` should give finite gradients at 'input'. Got an overflow"):
        ge.gradient_tree(network, torch.zeros(5, 4), layers=["input"], tolerance=tolerance)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: t.subtree("output", 0), ValueError, r"`layer` should name a layer of the model. Got 'output'"),
        (lambda t: t.subtree("input", 10**6), ValueError, r"`node` should lie between 0 and \d+, the nodes of 'input'"),
        (lambda t: t.subtree("input", -1), ValueError, r"`node` should lie between 0 and .* Got -1. Look at largest"),
        (lambda t: t.subtree("input", 1.0), TypeError, r"`node` should be an integer"),
        (lambda t: t.subtree(0, 1), TypeError, r"`layer` should be a layer's name. Got 0"),
        (lambda t: t.similarity("nothing"), ValueError, r"`layer` should name a layer"),
        (lambda t: t.largest("nothing"), ValueError, r"`layer` should name a layer"),
        (lambda t: t.largest("input", 0), ValueError, r"`k` should be at least 1. Got 0"),
        (lambda t: t.largest("input", "all"), TypeError, r"`k` should be an integer"),
        (lambda t: plots.tree(t), ValueError, r"`result` should have at most 60 nodes to be readable. Got \d+. Draw"),
        (lambda t: plots.tree(t, max_nodes=0), ValueError, r"`max_nodes` should be at least 1"),
        (lambda t: plots.tree(t, max_nodes="all"), TypeError, r"`max_nodes` should be an integer"),
        (lambda t: plots.tree_similarity(t, "nothing"), ValueError, r"`layer` should name a layer"),
        (lambda t: plots.tree_similarity(t, 3), TypeError, r"`layer` should be a layer's name"),
    ],
)
def test_bad_questions_to_a_tree_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(make_tree()[2])


def test_too_many_nodes_for_a_matrix_are_refused(monkeypatch):
    monkeypatch.setattr("gradembed.tree._result.MAX_SIMILARITY", 20)
    message = r"`layer` should have at most 20 nodes for a matrix of all pairs. Got \d+ at 'input'. Take a subtree"
    with pytest.raises(ValueError, match=message):
        make_tree()[2].similarity("input")


# Figures


def test_small_trees_are_drawn():
    tree = ge.gradient_tree(crossing(), CROSSED)
    ax = plots.tree(tree, title="on paper", source="typed by hand")
    ax.figure.canvas.draw()
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["output\n(roots)", "1\n(2 nodes)", "0\n(8 nodes)", "input\n(8 nodes)"]
    assert (ax.get_title(), ax.get_xlabel()) == ("on paper", "area: samples in the node, of 5")
    assert "typed by hand" in ax.figure.get_supxlabel()
    texts = [text.get_text() for text in ax.texts]
    assert texts[:4] == ["0", "1", "5", "5"]
    squares, rows = ax.collections[:2], [c for c in ax.collections[2:] if len(c.get_offsets()) > 1]
    assert len(squares) == 2
    places = [[float(x) for x in row.get_offsets()[:, 0]] for row in rows[-2:]]
    assert places[0] == places[1]  # every node of "0" has one child, right below it
    assert sorted(places[1]) == places[1]
    assert ax.yaxis_inverted()
    assert plots.tree(tree, ax=ax) is ax


def test_nodes_that_no_sample_has_are_hollow():
    network = nn.Sequential(*crossing()[:2], linear([[1, 1]]), nn.ReLU(), linear([[3]]))
    tree = ge.gradient_tree(network, CROSSED, mode="product", layers=["2", "input"])
    ax = plots.tree(tree)
    assert ax.get_xlabel() == "area: samples in the node, of 5; hollow: patterns that never meet"
    faces = ax.collections[-1].get_facecolor()
    assert [bool((face == 1).all()) for face in faces] == [count == 0 for count in tree.counts["input"].tolist()]
    plots.tree(tree.subtree("input", 7)).figure.canvas.draw()


def test_similarity_is_drawn_in_blocks():
    tree = ge.gradient_tree(crossing(), CROSSED)
    ax = plots.tree_similarity(tree, "input", title="blocks", source="typed by hand")
    ax.figure.canvas.draw()
    (image,) = ax.get_images()
    assert image.get_clim() == (-1, 1)
    assert_close(torch.as_tensor(image.get_array().data), tree.similarity("input"))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1"]
    assert ax.get_xticks().tolist() == [1.5, 5.5]
    assert [line.get_ydata()[0] for line in ax.lines[:1]] == [3.5]
    assert ax.get_xlabel() == "root: unit of 'output'"
    assert plt.get_fignums()
    assert plots.tree_similarity(tree, "0", ax=ax) is ax


def test_merging_works_sample_by_sample_in_rounds():
    directions = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 0], [0, 1], [0, 0]])
    above, zero = torch.tensor([0, 0, 1, 1, 0, 0]).numpy(), torch.tensor([0, 0, 0, 1, 0, 1]).bool().numpy()
    labels, leaders = _merge._follow(directions, zero, above, 0.01)
    assert leaders.tolist() == [0, 1, 2, 3, 5]
    assert [int(leaders[label]) for label in labels] == [0, 1, 2, 3, 1, 5]
