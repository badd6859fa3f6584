"""What notebook 03 compares: components of networks on two stacked tasks, ways to describe them, and how to judge those."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from torch import Tensor

import gradembed as ge

COMBINATIONS = torch.tensor([[1.0, 0, 0], [2, 0, 0], [1, 1, 0], [2, 1, 0], [1, 1, 1], [2, 1, 1]])  # of three inputs
DEAD = 1e-3  # part of the largest amplitude below which a unit counts as dead


# ---------------------------------------------------------------- data


def principal_components(split: ge.datasets.Split, n: int = 32) -> ge.datasets.Split:
    """Reduce the features of a split to principal components, all divided by their common standard deviation."""
    middle, few = split.x_train.mean(0), split.x_train[:20_000]
    basis = torch.linalg.svd(few - few.mean(0), full_matrices=False)[2][:n].T
    train, test = ((x - middle) @ basis for x in (split.x_train, split.x_test))
    scale, name = train.std(), f"{split.name} components"
    return ge.datasets.Split(train / scale, split.y_train, test / scale, split.y_test, name, split.source)


def tents(seed: int) -> ge.datasets.Split:
    """Draw six uniform inputs; targets are six tents of the first three, then of the last: uniform, with variance 1."""
    x = torch.rand(22_000, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    phases = torch.cat([x[:, :3] @ COMBINATIONS.T, x[:, 3:] @ COMBINATIONS.T], dim=1)
    y = 3**0.5 * (1 - 2 * (phases % 2 - 1).abs())
    return ge.datasets.Split(x[:20_000], y[:20_000], x[20_000:], y[20_000:], "tents", "functions of uniform inputs")


# ---------------------------------------------------------------- units


def components(
    pairs: list[ge.datasets.Split], ensemble: ge.MLPEnsemble, wrt: str, seed: int, n_points: int
) -> ge.GradientFields:
    """Take the fields of what the outputs of each network read; labels count the outputs of one copy."""
    x = torch.stack([ge.sample_points(pair.x_train, n_points, seed=seed + i) for i, pair in enumerate(pairs)])
    of = ensemble.output.weight.detach()
    labels = torch.arange(of.shape[1] // 2).repeat(2)  # of the components of one network: those of copy A, then of B
    return ge.gradient_fields(ensemble, x, wrt=wrt, unit_layer="hidden2", directions=of, labels=labels)


def copy_of(fields: ge.GradientFields) -> Tensor:
    """Return the copy that each component serves, 0 or 1, [u]."""
    n_labels = int(fields.labels.max()) + 1
    return torch.arange(2).repeat_interleave(n_labels).repeat(len(fields) // (2 * n_labels))


def alive(fields: ge.GradientFields) -> Tensor:
    """Return which units are not dead, [u]."""
    return fields.amplitudes() > DEAD * fields.amplitudes().max()


def permuted(network: ge.MLP, seed: int) -> tuple[ge.MLP, Tensor]:
    """Copy a network with its hidden units in another order and rescaled, so that it computes the same.

    Returns:
        The copy, and which unit of the second hidden layer stands at each place of it.
    """
    copy, generator = ge.MLP(network.widths), torch.Generator().manual_seed(seed)
    copy.load_state_dict(network.state_dict())
    for layer, following in ((copy.hidden1.linear, copy.hidden2.linear), (copy.hidden2.linear, copy.output)):
        order, scale = torch.randperm(64, generator=generator), torch.rand(64, generator=generator) * 3 + 0.5
        layer.weight.data, layer.bias.data = layer.weight.data[order] * scale[:, None], layer.bias.data[order] * scale
        following.weight.data = following.weight.data[:, order] / scale
    return copy, order


def children(network: ge.MLP, x: Tensor, n_children: int = 3) -> tuple[ge.GradientFields, Tensor]:
    """Take the directions that outputs ask of hidden1 in their commonest regions, with the output that asks."""
    tree, n_outputs = ge.gradient_tree(network, x, layers=["hidden2", "hidden1"]), network.widths[-1]
    roots, counts = tree.roots["hidden1"], tree.counts["hidden1"]
    own = [torch.nonzero(roots == root)[:, 0] for root in range(n_outputs)]
    chosen = torch.cat([nodes[counts[nodes].argsort(descending=True)[:n_children]] for nodes in own])
    asked = tree.directions["hidden1"][chosen]
    return ge.gradient_fields(network, x, unit_layer="hidden1", directions=asked), roots[chosen]


def hidden_units(network: ge.MLP, x: Tensor) -> tuple[ge.GradientFields, Tensor]:
    """Take the units of hidden2, with the output that each moves most."""
    found = ge.gradient_fields(network, x, wrt="hidden1", unit_layer="hidden2")
    return found, ge.task_modules(network, x, "hidden2").effects.argmax(0)


# ---------------------------------------------------------------- descriptions, [u, ...]


def values_only(fields: ge.GradientFields) -> Tensor:
    """Describe units by quantiles of their values."""
    return torch.quantile(fields.normalized().values, torch.linspace(0.02, 0.98, 25), dim=1).T


def raw(fields: ge.GradientFields) -> np.ndarray:
    """Describe units by their gradients in a row, reduced to eight principal components."""
    return PCA(8, random_state=0).fit_transform(fields.gradients.flatten(1).numpy())


def described(fields: ge.GradientFields, seed: int = 0, **settings: object) -> np.ndarray:
    """Describe units by `FieldDescriptor`."""
    return ge.FieldDescriptor(**settings, random_state=seed).fit_transform(fields)


def without_values(fields: ge.GradientFields) -> ge.GradientFields:
    """Drop the values."""
    return ge.GradientFields(fields.points, fields.gradients, None, fields.labels, fields.groups)


def views(fields: ge.GradientFields) -> dict[str, Tensor | np.ndarray]:
    """Describe the units of one network in three ways."""
    return {
        "raw mean gradients": fields.normalized().gradients.mean(1),
        "values only": values_only(fields),
        "descriptor": ge.FieldDescriptor().fit_transform(fields),
    }


# ---------------------------------------------------------------- scores


def distances(z: Tensor | np.ndarray) -> Tensor:
    """Return all distances as parts of the largest, [u, u]."""
    z = torch.as_tensor(np.asarray(z)).double()
    return torch.cdist(z, z) / torch.cdist(z, z).max()


def twin_is_nearest(z: Tensor | np.ndarray) -> float:
    """Of the components of one network: is a component's nearest of the other copy its twin? Mean over components."""
    n = len(z) // 2
    far, twins = distances(z)[:n, n:], torch.arange(n)  # from copy A to copy B
    return float((far.argmin(1) == twins).float().mean() + (far.argmin(0) == twins).float().mean()) / 2


