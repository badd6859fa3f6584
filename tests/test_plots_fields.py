"""Figures of fields, embeddings and planes: what is drawn where, what is refused, and that nothing is computed."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from _figures import legend, line, marks, of_kind
from matplotlib.colors import to_hex

import gradembed as ge
from gradembed import plots

pytestmark = pytest.mark.usefixtures("shown")
X = torch.tensor([0.5, -1.0, 2.0, 0.0])  # out of order: curves have to be sorted
GRADIENTS = torch.tensor([[1.0, 2, 3, 4], [-1, -2, -3, -4], [0, 1, 0, 1]])
VALUES = GRADIENTS * 10 + 5
LABELS = torch.tensor([2, 0, 2])
PLACES = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1], [2, 2]])
KINDS = [3, 1, 3, 1, 0]
MASK = torch.tensor([[True, False, False, True], [False] * 4, [False, True, False, False]])
ACROSS, UP = torch.tensor([-2.0, 0.0, 2.0, 4.0]), torch.tensor([-1.0, 0.0, 1.0])
COSINE = torch.tensor([[-1.0, -0.5, 0.5, 1.0], [-0.75, -0.25, 0.25, 0.75], [-1.0, -0.5, 0.5, 0.125]])
POINTS, CLASSES = torch.tensor([[0.0, 1.0], [2.0, 0.0], [-1.0, -1.0], [1.0, 0.5]]), torch.tensor([2, 0, 2, 1])


def curves_of(**changes):
    given = {"points": X[:, None], "gradients": GRADIENTS[..., None], "values": VALUES, "labels": LABELS}
    return ge.GradientFields(**(given | changes))


def plane_of(u=2, m=6, d=3, values=True, **changes):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    given = {"points": draw(u, m, d), "gradients": draw(u, m, d), "values": draw(u, m) if values else None}
    return ge.GradientFields(**(given | changes))


def arrows(ax):
    return of_kind(ax, "Quiver")[0]


def colors(lines):
    return [curve.get_color() for curve in lines]


# field_1d


@pytest.mark.parametrize("values", [False, True])
def test_curves_are_the_units_each_at_its_own_points_in_their_order(values):
    points = torch.stack([X, X + 1, -X])[..., None]
    ax = plots.field_1d(curves_of(points=points), values=values)
    drawn = zip(points[..., 0].tolist(), (VALUES if values else GRADIENTS).tolist(), strict=True)
    assert [line(curve) for curve in ax.lines] == [sorted(zip(x, unit, strict=True)) for x, unit in drawn]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "value f(x)" if values else "gradient df/dx")


def test_colors_are_those_of_the_labels_which_stand_in_the_legend_once():
    ax = plots.field_1d(curves_of())
    assert colors(ax.lines) == [plots.COLORS[i] for i in (2, 0, 2)]
    assert legend(ax) == ["function 2", "function 0"]
    many = plots.field_1d(curves_of(labels=torch.tensor([2, 12, 7])))
    assert colors(many.lines) == [plots.COLORS[i] for i in (2, 2, 7)]


@pytest.mark.parametrize("units", [None, [2, 0], (2, 0), torch.tensor([2, 0]), np.array([2, 0])])
def test_some_units_without_labels_have_their_own_colors_and_no_legend(units):
    ax = plots.field_1d(curves_of(labels=None), units)
    chosen = [0, 1, 2] if units is None else [2, 0]
    assert colors(ax.lines) == [plots.COLORS[i] for i in chosen]
    assert [max(curve.get_ydata()) for curve in ax.lines] == GRADIENTS[chosen].amax(1).tolist()
    assert ax.get_legend() is None


@pytest.mark.parametrize("masked", [None, MASK, MASK.numpy(), MASK.tolist()])
def test_predictions_are_crosses_where_they_were_asked_for(drawn, masked):
    predicted = (GRADIENTS[..., None] + 0.25).requires_grad_()
    ax = plots.field_1d(curves_of(), [0, 2], predicted=predicted, masked=masked)
    for unit, curve, cross in zip([0, 2], ax.lines[::2], ax.lines[1::2], strict=True):
        asked = range(4) if masked is None else np.flatnonzero(MASK[unit])
        assert (cross.get_marker(), cross.get_linestyle()) == ("x", "None")
        assert line(cross) == [(float(X[i]), float(GRADIENTS[unit, i]) + 0.25) for i in asked]
        assert cross.get_color() == curve.get_color()
    assert legend(ax) == ["function 2"]


# field_2d


@pytest.mark.parametrize("axes", [(0, 1), [2, 0], np.array([2, 0])])
def test_arrows_stand_at_the_points_and_are_the_gradients(drawn, axes):
    fields, axes_list = plane_of(), list(axes)
    ax = plots.field_2d(fields, 1, axes=axes)
    drawn_arrows = arrows(ax)
    assert drawn_arrows.get_offsets().tolist() == fields.points[1][:, axes_list].tolist()
    assert np.array_equal(np.stack([drawn_arrows.U, drawn_arrows.V], 1), fields.gradients[1][:, axes_list])
    assert drawn_arrows.angles == "xy"  # as they point in the plane, whatever its scales
    assert (ax.get_xlabel(), ax.get_ylabel()) == tuple(f"dimension {axis}" for axis in axes)
    assert drawn_arrows.get_array().tolist() == fields.values[1].tolist()
    assert ax.figure.axes[1].get_ylabel() == "value of the unit"


def test_without_values_all_arrows_are_alike(drawn):
    ax = plots.field_2d(plane_of(values=False))
    assert arrows(ax).get_array() is None
    assert {to_hex(color) for color in arrows(ax).get_facecolor()} == {to_hex(plots.COLORS[0])}
    assert len(ax.figure.axes) == 1


@pytest.mark.parametrize("values", [True, False])
@pytest.mark.parametrize(
    "changes",  # no length, one place, one point, neither, very large, very small
    [{"gradients": torch.zeros(2, 6, 3)}, {"points": torch.zeros(2, 6, 3)}, {"points": torch.zeros(2, 1, 3), "m": 1},
     {"points": torch.ones(6, 3), "gradients": torch.zeros(2, 6, 3)}, {"points": 1e30 * torch.randn(6, 3)},
     {"gradients": 1e-30 * torch.randn(2, 6, 3)}],
)  # fmt: skip
def test_any_field_is_drawn(values, changes):
    ax = plots.field_2d(plane_of(values=values, **changes))
    ax.figure.canvas.draw()
    assert 0 < arrows(ax).scale < math.inf


def test_arrows_point_where_the_gradients_do():
    """Arrows of the data's coordinates: on the screen they turn with the scales of the axes."""
    points = torch.tensor([[0.0, 0], [4, 1], [0, 1], [4, 0]])
    ax = plots.field_2d(ge.GradientFields(points, torch.ones(1, 4, 2)))
    ax.figure.canvas.draw()
    vertices = arrows(ax).get_paths()[0].vertices
    tip = vertices[np.linalg.norm(vertices - vertices.mean(0), axis=1).argmax()]
    start, end = ax.transData.transform([[0, 0], [1, 1]])
    expected = (end - start) / np.linalg.norm(end - start)
    assert abs(expected[1] / expected[0]) > 2  # on the screen, far from the 45 degrees of the numbers
    assert tip / np.linalg.norm(tip) == pytest.approx(expected, abs=0.05)


