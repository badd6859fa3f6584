"""The sections of a report as plain data, and the page that the template makes of them."""

from __future__ import annotations

import base64
import math
import platform
import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from torch import Tensor

from gradembed import plots
from gradembed._validation import describe, refuse
from gradembed.interference import Interference, interference
from gradembed.plots._render import pictures, turn_layer_names
from gradembed.report._request import MOST_OUTPUTS, Request
from gradembed.report._units import units_section
from gradembed.tree import GradientTree, gradient_tree

MOST_MODULES = 60  # listed
MOST_PAIRS = 500  # in the table of all pairs
MOST_MATRICES = 6  # drawn
NEW = 0.05  # mean difference of cosines from which a matrix is worth drawing beside another
MEASURES = {"cosine": "mean cosine", "abs_cosine": "mean |cosine|", "conflict": "share in conflict"}
MOST_NODES = 20_000
TREE_NUMBERS = 2**26  # of gradients in memory at a time
MOST_DRAWN, FEWEST_BRANCHES = 40, 2  # nodes of the subtree that is drawn, and how often it has to part
LONGEST = 3  # letters that fit into the square of a root
MOST_SHARE = 0.9  # of the samples in one node, at the layer whose nodes are listed
TRIED = 20  # nodes of each layer that may head the subtree that is drawn
DOTS_PER_PIXEL = 1.5  # of a picture, for each pixel that it is wide on the page
PACKAGES = ("gradembed", "torch", "numpy", "scikit-learn", "matplotlib")


def page_of(request: Request) -> str:
    """Measure, and write down what was found.

    Returns:
        The page.
    """
    compared, layers = interference_section(request)
    loader = FileSystemLoader(Path(__file__).parent)
    page = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    page.filters |= {"number": number, "significant": significant, "setting": setting, "picture": picture, "flow": flow}
    return page.get_template("page.html.j2").render(
        request=request,
        measured=measured_section(request),
        compared=compared,
        tree=tree_section(request, layers),
        units=units_section(request, layers),
        settings=settings_section(request),
    )


def measured_section(request: Request) -> dict[str, Any]:
    """Return what the networks are, and how well they do."""
    leaves = [(name, module) for name, module in request.model.named_modules() if not any(module.children())]
    modules = [
        {
            "name": name or "(the model itself)",
            "type": type(module).__name__,
            "shape": request.shapes.get(name, ()),
            "parameters": sum(p.numel() for p in module.parameters()),
        }
        for name, module in leaves[:MOST_MODULES]
    ]
    return {
        "parameters": sum(p.numel() for p in request.model.parameters()),
        "trainable": sum(p.numel() for p in request.model.parameters() if p.requires_grad),
        "scores": [] if request.y is None else [score(output, request.y) for output in request.outputs],
        "modules": modules,
        "n_modules": len(leaves),
        "is_cut": request.units == list(range(MOST_OUTPUTS)),
    }


def score(output: Tensor, y: Tensor) -> dict[str, Any]:
    """Compare outputs [n, D] with classes [n] or [n, t], or values [n] or [n, D].

    Returns:
        The score's name, its value, and what the best constant answer has.
    """
    y = y.reshape(len(y), -1).to(output.device)
    if y.is_floating_point():
        output, y = output.double(), y.double()
        spread, left = (y - y.mean(0)).square().sum(0), (y - output).square().sum(0)  # [D] each
        return {"name": "R²", "value": float((1 - left / spread)[spread > 0].mean()), "constant": 0.0}
    predicted = output.reshape(len(y), y.shape[1], -1).argmax(-1)  # [n, t]
    common = torch.stack([column.bincount().max() for column in y.T]).double() / len(y)
    return {"name": "accuracy", "value": float((predicted == y).double().mean()), "constant": float(common.mean())}