def mixture_agreement(z: Tensor | np.ndarray, y: Tensor) -> float:
    """Adjusted Rand index of labels and a Gaussian mixture on eight principal components."""
    z = PCA(8, random_state=0).fit_transform(np.asarray(z, dtype=float))
    mixture = GaussianMixture(len(torch.unique(y)), reg_covar=1e-3, n_init=5, random_state=0)
    return float(adjusted_rand_score(y, mixture.fit_predict(z / z.std())))


def scores(z: Tensor | np.ndarray, fields: ge.GradientFields) -> dict[str, float]:
    """Judge a description of components by their labels, always across networks and copies, or across copies."""
    y, network, copy = fields.labels, fields.groups, copy_of(fields)
    first = network % 2 == 0  # the networks that the probe is trained on, with their copy A
    a, b = (copy == 0) & first, (copy == 1) & ~first
    in_copies = [[z[(network == i) & (copy == c)] for c in (0, 1)] for i in network.unique()]
    kinds = range(int(y.max()) + 1)
    return {
        "neighbor": ge.metrics.retrieval(z, y, network, exclude=[copy]).accuracy,
        "transfer probe": ge.metrics.transfer_probe(z[a], y[a], z[b], y[b]).accuracy,
        "ARI class": ge.metrics.cluster_agreement(z, y),
        "ARI, mixture": mixture_agreement(z, y),
        "ARI copy": ge.metrics.cluster_agreement(z, copy),
        "matching": float(np.mean([ge.metrics.match_units(*pair).accuracy(kinds, kinds) for pair in in_copies])),
    }


