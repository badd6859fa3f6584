"""Figures as bytes, whatever the caller's settings of matplotlib, and none left open."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SAVED: dict[str, Any] = {"dpi": 144, "bbox_inches": "tight", "pad_inches": 0.04, "metadata": {"Software": None}}


def pictures(draw: Callable[[list[Axes]], object], sizes: Sequence[tuple[float, float]]) -> list[bytes]:
    """Draw into new figures, one for each size, and give them as PNG, without a word on what made them.

    Args:
        draw: Called with an Axes in each figure.
        sizes: Widths and heights in inches, about: what stands out is kept, white margins are not.

    Returns:
        One picture per figure; the same bytes for the same drawing.
    """
    with mpl.style.context("default"), mpl.rc_context({"text.parse_math": False}):
        made = [Figure(figsize=size, layout="constrained") for size in sizes]  # unknown to pyplot, which keeps its own
        draw([figure.subplots() for figure in made])
        files = [io.BytesIO() for _ in made]
        for figure, file in zip(made, files, strict=True):
            figure.savefig(file, format="png", **SAVED)
        return [file.getvalue() for file in files]


def turn_layer_names(ax: Axes) -> Axes:
    """Slant the names along the horizontal axis and put the legend below, for figures as narrow as a telephone.

    Returns:
        The Axes.
    """
    for label in ax.get_xticklabels():
        label.set(rotation=35, horizontalalignment="right", rotation_mode="anchor")
    legend: Any = ax.get_legend()
    if legend is not None:
        legend.remove()
        figure: Any = ax.figure
        figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", frameon=False, fontsize=8)
    return ax
