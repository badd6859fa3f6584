"""Figures of many networks at once: curves with intervals, and a matrix for every cell of a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from gradembed import _validation
from gradembed.plots import _arguments, _frame

if TYPE_CHECKING:
    import pandas as pd

DASHES = ("-", "--", ":", "-.")


def curves(
    table: pd.DataFrame,
    x: str,
    y: str,
    by: str | None = None,
    *,
    band: tuple[str, str] | None = None,
    levels: Mapping[str, float] | None = None,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    log_x: bool = False,
    source: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw one column against another as lines, one per value of a third, with a band around each.

    Args:
        table: One row per point, as a sweep gives it.
        x: Column along the axis: numbers, or names in the order in which they stand.
        y: Column drawn.
        by: Column whose values become lines, in the order in which they come; ``None`` for a single line.
        band: Columns with the lower and the upper end of an interval, or ``None``.
        levels: Horizontal lines for comparison, such as {"chance": 0.1}.
        xlabel: Instead of the column's name.
        ylabel: Likewise.
        title: Above the plot.
        log_x: Whether equal steps are equal ratios; the ticks then stand at the points, which have to be above 0.
        source: Where the data come from.
        ax: Where to draw; ``None`` makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: If a column is missing, or there are no rows, or numbers are needed and are not there.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import pandas as pd, gradembed as ge
        >>> table = pd.DataFrame({"d": [1, 2], "accuracy": [1.0, 0.9]})
        >>> ge.plots.curves(table, "d", "accuracy", levels={"chance": 0.1}).get_ylabel()
        'accuracy'
    """
    if band is not None:
        band = _arguments.pair("band", band, "name two columns", "Pass those of the lower and the upper ends")
    if levels is not None:
        _arguments.check_levels(levels)
    _arguments.check_table(table, [x, *([] if by is None else [by])], [y, *(band or ()), *([x] if log_x else [])])
    if log_x and not (table[x] > 0).all():
        _validation.refuse("log_x", "be False unless all x are above 0", f"{table[x].min():g}", "Drop it")
    _, ax = _frame.axes(ax, (6.4, 3.6), source)
    groups = [("", table)] if by is None else list(table.groupby(by, sort=False))
    for i, (name, group) in enumerate(groups):
        colour, dash = _frame.COLOURS[i % 10], DASHES[i // 10 % 4]
        ax.plot(group[x], group[y], marker="o", markersize=4, label=str(name), color=colour, linestyle=dash)
        if band:
            low, high = (group[end].to_numpy(float) for end in band)
            ax.fill_between(group[x], low, high, color=colour, alpha=0.15, linewidth=0)
    for i, (level_name, level) in enumerate((levels or {}).items()):
        ax.axhline(level, color="#555555", linewidth=1, linestyle=DASHES[1 + i % 3], label=level_name)
    if log_x:
        ax.set_xscale("log")
        ax.set_xticks(sorted(table[x].unique()), [f"{v:g}" for v in sorted(table[x].unique())], minor=False)
        ax.minorticks_off()
    ax.set(xlabel=xlabel or x, ylabel=ylabel or y)
    ax.set_title(title, fontsize=10)
    ax.grid(axis="y", alpha=0.3)
    if by is not None or levels:
        ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=8)
    return ax


def matrix_grid(
    matrices: Sequence[Sequence[Tensor]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    *,
    measure: str = "cosine",
    xlabel: str = "",
    title: str = "",
    source: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a small square matrix in every cell of a grid, all in one scale of colours.

    Args:
        matrices: Rows of matrices, each [u, u].
        row_labels: One per row.
        column_labels: One per column.
        measure: "cosine" (diverging colours from -1 to 1), "abs_cosine", "conflict" or "norm_similarity" (0 to 1).
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
    _validation.check_choice("measure", measure, _frame.MEASURES)
    for rows in (matrices, *matrices) if isinstance(matrices, list | tuple) else [matrices]:
        if not isinstance(rows, list | tuple):
            rule, remedy = "be a list of rows of matrices", "Pass lists"
            _validation.refuse("matrices", rule, _validation.describe(rows), remedy, TypeError)
    cells = [[_arguments.numbers("matrices", matrix, gaps=True).astype(float) for matrix in row] for row in matrices]
    row_labels = _arguments.names("row_labels", row_labels)
    column_labels = _arguments.names("column_labels", column_labels)
    shapes = sorted({cell.shape for row in cells for cell in row})
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0] != 2 * shapes[0][:1] or not shapes[0][0]:
        got = f"shapes {[list(shape) for shape in shapes]}" if shapes else "none"
        _validation.refuse("matrices", "be square, [u, u], of one size and not empty", got, "Pass [u, u] throughout")
    if len(row_labels) != len(cells) or any(len(row) != len(column_labels) for row in cells):
        got = f"{len(row_labels)} x {len(column_labels)} labels for rows of {[len(row) for row in cells]}"
        _validation.refuse("matrices", "fit the labels of rows and columns", got, "Name every row and column once")
    u, gap = shapes[0][0], 1
    canvas = np.full((len(cells) * (u + gap) - gap, len(column_labels) * (u + gap) - gap), np.nan)
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            canvas[i * (u + gap) :, j * (u + gap) :][:u, :u] = cell
    height = max(1.6, 0.25 * canvas.shape[0] + 1)
    figure, ax = _frame.axes(ax, (max(4.0, min(10.0, 0.25 * canvas.shape[1] + 2)), height), source)
    _, colours, low = _frame.MEASURES[measure]
    image = ax.imshow(canvas, cmap=colours, vmin=low, vmax=1, interpolation="none")
    middle = (u - 1) / 2
    ax.set_xticks([j * (u + gap) + middle for j in range(len(column_labels))], list(column_labels), fontsize=8)
    ax.set_yticks([i * (u + gap) + middle for i in range(len(cells))], list(row_labels), fontsize=8)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel(xlabel)
    ax.set_title(title, fontsize=10)
    figure.colorbar(image, ax=ax, label=_frame.MEASURES[measure][0], shrink=0.9)
    return ax
