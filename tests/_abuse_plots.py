"""Ordinary calls and abuses: figures. What they draw is read back from their Axes."""

from __future__ import annotations

from functools import cache

import pandas as pd
import torch
from _abuse import CHOICE, COUNT, FINITE, INTEGER, LAYER, NUMBER, SAME, TYPE, VALUE, Row, Subject
from _abuse_embeddings import make_fields
from _abuse_networks import X, chain, config, draw, split

import gradembed as ge
from gradembed import plots

result = cache(lambda: ge.interference(chain(), X))
run = cache(lambda: ge.train(chain(torch.float32), split(), config()))
card = cache(lambda: ge.unit_card(make_fields(), 1, draw(8, 2)))
seen = cache(lambda: ge.training_course(chain(), [chain().state_dict()], X))
modules = cache(lambda: ge.task_modules(chain(), X, "hidden1"))
tree = cache(lambda: ge.gradient_tree(chain(), X))


def matrix() -> torch.Tensor:
    values = draw(3, 3).clamp(-1, 1)
    return (values + values.T) / 2


def table() -> pd.DataFrame:
    return pd.DataFrame({"width": [1, 2, 1, 2], "score": [0.1, 0.2, 0.3, 0.5], "kind": ["a", "a", "b", "b"],
                         "low": [0.0, 0.1, 0.2, 0.4], "high": [0.2, 0.3, 0.4, 0.6]})  # fmt: skip


RAGGED = {"interference", "course", "conflict_by_layer", "history", "field_1d", "embedding", "tree", "curves",
          "score_map", "matrix_grid", "cosine_map", "unit_card"}  # fmt: skip
SUBJECTS = {
    f"plots.{name}": Subject(getattr(plots, name), usual, is_ragged=name in RAGGED)
    for name, usual in {
        "similarity_matrix": lambda: {"matrix": matrix(), "labels": list("abc"), "measure": "cosine", "limit": 1.0},
        "interference": lambda: {"result": result(), "measure": "cosine", "layers": ["input"], "limit": 1.0,
                                 "order": [0, 1, 2]},
        "conflict_by_layer": lambda: {"results": {"a": result()}, "measure": "conflict"},
        "history": lambda: {"runs": [run()]},
        "course": lambda: {"result": seen(), "measure": "cosine", "pairs": [("0", "1"), ("0", "2")], "limit": 1.0},
        "confusion": lambda: {"counts": torch.tensor([[9, 1], [2, 8]]), "labels": ["a", "b"], "counted": "flowers"},
        "images": lambda: {"rows": draw(2, 16), "titles": ["a", "b"], "columns": 2},
        "field_1d": lambda: {"fields": line(), "units": [0, 2], "predicted": draw(3, 6, 1), "masked": draw(3, 6) > 0},
        "field_2d": lambda: {"fields": make_fields(), "unit": 1, "axes": (0, 2)},
        "embedding": lambda: {"coordinates": draw(6, 2), "labels": torch.arange(6) % 2, "label_names": ["a", "b"],
                              "markers": torch.arange(6) % 3, "marker_names": ["a", "b", "c"]},
        "tree": lambda: {"result": tree(), "max_nodes": 60},
        "tree_similarity": lambda: {"result": tree(), "layer": "input"},
        "curves": lambda: {"table": table(), "x": "width", "y": "score", "by": "kind", "band": ("low", "high"),
                           "levels": {"chance": 0.1}},
        "score_map": lambda: {"table": table(), "x": "width", "y": "kind", "score": "score", "limits": (0.0, 1.0)},
        "matrix_grid": lambda: {"matrices": [[matrix(), matrix()]], "row_labels": ["r"], "column_labels": ["a", "b"],
                                "measure": "cosine"},
        "cosine_map": lambda: {"horizontal": torch.tensor([-1.0, 0.0, 2.0]), "vertical": torch.tensor([0.0, 1.0]),
                               "cosine": draw(2, 3).clamp(-1, 1), "points": draw(4, 2), "labels": torch.arange(4) % 2,
                               "label_names": ["a", "b"]},
        "task_modules": lambda: {"result": modules()},
        "unit_card": lambda: {"card": card()},
    }.items()
}  # fmt: skip


