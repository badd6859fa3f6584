"""Bad input to `report` and `explore`: refused before anything is written, or a whole page without NaN."""

import inspect
import re

import jaxtyping
import pytest
import torch
from _abuse import COUNT, FINITE, INTEGER, LAYER, NUMBER, SAMPLES, TYPE, VALUE, Subject, assert_answered_or_refused
from _abuse_embeddings import FIELDS, make_fields
from _abuse_networks import NETWORKS, UNITS, chain, split

import gradembed as ge


def page(path, **arguments):
    """Write a page, look for NaN in its words, and take it away again."""
    atlas = ge.report(path=path, **arguments)
    atlas.path.unlink()
    return seen(atlas)


def seen(atlas):
    """Look for NaN in a page's words."""
    words = re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", atlas.html, flags=re.DOTALL)
    assert re.findall(r"[^\n]{0,40}\b(?:nan|inf)\b[^\n]{0,40}", words) == []
    return [len(words.split()) > 20]


REPORT = Subject(
    page,
    lambda: {"model": chain(torch.float32), "x": split().x_test, "y": None, "path": "page.html", "others": [],
             "forward": None, "names": ["a", "b", "c"], "units": [0, 2], "layers": ["input"], "unit_layer": "hidden1",
             "centered": True,
             "embedder": None, "tolerance": None, "n_bootstrap": 0, "n_untrained": 0, "reinitialize": None,
             "max_samples": 100, "max_units": 5, "title": "t", "seed": 0},
    is_ragged=True,
)  # fmt: skip
EXPLORE = Subject(
    lambda results, **more: seen(ge.explore(results, **more)),
    lambda: {"results": make_fields(own=False), "embedder": None, "title": "t", "seed": 0},
    is_ragged=True,
)
ANSWERED = ["list", "numpy", "frame", "one row", "zeros", "1e30", "1e-30", "requires grad"]  # samples, as a page


def refused(abuses):
    """Without those that are answered, each of which costs a page."""
    return {abuse: kind for abuse, kind in abuses.items() if kind.startswith((TYPE, VALUE))}


def typed(*abuses, **more):
    return dict.fromkeys(abuses, TYPE) | more


TABLE = {
    "model": refused(NETWORKS) | {"dead": FINITE, "dead ReLUs": FINITE, "weights 1e30": "ValueError: x"},
    "x": refused(SAMPLES) | dict.fromkeys(ANSWERED, FINITE),
    "y": typed("string", integer=VALUE, none=FINITE),
    "forward": typed("string", "integer", "list"),
    "path": typed("none", "integer", "closed file", "object"),
    "others": typed("string", "none", "integer", "object"),
    "names": typed("string", "integer", "None in it") | {"too few": VALUE, "too many": VALUE},
    "units": refused(UNITS) | {"strings in it": VALUE},
    "layers": typed("integer", string=VALUE, nothing=VALUE) | {"strings in it": VALUE},
    "unit_layer": refused({key: kind for key, kind in LAYER.items() if key != "none"}),
    "embedder": typed("string", "integer", "class", "function"),
    "centered": typed("string", "integer"),
    "tolerance": {key: kind for key, kind in NUMBER.items() if key != "none"} | {"zero": VALUE, "tensor": VALUE},
    **dict.fromkeys(["n_bootstrap", "n_untrained", "seed"], INTEGER),
    **dict.fromkeys(["max_samples", "max_units"], COUNT),
    "reinitialize": typed("string", "integer", "list"),
    "title": typed("none", "integer", "list"),
}
EXPLORED = {
    "results": {key: kind for key, kind in FIELDS.items() if key != "list"} | typed("list", "integer", "class")
    | dict.fromkeys(["constant units", "without values", "one point"], VALUE)
    | dict.fromkeys(["one unit", "two points", "equal points", "one constant unit", "fields 1e30", "fields 1e-30",
                     "doubled units", "strided fields", "single precision"], FINITE),
    **{name: TABLE[name] for name in ("embedder", "title", "seed")},
}  # fmt: skip
CASES = [
    (subject, argument, abuse, kind)
    for subject, table in ((REPORT, TABLE), (EXPLORE, EXPLORED))
    for argument, rows in table.items()
    for abuse, kind in rows.items()
]


@pytest.mark.parametrize(("subject", "argument", "abuse", "expected"), CASES)
def test_abuse_is_answered_or_refused(subject, argument, abuse, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users see it
    assert_answered_or_refused(subject, argument, abuse, expected, [torch.ones(1)])
    assert list(tmp_path.iterdir()) == []


def test_every_argument_is_abused():
    assert set(TABLE) == set(inspect.signature(ge.report).parameters)
    assert set(EXPLORED) == set(inspect.signature(ge.explore).parameters)
    assert len(CASES) >= 110
