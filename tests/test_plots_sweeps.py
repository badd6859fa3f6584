"""Figures of sweeps and of task separation: what is drawn where, what is refused, and that nothing is computed."""

import math
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from _figures import EveryFigure
from matplotlib.colors import to_hex, to_rgb

import gradembed as ge
from gradembed import plots

pytestmark = pytest.mark.usefixtures("shown")
TABLE = pd.DataFrame(
    {
        "width": [8, 64, 8, 64],
        "size": ["small", "large", "small", "large"],
        "kind": ["plain", "plain", "deep", "deep"],
        "accuracy": [0.5, 0.75, 0.25, 1.0],
        "low": [0.375, 0.5, 0.125, 0.875],
        "high": [0.625, 0.875, 0.5, 1.0],
    }
)
CELLS = [[torch.tensor([[1.0, -0.5], [0.25, 0.0]]) / (1 + 3 * i + j) for j in range(3)] for i in range(2)]
ACROSS, UP = torch.tensor([-2.0, 0.0, 2.0, 4.0]), torch.tensor([-1.0, 0.0, 1.0])
COSINE = torch.tensor([[-1.0, -0.5, 0.5, 1.0], [-0.75, -0.25, 0.25, 0.75], [-1.0, -0.5, 0.5, 0.125]])
POINTS, LABELS = torch.tensor([[0.0, 1.0], [2.0, 0.0], [-1.0, -1.0], [1.0, 0.5]]), torch.tensor([2, 0, 2, 1])


def make_modules():
    """Made-up numbers: the second output and the fifth unit are in no module."""
    return ge.TaskModules(
        effects=torch.arange(1, 21, dtype=torch.float64).reshape(4, 5) / 20,
        output_modules=torch.tensor([0, -1, 1, 0]),
        unit_modules=torch.tensor([1, 0, 1, 0, -1]),
        selectivity=torch.tensor([0.5, 0.75, 1.0, 0.875, 0.0], dtype=torch.float64),
        layer="hidden2",
        unit_layer="output",
        unit_labels=("a", "b", "c", "d"),
    )


FUNCTIONS = {  # each draws into one Axes
    "curves": lambda **k: plots.curves(TABLE, "width", "accuracy", "kind", band=("low", "high"), **k),
    "matrix_grid": lambda **k: plots.matrix_grid(CELLS, ["r0", "r1"], ["c0", "c1", "c2"], **k),
    "cosine_map": lambda **k: plots.cosine_map(ACROSS, UP, COSINE, points=POINTS, labels=LABELS, **k),
    "task_modules": lambda **k: plots.task_modules(make_modules(), **k),
}


def image(ax):
    (only,) = ax.images
    return only


def names(labels):
    return [label.get_text() for label in labels]


# All of them


class TestEveryFigure(EveryFigure):
    functions = {name: (function, 1, "ax") for name, function in FUNCTIONS.items()}  # noqa: RUF012


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_arguments_stay_as_they_were(function):
    table, cells, cosine, points = (
        TABLE.copy(),
        [[c.clone() for c in row] for row in CELLS],
        COSINE.clone(),
        POINTS.clone(),
    )
    function()
    assert TABLE.equals(table)
    assert all(torch.equal(a, b) for one, two in zip(CELLS, cells, strict=True) for a, b in zip(one, two, strict=True))
    assert torch.equal(COSINE, cosine)
    assert torch.equal(POINTS, points)


# curves


