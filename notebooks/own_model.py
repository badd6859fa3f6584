"""What notebook 06 compares across networks of any kind: patterns of cosines, nodes of trees, units that are alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import product

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn.functional import normalize

import gradembed as ge

ABOVE = np.triu_indices(10, 1)  # the 45 pairs of digits
Pattern = Mapping[str, np.ndarray]  # numbers for each pair, [45], by what they are

# ---------------------------------------------------------------- nodes of a gradient tree


def nodes_of(network: nn.Module, x: Tensor, layer: str, tolerance: float) -> Tensor:
    """Number the nodes of output 8 at a layer: whose gradient each sample shares, [n]."""
    return ge.gradient_tree(network, x, roots=[8], layers=[layer], tolerance=tolerance).nodes[layer][0]


def purity(members: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of samples whose node has their label as its most frequent one."""
    return sum(np.bincount(labels[members == node]).max() for node in np.unique(members)) / len(labels)


def node_row(network: nn.Module, x: Tensor, y: Tensor, layer: str, tolerance: float, seed: int) -> dict[str, float]:
    """Compare the labels of nodes with labels dealt at random, and with clusters of the layer's activations."""
    members, labels = nodes_of(network, x, layer, tolerance).numpy(), y.numpy()
    activations = ge.unit_gradients(network, x, layer, units=[8]).activations
    clusters = KMeans(len(np.unique(members)), n_init=1, random_state=seed).fit_predict(activations.numpy())
    dealt = purity(members, np.random.default_rng(seed).permutation(labels))
    row = {"nodes": len(np.unique(members)), "nodes' digits": purity(members, labels), "dealt at random": dealt}
    return row | {"clusters of activations": purity(clusters, labels)}


# ---------------------------------------------------------------- patterns: which digits oppose each other


def pattern_of(
    result: ge.Interference, layer: str, network: nn.Module | None = None, x: Tensor | None = None
) -> Pattern:
    """Return a network's mean cosines at a layer and correlations of outputs, and with samples its linear fits."""
    tables = {"cosines": result.cosine[layer], "outputs": result.output_correlation}
    tables |= {} if network is None else {"linear fits": _linear_fit(network, x)}
    return {name: table.numpy()[ABOVE] for name, table in tables.items()}


def _linear_fit(network: nn.Module, x: Tensor) -> Tensor:
    """Fit each centered logit to the pixels (ridge, with penalty 1), and return the cosines of the weights."""
    pixels, logits = (t.detach().double() - t.detach().double().mean(0) for t in (x.flatten(1), network(x)))
    logits = logits - logits.mean(1, keepdim=True)
    weights = torch.linalg.solve(pixels.T @ pixels + torch.eye(pixels.shape[1]).double(), pixels.T @ logits)
    return normalize(weights, dim=0).T @ normalize(weights, dim=0)


def left(numbers: np.ndarray, controls: Iterable[np.ndarray]) -> np.ndarray:
    """Return what a regression on the first three powers of the controls leaves."""
    known = np.stack([c**power for c in controls for power in (1, 2, 3)] + [np.ones(len(numbers))], 1)
    return numbers - known @ np.linalg.lstsq(known, numbers, rcond=None)[0]


def partial_correlation(a: Pattern, b: Pattern, names: Sequence[str]) -> float:
    """Correlate the cosines of two networks beyond what both networks' patterns of the given names explain."""
    controls = [one[name] for one in (a, b) for name in names]
    return float(np.corrcoef(left(a["cosines"], controls), left(b["cosines"], controls))[0, 1])


def agreement(first: Sequence[Pattern], second: Sequence[Pattern]) -> dict[str, float]:
    """Correlate patterns of every two different networks; means over pairs of networks, and ends of the cosines'."""
    pairs = [(a, b) for a, b in product(first, second) if a is not b]
    plain = {name: [np.corrcoef(a[name], b[name])[0, 1] for a, b in pairs] for name in pairs[0][0]}
    beyond = {"beyond outputs": [partial_correlation(a, b, ["outputs"]) for a, b in pairs]}
    if "linear fits" in plain:
        beyond["beyond both"] = [partial_correlation(a, b, ["outputs", "linear fits"]) for a, b in pairs]
    ends = {"least": min(plain["cosines"]), "greatest": max(plain["cosines"])}
    return {name: np.mean(found) for name, found in (plain | beyond).items()} | ends


def square(numbers: np.ndarray) -> np.ndarray:
    """Write the numbers of the pairs into a symmetric table, [10, 10]."""
    table = np.zeros((10, 10))
    table[ABOVE] = numbers
    return table + table.T


def look_alike(own: Pattern, class_means: np.ndarray) -> dict[str, float]:
    """Correlate a network's patterns with that of class means, [45], plainly and beyond its outputs."""
    found = {"cosines and outputs": np.corrcoef(own["cosines"], own["outputs"])[0, 1]}
    found |= {f"class means and {name}": np.corrcoef(own[name], class_means)[0, 1] for name in ("cosines", "outputs")}
    beyond = [left(numbers, [own["outputs"]]) for numbers in (own["cosines"], class_means)]
    return found | {"class means and cosines, beyond outputs": np.corrcoef(*beyond)[0, 1]}


def firm(tables: Iterable[Tensor]) -> dict[str, list[tuple[int, int, float]]]:
    """List the pairs of digits whose sign is the same in all tables, with the mean, strongest first."""
    stacked = np.array([table.numpy()[ABOVE] for table in tables])
    found = sorted(zip(stacked.mean(0), *ABOVE, stacked.min(0), stacked.max(0), strict=True))
    kept = [(int(a), int(b), float(mean)) for mean, a, b, low, high in found if low > 0 or high < 0]
    return {"share": [pair for pair in kept if pair[2] > 0][::-1], "oppose": [pair for pair in kept if pair[2] < 0]}


# ---------------------------------------------------------------- units that are alike


def labeled(fields: ge.GradientFields, readout: Tensor) -> ge.GradientFields:
    """Label hidden units by the digit that they raise most (read-out weight less its mean), outputs by their own."""
    digit = torch.cat([(readout - readout.mean(0)).argmax(0), torch.arange(10)])
    return ge.GradientFields(fields.points, fields.gradients, fields.values, digit, fields.groups)


def twins(fields: ge.GradientFields, other: Tensor) -> tuple[dict[str, ge.metrics.RetrievalScore], np.ndarray]:
    """Look up each unit's nearest one of the other kind, [u], by gradients and by values; and return the embedding."""
    kept = fields.normalized()
    rows = {"gradients": ge.FieldDescriptor("none").fit_transform(kept), "values": kept.values}
    find = partial(ge.metrics.retrieval, y=kept.labels, groups=kept.groups, exclude=[other])
    return {by: find(z) for by, z in rows.items()}, rows["gradients"]
