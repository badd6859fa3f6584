"""Figures: what holds for all, and those of interference and training."""

import copy
import dataclasses
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from _abuse_plots import SUBJECTS
from _figures import SOURCE, band, color_of, image, legend, words
from matplotlib.colors import to_hex

import gradembed as ge
from gradembed import plots

pytestmark = pytest.mark.usefixtures("shown")
MEASURES = {
    "cosine": ("mean cosine of gradients", (-1, 1)),
    "abs_cosine": ("mean |cosine| of gradients", (0, 1)),
    "conflict": ("share of samples in conflict (cosine < 0)", (0, 1)),
    "norm_similarity": ("mean norm similarity of gradients", (0, 1)),
}
MATRIX = torch.tensor([[1.0, -0.25], [0.52, 0.0]])
COUNTS = torch.tensor([[90, 3, 0], [1, 80, 7], [0, 2, 70]])


def measured(u=3, seed=0, **arguments):
    return ge.interference(ge.MLP([6, 8, u], seed=seed), torch.randn(60, 6), **arguments)


def emptied(result):
    """As if the pair of the units 0 and 1 never happened at the input."""
    count = result.count["input"].clone()
    count[0, 1] = count[1, 0] = 0
    return dataclasses.replace(result, count=result.count | {"input": count})


def make_run(seed=0, score="accuracy", epochs=5):
    generator = np.random.default_rng(seed)
    columns = ["train_loss", f"train_{score}", "test_loss", f"test_{score}"]
    history = pd.DataFrame({"epoch": range(1, epochs + 1)} | {name: generator.random(epochs) for name in columns})
    scores = {"test_accuracy": None, "test_r2": None} | {f"test_{score}": 0.5}
    return ge.TrainingRun(torch.nn.Linear(1, 1), history, config=ge.TrainConfig(), seconds=1.0, **scores)


# All of them

PANELS = {"interference": ("axes", 1), "course": ("axes", 2), "history": ("axes", 2), "unit_card": ("axes", 4),
          "images": (None, 2)}  # fmt: skip


def draw(name, **options):
    """An ordinary call: the Axes as a list, whatever it returns."""
    subject = SUBJECTS[f"plots.{name}"]
    result = subject.call(**subject.usual(), **options)
    return result if isinstance(result, list) else [result]


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("name", [name.removeprefix("plots.") for name in SUBJECTS])
class TestEveryFigure:
    def test_one_figure_is_made_named_and_signed_and_nothing_else_is_changed(self, name):
        subject = SUBJECTS[f"plots.{name}"]
        given, before = subject.usual(), torch.get_rng_state()
        kept = copy.deepcopy(given)
        result = subject.call(**given, title="what is seen", source=SOURCE)
        axes = result if isinstance(result, list) else [result]
        assert isinstance(result, list) is (name in PANELS)
        assert len(axes) == PANELS.get(name, ("ax", 1))[1]
        assert plt.get_fignums() == [plt.gcf().number]
        assert all(isinstance(ax, plt.Axes) and ax.figure is plt.gcf() for ax in axes)
        assert "what is seen" in (axes[0].get_title(), axes[0].figure.get_suptitle())
        assert axes[0].figure.get_supxlabel() == f"data: {SOURCE}"
        assert torch.equal(torch.get_rng_state(), before)
        for argument, value in given.items():
            if isinstance(value, torch.Tensor | pd.DataFrame):
                assert value.equal(kept[argument]) if isinstance(value, torch.Tensor) else value.equals(kept[argument])

    def test_without_words_there_are_none(self, name):
        figure = draw(name)[0].figure
        assert (figure.get_supxlabel(), figure.get_suptitle() == "") == ("", name != "unit_card")  # which has a name

    def test_given_axes_are_drawn_into_and_no_figure_is_made(self, name):
        argument, number = PANELS.get(name, ("ax", 1))
        if argument is None:  # images: always makes a figure
            draw(name)
            return
        figure, grid = plt.subplots(1, number + 1, layout="constrained")
        given = list(grid[:number])
        result = draw(name, source=SOURCE, **{argument: given[0] if argument == "ax" else given})
        assert all(a is b for a, b in zip(result, given, strict=True))
        assert plt.get_fignums() == [figure.number]
        assert all(ax.has_data() or ax.texts for ax in given)
        assert not grid[number].has_data()
        assert figure.get_supxlabel() == f"data: {SOURCE}"
        if argument == "axes":
            with pytest.raises(ValueError, match=f"`axes` should be {number}, one for each panel. Got {number + 1}. P"):
                draw(name, axes=list(grid))
        with pytest.raises(TypeError, match=rf"`{argument}` should be Axes of matplotlib. Got 3\. Pass some of"):
            draw(name, **{argument: 3})


