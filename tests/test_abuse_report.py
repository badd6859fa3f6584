"""Bad input to `report`: refused before anything is written, or a whole page without NaN."""

from __future__ import annotations

import inspect
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from _abuse import COUNT, FINITE, INTEGER, LAYER, NUMBER, SAMPLES, TYPE, VALUE, Row, Subject, assert_answered_or_refused
from _abuse_networks import NETWORKS, UNITS, chain, split

import gradembed as ge


class Text(HTMLParser):
    """The words of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def page(path: Any, **arguments: Any) -> list[int]:
    """Write a page, look for NaN in it, and take it away again."""
    written = ge.report(path=path, **arguments)
    text = Text()
    text.feed(written.read_text())
    found = re.findall(r"[^\n]{0,40}\b(?:nan|inf)\b[^\n]{0,40}", " ".join(text.words))
    assert found == []
    Path(written).unlink()
    return [len(text.words) > 20]


REPORT = Subject(
    page,
    lambda: {"model": chain(torch.float32), "x": split().x_test, "y": None, "path": "page.html", "others": [],
             "forward": None,
             "names": ["a", "b", "c"], "units": [0, 2], "layers": ["input"], "unit_layer": "hidden1", "embedder": None,
             "tolerance": None, "n_bootstrap": 0, "n_untrained": 0, "n_cards": 1, "max_samples": 100, "max_units": 5,
             "title": "t", "seed": 0},
    is_ragged=True,
)  # fmt: skip
REFUSED = (TYPE, VALUE)
ANSWERED = ["list", "numpy", "frame", "one row", "zeros", "1e30", "1e-30", "requires grad"]  # samples, as a page


def refused(abuses: dict[str, str]) -> dict[str, str]:
    """Without those that are answered, each of which costs a page."""
    return {abuse: kind for abuse, kind in abuses.items() if kind.startswith(REFUSED)}


TABLE: list[Row] = [
    ("report", "model", refused(NETWORKS) | {"dead": FINITE, "dead ReLUs": FINITE, "weights 1e30": "ValueError: x"}),
    ("report", "x", refused(SAMPLES) | dict.fromkeys(ANSWERED, FINITE)),
    ("report", "y", {"string": TYPE, "integer": VALUE, "none": FINITE}),
    ("report", "forward", dict.fromkeys(["string", "integer", "list"], TYPE)),
    ("report", "path", dict.fromkeys(["none", "integer", "closed file", "object"], TYPE)),
    ("report", "others", dict.fromkeys(["string", "none", "integer", "object"], TYPE)),
    ("report", "names", {"string": TYPE, "integer": TYPE, "None in it": TYPE, "too few": VALUE, "too many": VALUE}),
    ("report", "units", refused(UNITS)),
    ("report", "layers", {"string": TYPE, "integer": TYPE, "nothing": VALUE, "strings in it": VALUE}),
    ("report", "unit_layer", refused({key: kind for key, kind in LAYER.items() if key != "none"})),
    ("report", "embedder", dict.fromkeys(["string", "integer", "class", "function"], TYPE)),
    ("report", "tolerance", {k: kind for k, kind in NUMBER.items() if k != "none"} | {"zero": VALUE, "tensor": VALUE}),
    *[("report", name, INTEGER) for name in ("n_bootstrap", "n_untrained", "n_cards", "seed")],
    *[("report", name, COUNT) for name in ("max_samples", "max_units")],
    ("report", "title", dict.fromkeys(["none", "integer", "list"], TYPE)),
]
CASES = {f"{argument}-{abuse}": (argument, abuse, kind) for _, argument, rows in TABLE for abuse, kind in rows.items()}


@pytest.fixture(autouse=True)
def as_users_see_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("argument", "abuse", "expected"), CASES.values(), ids=CASES)
def test_abuse_is_answered_or_refused(argument, abuse, expected):
    assert_answered_or_refused(REPORT, argument, abuse, expected, [torch.ones(1)])


def test_every_argument_is_abused():
    assert {argument for _, argument, _ in TABLE} == set(inspect.signature(ge.report).parameters)
    assert len(CASES) >= 90
