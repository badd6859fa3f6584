"""Figures of tables, grids, trees and modules: what stands where, in which color, and what is refused."""

import math
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from _figures import band, image, legend, line, words
from matplotlib.colors import to_hex

from gradembed import plots

pytestmark = pytest.mark.usefixtures("shown")
TABLE = pd.DataFrame({"width": [8, 64] * 2, "size": ["small", "large"] * 2, "kind": ["plain", "plain", "deep", "deep"],
                      "accuracy": [0.5, 0.75, 0.25, 1.0], "low": [0.375, 0.5, 0.125, 0.875],
                      "high": [0.625, 0.875, 0.5, 1.0]})  # fmt: skip
SCORES = pd.DataFrame({"d": [64, 64, 1, 1, 64], "method": ["raw", "raw", "raw", "PCA", "PCA"],
                       "probe": [0.25, 0.75, 1.0, 0.5, 0.125]})  # fmt: skip
CELLS = [[torch.tensor([[1.0, -0.5], [0.25, 0.0]]) / (1 + 3 * i + j) for j in range(3)] for i in range(2)]

# curves


def test_lines_are_the_groups_in_their_order():
    ax = plots.curves(TABLE, "width", "accuracy", "kind", band=("low", "high"))
    assert [curve.get_label() for curve in ax.lines] == legend(ax) == ["plain", "deep"]
    assert [line(curve) for curve in ax.lines] == [[(8, 0.5), (64, 0.75)], [(8, 0.25), (64, 1.0)]]
    assert [curve.get_color() for curve in ax.lines] == list(plots.COLORS[:2])
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_xscale()) == ("width", "accuracy", "linear")
    ends = [[(0.375, 0.625), (0.5, 0.875)], [(0.125, 0.5), (0.875, 1)]]
    assert [band(collection, (8, 64)) for collection in ax.collections] == ends
    for curve, collection in zip(ax.lines, ax.collections, strict=True):
        assert to_hex(collection.get_facecolor()[0]) == to_hex(curve.get_color())
        assert 0 < collection.get_alpha() < 0.5


def test_a_single_line_has_no_legend_nor_a_band_unless_asked_for():
    ax = plots.curves(TABLE[:2], "width", "accuracy", xlabel="units", ylabel="share right")
    (only,) = ax.lines
    assert line(only) == [(8, 0.5), (64, 0.75)]
    assert only.get_marker() == "o"
    assert ax.get_legend() is None
    assert not ax.collections
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("units", "share right")


def test_levels_are_horizontal_lines_in_the_legend():
    ax = plots.curves(TABLE[:2], "width", "accuracy", levels={"chance": 0.1, "baseline": 0.6})
    _, *levels = ax.lines
    assert [(level.get_label(), set(level.get_ydata())) for level in levels] == [("chance", {0.1}), ("baseline", {0.6})]
    assert len({level.get_linestyle() for level in levels} | {"-"}) == 3
    assert legend(ax) == ["chance", "baseline"]  # the only line needs no name
    both = plots.curves(TABLE, "width", "accuracy", "kind", levels={"chance": 0.1})
    assert legend(both) == ["plain", "deep", "chance"]


def test_names_stand_along_the_axis_in_their_order(drawn):
    ax = plots.curves(TABLE, "size", "accuracy", "kind", band=["low", "high"])
    assert words(ax.get_xticklabels()) == ["small", "large"]


def test_ticks_of_a_logarithmic_axis_stand_at_the_points(drawn):
    table = pd.DataFrame({"noise": [10.0, 0.5, 2.0, 10.0], "score": [1, 2, 3, 4]})
    ax = plots.curves(table, "noise", "score", log_x=True)
    assert ax.get_xscale() == "log"
    assert ax.get_xticks().tolist() == [0.5, 2, 10]
    assert words(ax.get_xticklabels()) == ["0.5", "2", "10"]
    assert len(ax.get_xticks(minor=True)) == 0


def test_forty_lines_can_be_told_apart():
    table = pd.DataFrame({"x": [1, 2] * 40, "y": range(80), "seed": np.repeat(range(40), 2)})
    ax = plots.curves(table, "x", "y", "seed")
    assert len({(curve.get_color(), curve.get_linestyle()) for curve in ax.lines}) == 40
    assert legend(ax) == [str(i) for i in range(40)]


def test_gaps_and_constants_are_drawn(drawn):
    table = pd.DataFrame({"x": [1, 2, 3], "y": [0.5, math.nan, 0.5], "low": [0.5] * 3, "high": [math.nan, 0.5, 0.5]})
    assert len(plots.curves(table, "x", "y", band=("low", "high")).lines) == 1
    plots.matrix_grid([[torch.full((1, 1), math.nan)]], ["only"], ["one"], measure="conflict")


# score_map


def cells(ax):
    return {tuple(map(round, text.get_position())): text for text in ax.texts}


def test_cells_hold_means_and_ranges_in_their_places():
    ax = plots.score_map(SCORES, "d", "method", "probe", limits=[-1, 2])
    assert words(ax.get_xticklabels()) == ["1", "64"]  # numbers by size
    assert words(ax.get_yticklabels()) == ["raw", "PCA"]  # names as they come
    assert image(ax).get_array().tolist() == [[1.0, 0.5], [0.5, 0.125]]
    found = {place: text.get_text() for place, text in cells(ax).items()}
    assert found == {(0, 0): "1.00", (1, 0): "0.50\n0.25 to 0.75", (0, 1): "0.50", (1, 1): "0.12"}
    assert image(ax).get_clim() == (-1, 2)
    assert image(ax).colorbar.ax.get_ylabel() == "probe"
    assert len(plots.score_map(SCORES, "d", "method", "probe", colorbar=False).figure.axes) == 1


