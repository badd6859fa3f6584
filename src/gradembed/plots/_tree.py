"""Figures of gradient trees."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from gradembed import _validation
from gradembed.plots import _arguments, _frame
from gradembed.tree import GradientTree

REMEDY = "Pass what gradembed.gradient_tree returned"

LARGEST_AREA = 420.0  # of a node that holds all samples, in square points
LABEL_AREA = 90.0  # from here on the number of samples fits in a node


def tree(
    result: GradientTree, *, max_nodes: int = 60, title: str = "", source: str = "", ax: Axes | None = None
) -> Axes:
    """Draw a small tree from its roots down: a row per layer, a node's area its samples, its colour its root.

    Where the area has room, the number of samples stands in it. Small nodes are dots of the same least area; nodes
    that no sample has (mode "product") are hollow.

    Args:
        result: What `gradembed.gradient_tree` returned.
        max_nodes: Refuse trees with more, all layers together: they cannot be read.
        title: Above the tree.
        source: Where the data come from.
        ax: Where to draw; ``None`` makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: If the tree has too many nodes.
        TypeError: If ``result`` is no tree, or ``max_nodes`` no integer.

    Example:
        >>> import gradembed as ge
        >>> result = ge.gradient_tree(ge.MLP([4, 3, 3], seed=0), ge.datasets.load_iris().x_test)
        >>> ge.plots.tree(result, title="Iris").get_title()
        'Iris'
    """
    _arguments.check_result("result", result, GradientTree, REMEDY)
    _validation.check_integer("max_nodes", max_nodes, 1)
    total = sum(map(len, result.norms.values()))
    if total > max_nodes:
        _validation.refuse(
            "result",
            f"have at most {max_nodes:,} nodes to be readable",
            f"{total:,}",
            "Draw result.subtree(layer, node) of a node out of result.largest(layer), or raise max_nodes",
        )
    places = _places(result)
    width = max(4.0, 0.32 * max(len(place) for place in places.values()) + 1.8)
    _, ax = _frame.axes(ax, (width, 0.95 * (len(result.layers) + 1) + 0.5), source)
    first, roots = places[result.layers[0]], result.roots[result.layers[0]].numpy()
    tops = np.array([first[roots == r].mean() for r in range(_r(result))])
    colours = [_frame.COLOURS[r % len(_frame.COLOURS)] for r in range(_r(result))]
    for r, (place, label) in enumerate(zip(tops, result.root_labels, strict=True)):
        ax.scatter(place, 0, s=150, marker="s", color=colours[r], zorder=2)
        ax.text(place, 0, label, ha="center", va="center", fontsize=7, color=_frame.ink(colours[r]))
    above = tops
    for depth, layer in enumerate(result.layers, start=1):
        parents = result.roots[layer] if depth == 1 else result.parents[layer]
        _draw_row(ax, result, layer, depth, (places[layer], above[parents.numpy()]))
        above = places[layer]
    _finish(ax, result, title)
    return ax


def tree_similarity(
    result: GradientTree, layer: str, *, title: str = "", source: str = "", ax: Axes | None = None
) -> Axes:
    """Draw the cosines between the directions of all nodes of a layer, in a block for each pair of roots.

    Within a root, nodes run from most to fewest samples, one row each however few samples it has.

    Args:
        result: What `gradembed.gradient_tree` returned.
        layer: Which layer.
        title: Above the picture.
        source: Where the data come from.
        ax: Where to draw; ``None`` makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: If there is no such layer, or it has too many nodes.
        TypeError: If ``result`` is no tree, or the layer no string.

    Example:
        >>> import gradembed as ge
        >>> result = ge.gradient_tree(ge.MLP([4, 8, 3], seed=0), ge.datasets.load_iris().x_test)
        >>> ge.plots.tree_similarity(result, "input").get_xlabel()
        "root: unit of 'output'"
    """
    _arguments.check_result("result", result, GradientTree, REMEDY)
    matrix = result.similarity(layer)
    figure, ax = _frame.axes(ax, (5.0, 4.3), source)
    _, colours, low = _frame.MEASURES["cosine"]
    image = ax.imshow(matrix.numpy(), cmap=colours, vmin=low, vmax=1, interpolation="nearest")
    ends = result.roots[layer].bincount(minlength=_r(result)).cumsum(0).numpy()
    starts = np.concatenate([[0], ends[:-1]])
    for end in ends[:-1]:
        ax.axhline(end - 0.5, color="black", linewidth=0.6)
        ax.axvline(end - 0.5, color="black", linewidth=0.6)
    middles = (starts + ends - 1) / 2
    ax.set_xticks(middles, result.root_labels)
    ax.set_yticks(middles, result.root_labels)
    ax.tick_params(length=0, labelsize=8)
    label = f"root: unit of {result.unit_layer!r}"
    ax.set(xlabel=label, ylabel=label)
    ax.set_title(title, fontsize=10)
    figure.colorbar(image, ax=ax, label="cosine of the nodes' gradients", shrink=0.85)
    return ax


def _r(result: GradientTree) -> int:
    return len(result.root_labels)


def _places(result: GradientTree) -> dict[str, np.ndarray]:
    """Lay out a tree without crossings: leaves side by side, every other node above the middle of its children.

    Returns:
        Horizontal places for each layer, [c].
    """
    paths = np.arange(len(result.norms[result.layers[-1]]))[None]  # of every leaf: its ancestors, the highest first
    for layer in result.layers[:0:-1]:
        paths = np.vstack([result.parents[layer].numpy()[paths[0]], paths])
    order = np.lexsort(paths[::-1])
    place = np.empty(len(order))
    place[order] = np.arange(len(order)) + 0.8 * result.roots[result.layers[-1]].numpy()[order]  # a gap between roots
    places = {result.layers[-1]: place}
    for layer, above in zip(result.layers[:0:-1], result.layers[-2::-1], strict=True):
        parents, size = result.parents[layer].numpy(), len(result.norms[above])
        children = np.bincount(parents, minlength=size)
        places[above] = np.bincount(parents, weights=places[layer], minlength=size) / children
    return places


def _draw_row(ax: Axes, result: GradientTree, layer: str, depth: int, places: tuple[np.ndarray, np.ndarray]) -> None:
    """Draw the nodes of a layer and the edges up to their parents."""
    here, above = places
    counts = result.counts[layer].numpy()
    colours = [_frame.COLOURS[r % len(_frame.COLOURS)] for r in result.roots[layer].tolist()]
    edges = [[(x, depth), (top, depth - 1)] for x, top in zip(here, above, strict=True)]
    ax.add_collection(LineCollection(edges, colors="#999999", linewidths=0.8, zorder=1))
    areas = np.maximum(LARGEST_AREA * counts / max(result.n_samples, 1), 8)
    faces = np.where(counts > 0, colours, "white")
    ax.scatter(here, np.full(len(here), depth), s=areas, c=faces, edgecolors=colours, linewidths=0.8, zorder=2)
    for x, count, area, colour in zip(here, counts, areas, colours, strict=True):
        if area >= LABEL_AREA:
            ax.text(x, depth, f"{count}", ha="center", va="center", fontsize=6, color=_frame.ink(colour))


def _finish(ax: Axes, result: GradientTree, title: str) -> None:
    """Name the rows and take the frame away."""
    names = [f"{result.unit_layer}\n(roots)"]
    for layer, norms in result.norms.items():
        names.append(f"{layer}\n({len(norms)} node{'s' if len(norms) != 1 else ''})")
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_ylim(len(names) - 0.5, -0.5)
    left, right = ax.dataLim.intervalx
    ax.set_xlim(left - 0.9, right + 0.9)
    ax.set_xticks([])
    empty = any(bool((counts == 0).any()) for counts in result.counts.values())
    note = "; hollow: patterns that never meet" if empty else ""
    ax.set_xlabel(f"area: samples in the node, of {result.n_samples:,}{note}", fontsize=8)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=10)
