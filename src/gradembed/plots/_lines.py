"""Figures along one or two axes: training, layers, sweeps, fields of one input, cosines over a plane."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from gradembed._validation import as_number, as_positions, check_choice, check_kind, describe, refuse
from gradembed.fields import GradientFields
from gradembed.interference import Interference
from gradembed.plots import _frame
from gradembed.plots._frame import Numbers
from gradembed.training import TrainingRun

DASHES = ("-", "--", ":", "-.")


def history(
    runs: TrainingRun | Sequence[TrainingRun], *, title: str = "", source: str = "", axes: Sequence[Axes] | None = None
) -> list[Axes]:
    """Draw loss and score of the training and test part, epoch by epoch.

    Args:
        runs: One run, or several of the same settings: a line for each seed.
        title: Above both panels.
        source: Where the data come from.
        axes: Two of them; ``None`` makes a figure.

    Returns:
        The Axes of loss and score.

    Raises:
        ValueError: If there is no run, or not two Axes.
        TypeError: If one of them is none.

    Example:
        >>> import gradembed as ge
        >>> run = ge.train(ge.MLP([4, 3], seed=0), ge.datasets.load_iris(), ge.TrainConfig(epochs=2, progress=False))
        >>> [ax.get_ylabel() for ax in ge.plots.history(run)]
        ['loss', 'accuracy']
    """
    listed = _frame.several(runs)
    for run in listed:
        _frame.check_result("runs", run, "TrainingRun", "train", "history", "test_accuracy")
    if not listed:
        refuse("runs", "hold at least one run", "none", "Pass what train returned")
    score = "accuracy" if listed[0].test_accuracy is not None else "r2"
    panels = _frame.panels("axes", axes, (9.0, 4.0), source, (1, 2), title)
    for ax, quantity in zip(panels, ("loss", score), strict=True):
        for part, style, color in (("train", "--", _frame.COLORS[1]), ("test", "-", _frame.COLORS[0])):
            for i, run in enumerate(listed):
                x, y = run.history["epoch"], run.history[f"{part}_{quantity}"]
                marker, name = "o" if len(x) == 1 else None, part if i == 0 else None
                ax.plot(x, y, style, color=color, label=name, alpha=0.8, marker=marker, linewidth=1.4)
        ax.set(xlabel="epoch", ylabel="R²" if quantity == "r2" else quantity)
        ax.grid(alpha=0.3)
    panels[0].set_yscale("log")
    _frame.legend(panels[1])
    return panels


def conflict_by_layer(
    results: Mapping[str, Interference | Sequence[Interference]] | Interference | Sequence[Interference], *,
    measure: str = "conflict", title: str = "", source: str = "", ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Draw a measure's mean over all pairs of units, layer by layer, for one or more groups of networks.

    Args:
        results: One result, or results under a name for the legend; several under one name (say, of different
            seeds) are drawn as a line of their means with a band from least to greatest, a single one with its
            bootstrap interval, if it has one. Dashed: its untrained control, if it has one. Dotted, for |cosine|: its
            level of chance, with a pale band where the mean over as many random read-outs lies (see
            `gradembed.Interference.excess`).
        measure: "conflict", "cosine", "abs_cosine" or "norm_similarity".
        title: Above the plot.
        source: Where the data come from.
        ax: Where to draw; ``None`` makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: If there are no results, or they do not have the same layers, or the measure is unknown.
        TypeError: If one of them is none.

    Example:
        >>> import torch, gradembed as ge
        >>> result = ge.interference(ge.MLP([4, 8, 3], seed=0), torch.randn(9, 4))
        >>> ge.plots.conflict_by_layer({"untrained": result}).get_xlabel()
        'layer'
    """
    check_choice("measure", measure, _frame.MEASURES)
    named = results if isinstance(results, Mapping) else {"": results}
    groups = {name: _frame.several(group) for name, group in named.items()}
    for result in (result for group in groups.values() for result in group):
        _frame.check_result("results", result, "Interference", "interference", "pair_mean", "unit_labels")
    if not groups or not all(groups.values()):
        refuse("results", "hold at least one result for each name", groups, "Pass what interference returned")
    layers = next(iter(groups.values()))[0].layers
    if any(result.layers != layers for group in groups.values() for result in group):
        refuse("results", "have the same layers", "different ones", "Call interference with the same `layers`")
    (ax,) = _frame.panels("ax", ax, (6.4, 3.6), source)
    for i, (name, group) in enumerate(groups.items()):
        _draw_group(ax, name, group, measure, _frame.COLORS[i % 10])
    u = len(next(iter(groups.values()))[0].unit_labels)
    if measure == "cosine" and u > 1:  # of u equally distant directions that sum to zero
        level, last = -1 / (u - 1), len(layers) - 1
        ax.plot([last - 0.3, last + 0.1], [level, level], "-.", color="#777777", label=f"simplex of {u}: −1/{u - 1}")
    _frame.label(ax, title, "layer", f"{_frame.MEASURES[measure][0]},\nmean over pairs")
    ax.yaxis.label.set_fontsize(9)  # so that the longest fits
    ax.margins(x=0.1)
    ax.grid(axis="y", alpha=0.3)
    if any(groups) or len(ax.lines) > 1:
        _frame.legend(ax)
    return ax


