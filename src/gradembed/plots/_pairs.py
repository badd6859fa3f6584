"""Figures of pairwise scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from gradembed import _checks
from gradembed.plots import _frame

if TYPE_CHECKING:
    from matplotlib.image import AxesImage

    from gradembed.interference import Interference


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
        measure: "cosine" (diverging colours from -1 to 1), "abs_cosine" or "conflict" (0 to 1).
        title: Above the matrix.
        axis_label: What a row and a column stand for.
        colorbar: Whether to explain the colours.
        source: Where the data come from.
        ax: Where to draw; ``None`` makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: If the matrix is not square, labels do not fit it, or the measure is unknown.

    Example:
        >>> import torch, gradembed as ge
        >>> ge.plots.similarity_matrix(torch.eye(3), title="nothing shared").get_title()
        'nothing shared'
    """
    _checks.check_choice("measure", measure, _frame.MEASURES)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) == 0:
        _checks.refuse(
            "matrix", "be square, [u, u], and not empty", _checks.describe(matrix), "Pass one layer's matrix"
        )
    names = list(map(str, range(len(matrix)))) if labels is None else list(labels)
    if len(names) != len(matrix):
        _checks.refuse("labels", f"name each of {len(matrix)} units", len(names), "Name them all")
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

    Args:
        result: What `gradembed.interference` returned.
        measure: "cosine", "abs_cosine" or "conflict".
        layers: Which layers; ``None`` for all.
        title: Above all of them.
        axis_label: What a row and a column stand for.
        source: Where the data come from.
        axes: Where to draw, one for each layer; ``None`` makes a figure.

    Returns:
        The Axes, one per layer.

    Raises:
        ValueError: If a layer or the measure is unknown, or there are too few Axes.

    Example:
        >>> import torch, gradembed as ge
        >>> result = ge.interference(ge.MLP([4, 8, 3], seed=0), torch.randn(9, 4))
        >>> len(ge.plots.interference(result))
        2
    """
    _checks.check_choice("measure", measure, _frame.MEASURES)
    chosen = (
        list(result.layers) if layers is None else _checks.check_sequence("layers", layers, "a list of layer names")
    )
    for layer in chosen:
        _checks.check_layer("layers", layer, result.layers)
    figure, panels = _frame.panels(axes, len(chosen), 3.6, source)
    for ax, layer in zip(panels, chosen, strict=True):
        image = _heat(ax, getattr(result, measure)[layer], list(result.unit_labels), measure)
        ax.set(title=layer, xlabel=axis_label)
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
            seeds) are drawn as a line of their means with a band from least to greatest.
        measure: "conflict", "cosine" or "abs_cosine".
        title: Above the plot.
        source: Where the data come from.
        ax: Where to draw; ``None`` makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: If there are no results, or they do not have the same layers, or the measure is unknown.

    Example:
        >>> import torch, gradembed as ge
        >>> result = ge.interference(ge.MLP([4, 8, 3], seed=0), torch.randn(9, 4))
        >>> ge.plots.conflict_by_layer({"untrained": result}).get_xlabel()
        'layer'
    """
    _checks.check_choice("measure", measure, _frame.MEASURES)
    named = results if isinstance(results, Mapping) else {"": results}
    groups = {name: list(group) if isinstance(group, Sequence) else [group] for name, group in named.items()}
    if not groups or not all(groups.values()):
        _checks.refuse("results", "hold at least one result for each name", groups, "Pass what interference returned")
    layers = next(iter(groups.values()))[0].layers
    if any(result.layers != layers for group in groups.values() for result in group):
        _checks.refuse("results", "have the same layers", "different ones", "Call interference with the same `layers`")
    _, ax = _frame.axes(ax, (6.4, 3.6), source)
    for colour, (name, group) in zip(_frame.COLOURS * len(groups), groups.items(), strict=False):
        lines = np.array([[_pair_mean(result, measure, layer) for layer in layers] for result in group])
        label = f"{name} ({len(group)} networks)" if len(group) > 1 else name
        ax.plot(layers, lines.mean(0), "o-", color=colour, label=label)
        ax.fill_between(range(len(layers)), lines.min(0), lines.max(0), color=colour, alpha=0.2, linewidth=0)
    ax.set_title(title, fontsize=10)
    ax.set(xlabel="layer", ylabel=f"{_frame.MEASURES[measure][0]},\nmean over pairs")
    ax.margins(x=0.1)
    ax.grid(axis="y", alpha=0.3)
    if any(groups):
        ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    return ax


def _pair_mean(result: Interference, measure: str, layer: str) -> float:
    """Mean of a measure over the pairs of different units that have it.

    Returns:
        The mean, or 0 where no pair has it.
    """
    frame = result.to_frame()
    rows = frame[(frame["layer"] == layer) & (frame["n_pairs"] > 0)]
    return float(rows[measure].mean()) if len(rows) else 0.0


def _heat(ax: Axes, matrix: Tensor, names: Sequence[str], measure: str) -> AxesImage:
    """Draw a matrix with its numbers, if there are at most twelve rows.

    Returns:
        The image, for a colour bar.
    """
    table = matrix.numpy(force=True)
    _, colours, low = _frame.MEASURES[measure]
    image = ax.imshow(table, cmap=colours, vmin=low, vmax=1)
    _frame.ticks(ax, names)
    if len(names) <= 12:
        for (i, j), number in np.ndenumerate(table):
            red, green, blue, _ = image.cmap(image.norm(number))
            dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
            text = f"{number:.1f}".replace("-0.0", "0.0").replace("0.", ".").replace("-.0", ".0")
            ax.text(j, i, text, ha="center", va="center", fontsize=6.5, color="white" if dark else "black")
    return image
