"""Figures: what is drawn where, with which words, numbers and colours, and that nothing is shown."""

import math
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from _figures import SOURCE, EveryFigure
from matplotlib.colors import to_hex

import gradembed as ge
from gradembed import plots

MEASURES = {
    "cosine": "mean cosine of gradients",
    "abs_cosine": "mean |cosine| of gradients",
    "conflict": "share of samples in conflict (cosine < 0)",
}
LAYERS = ("input", "hidden1")
pytestmark = pytest.mark.usefixtures("shown")


def symmetric(u, low, high, seed):
    matrix = torch.empty(u, u, dtype=torch.float64).uniform_(low, high, generator=torch.Generator().manual_seed(seed))
    return (matrix + matrix.T) / 2


def make_result(u=3, seed=0, layers=LAYERS, empty=False):
    """An interference of made-up numbers; ``empty``: the pair of the units 0 and 1 never happens at the input."""
    count = {layer: torch.full((u, u), 9) for layer in layers}
    if empty:
        count["input"][0, 1] = count["input"][1, 0] = 0
    return ge.Interference(
        cosine={layer: symmetric(u, -1, 1, seed + i) for i, layer in enumerate(layers)},
        abs_cosine={layer: symmetric(u, 0, 1, seed + 10 + i) for i, layer in enumerate(layers)},
        conflict={layer: symmetric(u, 0, 1, seed + 20 + i) for i, layer in enumerate(layers)},
        norm_similarity={layer: symmetric(u, 0, 1, seed + 30 + i) for i, layer in enumerate(layers)},
        effective_dimension=dict.fromkeys(layers, 8.0),
        chance=dict.fromkeys(layers, 0.3),
        norm={layer: torch.ones(u, dtype=torch.float64) for layer in layers},
        undefined={layer: torch.zeros(u, dtype=torch.int64) for layer in layers},
        count=count,
        n_samples=9,
        unit_layer="output",
        unit_labels=tuple(f"u{i}" for i in range(u)),
    )


def make_run(seed=0, score="accuracy", epochs=5):
    generator = np.random.default_rng(seed)
    columns = ["train_loss", f"train_{score}", "test_loss", f"test_{score}"]
    history = pd.DataFrame({"epoch": range(1, epochs + 1)} | {name: generator.random(epochs) for name in columns})
    scores = {"test_accuracy": None, "test_r2": None} | {f"test_{score}": 0.5}
    return ge.TrainingRun(torch.nn.Linear(1, 1), history, config=ge.TrainConfig(), seconds=1.0, **scores)


MATRIX = torch.tensor([[1.0, -0.25], [0.52, 0.0]])
COUNTS = torch.tensor([[90, 3, 0], [1, 80, 7], [0, 2, 70]])
RESULT, RUN = make_result(), make_run()


def numbers(ax):
    return [text.get_text() for text in ax.texts]


def image(ax):
    (only,) = ax.images
    return only


# All of them


class TestEveryFigure(EveryFigure):
    functions = {  # noqa: RUF012
        "similarity_matrix": (lambda **k: plots.similarity_matrix(MATRIX, **k), 1, "ax"),
        "interference": (lambda **k: plots.interference(RESULT, **k), 2, "axes"),
        "conflict_by_layer": (lambda **k: plots.conflict_by_layer({"name": RESULT}, **k), 1, "ax"),
        "history": (lambda **k: plots.history(RUN, **k), 2, "axes"),
        "confusion": (lambda **k: plots.confusion(COUNTS, **k), 1, "ax"),
        "images": (lambda **k: plots.images(torch.arange(48.0).reshape(3, 16), ["a", "b", "c"], **k), 3, None),
    }


def test_source_stands_in_a_part_of_a_figure_too():
    part, _ = plt.figure(layout="constrained").subfigures(1, 2)
    ax = part.subplots()
    plots.similarity_matrix(MATRIX, source=SOURCE, ax=ax)
    assert SOURCE in part.get_supxlabel() + part.figure.get_supxlabel()