def _draw_group(ax: Axes, name: str, group: Sequence[Interference], measure: str, color: str) -> None:
    """Draw a group's mean and how sure it is (over networks, or samples of a single one), its control and chance."""
    layers = group[0].layers
    lines = np.array([[result.pair_mean(measure, layer) for layer in layers] for result in group])
    low, high = lines.min(0), lines.max(0)
    many = f"{len(group)} networks, band: their range"
    words = (f"{name} ({many})" if name else many) if len(group) > 1 else name or "measured"
    ax.plot(layers, lines.mean(0), "o-", color=color, label=words)
    if len(group) == 1 and measure in group[0].summary_intervals:
        ends = group[0].summary_intervals[measure]
        low, high = np.array([ends[layer] for layer in layers]).T
        # where all samples agree, rounding may put the mean outside of its interval
        sides = np.maximum([lines[0] - low, high - lines[0]], 0)
        ax.errorbar(layers, lines[0], sides, fmt="none", color=color, capsize=4)
    ax.fill_between(range(len(layers)), low, high, color=color, alpha=0.2, linewidth=0)
    before = f"{name}: " if name else ""
    copies = [control for result in group for control in result.untrained]
    if copies:
        values = [np.mean([control.pair_mean(measure, layer) for control in copies]) for layer in layers]
        ax.plot(layers, values, "s--", color=color, alpha=0.6, label=f"{before}the same untrained ({len(copies)})")
    if measure == "abs_cosine" and all(result.chance for result in group):
        values = [np.mean([result.chance[layer] for result in group]) for layer in layers]
        ax.plot(layers, values, ":", color=color, alpha=0.8, label=f"{before}chance")
        if len(group[0].unit_labels) > 1:  # where the mean over as many random read-outs lies
            ends = np.mean([[result.excess(layer)[1:] for layer in layers] for result in group], axis=0)  # [layers, 2]
            level = lines.mean(0)
            ax.fill_between(range(len(layers)), level - ends[:, 1], level - ends[:, 0], color=color, alpha=0.08)


