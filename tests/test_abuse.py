"""Bad input, everywhere: all public names times a list of abuses (see _abuse.py for what a row means)."""

from __future__ import annotations

import inspect
from functools import cache

import _abuse_embeddings
import _abuse_networks
import _abuse_plots
import jaxtyping
import pytest
import torch
from _abuse import ABUSES, GRAMMAR, Subject, assert_answered_or_refused, assert_house_grammar, numbers_of
from torch import Tensor

import gradembed as ge

MODULES = (_abuse_networks, _abuse_embeddings, _abuse_plots)
SUBJECTS = {name: subject for module in MODULES for name, subject in module.SUBJECTS.items()}
TABLE = [row for module in MODULES for row in module.TABLE]
CASES = {
    f"{name}-{argument}-{abuse}": (name, argument, abuse, expected)
    for name, argument, abuses in TABLE
    for abuse, expected in abuses.items()
}
HOMES = (ge, ge.datasets, ge.metrics)
ELSEWHERE = {"report"}  # public names with a table of their own, in another file


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(autouse=True)
def as_users_see_it(empty, monkeypatch):
    """Without the checks of shapes that only run under pytest; in an empty folder, which is left empty."""
    monkeypatch.chdir(empty)
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    assert list(empty.iterdir()) == []


@cache
def ordinary(name: str) -> list[Tensor]:
    subject = SUBJECTS[name]
    return numbers_of(subject.call(**subject.usual()))


@pytest.mark.parametrize(("name", "argument", "abuse", "expected"), CASES.values(), ids=CASES)
def test_abuse_is_answered_or_refused(name, argument, abuse, expected):
    assert_answered_or_refused(SUBJECTS[name], argument, abuse, expected, ordinary(name))


@pytest.mark.parametrize("name", SUBJECTS)
def test_ordinary_calls_are_answered(name):
    """Else nothing would be said by the refusal of another call."""
    numbers = ordinary(name)
    assert numbers
    assert all(bool(value.isfinite().all()) for value in numbers)


def public_names() -> set[str]:
    """Whatever can be called."""
    figures = {f"plots.{name}" for name in ge.plots.__all__ if callable(getattr(ge.plots, name))}
    return figures | {name for home in HOMES for name in home.__all__ if callable(getattr(home, name))}


def test_every_public_name_is_abused():
    abused = {name.split(",")[0] for name, _, _ in TABLE}
    abused |= {".".join(name.split(".")[: 2 if name.startswith("plots.") else 1]) for name in abused}
    assert public_names() - abused - ELSEWHERE == set()
    assert {name for name, _, _ in TABLE} == set(SUBJECTS)


def test_every_argument_of_a_public_function_is_abused():
    """But for words above figures."""
    words = {"title", "source", "xlabel", "ylabel", "axis_label", "label", "method", "ax", "axes", "colorbar", "legend",
             "signed", "values", "log_x", "name"}  # fmt: skip
    abused = {(name.split(",")[0].split(" ")[0], argument) for name, argument, _ in TABLE}
    missing = []
    for name in public_names() - ELSEWHERE:
        homes = [ge.plots] if name.startswith("plots.") else HOMES
        function = next(found for home in homes if (found := getattr(home, name.removeprefix("plots."), None)))
        if inspect.isfunction(function):
            arguments = set(inspect.signature(function).parameters) - words
            missing += [f"{name}: {argument}" for argument in arguments if (name, argument) not in abused]
    assert sorted(missing) == []


def test_there_are_enough_cases_of_every_kind():
    kinds = [expected.split(":")[0] for *_, expected in CASES.values()]
    assert len(kinds) == len(set(CASES)) >= 3_400
    assert min(kinds.count("same"), kinds.count("finite"), kinds.count("ValueError"), kinds.count("TypeError")) >= 100
    assert {abuse for _, _, abuses in TABLE for abuse in abuses} == set(ABUSES)


@pytest.mark.parametrize(
    "message",
    ["x is wrong", "`x` should be finite.", "`x` should be finite. Got 3.", "mat1 and mat2 must have the same dtype"],
)
def test_other_messages_are_not_taken_for_refusals(message):
    assert GRAMMAR.fullmatch(message) is None
    with pytest.raises(AssertionError, match="not in the house grammar"):
        assert_house_grammar(RuntimeError(message), "x")


def test_another_argument_than_the_one_to_blame_is_not_taken_for_it():
    with pytest.raises(AssertionError, match="'x' is refused, not 'y'"):
        assert_house_grammar(ValueError("`x` should be finite. Got NaN. Drop it."), "y")


def broken(x: Tensor) -> Tensor:
    """Writes to its argument and gives NaN."""
    x.mul_(2)
    return x / 0 * 0


def test_silent_nan_and_written_arguments_are_found():
    subject = Subject(broken, lambda: {"x": torch.ones(3, 2)})
    with pytest.raises(AssertionError, match="not finite"):
        assert_answered_or_refused(subject, "x", "one row", "finite", [torch.ones(3, 2)])
    writing = Subject(lambda x: x.mul_(2), lambda: {"x": torch.ones(3, 2)})
    with pytest.raises(AssertionError):
        assert_answered_or_refused(writing, "x", "strided", "finite", [torch.ones(3, 2)])
    doubled = [torch.full((3, 2), 2.0, dtype=torch.float64)]
    assert_answered_or_refused(Subject(lambda x: x * 2, writing.usual), "x", "strided", "same", doubled)