# similarity_matrix


@pytest.mark.parametrize(("measure", "limits"), [("cosine", (-1, 1)), ("abs_cosine", (0, 1)), ("conflict", (0, 1))])
def test_colours_have_the_limits_of_the_measure(measure, limits):
    ax = plots.similarity_matrix(MATRIX / 10, measure=measure)
    assert image(ax).get_clim() == limits
    _, bar = ax.figure.axes
    assert bar.get_ylabel() == MEASURES[measure]
    assert np.array_equal(image(ax).get_array(), (MATRIX / 10).numpy())


def colour_of(ax, value):
    return np.array(image(ax).cmap(image(ax).norm(value))[:3])


def test_signed_scores_diverge_from_the_middle_and_shares_do_not():
    signed, share = (plots.similarity_matrix(MATRIX, measure=measure) for measure in ("cosine", "conflict"))
    assert colour_of(signed, 0.0).min() > 0.9
    assert colour_of(signed, -1.0)[2] > 2 * colour_of(signed, -1.0)[0]  # blue below
    assert colour_of(signed, 1.0)[0] > 2 * colour_of(signed, 1.0)[2]  # red above
    light = [float(colour_of(share, value) @ [0.3, 0.6, 0.1]) for value in np.linspace(0, 1, 11)]
    assert (np.diff(light) > 0).all()


def test_matrix_is_labelled():
    ax = plots.similarity_matrix(MATRIX, ["cat", "dog"], title="pets", axis_label="species")
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == ("pets", "species", "species")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["cat", "dog"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["cat", "dog"]


def test_units_are_numbered_without_labels():
    ax = plots.similarity_matrix(torch.eye(3))
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "1", "2"]
    assert ax.get_xlabel() == "unit"


@pytest.mark.parametrize("u", [16, 17, 40])
def test_many_labels_are_thinned(u):
    ax = plots.similarity_matrix(torch.eye(u))
    ticks = [tick.get_text() for tick in ax.get_yticklabels()]
    assert len(ticks) <= 16
    assert ticks == [f"{place:g}" for place in ax.get_yticks()]
    assert (len(ticks) == u) is (u <= 16)


def test_colour_bar_can_be_left_out():
    assert len(plots.similarity_matrix(MATRIX, colorbar=False).figure.axes) == 1
    assert len(plots.similarity_matrix(MATRIX).figure.axes) == 2


def test_numbers_stand_in_their_cells():
    table = torch.tensor([[1.0, 0.5, -0.5], [0.0, -1.0, 0.04], [-0.04, 0.96, 0.26]])
    ax = plots.similarity_matrix(table)
    assert numbers(ax) == ["1.0", ".5", "-.5", ".0", "-1.0", ".0", ".0", "1.0", ".3"]
    for text, (i, j) in zip(ax.texts, np.ndindex(3, 3), strict=True):
        assert text.get_position() == (j, i)


@pytest.mark.parametrize(("u", "n_numbers"), [(1, 1), (12, 144), (13, 0), (40, 0)])
def test_numbers_stand_where_there_is_room(u, n_numbers):
    assert len(plots.similarity_matrix(torch.eye(u)).texts) == n_numbers


@pytest.mark.parametrize("measure", ["cosine", "conflict"])
def test_numbers_are_dark_on_light_and_light_on_dark(measure):
    ax = plots.similarity_matrix(torch.linspace(0, 1, 16).reshape(4, 4), measure=measure)
    for text, value in zip(ax.texts, np.linspace(0, 1, 16), strict=True):
        light = float(colour_of(ax, value) @ [0.3, 0.6, 0.1])
        assert to_hex(text.get_color()) == ("#ffffff" if light < 0.5 else "#000000")


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 0.3, math.nan])
@pytest.mark.parametrize("measure", ["cosine", "abs_cosine", "conflict"])
def test_constant_matrix_is_drawn(drawn, value, measure):
    ax = plots.similarity_matrix(torch.full((3, 3), value), measure=measure)
    assert len(numbers(ax)) == 9
    assert len(set(numbers(ax))) == 1


