"""A table of scores as a picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from gradembed import _validation
from gradembed.plots import _arguments, _frame

if TYPE_CHECKING:
    import pandas as pd

SMALL = 0.015  # a range that two decimals hardly show


def score_map(
    table: pd.DataFrame,
    x: str,
    y: str,
    score: str,
    *,
    limits: tuple[float, float] = (0.0, 1.0),
    xlabel: str = "",
    colorbar: bool = True,
    title: str = "",
    source: str = "",
    ax: Axes | None = None,
) -> Axes:
    r"""Draw a cell for every pair of settings: its colour is the mean score, small numbers the range over repeats.

    Lines through many methods that all reach 1 lie on top of each other; cells do not.

    Args:
        table: One row per run, as a sweep gives it; rows with the same x and y are repeats. Pairs without a row stay
            white.
        x: Column whose values go across: numbers by size, names in the order in which they come.
        y: Column whose values go down, in the order in which they come.
        score: Column drawn.
        limits: The scores at both ends of the colours; beyond them colours do not change.
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
    _arguments.check_table(table, [x, y], [score])
    if not np.isfinite(table[score].to_numpy(float)).all():
        remedy = "Drop those rows, or mend the sweep"
        _validation.refuse("table", f"have finite scores in its column {score!r}", "others", remedy)
    low, high = _check_limits(limits)
    columns, rows = _in_order(table[x]), list(table[y].unique())
    cells = table.groupby([y, x], sort=False)[score].agg(["mean", "min", "max"])
    means = np.full((len(rows), len(columns)), np.nan)
    figure, ax = _frame.axes(ax, (1.5 + 0.75 * len(columns), 0.8 + 0.5 * len(rows)), source)
    places = {pair: (rows.index(pair[0]), columns.index(pair[1])) for pair in cells.index}
    for pair, place in places.items():
        means[place] = cells.loc[pair, "mean"]
    image = ax.imshow(means, vmin=low, vmax=high, cmap="viridis", aspect="auto", interpolation="nearest")
    for (row, column), (mean, least, most) in zip(places.values(), cells.to_numpy(), strict=True):
        text = _short(mean) + (f"\n{_short(least)} to {_short(most)}" if most - least > SMALL else "")
        colour = _frame.ink(image.cmap(image.norm(mean)))
        ax.text(column, row, text, ha="center", va="center", fontsize=6.5, color=colour)
    ax.set_xticks(range(len(columns)), [str(value) for value in columns])
    ax.set_yticks(range(len(rows)), [str(value) for value in rows])
    ax.set_xlabel(xlabel or x)
    ax.set_title(title, fontsize=10)
    if colorbar:
        figure.colorbar(image, ax=ax, label=score)
    return ax


def _short(score: float) -> str:
    """Write a score with two decimals, and zero without a sign.

    Returns:
        Text.
    """
    return f"{round(score, 2) + 0.0:.2f}"


def _check_limits(limits: object) -> tuple[float, float]:
    """Refuse what is no pair of ascending numbers.

    Returns:
        The pair.
    """
    low, high = _arguments.pair("limits", limits, "be a pair of numbers", "Pass (0, 1)")
    for i, end in enumerate((low, high)):
        _validation.check_number(f"limits[{i}]", end, -math.inf)
    if not low < high:
        _validation.refuse("limits", "ascend", f"({low:g}, {high:g})", "Pass (0, 1)")
    return low, high


def _in_order(column: pd.Series[float] | pd.Series[str]) -> list[float | str]:
    """Find the different values of a column.

    Returns:
        Numbers by size, names in the order in which they come.
    """
    values = list(column.unique())
    return sorted(values) if column.dtype.kind in "iuf" else values
