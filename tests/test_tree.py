"""The gradient tree: on paper, against loops over samples, what results can do, and everything that is refused."""

import math

import pytest
import torch
from _asserts import assert_close, assert_is_tree, gradients_of, unchanged
from _networks import Blocks, Convolutional, Residual, crossing, linear, mlp, randn, rescaled
from _oracle import gradient_loop
from torch import nn

import gradembed as ge
from gradembed import plots
from gradembed.tree import _levels

# The five samples of `crossing` by pattern: both on (twice), first on, second on, none on.
CROSSED = torch.tensor([[1, 1], [2, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
HALF = math.sqrt(0.5)


# On paper


def test_crossing_on_paper():
    tree = ge.gradient_tree(crossing(), CROSSED)
    assert tree.layers == ("1", "0", "input")
    assert_is_tree(tree)
    assert_close(tree.directions["1"], torch.tensor([[HALF, HALF], [HALF, -HALF]], dtype=torch.float64))
    assert tree.counts["1"].tolist() == [5, 5]
    rows = [[HALF, HALF], [1, 0], [0, 1], [0, 0], [HALF, -HALF], [1, 0], [0, -1], [0, 0]]
    for layer in ("0", "input"):
        assert_close(tree.directions[layer], torch.tensor(rows, dtype=torch.float64))
        assert_close(tree.norms[layer], torch.tensor([math.sqrt(2), 1, 1, 0] * 2, dtype=torch.float64))
        assert tree.counts[layer].tolist() == [2, 1, 1, 1] * 2
        assert tree.nodes[layer].tolist() == [[0, 0, 1, 2, 3], [4, 4, 5, 6, 7]]
        assert tree.roots[layer].tolist() == [0] * 4 + [1] * 4
    assert tree.parents["0"].tolist() == [0] * 4 + [1] * 4
    assert tree.parents["input"].tolist() == list(range(8))
    assert (tree.root_labels, tree.samples.tolist()) == (("0", "1"), [0, 1, 2, 3, 4])
    cosine = tree.similarity("input")
    assert_close(cosine, cosine.T)
    assert_close(cosine.diagonal(), torch.tensor([1, 1, 1, 0] * 2, dtype=torch.float64))
    assert_close(cosine[0], torch.tensor([1, HALF, HALF, 0, 0, HALF, -HALF, 0], dtype=torch.float64))


@pytest.mark.parametrize(("parts", "x", "layers", "counts"), [
    # units that a root does not read never divide its samples
    ([linear([[1, 0], [0, 1]]), nn.ReLU(), linear([[1, 0], [1, 1], [0, 0]])], CROSSED, ["input"],
     {"input": [3, 2, 2, 1, 1, 1, 5]}),
    # nodes of different parents stay apart where their gradients agree: off at the second, or at both of the first
    ([linear([[1, 0], [0, 1]]), nn.ReLU(), linear([[1, 1]], [-0.5]), nn.LeakyReLU(0.0), linear([[2]])],
     torch.tensor([[1, 1], [-1, -1], [0.2, 0.1], [-1, -2]]).double(), ["2", "input"], {"2": [3, 1], "input": [3, 1]}),
    # a boundary is off, as in autograd
    ([*crossing()], torch.tensor([[0, 1], [-1, 1]]).double(), ["input"], {"input": [2, 2]}),
    # equal slopes are one piece
    ([nn.Linear(2, 5), nn.LeakyReLU(1.0), nn.Linear(5, 2)], CROSSED.float(), ["input"], {"input": [5, 5]}),
    ([nn.Linear(2, 5), nn.BatchNorm1d(5, affine=False).eval(), nn.Linear(5, 1)], CROSSED.float(), ["input"],
     {"input": [5]}),
])  # fmt: skip
def test_what_divides_samples_on_paper(parts, x, layers, counts):
    tree = ge.gradient_tree(nn.Sequential(*parts), x, layers=layers)
    assert_is_tree(tree)
    assert {layer: tree.counts[layer].tolist() for layer in tree.layers} == counts


def test_product_of_crossing_on_paper():
    network = nn.Sequential(*crossing()[:2], linear([[1, 1]]), nn.ReLU(), linear([[3]]))
    tree = ge.gradient_tree(network, CROSSED[[0, 2, 3, 4]], mode="product", layers=["2", "input"])
    # on at three samples, off at the last; each with all four patterns of the first ReLUs
    assert tree.counts["2"].tolist() == [3, 1]
    assert tree.parents["input"].tolist() == [0, 0, 0, 1, 0, 1, 1, 1]
    assert tree.counts["input"].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert_close(tree.norms["input"], torch.tensor([math.sqrt(18), 3, 3, 0, 0, 0, 0, 0], dtype=torch.float64))
    nobody = tree.subtree("input", 7)
    assert (nobody.n_samples, nobody.largest("input")["share"].tolist()) == (0, [0.0])
    assert "0 samples, product" in repr(nobody)


@pytest.mark.parametrize(("n", "leaves"), [(4, 160), (16, 2560)])
def test_products_have_a_node_for_every_combination(n, leaves):
    tree = ge.gradient_tree(ge.MLP([784, 64, 64, 10], seed=0), torch.randn(n, 784), mode="product")
    assert [len(tree.norms[layer]) for layer in tree.layers] == [10, 10 * n, leaves]
    assert (tree.counts["input"] == 0).sum() == leaves - 10 * n
    assert_is_tree(tree)


# Against loops


@pytest.mark.parametrize("activation", [
    nn.ReLU(inplace=True), nn.LeakyReLU(0.3, inplace=True), nn.LeakyReLU(1.0), nn.PReLU(), nn.PReLU(4), nn.ReLU6(),
    nn.Hardtanh(-1, 2), nn.Hardsigmoid(), nn.Identity(), nn.Dropout(),
], ids=lambda m: type(m).__name__)  # fmt: skip
def test_every_elementwise_step_equals_the_loop_also_on_its_boundaries(activation):
    norm = nn.BatchNorm1d(4)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    nn.init.uniform_(norm.weight, -2, 2)
    steps = [nn.Flatten(), linear([[1, 0], [0, 1], [1, -1], [2, 1]]), activation, norm, nn.Linear(4, 3)]
    network = nn.Sequential(*steps).eval().double()
    edges = [-3, -1, 0, 1, 2, 3, 6, 0.5, -7, 9]
    x = torch.tensor([[[a], [b]] for a in edges for b in (0, 3, -0.5)], dtype=torch.float64)
    with unchanged(network):
        tree = ge.gradient_tree(network, x)
    assert_is_tree(tree)
    # torch differentiates a hard sigmoid with 1/6 in single precision
    rtol = 1e-7 if isinstance(activation, nn.Hardsigmoid) else 1e-9
    assert_close(gradients_of(tree, "input"), gradient_loop(network, lambda s: s, x), rtol=rtol)


def test_roots_at_any_layer_and_layers_in_any_order():
    network, x = mlp(6, 5, 4, 3), randn(30, 6)
    tree = ge.gradient_tree(network, x, unit_layer="hidden2", roots=["3", torch.tensor(1)])
    assert (tree.layers, tree.root_labels) == (("hidden1", "input"), ("3", "1"))
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
    lowest = ge.gradient_tree(network, x, layers=["hidden1", "hidden1.activation"], roots=[1, 1])  # one place, twice
    assert_close(lowest.norms["hidden1"], lowest.norms["hidden1.activation"])
    assert_close(*gradients_of(lowest, "hidden1").unbind(1))


def test_chunks_change_nothing(monkeypatch):
    network, x = mlp(7, 70, 9, 4), randn(40, 7)
    whole = ge.gradient_tree(network, x)
    monkeypatch.setattr(_levels, "CHUNK_BYTES", 1000)
    parts = ge.gradient_tree(network, x)
    for layer in whole.layers:
        assert torch.equal(parts.nodes[layer], whole.nodes[layer])
        assert_close(parts.directions[layer], whole.directions[layer])


def test_rescaling_hidden_units_keeps_the_input_and_moves_their_own_layer():
    x, factors = randn(50, 6), torch.tensor([0.1, 10, 1, 3, 7], dtype=torch.float64)
    before, after, flipped = (ge.gradient_tree(rescaled(f), x) for f in (torch.ones(5), factors, -factors))
    for layer in before.layers:
        assert torch.equal(after.nodes[layer], before.nodes[layer])
        assert torch.equal(after.parents[layer], before.parents[layer])
    for layer in ("input", "hidden2"):
        assert_close(gradients_of(after, layer), gradients_of(before, layer))
    assert float((after.directions["hidden1"] - before.directions["hidden1"]).abs().max()) > 0.1
    # another function: the negative control
    assert not torch.equal(flipped.nodes["hidden1"], before.nodes["hidden1"])
    assert float((gradients_of(flipped, "input") - gradients_of(before, "input")).abs().max()) > 0.01


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e18])
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


def test_the_network_and_the_samples_are_left_as_they_were():
    network, x = ge.MLP([4, 5, 3], seed=0), torch.randn(9, 4)
    before = x.clone()
    with unchanged(network):
        ge.gradient_tree(network, x, layers=["hidden1"])  # the weight itself is the gradient there
    ge.gradient_tree(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2)), x)
    assert torch.equal(x, before)