@pytest.mark.parametrize(
    "matrix", [torch.eye(3, dtype=torch.float64), torch.eye(3, requires_grad=True), torch.eye(3, dtype=torch.int64)]
)
def test_any_kind_of_tensor_is_drawn(matrix):
    assert numbers(plots.similarity_matrix(matrix))[:2] == ["1.0", ".0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"matrix": torch.zeros(2, 3)},
            r"`matrix` should be square, \[u, u\], and not empty. Got .* shape \[2, 3\]. Pass one",
        ),
        ({"matrix": torch.zeros(2)}, r"`matrix` should be square, \[u, u\], and not empty. Got .* shape \[2\]"),
        (
            {"matrix": torch.zeros(2, 2, 2)},
            r"`matrix` should be square, \[u, u\], and not empty. Got .* shape \[2, 2, 2\]",
        ),
        ({"labels": ["a"]}, "`labels` should name each of 2 units. Got 1. Name them all"),
        ({"labels": ["a", "b", "c"]}, "`labels` should name each of 2 units. Got 3"),
        (
            {"measure": "sine"},
            "`measure` should be one of 'cosine', 'abs_cosine', 'conflict', 'norm_similarity'. Got 'sine'. Choose one",
        ),
        (
            {"measure": None},
            "`measure` should be one of 'cosine', 'abs_cosine', 'conflict', 'norm_similarity'. Got None",
        ),
    ],
)
def test_similarity_matrix_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.similarity_matrix(**{"matrix": MATRIX, **arguments})
    assert plt.get_fignums() == []


@pytest.mark.parametrize("draw", [plots.similarity_matrix, plots.confusion])
def test_empty_matrix_is_refused(draw):
    with pytest.raises(ValueError, match="should"):
        draw(torch.zeros(0, 0))


# interference


@pytest.mark.parametrize("measure", ["cosine", "abs_cosine", "conflict"])
def test_each_layer_has_a_panel_with_its_matrix(measure):
    result = make_result()
    panels = plots.interference(result, measure=measure, title="all", axis_label="species")
    assert [ax.get_title().split("\n")[0] for ax in panels] == ["input", "hidden1"]
    assert [ax.get_xlabel() for ax in panels] == ["species", "species"]
    assert [ax.get_ylabel() for ax in panels] == ["species", ""]
    for ax, layer in zip(panels, LAYERS, strict=True):
        assert np.array_equal(image(ax).get_array(), getattr(result, measure)[layer].numpy())
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["u0", "u1", "u2"]
        assert image(ax).get_clim() == ((-1, 1) if measure == "cosine" else (0, 1))
        assert len(numbers(ax)) == 9
    assert len(panels[0].figure.axes) == 3  # and one colour scale
    assert panels[0].figure.axes[-1].get_ylabel() == MEASURES[measure]
    assert panels[0].figure.get_suptitle() == "all"


