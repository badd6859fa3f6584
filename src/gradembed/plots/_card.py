"""A figure of one unit."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine

from gradembed.cards import UnitCard
from gradembed.plots import _arguments, _frame
from gradembed.plots._fields import draw_arrows

WIDTHS = (1.25, 0.8, 1.0, 1.0)
MOST_ARROWS = 300
MOST_BARS = 10
LINE, BROKEN = 24, 20  # characters of a unit's name that stay in one line; in each of two, if it is longer


def unit_card(card: UnitCard, *, title: str = "", source: str = "", axes: Sequence[Axes] | None = None) -> list[Axes]:
    """Draw one unit in a row of four panels: its field, its spectrum, its aligned units and its twins.

    The field is drawn in the two directions in which the gradients are largest, its highest values ringed; of more
    than 300 points, evenly spaced ones in their order, and the highest. The aligned units' bars are mean cosines, red
    where both units want the same; the twins' bars are distances in the embedding, with a dashed line at that of the
    median candidate.

    Args:
        card: What `gradembed.unit_card` returned.
        title: Above all panels; the unit's name if it is empty.
        source: Where the data come from.
        axes: Where to draw, four of one figure; ``None`` makes a figure. Given ones get the title above the first.

    Returns:
        The Axes of the four panels.

    Raises:
        ValueError: If there are not four Axes.
        TypeError: If ``card`` is none.

    Example:
        >>> import torch, gradembed as ge
        >>> fields = ge.gradient_fields(ge.MLPEnsemble([4, 8, 3], n_members=5, seed=0), torch.randn(100, 4))
        >>> card = ge.unit_card(fields, 4, torch.randn(15, 2))
        >>> [ax.get_title() for ax in ge.plots.unit_card(card)]  # doctest: +ELLIPSIS
        ['field (ringed: highest values)', 'effective dimension ...', 'interference', 'functional twins']
    """
    _arguments.check_result("card", card, UnitCard, "Pass what gradembed.unit_card returned")
    heading = title or card.name
    if axes is None:
        layout = ConstrainedLayoutEngine(w_pad=0.1)
        figure, grid = plt.subplots(1, 4, figsize=(13.5, 3.4), width_ratios=WIDTHS, layout=layout)
        panels = list(grid)
        figure.suptitle(heading, fontsize=11)
        _frame.sign(figure, source)
    else:
        figure, panels = _frame.panels(axes, 4, 3.4, source)
    _field(panels[0], card)
    _spectrum(panels[1], card)
    _aligned(panels[2], card)
    _twins(panels[3], card)
    if axes is not None:
        panels[0].set_title(heading, fontsize=10)
    return panels


def _field(ax: Axes, card: UnitCard) -> None:
    """Draw arrows, and rings around the highest values."""
    m = len(card.values)
    shown = sorted({*range(0, m, -(-m // MOST_ARROWS)), *card.top.tolist()})
    draw_arrows(ax.figure, ax, card.points[shown], card.gradients[shown], card.values[shown])
    place = card.points[card.top].numpy(force=True)
    ax.scatter(place[:, 0], place[:, 1], s=60, facecolor="none", edgecolor=_frame.COLOURS[1], linewidth=1.0)
    ax.set(xlabel="1st gradient direction", ylabel="2nd gradient direction")
    ax.set_title("field (ringed: highest values)", fontsize=10)


def _spectrum(ax: Axes, card: UnitCard) -> None:
    """Draw the leading eigenvalues as bars."""
    shares = card.spectrum[:MOST_BARS].tolist()
    ax.bar(range(1, len(shares) + 1), shares, color=_frame.COLOURS[0])
    ax.set(xlabel=f"gradient direction (of {card.dim})", ylabel="share of E[|g|²]")
    ax.set(ylim=(0, 1), xlim=(0.3, len(shares) + 0.7))
    ax.set_xticks([1, *range(5, len(shares) + 1, 5)] if len(shares) > 5 else range(1, len(shares) + 1))
    ax.set_title(f"effective dimension {card.effective_dimension:.1f}", fontsize=10)


def _aligned(ax: Axes, card: UnitCard) -> None:
    """Draw cosines as bars to both sides, or say why there are none."""
    ax.set_title("interference", fontsize=10)
    if not len(card.aligned):
        ax.set_axis_off()
        text = textwrap.fill(f"None to compare: {card.aligned_note}", 28)
        ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, fontsize=9)
        return
    cosines = card.cosines.tolist()
    colours = plt.get_cmap("RdBu_r")
    bars = ax.barh(range(len(cosines)), cosines, color=[colours((c + 1) / 2) for c in cosines], edgecolor="#777777")
    ax.bar_label(bars, [f"{c:.2f}".replace("-", "−") for c in cosines], padding=2, fontsize=7)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set(xlim=(-1.3, 1.3), xlabel="mean cosine of gradients")
    ax.set_xticks([-1, -0.5, 0, 0.5, 1], ["−1", "−0.5", "0", "0.5", "1"])
    _name(ax, card.aligned_names)


def _twins(ax: Axes, card: UnitCard) -> None:
    """Draw distances as bars, and the typical one as a line."""
    distances = card.distances.tolist()
    ax.axvline(card.typical_distance, color="#777777", linestyle="--", linewidth=1, zorder=1)
    bars = ax.barh(range(len(distances)), distances, color=_frame.COLOURS[2], zorder=2)
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # where a number stands on the line
    ax.bar_label(bars, [f"{d:#.3g}".rstrip(".") for d in distances], padding=3, fontsize=7, bbox=paper, zorder=3)
    ax.set(xlim=(0, 1.2 * max(*distances, card.typical_distance) or 1), xlabel="distance (dashed: median unit)")
    ax.set_title("functional twins", fontsize=10)
    _name(ax, card.twin_names)


def _name(ax: Axes, names: Sequence[str]) -> None:
    """Write the names beside the bars, the first on top; long ones in two lines."""
    lines = [name if len(name) <= LINE else textwrap.fill(name, BROKEN, max_lines=2, placeholder="…") for name in names]
    ax.set_yticks(range(len(lines)), lines, fontsize=8)
    ax.set_ylim(len(lines) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