# Smooth networks


def followed(gradients, parents, tolerance):
    """Merge one sample after the other: the leader that each sample follows."""
    v, is_zero, found = nn.functional.normalize(gradients, dim=1), ~gradients.any(1), []
    agree = torch.where(is_zero[:, None] | is_zero, is_zero[:, None] & is_zero, v @ v.T >= 1 - tolerance)
    agree &= parents[:, None] == parents
    for i in range(len(v)):
        found.append(next((lead for lead in sorted({*found}) if agree[i, lead]), i))
    return found


def assert_is_merged(tree, tolerance, gradients):
    """Each layer is what going through the samples one by one gives; directions are the leaders'."""
    assert_is_tree(tree)
    assert tree.tolerance == tolerance
    for root in range(len(tree.root_labels)):
        parents = torch.zeros(tree.n_samples)
        for layer in tree.layers:
            rows, nodes = gradients[layer][:, root], tree.nodes[layer][root]
            leads = followed(rows, parents, tolerance)
            assert [leads.index(lead) for lead in leads] == [nodes.tolist().index(node) for node in nodes.tolist()]
            for node in nodes.unique():
                members = rows[nodes == node]
                assert_close(tree.norms[layer][node], members.norm(dim=1).mean(), rtol=1e-9)
                assert_close(tree.directions[layer][node] * members[0].norm(), members[0], atol=1e-9)
            parents = nodes


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU])
@pytest.mark.parametrize("tolerance", [1e-12, 0.1, 1.0])
@pytest.mark.parametrize("block", [1, 3, 256])  # parents with four times as many samples are gone through by themselves
def test_smooth_chains_are_merged_one_sample_after_the_other(monkeypatch, activation, tolerance, block):
    monkeypatch.setattr(_levels, "BLOCK", block)
    network, x = mlp(20, 8, 6, 3, activation=activation), randn(25, 20)
    x[-1] = x[3]
    with unchanged(network):
        tree = ge.gradient_tree(network, x, tolerance=tolerance)
    parts, depth = list(network.children()), {"input": 0, "hidden1": 1, "hidden2": 2}
    expected = {layer: gradient_loop(nn.Sequential(*parts[at:]), nn.Sequential(*parts[:at]), x)
                for layer, at in depth.items()}  # fmt: skip
    assert_is_merged(tree, tolerance, expected)
    if tolerance == 1e-12:
        assert [len(tree.norms[layer]) for layer in tree.layers] == [3, 3 * 24, 3 * 24]