def test_layers_can_be_chosen_and_ordered():
    panels = plots.interference(make_result(), layers=["hidden1", "input"])
    assert [ax.get_title() for ax in panels] == ["hidden1", "input"]
    (only,) = plots.interference(make_result(), layers=["hidden1"])
    assert only.get_title() == "hidden1"
    assert (only.get_xlabel(), only.get_ylabel()) == ("class", "class")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"measure": "norm"},
            "`measure` should be one of 'cosine', 'abs_cosine', 'conflict', 'norm_similarity'. Got 'norm'",
        ),
        ({"layers": ["output"]}, "`layers` should name a layer .* Got 'output'. Choose one of 'input', 'hidden1'"),
        ({"layers": "input"}, "`layers` should be a list of layer names. Got 'input'"),
        ({"axes": []}, "`axes` should be 2, one for each panel. Got 0. Pass None to have them made"),
    ],
)
def test_interference_refuses(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        plots.interference(make_result(), **arguments)
    assert plt.get_fignums() == []


def test_layer_that_is_no_name_is_refused():
    with pytest.raises(TypeError, match=r"`layers` should be a layer's name\. Got 3\. Use 'input' or"):
        plots.interference(make_result(), layers=[3])


@pytest.mark.parametrize("n_axes", [1, 3])
@pytest.mark.parametrize("draw", [lambda axes: plots.interference(make_result(), axes=axes),
                                  lambda axes: plots.history(make_run(), axes=axes)])  # fmt: skip
def test_too_few_or_too_many_axes_are_refused(draw, n_axes):
    _, grid = plt.subplots(1, n_axes, squeeze=False)
    with pytest.raises(ValueError, match=f"`axes` should be 2, one for each panel. Got {n_axes}. Pass None"):
        draw(list(grid[0]))
    assert not any(ax.has_data() for ax in grid[0])


def test_no_layers_are_refused():
    with pytest.raises(ValueError, match="`layers` should"):
        plots.interference(make_result(), layers=[])


# conflict_by_layer


def pair_means(result, measure):
    """Means over the pairs of different units that have the measure."""
    upper = np.triu_indices(len(result.unit_labels), 1)
    means = []
    for layer in result.layers:
        values, counts = getattr(result, measure)[layer].numpy()[upper], result.count[layer].numpy()[upper]
        means.append(values[counts > 0].mean())
    return means


@pytest.mark.parametrize("measure", ["cosine", "abs_cosine", "conflict"])
@pytest.mark.parametrize("empty", [False, True])
def test_line_is_the_mean_over_pairs(measure, empty):
    result = make_result(4, empty=empty)
    ax = plots.conflict_by_layer({"trained": result}, measure=measure)
    line, *chance = ax.lines
    assert len(chance) == (measure == "abs_cosine")
    assert line.get_ydata() == pytest.approx(pair_means(result, measure))
    assert ax.get_xlabel() == "layer"
    assert ax.get_ylabel() == f"{MEASURES[measure]},\nmean over pairs"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(LAYERS)


def test_pair_that_never_happens_changes_the_mean():
    assert pair_means(make_result(4, empty=True), "cosine") != pair_means(make_result(4), "cosine")


def test_layer_without_any_pair_is_drawn_at_zero():
    (line,) = plots.conflict_by_layer(make_result(2, empty=True)).lines
    assert line.get_ydata()[0] == 0
    assert line.get_ydata()[1] != 0


def band(ax):
    """Lower and upper edge of the only band, by layer."""
    (collection,) = ax.collections
    (path,) = collection.get_paths()
    x, y = path.vertices.T
    return [(y[x == place].min(), y[x == place].max()) for place in range(len(LAYERS))]


def test_several_results_are_a_mean_with_a_band():
    results = [make_result(seed=seed) for seed in (0, 100, 200)]
    ax = plots.conflict_by_layer({"seeds": results})
    means = np.array([pair_means(result, "conflict") for result in results])
    (line,) = ax.lines
    assert line.get_ydata() == pytest.approx(means.mean(0))
    assert band(ax) == [pytest.approx(pair) for pair in zip(means.min(0), means.max(0), strict=True)]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["seeds (3 networks)"]


def test_groups_are_lines_of_their_own_colours_with_a_legend_beside():
    ax = plots.conflict_by_layer({f"group {i}": make_result(seed=i) for i in range(10)})
    assert len({to_hex(line.get_color()) for line in ax.lines}) == 10
    legend = ax.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [f"group {i}" for i in range(10)]
    ax.figure.canvas.draw()
    assert legend.get_window_extent().x0 >= ax.get_window_extent().x1


def test_more_groups_than_colours_are_all_drawn():
    assert len(plots.conflict_by_layer({str(i): make_result(seed=i) for i in range(12)}).lines) == 12


def test_single_result_needs_no_legend():
    ax = plots.conflict_by_layer(make_result())
    assert len(ax.lines) == 1
    assert ax.get_legend() is None


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({}, r"`results` should hold at least one result for each name. Got \{\}. Pass what interference returned"),
        ({"a": []}, r"`results` should hold at least one result for each name. Got \{'a': \[\]\}"),
        ([], "`results` should hold at least one result for each name"),
        ({"a": make_result(), "b": []}, "`results` should hold at least one result for each name"),
        ({"a": make_result(), "b": make_result(layers=("input",))}, "`results` should have the same layers"),
        ({"a": make_result(), "b": make_result(layers=("hidden1", "input"))}, "`results` should have the same layers"),
        ({"a": [make_result(), make_result(layers=("input",))]}, "the same layers. Got different ones. Call"),
    ],
)
def test_conflict_by_layer_refuses(results, message):
    with pytest.raises(ValueError, match=message):
        plots.conflict_by_layer(results)
    assert plt.get_fignums() == []