def blocks(fields: ge.GradientFields) -> Iterator[dict[str, object]]:
    """Judge each block of the descriptor alone, and the others without it."""
    descriptor = ge.FieldDescriptor().fit(fields)
    parts = descriptor.blocks(descriptor.transform(fields))
    for name in parts:
        rest = np.concatenate([part for other, part in parts.items() if other != name], axis=1)
        for which, z in (("alone", parts[name]), ("without", rest)):
            reliability = descriptor.reliability_[name]
            yield {"block": name, "which": which, "reliability": reliability} | scores(z, fields)


def exact_twins(network: ge.MLP, x: Tensor, seed: int) -> dict[str, float]:
    """Match the components and the living hidden units of a network with those of its permuted, rescaled copy."""
    other, order = permuted(network, seed)
    outputs = [ge.gradient_fields(n, x, wrt="hidden1") for n in (network, other)]
    describe = ge.FieldDescriptor("linear").fit(outputs[0])
    here, there = map(describe.transform, outputs)
    units = [ge.gradient_fields(n, x, wrt="input", unit_layer="hidden2") for n in (network, other)]
    living = [alive(of) for of in units]
    units = [of[kept] for of, kept in zip(units, living)]
    places, places_there = (torch.nonzero(kept)[:, 0] for kept in living)
    matched = ge.metrics.match_units(*map(ge.FieldDescriptor("none").fit(units[0]).transform, units))
    return {
        "components matched": ge.metrics.match_units(here, there).accuracy(range(6), range(6)),
        "descriptor moved by": np.linalg.norm(there - here) / np.linalg.norm(here),
        "hidden units": len(units[0]),
        "hidden units matched": matched.accuracy(places.tolist(), order[places_there].tolist()),
    }