def test_names_across_stay_in_their_order_and_pairs_without_a_run_stay_white():
    ax = plots.score_map(SCORES[:4], "method", "d", "probe", xlabel="how")
    assert words(ax.get_xticklabels()) == ["raw", "PCA"]
    assert image(ax).get_array().mask.tolist() == [[False, True], [False, False]]
    assert (1, 0) not in cells(ax)
    assert ax.get_xlabel() == "how"


@pytest.mark.parametrize(("scores", "word"), [([-0.004, 0.002], "0.00"), ([-0.012, 0.004], "0.00\n-0.01 to 0.00")])
def test_numbers_that_round_to_zero_have_no_sign_and_small_ranges_are_left_out(scores, word):
    ax = plots.score_map(pd.DataFrame({"x": 1, "y": "a", "s": scores}), "x", "y", "s")
    assert words(ax.texts) == [word]


# matrix_grid


@pytest.mark.parametrize("given", [CELLS, np.array([[cell.numpy() for cell in row] for row in CELLS])])
def test_every_matrix_stands_in_its_cell_its_diagonal_gray_and_nothing_between(given):
    ax = plots.matrix_grid(given, ["r0", "r1"], ["c0", "c1", "c2"], xlabel="width")
    expected, own = np.full((5, 8), math.nan), np.full((5, 8), math.nan)
    for i, row in enumerate(CELLS):
        for j, cell in enumerate(row):
            expected[[3 * i, 3 * i + 1], [3 * j + 1, 3 * j]] = cell[0, 1], cell[1, 0]
            own[[3 * i, 3 * i + 1], [3 * j, 3 * j + 1]] = 1
    assert np.array_equal(image(ax).get_array().filled(math.nan), expected, equal_nan=True)
    assert np.array_equal(ax.images[0].get_array().filled(math.nan), own, equal_nan=True)
    assert to_hex(ax.images[0].cmap(0.0)) == "#d9d9d9"
    assert (image(ax).get_clim(), ax.figure.axes[1].get_ylabel()) == ((-1, 1), "mean cosine of gradients")
    assert (ax.get_xticks().tolist(), words(ax.get_xticklabels())) == ([0.5, 3.5, 6.5], ["c0", "c1", "c2"])
    assert (ax.get_yticks().tolist(), words(ax.get_yticklabels())) == ([0.5, 3.5], ["r0", "r1"])
    assert ax.get_xlabel() == "width"


# task_modules


def test_units_stand_by_module_and_selectivity_and_outputs_by_module():
    """The second output and the fifth unit are in no module; of a result only the numbers are needed."""
    modules = {"output_modules": torch.tensor([0, -1, 1, 0]), "unit_modules": torch.tensor([1, 0, 1, 0, -1])}
    numbers = {"effects": torch.arange(1.0, 21).reshape(4, 5) / 20, "selectivity": torch.tensor([4.0, 6, 8, 7, 0]) / 8}
    result = SimpleNamespace(layer="hidden2", unit_labels=tuple("abcd"), n_modules=2, **modules, **numbers)
    ax = plots.task_modules(result)
    columns, rows = [3, 1, 2, 0, 4], [0, 3, 2, 1]
    assert image(ax).get_array().tolist() == result.effects[rows][:, columns].tolist()
    assert words(ax.get_yticklabels()) == ["a", "d", "c", "b"]
    assert len(ax.get_xticks()) == 0  # places would be taken for units
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("units of hidden2, by module, the most selective first", "output")
    assert [edge.get_xdata()[0] for edge in ax.lines] == [1.5, 3.5]  # between modules, and before those in none
    assert ax.figure.axes[1].get_ylabel() == "effect (sd per sd)"
    assert image(ax).get_clim() == (0, 1)


# Refusals with words of their own

CURVES = {"table": TABLE, "x": "width", "y": "accuracy"}
MAP = {"table": SCORES, "x": "d", "y": "method", "score": "probe"}
GRID = {"matrices": CELLS, "row_labels": ["r0", "r1"], "column_labels": ["c0", "c1", "c2"]}


@pytest.mark.parametrize(
    ("draw", "arguments", "message"),
    [
        (plots.curves, CURVES | {"y": "kind"}, "`table` should have numbers in its column 'kind'. Got .*. Convert it"),
        (plots.curves, CURVES | {"x": "size", "log_x": True}, "`table` should have numbers in its column 'size'"),
        *[(plots.curves, CURVES | {"table": TABLE.assign(width=[x, 1, 2, 3]), "log_x": True}, "`log_x` should be False "
           "unless all x are above 0. Got (0|nan|1). Drop it") for x in (0, math.nan)],
        (plots.score_map, MAP | {"table": SCORES.assign(probe=math.nan)}, "`table` should have finite scores in"),
        (plots.score_map, MAP | {"limits": (0, math.inf)}, r"`limits\[1\]` should be finite"),
        (plots.matrix_grid, GRID | {"matrices": [[torch.zeros(2, 3)]]}, r"`matrices` should be square, \[u, u\]"),
        (plots.matrix_grid, GRID | {"matrices": [[torch.eye(2), torch.eye(3)]]}, r"be of one size. Got sizes \[2, 3\]"),
        (plots.matrix_grid, GRID | {"matrices": [CELLS[0], CELLS[1][:2]]}, "`matrices` should fit the labels of rows "
         r"and columns. Got 2 x 3 labels for rows of \[3, 2\]. Name every row and column once"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(draw, arguments, message):
    with pytest.raises(ValueError, match=message):
        draw(**arguments)
    assert plt.get_fignums() == []
