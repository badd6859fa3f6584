"""Figures of fields and embeddings: what is drawn where, what is refused, and that nothing is computed."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from _figures import EveryFigure
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


def curves_of(**changes):
    given = {"points": X[:, None], "gradients": GRADIENTS[..., None], "values": VALUES, "labels": LABELS}
    return ge.GradientFields(**(given | changes))


def plane_of(u=2, m=6, d=3, values=True, **changes):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    given = {"points": draw(u, m, d), "gradients": draw(u, m, d), "values": draw(u, m) if values else None}
    return ge.GradientFields(**(given | changes))


FUNCTIONS = {  # each draws into one Axes
    "field_1d": lambda **k: plots.field_1d(curves_of(), **k),
    "field_2d": lambda **k: plots.field_2d(plane_of(), **k),
    "embedding": lambda **k: plots.embedding(PLACES, KINDS, **k),
}


def names(ax):
    return [label.get_text() for label in ax.get_legend().get_texts()]


def line(curve):
    return list(zip(*(np.asarray(values).tolist() for values in curve.get_data()), strict=True))


def arrows(ax):
    (only,) = ax.collections
    return only


def marks(ax):
    """The places of each scatter, with its colour and marker."""
    return [
        (c.get_offsets().tolist(), to_hex(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes())
        for c in ax.collections
    ]


# All of them


class TestEveryFigure(EveryFigure):
    functions = {name: (function, 1, "ax") for name, function in FUNCTIONS.items()}  # noqa: RUF012


def test_arguments_stay_as_they_were():
    fields, plane, places = curves_of(), plane_of(), PLACES.clone()
    plots.field_1d(fields, predicted=fields.gradients, masked=MASK)
    plots.field_2d(plane)
    plots.embedding(places, KINDS)
    for given, fresh in ((fields, curves_of()), (plane, plane_of())):
        for name in ("points", "gradients", "values"):
            assert torch.equal(getattr(given, name), getattr(fresh, name))
    assert torch.equal(places, PLACES)


# field_1d


@pytest.mark.parametrize("values", [False, True])
def test_curves_are_the_units_in_the_order_of_their_points(values):
    ax = plots.field_1d(curves_of(), values=values)
    table = VALUES if values else GRADIENTS
    for curve, unit in zip(ax.lines, table.tolist(), strict=True):
        assert line(curve) == sorted(zip(X.tolist(), unit, strict=True))
    assert ax.get_xlabel() == "x"
    assert ax.get_ylabel() == ("value f(x)" if values else "gradient df/dx")


def test_every_unit_is_drawn_at_its_own_points():
    points = torch.stack([X, X + 1, -X])[..., None]
    ax = plots.field_1d(curves_of(points=points))
    for curve, x, g in zip(ax.lines, points[..., 0].tolist(), GRADIENTS.tolist(), strict=True):
        assert line(curve) == sorted(zip(x, g, strict=True))


def test_colours_are_those_of_the_labels_which_stand_in_the_legend_once():
    ax = plots.field_1d(curves_of())
    assert [curve.get_color() for curve in ax.lines] == [plots.COLOURS[i] for i in (2, 0, 2)]
    assert names(ax) == ["function 2", "function 0"]
    many = plots.field_1d(curves_of(labels=torch.tensor([2, 12, 7])))
    assert [curve.get_color() for curve in many.lines] == [plots.COLOURS[i] for i in (2, 2, 7)]


def test_without_labels_units_have_their_own_colours_and_no_legend():
    ax = plots.field_1d(curves_of(labels=None))
    assert [curve.get_color() for curve in ax.lines] == list(plots.COLOURS[:3])
    assert ax.get_legend() is None


@pytest.mark.parametrize("units", [[2, 0], (2, 0), torch.tensor([2, 0]), np.array([2, 0])])
def test_some_units_are_drawn_in_the_given_order(units):
    ax = plots.field_1d(curves_of(labels=None), units)
    assert [curve.get_color() for curve in ax.lines] == [plots.COLOURS[2], plots.COLOURS[0]]
    assert [max(curve.get_ydata()) for curve in ax.lines] == [1, 4]


@pytest.mark.parametrize("masked", [None, MASK])
def test_predictions_are_crosses_where_they_were_asked_for(drawn, masked):
    predicted = (GRADIENTS[..., None] + 0.25).requires_grad_()
    ax = plots.field_1d(curves_of(), [0, 2], predicted=predicted, masked=masked)
    curves, crosses = ax.lines[::2], ax.lines[1::2]
    for unit, curve, cross in zip([0, 2], curves, crosses, strict=True):
        asked = range(4) if masked is None else np.flatnonzero(MASK[unit])
        assert (cross.get_marker(), cross.get_linestyle()) == ("x", "None")
        assert line(cross) == [(float(X[i]), float(GRADIENTS[unit, i]) + 0.25) for i in asked]
        assert cross.get_color() == curve.get_color()
    assert names(ax) == ["function 2"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"fields": plane_of()}, ValueError, "`fields` should have one dimension. Got 3. Use field_2d"),
        ({"fields": curves_of(values=None), "values": True}, ValueError, "`values` should be False for fields without "
         "values. Got True. Draw the gradients"),
        ({"predicted": GRADIENTS}, ValueError, r"`predicted` should have shape \[3, 4, 1\], that of the gradients. "
         r"Got .* shape \[3, 4\]"),
        ({"predicted": VALUES[..., None], "values": True}, ValueError, "`values` should be False with `predicted`"),
        ({"masked": MASK}, ValueError, "`masked` should be None without `predicted`. Got a bool tensor"),
        ({"predicted": GRADIENTS[..., None], "masked": MASK[:2]}, ValueError,
         r"`masked` should be a mask of shape \[3, 4\]. Got a bool tensor of shape \[2, 4\]. Take it as field_mask"),
        ({"predicted": GRADIENTS[..., None], "masked": MASK.long()}, ValueError,
         r"`masked` should be a mask of shape \[3, 4\]. Got a int64 tensor"),
        ({"units": [3]}, ValueError, "`units` should lie between 0 and 2. Got 3. Choose some of them"),
        ({"units": [0, -1]}, ValueError, "`units` should lie between 0 and 2. Got -1"),
        ({"units": []}, ValueError, "`units` should be a list of units, not empty"),
        ({"units": [0.5]}, TypeError, "`units` should be an integer. Got 0.5"),
        ({"units": 1}, TypeError, "`units` should be a list of units. Got 1"),
    ],
)  # fmt: skip
def test_field_1d_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        plots.field_1d(**({"fields": curves_of()} | arguments))
    assert plt.get_fignums() == []


# field_2d


@pytest.mark.parametrize("axes", [(0, 1), (2, 0)])
def test_arrows_stand_at_the_points_and_are_the_gradients(drawn, axes):
    fields = plane_of()
    ax = plots.field_2d(fields, 1, axes=axes)
    drawn_arrows = arrows(ax)
    assert drawn_arrows.get_offsets().tolist() == fields.points[1][:, axes].tolist()
    assert np.array_equal(np.stack([drawn_arrows.U, drawn_arrows.V], 1), fields.gradients[1][:, axes])
    assert drawn_arrows.angles == "xy"  # as they point in the plane, whatever its scales
    assert (ax.get_xlabel(), ax.get_ylabel()) == tuple(f"dimension {axis}" for axis in axes)


def test_colours_are_the_values_and_explained():
    fields = plane_of()
    ax = plots.field_2d(fields, 1, xlabel="length", ylabel="width")
    assert arrows(ax).get_array().tolist() == fields.values[1].tolist()
    _, bar = ax.figure.axes
    assert bar.get_ylabel() == "value of the unit"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("length", "width")


def test_without_values_all_arrows_are_alike(drawn):
    ax = plots.field_2d(plane_of(values=False))
    assert arrows(ax).get_array() is None
    assert {to_hex(colour) for colour in arrows(ax).get_facecolor()} == {to_hex(plots.COLOURS[0])}
    assert len(ax.figure.axes) == 1


def test_shared_points_serve_every_unit():
    fields = plane_of(points=torch.randn(6, 3))
    for unit in range(2):
        assert arrows(plots.field_2d(fields, unit)).get_offsets().tolist() == fields.points[:, :2].tolist()


@pytest.mark.parametrize("values", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {"gradients": torch.zeros(2, 6, 3)},
        {"points": torch.zeros(2, 6, 3)},
        {"points": torch.zeros(2, 1, 3), "m": 1},
        {"points": torch.ones(6, 3), "gradients": torch.zeros(2, 6, 3)},
        {"points": 1e30 * torch.randn(6, 3)},
        {"gradients": 1e-30 * torch.randn(2, 6, 3)},
    ],
    ids=["no gradient", "one place", "one point", "one place, no gradient", "far apart", "short"],
)
def test_any_field_is_drawn(values, changes):
    ax = plots.field_2d(plane_of(values=values, **changes))
    ax.figure.canvas.draw()
    assert np.isfinite(arrows(ax).scale)
    assert arrows(ax).scale > 0


def test_arrows_point_where_the_gradients_do():
    """Arrows of the data's coordinates: on the screen they turn with the scales of the axes."""
    points = torch.tensor([[0.0, 0], [4, 1], [0, 1], [4, 0]])
    gradients = torch.tensor([[1.0, 1]]).expand(4, 2)
    ax = plots.field_2d(ge.GradientFields(points, gradients[None]))
    figure = ax.figure
    figure.canvas.draw()
    drawn_arrows = arrows(ax)
    vertices = drawn_arrows.get_paths()[0].vertices
    tip = vertices[np.linalg.norm(vertices - vertices.mean(0), axis=1).argmax()]
    start, end = ax.transData.transform([[0, 0], [1, 1]])
    expected = (end - start) / np.linalg.norm(end - start)
    assert abs(expected[1] / expected[0]) > 2  # on the screen, far from the 45 degrees of the numbers
    assert tip / np.linalg.norm(tip) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"unit": 2}, ValueError, "`unit` should lie between 0 and 1. Got 2. Choose one of them"),
        ({"unit": -1}, ValueError, "`unit` should lie between 0 and 1. Got -1"),
        ({"unit": 0.5}, TypeError, "`unit` should be an integer. Got 0.5"),
        ({"axes": (0, 3)}, ValueError, "`axes` should lie between 0 and 2. Got 3"),
        ({"axes": (0, "x")}, TypeError, "`axes` should be an integer. Got 'x'"),
        ({"axes": (0,)}, ValueError, "`axes` should name two dimensions. Got 1. Pass a pair"),
        ({"axes": (0, 1, 2)}, ValueError, "`axes` should name two dimensions. Got 3"),
        ({"fields": curves_of()}, ValueError, "`axes` should lie between 0 and 0. Got 1"),
    ],
)
def test_field_2d_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        plots.field_2d(**({"fields": plane_of()} | arguments))
    assert plt.get_fignums() == []