def test_lines_are_the_groups_in_their_order():
    ax = plots.curves(TABLE, "width", "accuracy", "kind")
    assert [line.get_label() for line in ax.lines] == ["plain", "deep"]
    assert [line.get_xdata().tolist() for line in ax.lines] == [[8, 64], [8, 64]]
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0.5, 0.75], [0.25, 1.0]]
    assert [line.get_color() for line in ax.lines] == list(plots.COLOURS[:2])
    assert names(ax.get_legend().get_texts()) == ["plain", "deep"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("width", "accuracy")
    assert not ax.collections
    assert ax.get_xscale() == "linear"


def test_a_single_line_has_no_legend():
    ax = plots.curves(TABLE[:2], "width", "accuracy", xlabel="units", ylabel="share right")
    (line,) = ax.lines
    assert line.get_ydata().tolist() == [0.5, 0.75]
    assert line.get_marker() == "o"
    assert ax.get_legend() is None
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("units", "share right")


def test_bands_have_the_ends_and_the_colours_of_their_lines():
    ax = plots.curves(TABLE, "width", "accuracy", "kind", band=("low", "high"))
    assert len(ax.collections) == 2
    for line, band, ends in zip(
        ax.lines, ax.collections, [[(0.375, 0.625), (0.5, 0.875)], [(0.125, 0.5), (0.875, 1)]], strict=True
    ):
        (path,) = band.get_paths()
        x, y = path.vertices.T
        assert [(y[x == place].min(), y[x == place].max()) for place in (8, 64)] == ends
        assert to_hex(band.get_facecolor()[0]) == to_hex(line.get_color())
        assert 0 < band.get_alpha() < 0.5


def test_levels_are_horizontal_lines_in_the_legend():
    ax = plots.curves(TABLE[:2], "width", "accuracy", levels={"chance": 0.1, "baseline": 0.6})
    _, *levels = ax.lines
    assert [(line.get_label(), set(line.get_ydata())) for line in levels] == [("chance", {0.1}), ("baseline", {0.6})]
    assert len({line.get_linestyle() for line in levels} | {"-"}) == 3
    assert names(ax.get_legend().get_texts()) == ["chance", "baseline"]  # the only line needs no name
    both = plots.curves(TABLE, "width", "accuracy", "kind", levels={"chance": 0.1})
    assert names(both.get_legend().get_texts()) == ["plain", "deep", "chance"]


def test_names_stand_along_the_axis_in_their_order(drawn):
    ax = plots.curves(TABLE, "size", "accuracy", "kind", band=("low", "high"))
    assert names(ax.get_xticklabels()) == ["small", "large"]
    assert ax.get_xlabel() == "size"


def test_ticks_of_a_logarithmic_axis_stand_at_the_points(drawn):
    table = pd.DataFrame({"noise": [10.0, 0.5, 2.0, 10.0], "score": [1, 2, 3, 4]})
    ax = plots.curves(table, "noise", "score", log_x=True)
    assert ax.get_xscale() == "log"
    assert ax.get_xticks().tolist() == [0.5, 2, 10]
    assert names(ax.get_xticklabels()) == ["0.5", "2", "10"]
    assert len(ax.get_xticks(minor=True)) == 0


def test_forty_lines_can_be_told_apart():
    table = pd.DataFrame({"x": [1, 2] * 40, "y": range(80), "seed": np.repeat(range(40), 2)})
    ax = plots.curves(table, "x", "y", "seed")
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == 40
    assert [line.get_label() for line in ax.lines] == [str(i) for i in range(40)]


def test_gaps_and_constants_are_drawn(drawn):
    table = pd.DataFrame({"x": [1, 2, 3], "y": [0.5, math.nan, 0.5], "low": [0.5] * 3, "high": [math.nan, 0.5, 0.5]})
    assert len(plots.curves(table, "x", "y", band=("low", "high")).lines) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": "depth"}, r"`table` should have a column 'depth'. Got \['width', 'size', .*\]. Name one of these"),
        ({"y": "loss"}, "`table` should have a column 'loss'"),
        ({"by": "seed"}, "`table` should have a column 'seed'"),
        ({"band": ("low", "top")}, "`table` should have a column 'top'"),
        ({"table": TABLE[:0]}, "`table` should have at least one row. Got none. Pass the sweep's table"),
        ({"y": "kind"}, "`table` should have numbers in its column 'kind'. Got .*. Convert it"),
        ({"band": ("low", "kind")}, "`table` should have numbers in its column 'kind'"),
        ({"x": "size", "log_x": True}, "`table` should have numbers in its column 'size'"),
        ({"table": TABLE.assign(width=[0, 1, 2, 3]), "log_x": True}, "`log_x` should be False unless all x are "
         "above 0. Got 0. Drop it"),
        ({"table": TABLE.assign(width=[math.nan, 1, 2, 3]), "log_x": True}, "`log_x` should be False unless all x"),
    ],
)  # fmt: skip
def test_curves_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.curves(**{"table": TABLE, "x": "width", "y": "accuracy", **arguments})
    assert plt.get_fignums() == []


# matrix_grid


