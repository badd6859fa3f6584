"""Figures of tables: what every two units, nodes, classes have to do with each other; scores of settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from torch import Tensor

from gradembed._validation import as_list, as_names, as_number, as_positions, check_choice, check_layer, refuse
from gradembed.interference import Interference
from gradembed.interference.result import clustered_order
from gradembed.plots import _frame
from gradembed.plots._frame import Numbers
from gradembed.tree import GradientTree

SMALL = 0.015  # a range that two decimals hardly show


def similarity_matrix(
    matrix: Numbers, labels: Sequence[str] | None = None, *, measure: str = "cosine", limit: float | None = None,
    title: str = "", axis_label: str = "unit", colorbar: bool = True, source: str = "", ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Draw one square matrix of pairwise scores, with the numbers where there is room.

    The diagonal, a unit with itself, is left gray.

    Args:
        matrix: [u, u].
        labels: One per unit; ``None`` numbers them.
        measure: "cosine" (diverging colors), "abs_cosine", "conflict" or "norm_similarity" (from 0).
        limit: Where the colors end; beyond, they do not change. ``None`` for the largest number off the diagonal.
        title: Above the matrix.
        axis_label: What a row and a column stand for.
        colorbar: Whether to explain the colors.
        source: Where the data come from.
        ax: Where to draw; ``None`` makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: If the matrix is not square or finite, labels do not fit it, or the measure is unknown.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> ge.plots.similarity_matrix(torch.eye(3), title="nothing shared").get_title()
        'nothing shared'
    """
    check_choice("measure", measure, _frame.MEASURES)
    table = _frame.square("matrix", matrix)
    limit = _limit(limit, [table])
    names = as_names("labels", map(str, range(len(table))) if labels is None else labels, len(table))
    (ax,) = _frame.panels("ax", ax, (4.6, 4.0), source)
    image = _draw(ax, table, names, measure, limit)
    return _frame.label(ax, title, axis_label, axis_label, image if colorbar else None, _frame.MEASURES[measure][0])


def interference(
    result: Interference | Sequence[Interference], *, measure: str = "cosine", layers: Sequence[str] | None = None,
    limit: float | None = None, order: str | Sequence[int] | None = None, title: str = "", axis_label: str = "class",
    source: str = "", axes: Sequence[Axes] | None = None,
) -> list[Axes]:  # fmt: skip
    """Draw the matrices of several layers side by side, with one color scale.

    For one network, a dot marks pairs whose bootstrap interval contains 0 (cosine) or one half (conflict). Titles of
    |cosine| name its mean, the level of chance and the untrained control, as far as results have them.

    Args:
        result: What `gradembed.interference` returned, for one network or several alike, whose mean is drawn.
        measure: "cosine", "abs_cosine", "conflict" or "norm_similarity".
        layers: Which layers; ``None`` for all.
        limit: Where the colors end; beyond, they do not change. ``None`` for the largest number off the diagonals.
        order: Of the units: positions, or "clustered" for neighbors that share (average linkage of the mean cosines of
            all layers drawn, with the leaves in their best order); ``None`` for that of the result.
        title: Above all of them.
        axis_label: What a row and a column stand for.
        source: Where the data come from.
        axes: Where to draw, one for each layer; ``None`` makes a figure.

    Returns:
        The Axes, one per layer.

    Raises:
        ValueError: If a layer or the measure is unknown, or there are too few Axes.
        TypeError: If ``result`` is none.

    Example:
        >>> import torch, gradembed as ge
        >>> result = ge.interference(ge.MLP([4, 8, 3], seed=0), torch.randn(9, 4))
        >>> len(ge.plots.interference(result))
        2
    """
    results = _frame.several(result)
    for one in results:
        _frame.check_result("result", one, "Interference", "interference", "pair_mean", "unit_labels")
    if not results or len({(one.layers, one.unit_labels) for one in results}) > 1:
        rule, got = "be of one network, or of several alike", f"{len(results)} that differ"
        refuse("result", rule, got, "Ask them all the same")
    first: Interference = results[0]
    check_choice("measure", measure, _frame.MEASURES)
    chosen = list(first.layers) if layers is None else as_list("layers", layers, "a list of layer names")
    for layer in chosen:
        check_layer("layers", layer, first.layers)
    tables = [np.mean([getattr(one, measure)[layer].numpy(force=True) for one in results], 0) for layer in chosen]
    limit, places = _limit(limit, tables), _order(order, results, chosen)
    panels = _frame.panels("axes", axes, (3.6 * len(chosen) + 1, 3.6), source, (1, len(chosen)), title)
    names, neutral = [first.unit_labels[i] for i in places], {"cosine": 0.0, "conflict": 0.5}.get(measure)
    for ax, layer, table in zip(panels, chosen, tables, strict=True):
        image = _draw(ax, table[np.ix_(places, places)], names, measure, limit)
        _frame.label(ax, _panel_title(results, measure, layer), axis_label)
        if neutral is not None and measure in first.intervals and len(results) == 1:
            low, high = first.intervals[measure][layer].numpy()[:, places][:, :, places]  # [2, u, u]
            rows, columns = np.nonzero((low <= neutral) & (neutral <= high) & ~np.eye(len(low), dtype=bool))
            ax.scatter(columns + 0.36, rows - 0.36, s=3, color="black", linewidths=0)
    panels[0].set_ylabel(axis_label)
    _frame.bar(image, panels, _frame.MEASURES[measure][0])
    return panels


