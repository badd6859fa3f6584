"""Figures of where tasks share and which units serve them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from gradembed import _validation
from gradembed.plots import _arguments, _frame
from gradembed.modules import TaskModules


def cosine_map(
    horizontal: Tensor,
    vertical: Tensor,
    cosine: Tensor,
    *,
    points: Tensor | None = None,
    labels: Tensor | None = None,
    label_names: Sequence[str] | None = None,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    colorbar: bool = True,
    source: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw the cosine of two units' gradients over a plane of the input space: red where they agree.

    Args:
        horizontal: Places along the plane's first axis, [a].
        vertical: Along its second, [b].
        cosine: At every place, [b, a]; NaN (no gradient) is left grey. The line is where it changes sign.
        points: Samples in the plane, [n, 2], or ``None``.
        labels: Their classes, int64 from 0, [n].
        label_names: A name for each class, for the legend.
        xlabel: Name of the first axis.
        ylabel: Name of the second axis.
        title: Above the map.
        colorbar: Whether to explain the colours.
        source: Where the data come from.
        ax: Where to draw; ``None`` makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: If shapes do not fit each other, or there are fewer than two places along an axis, or numbers are
            infinite, or labels are no classes.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> side = torch.linspace(-1, 1, 5)
        >>> ge.plots.cosine_map(side, side, side[:, None] * side, xlabel="first").get_xlabel()
        'first'
    """
    _check_plane(horizontal, vertical, cosine)
    classes = _classes(points, labels, label_names)
    figure, ax = _frame.axes(ax, (4.8, 4.0), source)
    across, up, table = (tensor.numpy(force=True) for tensor in (horizontal, vertical, cosine))
    ax.set_facecolor("#bbbbbb")
    mesh = ax.pcolormesh(across, up, table, cmap="RdBu_r", vmin=-1, vmax=1, shading="nearest", rasterized=True)
    if (table < 0).any() and (table > 0).any():
        ax.contour(across, up, table, levels=[0], colors="black", linewidths=0.8)
    if points is not None:
        for k in sorted(set(classes.tolist())):
            place = points[classes == k].numpy(force=True)
            name = str(k) if label_names is None else label_names[k]
            style = {"s": 22, "marker": _frame.MARKERS[k % 10], "edgecolor": "white", "linewidth": 0.5}
            ax.scatter(place[:, 0], place[:, 1], color=_frame.COLOURS[k % 10], label=name, **style)  # type: ignore[arg-type]
        if labels is not None:
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=4, frameon=False, fontsize=8)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_title(title, fontsize=10)
    if colorbar:
        figure.colorbar(mesh, ax=ax, label="cosine of gradients", shrink=0.85)
    return ax


def _check_plane(horizontal: Tensor, vertical: Tensor, cosine: Tensor) -> None:
    """Refuse axes that are no lists of places, and a table that does not fit them."""
    for name, places in (("horizontal", horizontal), ("vertical", vertical)):
        array = _arguments.numbers(name, places)
        if places.ndim != 1 or len(places) < 2:
            _validation.refuse(
                name, "hold at least two places, [a]", _validation.describe(places), "Pass one axis of the grid"
            )
        if (np.diff(array) == 0).any():
            _validation.refuse(
                name, "hold each place once", "the same place twice in a row", "Pass one axis of the grid"
            )
    _arguments.numbers("cosine", cosine, gaps=True)
    if cosine.shape != (len(vertical), len(horizontal)):
        rule = f"have shape [{len(vertical)}, {len(horizontal)}], one number for each place"
        _validation.refuse("cosine", rule, _validation.describe(cosine), "Reshape it")


def _classes(points: Tensor | None, labels: Tensor | None, label_names: Sequence[str] | None) -> Tensor:
    """Check points and their labels.

    Returns:
        The class of each point; 0 for all without labels.
    """
    if points is None:
        if labels is not None:
            _validation.refuse(
                "labels", "be None without `points`", _validation.describe(labels), "Pass the points too"
            )
        return torch.zeros(0, dtype=torch.int64)
    _arguments.numbers("points", points)
    if points.ndim != 2 or points.shape[1] != 2:
        _validation.refuse("points", "have shape [n, 2]", _validation.describe(points), "Project them onto the plane")
    if labels is None:
        return torch.zeros(len(points), dtype=torch.int64)
    _validation.check_targets(labels, len(points), "labels")
    if labels.ndim != 1 or labels.is_floating_point():
        _validation.refuse("labels", "be int64 classes, [n]", _validation.describe(labels), "Pass one class per point")
    if label_names is not None:
        _arguments.names("label_names", label_names)
    if label_names is not None and len(label_names) <= int(labels.max()):
        got, remedy = f"{len(label_names)} names", "Name them all"
        _validation.refuse("label_names", f"name each of {int(labels.max()) + 1} classes", got, remedy)
    return labels


def task_modules(
    result: TaskModules, *, title: str = "", axis_label: str = "output", source: str = "", ax: Axes | None = None
) -> Axes:
    """Draw how far every unit of a layer moves every output, units sorted by their module and then by selectivity.

    Args:
        result: What `gradembed.task_modules` returned.
        title: Above the table.
        axis_label: What a row stands for.
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
    _arguments.check_result(
        "result", result, TaskModules, "Pass what gradembed.task_modules returned", ("effects", "unit_modules")
    )
    figure, ax = _frame.axes(ax, (7.2, 2.4), source)
    modules, selectivity = result.unit_modules.numpy(), result.selectivity.numpy()
    last = np.where(modules < 0, result.n_modules, modules)
    columns = np.lexsort((-selectivity, last))
    rows = np.argsort(np.where(result.output_modules < 0, result.n_modules, result.output_modules), kind="stable")
    image = ax.imshow(result.effects.numpy()[np.ix_(rows, columns)], cmap="viridis", aspect="auto", vmin=0)
    ax.set_yticks(range(len(rows)), [result.unit_labels[i] for i in rows], fontsize=8)
    ax.set_xticks([])  # a column's place is not its unit's number
    edges = np.nonzero(np.diff(last[columns]))[0] + 0.5
    for edge in edges:
        ax.axvline(edge, color="white", linewidth=2)
    ax.set(xlabel=f"units of {result.layer}, by module, the most selective first", ylabel=axis_label)
    ax.set_title(title, fontsize=10)
    figure.colorbar(image, ax=ax, label="effect (sd per sd)")
    return ax