def interference_section(request: Request) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return how the outputs interfere, and the layers at which they were compared."""
    results = _interference_of_all(request)
    first, layers, frame = results[0], results[0].layers, results[0].to_frame()
    data = {"result": first, "rows": [_layer_row(results, layer) for layer in layers], "n_pairs": len(frame)}
    if len(request.units) < 2:
        return data, layers
    named, wide = {f"these {len(results)}" if len(results) > 1 else "this network": results}, 0.3 * len(layers) + 1.5

    def matrix(layer: str, ax: Any) -> None:
        plots.interference(first, layers=[layer], axis_label="output", axes=[ax])

    def curve(measure: str, ax: Any) -> None:
        turn_layer_names(plots.conflict_by_layer(named, measure=measure, ax=ax)).set_ylabel(MEASURES[measure])

    data["matrices"] = _drawn(matrix, _distinct(first), (3.5, 3.0))
    data["curves"] = _drawn(curve, MEASURES, (max(3.5, wide), 3.5))
    largest = frame["abs_cosine"].sort_values(ascending=False, kind="stable").index[:MOST_PAIRS]
    data["pairs"] = (frame if len(frame) <= MOST_PAIRS else frame.loc[largest]).to_dict("records")
    return data, layers


def _interference_of_all(request: Request) -> list[Interference]:
    """Return results of all networks at the same layers; bootstrap and control for the first one only."""
    options = request.options
    shared = {"units": request.units, "seed": options["seed"], **request.calling}
    counts = {"n_bootstrap": options["n_bootstrap"] * (len(request.units) > 1), "n_untrained": options["n_untrained"]}
    first = interference(request.model, request.x, layers=options["layers"], **counts, **shared)
    for network in request.networks[1:]:
        missing = sorted({*first.layers} - {"input", *(name for name, _ in network.named_modules())})
        if missing:
            remedy = "Pass networks of the same architecture, or layers= that all have"
            refuse("others", "have the layers that are compared", f"none named {missing[0]!r}", remedy)
    rest = [interference(network, request.x, layers=first.layers, **shared) for network in request.networks[1:]]
    return [replace(result, unit_labels=request.names) for result in (first, *rest)]


def _layer_row(results: list[Interference], layer: str) -> dict[str, Any]:
    first, row = results[0], dict[str, Any](layer=layer)
    for name in MEASURES:
        row[name] = first.pair_mean(name, layer), first.summary_intervals.get(name, {}).get(layer)
        if first.untrained:
            row[f"untrained_{name}"] = float(np.mean([one.pair_mean(name, layer) for one in first.untrained]))
    if len(results) > 1:
        found = [result.pair_mean("abs_cosine", layer) for result in results]
        row |= {"range": (min(found), max(found)), "agreement": _agreement(results, layer)}
    undefined = float(first.undefined[layer].double().mean()) / first.n_samples
    row |= {"chance": first.chance[layer], "dimension": first.effective_dimension[layer], "undefined": undefined}
    return row | {"norm": float(first.norm[layer].mean())}


def _pattern(result: Interference, layer: str) -> np.ndarray[Any, Any]:
    return result.cosine[layer].numpy()[np.triu_indices(len(result.unit_labels), 1)]  # [u (u - 1) / 2]


def _agreement(results: list[Interference], layer: str) -> float:
    """Return the mean correlation of patterns between networks; NaN for few pairs, or without spread."""
    rows = np.array([_pattern(result, layer) for result in results])
    if rows.shape[1] < 3 or (np.ptp(rows, axis=1) < 1e-9).any():
        return float("nan")
    return float(np.corrcoef(rows)[np.triu_indices(len(rows), 1)].mean())


def _distinct(result: Interference) -> list[str]:
    """Return the first layer, and those that differ most from all that were chosen before."""
    patterns = {layer: _pattern(result, layer) for layer in result.layers}
    chosen = [result.layers[0]]
    while len(chosen) < min(MOST_MATRICES, len(patterns)):
        gaps = {k: min(np.abs(p - patterns[c]).mean() for c in chosen) for k, p in patterns.items()}
        layer = max(gaps, key=lambda k: gaps[k])
        if gaps[layer] < NEW:
            break
        chosen.append(layer)
    return [layer for layer in result.layers if layer in chosen]


def _drawn(draw: Callable[[str, Any], None], names: Iterable[str], inches: tuple[float, float]) -> dict[str, bytes]:
    """Return a figure for each name."""
    listed = list(names)
    made = pictures(lambda axes: list(map(draw, listed, axes)), [inches] * len(listed))
    return dict(zip(listed, made, strict=True))


def tree_section(request: Request, layers: tuple[str, ...]) -> dict[str, Any]:
    """Return which samples have the same gradients, or why there is no tree."""
    width = sum(math.prod(request.shapes.get(layer, (1,))) for layer in layers)
    most = min(request.options["max_samples"], max(2, TREE_NUMBERS // (width * len(request.units))))
    chosen = request.sample(most)
    x, tolerance = request.x[chosen.to(request.x.device)], request.options["tolerance"]
    settings = {"roots": request.units, "max_nodes": MOST_NODES, "tolerance": tolerance, **request.calling}
    try:
        tree = gradient_tree(request.model, x, layers=layers, **settings)
    except ValueError as error:
        return {"refusal": str(error)}
    r, n = len(tree.root_labels), tree.n_samples
    rows = [
        {"layer": layer, "nodes": len(c), "per_output": len(c) / r, "largest": int(c.max()) / n}
        | {"alone": int((c == 1).sum()) / (r * n)}
        for layer, c in tree.counts.items()
    ]
    part, head = _drawable(tree)
    data = {"refusal": "", "result": tree, "rows": rows, "most_share": MOST_SHARE, "most_drawn": MOST_DRAWN}
    return data | _largest(request, tree, chosen) | {"part": part, "head": head, "png": part and _draw(request, part)}


def _draw(request: Request, part: GradientTree) -> bytes:
    names = tuple(request.all_names[int(label)] for label in part.root_labels)
    named = replace(part, root_labels=names if max(map(len, names)) <= LONGEST else part.root_labels)
    leaves, rows = max(map(len, part.norms.values())), len(part.layers) + 1
    inches = (max(4.1, 0.32 * leaves + 1.8), 0.95 * rows + 0.7)
    return pictures(lambda axes: plots.tree(named, max_nodes=MOST_DRAWN, ax=axes[0]), [inches])[0]


def _largest(request: Request, tree: GradientTree, chosen: Tensor) -> dict[str, Any]:
    """Return the nodes with the most samples at the first layer that tells samples apart."""
    apart = [name for name in tree.layers if int(tree.counts[name].max()) <= MOST_SHARE * tree.n_samples]
    layer = apart[0] if apart else tree.layers[-1]
    rows, classes = tree.largest(layer, 10).to_dict("records"), request.classes
    for row in rows:
        members = (tree.nodes[layer][int(tree.roots[layer][row["node"]])] == row["node"]).nonzero()[:, 0]
        row["output"] = request.all_names[int(row["root"])]
        if classes is not None:
            shares = classes[chosen[members]].bincount() / len(members)
            row |= {"class": request.all_names[int(shares.argmax())], "class_share": float(shares.max())}
    return {"layer": layer, "is_apart": bool(apart), "largest": rows}


def _drawable(tree: GradientTree) -> tuple[GradientTree | None, tuple[int, str] | None]:
    """Return the whole tree or its most telling part that parts and is small enough, and where it begins."""
    heads = [(layer, node) for layer in tree.layers for node in tree.largest(layer, TRIED)["node"].tolist()]
    parts = [(tree, None), *((tree.subtree(layer, node), (node, layer)) for layer, node in heads)]
    best: tuple[tuple[int, ...], GradientTree | None, tuple[int, str] | None] = ((-1,), None, None)
    for i, (part, head) in enumerate(parts):
        sizes = [len(norms) for norms in part.norms.values()]
        # the whole tree first, then parts that branch at more layers, those of more samples, those that begin lower
        rank = (head is None, sum(a < b for a, b in pairwise(sizes)), part.n_samples, i)
        if sum(sizes) <= MOST_DRAWN and sizes[-1] - sizes[0] >= FEWEST_BRANCHES and rank > best[0]:
            best = rank, part, head
    return best[1:]


def settings_section(request: Request) -> dict[str, Any]:
    """Return the settings and versions that the page was made with."""
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    return {"values": {"units": request.units} | request.options, "versions": versions}


def number(value: float, digits: int = 3) -> str:
    """Return a number with a true minus sign; a dash for what is none."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def significant(value: float) -> str:
    """Return three digits of a number of unknown size."""
    return "–" if math.isnan(value) else f"{value:#.3g}".rstrip(".").replace("-", "−")


def setting(value: object) -> str:
    """Return an argument in one line, the same in every run."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    named = value if isinstance(value, str) else getattr(value, "__qualname__", None)
    return describe(value) if named is None else named or "–"


def flow(text: str) -> Markup:
    """Return one line of what the template wrote in several."""
    return Markup(" ").join(escape(text).split())


def picture(png: bytes) -> dict[str, Any]:
    """Return what an image element needs."""
    width, height = (round(side / DOTS_PER_PIXEL) for side in struct.unpack(">II", png[16:24]))
    return {"data": base64.b64encode(png).decode(), "width": width, "height": height}