# embedding


def test_units_have_the_colors_of_their_labels():
    ax = plots.embedding(PLACES, KINDS, method="umap")
    places, found, shapes = zip(*marks(ax), strict=True)
    assert places == ([[2, 2]], [[1, 0], [1, 1]], [[0, 0], [0, 1]])
    assert found == tuple(to_hex(plots.COLORS[i]) for i in (0, 1, 3))
    assert len(set(shapes)) == 1
    assert legend(ax) == ["0", "1", "3"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("umap 1", "umap 2")
    assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0


def test_labels_are_named_and_axes_without_a_method_numbered(drawn):
    ax = plots.embedding(PLACES.clone().requires_grad_(), KINDS, label_names=["a", "b", "c", "d"])
    assert legend(ax) == ["a", "b", "d"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("1", "2")
    assert plots.embedding(PLACES, KINDS, legend=False).get_legend() is None


@pytest.mark.parametrize("marker_names", [None, ["A", "B"]])
@pytest.mark.parametrize("markers", [[0, 0, 1, 0, 1], np.array([False, False, True, False, True])])
def test_markers_are_told_apart_and_named_if_they_have_names(markers, marker_names):
    ax = plots.embedding(PLACES, KINDS, markers=markers, marker_names=marker_names)
    found = {tuple(place): (color, shape) for places, color, shape in marks(ax) for place in places}
    assert found[0, 0][0] == found[0, 1][0]  # the same label
    assert found[0, 0][1] == found[1, 1][1] != found[0, 1][1] == found[2, 2][1]
    # without names each label stands there once, though 3 has two markers
    assert legend(ax) == (["1, A", "3, A", "0, B", "3, B"] if marker_names else ["1", "3", "0"])


def test_negative_labels_are_drawn_and_more_labels_than_colors_start_again(drawn):
    """Clusterings number what is in no cluster -1: gray, the tenth color."""
    ax = plots.embedding(PLACES, [-1, 0, 0, 1, 1])
    assert marks(ax)[0][1] == to_hex(plots.COLORS[9])
    assert legend(ax) == ["-1", "0", "1"]
    found = [color for _, color, _ in marks(plots.embedding(np.zeros((12, 2)), list(range(12))))]
    assert found[10:] == found[:2]
    assert len(set(found)) == 10


# cosine_map


def mesh(ax):
    return of_kind(ax, "QuadMesh")[0]


def test_the_map_has_every_cosine_at_its_place(drawn):
    ax = plots.cosine_map(ACROSS, UP, COSINE, points=POINTS, xlabel="first", ylabel="second")
    assert np.array_equal(mesh(ax).get_array(), COSINE)
    assert mesh(ax).get_clim() == (-1, 1)
    corners = mesh(ax).get_coordinates()
    assert corners[0, :, 0].tolist() == [-3, -1, 1, 3, 5]  # a place is the middle of its cell
    assert corners[:, 0, 1].tolist() == [-1.5, -0.5, 0.5, 1.5]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("first", "second")
    negative, zero, positive = (mesh(ax).cmap(mesh(ax).norm(value))[:3] for value in (-1.0, 0.0, 1.0))
    assert negative[2] > 2 * negative[0]  # blue
    assert min(zero) > 0.9
    assert positive[0] > 2 * positive[2]  # red: they agree
    assert ax.figure.axes[1].get_ylabel() == "cosine of gradients"
    assert [places for places, *_ in marks(ax)] == [POINTS.tolist()]  # all alike without classes
    assert ax.get_legend() is None


def test_the_line_is_where_the_sign_changes():
    (contour,) = of_kind(plots.cosine_map(ACROSS, UP, COSINE), "QuadContourSet")
    vertices = np.concatenate([path.vertices for path in contour.get_paths()])
    assert np.allclose(vertices[:, 0], 1)  # between 0, where all are below 0, and 2, where all are above
    assert (vertices[:, 1].min(), vertices[:, 1].max()) == (-1, 1)


@pytest.mark.parametrize("value", [0.0, 0.5, -1.0, math.nan])
def test_without_a_change_of_sign_there_is_no_line(drawn, value):
    ax = plots.cosine_map(ACROSS, UP, torch.full((3, 4), value))
    assert [type(collection).__name__ for collection in ax.collections] == ["QuadMesh"]


def test_places_without_a_gradient_are_gray():
    table = COSINE.clone()
    table[1, 2] = math.nan
    ax = plots.cosine_map(ACROSS, UP, table, colorbar=False)
    assert len(ax.figure.axes) == 1
    ax.figure.canvas.draw()
    pixels = np.asarray(ax.figure.canvas.buffer_rgba())
    for x, gray in ((2.0, True), (4.0, False)):
        column, row = ax.transData.transform((x, 0.0)).round().astype(int)
        assert (to_hex(pixels[len(pixels) - row, column] / 255) == "#bbbbbb") is gray


@pytest.mark.parametrize("label_names", [None, ["ash", "oak", "elm"], ["ash", "oak", "elm", "never seen"]])
def test_points_have_the_color_marker_and_name_of_their_class(drawn, label_names):
    ax = plots.cosine_map(ACROSS, UP, COSINE, points=POINTS, labels=CLASSES, label_names=label_names)
    places, found, shapes = zip(*marks(ax), strict=True)
    assert places == ([[2, 0]], [[1, 0.5]], [[0, 1], [-1, -1]])
    assert found == tuple(to_hex(color) for color in plots.COLORS[:3])
    assert len(set(shapes)) == 3
    assert legend(ax) == (label_names[:3] if label_names else ["0", "1", "2"])


# Refusals with words of their own


PREDICTED = {"predicted": GRADIENTS[..., None]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.field_1d(plane_of()), "`fields` should have one dimension. Got 3. Use field_2d"),
        (lambda: plots.field_1d(curves_of(values=None), values=True), "`values` should be False for fields without v"),
        (lambda: plots.field_1d(curves_of(), **PREDICTED, values=True), "`values` should be False with `predicted`"),
        (lambda: plots.field_1d(curves_of(), masked=MASK), "`masked` should be None without `predicted`. Got a bool"),
        (lambda: plots.embedding(PLACES, [-1, 0, 0, 1, 1], label_names=["a", "b"]), "`label_names` "
         "should name every number from 0 on. Got 2 names for -1 to 1. Name them all"),
        (lambda: plots.cosine_map(ACROSS, UP[:1], COSINE[:1]), "`vertical` should hold at least two places, each once"),
        (lambda: plots.cosine_map(ACROSS, UP * 0, COSINE), "`vertical` should hold at least two places, each once"),
        (lambda: plots.cosine_map(ACROSS, UP, COSINE, labels=CLASSES), "`labels` should be None without `points`. Got "
         ".* Pass the points too"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(call, message):
    with pytest.raises((ValueError, TypeError), match=message):  # which of them stands in the table of abuses
        call()
    assert plt.get_fignums() == []