# embedding


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list])
def test_units_have_the_colours_of_their_labels(kind):
    ax = plots.embedding(kind(PLACES.tolist()), kind(KINDS), method="umap")
    drawn_marks = marks(ax)
    assert [place for place, _, _ in drawn_marks] == [[[2, 2]], [[1, 0], [1, 1]], [[0, 0], [0, 1]]]
    assert [colour for _, colour, _ in drawn_marks] == [to_hex(plots.COLOURS[i]) for i in (0, 1, 3)]
    assert len({shape for _, _, shape in drawn_marks}) == 1
    assert names(ax) == ["0", "1", "3"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("umap 1", "umap 2")
    assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0


def test_axes_without_a_method_are_numbered():
    ax = plots.embedding(PLACES, KINDS)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("1", "2")


def test_tensors_that_require_a_gradient_are_drawn(drawn):
    ax = plots.embedding(PLACES.clone().requires_grad_(), KINDS)
    assert [place for place, _, _ in marks(ax)] == [[[2, 2]], [[1, 0], [1, 1]], [[0, 0], [0, 1]]]


def test_labels_are_named():
    assert names(plots.embedding(PLACES, KINDS, label_names=["a", "b", "c", "d"])) == ["a", "b", "d"]
    assert plots.embedding(PLACES, KINDS, legend=False).get_legend() is None


@pytest.mark.parametrize("marker_names", [None, ["A", "B"]])
def test_markers_are_told_apart_and_named_if_they_have_names(marker_names):
    ax = plots.embedding(PLACES, KINDS, markers=[0, 0, 1, 0, 1], marker_names=marker_names)
    found = {tuple(place): (colour, shape) for places, colour, shape in marks(ax) for place in places}
    assert found[0, 0][0] == found[0, 1][0]  # the same label
    assert found[0, 0][1] == found[1, 1][1] != found[0, 1][1] == found[2, 2][1]
    if marker_names:
        assert names(ax) == ["1, A", "3, A", "0, B", "3, B"]
    else:
        assert names(ax) == ["1", "3", "0"]  # each once, though 3 has two markers


def test_negative_labels_without_names_are_drawn(drawn):
    """Clusterings number what is in no cluster -1: grey, the tenth colour."""
    ax = plots.embedding(PLACES, [-1, 0, 0, 1, 1])
    assert marks(ax)[0][1] == to_hex(plots.COLOURS[9])
    assert names(ax) == ["-1", "0", "1"]


def test_more_labels_than_colours_start_again():
    ax = plots.embedding(np.zeros((12, 2)), range(12))
    colours = [colour for _, colour, _ in marks(ax)]
    assert colours[10:] == colours[:2]
    assert len(set(colours)) == 10


def test_a_projection_is_drawn(drawn):
    projected = ge.metrics.project_2d(torch.randn(9, 4), method="pca")
    ax = plots.embedding(projected.coordinates, torch.zeros(9, dtype=torch.int64), method=projected.method)
    assert marks(ax)[0][0] == projected.coordinates.tolist()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"coordinates": PLACES[:, :1]}, ValueError, r"`coordinates` should have shape \[u, 2\]. Got \[5, 1\]. P"),
        ({"coordinates": PLACES[0]}, ValueError, r"`coordinates` should have shape \[u, 2\]. Got \[2\]"),
        ({"coordinates": PLACES[:0], "labels": []}, ValueError, r"`coordinates` should have shape \[u, 2\]. Got \[0"),
        ({"coordinates": PLACES / 0}, ValueError, "`coordinates` should be finite numbers. Got others. Drop"),
        ({"coordinates": [["a", "b"]] * 5}, ValueError, "`coordinates` should be finite numbers. Got others"),
        ({"labels": KINDS[:4]}, ValueError, r"`labels` should be one for each of 5 units. Got \[4\]. Pass as many"),
        ({"labels": [KINDS]}, ValueError, r"`labels` should be one for each of 5 units. Got \[1, 5\]"),
        ({"labels": list("abcde")}, TypeError, "`labels` should be whole numbers. Got type <U1. Number them"),
        ({"labels": torch.zeros(5)}, TypeError, "`labels` should be whole numbers. Got type float32"),
        ({"markers": [0]}, ValueError, r"`markers` should be one for each of 5 units. Got \[1\]"),
        ({"markers": [0.5] * 5}, TypeError, "`markers` should be whole numbers. Got type float64"),
        ({"label_names": list("abc")}, ValueError, "`label_names` should name every number from 0 on. Got 3 names for "
         "0 to 3. Name them all"),
        ({"labels": [-1, 0, 0, 1, 1], "label_names": list("ab")}, ValueError, "`label_names` should name every number "
         "from 0 on. Got 2 names for -1 to 1"),
        ({"markers": [0, 1, 0, 1, 2], "marker_names": list("AB")}, ValueError, "`marker_names` should name every "),
    ],
)  # fmt: skip
def test_embedding_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        plots.embedding(**({"coordinates": PLACES, "labels": KINDS} | arguments))
    assert plt.get_fignums() == []