def _limit(given: Any, tables: Sequence[NDArray[Any]]) -> float:
    """Return where colors end: where the caller says, or at the largest number off the diagonals."""
    if given is not None:
        return as_number("limit", given, 0, 1, open_low=True)
    off = [np.abs(table[~np.eye(len(table), dtype=bool)]) for table in tables]
    largest = float(np.nan_to_num(np.concatenate(off)).max(initial=0))
    return largest if largest > SMALL else 1.0


def _order(given: Any, results: Sequence[Interference], layers: Sequence[str]) -> list[int]:
    """Return positions of units in the order in which they are drawn."""
    u = len(results[0].unit_labels)
    if given is None:
        return list(range(u))
    if isinstance(given, str):
        check_choice("order", given, ("clustered",))
        return clustered_order(results, layers)
    places = as_positions("order", given, u, "units")
    if len(set(places)) != len(places):
        refuse("order", "name no unit twice", places, "List each once")
    return places


def _panel_title(results: Sequence[Interference], measure: str, layer: str) -> str:
    """Return the layer's name and, for |cosine|, what its numbers are to be held against."""
    if measure != "abs_cosine":
        return layer
    mean = np.mean([one.pair_mean(measure, layer) for one in results])
    copies = [copy.pair_mean(measure, layer) for one in results for copy in one.untrained]
    levels = [one.chance[layer] for one in results if one.chance]
    chance = f", chance {np.mean(levels):.2f}" if levels else ""
    untrained = f", untrained {np.mean(copies):.2f}" if copies else ""
    return f"{layer}\nmean {mean:.2f}{chance}{untrained}"


def _draw(ax: Axes, table: NDArray[Any], names: Sequence[str], measure: str, limit: float) -> AxesImage:
    """Return the picture of a matrix, [u, u], with its numbers if there are at most twelve rows."""
    _, colors, low = _frame.MEASURES[measure]
    image = _picture(ax, table, _thinned(names), colors, low * limit, limit)
    if len(names) <= 12:  # without the zero before the point
        digits = 2 if len(names) <= 4 else 1
        pairs = ((cell, round(float(x), digits) + 0.0) for cell, x in np.ndenumerate(table) if cell[0] != cell[1])
        words = {cell: f"{x:.{digits}f}".replace("0.", ".") for cell, x in pairs}  # + 0.0: no minus zero
        _frame.write(ax, image, words, 6.5 if len(names) > 5 else 8)
    return image


def _picture(ax: Axes, table: NDArray[Any], beside: Any, colors: str, low: float, high: float) -> AxesImage:
    """Return the picture of a matrix, [u, u], its diagonal gray, with (places, names) of rows and columns beside it."""
    cells = np.ma.masked_where(np.eye(len(table), dtype=bool), table)
    cmap = plt.get_cmap(colors).with_extremes(bad=_frame.GRAY)
    _frame.grid(ax, beside, beside)
    return ax.imshow(cells, cmap=cmap, vmin=low, vmax=high, interpolation="nearest")


