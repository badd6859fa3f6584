"""The sections of a report as plain data, and the page that the template makes of them."""

from __future__ import annotations

import base64
import copy
import math
import platform
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from torch import Tensor, nn

from gradembed import plots
from gradembed._context import hooked
from gradembed.cards import aligned_units, mean_cosine, unit_card
from gradembed.embed import FieldDescriptor
from gradembed.fields import GradientFields, gradient_fields
from gradembed.gradients import batches, unit_gradients
from gradembed.gradients.sites import read_element
from gradembed.interference import Interference, interference
from gradembed.metrics import project_2d, retrieval
from gradembed.models import untrained
from gradembed.plots._frame import pictures, turn_layer_names
from gradembed.report._request import Request, outputs_of, score
from gradembed.tree import GradientTree, gradient_tree

MOST_MODULES, MOST_PAIRS, MOST_TWINS = 60, 500, 15  # rows of tables
MOST_MATRICES, NEW = 6, 0.05  # drawn, and the mean difference of cosines from which one is worth drawing beside another
MEASURES = {"cosine": "mean cosine", "abs_cosine": "mean |cosine|", "conflict": "share in conflict"}
TREE_NUMBERS, FIELD_NUMBERS = 2**26, 2**24  # of gradients in memory at a time
MOST_NODES, MOST_SHARE = 20_000, 0.9  # of a tree; of the samples in one node, at the layer whose nodes are listed
MOST_DRAWN, FEWEST_BRANCHES = 40, 2  # nodes of the subtree that is drawn, and how often it has to part
TRIED, LONGEST = 20, 3  # nodes of each layer that may head that subtree; letters that fit beside each other
FEWEST_POINTS, FEWEST_UNITS, MOST_CLASSES = 20, 3, 10  # to embed; to draw; that have a color of their own
CARD_PANELS = ((4.0, 3.4), (3.9, 3.2), (3.9, 3.2), (3.9, 3.2))  # of a card: two beside each other on a wide page
DOTS_PER_PIXEL = 1.5  # of a picture, for each pixel that it is wide on the page
PACKAGES = ("gradembed", "torch", "numpy", "scikit-learn", "matplotlib")


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
    shared = {name: options[name] for name in ("units", "forward", "seed")}
    shared |= {"layers": request.sites}
    more = {name: options[name] for name in ("n_bootstrap", "n_untrained", "reinitialize")}  # of the first one only
    more["n_bootstrap"] *= n > 1
    found = [interference(net, request.x, **shared, **({} if i else more)) for i, net in enumerate(request.networks)]
    results = [replace(result, unit_labels=request.names) for result in found]
    first, layers, frame = results[0], results[0].layers, results[0].to_frame()
    data = {"result": first, "rows": [_layer_row(results, layer) for layer in layers], "n_pairs": len(frame)}
    if n < 2:
        return data
    named, wide = {f"these {len(results)}" if len(results) > 1 else "this network": results}, 0.3 * len(layers) + 1.5

    def matrix(layer: str, ax: Any) -> None:
        plots.interference(first, layers=[layer], axis_label="output", axes=[ax])
        if max(map(len, request.names)) > LONGEST:
            turn_layer_names(ax)

    def curve(measure: str, ax: Any) -> None:
        turn_layer_names(plots.conflict_by_layer(named, measure=measure, ax=ax)).set_ylabel(MEASURES[measure])

    data["matrices"] = _drawn(matrix, _distinct(first), (3.5, 3.0))
    data["curves"] = _drawn(curve, list(MEASURES), (max(3.5, wide), 3.5))
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
    row |= {"chance": first.chance[layer], "undefined": undefined, "norm": float(first.norm[layer].mean())}
    if len(first.unit_labels) > 1:
        excess, low, high = first.excess(layer)
        row["excess"] = excess, (low, high)
    return row


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
    for _ in range(min(MOST_MATRICES, len(patterns)) - 1):
        gaps = {k: min(np.abs(p - patterns[c]).mean() for c in chosen) for k, p in patterns.items()}
        layer = max(gaps, key=lambda k: gaps[k])
        chosen += [layer] if gaps[layer] >= NEW else []
    return [layer for layer in result.layers if layer in chosen]


def _drawn(draw: Callable[[str, Any], Any], names: list[str], inches: tuple[float, float]) -> dict[str, bytes]:
    """Return a figure for each name."""
    return dict(zip(names, pictures(lambda axes: [*map(draw, names, axes)], [inches] * len(names)), strict=True))