def line() -> ge.GradientFields:
    return ge.GradientFields(draw(3, 6, 1), draw(3, 6, 1, seed=1), draw(3, 6, seed=2))


WRONG = dict.fromkeys(["string", "none", "integer", "object", "dictionary"], TYPE)
NUMBERS = dict.fromkeys(["string", "none"], TYPE)
NUMBERS |= dict.fromkeys(["empty", "no columns", "one axis", "another axis", "NaN", "inf", "meta", "sparse"], VALUE)
NUMBERS |= dict.fromkeys(["strided", "requires grad", "numpy"], SAME) | dict.fromkeys(["zeros", "half", "list"], FINITE)
NAMES = dict.fromkeys(["string", "integer", "None in it"], TYPE)
NAMES |= dict.fromkeys(["too few", "too many", "nothing"], VALUE)
FIELDS = dict.fromkeys(["string", "none", "its gradients", "dictionary"], TYPE)

TABLE: list[Row] = [
    (f"plots.{name}", argument, abuses)
    for names, argument, abuses in [
        ("similarity_matrix", "matrix", NUMBERS | {"NaN": FINITE}),
        ("similarity_matrix confusion", "labels", NAMES),
        ("similarity_matrix interference conflict_by_layer matrix_grid course", "measure", CHOICE),
        ("similarity_matrix interference course", "limit",
         NUMBER | {"zero": VALUE, "tensor": VALUE, "one": SAME, "none": FINITE}),
        ("interference", "order", {"string": VALUE, "nothing": VALUE, "far away": VALUE, "negative in it": VALUE,
                                   "floats in it": TYPE, "integer": TYPE, "twice the same": VALUE, "none": SAME,
                                   "as a tuple": SAME, "as an array": SAME, "one item": FINITE}),
        ("interference tree tree_similarity task_modules course", "result", WRONG),
        ("course", "pairs", {"string": TYPE, "integer": TYPE, "nothing": VALUE, "None in it": TYPE, "none": FINITE,
                             "strings in it": TYPE, "as a tuple": SAME}),
        ("curves score_map", "table", WRONG | {"list": TYPE, "empty": VALUE}),
        ("interference", "layers", {"string": TYPE, "integer": TYPE, "nothing": VALUE, "None in it": TYPE,
                                    "strings in it": VALUE, "as a tuple": SAME}),
        ("conflict_by_layer", "results", WRONG | {"dictionary": VALUE, "list": TYPE}),
        ("history", "runs", WRONG | {"nothing": VALUE, "None in it": TYPE, "twice the same": FINITE}),
        ("confusion", "counts", {"string": TYPE, "none": TYPE, "list": SAME, "empty": VALUE, "one row": VALUE,
                                 "one axis": VALUE, "another axis": VALUE, "negative first": VALUE, "meta": VALUE,
                                 "strided": SAME, "numpy": SAME, "zeros": FINITE, "sparse": VALUE}),
        ("confusion", "counted", {"string": SAME}),
        ("images", "rows", NUMBERS | {"one column": FINITE, "one row": "ValueError: titles"}),
        ("images", "titles", NAMES),
        ("images", "columns", COUNT | {"one": FINITE, "many": FINITE}),
        ("field_1d", "fields", FIELDS | {"fields 1e30": FINITE, "strided fields": SAME}),
        ("field_1d", "units", {"string": TYPE, "float": TYPE, "nothing": VALUE, "far away": VALUE, "none": FINITE,
                               "negative in it": VALUE, "floats in it": TYPE, "as a tuple": SAME, "as an array": SAME}),
        ("field_1d", "predicted", {"string": TYPE, "list": FINITE, "numpy": SAME, "one row": VALUE, "NaN": VALUE,
                                   "meta": VALUE, "requires grad": SAME, "none": VALUE + ": masked|predicted"}),
        ("field_1d", "masked", {"string": TYPE, "list": SAME, "longs": VALUE, "one row": VALUE, "none": FINITE}),
        ("field_2d", "fields", FIELDS | {"constant units": FINITE, "equal points": FINITE, "fields 1e30": FINITE,
                                         "fields 1e-30": FINITE, "points 1e30": FINITE,
                                         "without values": FINITE, "strided fields": SAME}),
        ("field_2d", "unit", INTEGER | {"many": VALUE}),
        ("field_2d", "axes", {"string": TYPE, "integer": TYPE, "none": TYPE, "nothing": VALUE, "one item": VALUE,
                              "far away": VALUE, "floats in it": TYPE, "twice the same": FINITE, "as a list": SAME,
                              "as a tensor": SAME}),
        ("embedding", "coordinates", NUMBERS | {"one column": VALUE, "longs": FINITE}),
        ("embedding", "labels", {"string": TYPE, "none": TYPE, "shorter": VALUE, "floats": TYPE, "meta": VALUE,
                                 "numpy": SAME, "list": SAME, "another axis": VALUE}),
        ("embedding", "label_names", {"string": TYPE, "integer": TYPE, "too few": VALUE, "nothing": VALUE}),
        ("embedding", "markers", {"string": TYPE, "shorter": VALUE, "floats": TYPE, "meta": VALUE}),
        ("embedding", "marker_names", {"string": TYPE, "integer": TYPE, "too few": VALUE}),
        ("tree", "max_nodes", COUNT | {"one": "ValueError: result", "many": SAME}),
        ("tree_similarity", "layer", LAYER),
        *[("curves", name, {"string": "ValueError: table", "integer": "TypeError: table", "list": "TypeError: table",
                            "none": "TypeError: table" if name != "by" else FINITE}) for name in ("x", "y", "by")],
        ("curves", "band", {"string": TYPE, "integer": TYPE, "one item": VALUE, "nothing": VALUE,
                            "strings in it": "ValueError: table"}),
        ("curves", "levels", {"string": TYPE, "integer": TYPE, "list": TYPE, "dictionary": FINITE}),
        *[("score_map", name, {"string": "ValueError: table", "integer": "TypeError: table", "list": "TypeError: table",
                               "none": "TypeError: table"}) for name in ("x", "y", "score")],
        ("score_map", "limits", {"string": TYPE, "integer": TYPE, "none": TYPE, "one item": VALUE, "nothing": VALUE,
                                 "as a list": SAME, "twice the same": VALUE,
                                 "strings in it": r"TypeError: limits\[0\]"}),
        ("matrix_grid", "matrices", {"string": TYPE, "none": TYPE, "integer": TYPE, "nothing": VALUE,
                                     "strings in it": TYPE, "None in it": TYPE, "too many": VALUE}),
        *[("matrix_grid", name, NAMES | {"too few": VALUE + f": {name}|matrices",
         "too many": "ValueError: matrices"}) for name in ("row_labels", "column_labels")],
        ("cosine_map", "cosine", {key: kind for key, kind in NUMBERS.items() if key != "no columns"} | {"NaN": FINITE}),
        *[("cosine_map", name, {"string": TYPE, "none": TYPE, "list": FINITE, "empty": VALUE, "NaN": VALUE,
                                "inf": VALUE, "shorter": VALUE + f": {name}|cosine", "zeros": VALUE,
                                "strided": SAME, "requires grad": SAME, "meta": VALUE,
                                "another axis": VALUE}) for name in ("horizontal", "vertical")],
        ("cosine_map", "points", {"string": TYPE, "list": FINITE, "NaN": VALUE, "one column": VALUE, "meta": VALUE,
                                  "one row": VALUE + ": labels|points"}),
        ("cosine_map", "labels", {"string": TYPE, "list": SAME, "numpy": SAME, "shorter": VALUE, "floats": TYPE}),
        ("cosine_map", "label_names", {"string": TYPE, "integer": TYPE, "too few": VALUE, "None in it": TYPE}),
        ("unit_card", "card", WRONG),
    ]
    for name in names.split()
]  # fmt: skip
