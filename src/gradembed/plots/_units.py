"""Figures of units: their fields, their cards, their embedding, their directions, modules, trees."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from torch import Tensor

from gradembed._validation import as_integer, as_names, as_positions, describe, refuse
from gradembed.cards import UnitCard
from gradembed.fields import GradientFields
from gradembed.modules import TaskModules
from gradembed.plots import _frame
from gradembed.plots._frame import Numbers
from gradembed.tree import GradientTree

LARGEST_AREA = 420.0  # of a node that holds all samples, in square points
LABEL_AREA = 90.0  # from here on the number of samples fits in a node
MOST_ARROWS = 300
LINE, BROKEN = 24, 20  # characters of a unit's name that stay in one line; in each of two, if it is longer


def field_2d(
    fields: GradientFields, unit: int = 0, *, axes: tuple[int, int] = (0, 1), title: str = "", source: str = "",
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Draw one unit's gradients as arrows at its points, over two of the dimensions; colors show the values.

    Args:
        fields: With two dimensions or more.
        unit: Which unit.
        axes: Which two dimensions.
        title: Above the plot.
        source: Where the data come from.
        ax: Where to draw; ``None`` makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: If there is no such unit or dimension, or ``axes`` are not two.
        TypeError: If one of them is no integer.

    Example:
        >>> import torch, gradembed as ge
        >>> x = torch.randn(50, 2)
        >>> ge.plots.field_2d(ge.GradientFields(x, x[None])).get_xlabel()
        'dimension 0'
    """
    _frame.check_result("fields", fields, "GradientFields", "gradient_fields", "gradients", "own_points")
    unit = as_integer("unit", unit, 0, len(fields) - 1)
    first, second = pair = as_positions("axes", _frame.pair("axes", axes, "dimensions"), fields.dim, "dimensions")
    (ax,) = _frame.panels("ax", ax, (4.6, 4.0), source)
    place, arrows = (table[unit][:, pair] for table in (fields.own_points(), fields.gradients))
    _draw_arrows(ax, place, arrows, None if fields.values is None else fields.values[unit])
    return _frame.label(ax, title, f"dimension {first}", f"dimension {second}")


def _draw_arrows(ax: Axes, points: Tensor, gradients: Tensor, values: Tensor | None) -> None:
    """Draw arrows, [m, 2], at points, [m, 2]; with values, [m], in colors that a bar explains."""
    place, arrows = points.numpy(force=True), gradients.numpy(force=True)
    # Without any length there is no scale to find, and at one place no direction in the data's coordinates.
    scale = None if arrows.any() else 1.0
    angles: Any = "xy" if np.ptp(place, axis=0).any() else "uv"
    drawn = ax.quiver(*place.T, *arrows.T, angles=angles, scale=scale, width=0.004, pivot="mid", color=_frame.COLORS[0])
    if values is not None:
        drawn.set(array=values.numpy(force=True), cmap="viridis")
        _frame.bar(drawn, ax, "value of the unit")