def tree_of_samples(request: Request) -> dict[str, Any]:
    """Return which samples have the same gradients, or why there is no tree."""
    units = request.options["units"]
    room = max(2, TREE_NUMBERS // (request.n_numbers * len(units)))
    chosen, x = request.sample(min(request.options["max_samples"], room))
    asked = {name: request.options[name] for name in ("forward", "tolerance")}
    try:
        tree = gradient_tree(request.networks[0], x, layers=request.sites, roots=units, max_nodes=MOST_NODES, **asked)
    except ValueError as error:
        return {"refusal": str(error)}
    tree, r, n = replace(tree, root_labels=tuple(map(str, units))), len(units), tree.n_samples
    rows = []
    for layer, c in tree.counts.items():
        row = {"layer": layer, "nodes": len(c), "per_output": len(c) / r, "largest": int(c.max()) / n}
        rows.append(row | {"alone": int((c == 1).sum()) / (r * n)})
    data = {"refusal": "", "result": tree, "rows": rows, "most_share": MOST_SHARE, "most_drawn": MOST_DRAWN}
    return data | _largest(request, tree, chosen) | _drawable(request, tree)


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


def _drawable(request: Request, tree: GradientTree) -> dict[str, Any]:
    """Return the whole tree or its most telling part that parts and is small enough, where it begins, and a picture."""
    heads = [(layer, node) for layer in tree.layers for node in tree.largest(layer, TRIED)["node"].tolist()]
    parts = [(tree, None), *((tree.subtree(layer, node), (node, layer)) for layer, node in heads)]
    ranks: dict[tuple[int, ...], tuple[GradientTree, Any]] = {}
    for i, (part, head) in enumerate(parts):
        sizes = [len(norms) for norms in part.norms.values()]
        if sum(sizes) <= MOST_DRAWN and sizes[-1] - sizes[0] >= FEWEST_BRANCHES:
            # the whole tree first, then parts that branch at more layers, those of more samples, those that begin lower
            ranks[head is None, sum(a < b for a, b in pairwise(sizes)), part.n_samples, i] = part, head
    if not ranks:
        return {"part": None}
    part, head = ranks[max(ranks)]
    names = tuple(request.all_names[int(label)] for label in part.root_labels)
    part = replace(part, root_labels=names) if max(map(len, names)) <= LONGEST else part
    inches = (max(4.1, 0.32 * max(map(len, part.norms.values())) + 1.8), 0.95 * len(part.layers) + 1.65)
    (png,) = pictures(lambda axes: plots.tree(part, max_nodes=MOST_DRAWN, ax=axes[0]), [inches])
    return {"part": part, "head": head, "png": png}


def embedded_units(request: Request) -> dict[str, Any]:
    """Return embedded units, their nearest twins and a few cards; or why there are none."""
    options, x = request.options, request.x
    if not (isinstance(x, Tensor) and x.is_floating_point()):
        return {"state": "no floats"}
    u = len(request.networks) * (len(request.options["units"]) + (options["max_units"] if request.hidden else 0))
    most = min(options["max_samples"], FIELD_NUMBERS // (u * x[0].numel()))
    data = {"u": u, "d": x[0].numel(), "most": most, "fewest": FEWEST_POINTS, "hidden": request.hidden}
    if min(most, len(x)) < FEWEST_POINTS:
        return data | {"state": "too few"}
    chosen, x = request.sample(most)
    try:
        units = _embed(request, x)
        if units is None:
            return data | {"state": "constant"}
        fields, names, dropped, z, control = units
        twins = _twins(fields, names, z, control, len(request.networks) > 1)
    except ValueError as error:
        return data | {"state": "refused", "refusal": str(error)}
    picture = _layout(request, fields, z, chosen) if len(z) >= FEWEST_UNITS else None
    data |= {"m": len(chosen), "dropped": dropped, "n_embedded": len(z), "picture": picture}
    data |= {"twins": twins[:MOST_TWINS], "n_hidden": int(((fields.labels == 0) & (fields.groups == 0)).sum())}
    return data | {"state": "embedded", "cards": _cards(fields, names, z, twins, options["n_cards"])}


def _embed(request: Request, x: Tensor) -> tuple[Any, list[str], int, Any, Any] | None:
    """Embed all networks' units that are not constant, if there are any.

    Returns:
        Their fields (groups are the networks, labels 1 for outputs); their names; how many units were constant; their
        embedding, [u, k]; that of the units of an untrained copy, if there is one.
    """
    options, parts, names = request.options, [], []
    for i, network in enumerate(request.networks):
        home = f", net {i}" if len(request.networks) > 1 else ""
        fields, hidden = _fields_of(network, x, request)
        parts.append(fields)
        names += [f"{request.hidden}[{j}]{home}" for j in hidden] + [f"output {name}{home}" for name in request.names]
    fields = GradientFields.concatenate(parts, new_networks=True)
    alive = fields.amplitudes() > 0
    if not bool(alive.any()):
        return None
    fields, given, control = fields[alive], options["embedder"], None
    embedder = FieldDescriptor("none", random_state=options["seed"]) if given is None else copy.deepcopy(given)
    z = np.asarray(embedder.fit(fields).transform(fields), dtype=np.float64)
    if options["n_untrained"]:
        other, _ = _fields_of(untrained(request.networks[0], options["seed"], options["reinitialize"]), x, request)
        moving = other.amplitudes() > 0
        control = np.asarray(embedder.transform(other[moving]), dtype=np.float64) if bool(moving.any()) else None
    kept = [name for name, is_alive in zip(names, alive.tolist(), strict=True) if is_alive]
    return fields, kept, len(names) - len(kept), z, control


def _fields_of(network: nn.Module, x: Tensor, request: Request) -> tuple[GradientFields, list[int]]:
    """Return fields of the hidden units whose values vary most, then of the outputs; and which hidden ones."""
    hidden, forward = request.hidden, request.options["forward"]
    parts, indices = [gradient_fields(network, x, units=request.options["units"], forward=forward)], []
    if hidden is not None:
        every = torch.ones(1, len(request.all_names))  # one backward pass, through whatever head is fed
        values = unit_gradients(network, x, hidden, directions=every, forward=forward).activations.double()
        order = values.std(0, correction=0).argsort(descending=True, stable=True)
        indices = sorted(order[: request.options["max_units"]].tolist())
        parts.insert(0, gradient_fields(network, x, unit_layer=hidden, units=indices, forward=forward))
    both = GradientFields.concatenate(parts)
    is_output = torch.arange(len(both), device=both.gradients.device) >= len(indices)
    return replace(both, regions=None, labels=is_output.long()), indices


def _twins(fields: Any, names: list[str], z: Any, control: Any, across: bool) -> list[dict[str, Any]]:
    """Return each unit of the first network with its nearest in another one (if any), nearest first."""
    groups, gradients = fields.groups.numpy(force=True), fields.gradients
    own = groups == 0
    homes = groups if across else np.arange(len(own))
    n_candidates = int((~own).sum()) if across else len(own) - 1
    if not (own.any() and n_candidates):
        return []
    found = retrieval(z, homes, homes, queries=own, k=n_candidates)
    correlations = np.corrcoef(fields.values.double().numpy(force=True))
    rows = []
    for i, near, far in zip(found.queries.tolist(), found.neighbors.tolist(), found.distances.tolist(), strict=True):
        j = near[0]
        row = {"unit": i, "twin": j, "name": names[i], "twin_name": names[j], "distance": far[0]}
        row |= {"typical": float(np.median(far)), "cosine": mean_cosine(gradients[i], gradients[j])}
        rows.append(row | {"correlation": float(correlations[i, j])})
    if control is not None:
        both = np.concatenate([z[own], control])
        kind = np.arange(len(both)) >= own.sum()
        nearest = retrieval(both, kind, kind, queries=~kind).distances[:, 0].tolist()
        rows = [row | {"untrained": distance} for row, distance in zip(rows, nearest, strict=True)]
    return sorted(rows, key=lambda row: row["distance"])


def _cards(fields: Any, names: list[str], z: Any, twins: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Return cards of the units with the nearest twins; none is on two cards as the unit or its nearest twin."""
    nearest: dict[int, int] = {}
    for i, j in ((row["unit"], row["twin"]) for row in twins):
        if len(nearest) < most and not {i, j} & {*nearest, *nearest.values()}:
            nearest[i] = j
    return [_card(fields, names, z, i) for i in nearest]


def _card(fields: Any, names: list[str], z: Any, i: int) -> dict[str, Any]:
    """Return the card of a unit of the first network, and its pictures; of a single network, twins are its others."""
    each = fields if fields.groups.any() else replace(fields, groups=torch.arange(len(fields)).to(fields.groups))
    card = replace(unit_card(each, i, z, names=names), network=0, **aligned_units(fields, i, z, names, 5))
    return {"card": card, "panels": pictures(lambda axes: plots.unit_card(card, title="field", axes=axes), CARD_PANELS)}


def _layout(request: Request, fields: Any, z: Any, chosen: Tensor) -> dict[str, Any]:
    """Return all units in two dimensions, colored by class, network or layer, whichever there is."""
    classes, labels, colors, legend = request.classes, fields.labels, "layers", ["hidden", "output"]
    if classes is not None and int(classes.max()) < MOST_CLASSES:
        own = classes[chosen]
        means = torch.stack([fields.values[:, own == k].double().mean(1) for k in own.unique()], dim=1)  # [u, classes]
        labels, colors = own.unique()[means.argmax(1).cpu()], "classes"
        legend = request.all_names[: int(own.max()) + 1]
    elif bool(fields.groups.any()):
        labels, colors, legend = fields.groups, "networks", [f"net {i}" for i in range(len(request.networks))]
    layout = project_2d(z, method="pca").coordinates
    shown: dict[str, Any] = {"label_names": legend, "markers": fields.labels, "method": "pca"}
    (png,) = pictures(lambda axes: plots.embedding(layout, labels, ax=axes[0], **shown), [(4.8, 3.8)])
    return {"png": png, "colors": colors}


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


def picture(png: bytes) -> dict[str, Any]:
    """Return what an image element needs."""
    width, height = (round(side / DOTS_PER_PIXEL) for side in struct.unpack(">II", png[16:24]))
    return {"data": base64.b64encode(png).decode(), "width": width, "height": height}


def page_of(request: Request) -> str:
    """Measure, and write down what was found."""
    sections = {"measured": measured(request), "compared": interferences(request)}
    sections |= {"tree": tree_of_samples(request), "units": embedded_units(request)}
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    page = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    page.filters |= {"number": number, "setting": setting, "picture": picture, "flow": flow}
    return page.get_template("page.html.j2").render(request=request, versions=versions, **sections)