@pytest.mark.parametrize(
    ("measure", "limits", "label"),
    [
        ("cosine", (-1, 1), "mean cosine of gradients"),
        ("abs_cosine", (0, 1), "mean |cosine| of gradients"),
        ("conflict", (0, 1), "share of samples in conflict (cosine < 0)"),
        ("norm_similarity", (0, 1), "mean norm similarity of gradients"),
    ],
)
def test_all_cells_have_one_scale_of_colours(measure, limits, label):
    ax = plots.matrix_grid(CELLS, ["r0", "r1"], ["c0", "c1", "c2"], measure=measure)
    assert image(ax).get_clim() == limits
    _, bar = ax.figure.axes
    assert bar.get_ylabel() == label
    middle = to_rgb(image(ax).cmap(image(ax).norm(0.0)))
    assert (min(middle) > 0.9) is (measure == "cosine")  # zero is white where there is a sign


def test_every_matrix_stands_in_its_cell_and_nothing_between():
    ax = plots.matrix_grid(CELLS, ["r0", "r1"], ["c0", "c1", "c2"], xlabel="width")
    canvas = image(ax).get_array().filled(math.nan)
    assert canvas.shape == (5, 8)
    for i in range(2):
        for j in range(3):
            assert np.array_equal(canvas[3 * i : 3 * i + 2, 3 * j : 3 * j + 2], CELLS[i][j].numpy())
    assert np.isnan(canvas[2]).all()
    assert np.isnan(canvas[:, [2, 5]]).all()
    assert int(np.isnan(canvas).sum()) == 5 * 8 - 6 * 4
    assert ax.get_xticks().tolist() == [0.5, 3.5, 6.5]
    assert ax.get_yticks().tolist() == [0.5, 3.5]
    assert names(ax.get_xticklabels()) == ["c0", "c1", "c2"]
    assert names(ax.get_yticklabels()) == ["r0", "r1"]
    assert ax.get_xlabel() == "width"


@pytest.mark.parametrize("u", [1, 2, 7])
@pytest.mark.parametrize("value", [0.0, 1.0, math.nan])
def test_any_size_and_constant_matrices_are_drawn(drawn, u, value):
    ax = plots.matrix_grid([[torch.full((u, u), value)]], ["only"], ["one"])
    assert image(ax).get_array().shape == (u, u)


@pytest.mark.parametrize(
    "matrix", [torch.eye(2, dtype=torch.float64), torch.eye(2, requires_grad=True), torch.eye(2, dtype=torch.int64)]
)
def test_any_kind_of_tensor_is_drawn(matrix):
    assert np.array_equal(image(plots.matrix_grid([[matrix]], ["r"], ["c"])).get_array(), np.eye(2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"measure": "norm"}, "`measure` should be one of 'cosine', 'abs_cosine', 'conflict', 'norm_sim.* Got 'norm'"),
        ({"matrices": [[torch.zeros(2, 3)]]}, r"`matrices` should be square, \[u, u\], of one size and not empty. Got "
         r"shapes \[\[2, 3\]\]. Pass \[u, u\] throughout"),
        ({"matrices": [[torch.eye(2), torch.eye(3)]]}, r"`matrices` should be .* Got shapes \[\[2, 2\], \[3, 3\]\]"),
        ({"matrices": [[torch.zeros(2)]]}, r"`matrices` should be square.* Got shapes \[\[2\]\]"),
        ({"matrices": [[torch.zeros(2, 2, 2)]]}, r"`matrices` should be square.* Got shapes \[\[2, 2, 2\]\]"),
        ({"matrices": [[torch.zeros(0, 0)]]}, r"`matrices` should be .*not empty. Got shapes \[\[0, 0\]\]"),
        ({"matrices": []}, r"`matrices` should be .*not empty. Got none"),
        ({"matrices": [[], []]}, r"`matrices` should be .*not empty. Got none"),
        ({"row_labels": ["r0"]}, r"`matrices` should fit the labels of rows and columns. Got 1 x 3 labels for rows of "
         r"\[3, 3\]. Name every row and column once"),
        ({"column_labels": ["c0", "c1"]}, r"`matrices` should fit the labels .* Got 2 x 2 labels for rows of \[3, 3\]"),
        ({"matrices": [CELLS[0], CELLS[1][:2]]}, r"Got 2 x 3 labels for rows of \[3, 2\]"),
    ],
)  # fmt: skip
def test_matrix_grid_refuses(arguments, message):
    given = {"matrices": CELLS, "row_labels": ["r0", "r1"], "column_labels": ["c0", "c1", "c2"], **arguments}
    with pytest.raises(ValueError, match=message):
        plots.matrix_grid(**given)
    assert plt.get_fignums() == []