def unit_card(card: UnitCard, *, title: str = "", source: str = "", axes: Sequence[Axes] | None = None) -> list[Axes]:
    """Draw one unit in a row of four panels: its field, its spectrum, the units aligned with it and its twins.

    The field is drawn in the two directions in which the gradients are largest, its highest values ringed; of more
    than 300 points, evenly spaced ones in their order, and the highest. The aligned units' bars are mean cosines, red
    where both units want the same; the twins' bars are distances in the embedding, with a dashed line at that of the
    median candidate.

    Args:
        card: What `gradembed.unit_card` returned.
        title: Above all panels; the unit's name if it is empty.
        source: Where the data come from.
        axes: Where to draw, four of one figure; ``None`` makes a figure. Given ones get the title above the first.

    Returns:
        The Axes of the four panels.

    Raises:
        ValueError: If there are not four Axes.
        TypeError: If ``card`` is none.

    Example:
        >>> import torch, gradembed as ge
        >>> fields = ge.gradient_fields(ge.MLPEnsemble([4, 8, 3], n_members=5, seed=0), torch.randn(100, 4))
        >>> card = ge.unit_card(fields, 4, torch.randn(15, 2))
        >>> [ax.get_title() for ax in ge.plots.unit_card(card)]  # doctest: +ELLIPSIS
        ['field (ringed: highest values)', 'effective dimension ...', 'interference', 'functional twins']
    """
    _frame.check_result("card", card, "UnitCard", "unit_card", "spectrum", "twin_names")
    layout = {"width_ratios": (1.25, 0.8, 1.0, 1.0), "layout": ConstrainedLayoutEngine(w_pad=0.1)}
    above = "" if axes is not None else title or card.name
    panels = _frame.panels("axes", axes, (13.5, 3.4), source, (1, 4), above, **layout)
    field, spectrum, aligned, twins = panels
    # the field: arrows, and rings around the highest values
    m = len(card.values)
    shown = sorted({*range(0, m, -(-m // MOST_ARROWS)), *card.top.tolist()})
    _draw_arrows(field, card.points[shown], card.gradients[shown], card.values[shown])
    x, y = card.points[card.top].numpy(force=True).T
    field.scatter(x, y, s=60, facecolor="none", edgecolor=_frame.COLORS[1], linewidth=1.0)
    over = title or card.name if axes is not None else "field (ringed: highest values)"
    _frame.label(field, over, "1st gradient direction", "2nd gradient direction")
    # the spectrum: the leading eigenvalues
    shares = card.spectrum[:10].tolist()
    r = len(shares)
    spectrum.bar(range(1, r + 1), shares, color=_frame.COLORS[0])
    spectrum.set(ylim=(0, 1), xlim=(0.3, r + 0.7), xticks=[1, *range(5, r + 1, 5)] if r > 5 else range(1, r + 1))
    dimension = f"effective dimension {card.effective_dimension:.1f}"
    _frame.label(spectrum, dimension, f"gradient direction (of {card.dim})", "share of E[|g|²]")
    _draw_aligned(aligned, card)
    # the twins: distances, and the typical one as a line
    distances = card.distances.tolist()
    twins.axvline(card.typical_distance, color="#777777", linestyle="--", linewidth=1, zorder=1)
    words = [f"{d:#.3g}".rstrip(".") for d in distances]
    _draw_bars(twins, distances, card.twin_names, words, color=_frame.COLORS[2])
    twins.set(xlim=(0, 1.2 * max(*distances, card.typical_distance) or 1))
    _frame.label(twins, "functional twins", "distance (dashed: median unit)")
    return panels


def _draw_aligned(ax: Axes, card: UnitCard) -> None:
    """Draw cosines as bars to both sides, or say why there are none."""
    _frame.label(ax, "interference", "mean cosine of gradients")
    if not len(card.cosines):
        ax.set_axis_off()
        text = textwrap.fill(f"None to compare: {card.aligned_note}", 28)
        ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, fontsize=9)
        return
    colors = plt.get_cmap("RdBu_r")((card.cosines.numpy(force=True) + 1) / 2)
    words = [f"{c:.2f}".replace("-", "−") for c in card.cosines.tolist()]
    _draw_bars(ax, card.cosines.tolist(), card.aligned_names, words, color=colors, edgecolor="#777777")
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set(xlim=(-1.3, 1.3), xticks=[-1, -0.5, 0, 0.5, 1], xticklabels=["−1", "−0.5", "0", "0.5", "1"])


def _draw_bars(ax: Axes, lengths: list[float], names: Sequence[str], words: list[str], **style: Any) -> None:
    """Draw bars with a word at the end of each and its name before it, the first on top; long names in two lines."""
    bars = ax.barh(range(len(lengths)), lengths, zorder=2, **style)
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # where a word stands on a line
    ax.bar_label(bars, words, padding=3, fontsize=7, bbox=paper, zorder=3)
    lines = [name if len(name) <= LINE else textwrap.fill(name, BROKEN, max_lines=2, placeholder="…") for name in names]
    ax.set_yticks(range(len(lines)), lines, fontsize=8)
    ax.set_ylim(len(lines) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)


def embedding(
    coordinates: Numbers, labels: Numbers, *, label_names: Sequence[str] | None = None, markers: Numbers | None = None,
    marker_names: Sequence[str] | None = None, method: str = "", title: str = "", legend: bool = True, source: str = "",
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Draw an embedding in two dimensions, one mark per unit.

    Args:
        coordinates: [u, 2], as `project_2d` gives them.
        labels: A whole number per unit, shown by color (ten colors, then the same again).
        label_names: A name for each, from 0 on.
        markers: Another whole number per unit, shown by the shape of the mark.
        marker_names: A name for each, from 0 on; without them, the legend explains the colors only.
        method: What made the coordinates, for the axes.
        title: Above the plot.
        legend: Whether to explain the colors.
        source: Where the data come from.
        ax: Where to draw; ``None`` makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: If the coordinates are not finite numbers [u, 2], or labels or markers not one for each, or
            one of them has no name.
        TypeError: If labels or markers are no whole numbers.

    Example:
        >>> import torch, gradembed as ge
        >>> ge.plots.embedding(torch.randn(6, 2), [0, 0, 1, 1, 2, 2], title="six units").get_title()
        'six units'
    """
    places = _frame.numbers("coordinates", coordinates, "u k", k=2)
    kinds, names = _frame.kinds("labels", labels, label_names, len(places))
    shapes, shape_names = _frame.kinds("markers", markers, marker_names, len(places), optional=True)
    (ax,) = _frame.panels("ax", ax, (5.0, 4.0), source)
    for shape, kind in sorted({*zip(shapes.tolist(), kinds.tolist(), strict=True)}):
        here = places[(kinds == kind) & (shapes == shape)]
        name = names[kind] if marker_names is None else f"{names[kind]}, {shape_names[shape]}"
        if marker_names is None and (kinds[shapes < shape] == kind).any():
            name = "_named already"  # an underscore keeps it out of the legend
        style: dict[str, Any] = {"color": _frame.COLORS[kind % 10], "marker": _frame.MARKERS[shape % 10]}
        ax.scatter(here[:, 0], here[:, 1], s=14, linewidths=0, alpha=0.8, label=name, **style)
    ax.set(xticks=[], yticks=[])
    if legend:
        _frame.legend(ax, markerscale=1.5)
    return _frame.label(ax, title, f"{method} 1".strip(), f"{method} 2".strip())


def images(
    rows: Numbers, titles: Sequence[str], *, columns: int = 5, signed: bool = True, label: str = "", title: str = "",
    source: str = "",
) -> list[Axes]:  # fmt: skip
    """Draw rows of d = side² numbers as square pictures with one color scale, say gradient directions at the input.

    Args:
        rows: [k, d].
        titles: One per picture.
        columns: Pictures side by side.
        signed: Diverging colors centered at 0; otherwise gray from least to greatest.
        label: What the colors mean.
        title: Above all of them.
        source: Where the data come from.

    Returns:
        The Axes of the pictures.

    Raises:
        ValueError: If rows are not finite square pictures, or titles do not fit them.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> len(ge.plots.images(torch.randn(3, 16), ["a", "b", "c"], columns=3))
        3
    """
    table = _frame.numbers("rows", rows, "k d")
    k, side = len(table), math.isqrt(table.shape[1])
    if side**2 != table.shape[1]:
        refuse("rows", "have shape [k, side²]", describe(rows), "Pass square pictures as rows")
    titles = as_names("titles", titles, k, "pictures")
    columns = min(as_integer("columns", columns, 1), k)
    lines = -(-k // columns)
    panels = _frame.panels("axes", None, (1.55 * columns + 0.9, 1.75 * lines + 0.5), source, (lines, columns), title)
    limit = float(np.abs(table).max()) or 1.0
    scale = ("RdBu_r", -limit, limit) if signed else ("gray", float(table.min()), float(table.max()))
    for ax in panels:
        ax.set_axis_off()
    for ax, row, name in zip(panels, table, titles, strict=False):
        image = ax.imshow(row.reshape(side, side), cmap=scale[0], vmin=scale[1], vmax=scale[2])
        ax.set_title(name, fontsize=9)
    _frame.bar(image, panels, label)
    return panels[:k]


def task_modules(result: TaskModules, *, title: str = "", source: str = "", ax: Axes | None = None) -> Axes:
    """Draw how far every unit of a layer moves every output, units sorted by their module and then by selectivity.

    Args:
        result: What `gradembed.task_modules` returned.
        title: Above the table.
        source: Where the data come from.
        ax: Where to draw; ``None`` makes a figure.

    Returns:
        The Axes.

    Raises:
        TypeError: If ``result`` is none.

    Example:
        >>> import torch, gradembed as ge
        >>> result = ge.task_modules(ge.MLP([4, 8, 4], seed=0), torch.eye(4), "hidden1")
        >>> ge.plots.task_modules(result).get_ylabel()
        'output'
    """
    _frame.check_result("result", result, "TaskModules", "task_modules", "effects", "unit_modules")
    n = result.n_modules
    # units and outputs in no module, -1, come last
    last, rows = (np.where(m < 0, n, m) for m in (result.unit_modules.numpy(), result.output_modules.numpy()))
    columns, rows = np.lexsort((-result.selectivity.numpy(), last)), np.argsort(rows, kind="stable")
    (ax,) = _frame.panels("ax", ax, (7.2, 2.4), source)
    image = ax.imshow(result.effects.numpy()[np.ix_(rows, columns)], cmap="viridis", aspect="auto", vmin=0)
    ax.set_yticks(range(len(rows)), [result.unit_labels[i] for i in rows], fontsize=8)
    ax.set_xticks([])  # a column's place is not its unit's number
    for edge in np.nonzero(np.diff(last[columns]))[0] + 0.5:
        ax.axvline(edge, color="white", linewidth=2)
    below = f"units of {result.layer}, by module, the most selective first"
    return _frame.label(ax, title, below, "output", image, "effect (sd per sd)")


def tree(
    result: GradientTree, *, max_nodes: int = 60, title: str = "", source: str = "", ax: Axes | None = None
) -> Axes:
    """Draw a small tree from its roots down: a row per layer, a node's area its samples, its color its root.

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
    _frame.check_result("result", result, "GradientTree", "gradient_tree", "roots", "parents")
    total = sum(map(len, result.norms.values()))
    if total > as_integer("max_nodes", max_nodes, 1):
        rule = f"have at most {max_nodes:,} nodes to be readable"
        remedy = "Draw result.subtree(layer, node) of a node out of result.largest(layer), or raise max_nodes"
        refuse("result", rule, f"{total:,}", remedy)
    places = _places(result)
    width = max(4.0, 0.32 * max(map(len, places.values())) + 1.8)
    (ax,) = _frame.panels("ax", ax, (width, 0.95 * (len(result.layers) + 1) + 0.5), source)
    first, roots = places[result.layers[0]], result.roots[result.layers[0]].numpy()
    above = np.array([first[roots == r].mean() for r in range(len(result.root_labels))])
    for r, (place, name) in enumerate(zip(above, result.root_labels, strict=True)):
        color = _frame.COLORS[r % 10]
        ax.scatter(place, 0, s=150, marker="s", color=color, zorder=2)
        ax.text(place, 0, name, ha="center", va="center", fontsize=7, color=_frame.ink(color))
    rows = [f"{result.unit_layer}\n(roots)"]
    for depth, layer in enumerate(result.layers, start=1):
        parents = result.roots[layer] if depth == 1 else result.parents[layer]
        here, counts = places[layer], result.counts[layer].numpy()  # [c] each
        edges = [[(x, depth), (top, depth - 1)] for x, top in zip(here, above[parents.numpy()], strict=True)]
        ax.add_collection(LineCollection(edges, colors="#999999", linewidths=0.8, zorder=1))
        colors = [_frame.COLORS[r % 10] for r in result.roots[layer].tolist()]
        areas, faces = LARGEST_AREA * counts / max(result.n_samples, 1), np.where(counts > 0, colors, "white")
        style: dict[str, Any] = {"c": faces, "edgecolors": colors, "linewidths": 0.8, "zorder": 2}
        ax.scatter(here, np.full(len(here), depth), s=np.maximum(areas, 8), **style)
        for x, count, area, color in zip(here, counts, areas, colors, strict=True):
            if area >= LABEL_AREA:
                ax.text(x, depth, f"{count}", ha="center", va="center", fontsize=6, color=_frame.ink(color))
        above = here
        rows.append(f"{layer}\n({len(above)} node{'s' if len(above) != 1 else ''})")
    left, right = ax.dataLim.intervalx
    ax.set(xlim=(left - 0.9, right + 0.9), xticks=[], ylim=(len(rows) - 0.5, -0.5))
    ax.set_yticks(range(len(rows)), rows, fontsize=8)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    note = "; hollow: patterns that never meet" if any((c == 0).any() for c in result.counts.values()) else ""
    _frame.label(ax, title, f"area: samples in the node, of {result.n_samples:,}{note}")
    ax.xaxis.label.set_fontsize(8)
    return ax


def _places(result: GradientTree) -> dict[str, NDArray[Any]]:
    """Lay out a tree without crossings: leaves side by side, every other node above the middle of its children.

    Returns:
        Horizontal places for each layer, [c].
    """
    lowest = result.layers[-1]
    paths = np.arange(len(result.norms[lowest]))[None]  # of every leaf: its ancestors, the highest first
    for layer in result.layers[:0:-1]:
        paths = np.vstack([result.parents[layer].numpy()[paths[0]], paths])
    order = np.lexsort(paths[::-1])
    places = {lowest: np.empty(len(order))}
    places[lowest][order] = np.arange(len(order)) + 0.8 * result.roots[lowest].numpy()[order]  # a gap between roots
    for layer, above in zip(result.layers[:0:-1], result.layers[-2::-1], strict=True):
        parents, size = result.parents[layer].numpy(), len(result.norms[above])
        children = np.bincount(parents, minlength=size)
        places[above] = np.bincount(parents, weights=places[layer], minlength=size) / children
    return places
