"""Ordinary calls and abuses: gradient fields, embeddings, evaluation, unit cards, sweeps."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from _abuse import CHOICE, COUNT, FINITE, INDEX, INTEGER, LAYER, NUMBER, SAME, SAMPLES, TYPE, VALUE, Row, Subject
from _abuse_networks import DIRECTED, DIRECTIONS, FORWARD, NETWORKS, UNITS, X, chain, draw, ensemble, general

import gradembed as ge


def make_fields(*, own: bool = True, u: int = 8) -> ge.GradientFields:
    """Units of four networks, two functions."""
    waves = ge.datasets.random_waves(2, 3)
    points = draw(u, 10, 3) if own else draw(10, 3)
    shown = points if own else points.expand(u, -1, -1)
    pairs = [(waves[i % 2].gradient(x)[0], waves[i % 2](x)[0]) for i, x in enumerate(shown)]
    gradients, values = (torch.stack(column) for column in zip(*pairs, strict=True))
    labels = torch.arange(u)
    return ge.GradientFields(points, gradients, values, labels % 2, labels // 2)


def parts(**changes: Any) -> dict[str, Any]:
    fields = make_fields()
    made = {"regions": torch.arange(80).reshape(8, 10) % 4, "fit_r2": torch.linspace(0, 1, 8).double()}
    return dict(vars(fields)) | made | changes


KINDS = ("none", "permutation", "orthogonal", "linear")
SMALL = {"n_components": 2, "max_steps": 2, "width": 8, "n_features": 32, "n_views": 2, "progress": False}


def given_fields(*, own: bool = True) -> dict[str, Any]:
    return {"fields": make_fields(own=own)}


given_shared = partial(given_fields, own=False)


def embedder(**settings: Any) -> ge.GradientFieldEmbedder:
    return ge.GradientFieldEmbedder(**(SMALL | settings))


def fitted(fields: Any, **settings: Any) -> list[np.ndarray]:
    model = embedder(**settings)
    return [model.fit_transform(fields), model.loss_curve_]


def described(invariance: str, fields: Any) -> np.ndarray:
    return ge.FieldDescriptor(invariance, n_features=64).fit_transform(fields)


def rows_embedded(X: Any, **settings: Any) -> list[np.ndarray]:  # noqa: N803
    model = ge.RowEmbedder(**settings)
    return [model.fit_transform(X), model.loss_curve_]


CLASSES, NETWORK_OF = torch.arange(24) % 3, torch.arange(24) // 6
PLACES = draw(24, 2) + 3 * torch.nn.functional.one_hot(CLASSES)[:, :2]


def placed(**more: Any) -> dict[str, Any]:
    return {"z": PLACES.clone(), "y": CLASSES.clone(), "groups": NETWORK_OF.clone(), "seed": 0} | more


def score(call: Any) -> Any:
    """A score without its interval: resampling depends on the order of what is resampled."""

    def scored(**arguments: Any) -> list[Any]:
        result = call(**arguments)
        assert repr(result)
        return [result, getattr(result, "estimate", 0.0)]

    return scored


def matching(**arguments: Any) -> list[Any]:
    matches = ge.metrics.match_units(**arguments)
    labels = [torch.arange(n) % 2 for n in (matches.n_a, matches.n_b)]
    return [matches.distance, matches.accuracy(*labels), matches.chance(*labels)]


def given_sets() -> dict[str, Any]:
    return {"z_a": PLACES[:6].clone(), "z_b": PLACES[6:12].clone()}


def given_bundles() -> dict[str, Any]:
    return {"x_a": PLACES[:6].clone(), "y_a": torch.arange(6) % 2, "x_b": PLACES[6:12].clone(),
            "y_b": torch.arange(6) // 3, "share": 0.9, "n_permutations": 19, "seed": 0}  # fmt: skip


def subspaces(**arguments: Any) -> list[Any]:
    result = ge.metrics.match_subspaces(**arguments)
    assert repr(result)
    return [result, torch.cat([result.overlap, result.null.mT], 1), result.p_values, result.to_frame()]


def agreement(labels_a: Any, labels_b: Any) -> list[float]:
    matches = ge.metrics.match_units(PLACES[:6], PLACES[6:12])
    return [matches.accuracy(labels_a, labels_b), matches.chance(labels_a, labels_b)]


def statistic(labels: Any) -> float:
    return float((labels == CLASSES.numpy()).mean())


def card_of(**arguments: Any) -> list[Any]:
    card = ge.unit_card(**arguments)
    assert repr(card)
    assert len(card.to_frame())
    return [card]


def square(i: int, j: int = 0) -> dict[str, int]:
    return {"square": i * i + j}


def swept(**arguments: Any) -> list[Any]:
    result = ge.sweep(**arguments)
    assert repr(result)
    return [list(result.results), result.to_frame()]


M = ge.metrics
SUBJECTS = {
    "GradientFields": Subject(ge.GradientFields, parts),
    "GradientFields.concatenate": Subject(
        ge.GradientFields.concatenate, lambda: {"parts": [make_fields(), make_fields()]}, is_ragged=True),
    "GradientFields.getitem": Subject(lambda index: make_fields()[index], lambda: {"index": [0, 2]}, is_ragged=True),
    "GradientFields.normalized": Subject(lambda fields: fields.normalized(), given_fields, 1e-6, is_ragged=True),
    "GradientFields.amplitudes": Subject(lambda fields: fields.amplitudes(), given_fields, 1e-6),
    "GradientFields.subsample": Subject(lambda **k: make_fields().subsample(**k), lambda: {"m": 4, "seed": 0}),
    "GradientFields.rotated": Subject(
        lambda rotations: make_fields().rotated(rotations), lambda: {"rotations": torch.eye(3).flip(0).double()}),
    "GradientFields.transformed": Subject(
        lambda matrices: make_fields().transformed(matrices), lambda: {"matrices": draw(3, 3) + 3 * torch.eye(3)}),
    "estimated_fields": Subject(ge.estimated_fields, given_fields, 1e-4),
    "field_mask": Subject(ge.field_mask, lambda: given_fields() | {"fraction": 0.4, "seed": 0, "kind": "points"}),
    **{f"gradient_fields{name}": Subject(ge.gradient_fields, lambda network=network: {
        "model": network(), "points": X.clone(), "wrt": "input", "unit_layer": "output", "units": [0, 2],
        "directions": None, "labels": None, "forward": None})
       for name, network in {"": chain, ", general": general, ", ensemble": ensemble}.items()},
    "gradient_fields of directions": Subject(
        ge.gradient_fields, lambda: {"model": chain(), "points": X.clone(), "directions": DIRECTIONS.clone()}),
    "gradient_fields of all": Subject(
        ge.gradient_fields, lambda: {"model": chain(), "points": X.clone(), "labels": torch.arange(3)}),
    "grid_points": Subject(ge.grid_points, lambda: {"m": 4, "dim": 2}, is_ragged=True),
    "sobol_points": Subject(ge.sobol_points, lambda: {"m": 4, "dim": 2, "seed": 0}),
    "sample_points": Subject(ge.sample_points, lambda: {"x": X.clone(), "m": 1, "seed": 0}),
    **{f"FieldDescriptor, {kind}": Subject(partial(described, kind), given_fields, 1e-5, kind == "none")
       for kind in KINDS},
    "FieldDescriptor, shared": Subject(partial(described, "none"), given_shared, 1e-5, is_ragged=True),
    "FieldDescriptor.transform": Subject(
        lambda fields: ge.FieldDescriptor(n_features=64).fit(make_fields()).transform(fields), given_fields, 1e-5),
    "FieldDescriptor": Subject(lambda **settings: ge.FieldDescriptor(**settings).fit_transform(make_fields()), lambda: {
        "invariance": "linear", "n_features": 64, "random_state": 0, "origin": True, "discount_groups": False},
        is_ragged=True),
    **{f"GradientFieldEmbedder, {kind}": Subject(partial(fitted, invariance=kind), given_fields, 1e-3)
       for kind in KINDS},
    "GradientFieldEmbedder, shared": Subject(partial(fitted, invariance="none"), given_shared, 1e-3),
    "GradientFieldEmbedder.transform": Subject(
        lambda fields: embedder().fit(make_fields()).transform(fields), given_fields, 1e-3),
    "GradientFieldEmbedder.predict_gradients": Subject(
        lambda **given: embedder().fit(make_fields()).predict_gradients(**given),
        lambda: given_fields() | {"points": draw(5, 3)}, 1e-3),
    "GradientFieldEmbedder": Subject(fitted, lambda: given_fields() | embedder().get_params(), is_ragged=True),
    "RowEmbedder": Subject(rows_embedded, lambda: {
        "X": PLACES.numpy()} | ge.RowEmbedder(2, max_steps=2, width=8).get_params(), 1e-6, is_ragged=True),
    "linear_probe": Subject(score(M.linear_probe), lambda: placed(n_folds=2, confidence=0.9)),
    "ProbeScore": Subject(score(M.linear_probe), partial(placed, groups=None)),
    "transfer_probe": Subject(score(M.transfer_probe), lambda: {
        f"{name}_{side}": placed()[name][part] for name in ("z", "y", "groups")
        for side, part in {"train": slice(12), "test": slice(12, 24)}.items()} | {"seed": 0, "confidence": 0.9}),
    "retrieval": Subject(score(M.retrieval), lambda: placed(
        queries=CLASSES < 2, candidates=CLASSES > -1, exclude=(), k=1, confidence=0.9)),
    "RetrievalScore": Subject(score(M.retrieval), partial(placed, groups=None)),
    "enrichment": Subject(
        score(M.enrichment), lambda: placed(n_permutations=19, exclude=(), within=NETWORK_OF % 2, k=1)),
    "Enrichment": Subject(lambda **k: [(found := M.enrichment(**k)), found.ratio], partial(placed, n_permutations=19)),
    "permutation_null": Subject(score(M.permutation_null), lambda: {
        "statistic": statistic, "y": CLASSES.clone(), "groups": NETWORK_OF.clone(), "n_permutations": 19, "seed": 0}),
    "mantel": Subject(score(M.mantel), lambda: {name: table @ table.T for name, table in {
        "a": PLACES[:5], "b": PLACES[5:10], "control": PLACES[10:15]}.items()} | {"n_permutations": 19, "seed": 0}),
    "cluster_agreement": Subject(M.cluster_agreement, lambda: {k: v for k, v in placed().items() if k != "groups"}),
    "match_subspaces": Subject(lambda **named: subspaces(**named)[1:2], given_bundles, 1e-6),
    "SubspaceMatching": Subject(subspaces, given_bundles, 1e-6),
    "match_units": Subject(M.match_units, given_sets, 1e-6),
    "UnitMatching": Subject(matching, given_sets, 1e-6),
    "UnitMatching.accuracy": Subject(
        agreement, lambda: {"labels_a": torch.arange(6) % 2, "labels_b": torch.arange(6) % 3}),
    "project_2d": Subject(score(partial(M.project_2d, method="pca")), lambda: {"z": draw(24, 3), "seed": 0}, 1e-6),
    "Projection": Subject(M.project_2d, lambda: {"z": draw(24, 3), "method": "pca"}),
    "field_r2": Subject(
        M.field_r2, lambda: {"predicted": draw(4, 5, 3), "gradients": draw(4, 5, 3, seed=1), "baseline": "mean"}),
    "spread": Subject(
        score(M.spread), lambda: {"values": draw(6) / 10 + 0.5, "confidence": 0.9, "bounds": (0.0, 1.0)}, 1e-6),
    "Estimate": Subject(score(M.spread), lambda: {"values": [0.5, 0.6, 0.7]}),
    "unit_card": Subject(ge.unit_card, lambda: {
        "fields": make_fields(), "unit": 1, "z": draw(8, 2), "names": [f"unit {i}" for i in range(8)],
        "n_neighbors": 2, "exclude": None, "n_top": 3}, is_ragged=True),
    "UnitCard": Subject(
        card_of, lambda: {"fields": make_fields(own=False), "unit": 1, "z": draw(8, 2)}, 1e-5, is_ragged=True),
    "sweep": Subject(swept, lambda: {
        "function": square, "settings": {"i": [1, 2]}, "cache": None, "n_jobs": None, "n_threads": 1,
        "on_error": "raise", "progress": False}),
    "SweepResult": Subject(
        swept, lambda: {"function": square, "settings": [{"i": 1}, {"i": 2}], "progress": False}, is_ragged=True),
    "Cache": Subject(lambda folder: len(str(ge.Cache(folder).folder)), lambda: {"folder": "folder"}),
}  # fmt: skip

FIELDS = dict.fromkeys(["string", "none", "list", "its gradients", "dictionary"], TYPE)
# A change of the units' scale changes nothing; nor does where the numbers lie.
EQUAL = dict.fromkeys(["fields 1e30", "fields 1e-30", "strided fields"], SAME)
DESCRIBED = FIELDS | EQUAL | dict.fromkeys(["one point", "constant units", "one constant unit"], VALUE)
DESCRIBED |= dict.fromkeys(["one unit", "two points", "equal points", "doubled units", "without values"], FINITE)
EMBEDDED = DESCRIBED | {"one unit": VALUE, "single precision": FINITE}
Z = dict.fromkeys(["string", "none", "bools", "complex", "object"], TYPE)
Z |= dict.fromkeys(["empty", "no columns", "one axis", "scalar", "another axis", "NaN", "inf", "-inf", "meta"], VALUE)
Z |= {"strided": SAME, "requires grad": SAME, "numpy": SAME, "list": SAME, "frame": SAME, "sparse": VALUE}
Z |= dict.fromkeys(["1e30", "1e-30", "zeros", "half", "bfloat16", "longs", "expanded"], FINITE)
LABELS = dict.fromkeys(["string", "none", "integer", "scalar", "floats", "objects", "half", "None in it"], TYPE)
LABELS |= dict.fromkeys(["empty", "shorter", "doubled", "another axis", "meta"], VALUE)
LABELS |= dict.fromkeys(["numpy", "as a list", "as a tuple", "as strings", "strided"], SAME)
FLOATS = dict.fromkeys(["string", "none"], TYPE) | dict.fromkeys(["numpy", "strided", "requires grad"], SAME)
FLOATS |= dict.fromkeys(["empty", "NaN", "inf", "half", "longs", "complex", "meta", "sparse", "scalar"], VALUE)
INTEGERS = {"string": TYPE, "list": SAME, "numpy": SAME, "half": VALUE, "shorter": VALUE, "meta": VALUE, "bools": VALUE}
LISTED = dict.fromkeys(["list", "numpy", "frame"], SAME)
ARRAYS = {"numpy": SAME, "frame": FINITE, "list": FINITE}  # the latter two are read in single precision
SHARE = NUMBER | {"zero": VALUE, "one": VALUE, "tensor": VALUE}  # the tensor is 1.5
RATE = NUMBER | {"zero": VALUE, "tensor": FINITE, "huge": "FloatingPointError"}

TABLE: list[Row] = [
    ("GradientFields", "points", FLOATS | {"list": SAME, "one row": VALUE, "1e30": FINITE}),
    ("GradientFields", "gradients", FLOATS | dict.fromkeys(["list", "one row"], "ValueError: points")),
    ("GradientFields", "values", {"string": TYPE, "list": SAME, "numpy": SAME, "NaN": VALUE, "half": VALUE,
     "one row": VALUE, "meta": VALUE, "requires grad": SAME}),
    *[("GradientFields", name, INTEGERS) for name in ("labels", "groups", "regions")],
    ("GradientFields.concatenate", "parts", {"string": TYPE, "none": TYPE, "integer": TYPE, "nothing": VALUE,
     "strings in it": TYPE, "None in it": TYPE, "one item": FINITE, "as a tuple": SAME}),
    ("GradientFields.getitem", "index", {"string": TYPE, "none": TYPE, "float": TYPE, "nothing": INDEX,
     "far away": INDEX, "floats in it": TYPE, "strings in it": TYPE, "as a tensor": SAME, "as an array": SAME,
     "as a tuple": SAME, "twice the same": FINITE, "bools in it": INDEX, "nested": SAME}),
    *[(f"GradientFields.{name}", "fields", {"strided fields": SAME, "single precision": FINITE})
      for name in ("normalized", "amplitudes")],
    ("GradientFields.normalized", "fields", EQUAL | {"constant units": VALUE, "without values": FINITE}),
    ("GradientFields.amplitudes", "fields", {"fields 1e30": FINITE, "constant units": FINITE, "one point": FINITE}),
    ("GradientFields.subsample", "m", COUNT | {"many": VALUE, "one": FINITE}),
    *[(f"GradientFields.{method}", name, FLOATS | {"list": FINITE, "zeros": VALUE, "one column": VALUE, "half": VALUE})
      for method, name in (("rotated", "rotations"), ("transformed", "matrices"))],
    ("GradientFields.transformed", "matrices", {"1e30": FINITE, "1e-30": FINITE}),
    ("estimated_fields", "fields", FIELDS | dict.fromkeys(["one point", "two points", "without values"], VALUE)
     | dict.fromkeys(["one unit", "constant units", "equal points", "single precision", "strided fields"], FINITE)),
    ("GradientFields", "fit_r2", {"string": TYPE, "numpy": SAME, "list": SAME, "NaN": VALUE, "shorter": VALUE}),
    ("field_mask", "fields", FIELDS | {"one unit": FINITE, "one point": VALUE}),
    ("field_mask", "fraction", SHARE | {"tiny": FINITE}), ("field_mask", "kind", CHOICE),
    *[(f"gradient_fields{path}", "points", SAMPLES | LISTED | {"one column": "ValueError: points|x"})
      for path in ("", ", general", ", ensemble")],
    *[(f"gradient_fields{path}", "model", NETWORKS | {"half network": "ValueError: points",
      "other precision": "ValueError: points", "meta network": "ValueError: points|model"})
      for path in ("", ", general")],
    ("gradient_fields, ensemble", "model", {"NaN weights": VALUE, "infinite weights": VALUE,
     "half network": "ValueError: points", "eval": SAME, "meta network": "ValueError: model|points",
     "other precision": "ValueError: points", "dead": FINITE, "frozen": SAME, "weights 1e-30": FINITE}),
    *[("gradient_fields", name, LAYER) for name in ("wrt", "unit_layer")],
    ("gradient_fields", "units", UNITS | {"one item": FINITE}), ("gradient_fields", "forward", FORWARD),
    ("gradient_fields, ensemble", "units", UNITS),
    ("gradient_fields of directions", "directions", {key: kind for key, kind in DIRECTED.items() if key != "one row"}),
    ("gradient_fields of all", "labels", {key: INTEGERS[key] for key in ("string", "list", "half", "shorter", "meta")}),
    *[("grid_points", name, COUNT | {"many": VALUE if name == "dim" else FINITE}) for name in ("m", "dim")],
    *[("sobol_points", name, COUNT | {"one": FINITE}) for name in ("m", "dim")],
    ("sobol_points", "dim", {"many": VALUE}),
    ("sample_points", "x", SAMPLES | ARRAYS), ("sample_points", "m", COUNT | {"many": VALUE}),
    *[(name, "seed", INTEGER) for name in ("GradientFields.subsample", "field_mask", "sobol_points", "sample_points",
      "linear_probe", "transfer_probe", "retrieval", "enrichment", "permutation_null", "mantel", "cluster_agreement",
      "project_2d")],
    *[(name, "random_state", INTEGER) for name in ("FieldDescriptor", "GradientFieldEmbedder")],
    # embeddings
    *[(f"FieldDescriptor, {kind}", "fields", DESCRIBED) for kind in (*KINDS, "shared")],
    ("FieldDescriptor, linear", "fields", {"points 1e30": VALUE, "single precision": FINITE}),
    *[(f"{name}.transform", "fields", FIELDS | EQUAL | {"one unit": FINITE, "without values": VALUE,
      "constant units": VALUE, "one point": VALUE}) for name in ("FieldDescriptor", "GradientFieldEmbedder")],
    *[(name, "origin", {"string": TYPE, "none": TYPE, "integer": TYPE}) for name in
      ("FieldDescriptor", "GradientFieldEmbedder")],
    ("FieldDescriptor", "discount_groups", {"string": TYPE, "none": TYPE, "integer": TYPE}),
    ("FieldDescriptor", "invariance", CHOICE | {"list": TYPE}),
    ("FieldDescriptor", "n_features", COUNT | {"one": VALUE, "two": FINITE}),
    *[(f"GradientFieldEmbedder, {kind}", "fields", EMBEDDED) for kind in (*KINDS, "shared")],
    ("GradientFieldEmbedder.predict_gradients", "fields", FIELDS | {"strided fields": SAME, "constant units": VALUE}),
    ("GradientFieldEmbedder.predict_gradients", "points", SAMPLES | ARRAYS | {"one column": VALUE}),
    *[("GradientFieldEmbedder", name, CHOICE) for name in ("invariance", "encoder", "mask_kind")],
    ("GradientFieldEmbedder", "mask_fraction", SHARE | {"tiny": FINITE}),
    ("GradientFieldEmbedder", "learning_rate", RATE),
    *[("GradientFieldEmbedder", name, COUNT | {"one": FINITE}) for name in ("n_components", "max_steps", "width")],
    *[("GradientFieldEmbedder", name, COUNT | {"one": VALUE}) for name in ("n_features", "n_views")],
    ("RowEmbedder", "X", dict.fromkeys(["string", "none", "empty", "one row", "one axis", "NaN", "inf", "objects"],
     "scikit-learn") | {"strided": SAME, "as a list": SAME, "frame": SAME, "1e30": FINITE, "1e-30": FINITE,
     "zeros": FINITE, "expanded array": FINITE, "doubled": FINITE}),
    *[("RowEmbedder", name, COUNT | {"one": FINITE}) for name in ("n_components", "max_steps", "width")],
    ("RowEmbedder", "mask_fraction", SHARE), ("RowEmbedder", "learning_rate", RATE | {"huge": FINITE}),
    # evaluation
    *[(name, "z", Z) for name in ("linear_probe", "retrieval", "enrichment", "cluster_agreement")],
    *[(name, "confidence", SHARE) for name in ("linear_probe", "transfer_probe", "retrieval", "spread")],
    *[(name, "y", LABELS | {"zeros": VALUE}) for name in ("linear_probe", "enrichment", "cluster_agreement")],
    *[(name, "groups", LABELS | {"none": FINITE, "zeros": VALUE})
      for name in ("linear_probe", "retrieval", "enrichment")],
    *[(name, "n_permutations", COUNT | {"one": VALUE}) for name in ("enrichment", "permutation_null", "mantel")],
    *[(name, "z", dict.fromkeys(["zeros", "1e30", "expanded", "half"], FINITE))
      for name in ("ProbeScore", "Enrichment")],
    *[(name, "exclude", {"string": TYPE, "integer": TYPE, "none": TYPE}) for name in ("retrieval", "enrichment")],
    *[(name, "k", COUNT | {"many": "ValueError: groups", "two": FINITE}) for name in ("retrieval", "enrichment")],
    ("linear_probe", "n_folds", COUNT | {"one": VALUE, "many": VALUE}),
    ("transfer_probe", "z_train", Z),
    ("transfer_probe", "z_test", Z | {"one column": VALUE, "one row": "ValueError: y_test"}),
    ("transfer_probe", "y_train", LABELS | {"zeros": VALUE, "as strings": "ValueError: y_test"}),
    ("transfer_probe", "y_test", LABELS | {
     "large first": VALUE, "zeros": FINITE, "as strings": "ValueError: y_test|y_train"}),
    ("transfer_probe", "groups_test", {"string": TYPE, "shorter": VALUE, "none": FINITE, "zeros": VALUE}),
    ("retrieval", "y", LABELS | {"zeros": FINITE}),
    *[("retrieval", name, {"string": TYPE, "longs": TYPE, "shorter": VALUE, "numpy": SAME, "strided": SAME})
      for name in ("queries", "candidates")],
    ("RetrievalScore", "z", {"zeros": FINITE, "1e30": FINITE, "expanded": FINITE, "doubled": "ValueError: y"}),
    ("enrichment", "within", {"string": TYPE, "shorter": VALUE, "floats": TYPE, "numpy": SAME}),
    ("match_subspaces", "x_a", dict.fromkeys(["string", "none"], TYPE) | {"NaN": VALUE, "inf": VALUE, "one axis": VALUE}
     | dict.fromkeys(["zeros", "shorter"], "ValueError: y_a") | {"one column": "ValueError: x_b"}
     | dict.fromkeys(["numpy", "list", "strided", "1e30", "1e-30"], SAME)),
    ("match_subspaces", "x_b", {"string": TYPE, "one column": VALUE, "zeros": "ValueError: y_b", "numpy": SAME}),
    *[("match_subspaces", name, {"string": TYPE, "none": TYPE, "shorter": VALUE, "floats": TYPE, "numpy": SAME,
       "as strings": SAME}) for name in ("y_a", "y_b")],
    ("match_subspaces", "share", NUMBER | {"zero": VALUE, "two": VALUE, "one": FINITE, "tensor": VALUE}),
    ("match_subspaces", "n_permutations", COUNT | {"one": VALUE}), ("match_subspaces", "seed", INTEGER),
    ("SubspaceMatching", "x_a", {"1e30": FINITE, "1e-30": FINITE, "expanded": FINITE}),
    ("match_units", "z_b", Z | {"one row": FINITE, "one column": VALUE}),
    ("transfer_probe", "groups_train", {"string": TYPE, "shorter": VALUE, "none": SAME}),
    *[("mantel", name, dict.fromkeys(["string", "object"], TYPE) | dict.fromkeys(["numpy", "list", "strided"], SAME)
       | dict.fromkeys(["empty", "one axis", "another axis", "one row", "one column", "NaN", "inf", "meta"], VALUE)
       | ({"none": TYPE, "zeros": VALUE} if name != "control" else
          {"none": FINITE, "zeros": FINITE, "another axis": SAME}))
      for name in ("a", "b", "control")],
    ("permutation_null", "statistic", {"string": TYPE, "none": TYPE, "function": VALUE}),
    ("permutation_null", "y", LABELS | {"zeros": VALUE, "shorter": "ValueError: groups",
     "doubled": "ValueError: groups", "as strings": FINITE}),
    ("permutation_null", "groups", LABELS | {"none": FINITE, "zeros": FINITE}),
    ("match_units", "z_a", Z | {"one row": FINITE, "one column": "ValueError: z_b"}),
    ("UnitMatching", "z_b", {"1e30": FINITE, "1e-30": FINITE, "zeros": FINITE, "expanded": FINITE, "one row": FINITE}),
    ("UnitMatching.accuracy", "labels_a", LABELS | {"as strings": "TypeError: labels_b"}),
    ("project_2d", "z", Z | {"one row": VALUE, "one column": FINITE, "doubled": FINITE}),
    ("field_r2", "predicted", {key: kind for key, kind in Z.items() if key != "frame"}),
    ("field_r2", "gradients", {"NaN": VALUE, "zeros": FINITE, "string": TYPE, "shorter": "ValueError: predicted"}),
    ("field_r2", "baseline", CHOICE), ("Projection", "method", CHOICE),
    ("spread", "values", {"string": TYPE, "none": TYPE, "empty": VALUE, "NaN": VALUE, "inf": VALUE, "scalar": VALUE,
     "another axis": VALUE, "as a list": SAME, "numpy": SAME, "strided": SAME, "zeros": FINITE, "half": FINITE,
     "meta": VALUE, "complex": TYPE, "requires grad": SAME}),
    ("spread", "bounds", {"string": TYPE, "integer": TYPE, "none": FINITE, "nothing": VALUE}),
    ("Estimate", "values", {"twice the same": FINITE, "None in it": TYPE, "strings in it": TYPE}),
    ("unit_card", "fields", FIELDS | {"one unit": VALUE + ": fields|z|unit", "strided fields": SAME,
     "without values": VALUE, "one point": FINITE, "two points": FINITE, "fields 1e30": FINITE}),
    ("unit_card", "unit", INTEGER | {"many": VALUE}), ("unit_card", "z", Z | {"one row": VALUE}),
    ("unit_card", "names", {"string": TYPE, "integer": TYPE, "nothing": VALUE, "too few": VALUE, "None in it": TYPE}),
    ("unit_card", "exclude", {"string": TYPE, "integer": TYPE}),
    *[("unit_card", name, COUNT | {"one": FINITE, "many": FINITE}) for name in ("n_neighbors", "n_top")],
    ("UnitCard", "fields", dict.fromkeys(
        ["constant units", "one constant unit", "equal points", "fields 1e30", "points 1e30", "one point"], FINITE)),
    ("UnitCard", "z", {"zeros": FINITE, "1e30": FINITE, "1e-30": FINITE, "expanded": FINITE}),
    # sweeps
    ("sweep", "function", {"string": TYPE, "none": TYPE, "integer": TYPE, "list": TYPE}),
    ("sweep", "settings", {"string": TYPE, "none": TYPE, "integer": TYPE, "nothing": VALUE, "dictionary": VALUE,
     "strings in it": TYPE}),
    ("sweep", "cache", {"string": TYPE, "integer": TYPE, "dictionary": TYPE}),
    ("sweep", "n_jobs", {"string": TYPE, "float": TYPE, "bool": TYPE, "zero": VALUE, "one": SAME}),
    ("sweep", "n_threads", COUNT), ("sweep", "on_error", CHOICE),
    ("sweep", "progress", {"string": TYPE, "none": TYPE, "integer": TYPE}),
    ("SweepResult", "settings", {"one item": FINITE, "twice the same": FINITE, "None in it": TYPE, "as a tuple": SAME}),
    ("Cache", "folder", {"none": TYPE, "integer": TYPE, "list": TYPE, "closed file": TYPE, "object": TYPE,
     "bytes": TYPE}),
]  # fmt: skip
