"""The figure of a course of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from gradembed._validation import as_list, as_number, check_choice, describe, refuse
from gradembed.monitor import InterferenceMonitor, TrainingCourse
from gradembed.plots import _frame

MEASURES = ("cosine", "abs_cosine", "conflict")
SMALL = 0.015  # a range that is not worth the whole scale of colors
MOST_MAPS = 20  # in a figure


def course(
    result: TrainingCourse | InterferenceMonitor, *, measure: str = "cosine",
    pairs: Sequence[tuple[str, str]] | None = None, limit: float | None = None, title: str = "", source: str = "",
    axes: Sequence[Axes] | None = None,
) -> list[Axes]:  # fmt: skip
    """Draw a map of layers and steps of training for each pair of tasks, all with one color scale.

    A dot marks what chance gives too: a cosine of 0, a conflict of one half, or the |cosine| of random read-outs lies
    within 1.96 standard errors over the probe's samples. Gray: no gradients.

    Args:
        result: What `gradembed.training_course` returned, or a monitor.
        measure: "cosine", "abs_cosine" or "conflict".
        pairs: Which, at most 20; ``None`` for all.
        limit: Where the colors end; beyond, they do not change. ``None`` for the largest number drawn.
        title: Above all of them.
        source: Where the data come from.
        axes: Where to draw, one for each pair; ``None`` makes a figure.

    Returns:
        The Axes, one per pair.

    Raises:
        ValueError: If nothing was measured, the measure or a pair is unknown, or there are too many pairs for a figure.
        TypeError: If ``result`` is none.

    Example:
        >>> import torch, gradembed as ge
        >>> network = ge.MLP([4, 8, 3], seed=0)
        >>> seen = ge.training_course(network, [network.state_dict()], torch.randn(50, 4))
        >>> [ax.get_title() for ax in ge.plots.course(seen, pairs=[("0", "2")])]
        ['0 and 2']
    """
    check_choice("measure", measure, MEASURES)
    seen: Any = getattr(result, "course", result)
    _frame.check_result("result", seen, "TrainingCourse", "training_course", "steps", "pairs", "errors")
    if not len(seen.steps):
        refuse("result", "hold at least one measurement", "none", "Train for some steps first")
    chosen = [*seen.pairs] if pairs is None else as_list("pairs", pairs, "a list of pairs of tasks")
    for i, pair in enumerate(chosen):
        chosen[i] = tuple(_frame.pair("pairs", pair, "tasks"))
        if chosen[i] not in seen.pairs:
            refuse("pairs", f"be some of those measured, such as {seen.pairs[0]}", describe(pair), "Choose of them")
    if len(chosen) > MOST_MAPS:
        refuse("pairs", f"be at most {MOST_MAPS}", len(chosen), "Choose some")
    places = [seen.pairs.index(pair) for pair in chosen]
    values = getattr(seen, measure).numpy()[:, :, places].T  # [p, l, s]
    values = np.where(seen.count.numpy()[:, :, places].T > 0, values, np.nan)
    errors = seen.errors[MEASURES.index(measure)].numpy()[:, :, places].T
    neutral: Any = {"cosine": 0.0, "conflict": 0.5, "abs_cosine": np.nan}[measure]
    neutral = seen.chance.numpy().T if measure == "abs_cosine" and seen.chance is not None else neutral
    words, colors, low = _frame.MEASURES[measure]
    most = float(np.nan_to_num(np.abs(values)).max())
    end = as_number("limit", limit, 0, 1, open_low=True) if limit is not None else most if most > SMALL else 1.0
    rows = -(-len(chosen) // 4)
    columns = -(-len(chosen) // rows)
    size = 1.2 + 2.6 * columns, 0.9 + rows * (0.8 + 0.28 * len(seen.layers))
    if axes is None:
        axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")[1].ravel().tolist()
        for spare in axes[len(chosen) :]:
            spare.remove()
        axes = axes[: len(chosen)]
    panels = _frame.panels("axes", axes, size, source, (len(chosen),), title)
    cmap, s = plt.get_cmap(colors).with_extremes(bad=_frame.GRAY), len(seen.steps)
    ticks = range(0, s, -(-s // 5))
    for k, (ax, pair) in enumerate(zip(panels, chosen, strict=True)):
        cells = np.ma.masked_invalid(values[k])
        style: Any = {"aspect": "auto", "origin": "lower", "interpolation": "nearest"}
        image = ax.imshow(cells, cmap=cmap, vmin=low * end, vmax=end, **style)
        _frame.grid(ax, (range(len(seen.layers)), seen.layers), (ticks, [f"{int(seen.steps[i]):,}" for i in ticks]))
        down, across = np.nonzero(np.abs(values[k] - neutral) <= 1.96 * errors[k])
        ax.scatter(across, down, s=3, color="black", linewidths=0)
        _frame.label(ax, " and ".join(pair), "step" if k >= len(chosen) - columns else "")
    _frame.bar(image, panels, words)
    return panels
