"""Third section of a report: the gradient tree, or why there is none."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import torch

from gradembed import plots
from gradembed.plots._render import pictures
from gradembed.report._page import Page, number, significant
from gradembed.report._request import Request
from gradembed.tree import GradientTree, gradient_tree

MOST_NODES = 20_000
BUDGET = 2**26  # gradients' numbers in memory at a time
DRAWN = 40  # nodes of the subtree that is drawn, at most
LONGEST = 3  # letters that fit into the square of a root
MOST_SHARE = 0.9  # of the samples in one node, at the layer whose nodes are listed
TRIED = 20  # nodes of each layer that may head it


def write_tree(page: Page, request: Request, layers: tuple[str, ...], shapes: dict[str, tuple[int, ...]]) -> None:
    """Sort samples by their gradients, and show the largest parts."""
    page.section("tree", "Which samples have the same gradients?")
    width = sum(math.prod(shapes.get(layer, (1,))) for layer in layers)
    most = min(request.options["max_samples"], max(2, BUDGET // (width * len(request.units))))
    chosen = request.sample(most)
    try:
        tree = gradient_tree(
            request.model,
            request.x[chosen.to(request.x.device)],
            layers=layers,
            roots=list(request.units),
            max_nodes=MOST_NODES,
            tolerance=request.options["tolerance"],
        )
    except ValueError as error:
        page.say("There is no gradient tree of this model with these settings. The library refused with:")
        page.quote(str(error))
        return
    page.say(
        "Each output is a root. Going down the layers, its samples part where the network treats them differently; "
        "a node is a set of samples with the same gradient"
        + (", exactly." if tree.tolerance is None else f", up to a cosine distance of {tree.tolerance:g}.")
        + _sampled(len(chosen), len(request.x))
    )
    _write_sizes(page, tree)
    _write_largest(page, request, tree, chosen)
    _draw(page, tree, request)


def _sampled(m: int, n: int) -> str:
    return f" {m:,} of the {n:,} samples, drawn at random (max_samples=)." if m < n else f" All {n:,} samples."


def _write_sizes(page: Page, tree: GradientTree) -> None:
    """Count the nodes of each layer."""
    r, n = len(tree.root_labels), tree.n_samples
    rows = []
    for layer in tree.layers:
        counts = tree.counts[layer]
        alone = int((counts == 1).sum())
        row = [layer, f"{len(counts):,}", number(len(counts) / r, 1), number(float(counts.max()) / n)]
        rows.append([*row, number(alone / (r * n))])
    page.table(
        ("layer", "nodes", "nodes per output", "share of the largest", "samples alone"),
        rows,
        name="Nodes by layer",
        note=f"From the output down. One node per output: the gradient is the same at all samples. {n:,} nodes per "
        "output: every sample has its own. Samples alone: share of samples that are a node by themselves; where it "
        "is near 1, the tree depends on which samples were drawn, and a node says nothing of new ones.",
    )


def _write_largest(page: Page, request: Request, tree: GradientTree, chosen: torch.Tensor) -> None:
    """List the nodes with the most samples at the first layer that tells samples apart."""
    apart = [name for name in tree.layers if int(tree.counts[name].max()) <= MOST_SHARE * tree.n_samples]
    layer = apart[0] if apart else tree.layers[-1]
    table = tree.largest(layer, 10)
    classes = request.classes
    head = ["node", "output", "samples", "share", "norm", "children", "leaves"]
    head += ["most frequent class", "its share"] if classes is not None else []
    rows = []
    for row in table.to_dict("records"):
        cells = [str(row["node"]), request.all_names[int(row["root"])], str(row["count"]), number(row["share"])]
        cells += [significant(row["norm"]), str(row["n_children"]), str(row["n_leaves"])]
        if classes is not None:
            root = int(tree.roots[layer][row["node"]])
            members = classes[chosen][tree.nodes[layer][root] == row["node"]]
            most = int(members.bincount().argmax())
            cells += [_class_name(request, most), number(float((members == most).double().mean()))]
        rows.append(cells)
    where = f"the first layer from the output down where no node holds more than {MOST_SHARE:.0%} of the samples"
    where = where if apart else "the lowest layer; some node holds nearly all samples at every layer"
    page.table(
        head,
        rows,
        name="Largest subtrees",
        note=f"The largest nodes at {layer!r}, {where}. Children: nodes of the next layer; leaves: of the lowest. The "
        "class is that of the samples, not of the output.",
    )


def _class_name(request: Request, index: int) -> str:
    return request.all_names[index] if index < len(request.all_names) else str(index)


def _draw(page: Page, tree: GradientTree, request: Request) -> None:
    """Draw the largest subtree that can be read."""
    part, where = _drawable(tree)
    if part is None:
        page.say(f"No part of the tree is drawn: none branches and has at most {DRAWN} nodes.")
        return
    names = tuple(request.all_names[int(label)] for label in part.root_labels)
    labels = names if max(map(len, names)) <= LONGEST else part.root_labels
    leaves = max(len(norms) for norms in part.norms.values())
    size = (max(4.1, 0.32 * leaves + 1.8), 0.95 * (len(part.layers) + 1) + 0.7)
    named = replace(part, root_labels=labels)
    (picture,) = pictures(lambda axes: plots.tree(named, max_nodes=DRAWN, ax=axes[0]), [size])
    alt = f"Gradient tree of {where}: " + ", ".join(f"{len(v)} nodes at {k!r}" for k, v in part.norms.items())
    page.wide_figure(
        picture,
        alt,
        f"Gradient tree of {where}. A row per layer, from the output down; a node's area is its number of samples. One "
        "small part of one network, to show what a tree is: its shape is not a result.",
    )


def _drawable(tree: GradientTree) -> tuple[GradientTree | None, str]:
    """Find the whole tree, or the subtree that shows most, among those that branch and have few enough nodes.

    Returns:
        It and what to call it.
    """
    if sum(map(len, tree.norms.values())) <= DRAWN:
        return tree, f"all {tree.n_samples:,} samples"
    best: tuple[tuple[int, int, int], GradientTree | None, str] = ((0, 0, 0), None, "")
    for depth, layer in enumerate(tree.layers):
        for node in tree.largest(layer, TRIED)["node"].tolist():
            part = tree.subtree(layer, node)
            sizes = [len(norms) for norms in part.norms.values()]
            # parts that branch at more layers first, then those of more samples, then those that begin lower
            rank = (sum(a < b for a, b in pairwise(sizes)), part.n_samples, depth)
            if sum(sizes) <= DRAWN and rank[0] and rank > best[0]:
                best = rank, part, f"node {node} at {layer!r} ({part.n_samples:,} samples)"
    return best[1], best[2]
