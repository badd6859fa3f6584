"""Maps of scores, and trees: what stands in which cell, in which colour, and what is refused."""

import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from _figures import EveryFigure

import gradembed as ge
from gradembed import plots

TABLE = pd.DataFrame(
    {
        "d": [64, 64, 1, 1, 64],
        "method": ["raw", "raw", "raw", "PCA", "PCA"],
        "probe": [0.25, 0.75, 1.0, 0.5, 0.125],
    }
)


TREE = ge.gradient_tree(ge.MLP([3, 4, 2], seed=0), torch.eye(3))


class TestEveryFigure(EveryFigure):
    functions = {  # noqa: RUF012
        "score_map": (lambda **k: plots.score_map(TABLE, "d", "method", "probe", **k), 1, "ax"),
        "tree": (lambda **k: plots.tree(TREE, **k), 1, "ax"),
        "tree_similarity": (lambda **k: plots.tree_similarity(TREE, "input", **k), 1, "ax"),
    }


def texts(ax):
    return {(round(text.get_position()[0]), round(text.get_position()[1])): text for text in ax.texts}


def test_cells_hold_means_and_ranges_in_their_places():
    ax = plots.score_map(TABLE, "d", "method", "probe")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "64"]  # numbers by size
    assert [label.get_text() for label in ax.get_yticklabels()] == ["raw", "PCA"]  # names as they come
    assert ax.images[0].get_array().tolist() == [[1.0, 0.5], [0.5, 0.125]]
    words = {place: text.get_text() for place, text in texts(ax).items()}
    assert words == {(0, 0): "1.00", (1, 0): "0.50\n0.25 to 0.75", (0, 1): "0.50", (1, 1): "0.12"}


def test_names_across_stay_in_their_order_and_pairs_without_a_run_stay_white():
    ax = plots.score_map(TABLE[:4], "method", "d", "probe", xlabel="how")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["raw", "PCA"]
    assert ax.images[0].get_array().mask.tolist() == [[False, True], [False, False]]
    assert (1, 0) not in texts(ax)
    assert ax.get_xlabel() == "how"


def test_text_can_be_read_on_every_colour():
    ax = plots.score_map(pd.DataFrame({"x": [1, 2], "y": "a", "s": [0.0, 1.0]}), "x", "y", "s")
    assert texts(ax)[0, 0].get_color() == "white"
    assert texts(ax)[1, 0].get_color() == "black"


def test_numbers_that_round_to_zero_have_no_sign_and_small_ranges_are_left_out():
    ax = plots.score_map(pd.DataFrame({"x": 1, "y": "a", "s": [-0.004, 0.002]}), "x", "y", "s")
    assert [text.get_text() for text in ax.texts] == ["0.00"]
    ax = plots.score_map(pd.DataFrame({"x": 1, "y": "a", "s": [-0.012, 0.004]}), "x", "y", "s")
    assert [text.get_text() for text in ax.texts] == ["0.00\n-0.01 to 0.00"]


def test_limits_are_the_ends_of_the_colours():
    ax = plots.score_map(TABLE, "d", "method", "probe", limits=(-1, 2))
    assert ax.images[0].get_clim() == (-1, 2)
    assert ax.images[0].colorbar.ax.get_ylabel() == "probe"


def test_a_given_axes_is_used_and_no_colorbar_made():
    figure, (first, second) = plt.subplots(1, 2)
    assert (
        plots.score_map(TABLE, "d", "method", "probe", colorbar=False, title="map", source="waves", ax=second) is second
    )
    assert (len(first.images), len(second.images), len(figure.axes)) == (0, 1, 2)
    assert second.get_title() == "map"
    assert figure.get_supxlabel() == "data: waves"
    figure.canvas.draw()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"table": [1]}, TypeError, r"`table` should be a pandas.DataFrame. Got list"),
        ({"table": TABLE[:0]}, ValueError, "`table` should have at least one row"),
        ({"x": "width"}, ValueError, "`table` should have a column 'width'"),
        ({"score": "method"}, ValueError, "`table` should have numbers in its column 'method'"),
        (
            {"table": TABLE.assign(probe=math.nan)},
            ValueError,
            "`table` should have finite scores in its column 'probe'",
        ),
        ({"limits": 1}, TypeError, "`limits` should be a pair of numbers. Got"),
        ({"limits": (0, 1, 2)}, ValueError, "`limits` should be a pair of numbers. Got 3"),
        ({"limits": (0, math.inf)}, ValueError, r"`limits\[1\]` should be finite"),
        ({"limits": (1, 1)}, ValueError, r"`limits` should ascend. Got \(1, 1\)"),
        ({"ax": 3}, TypeError, "`ax` should be Axes of matplotlib"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes, error, message):
    named = {"table": TABLE, "x": "d", "y": "method", "score": "probe"} | changes
    before = plt.get_fignums()
    with pytest.raises(error, match=message):
        plots.score_map(**named)
    assert plt.get_fignums() == before  # no empty figure is left
