"""What holds for every function that draws, whatever it draws."""

from collections.abc import Callable

import matplotlib.pyplot as plt
import pytest
import torch

SOURCE = "Fisher's Iris (150 flowers, scikit-learn)"


def as_list(axes):
    return axes if isinstance(axes, list) else [axes]


def named(argument, axes):
    """Axes as a function takes them: one, or a list."""
    return {argument: axes[0] if argument == "ax" else axes}


@pytest.mark.usefixtures("shown", "drawn")
class EveryFigure:
    """A test file inherits this and names its functions.

    Of each: a call with something small, how many Axes it returns, and the name of the argument that takes Axes: "ax"
    for one, "axes" for a list of them, None if it always makes a figure.
    """

    functions: dict[str, tuple[Callable, int, str | None]]

    def pytest_generate_tests(self, metafunc):
        rows = self.functions
        if "given" in metafunc.function.__name__:
            rows = {name: row for name, row in rows.items() if row[2]}
        metafunc.parametrize("row", rows.values(), ids=rows)

    def test_one_figure_is_made_and_its_axes_are_returned(self, row):
        function, n_axes, argument = row
        before = torch.get_rng_state()
        result = function()
        assert isinstance(result, list) is (argument != "ax")
        axes = as_list(result)
        assert len(axes) == n_axes
        assert all(isinstance(ax, plt.Axes) for ax in axes)
        assert len(plt.get_fignums()) == 1
        assert {ax.figure for ax in axes} == {plt.gcf()}
        assert torch.equal(torch.get_rng_state(), before)

    def test_given_axes_are_drawn_into_and_no_figure_is_made(self, row):
        function, n_axes, argument = row
        figure, grid = plt.subplots(1, n_axes + 1, layout="constrained")
        given = list(grid[:n_axes])
        result = function(source=SOURCE, **named(argument, given))
        assert all(a is b for a, b in zip(as_list(result), given, strict=True))
        assert plt.get_fignums() == [figure.number]
        assert all(ax.has_data() for ax in given)
        assert not grid[n_axes].has_data()
        assert figure.get_supxlabel() == f"data: {SOURCE}"

    def test_title_stands_above_and_source_below(self, row):
        function = row[0]
        ax = as_list(function(title="what is seen", source=SOURCE))[0]
        assert "what is seen" in (ax.get_title(), ax.figure.get_suptitle())
        assert ax.figure.get_supxlabel() == f"data: {SOURCE}"
        ax = as_list(function())[0]
        assert "what is seen" not in ax.get_title()
        assert (ax.figure.get_suptitle(), ax.figure.get_supxlabel()) == ("", "")