def _thinned(names: Sequence[str]) -> tuple[Sequence[int], list[str]]:
    """Return places and names of at most sixteen rows."""
    places = range(0, len(names), -(-len(names) // 16))
    return places, [names[i] for i in places]


def matrix_grid(
    matrices: Sequence[Sequence[Tensor]], row_labels: Sequence[str], column_labels: Sequence[str], *,
    measure: str = "cosine", xlabel: str = "", title: str = "", source: str = "", ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Draw a small square matrix in every cell of a grid, all in one scale of colors, their diagonals gray.

    Args:
        matrices: Rows of matrices, each [u, u].
        row_labels: One per row.
        column_labels: One per column.
        measure: "cosine" (diverging colors from -1 to 1), "abs_cosine", "conflict" or "norm_similarity" (0 to 1).
        xlabel: What the columns stand for.
        title: Above the grid.
        source: Where the data come from.
        ax: Where to draw; ``None`` makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: If the matrices are not square and of one size, labels do not fit, or the measure is unknown.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> grid = [[torch.eye(2), torch.ones(2, 2)]]
        >>> ge.plots.matrix_grid(grid, ["input"], ["separate", "shared"], title="two cells").get_title()
        'two cells'
    """
    check_choice("measure", measure, _frame.MEASURES)
    rows = [as_list("matrices", row, "rows of matrices") for row in as_list("matrices", matrices, "rows of matrices")]
    cells = [[_frame.square("matrices", matrix) for matrix in row] for row in rows]
    row_labels, column_labels = as_names("row_labels", row_labels), as_names("column_labels", column_labels)
    sizes = sorted({len(cell) for row in cells for cell in row})
    if len(sizes) != 1:
        refuse("matrices", "be of one size", f"sizes {sizes}", "Pass [u, u] throughout")
    if len(row_labels) != len(cells) or any(len(row) != len(column_labels) for row in cells):
        got = f"{len(row_labels)} x {len(column_labels)} labels for rows of {[len(row) for row in cells]}"
        refuse("matrices", "fit the labels of rows and columns", got, "Name every row and column once")
    u, step = sizes[0], sizes[0] + 1  # one empty row and column between matrices
    apart: Any = {"pad_width": (0, 1), "constant_values": np.nan}
    gray = np.pad(np.where(np.eye(u), 1.0, np.nan), **apart)
    own = np.tile(gray, (len(row_labels), len(column_labels)))[:-1, :-1]  # the diagonals
    canvas = np.block([[np.where(gray == 1, np.nan, np.pad(cell, **apart)) for cell in row] for row in cells])[:-1, :-1]
    width, height = max(4.0, min(10.0, 0.25 * canvas.shape[1] + 2)), max(1.6, 0.25 * canvas.shape[0] + 1)
    (ax,) = _frame.panels("ax", ax, (width, height), source)
    words, colors, low = _frame.MEASURES[measure]
    ax.imshow(own, cmap=ListedColormap([_frame.GRAY]), interpolation="none")
    image = ax.imshow(canvas, cmap=colors, vmin=low, vmax=1, interpolation="none")
    _frame.grid(ax, *((step * np.arange(len(one)) + (u - 1) / 2, one) for one in (row_labels, column_labels)))
    ax.spines[:].set_visible(False)
    return _frame.label(ax, title, xlabel, "", image, words)


def tree_similarity(
    result: GradientTree, layer: str, *, title: str = "", source: str = "", ax: Axes | None = None
) -> Axes:
    """Draw the cosines between the directions of all nodes of a layer, in a block for each pair of roots.

    Within a root, nodes run from most to fewest samples, one row each however few samples it has. The diagonal is gray.

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
        >>> [label.get_text() for label in ge.plots.tree_similarity(result, "input").get_xticklabels()]
        ['output 0', 'output 1', 'output 2']
    """
    _frame.check_result("result", result, "GradientTree", "gradient_tree", "roots", "parents")
    matrix = result.similarity(layer).numpy()
    ends = result.roots[layer].bincount(minlength=len(result.root_labels)).cumsum(0).numpy()
    names = [f"{result.unit_layer} {label}" if label.isdigit() else label for label in result.root_labels]
    beside = (np.concatenate([[0], ends[:-1]]) + ends - 1) / 2, names  # in the middle of each block
    (ax,) = _frame.panels("ax", ax, (5.0, 4.3), source)
    image = _picture(ax, matrix, beside, "RdBu_r", -1, 1)
    for end in ends[:-1]:
        ax.axhline(end - 0.5, color="black", linewidth=0.6)
        ax.axvline(end - 0.5, color="black", linewidth=0.6)
    return _frame.label(ax, title, "nodes of", "nodes of", image, "cosine of the nodes' gradients")


def confusion(
    counts: Numbers, labels: Sequence[str] | None = None, *, counted: str = "samples", title: str = "",
    source: str = "", ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Draw a confusion matrix: numbers are counts, colors the mistakes (the diagonal is left gray).

    Args:
        counts: Samples of class i (row) predicted as j (column), [t, t].
        labels: One per class; ``None`` numbers them.
        counted: What is counted, for the color bar.
        title: Above the matrix.
        source: Where the data come from.
        ax: Where to draw; ``None`` makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: If the matrix is not square, counts are negative or not finite, or labels do not fit it.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> ge.plots.confusion(torch.tensor([[9, 1], [0, 7]])).get_xlabel()
        'predicted class'
    """
    table = _frame.square("counts", counts, gaps=False)
    if table.min() < 0:
        refuse("counts", "be counts", table.min(), "Pass a confusion matrix")
    names = as_names("labels", map(str, range(len(table))) if labels is None else labels, len(table), "classes")
    (ax,) = _frame.panels("ax", ax, (5.2, 4.4), source)
    image = _picture(ax, table, _thinned(names), "cividis", 0, max(1, int((table - np.diag(np.diag(table))).max())))
    _frame.write(ax, image, {cell: f"{int(number)}" for cell, number in np.ndenumerate(table)}, 7)
    return _frame.label(ax, title, "predicted class", "true class", image, f"mistakes ({counted})")


def score_map(
    table: pd.DataFrame, x: str, y: str, score: str, *, limits: tuple[float, float] = (0.0, 1.0), xlabel: str = "",
    colorbar: bool = True, title: str = "", source: str = "", ax: Axes | None = None,
) -> Axes:  # fmt: skip
    r"""Draw a cell for every pair of settings: its color is the mean score, small numbers the range over repeats.

    Lines through many methods that all reach 1 lie on top of each other; cells do not.

    Args:
        table: One row per run, as a sweep gives it; rows with the same x and y are repeats. Pairs without a row stay
            white.
        x: Column whose values go across: numbers by size, names in the order in which they come.
        y: Column whose values go down, in the order in which they come.
        score: Column drawn.
        limits: The scores at both ends of the colors; beyond them colors do not change.
        xlabel: Instead of the column's name.
        colorbar: Whether to draw one.
        title: Above the map.
        source: Where the data come from.
        ax: Where to draw; ``None`` makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: If a column is missing, there are no rows, scores are no finite numbers, or ``limits`` do not
            ascend.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import pandas as pd, gradembed as ge
        >>> table = pd.DataFrame({"d": [1, 1, 2], "method": "PCA", "probe": [1.0, 0.9, 0.5]})
        >>> [text.get_text() for text in ge.plots.score_map(table, "d", "method", "probe").texts]
        ['0.95\n0.90 to 1.00', '0.50']
    """
    _frame.check_table(table, [x, y], [score])
    if not np.isfinite(table[score].to_numpy(float)).all():
        refuse("table", f"have finite scores in its column {score!r}", "others", "Drop those rows, or mend the sweep")
    ends = _frame.pair("limits", limits, "numbers")
    low, high = (as_number(f"limits[{i}]", end, -math.inf) for i, end in enumerate(ends))
    if not low < high:
        refuse("limits", "ascend", f"({low:g}, {high:g})", "Pass (0, 1)")
    columns, rows = list(table[x].unique()), list(table[y].unique())
    if table[x].dtype.kind in "iuf":
        columns.sort()
    cells = table.groupby([y, x], sort=False)[score].agg(["mean", "min", "max"])
    means, words = cells["mean"].unstack().reindex(index=rows, columns=columns).to_numpy(), {}
    for (row, column), scores in zip(cells.index, cells.to_numpy(), strict=True):
        mean, least, most = (f"{number:.2f}" for number in scores.round(2) + 0.0)  # no sign before zero
        spread = f"\n{least} to {most}" if np.ptp(scores) > SMALL else ""
        words[rows.index(row), columns.index(column)] = mean + spread
    (ax,) = _frame.panels("ax", ax, (1.5 + 0.75 * len(columns), 0.8 + 0.5 * len(rows)), source)
    image = ax.imshow(means, vmin=low, vmax=high, cmap="viridis", aspect="auto", interpolation="nearest")
    _frame.write(ax, image, words, 6.5)
    ax.set_xticks(range(len(columns)), [str(value) for value in columns])
    ax.set_yticks(range(len(rows)), [str(value) for value in rows])
    return _frame.label(ax, title, xlabel or x, "", image if colorbar else None, score)
