"""Rows of numbers as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from gradembed import _validation
from gradembed.plots import _arguments, _frame


def images(
    rows: Tensor,
    titles: Sequence[str],
    *,
    columns: int = 5,
    signed: bool = True,
    label: str = "",
    title: str = "",
    source: str = "",
) -> list[Axes]:
    """Draw rows of d = side² numbers as square pictures with one colour scale, say gradient directions at the input.

    Args:
        rows: [k, d].
        titles: One per picture.
        columns: Pictures side by side.
        signed: Diverging colours centred at 0; otherwise grey from least to greatest.
        label: What the colours mean.
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
    table = _arguments.numbers("rows", rows)
    side = round(table.shape[-1] ** 0.5) if table.ndim else 0
    if table.ndim != 2 or side**2 != table.shape[1] or not side:
        _validation.refuse("rows", "have shape [k, side²]", _validation.describe(rows), "Pass square pictures as rows")
    if len(rows) == 0:
        _validation.refuse("rows", "hold at least one picture", "none", "Pass some")
    titles = _arguments.names("titles", titles, len(rows), "pictures")
    _validation.check_integer("columns", columns, 1)
    columns = min(columns, len(rows))
    n_lines = -(-len(rows) // columns)
    figure, grid = plt.subplots(
        n_lines,
        columns,
        figsize=(1.55 * columns + 0.9, 1.75 * n_lines + 0.5),
        squeeze=False,
        layout="constrained",
    )
    _frame.sign(figure, source)
    limit = float(np.abs(table).max()) or 1.0
    scale: dict[str, Any] = (
        {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
        if signed
        else {"cmap": "gray", "vmin": float(table.min()), "vmax": float(table.max())}
    )
    panels = list(grid.flat)
    for ax, row, name in zip(panels, table, titles, strict=False):
        image = ax.imshow(row.reshape(side, side), **scale)
        ax.set_title(name, fontsize=9)
    for ax in panels:
        ax.set_axis_off()
    figure.colorbar(image, ax=panels, label=label, shrink=0.85)
    if title:
        figure.suptitle(title, fontsize=11)
    return panels[: len(rows)]