# cosine_map


def mesh(ax):
    (only,) = [c for c in ax.collections if type(c).__name__ == "QuadMesh"]
    return only


def kinds(ax):
    return sorted(type(c).__name__ for c in ax.collections)


def test_the_map_has_every_cosine_at_its_place():
    ax = plots.cosine_map(ACROSS, UP, COSINE, xlabel="first", ylabel="second")
    assert np.array_equal(mesh(ax).get_array(), COSINE.numpy())
    assert mesh(ax).get_clim() == (-1, 1)
    corners = mesh(ax).get_coordinates()
    assert corners[0, :, 0].tolist() == [-3, -1, 1, 3, 5]  # a place is the middle of its cell
    assert corners[:, 0, 1].tolist() == [-1.5, -0.5, 0.5, 1.5]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("first", "second")
    negative, zero, positive = (to_rgb(mesh(ax).cmap(mesh(ax).norm(value))) for value in (-1.0, 0.0, 1.0))
    assert negative[2] > 2 * negative[0]  # blue
    assert min(zero) > 0.9
    assert positive[0] > 2 * positive[2]  # red: they agree


def test_the_line_is_where_the_sign_changes():
    ax = plots.cosine_map(ACROSS, UP, COSINE)
    (line,) = [c for c in ax.collections if type(c).__name__ == "QuadContourSet"]
    vertices = np.concatenate([path.vertices for path in line.get_paths()])
    assert np.allclose(vertices[:, 0], 1)  # between 0, where all are below 0, and 2, where all are above
    assert (vertices[:, 1].min(), vertices[:, 1].max()) == (-1, 1)


@pytest.mark.parametrize("value", [0.0, 0.5, -1.0, math.nan])
def test_without_a_change_of_sign_there_is_no_line(drawn, value):
    assert kinds(plots.cosine_map(ACROSS, UP, torch.full((3, 4), value))) == ["QuadMesh"]


def test_places_without_a_gradient_are_grey():
    table = COSINE.clone()
    table[1, 2] = math.nan
    ax = plots.cosine_map(ACROSS, UP, table, colorbar=False)
    assert np.ma.getmaskarray(mesh(ax).get_array()).nonzero() == (1, 2)
    ax.figure.canvas.draw()
    column, row = ax.transData.transform((2.0, 0.0)).round().astype(int)
    pixels = np.asarray(ax.figure.canvas.buffer_rgba())
    assert to_hex(pixels[len(pixels) - row, column] / 255) == "#bbbbbb"
    column, row = ax.transData.transform((4.0, 0.0)).round().astype(int)
    assert to_hex(pixels[len(pixels) - row, column] / 255) != "#bbbbbb"


def test_colours_are_explained_unless_told_otherwise():
    _, bar = plots.cosine_map(ACROSS, UP, COSINE).figure.axes
    assert bar.get_ylabel() == "cosine of gradients"
    assert len(plots.cosine_map(ACROSS, UP, COSINE, colorbar=False).figure.axes) == 1


def scatters(ax):
    return [c for c in ax.collections if type(c).__name__ == "PathCollection"]


@pytest.mark.parametrize("label_names", [None, ["ash", "oak", "elm"], ["ash", "oak", "elm", "never seen"]])
def test_points_have_the_colour_marker_and_name_of_their_class(drawn, label_names):
    ax = plots.cosine_map(ACROSS, UP, COSINE, points=POINTS, labels=LABELS, label_names=label_names)
    drawn_points = [c.get_offsets().tolist() for c in scatters(ax)]
    assert drawn_points == [[[2, 0]], [[1, 0.5]], [[0, 1], [-1, -1]]]
    assert [to_hex(c.get_facecolor()[0]) for c in scatters(ax)] == [to_hex(c) for c in plots.COLOURS[:3]]
    assert len({c.get_paths()[0].vertices.tobytes() for c in scatters(ax)}) == 3
    expected = ["0", "1", "2"] if label_names is None else label_names[:3]
    assert names(ax.get_legend().get_texts()) == expected


def test_points_without_classes_are_alike_and_have_no_legend():
    ax = plots.cosine_map(ACROSS, UP, COSINE, points=POINTS)
    (only,) = scatters(ax)
    assert only.get_offsets().tolist() == POINTS.tolist()
    assert ax.get_legend() is None


