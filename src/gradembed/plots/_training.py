"""Figures of training runs and their mistakes."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from gradembed import _validation
from gradembed.plots import _arguments, _frame
from gradembed.training import TrainingRun


def history(
    runs: TrainingRun | Sequence[TrainingRun],
    *,
    title: str = "",
    source: str = "",
    axes: Sequence[Axes] | None = None,
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
    listed = _arguments.several(runs)
    for run in listed:
        _arguments.check_result(
            "runs", run, TrainingRun, "Pass what gradembed.train returned", ("history", "test_accuracy")
        )
    if not listed:
        _validation.refuse("runs", "hold at least one run", "none", "Pass what train returned")
    score = "accuracy" if listed[0].test_accuracy is not None else "r2"
    _, panels = _frame.panels(axes, 2, 4.0, source)
    for ax, quantity in zip(panels, ("loss", score), strict=True):
        for part, style, colour in (("train", "--", _frame.COLOURS[1]), ("test", "-", _frame.COLOURS[0])):
            for i, run in enumerate(listed):
                ax.plot(
                    run.history["epoch"],
                    run.history[f"{part}_{quantity}"],
                    style,
                    color=colour,
                    label=part if i == 0 else None,
                    alpha=0.8,
                    marker="o" if len(run.history) == 1 else None,
                    linewidth=1.4,
                )
        ax.set(xlabel="epoch", ylabel="R²" if quantity == "r2" else quantity)
        ax.grid(alpha=0.3)
    panels[0].set_yscale("log")
    panels[1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    if title:
        panels[0].figure.suptitle(title, fontsize=11)
    return panels


def confusion(
    counts: Tensor | np.ndarray,
    labels: Sequence[str] | None = None,
    *,
    title: str = "",
    source: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a confusion matrix: numbers are counts, colours the mistakes (the diagonal is left grey).

    Args:
        counts: Samples of class i (row) predicted as j (column), [t, t].
        labels: One per class; ``None`` numbers them.
        title: Above the matrix.
        source: Where the data come from.
        ax: Where to draw; ``None`` makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: If the matrix is not square, counts are negative or not finite, or labels do not fit it.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> ge.plots.confusion(torch.tensor([[9, 1], [0, 7]])).get_xlabel()
        'predicted class'
    """
    table = _arguments.numbers("counts", torch.from_numpy(counts) if isinstance(counts, np.ndarray) else counts)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or len(table) == 0:
        _validation.refuse(
            "counts", "be square, [t, t], and not empty", f"shape {list(table.shape)}", "Pass a confusion matrix"
        )
    if table.min() < 0:
        _validation.refuse("counts", "be counts", table.min(), "Pass a confusion matrix")
    named = map(str, range(len(table))) if labels is None else labels
    names = _arguments.names("labels", named, len(table), "classes")
    figure, ax = _frame.axes(ax, (5.2, 4.4), source)
    mistakes = np.ma.masked_where(np.eye(len(table), dtype=bool), table)
    colours = plt.get_cmap("cividis").with_extremes(bad="#d9d9d9")
    top = max(1, int(mistakes.filled(0).max()))
    image = ax.imshow(mistakes, cmap=colours, vmin=0, vmax=top)
    _frame.ticks(ax, names)
    for (i, j), number in np.ndenumerate(table):
        dark = i != j and number < 0.5 * top
        ax.text(j, i, f"{int(number)}", ha="center", va="center", fontsize=7, color="white" if dark else "black")
    ax.set_title(title, fontsize=10)
    ax.set(xlabel="predicted class", ylabel="true class")
    figure.colorbar(image, ax=ax, label="mistakes (images)", shrink=0.85)
    return ax