def test_source_stands_in_a_part_of_a_figure_too():
    part, _ = plt.figure(layout="constrained").subfigures(1, 2)
    plots.similarity_matrix(MATRIX, source=SOURCE, ax=part.subplots())
    assert SOURCE in part.get_supxlabel() + part.figure.get_supxlabel()


@pytest.mark.parametrize("value", [0.0, 4.0])
def test_constant_numbers_are_drawn(drawn, value):
    assert len(plots.similarity_matrix(torch.full((3, 3), value)).texts) == 6
    plots.similarity_matrix(torch.full((3, 3), math.nan))
    assert words(plots.confusion(torch.full((2, 2), value)).texts) == [f"{value:.0f}"] * 4
    for signed in (True, False):
        low, high = image(plots.images(torch.full((2, 4), value), ["a", "b"], signed=signed)[0]).get_clim()
        assert low <= value <= high


# similarity_matrix


@pytest.mark.parametrize("measure", MEASURES)
def test_colors_have_the_limits_of_the_measure_and_are_explained(measure):
    label, (low, high) = MEASURES[measure]
    assert image(plots.similarity_matrix(MATRIX / 10, measure=measure)).get_clim()[1] == pytest.approx(0.052)
    ax = plots.similarity_matrix(MATRIX / 10, measure=measure, limit=1)
    assert image(ax).get_clim() == (low, high)
    assert ax.figure.axes[1].get_ylabel() == label
    assert len(plots.similarity_matrix(MATRIX, measure=measure, colorbar=False).figure.axes) == 1
    narrow = plots.similarity_matrix(MATRIX, measure=measure, limit=0.6)
    assert image(narrow).get_clim() == (0.6 * low, 0.6)
    if low < 0:  # diverges from white: blue below, red above
        assert min(color_of(ax, 0.0)) > 0.9
        assert color_of(ax, -1.0)[2] > 2 * color_of(ax, -1.0)[0]
        assert color_of(ax, 1.0)[0] > 2 * color_of(ax, 1.0)[2]
    else:
        light = [np.dot(color_of(ax, value), [0.3, 0.6, 0.1]) for value in np.linspace(0, 1, 11)]
        assert (np.diff(light) > 0).all()


def test_a_matrix_is_labeled_and_its_diagonal_left_gray():
    ax = plots.similarity_matrix(MATRIX, ["cat", "dog"], axis_label="species")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("species", "species")
    assert words(ax.get_xticklabels()) == words(ax.get_yticklabels()) == ["cat", "dog"]
    drawn = image(ax).get_array()
    assert np.array_equal(np.ma.getmaskarray(drawn), np.eye(2, dtype=bool))
    assert np.array_equal(drawn.data, MATRIX)
    assert to_hex(image(ax).cmap(drawn)[0, 0]) == "#d9d9d9"


@pytest.mark.parametrize(("u", "shown"), [(1, 1), (12, 12), (13, 13), (16, 16), (17, 9), (40, 14)])
def test_many_labels_are_thinned_and_numbers_stand_where_there_is_room(u, shown):
    ax = plots.similarity_matrix(torch.eye(u))
    ticks = words(ax.get_yticklabels())
    assert len(ticks) == shown
    assert ticks == [f"{place:g}" for place in ax.get_yticks()]
    assert ax.get_xlabel() == "unit"
    assert len(ax.texts) == (u * (u - 1) if u <= 12 else 0)


def test_numbers_stand_in_their_cells():
    table = torch.tensor([[1.0, 0.5, -0.5], [0.0, -1.0, 0.04], [-0.04, 0.96, 0.26]])
    ax = plots.similarity_matrix(table)
    found = {text.get_position(): text.get_text() for text in ax.texts}
    assert found == {(1, 0): ".50", (2, 0): "-.50", (0, 1): ".00", (2, 1): ".04", (0, 2): "-.04", (1, 2): ".96"}
    table = torch.full((5, 5), -0.04)
    assert {text.get_text() for text in plots.similarity_matrix(table).texts} == {".0"}  # less room, no minus zero


