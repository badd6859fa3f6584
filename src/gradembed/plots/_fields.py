"""Figures of gradient fields and of embeddings of units."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from gradembed import _checks
from gradembed.plots import _frame

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradembed.fields import GradientFields

MARKERS = "osD^vP*X<>"


def field_1d(
    fields: GradientFields,
    units: Sequence[int] | None = None,
    *,
    predicted: Tensor | None = None,
    masked: Tensor | None = None,
    values: bool = False,
    title: str = "",
    source: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw the gradients of units of one input as curves, coloured by label, with a model's predictions if given.

    Args:
        fields: With one dimension.
        units: Which units; ``None`` for all.
        predicted: Gradients that a model predicts, [u, m, 1], drawn as crosses.
        masked: Points at which they were predicted, [u, m]; ``None`` for all.
        values: Draw the units' values instead of their gradients.
        title: Above the plot.
        source: Where the data come from.
        ax: Where to draw; ``None`` makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: If the fields have more than one dimension, no values to draw, or predictions of another shape.

    Example:
        >>> import torch, gradembed as ge
        >>> x = torch.linspace(-1, 1, 9)[:, None]
        >>> ge.plots.field_1d(ge.GradientFields(x, gradients=x[None].cos())).get_xlabel()
        'x'
    """
    if fields.dim != 1:
        _checks.refuse("fields", "have one dimension", f"{fields.dim}", "Use field_2d, or choose a dimension")
    if values and fields.values is None:
        _checks.refuse("values", "be False for fields without values", values, "Draw the gradients")
    if predicted is not None and predicted.shape != fields.gradients.shape:
        rule = f"have shape {list(fields.gradients.shape)}, that of the gradients"
        _checks.refuse("predicted", rule, _checks.describe(predicted), "Predict at the fields' own points")
    _, ax = _frame.axes(ax, (6.4, 3.4), source)
    table = fields.values if values and fields.values is not None else fields.gradients[..., 0]
    points, seen = fields.own_points()[..., 0].numpy(force=True), set()
    for unit in range(len(fields)) if units is None else units:
        label = None if fields.labels is None else int(fields.labels[unit])
        colour = _frame.COLOURS[(unit if label is None else label) % 10]
        order = points[unit].argsort()
        name = None if label is None or label in seen else f"function {label}"
        seen.add(label)
        curve = table[unit].numpy(force=True)[order]
        ax.plot(points[unit][order], curve, color=colour, linewidth=1, alpha=0.8, label=name)
        if predicted is not None:
            chosen = np.ones(len(order), dtype=bool) if masked is None else masked[unit].numpy(force=True)
            ax.plot(
                points[unit][chosen], predicted[unit, :, 0].numpy(force=True)[chosen], "x", color=colour, markersize=4
            )
    ax.set(xlabel="x", ylabel="value f(x)" if values else "gradient df/dx")
    ax.set_title(title, fontsize=10)
    ax.grid(alpha=0.3)
    if fields.labels is not None:
        ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=8)
    return ax


def field_2d(
    fields: GradientFields,
    unit: int = 0,
    *,
    axes: tuple[int, int] = (0, 1),
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    source: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw one unit's gradients as arrows at its points, over two of the dimensions; colours show the values.

    Args:
        fields: With two dimensions or more.
        unit: Which unit.
        axes: Which two dimensions.
        xlabel: Name of the first.
        ylabel: Name of the second.
        title: Above the plot.
        source: Where the data come from.
        ax: Where to draw; ``None`` makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: If there is no such unit or dimension.
        TypeError: If one of them is no integer.

    Example:
        >>> import torch, gradembed as ge
        >>> x = torch.randn(50, 2)
        >>> ge.plots.field_2d(ge.GradientFields(x, x[None]), xlabel="first").get_xlabel()
        'first'
    """
    for name, number, size in (("unit", unit, len(fields)), *(("axes", axis, fields.dim) for axis in axes)):
        _checks.check_integer(name, number)
        if not 0 <= number < size:
            _checks.refuse(name, f"lie between 0 and {size - 1}", number, "Choose one of them")
    figure, ax = _frame.axes(ax, (4.6, 4.0), source)
    place = fields.own_points()[unit][:, list(axes)].numpy(force=True)
    arrows = fields.gradients[unit][:, list(axes)].numpy(force=True)
    draw = partial(ax.quiver, *place.T, *arrows.T, angles="xy", width=0.004, pivot="mid")
    if fields.values is None:
        draw(color=_frame.COLOURS[0])
    else:
        drawn = draw(cmap="viridis")
        drawn.set_array(fields.values[unit].numpy(force=True))
        figure.colorbar(drawn, ax=ax, label="value of the unit", shrink=0.85)
    ax.set(xlabel=xlabel or f"dimension {axes[0]}", ylabel=ylabel or f"dimension {axes[1]}")
    ax.set_title(title, fontsize=10)
    return ax


def embedding(
    coordinates: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    *,
    label_names: Sequence[str] | None = None,
    markers: ArrayLike | Tensor | None = None,
    marker_names: Sequence[str] | None = None,
    method: str = "",
    title: str = "",
    legend: bool = True,
    source: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw an embedding in two dimensions, one mark per unit.

    Args:
        coordinates: [u, 2], as `project_2d` gives them.
        labels: A whole number per unit, shown by colour (ten colours, then the same again).
        label_names: A name for each.
        markers: Another whole number per unit, shown by the shape of the mark.
        marker_names: A name for each.
        method: What made the coordinates, for the axes.
        title: Above the plot.
        legend: Whether to explain the colours.
        source: Where the data come from.
        ax: Where to draw; ``None`` makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: If the coordinates are not [u, 2], or labels or markers not one for each.

    Example:
        >>> import torch, gradembed as ge
        >>> ge.plots.embedding(torch.randn(6, 2), [0, 0, 1, 1, 2, 2], title="six units").get_title()
        'six units'
    """
    places, kinds = np.asarray(coordinates, dtype=float), np.asarray(labels)
    shapes = np.zeros(len(kinds), dtype=int) if markers is None else np.asarray(markers)
    if places.ndim != 2 or places.shape[1] != 2:
        _checks.refuse("coordinates", "have shape [u, 2]", list(places.shape), "Project them with project_2d")
    for name, given in (("labels", kinds), ("markers", shapes)):
        if given.shape != (len(places),):
            _checks.refuse(name, f"be one for each of {len(places)} units", list(given.shape), "Pass as many")
    _, ax = _frame.axes(ax, (5.0, 4.0), source)
    for shape in np.unique(shapes):
        for kind in np.unique(kinds):
            here = places[(kinds == kind) & (shapes == shape)]
            if not len(here):
                continue
            name = str(kind) if label_names is None else label_names[int(kind)]
            if marker_names is not None:
                name = f"{name}, {marker_names[int(shape)]}"
            colour, marker = _frame.COLOURS[int(kind) % 10], MARKERS[int(shape) % 10]
            ax.scatter(here[:, 0], here[:, 1], s=14, color=colour, marker=marker, linewidths=0, alpha=0.8, label=name)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set(xlabel=f"{method} 1".strip(), ylabel=f"{method} 2".strip())
    ax.set_title(title, fontsize=10)
    if legend:
        ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=8, markerscale=1.5)
    return ax