def test_conflict_by_layer_refuses_measures():
    with pytest.raises(ValueError, match=r"`measure` should be one of .* Got 'norm'"):
        plots.conflict_by_layer(make_result(), measure="norm")


def test_single_unit_has_no_pairs_and_is_drawn_at_zero():
    (line,) = plots.conflict_by_layer(make_result(1)).lines
    assert list(line.get_ydata()) == [0, 0]


# history


@pytest.mark.parametrize(("score", "label"), [("accuracy", "accuracy"), ("r2", "R²")])
def test_history_draws_loss_and_score_of_both_parts(drawn, score, label):
    run = make_run(score=score)
    loss, right = plots.history(run, title="how it went")
    assert [ax.get_ylabel() for ax in (loss, right)] == ["loss", label]
    assert [ax.get_xlabel() for ax in (loss, right)] == ["epoch", "epoch"]
    assert (loss.get_yscale(), right.get_yscale()) == ("log", "linear")
    for ax, quantity in ((loss, "loss"), (right, score)):
        assert len(ax.lines) == 2
        for line, part in zip(ax.lines, ("train", "test"), strict=True):
            assert list(line.get_xdata()) == [1, 2, 3, 4, 5]
            assert line.get_ydata().tolist() == run.history[f"{part}_{quantity}"].tolist()
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["train", "test"]
    assert loss.figure.get_suptitle() == "how it went"


def test_history_legend_stands_beside():
    _, right = plots.history(make_run())
    right.figure.canvas.draw()
    assert right.get_legend().get_window_extent().x0 >= right.get_window_extent().x1


def test_each_seed_is_a_line_and_each_part_one_entry_of_the_legend():
    _, right = plots.history([make_run(0), make_run(1), make_run(2)])
    assert len(right.lines) == 6
    assert len({to_hex(line.get_color()) for line in right.lines}) == 2
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["train", "test"]


def test_single_epoch_is_seen():
    _, right = plots.history(make_run(epochs=1))
    assert right.lines[0].get_marker() not in ("None", "", None)


def test_history_refuses_no_runs():
    with pytest.raises(ValueError, match=r"`runs` should hold at least one run\. Got none\. Pass what"):
        plots.history([])
    assert plt.get_fignums() == []


# confusion


@pytest.mark.parametrize("counts", [COUNTS, COUNTS.numpy(), COUNTS.float()], ids=["tensor", "array", "float"])
def test_confusion_writes_counts_and_colours_mistakes(counts):
    ax = plots.confusion(counts, ["a", "b", "c"], title="errors")
    assert numbers(ax) == ["90", "3", "0", "1", "80", "7", "0", "2", "70"]
    assert [text.get_position() for text in ax.texts][:4] == [(0, 0), (1, 0), (2, 0), (0, 1)]
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == ("errors", "predicted class", "true class")
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b", "c"]
    drawn = image(ax).get_array()
    assert np.array_equal(np.ma.getmaskarray(drawn), np.eye(3, dtype=bool))
    assert image(ax).get_clim() == (0, 7)
    assert to_hex(image(ax).cmap(drawn)[0, 0]) == "#d9d9d9"
    assert ax.figure.axes[-1].get_ylabel() == "mistakes (images)"