@pytest.mark.parametrize("measure", ["cosine", "conflict"])
def test_numbers_are_dark_on_light_and_light_on_dark(measure):
    table = torch.linspace(0, 1, 16).reshape(4, 4)
    ax = plots.similarity_matrix(table, measure=measure)
    for text in ax.texts:
        column, row = text.get_position()
        light = np.dot(color_of(ax, float(table[row, column])), [0.3, 0.6, 0.1])
        assert text.get_color() == ("white" if light < 0.5 else "black")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.similarity_matrix(torch.zeros(2, 3)), r"`matrix` should be square, \[u, u\]. Got shape \[2"),
        (lambda: plots.conflict_by_layer({"a": []}), r"`results` should hold at least one result for each name. Got "
         r"\{'a': \[\]\}. Pass what"),
        (lambda: plots.conflict_by_layer({"a": measured(), "b": measured(layers=["hidden1", "input"])}),
         "`results` should have the same layers. Got different ones. Call interference with the same"),
        (lambda: plots.images(torch.ones(2, 5), ["a", "b"]), r"`rows` should have shape \[k, side²\]. Got .* Pass"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused_before_there_is_a_figure(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert plt.get_fignums() == []


# interference


@pytest.mark.parametrize("measure", MEASURES)
def test_each_layer_has_a_panel_with_its_matrix(measure):
    result, (label, limits) = measured(), MEASURES[measure]
    panels = plots.interference(result, measure=measure, layers=("input", "hidden1"), axis_label="species")
    assert [ax.get_title().split("\n")[0] for ax in panels] == ["input", "hidden1"]
    assert [(ax.get_xlabel(), ax.get_ylabel()) for ax in panels] == [("species", "species"), ("species", "")]
    for ax, layer in zip(panels, result.layers, strict=True):
        assert np.array_equal(image(ax).get_array().data, getattr(result, measure)[layer])
        assert words(ax.get_xticklabels()) == ["0", "1", "2"]
        off = max(float(getattr(result, measure)[name].clone().fill_diagonal_(0).abs().max()) for name in result.layers)
        assert image(ax).get_clim() == pytest.approx((limits[0] * off, off))  # filled by what is off the diagonals
        assert len(ax.texts) == 6
    assert len(panels[0].figure.axes) == 3  # and one color scale
    assert panels[0].figure.axes[-1].get_ylabel() == label
    (only,) = plots.interference(result, measure=measure, layers=["hidden1"], limit=0.5)
    assert image(only).get_clim()[1] == 0.5
    assert (only.get_title().split("\n")[0], only.get_xlabel(), only.get_ylabel()) == ("hidden1", "class", "class")


def test_pairs_whose_interval_holds_no_preference_have_a_dot():
    result = measured(n_bootstrap=50)
    for measure, neutral in (("cosine", 0.0), ("conflict", 0.5)):
        for ax, layer in zip(plots.interference(result, measure=measure), result.layers, strict=True):
            low, high = result.intervals[measure][layer].numpy()
            dots = {(round(x - 0.36), round(y + 0.36)) for x, y in ax.collections[0].get_offsets().tolist()}
            assert dots == {(j, i) for i in range(3) for j in range(3) if i != j and low[i, j] <= neutral <= high[i, j]}
    assert all(not ax.collections for ax in plots.interference(measured()))


def test_titles_of_abs_cosine_name_what_it_is_held_against():
    result = measured(n_untrained=2)
    title = plots.interference(result, measure="abs_cosine")[0].get_title()
    control = np.mean([copy.pair_mean("abs_cosine", "input") for copy in result.untrained])
    mean = result.pair_mean("abs_cosine", "input")
    assert title == f"input\nmean {mean:.2f}, chance {result.chance['input']:.2f}, untrained {control:.2f}"
    assert "\nmean" in (bare := plots.interference(measured(n_readouts=0), measure="abs_cosine")[0].get_title())
    assert "chance" not in bare


def test_several_networks_are_drawn_as_their_mean_in_any_order():
    results = [measured(5, seed) for seed in range(3)]
    panels = plots.interference(results, order=[4, 0, 1, 3, 2])
    for ax, layer in zip(panels, results[0].layers, strict=True):
        mean = torch.stack([result.cosine[layer] for result in results]).mean(0).numpy()
        assert image(ax).get_array().data == pytest.approx(mean[np.ix_([4, 0, 1, 3, 2], [4, 0, 1, 3, 2])])
        assert words(ax.get_yticklabels()) == ["4", "0", "1", "3", "2"]
    assert not panels[0].collections
    for given, message in ((["1", "0"], "`order` should"), ("by name", "`order` should be one of 'clustered'")):
        with pytest.raises((TypeError, ValueError), match=message):
            plots.interference(results, order=given)
    with pytest.raises(ValueError, match="`order` should name no unit twice"):
        plots.interference(results, order=[0, 1, 1])
    with pytest.raises(ValueError, match=r"`result` should be of one network, or of several alike. Got 2 that differ"):
        plots.interference([measured(3), measured(4)])


def test_clustered_order_puts_units_that_share_side_by_side():
    cosine = torch.tensor([[1.0, 0, 0.9, 0], [0, 1, 0, 0.8], [0.9, 0, 1, 0], [0, 0.8, 0, 1]], dtype=torch.float64)
    result = dataclasses.replace(measured(4), cosine=dict.fromkeys(("input", "hidden1"), cosine))
    (ax, _) = plots.interference(result, order="clustered")
    names = words(ax.get_xticklabels())
    assert {frozenset(names[:2]), frozenset(names[2:])} == {frozenset("02"), frozenset("13")}


# conflict_by_layer


def pair_means(result, measure):
    """Means over the pairs of different units that have the measure."""
    upper, tables = np.triu_indices(len(result.unit_labels), 1), getattr(result, measure)
    return [tables[layer].numpy()[upper][result.count[layer].numpy()[upper] > 0].mean() for layer in result.layers]


@pytest.mark.parametrize("measure", MEASURES)
def test_line_is_the_mean_over_pairs(measure):
    result = measured(4)
    for given in (result, emptied(result)):
        ax = plots.conflict_by_layer({"trained": given}, measure=measure)
        assert ax.lines[0].get_ydata() == pytest.approx(pair_means(given, measure))
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("layer", f"{MEASURES[measure][0]},\nmean over pairs")
        assert words(ax.get_xticklabels()) == list(result.layers)
    assert pair_means(result, measure) != pair_means(given, measure)  # else a weak test


@pytest.mark.parametrize(("u", "zeros"), [(1, [True, True]), (2, [True, False])])
def test_layers_without_any_pair_are_drawn_at_zero_and_a_single_result_has_no_legend(u, zeros):
    ax = plots.conflict_by_layer(measured(u) if u == 1 else emptied(measured(u)), measure="norm_similarity")
    assert (ax.lines[0].get_ydata() == 0).tolist() == zeros
    assert ax.get_legend() is None


def test_several_results_are_a_mean_with_a_band():
    results = [measured(seed=seed) for seed in (0, 1, 2)]
    ax = plots.conflict_by_layer({"seeds": results})
    means = np.array([pair_means(result, "conflict") for result in results])
    assert ax.lines[0].get_ydata() == pytest.approx(means.mean(0))
    edges = [pytest.approx(pair) for pair in zip(means.min(0), means.max(0), strict=True)]
    assert band(ax.collections[0], range(2)) == edges
    assert legend(ax) == ["seeds (3 networks, band: their range)"]
    assert legend(plots.conflict_by_layer(results, measure="abs_cosine")) == ["3 networks, band: their range", "chance"]


def test_groups_are_lines_of_their_own_colors_with_a_legend_beside():
    ax = plots.conflict_by_layer(dict.fromkeys([f"group {i}" for i in range(12)], measured()))
    assert len(ax.lines) == 12  # more than there are colors
    assert len({to_hex(line.get_color()) for line in ax.lines}) == 10
    assert legend(ax) == [f"group {i}" for i in range(12)]
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1


def test_mean_cosines_stand_beside_that_of_a_simplex():
    ax = plots.conflict_by_layer({"mine": measured(5)}, measure="cosine")
    assert ax.lines[-1].get_ydata() == pytest.approx([-0.25, -0.25])
    assert legend(ax) == ["mine", "simplex of 5: −1/4"]


def test_conflict_by_layer_draws_interval_chance_and_control():
    result = measured(n_bootstrap=50, n_untrained=3)
    ax = plots.conflict_by_layer({"mine": result, "other": measured()}, measure="abs_cosine")
    assert legend(ax) == ["mine", "mine: the same untrained (3)", "mine: chance", "other", "other: chance"]
    drawn = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
    assert drawn["mine"] == [result.pair_mean("abs_cosine", layer) for layer in result.layers]
    assert drawn["mine: chance"] == [result.chance[layer] for layer in result.layers]
    ends = [result.excess(layer) for layer in result.layers]
    random = [(mean - high, mean - low) for mean, (_, low, high) in zip(drawn["mine"], ends, strict=True)]
    assert band(ax.collections[2], range(2)) == [pytest.approx(pair) for pair in random]
    control = [[copy.pair_mean("abs_cosine", layer) for copy in result.untrained] for layer in result.layers]
    assert drawn["mine: the same untrained (3)"] == pytest.approx([np.mean(values) for values in control])
    bars = ax.containers[0].lines[2][0].get_segments()
    for bar, layer in zip(bars, result.layers, strict=True):
        assert bar[:, 1] == pytest.approx(result.summary_intervals["abs_cosine"][layer])
    plain = plots.conflict_by_layer({"mine": measured(n_readouts=0)}, measure="abs_cosine")
    assert (len(plain.lines), plain.containers) == (1, [])  # nothing stands beside what has neither


# history


@pytest.mark.parametrize(("score", "label"), [("accuracy", "accuracy"), ("r2", "R²")])
@pytest.mark.parametrize("n_runs", [1, 3])
def test_history_draws_loss_and_score_of_both_parts_of_every_run(drawn, score, label, n_runs):
    runs = [make_run(seed, score) for seed in range(n_runs)]
    loss, right = plots.history(runs if n_runs > 1 else runs[0])
    assert [(ax.get_ylabel(), ax.get_yscale()) for ax in (loss, right)] == [("loss", "log"), (label, "linear")]
    assert loss.get_xlabel() == right.get_xlabel() == "epoch"
    for ax, quantity in ((loss, "loss"), (right, score)):
        expected = [run.history[f"{part}_{quantity}"].tolist() for part in ("train", "test") for run in runs]
        assert [line.get_ydata().tolist() for line in ax.lines] == expected
        assert {tuple(line.get_xdata()) for line in ax.lines} == {(1, 2, 3, 4, 5)}
        assert len({to_hex(line.get_color()) for line in ax.lines}) == 2
    assert legend(right) == ["train", "test"]
    assert plots.history(make_run(epochs=1))[1].lines[0].get_marker() == "o"  # else it would not be seen


# confusion


def test_confusion_writes_counts_and_colors_mistakes():
    ax = plots.confusion(COUNTS, ["a", "b", "c"])
    assert words(ax.texts) == ["90", "3", "0", "1", "80", "7", "0", "2", "70"]
    assert [text.get_position() for text in ax.texts][:4] == [(0, 0), (1, 0), (2, 0), (0, 1)]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted class", "true class")
    assert words(ax.get_yticklabels()) == ["a", "b", "c"]
    assert np.array_equal(np.ma.getmaskarray(image(ax).get_array()), np.eye(3, dtype=bool))
    assert image(ax).get_clim() == (0, 7)
    assert ax.figure.axes[-1].get_ylabel() == "mistakes (samples)"
    bare = plots.confusion(COUNTS, counted="images")
    assert (words(bare.get_xticklabels()), bare.figure.axes[-1].get_ylabel()) == (list("012"), "mistakes (images)")


# images


@pytest.mark.parametrize(("k", "columns", "grid"), [(1, 5, (1, 1)), (5, 5, (1, 5)), (6, 5, (2, 5)), (3, 2, (2, 2))])
def test_pictures_stand_in_a_grid(k, columns, grid):
    rows = torch.arange(k * 9.0).reshape(k, 9) - 7
    panels = plots.images(rows.requires_grad_(), [f"p{i}" for i in range(k)], columns=columns, label="gradient")
    assert [ax.get_title() for ax in panels] == [f"p{i}" for i in range(k)]
    for ax, row in zip(panels, rows.detach(), strict=True):
        assert np.array_equal(image(ax).get_array(), row.reshape(3, 3))
        assert not ax.axison
    *pictures, bar = panels[0].figure.axes
    assert len(pictures) == grid[0] * grid[1]
    assert not any(ax.has_data() or ax.axison for ax in pictures[k:])
    assert panels[0].get_subplotspec().get_gridspec().get_geometry() == grid
    assert bar.get_ylabel() == "gradient"


@pytest.mark.parametrize(("signed", "limits"), [(True, (-3, 3)), (False, (-3, 2))])
def test_pictures_have_one_scale_around_zero_or_from_least_to_greatest(signed, limits):
    panels = plots.images(torch.tensor([[-3.0, 0, 1, 2], [0, 0, 0, 1]]), ["a", "b"], signed=signed)
    assert {image(ax).get_clim() for ax in panels} == {limits}
    zero = color_of(panels[0], 0.0)
    assert min(zero) > 0.9 if signed else len(set(zero)) == 1  # white, or a gray
