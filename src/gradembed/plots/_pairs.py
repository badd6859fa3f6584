"""Figures of pairwise scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from gradembed import _validation
from gradembed.interference import Interference
from gradembed.plots import _arguments, _frame

if TYPE_CHECKING:
    from matplotlib.image import AxesImage

REMEDY = "Pass what gradembed.interference returned"


def similarity_matrix(
    matrix: Tensor,
    labels: Sequence[str] | None = None,
    *,
    measure: str = "cosine",
    title: str = "",
    axis_label: str = "unit",
    colorbar: bool = True,
    source: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw one square matrix of pairwise scores, with the numbers where there is room.

    Args:
        matrix: [u, u].
        labels: One per unit; ``None`` numbers them.
        measure: "cosine" (diverging colours from -1 to 1), "abs_cosine", "conflict" or "norm_similarity" (0 to 1).
        title: Above the matrix.
        axis_label: What a row and a column stand for.
        colorbar: Whether to explain the colours.
        source: Where the data come from.
        ax: Where to draw; ``None`` makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: If the matrix is not square or finite, labels do not fit it, or the measure is unknown.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> ge.plots.similarity_matrix(torch.eye(3), title="nothing shared").get_title()
        'nothing shared'
    """
    _validation.check_choice("measure", measure, _frame.MEASURES)
    _arguments.numbers("matrix", matrix, gaps=True)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) == 0:
        _validation.refuse(
            "matrix", "be square, [u, u], and not empty", _validation.describe(matrix), "Pass one layer's matrix"
        )
    names = _arguments.names("labels", map(str, range(len(matrix))) if labels is None else labels, len(matrix))
    figure, ax = _frame.axes(ax, (4.6, 4.0), source)
    image = _heat(ax, matrix, names, measure)
    ax.set_title(title, fontsize=10)
    ax.set(xlabel=axis_label, ylabel=axis_label)
    if colorbar:
        figure.colorbar(image, ax=ax, label=_frame.MEASURES[measure][0], shrink=0.85)
    return ax


def interference(
    result: Interference,
    *,
    measure: str = "cosine",
    layers: Sequence[str] | None = None,
    title: str = "",
    axis_label: str = "class",
    source: str = "",
    axes: Sequence[Axes] | None = None,
) -> list[Axes]:
    """Draw the matrices of several layers side by side, with one colour scale.

    A dot marks pairs whose bootstrap interval holds 0 (cosine) or one half (conflict). Titles of |cosine| name its
    mean, the level of chance and the untrained control, as far as the result has them.

    Args:
        result: What `gradembed.interference` returned.
        measure: "cosine", "abs_cosine", "conflict" or "norm_similarity".
        layers: Which layers; ``None`` for all.
        title: Above all of them.
        axis_label: What a row and a column stand for.
        source: Where the data come from.
        axes: Where to draw, one for each layer; ``None`` makes a figure.

    Returns:
        The Axes, one per layer.

    Raises:
        ValueError: If a layer or the measure is unknown, or there are too few Axes.
        TypeError: If ``result`` is none.

    Example:
        >>> import torch, gradembed as ge
        >>> result = ge.interference(ge.MLP([4, 8, 3], seed=0), torch.randn(9, 4))
        >>> len(ge.plots.interference(result))
        2
    """
    _arguments.check_result("result", result, Interference, REMEDY)
    _validation.check_choice("measure", measure, _frame.MEASURES)
    chosen = (
        list(result.layers) if layers is None else _validation.check_sequence("layers", layers, "a list of layer names")
    )
    for layer in chosen:
        _validation.check_layer("layers", layer, result.layers)
    figure, panels = _frame.panels(axes, len(chosen), 3.6, source)
    for ax, layer in zip(panels, chosen, strict=True):
        image = _heat(ax, getattr(result, measure)[layer], list(result.unit_labels), measure)
        ax.set_title(_panel_title(result, measure, layer), fontsize=10)
        ax.set(xlabel=axis_label)
        _dot_uncertain(ax, result, measure, layer)
    panels[0].set_ylabel(axis_label)
    figure.colorbar(image, ax=panels, label=_frame.MEASURES[measure][0], shrink=0.85)
    if title:
        figure.suptitle(title, fontsize=11)
    return panels