def test_tensors_that_require_a_gradient_are_drawn(drawn):
    horizontal, vertical, cosine, points = (t.clone().requires_grad_() for t in (ACROSS, UP, COSINE, POINTS))
    ax = plots.cosine_map(horizontal, vertical, cosine, points=points)
    assert np.array_equal(mesh(ax).get_array(), COSINE.numpy())
    assert mesh(ax).get_coordinates()[0, :, 0].tolist() == [-3, -1, 1, 3, 5]
    (only,) = scatters(ax)
    assert only.get_offsets().tolist() == POINTS.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"cosine": COSINE.T},
            r"`cosine` should have shape \[3, 4\], one number for each place. Got .* shape \[4, 3\]",
        ),
        ({"cosine": COSINE.flatten()}, r"`cosine` should have shape \[3, 4\].* Reshape it"),
        (
            {"horizontal": ACROSS[:, None]},
            r"`horizontal` should hold at least two places, \[a\]. Got .* \[4, 1\]. Pass",
        ),
        (
            {"vertical": UP[:1], "cosine": COSINE[:1]},
            r"`vertical` should hold at least two places, \[a\]. Got .* \[1\]",
        ),
        ({"horizontal": torch.tensor(1.0)}, r"`horizontal` should hold at least two places"),
        ({"points": torch.ones(4, 3)}, r"`points` should have shape \[n, 2\]. Got .* shape \[4, 3\]. Project them"),
        ({"points": torch.ones(2)}, r"`points` should have shape \[n, 2\]. Got .* shape \[2\]"),
        ({"points": None}, r"`labels` should be None without `points`. Got .* shape \[4\]. Pass the points too"),
        ({"labels": LABELS[:3]}, "`labels` should hold one target, or one row of targets, for each of 4 samples"),
        (
            {"labels": LABELS.float()},
            r"`labels` should be int64 classes, \[n\]. Got a float32 .*. Pass one class",
        ),
        ({"labels": LABELS[:, None]}, r"`labels` should be int64 classes, \[n\]. Got .* shape \[4, 1\]"),
        ({"labels": LABELS - 1}, "`labels` should number the classes from 0. Got -1"),
        ({"label_names": ["ash", "oak"]}, "`label_names` should name each of 3 classes. Got 2 names. Name them all"),
    ],
)
def test_cosine_map_refuses(arguments, message):
    given = {"horizontal": ACROSS, "vertical": UP, "cosine": COSINE, "points": POINTS, "labels": LABELS, **arguments}
    with pytest.raises(ValueError, match=message):
        plots.cosine_map(**given)
    assert plt.get_fignums() == []


# task_modules


def test_units_stand_by_module_and_selectivity_and_outputs_by_module():
    result = make_modules()
    ax = plots.task_modules(result, axis_label="digit")
    columns, rows = [3, 1, 2, 0, 4], [0, 3, 2, 1]
    expected = [[float(result.effects[i, j]) for j in columns] for i in rows]
    assert image(ax).get_array().tolist() == expected
    assert names(ax.get_yticklabels()) == ["a", "d", "c", "b"]
    assert len(ax.get_xticks()) == 0  # places would be taken for units
    assert ax.get_ylabel() == "digit"
    assert ax.get_xlabel() == "units of hidden2, by module, the most selective first"
    assert [line.get_xdata()[0] for line in ax.lines] == [1.5, 3.5]  # between modules, and before those in none
    _, bar = ax.figure.axes
    assert bar.get_ylabel() == "effect (sd per sd)"
    assert image(ax).get_clim() == (0, 1)


def test_only_the_numbers_of_the_result_are_needed():
    """Anything with the attributes of a result will do: nothing is computed from a model."""
    result = make_modules()
    stand_in = SimpleNamespace(**vars(result), n_modules=2)
    drawn = [image(plots.task_modules(r)).get_array().tolist() for r in (result, stand_in)]
    assert drawn[0] == drawn[1]


def test_a_measured_result_is_drawn(drawn):
    network = ge.MLP([4, 8, 4], seed=0)
    result = ge.task_modules(network, torch.randn(30, 4), "hidden1")
    ax = plots.task_modules(result)
    assert sorted(image(ax).get_array().flatten().tolist()) == sorted(result.effects.flatten().tolist())
    assert sorted(names(ax.get_yticklabels())) == ["0", "1", "2", "3"]
    assert len(ax.lines) == len(set(result.unit_modules.tolist())) - 1
