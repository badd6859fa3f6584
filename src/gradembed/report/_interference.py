"""Second section of a report: how the outputs interfere, layer by layer."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from gradembed import _validation, plots
from gradembed.interference import Interference, interference
from gradembed.plots._render import pictures, turn_layer_names
from gradembed.report._page import Page, number, significant, with_interval
from gradembed.report._request import Request

MOST_PAIRS = 500  # in the table of all pairs
MOST_MATRICES = 12  # drawn
MEASURES = {"cosine": "mean cosine", "abs_cosine": "mean |cosine|", "conflict": "in conflict"}


def write_interference(page: Page, request: Request) -> tuple[str, ...]:
    """Compare the gradients of the outputs.

    Returns:
        The layers at which they were compared.
    """
    results = _measure(request)
    first = results[0]
    page.section("interference", "Do the outputs interfere?")
    page.say(
        "For every layer, the gradients of every two outputs with respect to that layer's activations are compared "
        "at the same sample. Cosine near 0: the outputs use different directions. Positive: they share. Negative: "
        "what raises one lowers the other, which is normal between the classes of one classifier."
    )
    if first.layers == ("input",):
        names = [name for name, _ in request.model.named_modules() if name][:20]
        page.say(
            "Only the input was compared: no direct child of the model stands between it and the output. Pass layers= "
            f"with names of modules, such as {', '.join(map(repr, names))}."
        )
    _write_layers(page, first, results)
    if len(request.units) < 2:
        page.say("There is one output, and so no pair to compare.")
        return first.layers
    _write_figures(page, first, results)
    _write_pairs(page, first)
    return first.layers


def _measure(request: Request) -> list[Interference]:
    """Take the interference of every network at the same layers.

    Returns:
        Results with the outputs' names; bootstrap and control for the first network only.
    """
    options = request.options
    shared: dict[str, Any] = {"units": list(request.units), "seed": request.seed}
    n_bootstrap = options["n_bootstrap"] if len(request.units) > 1 else 0
    counts = {"n_bootstrap": n_bootstrap, "n_untrained": options["n_untrained"]}
    first = interference(request.model, request.x, layers=options["layers"], **shared, **counts)
    for network in request.networks[1:]:
        missing = sorted({*first.layers} - {"input", *(name for name, _ in network.named_modules())})
        if missing:
            remedy = "Pass networks of the same architecture, or layers= that all have"
            _validation.refuse("others", "have the layers that are compared", f"none named {missing[0]!r}", remedy)
    rest = [interference(network, request.x, layers=first.layers, **shared) for network in request.networks[1:]]
    return [replace(result, unit_labels=request.names) for result in (first, *rest)]


def _write_layers(page: Page, first: Interference, results: list[Interference]) -> None:
    """Write the table with a row per layer."""
    columns: dict[str, list[str]] = {"layer": list(first.layers)}
    for name, label in MEASURES.items():
        ends = [first.summary_intervals.get(name, {}).get(layer) for layer in first.layers]
        means = [first.pair_mean(name, layer) for layer in first.layers]
        columns[label] = [with_interval(mean, end) for mean, end in zip(means, ends, strict=True)]
        if name == "abs_cosine":
            columns["chance"] = [number(first.chance[layer]) for layer in first.layers]
        if first.untrained:
            control = [np.mean([one.pair_mean(name, layer) for one in first.untrained]) for layer in first.layers]
            columns[f"untrained {label}"] = [number(float(mean)) for mean in control]
    if len(results) > 1:
        found = [[result.pair_mean("abs_cosine", layer) for result in results] for layer in first.layers]
        columns["mean |cosine|, all networks"] = [f"{number(min(row))} to {number(max(row))}" for row in found]
        columns["agreement"] = [number(_agreement(results, layer)) for layer in first.layers]
    columns["dimension"] = [number(first.effective_dimension[layer], 1) for layer in first.layers]
    columns["norm"] = [significant(float(first.norm[layer].mean())) for layer in first.layers]
    shares = [float(first.undefined[layer].double().mean()) / first.n_samples for layer in first.layers]
    columns["no gradient"] = [number(share) for share in shares]
    rows = list(zip(*columns.values(), strict=True))
    head = list(columns)
    page.table(head, rows, name="Interference by layer", note=_how_to_read(first, results))


def _how_to_read(first: Interference, results: list[Interference]) -> str:
    """Explain the table of layers.

    Returns:
        A few sentences.
    """
    text = (
        "Means over all pairs of outputs. Hold |cosine| against chance: what independent directions have in the "
        "effective dimension that these gradients fill. In conflict: share of samples with a negative cosine. "
        "Norm: mean length of a gradient. No gradient: share of samples at which an output's gradient is zero; "
        "they have no cosine and are left out."
    )
    if first.intervals:
        text += (
            f" Brackets: {first.confidence:.0%} bootstrap intervals over samples; they do not hold for other networks."
        )
    if first.untrained:
        copies = len(first.untrained)
        text += (
            f" Untrained: the same model with new weights ({copies} cop{'ies' if copies > 1 else 'y'}); what training"
        )
        text += " did is the difference."
    else:
        text += " Without an untrained control (n_untrained=) this table does not say what training did."
    if len(results) > 1:
        text += (
            " Agreement: correlation of the pairs' mean cosines between two networks, averaged; 1, the pattern is the"
        )
        text += " data's, 0, the training run's."
    return text


def _agreement(results: list[Interference], layer: str) -> float:
    """Correlate the pattern of cosines between networks.

    Returns:
        The mean over pairs of networks; NaN where a pattern has fewer than three pairs or no spread.
    """
    upper = np.triu_indices(len(results[0].unit_labels), 1)
    rows = np.array([result.cosine[layer].numpy()[upper] for result in results])
    if rows.shape[1] < 3 or (np.ptp(rows, axis=1) < 1e-9).any():
        return float("nan")
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in combinations(rows, 2)]))


def _write_figures(page: Page, first: Interference, results: list[Interference]) -> None:
    """Draw the matrices of all layers, and means against layers."""
    shown = first.layers[:MOST_MATRICES]
    drawn = pictures(
        lambda axes: [
            plots.interference(first, layers=[layer], axis_label="output", axes=[ax])
            for layer, ax in zip(shown, axes, strict=True)
        ],
        [(3.5, 3.0)] * len(shown),
    )
    alts = [
        f"Matrix of mean cosines between the gradients of {len(first.unit_labels)} outputs at {layer!r}; mean over "
        f"pairs {number(first.pair_mean('cosine', layer), 2)}"
        for layer in shown
    ]
    dots = " A dot: the bootstrap interval of that pair holds 0, so its sign is not settled." if first.intervals else ""
    cut = f" The first {MOST_MATRICES} of {len(first.layers)} layers." if len(shown) < len(first.layers) else ""
    note = f"Red: two outputs share directions of the layer. Blue: they oppose each other. White: neither.{dots}{cut}"
    page.figures(list(zip(drawn, alts, strict=True)), note)
    named = {f"these {len(results)}" if len(results) > 1 else "this network": results}
    curves = pictures(
        lambda axes: [
            turn_layer_names(plots.conflict_by_layer(named, measure=measure, ax=ax))
            for measure, ax in zip(MEASURES, axes, strict=True)
        ],
        [(3.5, 3.5)] * len(MEASURES),
    )
    alts = [
        f"{label}, layer by layer: "
        + ", ".join(f"{layer} {number(first.pair_mean(m, layer), 2)}" for layer in first.layers)
        for m, label in MEASURES.items()
    ]
    bars = (
        "Bands: from the least to the greatest network." if len(results) > 1 else "Bars: bootstrap intervals, if any."
    )
    note = f"Means over pairs. {bars} Only what stands clear of the dashed and dotted lines, where there are any, is a"
    page.figures(list(zip(curves, alts, strict=True)), note + " result.")


def _write_pairs(page: Page, first: Interference) -> None:
    """Write every pair at every layer, or those with the largest |cosine|."""
    frame = first.to_frame()
    note = "Mean over the samples at which both gradients exist, as many as the column samples says."
    if len(frame) > MOST_PAIRS:
        note += (
            f" The {MOST_PAIRS} rows with the largest |cosine| of {len(frame):,}; chosen after looking, so expect less"
        )
        note += " of them in new samples."
        frame = frame.loc[frame["abs_cosine"].sort_values(ascending=False, kind="stable").index[:MOST_PAIRS]]
    columns = {
        "layer": "layer", "unit_a": "output", "unit_b": "and output", "cosine": "mean cosine", "cosine_low": "low",
        "cosine_high": "high", "abs_cosine": "mean |cosine|", "conflict": "in conflict", "norm_a": "norm",
        "norm_b": "norm of the other", "n_pairs": "samples", "untrained_cosine": "untrained cosine",
    }  # fmt: skip
    present = {name: label for name, label in columns.items() if name in frame}
    rows = [[_cell(str(name), value) for name, value in row.items()] for row in frame[list(present)].to_dict("records")]
    page.table(
        list(present.values()), rows, name="All pairs", note=note, folded=f"Numbers of all pairs ({len(rows)} rows)"
    )


def _cell(column: str, value: Any) -> str:
    """Write a value of the table of pairs.

    Returns:
        Names and counts as they are, norms of any size, measures with three decimals.
    """
    if isinstance(value, str | int):
        return str(value)
    return significant(value) if column.startswith("norm") else number(value)