def conflict_by_layer(
    results: Mapping[str, Interference | Sequence[Interference]] | Interference,
    *,
    measure: str = "conflict",
    title: str = "",
    source: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a measure's mean over all pairs of units, layer by layer, for one or more groups of networks.

    Args:
        results: One result, or results under a name for the legend; several under one name (say, of different
            seeds) are drawn as a line of their means with a band from least to greatest, a single one with its
            bootstrap interval, if it has one. Dashed: its untrained control, if it has one. Dotted, for |cosine|: what
            independent directions in the gradients' effective dimension would have.
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
    _validation.check_choice("measure", measure, _frame.MEASURES)
    named = results if isinstance(results, Mapping) else {"": results}
    groups = {name: _arguments.several(group) for name, group in named.items()}
    for result in (result for group in groups.values() for result in group):
        _arguments.check_result("results", result, Interference, REMEDY)
    if not groups or not all(groups.values()):
        _validation.refuse(
            "results", "hold at least one result for each name", groups, "Pass what interference returned"
        )
    layers = next(iter(groups.values()))[0].layers
    if any(result.layers != layers for group in groups.values() for result in group):
        _validation.refuse(
            "results", "have the same layers", "different ones", "Call interference with the same `layers`"
        )
    _, ax = _frame.axes(ax, (6.4, 3.6), source)
    for colour, (name, group) in zip(_frame.COLOURS * len(groups), groups.items(), strict=False):
        _draw_group(ax, name, group, measure, colour)
        _draw_baselines(ax, group, measure, colour)
    ax.set_title(title, fontsize=10)
    ax.set(xlabel="layer", ylabel=f"{_frame.MEASURES[measure][0]},\nmean over pairs")
    ax.margins(x=0.1)
    ax.grid(axis="y", alpha=0.3)
    if any(groups) or len(ax.lines) > 1:
        ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    return ax


def _draw_group(ax: Axes, name: str, group: Sequence[Interference], measure: str, colour: str) -> None:
    """Draw one group: its mean, and how sure it is (over networks, or over samples of a single one)."""
    layers = group[0].layers
    lines = np.array([[result.pair_mean(measure, layer) for layer in layers] for result in group])
    ax.plot(
        layers, lines.mean(0), "o-", color=colour, label=f"{name} ({len(group)} networks)" if len(group) > 1 else name
    )
    low, high = lines.min(0), lines.max(0)
    if len(group) == 1 and measure in group[0].summary_intervals:
        ends = group[0].summary_intervals[measure]
        low, high = np.array([ends[layer] for layer in layers]).T
        # where all samples agree, rounding may put the mean outside of its interval
        sides = np.maximum([lines[0] - low, high - lines[0]], 0)
        ax.errorbar(layers, lines[0], sides, fmt="none", color=colour, capsize=4)
    ax.fill_between(range(len(layers)), low, high, color=colour, alpha=0.2, linewidth=0)


def _draw_baselines(ax: Axes, group: Sequence[Interference], measure: str, colour: str) -> None:
    """Draw what stands beside a group: its untrained control (dashed) and the level of chance (dotted)."""
    layers = group[0].layers
    copies = [control for result in group for control in result.untrained]
    if copies:
        values = [np.mean([control.pair_mean(measure, layer) for control in copies]) for layer in layers]
        ax.plot(layers, values, "s--", color=colour, alpha=0.6, label=f"the same untrained ({len(copies)})")
    if measure == "abs_cosine":
        values = [np.mean([result.chance[layer] for result in group]) for layer in layers]
        ax.plot(layers, values, ":", color=colour, alpha=0.8, label="chance at its effective dimension")


def _panel_title(result: Interference, measure: str, layer: str) -> str:
    """Name the layer and, for |cosine|, what its numbers are to be held against.

    Returns:
        One or two lines.
    """
    if measure != "abs_cosine":
        return layer
    control = [copy.pair_mean(measure, layer) for copy in result.untrained]
    beside = f", untrained {np.mean(control):.2f}" if control else ""
    return f"{layer}\nmean {result.pair_mean(measure, layer):.2f}, chance {result.chance[layer]:.2f}{beside}"


def _dot_uncertain(ax: Axes, result: Interference, measure: str, layer: str) -> None:
    """Put a dot into each pair whose bootstrap interval holds the value of no preference (0, or half in conflict)."""
    neutral = {"cosine": 0.0, "conflict": 0.5}.get(measure)
    if neutral is None or measure not in result.intervals:
        return
    low, high = result.intervals[measure][layer].numpy()
    rows, columns = np.nonzero((low <= neutral) & (neutral <= high))
    ax.scatter(columns + 0.36, rows - 0.36, s=3, color="black", linewidths=0)


def _heat(ax: Axes, matrix: Tensor, names: Sequence[str], measure: str) -> AxesImage:
    """Draw a matrix with its numbers, if there are at most twelve rows.

    Returns:
        The image, for a colour bar.
    """
    table = _arguments.numbers("matrix", matrix, gaps=True)
    _, colours, low = _frame.MEASURES[measure]
    image = ax.imshow(table, cmap=colours, vmin=low, vmax=1)
    _frame.ticks(ax, names)
    if len(names) <= 12:
        for (i, j), number in np.ndenumerate(table):
            text = f"{number:.1f}".replace("-0.0", "0.0").replace("0.", ".").replace("-.0", ".0")
            ax.text(
                j,
                i,
                text,
                ha="center",
                va="center",
                fontsize=6.5,
                color=_frame.ink(image.cmap(image.norm(number))),
            )
    return image