@pytest.mark.parametrize(("make", "layers"), [
    (Residual, ("branch", "norm", "stem", "input")), (Blocks, ("layers.1", "layers.0", "input")),
    (lambda: Convolutional().eval(), ("pool", "norm", "conv", "input")),
])  # fmt: skip
@pytest.mark.parametrize("dress", [lambda x: x, lambda x: {"x": x}, lambda x: (x,)])
def test_general_modules_are_merged_one_sample_after_the_other(make, layers, dress):
    model = make().double()
    x = randn(12, *((1, 4, 4) if isinstance(model, Convolutional) else (4,)))
    with unchanged(model):
        tree = ge.gradient_tree(model, dress(x), tolerance=0.2)
    assert tree.layers == layers
    gradients = {layer: ge.unit_gradients(model, x, layer).gradients for layer in layers}
    assert_close(gradients["input"], gradient_loop(lambda z: model(z.clone()), lambda s: s, x))
    assert_is_merged(tree, 0.2, gradients)
    given = [*sorted(layers[:-1]), ge.Site("input", index=(slice(None), [0]))]
    assert ge.gradient_tree(model, x, tolerance=0.1, layers=given).layers == (*layers[:-1], "input [:, [0]]")


def test_zero_gradients_of_smooth_networks_are_nodes_of_their_own():
    network = nn.Sequential(linear([[1, 0], [0, 1]]), nn.ReLU(), nn.Tanh(), linear([[1, 1]]))
    tree = ge.gradient_tree(network, CROSSED[[4, 0, 2, 4]], layers=["input"], tolerance=1.0)
    assert tree.counts["input"].tolist() == [2, 2]
    assert (float(tree.norms["input"][0]), tree.directions["input"][0].tolist()) == (0, [0, 0])


