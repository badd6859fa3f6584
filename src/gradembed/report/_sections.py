"""The sections of a report as plain data, and the page that the template makes of them."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from torch import Tensor, nn

from gradembed._context import hooked
from gradembed.gradients import batches
from gradembed.gradients.sites import read_element
from gradembed.interference import Interference, interference
from gradembed.report._request import Request, outputs_of, score
from gradembed.report._units import embedded_units
from gradembed.report._views import views
from gradembed.tree import GradientTree, gradient_tree

HERE = Path(__file__).parent
MOST_MODULES, MOST_PAIRS = 60, 500  # rows of tables
MEASURES = {"cosine": "mean cosine", "abs_cosine": "mean |cosine|", "conflict": "share in conflict"}
TREE_NUMBERS = 2**26  # of gradients in memory at a time
MOST_NODES, MOST_SHARE = 20_000, 0.9  # of a tree; of the samples in one node, at the layer whose nodes are listed
PACKAGES = ("gradembed", "torch", "numpy", "scikit-learn", "vl-convert-python")


def measured(request: Request) -> dict[str, Any]:
    """Return what the networks are, and how well they do."""
    model, shapes, forward = request.networks[0], _shapes(request), request.options["forward"]
    leaves = [(name, module) for name, module in model.named_modules() if not any(module.children())]
    modules = []
    for name, module in leaves[:MOST_MODULES]:
        row = {"name": name or "(the model itself)", "type": type(module).__name__, "shape": shapes.get(name, ())}
        modules.append(row | {"parameters": sum(p.numel() for p in module.parameters())})
    data = {"modules": modules, "n_modules": len(leaves), "parameters": sum(p.numel() for p in model.parameters())}
    data["trainable"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    y, answers = request.y, (outputs_of(network, request.x, forward) for network in request.networks)
    return data | {"scores": [] if y is None else [score(output, y, request.blocks) for output in answers]}


def _shapes(request: Request) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what modules give for one sample, by name."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, _module: nn.Module, _args: object, output: object) -> None:
        tensor, _ = read_element(output, None)
        if isinstance(tensor, Tensor) and tensor.ndim:
            shapes.setdefault(name, tuple(tensor.shape[1:]))

    named = {m: n for n, m in request.networks[0].named_modules() if not isinstance(m, torch.jit.ScriptModule)}
    with hooked({module: partial(note, name) for module, name in named.items()}):
        outputs_of(request.networks[0], batches.part(request.x, 0, 1), request.options["forward"])
    return shapes


def interferences(request: Request) -> dict[str, Any]:
    """Return how the outputs interfere."""
    options, n = request.options, len(request.names)
    shared = {name: options[name] for name in ("units", "forward", "centered", "seed")}
    shared |= {"layers": request.sites}
    more = {name: options[name] for name in ("n_bootstrap", "n_untrained", "reinitialize")}  # of the first one only
    more["n_bootstrap"] *= n > 1
    found = [interference(net, request.x, **shared, **({} if i else more)) for i, net in enumerate(request.networks)]
    return compared([replace(result, unit_labels=request.names) for result in found])


def compared(results: list[Interference]) -> dict[str, Any]:
    """Return the tables of one network's interference, others beside it."""
    first, frame = results[0], results[0].to_frame()
    data = {"result": first, "rows": [_layer_row(results, layer) for layer in first.layers], "n_pairs": len(frame)}
    if len(first.unit_labels) < 2:
        return data
    largest = frame["abs_cosine"].sort_values(ascending=False, kind="stable").index[:MOST_PAIRS]
    data["pairs"] = (frame if len(frame) <= MOST_PAIRS else frame.loc[largest]).to_dict("records")
    return data


def _layer_row(results: list[Interference], layer: str) -> dict[str, Any]:
    first, row = results[0], dict[str, Any](layer=layer)
    for name in MEASURES:
        row[name] = first.pair_mean(name, layer), first.summary_intervals.get(name, {}).get(layer)
        if first.untrained:
            row[f"untrained_{name}"] = float(np.mean([one.pair_mean(name, layer) for one in first.untrained]))
    if len(set(first.heads)) > 1:
        across = torch.tensor([[a != b for b in first.heads] for a in first.heads]) & (first.count[layer] > 0)
        row["between_heads"] = float(first.abs_cosine[layer][across].mean())  # NaN where no such pair has a cosine
    if len(results) > 1:
        found = [result.pair_mean("abs_cosine", layer) for result in results]
        row |= {"range": (min(found), max(found)), "agreement": _agreement(results, layer)}
    undefined = float(first.undefined[layer].double().mean()) / first.n_samples
    row |= {"undefined": undefined, "norm": float(first.norm[layer].mean())}
    if len(first.unit_labels) > 1:
        excess, low, high = first.excess(layer)
        row["excess"] = excess, (low, high)
    row["chance"] = first.chance.get(layer, math.nan)
    return row


def _pattern(result: Interference, layer: str) -> np.ndarray[Any, Any]:
    return result.cosine[layer].numpy()[np.triu_indices(len(result.unit_labels), 1)]  # [u (u - 1) / 2]


def _agreement(results: list[Interference], layer: str) -> float:
    """Return the mean correlation of patterns between networks; NaN for few pairs, or without spread."""
    rows = np.array([_pattern(result, layer) for result in results])
    if rows.shape[1] < 3 or (np.ptp(rows, axis=1) < 1e-9).any():
        return float("nan")
    return float(np.corrcoef(rows)[np.triu_indices(len(rows), 1)].mean())