def curves(
    table: pd.DataFrame, x: str, y: str, by: str | None = None, *, band: tuple[str, str] | None = None,
    levels: Mapping[str, float] | None = None, xlabel: str = "", ylabel: str = "", title: str = "", log_x: bool = False,
    source: str = "", ax: Axes | None = None,
) -> Axes:  # fmt: skip
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
    ends = [] if band is None else _frame.pair("band", band, "columns")
    levels = {} if levels is None else levels
    check_kind("levels", levels, Mapping, "Pass {'chance': 0.1}")
    for words, level in levels.items():
        as_number(f"levels[{words!r}]", level, -math.inf)
    _frame.check_table(table, [x, *([] if by is None else [by])], [y, *ends, *([x] if log_x else [])])
    if log_x and not (table[x] > 0).all():
        refuse("log_x", "be False unless all x are above 0", f"{table[x].min():g}", "Drop it")
    (ax,) = _frame.panels("ax", ax, (6.4, 3.6), source)
    for i, (name, group) in enumerate([("", table)] if by is None else table.groupby(by, sort=False)):
        color, dash = _frame.COLORS[i % 10], DASHES[i // 10 % 4]
        ax.plot(group[x], group[y], marker="o", markersize=4, label=str(name), color=color, linestyle=dash)
        if ends:
            low, high = (group[end].to_numpy(float) for end in ends)
            ax.fill_between(group[x], low, high, color=color, alpha=0.15, linewidth=0)
    for i, (words, level) in enumerate(levels.items()):
        ax.axhline(level, color="#555555", linewidth=1, linestyle=DASHES[1 + i % 3], label=words)
    if log_x:
        ticks = sorted(table[x].unique())
        ax.set_xscale("log")
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        ax.minorticks_off()
    ax.grid(axis="y", alpha=0.3)
    if by is not None or levels:
        _frame.legend(ax)
    return _frame.label(ax, title, xlabel or x, ylabel or y)


def field_1d(
    fields: GradientFields, units: Sequence[int] | None = None, *, predicted: Numbers | None = None,
    masked: Numbers | None = None, values: bool = False, title: str = "", source: str = "", ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Draw the gradients of units of one input as curves, colored by label, with a model's predictions if given.

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
    _frame.check_result("fields", fields, "GradientFields", "gradient_fields", "gradients", "own_points")
    if fields.dim != 1:
        refuse("fields", "have one dimension", f"{fields.dim}", "Use field_2d, or choose a dimension")
    if values and fields.values is None:
        refuse("values", "be False for fields without values", values, "Draw the gradients")
    if values and predicted is not None:
        refuse("values", "be False with `predicted`", values, "Predictions are gradients: draw those")
    if masked is not None and predicted is None:
        refuse("masked", "be None without `predicted`", describe(masked), "Pass the predictions too")
    u, m = fields.gradients.shape[:2]
    crosses = None if predicted is None else _frame.numbers("predicted", predicted, "u m d", u=u, m=m, d=1)[..., 0]
    here = np.ones((u, m), dtype=bool) if masked is None else _frame.numbers("masked", masked, "u m", u=u, m=m)
    if here.dtype != bool:
        refuse("masked", "be a mask, True or False", describe(masked), "Take it as field_mask returns it")
    chosen = range(u) if units is None else as_positions("units", units, u, "units of the fields")
    (ax,) = _frame.panels("ax", ax, (6.4, 3.4), source)
    table = fields.values if values and fields.values is not None else fields.gradients[..., 0]
    lines, points = table.numpy(force=True), fields.own_points()[..., 0].numpy(force=True)
    labels = range(u) if fields.labels is None else fields.labels.tolist()
    names = {labels[unit]: f"function {labels[unit]}" for unit in chosen}  # each stands in the legend once
    for unit in chosen:
        color, name = _frame.COLORS[labels[unit] % 10], names.pop(labels[unit], None)
        order = points[unit].argsort()
        ax.plot(points[unit][order], lines[unit][order], color=color, linewidth=1, alpha=0.8, label=name)
        if crosses is not None:
            ax.plot(points[unit][here[unit]], crosses[unit][here[unit]], "x", color=color, markersize=4)
    ax.grid(alpha=0.3)
    if fields.labels is not None:
        _frame.legend(ax)
    return _frame.label(ax, title, "x", "value f(x)" if values else "gradient df/dx")


def cosine_map(
    horizontal: Numbers, vertical: Numbers, cosine: Numbers, *, points: Numbers | None = None,
    labels: Numbers | None = None, label_names: Sequence[str] | None = None, xlabel: str = "", ylabel: str = "",
    title: str = "", colorbar: bool = True, source: str = "", ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Draw the cosine of two units' gradients over a plane of the input space: red where they agree.

    Args:
        horizontal: Places along the plane's first axis, [a].
        vertical: Along its second, [b].
        cosine: At every place, [b, a]; NaN (no gradient) is left gray. The line is where it changes sign.
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
    (ax,) = _frame.panels("ax", ax, (4.8, 4.0), source)
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