def test_confusion_numbers_classes_without_labels():
    assert [tick.get_text() for tick in plots.confusion(COUNTS).get_xticklabels()] == ["0", "1", "2"]


@pytest.mark.parametrize(
    "counts", [torch.zeros(3, 3), torch.eye(3) * 5, torch.full((3, 3), 4)], ids=["empty", "no mistakes", "all alike"]
)
def test_constant_confusion_is_drawn(drawn, counts):
    ax = plots.confusion(counts)
    assert numbers(ax) == [f"{int(number)}" for number in counts.flatten()]


def test_confusion_of_one_class_is_drawn(drawn):
    assert numbers(plots.confusion(torch.tensor([[9]]))) == ["9"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"counts": torch.zeros(2, 3)},
            r"`counts` should be square, \[t, t\], and not empty. Got shape \[2, 3\]. Pass a",
        ),
        ({"counts": torch.zeros(4)}, r"`counts` should be square, \[t, t\], and not empty. Got shape \[4\]"),
        ({"labels": ["a", "b"]}, "`labels` should name each of 3 classes. Got 2. Name them all"),
    ],
)
def test_confusion_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.confusion(**{"counts": COUNTS, **arguments})
    assert plt.get_fignums() == []


# images


@pytest.mark.parametrize(("k", "columns", "grid"), [(1, 5, (1, 1)), (5, 5, (1, 5)), (6, 5, (2, 5)), (3, 2, (2, 2))])
def test_pictures_stand_in_a_grid(k, columns, grid):
    rows = torch.arange(k * 9.0).reshape(k, 9) - 7
    panels = plots.images(rows, [f"p{i}" for i in range(k)], columns=columns, label="gradient", title="directions")
    assert [ax.get_title() for ax in panels] == [f"p{i}" for i in range(k)]
    for ax, row in zip(panels, rows, strict=True):
        assert np.array_equal(image(ax).get_array(), row.reshape(3, 3).numpy())
        assert not ax.axison
    *pictures, bar = panels[0].figure.axes
    assert len(pictures) == grid[0] * grid[1]
    assert not any(ax.has_data() or ax.axison for ax in pictures[k:])
    assert panels[0].get_subplotspec().get_gridspec().get_geometry() == grid
    assert bar.get_ylabel() == "gradient"
    assert panels[0].figure.get_suptitle() == "directions"


@pytest.mark.parametrize("rows", [torch.tensor([[-3.0, 0, 1, 2], [0, 0, 0, 1]]), torch.tensor([[0.0, 0, 1, 3]])])
def test_signed_pictures_have_one_scale_around_zero(rows):
    panels = plots.images(rows, ["a", "b"][: len(rows)])
    assert {image(ax).get_clim() for ax in panels} == {(-3, 3)}
    assert colour_of(panels[0], 0.0).min() > 0.9


def test_unsigned_pictures_have_one_scale_from_least_to_greatest():
    panels = plots.images(torch.tensor([[-3.0, 0, 1, 2], [0, 0, 0, 1]]), ["a", "b"], signed=False)
    assert {image(ax).get_clim() for ax in panels} == {(-3, 2)}
    assert len(set(colour_of(panels[0], 0.0))) == 1  # grey


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("value", [0.0, 2.0])
def test_constant_pictures_are_drawn(drawn, value, signed):
    panels = plots.images(torch.full((2, 4), value), ["a", "b"], signed=signed)
    low, high = image(panels[0]).get_clim()
    assert low <= value <= high


def test_pictures_that_require_a_gradient_are_drawn():
    assert len(plots.images(torch.ones(2, 4, requires_grad=True), ["a", "b"])) == 2


