"""Results that are there already, as the sections of a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gradembed._validation import describe, refuse
from gradembed.fields import GradientFields
from gradembed.interference import Interference
from gradembed.report._sections import MOST_NODES, branches, compared, page_with
from gradembed.report._units import embedded, fitted
from gradembed.tree import GradientTree

MOST_COMPARED = 100  # outputs whose matrix a browser draws at once
KINDS = {"compared": Interference, "tree": GradientTree, "units": GradientFields}


def page_of_results(results: Sequence[Any], embedder: Any, title: str, seed: int) -> tuple[str, str, tuple[str, ...]]:
    """Refuse what cannot be shown, and write down the rest.

    Returns:
        The page, its title, and what it begins with.
    """
    given: dict[str, Any] = dict.fromkeys(KINDS)
    for result in results:
        name = next((name for name, kind in KINDS.items() if isinstance(result, kind)), "")
        if not name:
            rule = "be an Interference, a GradientTree or GradientFields"
            refuse("results", rule, describe(result), "Pass what the functions of these names return", TypeError)
        if given[name] is not None:
            refuse("results", "be one of each kind", f"two {KINDS[name].__name__}", "Make a page of each")
        given[name] = result
    if not results:
        refuse("results", "hold at least one", "none", "Pass what interference, gradient_tree, gradient_fields return")
    sections: dict[str, Any] = {"measured": None} | given
    if (result := given["compared"]) is not None:
        u, remedy = len(result.unit_labels), "Draw it by plots.interference"
        if result.unit_layer != "output" or u > MOST_COMPARED:
            got = f"{u} units of {result.unit_layer!r}"
            refuse("results", f"compare at most {MOST_COMPARED} outputs", got, remedy)
        sections["compared"] = compared([result])
    if (tree := given["tree"]) is not None:
        largest = max(map(len, tree.counts.values()))
        if largest > MOST_NODES:
            refuse(
                "results", f"have at most {MOST_NODES:,} nodes at a layer", largest, "Take a subtree, or fewer samples"
            )
        sections["tree"] = branches(tree)
    if given["units"] is not None:
        sections["units"] = _units_of(given["units"], embedder, seed)
    return page_with(None, sections, title)


def _units_of(fields: GradientFields, embedder: Any, seed: int) -> dict[str, Any]:
    """Embed the units that are not constant, network by network."""
    if fields.values is None or not fields.is_shared:
        got = "points of each unit's own" if fields.values is not None else "no values"
        refuse("results", "have values at shared points", got, "Take gradient_fields with respect to the input")
    groups = torch.zeros(len(fields), dtype=torch.long) if fields.groups is None else fields.groups.cpu()
    _, groups, counts = groups.unique(return_inverse=True, return_counts=True)
    order = groups.argsort(stable=True)
    places = torch.cat([torch.arange(count) for count in counts.tolist()])  # of a unit in its network
    alive = (fields.amplitudes() > 0).cpu()[order]
    if not bool(alive.any()):
        refuse("results", "have a unit that varies", "constant units only", "Pass other fields, or leave them out")
    home = ", net {}" if len(counts) > 1 else ""
    names = [
        f"unit {i}" + home.format(g) for i, g in zip(places[alive].tolist(), groups[order][alive].tolist(), strict=True)
    ]
    _, homes = groups[order][alive].unique(return_inverse=True)
    kept = replace(fields[order[alive]], groups=homes.to(fields.gradients.device))
    chosen = fitted(embedder, kept, seed)
    z = np.asarray(chosen.transform(kept), dtype=np.float64)
    data = embedded(kept, names, z, None, seed)
    data["cards"]["favored"] = None
    if kept.labels is not None:
        data["cards"]["label"] = list(map(str, kept.labels.tolist()))
    return data | {"embedder": type(chosen).__name__, "hidden": None, "dropped": len(fields) - len(kept)}