def test_smooth_steps_outside_the_layers_asked_for_do_not_matter():
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2), nn.Sigmoid())
    tree = ge.gradient_tree(network, torch.randn(20, 4), layers=["1"], unit_layer="4")
    assert tree.tolerance is None
    assert_is_tree(tree)


# What results can do


def make_tree(**named):
    torch.manual_seed(1)
    network, x = ge.MLP([5, 6, 6, 3], seed=2).double(), randn(60, 5)
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
    outer = tree.subtree("hidden1", tree.roots["hidden1"].tolist().index(1) + 1)  # not the largest node
    inner = outer.subtree("input", 1)
    first = int(outer.nodes["input"][0].eq(1).nonzero()[0])
    same = tree.subtree("input", tree.nodes["input"][1, outer.samples[first]])
    assert inner.samples.tolist() == same.samples.tolist() != list(range(inner.n_samples))
    assert inner.root_labels == same.root_labels == ("1",)
    assert_close(inner.directions["input"], same.directions["input"])


def test_frames():
    _, x, tree = make_tree(roots=[2, 0])
    frame = tree.to_frame()
    assert list(frame.columns) == ["layer", "node", "parent", "root", "count", "norm"]
    assert len(frame) == sum(map(len, tree.norms.values()))
    assert frame.groupby(["layer", "root"])["count"].sum().tolist() == [len(x)] * 6
    top = frame.loc[frame["layer"] == "hidden2", ["node", "parent", "root"]].to_numpy().tolist()
    assert top == [[0, -1, "2"], [1, -1, "0"]]
    for layer, below in zip(tree.layers, (*tree.layers[1:], None), strict=True):
        largest = tree.largest(layer, k=4)
        assert list(largest.columns) == ["node", "root", "count", "share", "norm", "n_children", "n_leaves"]
        rows = frame[frame["layer"] == layer].sort_values("count", ascending=False, kind="stable").head(4)
        for name in ("node", "root", "count", "norm"):
            assert largest[name].tolist() == rows[name].tolist()
        assert largest["share"].tolist() == [count / len(x) for count in largest["count"]]
        children = [int((tree.parents[below] == node).sum()) if below else 0 for node in largest["node"]]
        assert largest["n_children"].tolist() == children
    assert tree.largest("input", 10**6)["n_leaves"].tolist() == [1] * len(tree.norms["input"])


def test_reprs():
    _, _, tree = make_tree()
    sizes = f"hidden2: 3, hidden1: {len(tree.norms['hidden1'])}, input: {len(tree.norms['input'])}"
    assert repr(tree) == f"GradientTree(3 roots of 'output', nodes {{{sizes}}}, 60 samples, realised)"
    assert repr(tree.subtree("hidden2", 0)).startswith("GradientTree(1 root of 'output', nodes {hidden2: 1, ")
    merged = ge.gradient_tree(ge.MLP([4, 3, 2], nn.Tanh), torch.ones(3, 4), tolerance=0.01)
    assert repr(merged).endswith("3 samples, realised, merged within a cosine distance of 0.01)")


# Refusals with words of their own; all others stand in the table of abuses

SMOOTH = ge.MLP([4, 5, 3], nn.Tanh)


