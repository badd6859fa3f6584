"""Figures of places and tables: pictures, scores of settings, embeddings, planes, modules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from torch import Tensor

from gradembed._validation import as_integer, as_names, as_number, describe, refuse
from gradembed.modules import TaskModules
from gradembed.plots import _frame

SMALL = 0.015  # a range that two decimals hardly show


def images(
    rows: Tensor | ArrayLike, titles: Sequence[str], *, columns: int = 5, signed: bool = True, label: str = "",
    title: str = "", source: str = "",
) -> list[Axes]:  # fmt: skip
    """Draw rows of d = side² numbers as square pictures with one color scale, say gradient directions at the input.

    Args:
        rows: [k, d].
        titles: One per picture.
        columns: Pictures side by side.
        signed: Diverging colors centred at 0; otherwise grey from least to greatest.
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
    means, words = np.full((len(rows), len(columns)), np.nan), {}
    for (row, column), scores in zip(cells.index, cells.to_numpy(), strict=True):
        place = rows.index(row), columns.index(column)
        means[place] = scores[0]
        mean, least, most = (f"{number:.2f}" for number in scores.round(2) + 0.0)  # no sign before zero
        words[place] = f"{mean}\n{least} to {most}" if np.ptp(scores) > SMALL else mean
    ax = _frame.single(ax, (1.5 + 0.75 * len(columns), 0.8 + 0.5 * len(rows)), source)
    image = ax.imshow(means, vmin=low, vmax=high, cmap="viridis", aspect="auto", interpolation="nearest")
    _frame.write(ax, image, words, 6.5)
    ax.set_xticks(range(len(columns)), [str(value) for value in columns])
    ax.set_yticks(range(len(rows)), [str(value) for value in rows])
    return _frame.label(ax, title, xlabel or x, "", image if colorbar else None, score)


def embedding(
    coordinates: Tensor | ArrayLike, labels: Tensor | ArrayLike, *, label_names: Sequence[str] | None = None,
    markers: Tensor | ArrayLike | None = None, marker_names: Sequence[str] | None = None, method: str = "",
    title: str = "", legend: bool = True, source: str = "", ax: Axes | None = None,
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
    ax = _frame.single(ax, (5.0, 4.0), source)
    for shape, kind in sorted({*zip(shapes.tolist(), kinds.tolist(), strict=True)}):
        here = places[(kinds == kind) & (shapes == shape)]
        name = names[kind]
        if marker_names is not None:
            name = f"{name}, {shape_names[shape]}"
        elif (kinds[shapes < shape] == kind).any():
            name = "_named already"  # an underscore keeps it out of the legend
        style: dict[str, Any] = {"color": _frame.COLORS[kind % 10], "marker": _frame.MARKERS[shape % 10]}
        ax.scatter(here[:, 0], here[:, 1], s=14, linewidths=0, alpha=0.8, label=name, **style)
    ax.set_xticks([])
    ax.set_yticks([])
    if legend:
        _frame.legend(ax, markerscale=1.5)
    return _frame.label(ax, title, f"{method} 1".strip(), f"{method} 2".strip())


def cosine_map(
    horizontal: Tensor | ArrayLike, vertical: Tensor | ArrayLike, cosine: Tensor | ArrayLike, *,
    points: Tensor | ArrayLike | None = None, labels: Tensor | ArrayLike | None = None,
    label_names: Sequence[str] | None = None, xlabel: str = "", ylabel: str = "", title: str = "",
    colorbar: bool = True, source: str = "", ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Draw the cosine of two units' gradients over a plane of the input space: red where they agree.

    Args:
        horizontal: Places along the plane's first axis, [a].
        vertical: Along its second, [b].
        cosine: At every place, [b, a]; NaN (no gradient) is left grey. The line is where it changes sign.
        points: Samples in the plane, [n, 2], or ``None``.
        labels: Their classes, whole numbers, [n].
        label_names: A name for each class from 0 on, for the legend.
        xlabel: Name of the first axis.
        ylabel: Name of the second axis.
        title: Above the map.
        colorbar: Whether to explain the colors.
        source: Where the data come from.
        ax: Where to draw; ``None`` makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: If shapes do not fit each other, or there are fewer than two places along an axis, or numbers are
            infinite, or a class has no name.
        TypeError: If an argument has the wrong type, labels are no whole numbers among others.

    Example:
        >>> import torch, gradembed as ge
        >>> side = torch.linspace(-1, 1, 5)
        >>> ge.plots.cosine_map(side, side, side[:, None] * side, xlabel="first").get_xlabel()
        'first'
    """
    across, up = _frame.numbers("horizontal", horizontal, "a"), _frame.numbers("vertical", vertical, "b")
    for name, side in (("horizontal", across), ("vertical", up)):
        if len(side) < 2 or (np.diff(side) == 0).any():
            refuse(name, "hold at least two places, each once", f"{len(side)}", "Pass one axis of the grid")
    table = _frame.numbers("cosine", cosine, "b a", gaps=True, b=len(up), a=len(across))
    if points is None and labels is not None:
        refuse("labels", "be None without `points`", describe(labels), "Pass the points too")
    marks = np.zeros((0, 2)) if points is None else _frame.numbers("points", points, "n k", k=2)
    classes, names = _frame.kinds("labels", labels, label_names, len(marks), optional=True)
    ax = _frame.single(ax, (4.8, 4.0), source)
    ax.set_facecolor("#bbbbbb")
    mesh = ax.pcolormesh(across, up, table, cmap="RdBu_r", vmin=-1, vmax=1, shading="nearest", rasterized=True)
    if (table < 0).any() and (table > 0).any():
        ax.contour(across, up, table, levels=[0], colors="black", linewidths=0.8)
    style: dict[str, Any] = {"s": 22, "edgecolor": "white", "linewidth": 0.5}
    for k in np.unique(classes).tolist():
        x, y = marks[classes == k].T
        ax.scatter(x, y, color=_frame.COLORS[k % 10], marker=_frame.MARKERS[k % 10], label=names[k], **style)
    if labels is not None:
        _frame.legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=4)
    return _frame.label(ax, title, xlabel, ylabel, mesh if colorbar else None, "cosine of gradients")


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
    ax = _frame.single(ax, (7.2, 2.4), source)
    image = ax.imshow(result.effects.numpy()[np.ix_(rows, columns)], cmap="viridis", aspect="auto", vmin=0)
    ax.set_yticks(range(len(rows)), [result.unit_labels[i] for i in rows], fontsize=8)
    ax.set_xticks([])  # a column's place is not its unit's number
    for edge in np.nonzero(np.diff(last[columns]))[0] + 0.5:
        ax.axvline(edge, color="white", linewidth=2)
    below = f"units of {result.layer}, by module, the most selective first"
    return _frame.label(ax, title, below, "output", image, "effect (sd per sd)")
