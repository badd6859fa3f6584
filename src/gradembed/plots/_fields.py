"""Figures of gradient fields and of embeddings of units."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from gradembed import _validation
from gradembed.fields import GradientFields
from gradembed.plots import _arguments, _frame

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

REMEDY = "Take them with gradembed.gradient_fields"


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
        ValueError: If the fields have more than one dimension or no values to draw, units are not there, or
            predictions or their mask have another shape or nothing to belong to.
        TypeError: If ``units`` are no integers.

    Example:
        >>> import torch, gradembed as ge
        >>> x = torch.linspace(-1, 1, 9)[:, None]
        >>> ge.plots.field_1d(ge.GradientFields(x, gradients=x[None].cos())).get_xlabel()
        'x'
    """
    chosen = _check_curves(fields, units, predicted, masked, values)
    _, ax = _frame.axes(ax, (6.4, 3.4), source)
    table = fields.values if values and fields.values is not None else fields.gradients[..., 0]
    points, seen = fields.own_points()[..., 0].numpy(force=True), set()
    for unit in chosen:
        label = None if fields.labels is None else int(fields.labels[unit])
        colour = _frame.COLOURS[(unit if label is None else label) % 10]
        order = points[unit].argsort()
        name = None if label is None or label in seen else f"function {label}"
        seen.add(label)
        curve = table[unit].numpy(force=True)[order]
        ax.plot(points[unit][order], curve, color=colour, linewidth=1, alpha=0.8, label=name)
        if predicted is not None:
            here = np.ones(len(order), dtype=bool) if masked is None else masked[unit].numpy(force=True)
            crosses = predicted[unit, :, 0].numpy(force=True)[here]
            ax.plot(points[unit][here], crosses, "x", color=colour, markersize=4)
    ax.set(xlabel="x", ylabel="value f(x)" if values else "gradient df/dx")
    ax.set_title(title, fontsize=10)
    ax.grid(alpha=0.3)
    if fields.labels is not None:
        ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=8)
    return ax


