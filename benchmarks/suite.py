"""The development suite: problems on which settings of embeddings may be chosen, and others on which they may not.

Run with ``python -m benchmarks.suite``; ``--held-out`` takes the data sets that no setting has seen. Networks are
trained on two independent copies of a task side by side, each on pairs of its own; their units are the components of
the second hidden layer that the outputs read, described by their fields with respect to the input and to the first
hidden layer, each network at points of its own. Waves are functions known exactly, in a basis of each network's own.

Nearest neighbor: in another network, of the other copy, is it of the same class? Probe: trained on copy A in half of
the networks, tested on copy B in the other half. ARI: of k-means with the classes. "gap": to the best method of
a cell, by its probe.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor

import gradembed as ge

NETWORKS, POINTS, PAIRS, BATCH = 16, (140, 600), 4096, 256
MEASURES = ["neighbor", "probe", "ARI"]
Recipe = tuple[Callable[[], tuple[Any, Any]], float, int]  # features and targets; weight decay; steps


class Units(NamedTuple):
    """Fields with labels and groups, and which of the two copies each unit computes; ``None`` if there is one."""

    fields: ge.GradientFields
    copy: Tensor | None


def split_of(name: str, x: Any, y: Any) -> ge.datasets.Split:
    """Cut and standardize a data set.

    Returns:
        Four fifths to train on.
    """
    kind = torch.float32 if np.issubdtype(np.asarray(y).dtype, np.floating) else torch.int64
    x_train, x_test, y_train, y_test = train_test_split(np.asarray(x), np.asarray(y), test_size=0.2, random_state=0)
    scaler = StandardScaler().fit(x_train)
    parts = [torch.tensor(scaler.transform(part), dtype=torch.float32) for part in (x_train, x_test)]
    targets = [torch.tensor(part, dtype=kind) for part in (y_train, y_test)]
    return ge.datasets.Split(parts[0], targets[0], parts[1], targets[1], name, "scikit-learn")


def classification(n: int, d: int, informative: int, n_classes: int, clusters: int, apart: float, seed: int) -> Any:
    """Clusters on the corners of a cube, among redundant and empty features.

    Returns:
        Features and classes.
    """
    return datasets.make_classification(
        n, d, n_informative=informative, n_redundant=min(2, d - informative), n_classes=n_classes,
        n_clusters_per_class=clusters, class_sep=apart, random_state=seed,
    )  # fmt: skip


def mixed_blobs(n: int, d: int, n_classes: int, seed: int) -> Any:
    """Gaussian clusters of different sizes, mixed by a random matrix.

    Returns:
        Features and classes.
    """
    rng = np.random.default_rng(seed)
    spreads = list(rng.uniform(1, 4, n_classes))
    x, y = datasets.make_blobs(n, d, centers=n_classes, cluster_std=spreads, random_state=seed)
    return x @ rng.standard_normal((d, d)), y


def padded(make: Callable[..., Any], noise: float, extra: int, seed: int) -> Any:
    """Two entangled curves in the plane, among features that say nothing.

    Returns:
        Features and classes.
    """
    x, y = make(400, noise=noise, random_state=seed)
    return np.c_[x, np.random.default_rng(seed).standard_normal((len(x), extra))], y


def images(dim: int, n: int) -> Any:
    """Principal components of the MNIST sample.

    Returns:
        Features and classes.
    """
    mnist = ge.datasets.load_mnist(source="sample")
    return PCA(dim, random_state=0).fit_transform(mnist.x_train.numpy())[:n], mnist.y_train.numpy()[:n]


def tents(x: Tensor) -> Tensor:
    """Six zigzags of three inputs whose values have the same distribution: values alone cannot tell them apart.

    Returns:
        [n, 6].
    """
    directions = torch.tensor([[1.0, 0, 0], [2, 0, 0], [1, 1, 0], [2, 1, 0], [1, 1, 1], [2, 1, 1]])
    return 3**0.5 * (1 - 2 * (x @ directions.T % 2 - 1).abs())


def friedman(x: Tensor) -> Tensor:
    """Four smooth functions of three inputs: an interaction, a parabola, a slope, and a mixture.

    Returns:
        [n, 4], of mean 0 and a spread of about 1 on the cube.
    """
    parts = [(torch.pi * x[:, 0] * x[:, 1]).sin(), x[:, 2].square(), x[:, 0] - x[:, 1] + x[:, 2]]
    y = torch.stack([*parts, (torch.pi * x[:, 0] * x[:, 1]).sin() + 2 * x[:, 2].square()], 1)
    return (y - torch.tensor([0.0, 1 / 3, 0.0, 2 / 3])) / torch.tensor([0.64, 0.30, 1.0, 0.87])


STACKED: dict[str, Recipe] = {
    "iris": (lambda: datasets.load_iris(return_X_y=True), 1.0, 400),
    "cancer": (lambda: datasets.load_breast_cancer(return_X_y=True), 1.0, 300),
    "classes 2 of 6": (partial(classification, 400, 6, 4, 2, 2, 1.2, 1), 0.3, 400),
    "classes 4 of 16": (partial(classification, 600, 16, 8, 4, 2, 1.5, 2), 0.3, 400),
    "classes 5 of 32": (partial(classification, 800, 32, 10, 5, 1, 1.2, 3), 0.3, 400),
    "classes 8 of 20": (partial(classification, 1500, 20, 12, 8, 2, 2.0, 4), 0.3, 600),
    "blobs 5 of 8": (partial(mixed_blobs, 500, 8, 5, 5), 1.0, 400),
    "blobs 3 of 13": (partial(mixed_blobs, 180, 13, 3, 6), 1.0, 300),
    "moons": (partial(padded, datasets.make_moons, 0.15, 4, 6), 0.1, 400),
    "MNIST 32": (partial(images, 32, 3000), 0.3, 500),
    "shells": (lambda: datasets.make_gaussian_quantiles(n_samples=600, n_features=6, random_state=7), 0.3, 400),
}
FUNCTIONS = {"tents": (tents, 3, 3000), "friedman": (friedman, 3, 1500)}
WAVES = {  # functions, bases, inputs, roughness, seed
    "waves 8": (10, NETWORKS, 8, 1.0, 0), "waves 64": (10, NETWORKS, 64, 1.0, 0), "100 waves 64": (100, 4, 64, 1.0, 0),
}  # fmt: skip
HELD_OUT: dict[str, Recipe] = {
    "wine": (lambda: datasets.load_wine(return_X_y=True), 1.0, 300),
    "digits": (lambda: datasets.load_digits(return_X_y=True), 0.3, 500),
    "circles": (partial(padded, partial(datasets.make_circles, factor=0.5), 0.1, 4, 8), 0.1, 400),
    "classes 6 of 24": (partial(classification, 1200, 24, 10, 6, 2, 1.8, 9), 0.3, 500),
    "quantiles 4 of 10": (
        partial(datasets.make_gaussian_quantiles, n_samples=1200, n_features=10, n_classes=4, random_state=10),
        0.3,
        600,
    ),
}
HELD_OUT_WAVES = {"waves 24, rougher": (10, NETWORKS, 24, 1.5, 1)}


def networks_on(name: str, recipe: Recipe, cache: ge.Cache) -> tuple[list[Any], ge.MLPEnsemble, int]:
    """Train on two copies of a data set.

    Returns:
        Each network's own pairs, the networks, and outputs per copy.
    """
    make, decay, steps = recipe
    base = split_of(name, *make())
    pairs = [ge.datasets.stack_tasks(base, seed=i, n_samples=PAIRS) for i in range(NETWORKS)]
    n_classes = int(base.y_train.max()) + 1
    return *_trained(pairs, n_classes, decay, steps, cache), n_classes


def networks_of(function: Callable[[Tensor], Tensor], d: int, steps: int, cache: ge.Cache) -> Any:
    """Train on two copies of functions.

    Returns:
        As `networks_on`.
    """
    pairs = []
    for i in range(NETWORKS):
        x = torch.rand(20_000, 2 * d, generator=torch.Generator().manual_seed(i)) * 2 - 1
        y = torch.cat([function(x[:, :d]), function(x[:, d:])], 1)
        pairs.append(ge.datasets.Split(x[:-500], y[:-500], x[-500:], y[-500:], "functions", "drawn at random"))
    u = pairs[0].y_train.shape[1] // 2
    return *_trained(pairs, u, 0.01, steps, cache), u


def _trained(pairs: list[Any], u: int, decay: float, steps: int, cache: ge.Cache) -> tuple[list[Any], ge.MLPEnsemble]:
    n, d = pairs[0].x_train.shape
    epochs = max(round(steps * BATCH / n), 1)
    config = ge.TrainConfig(epochs, BATCH, learning_rate=0.01, weight_decay=decay, progress=False)
    return pairs, cache.call(ge.train_ensemble, pairs, [d, 64, 64, 2 * u], NETWORKS, config)


def components_of(recipe: Callable[[], tuple[Any, ge.MLPEnsemble, int]], wrt: str, m: int) -> Units:
    """Take the fields of what the outputs read of the second hidden layer.

    Returns:
        They, with classes as labels and networks as groups.
    """
    pairs, ensemble, u = recipe()
    x = torch.stack([ge.sample_points(pair.x_train, m, seed=i) for i, pair in enumerate(pairs)])
    read, labels = dict(ensemble.named_parameters())["output.weight"].detach(), torch.arange(u).repeat(2)
    fields = ge.gradient_fields(ensemble, x, wrt=wrt, unit_layer="hidden2", directions=read, labels=labels)
    return Units(fields, torch.arange(2).repeat_interleave(u).repeat(NETWORKS))


def rotated_waves(n: int, n_bases: int, dim: int, roughness: float, seed: int, m: int) -> Units:
    """Functions, each in several bases, at points of each basis' own.

    Returns:
        Fields with functions as labels and bases as groups.
    """
    waves = ge.datasets.random_waves(n, dim, seed=seed, roughness=roughness)
    draw = torch.Generator().manual_seed(seed + 9)
    parts = []
    for _ in range(n_bases):
        x = torch.rand(m, dim, generator=draw) * 2 - 1
        q, r = torch.linalg.qr(torch.randn(dim, dim, generator=draw, dtype=torch.float64))
        turn = (q * r.diagonal().sign()).float()
        parts.append((x @ turn, waves.gradient(x).float() @ turn, waves(x).float()))
    points = torch.stack([part[0] for part in parts]).repeat_interleave(n, 0)
    gradients, values = (torch.cat([part[i] for part in parts]) for i in (1, 2))
    bases = torch.arange(n_bases).repeat_interleave(n)
    return Units(ge.GradientFields(points, gradients, values, torch.arange(n).repeat(n_bases), bases), None)


def scores(z: Any, units: Units) -> dict[str, float]:
    """Judge an embedding, [u, k].

    Returns:
        The three measures.
    """
    copy, y, network = units.copy, units.fields.labels, units.fields.groups
    assert y is not None
    assert network is not None
    half = network % 2 == 0
    first, second = (half, ~half) if copy is None else (half & (copy == 0), ~half & (copy == 1))
    near = ge.metrics.retrieval(z, y, network, exclude=[] if copy is None else [copy])
    probe = ge.metrics.transfer_probe(z[first], y[first], z[second], y[second])
    return dict(zip(MEASURES, (near.accuracy, probe.accuracy, ge.metrics.cluster_agreement(z, y)), strict=True))


def quantiles(fields: ge.GradientFields) -> Tensor:
    """Describe units by the distribution of their values, no gradient used.

    Returns:
        [u, 25].
    """
    values = fields.normalized().values
    assert values is not None
    return torch.quantile(values, torch.linspace(0.02, 0.98, 25), dim=1).T


def described(fields: ge.GradientFields, *, estimated: bool = False, **settings: Any) -> Any:
    """Describe units by their fields, or by what points and values alone say of them.

    Returns:
        [u, p].
    """
    return ge.FieldDescriptor(**settings).fit_transform(ge.estimated_fields(fields) if estimated else fields)


METHODS: dict[str, Callable[[ge.GradientFields], Any]] = {
    "quantiles of values": quantiles,
    "points and values": partial(described, estimated=True),
    "linear": partial(described, invariance="linear"),
    "orthogonal": partial(described, invariance="orthogonal"),
    "permutation": described,
    "points and values, discounted": partial(described, estimated=True, discount_groups=True),
    "permutation, discounted": partial(described, discount_groups=True),
}


def cells(*, held_out: bool = False, only: str = "") -> dict[tuple[str, str, int], Callable[[], Units]]:
    """List the suite: (problem, with respect to, points) → how to make its units."""
    cache = ge.Cache("data/cache")
    data, functions, waves = (HELD_OUT, {}, HELD_OUT_WAVES) if held_out else (STACKED, FUNCTIONS, WAVES)
    recipes: dict[str, Callable[[], Any]] = {name: partial(networks_on, name, it, cache) for name, it in data.items()}
    recipes |= {name: partial(networks_of, *it, cache) for name, it in functions.items()}
    found: dict[tuple[str, str, int], Callable[[], Units]] = {}
    for m in POINTS:
        for (name, recipe), wrt in itertools.product(recipes.items(), ("input", "hidden1")):
            found[name, wrt, m] = partial(components_of, recipe, wrt, m)
        for name, settings in waves.items():
            found[name, "input", m] = partial(rotated_waves, *settings, m)
    return {cell: make for cell, make in found.items() if only in cell[0]}


def judged(cell: tuple[str, str, int], make: Callable[[], Units]) -> pd.DataFrame:
    """Score every method on one cell.

    Returns:
        A row per method.
    """
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=UserWarning)  # of a probe that takes long
        units = make()
        rows = [{"method": name, **scores(method(units.fields), units)} for name, method in METHODS.items()]
    return pd.DataFrame(rows).assign(problem=cell[0], wrt=cell[1], points=cell[2])


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean scores by kind of cell and over all, and how far a method stays behind the best one of a cell.

    Returns:
        A row per method.
    """
    best = table.groupby(["problem", "wrt", "points"])["probe"].transform("max")
    table = table.assign(gap=best - table["probe"], kind=table["wrt"] + ", " + table["points"].astype(str))
    by_kind = table.pivot_table(MEASURES, "method", "kind", sort=False).swaplevel(axis=1)
    by_kind = by_kind[[(kind, measure) for kind in table["kind"].unique() for measure in MEASURES]]
    groups = table.groupby("method", sort=False)
    overall = groups[MEASURES].mean().assign(**{"mean gap": groups["gap"].mean(), "worst gap": groups["gap"].max()})
    overall["worst probe"] = groups["probe"].min()
    return by_kind.join(pd.concat({"all": overall}, axis=1))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--held-out", action="store_true", help="data sets that no setting was chosen on")
    parser.add_argument("--only", default="", help="problems with this in their name")
    parser.add_argument("--jobs", type=int, default=-1, help="processes")
    arguments = parser.parse_args()
    asked = cells(held_out=arguments.held_out, only=arguments.only)
    parts = Parallel(arguments.jobs)(delayed(judged)(cell, make) for cell, make in asked.items())
    table = pd.concat(parts)
    with pd.option_context("display.width", 200, "display.precision", 3, "display.max_columns", 30):
        cell = table.pivot_table(["probe", "neighbor"], ["wrt", "points", "problem"], "method", sort=False)
        print(f"Each cell\n{cell.round(2)}\n\n{len(parts)} cells\n{summary(table).T.round(3).to_string()}")


if __name__ == "__main__":
    main()
