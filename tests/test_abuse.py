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
from _abuse import ABUSES, Subject, assert_answered_or_refused, assert_house_grammar, numbers_of
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
PAGES = ("Atlas", "explore", "report")
# Whatever can be called, by the name that it has in the table; pages have tables of their own, in another file.
PUBLIC = {name: getattr(home, name) for home in (ge, ge.datasets, ge.metrics) for name in home.__all__}
PUBLIC |= {f"plots.{name}": getattr(ge.plots, name) for name in ge.plots.__all__}
PUBLIC = {name: value for name, value in PUBLIC.items() if callable(value) and name not in PAGES}
# Words above figures are taken as they are.
WORDS = {"title", "source", "xlabel", "ylabel", "axis_label", "label", "method", "ax", "axes", "colorbar", "legend",
         "signed", "values", "log_x", "name"}  # fmt: skip


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


def test_every_public_name_and_every_argument_of_a_function_is_abused():
    abused = {(name.split(",")[0].split(" ")[0], argument) for name, argument, _ in TABLE}
    names = {name for name, _ in abused}
    names |= {".".join(name.split(".")[: 2 if name.startswith("plots.") else 1]) for name in names}
    assert set(PUBLIC) - names == set()
    assert {name for name, _, _ in TABLE} == set(SUBJECTS)
    functions = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)}
    arguments = {(name, key) for name, value in functions.items() for key in inspect.signature(value).parameters}
    assert {(name, key) for name, key in arguments - abused if key not in WORDS} == set()


def test_there_are_enough_cases_of_every_kind():
    kinds = [expected.split(":")[0] for *_, expected in CASES.values()]
    assert len(kinds) == len(set(CASES)) >= 3_400
    assert min(kinds.count("same"), kinds.count("finite"), kinds.count("ValueError"), kinds.count("TypeError")) >= 100
    assert {abuse for _, _, abuses in TABLE for abuse in abuses} == set(ABUSES)


@pytest.mark.parametrize(
    "message", ["x is wrong", "`x` should be finite.", "`x` should be finite. Got 3.", "mat1 and mat2 must"]
)
def test_other_messages_are_not_taken_for_refusals(message):
    with pytest.raises(AssertionError, match="not in the house grammar"):
        assert_house_grammar(RuntimeError(message), "x")
    with pytest.raises(AssertionError, match="'x' is refused, not 'y'"):
        assert_house_grammar(RuntimeError("`x` should be finite. Got NaN. Drop it."), "y")


def test_silent_nan_and_written_arguments_are_found():
    def check(call, abuse, expected, ordinary):
        subject = Subject(call, lambda: {"x": torch.ones(3, 2)})
        assert_answered_or_refused(subject, "x", abuse, expected, [ordinary])

    with pytest.raises(AssertionError, match="not finite"):
        check(lambda x: x / 0 * 0, "one row", "finite", torch.ones(3, 2))
    with pytest.raises(AssertionError):
        check(lambda x: x.mul_(2), "strided", "finite", torch.ones(3, 2))
    check(lambda x: x * 2, "strided", "same", torch.full((3, 2), 2.0, dtype=torch.float64))
