"""What all figures share: colours, sizes, axes, the line that names the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from gradembed import _validation

# Paul Tol's "muted" scheme, ordered for contrast between neighbours, and grey as the tenth.
COLOURS = (
    "#332288",
    "#CC6677",
    "#117733",
    "#DDCC77",
    "#88CCEE",
    "#882255",
    "#44AA99",
    "#999933",
    "#AA4499",
    "#777777",
)
MARKERS = "osD^vP*X<>"
MEASURES = {
    "cosine": ("mean cosine of gradients", "RdBu_r", -1.0),
    "abs_cosine": ("mean |cosine| of gradients", "viridis", 0.0),
    "conflict": ("share of samples in conflict (cosine < 0)", "viridis", 0.0),
    "norm_similarity": ("mean norm similarity of gradients", "viridis", 0.0),
}


def axes(ax: Axes | None, size: tuple[float, float], source: str) -> tuple[Any, Axes]:
    """Make a figure if there is no Axes to draw in.

    Returns:
        Figure and Axes.
    """
    if ax is not None:
        check_axes("ax", ax)
    else:
        _, ax = plt.subplots(figsize=size, layout="constrained")
    sign(ax.figure, source)
    return ax.figure, ax


def check_axes(name: str, value: object) -> None:
    """Refuse what cannot be drawn in."""
    if not isinstance(value, Axes):
        remedy = "Pass one of plt.subplots(), or None"
        _validation.refuse(name, "be Axes of matplotlib", _validation.describe(value), remedy, TypeError)


def panels(axes: Any, number: int, width: float, source: str) -> tuple[Any, list[Axes]]:
    """Make a figure with panels side by side if there are none to draw in.

    Returns:
        Figure and Axes.
    """
    if axes is None:
        _, grid = plt.subplots(1, number, figsize=(width * number + 1, width), squeeze=False, layout="constrained")
        panels = list(grid.flat)
    else:
        panels = [axes] if isinstance(axes, str | Axes) else list(axes)  # an array of them too
        for panel in panels:
            check_axes("axes", panel)
    if len(panels) != number:
        _validation.refuse("axes", f"be {number}, one for each panel", len(panels), "Pass None to have them made")
    sign(panels[0].figure, source)
    return panels[0].figure, panels


def ticks(ax: Axes, names: Sequence[str]) -> None:
    step = -(-len(names) // 16)
    places = range(0, len(names), step)
    ax.set_xticks(places, [names[i] for i in places])
    ax.set_yticks(places, [names[i] for i in places])
    ax.tick_params(length=0, labelsize=8)


def ink(colour: Any) -> str:
    """Choose black or white, whichever can be read on a colour.

    Returns:
        A colour for text.
    """
    red, green, blue = to_rgb(colour)
    return "white" if 0.3 * red + 0.6 * green + 0.1 * blue < 0.5 else "black"


def sign(figure: Any, source: str) -> None:
    """Write below the figure where its data come from."""
    if source:
        figure.supxlabel(f"data: {source}", fontsize=7, color="#555555", x=0.01, ha="left")