def enriched(
    take: Callable[[ge.MLP, Tensor], tuple[ge.GradientFields, Tensor]],
    networks: ge.MLPEnsemble,
    points: list[Tensor],
    invariance: str,
) -> dict[str, ge.metrics.Enrichment]:
    """Are units next to units of their species, in another network and copy, more often than by chance?

    Args:
        take: Returns the units of a network and the output, of six, that each belongs to.
        networks: The networks.
        points: Of the fields of each.
        invariance: Of the descriptor.

    Returns:
        For the descriptor and the control. Labels are permuted within each network and copy.
    """
    parts = [take(network, x) for network, x in zip(networks, points)]
    every = ge.GradientFields.concatenate([part for part, _ in parts], new_networks=True)
    kept = alive(every)
    every, output = every[kept], torch.cat([outputs for _, outputs in parts])[kept]
    found = {"embedded": ge.FieldDescriptor(invariance).fit_transform(every), "values only": values_only(every)}
    options = {"exclude": [output // 3], "within": every.groups * 2 + output // 3, "n_permutations": 999}
    return {name: ge.metrics.enrichment(z, output % 3, every.groups, **options) for name, z in found.items()}


RUNGS = {
    "descriptor": "true gradients",
    "points and values": "points and values",
    "values only": "values only",
    "raw": "raw",
}


def ladder(ax: Axes, runs: pd.DataFrame, measure: str, chance: dict[tuple[str, str], float]) -> None:
    """Draw a measure of four methods at several problems: means over seeds with 95 % intervals, and chance.

    Args:
        ax: Where to draw.
        runs: One row per run, with columns task, wrt, method and the measure.
        measure: Which.
        chance: Of each problem (task, wrt), from top to bottom.
    """
    for i, (method, name) in enumerate(RUNGS.items()):
        for k, (task, wrt) in enumerate(chance):
            chosen = (runs["task"] == task) & (runs["wrt"] == wrt) & (runs["method"] == method)
            values, place = runs.loc[chosen, measure], k + 0.18 * (i - 1.5)
            if len(values) > 1:
                of = ge.metrics.spread(values, bounds=(-1, 1))
                ax.plot([of.low, of.high], [place, place], color=ge.plots.COLORS[i], linewidth=2)
            if len(values):
                ax.plot(values.mean(), place, "oDs^"[i], color=ge.plots.COLORS[i], label="" if k else name)
    for k, level in enumerate(chance.values()):
        ax.plot([level, level], [k - 0.4, k + 0.4], ":", color="#555555", label="" if k else "chance")
    ax.set_yticks(range(len(chance)), [", ".join(problem) for problem in chance])
    ax.set(xlim=(-0.05, 1.05), ylim=(len(chance) - 0.5, -0.5))
    ax.grid(axis="x", alpha=0.3)


# ---------------------------------------------------------------- two networks apart


def effective_dimension(fields: ge.GradientFields) -> float:
    """Participation ratio of E[g gᵀ], the median over units: how many directions a gradient takes."""
    moments = fields.gradients.mT @ fields.gradients
    return float((moments.diagonal(dim1=1, dim2=2).sum(1).square() / moments.square().sum((1, 2))).median())


def correlations(units: ge.GradientFields, activations: Tensor) -> Tensor:
    """Correlate the activations, [2, n, width], of the units of one network with those of another, [units, units]."""
    first, second = (activations[i][:, units.labels[units.groups == i]] for i in (0, 1))
    return torch.corrcoef(torch.cat([first, second], dim=1).T)[: first.shape[1], first.shape[1] :]


def matched(z: Tensor | np.ndarray, units: ge.GradientFields, table: Tensor) -> Tensor:
    """Match the units of two networks by a description, and look their correlations up in a table."""
    pairs = ge.metrics.match_units(z[units.groups == 0], z[units.groups == 1]).pairs
    return table[pairs[:, 0], pairs[:, 1]]


def random_pairs(table: Tensor, generator: torch.Generator, n: int = 499) -> np.ndarray:
    """Return mean correlations when units are matched at random, [n]."""
    size = min(table.shape)

    def one() -> float:
        rows, columns = (torch.randperm(side, generator=generator)[:size] for side in table.shape)
        return float(table[rows, columns].mean())

    return np.array([one() for _ in range(n)])


def compare_matchings(
    units: ge.GradientFields, activations: Tensor, ways: dict[str, Tensor | np.ndarray], generator: torch.Generator
) -> pd.DataFrame:
    """Judge matchings of two networks' units by the correlation of their activations, beside the best and random ones.

    Args:
        units: Of both networks; labels number them within a layer.
        activations: Of that layer, [2, n, width].
        ways: Descriptions that are matched, by name.
        generator: Of the random matchings.

    Returns:
        One row per description, and one for each unit's best partner.
    """
    table, rows = correlations(units, activations), {}
    null, dimension, best = random_pairs(table, generator), effective_dimension(units), table.amax(1)
    for name, z in ways.items():
        found = matched(z, units, table)
        mean = float(found.mean())
        rows[name] = {
            "mean correlation": mean, "random pairs": null.mean(), "effect (null sd)": (mean - null.mean()) / null.std(),
            "p": (1 + (null >= mean).sum()) / (1 + len(null)), "pairs above 0.5": int((found > 0.5).sum()),
            "units": len(found), "effective dimension": dimension,
        }  # fmt: skip
    above = int((best > 0.5).sum())
    rows["each unit's best partner"] = {
        "mean correlation": float(best.mean()), "pairs above 0.5": above, "units": len(found)
    }  # fmt: skip
    return pd.DataFrame(rows.values(), index=pd.Index(rows, name="method"))