def tree_of_samples(request: Request) -> dict[str, Any]:
    """Return which samples have the same gradients, or why there is no tree."""
    units = request.options["units"]
    room = max(2, TREE_NUMBERS // (request.n_numbers * len(units)))
    chosen, x = request.sample(min(request.options["max_samples"], room))
    asked = {name: request.options[name] for name in ("forward", "tolerance")}
    try:
        tree = gradient_tree(request.networks[0], x, layers=request.sites, roots=units, max_nodes=MOST_NODES, **asked)
    except ValueError as error:
        return {"refusal": str(error), "chosen": chosen}
    classes = None if request.classes is None else request.classes[chosen]
    return branches(replace(tree, root_labels=request.names), classes, request.all_names) | {"chosen": chosen}


def branches(tree: GradientTree, classes: Tensor | None = None, names: Sequence[str] = ()) -> dict[str, Any]:
    """Return the tables of a tree, with the class of each sample [n] and what classes are called, if they have any."""
    rows, r, n = [], len(tree.root_labels), tree.n_samples
    for layer, c in tree.counts.items():
        row = {"layer": layer, "nodes": len(c), "per_output": len(c) / r, "largest": int(c.max()) / n}
        rows.append(row | {"alone": int((c == 1).sum()) / (r * n)})
    data = {"refusal": "", "result": tree, "rows": rows, "most_share": MOST_SHARE, "chosen": torch.arange(n)}
    # the nodes with the most samples at the first layer that tells samples apart
    apart = [name for name in tree.layers if int(tree.counts[name].max()) <= MOST_SHARE * tree.n_samples]
    layer = apart[0] if apart else tree.layers[-1]
    largest: list[Any] = tree.largest(layer, 10).to_dict("records")
    for row in largest:
        members = (tree.nodes[layer][int(tree.roots[layer][row["node"]])] == row["node"]).nonzero()[:, 0]
        if classes is not None:
            shares = classes[members].bincount() / len(members)
            row |= {"class": names[int(shares.argmax())], "class_share": float(shares.max())}
    return data | {"layer": layer, "is_apart": bool(apart), "largest": largest}


def number(value: float, form: str = ".3f") -> str:
    """Return a number with a true minus sign; a dash for what is none."""
    return "–" if math.isnan(value) else format(value, form).rstrip(".").replace("-", "−")


def setting(value: object) -> str:
    """Return an argument in one line; functions by name, for their address is another in every run."""
    shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else getattr(value, "__qualname__", value)
    return " ".join(str(shown).split()) or "–"


def flow(text: str) -> Markup:
    """Return one line of what the template wrote in several."""
    return Markup(" ").join(escape(text).split())


@cache
def plotting_library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script: some seconds, once."""
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def findings(sections: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of the sentences that a report begins with, each with its chance and control."""
    data: dict[str, Any] = {}
    if sections["compared"] and len(frame := (result := sections["compared"]["result"]).to_frame()):
        rows = sections["compared"]["rows"]
        data["layer"] = max(rows, key=lambda row: abs(row["excess"][0]) / (np.ptp(row["excess"][1]) + 1e-12))
        own = frame[(frame["layer"] == result.layers[0]) & (frame["n_pairs"] > 0)]
        if len(own):
            data["opposed"], data["shared"] = (own.loc[i].to_dict() for i in (own.cosine.idxmin(), own.cosine.idxmax()))
        pairs, outputs = (table[np.triu_indices(len(result.unit_labels), 1)] for table in (
            result.cosine[result.layers[0]].numpy(), result.output_correlation.numpy()))  # fmt: skip
        varied = len(pairs) > 2 and min(np.ptp(pairs), np.ptp(outputs)) > 1e-9
        data["by_outputs"] = float(np.corrcoef(pairs, outputs)[0, 1]) if varied else math.nan
    cards = (sections["units"] or {}).get("cards", {})
    if "null" in cards:
        nearest = np.array(cards["distance"])[:, 0]
        data["nearer"] = float(np.mean(cards["nearer"]))
        data["ratio"] = float(np.median(nearest / np.maximum(cards["null"], 1e-300)))
        if "untrained" in cards:
            data["nearer_than_untrained"] = float((nearest < np.array(cards["untrained"])).mean())
    return data


def page_of(request: Request) -> tuple[str, str, tuple[str, ...]]:
    """Measure, and write down what was found.

    Returns:
        The page, its title, and what it begins with.
    """
    sections = {"measured": measured(request), "compared": interferences(request)}
    sections |= {"tree": tree_of_samples(request), "units": embedded_units(request)}
    title = request.options["title"] or f"Report on a trained {type(request.networks[0]).__name__}"
    return page_with(request, sections, title)


def page_with(request: Request | None, sections: dict[str, Any], title: str) -> tuple[str, str, tuple[str, ...]]:
    """Write the sections down, those that are ``None`` left out; see `page_of`."""
    n_networks = len(request.networks) if request else (sections["units"] or {}).get("n_networks", 1)
    drawn = views(request, sections["compared"], sections["tree"], sections["units"], n_networks)
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    page = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    page.filters |= {"number": number, "setting": setting, "flow": flow}
    words = {"request": request, "found": findings(sections), "title": title, "n_networks": n_networks, **sections}
    lines = page.get_template("findings.j2").render(**words).split("\n")
    said = tuple(Markup(" ".join(line.split())).unescape() for line in lines if line.strip())
    scripts = [Markup(text) for text in (plotting_library(), (HERE / "atlas.js").read_text())]
    words |= {"said": said, "views": drawn, "scripts": scripts, "versions": versions}
    return page.get_template("page.html.j2").render(**words), words["title"], said