@pytest.mark.parametrize(
    ("rows", "titles", "message"),
    [
        (torch.ones(2, 5), ["a", "b"], r"`rows` should have shape \[k, side²\]. Got .* shape \[2, 5\]. Pass square"),
        (torch.ones(4), ["a"], r"`rows` should have shape \[k, side²\]. Got .* shape \[4\]"),
        (torch.ones(2, 2, 4), ["a", "b"], r"`rows` should have shape \[k, side²\]. Got .* shape \[2, 2, 4\]"),
        (torch.ones(2, 4), ["a"], "`titles` should name each of 2 pictures. Got 1. Name them all"),
    ],
)
def test_images_refuse(rows, titles, message):
    with pytest.raises(ValueError, match=message):
        plots.images(rows, titles)
    assert plt.get_fignums() == []


@pytest.mark.parametrize(("k", "columns"), [(0, 5), (2, 0)])
def test_images_refuse_what_has_no_columns(k, columns):
    with pytest.raises(ValueError, match="should"):
        plots.images(torch.ones(k, 4), ["a", "b"][:k], columns=columns)


# The module


def test_colours_are_the_same_for_each_class_everywhere_and_all_differ():
    assert len(plots.COLOURS) == len(set(plots.COLOURS)) == 10


def test_plots_are_reached_from_the_package():
    assert ge.plots is plots


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="module 'gradembed' has no attribute 'plot'"):
        _ = ge.plot


def test_only_results_are_needed():
    """Anything with the attributes of a run will do: nothing is computed from the model."""
    run = make_run()
    stand_in = SimpleNamespace(history=run.history, test_accuracy=0.5, test_r2=None)
    assert len(plots.history(stand_in)) == 2


# Intervals, chance and control


def measured(**arguments):
    return ge.interference(ge.MLP([6, 8, 8, 3], seed=0), torch.randn(60, 6), **arguments)


def test_conflict_by_layer_draws_interval_chance_and_control():
    result = measured(n_bootstrap=50, n_untrained=3)
    ax = plots.conflict_by_layer({"mine": result}, measure="abs_cosine")
    drawn = {line.get_label(): list(line.get_ydata()) for line in ax.lines if not line.get_label().startswith("_")}
    assert drawn["mine"] == [result.pair_mean("abs_cosine", layer) for layer in result.layers]
    assert drawn["chance at its effective dimension"] == [result.chance[layer] for layer in result.layers]
    control = [[copy.pair_mean("abs_cosine", layer) for copy in result.untrained] for layer in result.layers]
    assert drawn["the same untrained (3)"] == pytest.approx([np.mean(values) for values in control])
    bars = ax.containers[0].lines[2][0].get_segments()
    for bar, layer in zip(bars, result.layers, strict=True):
        assert bar[:, 1] == pytest.approx(result.summary_intervals["abs_cosine"][layer])
    plain = plots.conflict_by_layer({"mine": measured()})
    assert len(plain.lines) == 1  # nothing stands beside what has neither
    assert not plain.containers


def test_interference_dots_pairs_whose_interval_holds_no_preference():
    result = measured(n_bootstrap=50)
    for measure, neutral in (("cosine", 0.0), ("conflict", 0.5)):
        for ax, layer in zip(plots.interference(result, measure=measure), result.layers, strict=True):
            low, high = result.intervals[measure][layer].numpy()
            dots = {(round(x - 0.36), round(y + 0.36)) for x, y in ax.collections[0].get_offsets().tolist()}
            expected = {(j, i) for i in range(3) for j in range(3) if low[i, j] <= neutral <= high[i, j]}
            assert dots == expected
    assert all(not ax.collections for ax in plots.interference(measured()))


def test_titles_of_abs_cosine_name_what_it_is_held_against():
    result = measured(n_untrained=2)
    title = plots.interference(result, measure="abs_cosine")[0].get_title()
    control = np.mean([copy.pair_mean("abs_cosine", "input") for copy in result.untrained])
    mean = result.pair_mean("abs_cosine", "input")
    assert title == f"input\nmean {mean:.2f}, chance {result.chance['input']:.2f}, untrained {control:.2f}"