def _check_curves(
    fields: GradientFields, units: Sequence[int] | None, predicted: Tensor | None, masked: Tensor | None, values: bool
) -> list[int]:
    """Refuse fields that are no curves, units that are not there, and predictions that do not fit.

    Returns:
        The units to draw.
    """
    _arguments.check_result("fields", fields, GradientFields, REMEDY)
    if fields.dim != 1:
        _validation.refuse("fields", "have one dimension", f"{fields.dim}", "Use field_2d, or choose a dimension")
    if values and fields.values is None:
        _validation.refuse("values", "be False for fields without values", values, "Draw the gradients")
    if predicted is not None:
        _arguments.numbers("predicted", predicted)
    if predicted is not None and predicted.shape != fields.gradients.shape:
        rule = f"have shape {list(fields.gradients.shape)}, that of the gradients"
        _validation.refuse("predicted", rule, _validation.describe(predicted), "Predict at the fields' own points")
    if values and predicted is not None:
        _validation.refuse("values", "be False with `predicted`", values, "Predictions are gradients: draw those")
    if masked is not None and predicted is None:
        _validation.refuse(
            "masked", "be None without `predicted`", _validation.describe(masked), "Pass the predictions too"
        )
    if masked is not None:
        _arguments.numbers("masked", masked)
    if masked is not None and (masked.shape != fields.gradients.shape[:2] or masked.dtype != torch.bool):
        rule = f"be a mask of shape {list(fields.gradients.shape[:2])}"
        _validation.refuse("masked", rule, _validation.describe(masked), "Take it as field_mask returns it")
    if units is None:
        return list(range(len(fields)))
    listed = units.tolist() if hasattr(units, "tolist") else units  # tensors and arrays of them too
    chosen: list[int] = _validation.check_sequence("units", listed, "a list of units")
    for unit in chosen:
        _validation.check_integer("units", unit)
        if not 0 <= unit < len(fields):
            _validation.refuse("units", f"lie between 0 and {len(fields) - 1}", unit, "Choose some of them")
    return chosen


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
        ValueError: If there is no such unit or dimension, or ``axes`` are not two.
        TypeError: If one of them is no integer.

    Example:
        >>> import torch, gradembed as ge
        >>> x = torch.randn(50, 2)
        >>> ge.plots.field_2d(ge.GradientFields(x, x[None]), xlabel="first").get_xlabel()
        'first'
    """
    _arguments.check_result("fields", fields, GradientFields, REMEDY)
    axes = _arguments.pair("axes", axes, "name two dimensions", "Pass a pair, as in (0, 1)")
    for name, number, size in (("unit", unit, len(fields)), *(("axes", axis, fields.dim) for axis in axes)):
        _validation.check_integer(name, number)
        if not 0 <= number < size:
            _validation.refuse(name, f"lie between 0 and {size - 1}", number, "Choose one of them")
    figure, ax = _frame.axes(ax, (4.6, 4.0), source)
    place, arrows = (table[unit][:, list(axes)] for table in (fields.own_points(), fields.gradients))
    draw_arrows(figure, ax, place, arrows, None if fields.values is None else fields.values[unit])
    ax.set(xlabel=xlabel or f"dimension {axes[0]}", ylabel=ylabel or f"dimension {axes[1]}")
    ax.set_title(title, fontsize=10)
    return ax


def draw_arrows(figure: Any, ax: Axes, points: Tensor, gradients: Tensor, values: Tensor | None) -> None:
    """Draw arrows, [m, 2], at points, [m, 2]; with values, [m], in colours that a bar explains."""
    place, arrows = points.numpy(force=True), gradients.numpy(force=True)
    # Without any length there is no scale to find, and at one place no direction in the data's coordinates.
    scale = None if arrows.any() else 1.0
    angles: Any = "xy" if np.ptp(place, axis=0).any() else "uv"
    draw = partial(ax.quiver, *place.T, *arrows.T, angles=angles, scale=scale, width=0.004, pivot="mid")
    if values is None:
        draw(color=_frame.COLOURS[0])
        return
    drawn = draw(cmap="viridis")
    drawn.set_array(values.numpy(force=True))
    figure.colorbar(drawn, ax=ax, label="value of the unit", shrink=0.85)


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
        label_names: A name for each, from 0 on.
        markers: Another whole number per unit, shown by the shape of the mark.
        marker_names: A name for each, from 0 on; without them, the legend explains the colours only.
        method: What made the coordinates, for the axes.
        title: Above the plot.
        legend: Whether to explain the colours.
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
    places = _array("coordinates", coordinates)
    if places.ndim != 2 or places.shape[1] != 2 or not len(places):
        _validation.refuse("coordinates", "have shape [u, 2]", list(places.shape), "Project them with project_2d")
    if places.dtype.kind not in "fiu" or not np.isfinite(places).all():
        _validation.refuse("coordinates", "be finite numbers", "others", "Drop those units")
    kinds = _whole("labels", labels, label_names, len(places))
    shapes = _whole("markers", np.zeros_like(kinds) if markers is None else markers, marker_names, len(places))
    _, ax = _frame.axes(ax, (5.0, 4.0), source)
    for shape in np.unique(shapes):
        for kind in np.unique(kinds):
            here = places[(kinds == kind) & (shapes == shape)]
            if not len(here):
                continue
            name = str(kind) if label_names is None else label_names[kind]
            if marker_names is not None:
                name = f"{name}, {marker_names[shape]}"
            elif (kinds[shapes < shape] == kind).any():
                name = "_named already"  # an underscore keeps it out of the legend
            colour, marker = _frame.COLOURS[kind % 10], _frame.MARKERS[shape % 10]
            ax.scatter(here[:, 0], here[:, 1], s=14, color=colour, marker=marker, linewidths=0, alpha=0.8, label=name)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set(xlabel=f"{method} 1".strip(), ylabel=f"{method} 2".strip())
    ax.set_title(title, fontsize=10)
    if legend:
        ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=8, markerscale=1.5)
    return ax


def _array(name: str, value: object) -> NDArray[Any]:
    """Take numbers out of a tensor, or a list.

    Returns:
        An array.
    """
    if value is None or isinstance(value, str | bytes):
        _validation.refuse(
            name, "be numbers, one row per unit", _validation.describe(value), "Pass an array", TypeError
        )
    return _arguments.dense(name, value) if isinstance(value, Tensor) else np.asarray(value)


def _whole(name: str, given: object, names: Sequence[str] | None, u: int) -> NDArray[Any]:
    """Refuse what is not a whole number for each of u units, or has no name.

    Returns:
        The numbers, [u].
    """
    array = _array(name, given)
    if array.shape != (u,):
        _validation.refuse(name, f"be one for each of {u} units", list(array.shape), "Pass as many")
    if array.dtype.kind not in "biu":
        _validation.refuse(
            name, "be whole numbers", f"type {array.dtype}", "Number them, and pass their names", TypeError
        )
    array = array.astype(np.int64)
    if names is not None:
        _arguments.names(f"{name[:-1]}_names", names)
    if names is not None and not (array.min() >= 0 and array.max() < len(names)):
        got = f"{len(names)} names for {array.min()} to {array.max()}"
        _validation.refuse(f"{name[:-1]}_names", "name every number from 0 on", got, "Name them all")
    return array