@pytest.mark.parametrize(("asked", "message"), [
    ({"max_nodes": 2}, r"`max_nodes` should be at least \d+, the nodes at '.*'. Got 2. Raise it, or pass fewer sam"),
    ({"tolerance": 0.1}, r"`tolerance` should be None for a piecewise-linear network. Got 0.1. Leave it out"),
    ({"roots": [3]}, r"`roots` should lie between 0 and 2, the units of 'output'. Got 3"),
    ({"x": [torch.ones(5, 4)]}, r"`x` should hold all samples at once: a tree sorts them. Got batches. Pass all"),
    ({"model": SMOOTH}, r"`tolerance` should be given for a network without activation patterns. Got None for Tanh at "
                        r"'hidden1.activation'. Pass tolerance=0.01"),
    ({"model": nn.Sequential(nn.Linear(4, 2), nn.GELU(), nn.Linear(2, 2))}, r"Got None for GELU at '1'"),
    ({"model": Residual()}, r"Got None for Residual, which is not seen as a chain"),
    ({"model": SMOOTH, "mode": "product", "tolerance": 0.1}, r"`mode` should be 'realised' for .*. Got Tanh at"),
    ({"model": SMOOTH, "tolerance": 1e-9, "max_nodes": 7}, r"`max_nodes` should be at least \d+, the nodes"),
])  # fmt: skip
def test_bad_arguments_are_refused(asked, message):
    given = {"model": ge.MLP([4, 5, 3], seed=0), "x": torch.arange(80.0).sin().reshape(20, 4)} | asked
    with unchanged(given["model"]), pytest.raises(ValueError, match=message):
        ge.gradient_tree(**given)


def test_products_say_beforehand_how_many_nodes_they_need(monkeypatch):
    network, x = ge.MLP([9, 64, 64, 10], seed=0), torch.randn(200, 9)
    monkeypatch.setattr(_levels._Descent, "product", None)  # nothing is ever made
    hidden = network.hidden1(x)
    n = [len((a > 0).unique(dim=0)) for a in (hidden, network.hidden2(hidden))]
    message = (
        rf"`max_nodes` should be at least {10 * n[0] * n[1]:,}, one node at 'input' for each of 10 roots and all "
        rf"combinations of {n[0]} × {n[1]} patterns. Got 200000. Use mode='realised', which needs at most 2,000"
    )
    with pytest.raises(ValueError, match=message):
        ge.gradient_tree(network, x, mode="product")


@pytest.mark.parametrize("tolerance", [None, 0.1])
def test_overflow_is_refused(tolerance):
    network = ge.MLP([4, 5, 3], nn.ReLU if tolerance is None else nn.Tanh, seed=0)
    with torch.no_grad():
        network.output.weight.fill_(3e38)
        network.hidden1.linear.weight.fill_(-10)
        network.hidden1.linear.bias.fill_(0.001)
    with pytest.raises(ValueError, match=r"`x` should give finite gradients at 'input'. Got an overflow"):
        ge.gradient_tree(network, torch.zeros(5, 4), layers=["input"], tolerance=tolerance)


@pytest.mark.parametrize(("call", "message"), [
    (lambda t: t.subtree("input", -1), r"`node` should lie between 0 and \d+, the nodes of 'input'. Got -1. Look at"),
    (lambda t: t.similarity("input"), r"`layer` should have at most 20 nodes for a matrix of all pairs. Got \d+ at"),
    (lambda t: plots.tree(t), r"`result` should have at most 60 nodes to be readable. Got \d+. Draw"),
])  # fmt: skip
def test_bad_questions_to_a_tree_are_refused(call, message, monkeypatch):
    monkeypatch.setattr("gradembed.tree._result.MAX_SIMILARITY", 20)
    with pytest.raises(ValueError, match=message):
        call(make_tree()[2])


# Figures


def test_small_trees_are_drawn():
    tree = ge.gradient_tree(crossing(), CROSSED)
    ax = plots.tree(tree, title="on paper", source="typed by hand")
    ax.figure.canvas.draw()
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["output\n(roots)", "1\n(2 nodes)", "0\n(8 nodes)", "input\n(8 nodes)"]
    assert (ax.get_title(), ax.get_xlabel()) == ("on paper", "area: samples in the node, of 5")
    assert "typed by hand" in ax.figure.get_supxlabel()
    assert [text.get_text() for text in ax.texts][:4] == ["0", "1", "5", "5"]
    rows = [c for c in ax.collections[2:] if len(c.get_offsets()) > 1]
    places = [[float(x) for x in row.get_offsets()[:, 0]] for row in rows[-2:]]
    assert places[0] == places[1] == sorted(places[1])  # every node of "0" has one child, right below it
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
    assert [label.get_text() for label in ax.get_xticklabels()] == ["output 0", "output 1"]
    assert ax.get_xticks().tolist() == [1.5, 5.5]
    assert [line.get_ydata()[0] for line in ax.lines[:1]] == [3.5]
    assert ax.get_xlabel() == "nodes of"
    assert plots.tree_similarity(tree, "0", ax=ax) is ax
