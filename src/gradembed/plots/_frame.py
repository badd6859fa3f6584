"""What all figures share: colors, what they refuse, Axes, legends, words in cells, the line that names the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike, NDArray
from pandas.api.types import is_numeric_dtype
from torch import Tensor

from gradembed._validation import as_list, as_names, as_tensor, describe, refuse

# Paul Tol's "muted" scheme, ordered for contrast between neighbors, and gray as the tenth.
COLORS = (
    "#332288", "#CC6677", "#117733", "#DDCC77", "#88CCEE", "#882255", "#44AA99", "#999933", "#AA4499", "#777777",
)  # fmt: skip
GRAY = "#d9d9d9"  # of cells that say nothing
MARKERS = "osD^vP*X<>"
MEASURES = {  # name -> words, colors, lower end
    "cosine": ("mean cosine of gradients", "RdBu_r", -1.0),
    "abs_cosine": ("mean |cosine| of gradients", "viridis", 0.0),
    "conflict": ("share of samples in conflict (cosine < 0)", "viridis", 0.0),
    "norm_similarity": ("mean norm similarity of gradients", "viridis", 0.0),
}

Numbers = Tensor | ArrayLike

# ---------------------------------------------------------------- what figures take


def check_result(name: str, value: object, kind: str, verb: str, *parts: str) -> None:
    """Refuse what has not the parts of a result that are drawn; whatever has them will do."""
    if not all(hasattr(value, part) for part in parts):
        refuse(name, f"be a {kind}", describe(value), f"Pass what gradembed.{verb} returned", TypeError)


def several(value: Any) -> list[Any]:
    """Return a list: of one thing, if it is none yet."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def numbers(name: str, value: Any, axes: str, *, gaps: bool = False, **sizes: Any) -> NDArray[Any]:
    """Read real, finite numbers of given axes, of any precision (``gaps`` lets NaN pass).

    Returns:
        The numbers, off their graph and device.
    """
    tensor = as_tensor(name, value, axes, kind="any", gaps=gaps, **sizes)
    coarse = tensor.is_floating_point() and tensor.itemsize < 4  # NumPy has no bfloat16
    return np.asarray((tensor.float() if coarse else tensor).numpy(force=True))


def square(name: str, value: Any, *, gaps: bool = True) -> NDArray[Any]:
    """Read a square matrix.

    Returns:
        Float numbers, [u, u].
    """
    table = numbers(name, value, "u v", gaps=gaps).astype(float)
    if table.shape[0] != table.shape[1]:
        refuse(name, "be square, [u, u]", f"shape {list(table.shape)}", "Pass one number for each pair")
    return table


def kinds(name: str, value: Any, given: Any, n: int, *, optional: bool = False) -> tuple[NDArray[Any], dict[int, str]]:
    """Read a whole number for each of n things (0 without any), and what numbers are called (``given``, from 0 on).

    Returns:
        The numbers, [n], and the name of each.
    """
    array = np.zeros(n, dtype=int) if optional and value is None else numbers(name, value, "n", n=n)
    if array.dtype.kind not in "biu":
        refuse(name, "be whole numbers", f"type {array.dtype}", "Number them, and pass their names", TypeError)
    array = array.astype(np.int64)
    found = np.unique(array).tolist()
    if given is None:
        return array, {kind: str(kind) for kind in found}
    key = f"{name[:-1]}_names"
    given = as_names(key, given)
    if min(found, default=0) < 0 or max(found, default=0) >= len(given):
        refuse(key, "name every number from 0 on", f"{len(given)} names for {found[0]} to {found[-1]}", "Name them all")
    return array, {kind: given[kind] for kind in found}


def pair(name: str, value: Any, what: str) -> list[Any]:
    """Return two things in a row; refuse anything else."""
    both = as_list(name, value, f"a pair of {what}")
    if len(both) != 2:
        refuse(name, f"be a pair of {what}", len(both), "Pass two")
    return both


def check_table(table: Any, names: Sequence[Any], numeric: Sequence[Any]) -> None:
    """Refuse tables without rows or columns, or with words in columns of numbers."""
    if not hasattr(table, "columns"):
        refuse("table", "be a pandas.DataFrame", describe(table), "Pass the sweep's table", TypeError)
    for name in (*names, *numeric):
        if not isinstance(name, str):
            refuse("table", "have columns with names", describe(name), "Name a column by a string", TypeError)
        if name not in table.columns:
            refuse("table", f"have a column {name!r}", list(table.columns), "Name one of these")
    if not len(table):
        refuse("table", "have at least one row", "none", "Pass the sweep's table")
    for name in numeric:
        if not is_numeric_dtype(table[name]):
            refuse("table", f"have numbers in its column {name!r}", table[name].dtype, "Convert it")


# ---------------------------------------------------------------- what figures are made of


def panels(
    name: str, given: Any, size: tuple[float, float], source: str, shape: Any = (1, 1), title: str = "", **layout: Any
) -> list[Axes]:
    """Return the Axes to draw in, of a new figure if none are given; above them the title, below them the source."""
    if given is None:
        given = plt.subplots(*shape, figsize=size, squeeze=False, **{"layout": "constrained"} | layout)[1]
    listed = np.asarray(given, dtype=object).ravel().tolist()
    for panel in listed:
        if not isinstance(panel, Axes):
            refuse(name, "be Axes of matplotlib", describe(panel), "Pass some of plt.subplots(), or None", TypeError)
    if len(listed) != math.prod(shape):
        refuse(name, f"be {math.prod(shape)}, one for each panel", len(listed), "Pass None to have them made")
    if title:
        listed[0].figure.suptitle(title, fontsize=11)
    if source:
        listed[0].figure.supxlabel(f"data: {source}", fontsize=7, color="#555555", x=0.01, ha="left")
    return listed


def grid(ax: Axes, rows: tuple[Any, Sequence[str]], columns: tuple[Any, Sequence[str]]) -> None:
    """Name rows and columns of a picture: (places, names)."""
    ax.set_yticks(*rows)
    ax.set_xticks(*columns)
    ax.tick_params(length=0, labelsize=8)


def label(ax: Axes, title: str, xlabel: str = "", ylabel: str = "", drawn: Any = None, words: str = "") -> Axes:
    """Write above and beside the Axes what is seen, with a bar for the colors of what is ``drawn``.

    Returns:
        The Axes.
    """
    ax.set_title(title, fontsize=10)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if drawn is not None:
        bar(drawn, ax, words)
    return ax


def legend(ax: Axes, **options: Any) -> None:
    """Put the legend beside the data."""
    ax.legend(**{"loc": "center left", "bbox_to_anchor": (1.02, 0.5), "frameon": False, "fontsize": 8} | options)


def bar(drawn: Any, ax: Axes | Sequence[Axes], words: str) -> None:
    """Explain the colors beside the Axes."""
    several(ax)[0].figure.colorbar(drawn, ax=ax, label=words, shrink=0.85)


def ink(color: Any) -> str:
    """Return black or white, whichever can be read on a color."""
    return "white" if np.dot(to_rgb(color), (0.3, 0.6, 0.1)) < 0.5 else "black"


def write(ax: Axes, image: AxesImage, words: Mapping[Any, str], size: float) -> None:
    """Write words into cells of a picture, (row, column), so that they can be read there."""
    colors = image.to_rgba(np.ma.asarray(image.get_array()))
    for (i, j), word in words.items():
        ax.text(j, i, word, ha="center", va="center", fontsize=size, color=ink(colors[i, j]))
