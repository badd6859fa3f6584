"""Hidden units of networks trained apart: can twins be told from the layer below, whose basis is each network's own?

Run with ``python -m benchmarks.apart``. Pairs of networks learn MNIST from different weights. Units of the last hidden
layer are matched one to one across a pair, from 1,000 images of each network's own, and judged by the correlation of
matched units over test images that no matching saw. Looked at together, units have Gram matrices that no change of
basis moves: of gradients with respect to the layer below, measured by that layer's covariance, and of activations. They
are aligned by graph matching (FAQ), which starts from the distances between the units' descriptors.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment, quadratic_assignment
from torch import Tensor, nn

import gradembed as ge

PAIRS, IMAGES, RESTARTS = 10, 1000, 5
SHAPES = [[32, 32], [64, 64], [128, 128], [64] * 4, [64] * 5, []]  # hidden layers; none: the convolutional network
Matrix = NDArray[np.float64]


def doubly_stochastic(similarity: Matrix, temperature: float = 0.3) -> Matrix:
    """Turn similarities into a soft matching by Sinkhorn's iteration.

    Returns:
        [n, n], all sums 1.
    """
    soft: Matrix = np.exp((similarity - similarity.max()) / temperature)
    for _ in range(10_000):
        soft /= soft.sum(1, keepdims=True)
        soft /= soft.sum(0, keepdims=True)
        if abs(soft.sum(1) - 1).max() < 1e-6:
            break
    return soft


def aligned(first: Matrix, second: Matrix, start: Matrix) -> Matrix:
    """Match units so that two symmetric matrices agree best, from a soft matching and mixtures of it with no choice.

    Returns:
        For each of the first units the second, [n].
    """
    n = len(first)
    found = []
    for share in np.linspace(1, 0, RESTARTS):
        options = {"maximize": True, "P0": share * start + (1 - share) / n, "maxiter": 100}
        found.append(quadratic_assignment(first - first.mean(), second - second.mean(), method="faq", options=options))
    return np.asarray(max(found, key=lambda result: result.fun).col_ind)


def assigned(similarity: Matrix) -> Matrix:
    """Match units one to one, as similar as can be.

    Returns:
        For each of the first units the second, [n].
    """
    return np.asarray(linear_sum_assignment(similarity, maximize=True)[1])


def gradient_gram(fields: ge.GradientFields) -> Matrix:
    """Cosines of whole fields, E[g Σ g'] with the covariance of the points, in which no basis is preferred.

    Returns:
        [u, u].
    """
    points = fields.own_points()[0].double()
    centered = points - points.mean(0)
    covariance = centered.mT @ centered / len(points)
    g = fields.gradients.double()
    gram = torch.einsum("umd,de,vme->uv", g, covariance, g)
    size = gram.diagonal().sqrt()
    return np.asarray(gram / size[:, None] / size)


def correlation(first: Tensor, second: Tensor) -> Matrix:
    """Correlate activations, [n, u] and [n, v].

    Returns:
        [u, v].
    """
    table = torch.corrcoef(torch.cat([first, second], 1).T.double())[: first.shape[1], first.shape[1] :]
    return np.asarray(table.nan_to_num())  # a unit that is dead at these images is like none


def convolutional() -> nn.Module:
    """Make a small convolutional network.

    Returns:
        With 256 numbers below 32 hidden units.
    """
    parts = {
        "image": nn.Unflatten(1, (1, 28, 28)), "conv1": nn.Conv2d(1, 8, 5, 2), "relu1": nn.ReLU(),
        "conv2": nn.Conv2d(8, 16, 5, 2), "relu2": nn.ReLU(), "flat": nn.Flatten(), "full": nn.Linear(256, 32),
        "hidden": nn.ReLU(), "output": nn.Linear(32, 10),
    }  # fmt: skip
    return nn.Sequential(OrderedDict(parts))


def matched(networks: list[nn.Module], images: list[Tensor], tested: Tensor) -> dict[str, float]:
    """Match the last hidden layers of two networks in several ways.

    Returns:
        Mean correlation of matched units at test images.
    """
    last, below = "hidden", "flat"
    if isinstance(networks[0], ge.MLP):
        k = len(networks[0].widths) - 2
        last, below = f"hidden{k}", f"hidden{k - 1}"
    taken = [
        ge.gradient_fields(network, x, wrt=below, unit_layer=last) for network, x in zip(networks, images, strict=True)
    ]
    living = [torch.nonzero(f.amplitudes() > 1e-3 * f.amplitudes().max())[:, 0] for f in taken]
    n = min(map(len, living))
    living = [some[:n] for some in living]
    taken = [f[some] for f, some in zip(taken, living, strict=True)]
    at_tests = [
        ge.gradient_fields(network, tested, wrt=below, unit_layer=last)[some].values.T  # type: ignore[union-attr]
        for network, some in zip(networks, living, strict=True)
    ]
    truth = correlation(*at_tests)
    both = ge.GradientFields.concatenate(taken, new_networks=True)
    z = ge.FieldDescriptor(discount_groups=True).fit_transform(both)
    distances = np.linalg.norm(z[:n, None] - z[None, n:], axis=2)
    start = doubly_stochastic(-distances / np.median(distances))
    nothing = np.full((n, n), 1 / n)
    grams = [gradient_gram(f) for f in taken]
    within = [correlation(values, values) for values in (f.values.T for f in taken)]  # type: ignore[union-attr]
    reads = [
        dict(network.named_parameters())["output.weight"].detach()[:, some].T
        for network, some in zip(networks, living, strict=True)
    ]
    reads = [torch.nn.functional.normalize(read - read.mean(1, keepdim=True)) for read in reads]
    pixels = [
        torch.nn.functional.normalize(ge.gradient_fields(network, x, unit_layer=last)[some].gradients.mean(1))
        for network, x, some in zip(networks, images, living, strict=True)
    ]
    shared = [
        ge.gradient_fields(network, images[0], wrt=below, unit_layer=last)[some].values.T  # type: ignore[union-attr]
        for network, some in zip(networks, living, strict=True)
    ]
    ways: dict[str, Callable[[], Matrix]] = {
        "descriptor, unit by unit": lambda: assigned(-distances),
        "gradients together": lambda: aligned(grams[0], grams[1], nothing),
        "gradients together, from the descriptor": lambda: aligned(grams[0], grams[1], start),
        "activations together, from the descriptor": lambda: aligned(within[0], within[1], start),
        "outgoing weights (classes shared)": lambda: assigned(np.asarray(reads[0] @ reads[1].T)),
        "mean gradient at the pixels (pixels shared)": lambda: assigned(np.asarray(pixels[0] @ pixels[1].T)),
        "activations at the same images (images shared)": lambda: assigned(correlation(*shared)),
    }
    scores = {name: float(truth[np.arange(n), way()].mean()) for name, way in ways.items()}
    return scores | {
        "any two (chance)": float(truth.mean()),
        "best possible": float(truth[np.arange(n), assigned(truth)].mean()),
    }


def _trained(mnist: ge.datasets.Split, config: ge.TrainConfig, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return ge.train(convolutional(), mnist, replace(config, epochs=1, seed=seed)).model


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--convolutional", action="store_true", help="only the convolutional network")
    arguments = parser.parse_args()
    mnist, cache, columns = ge.datasets.load_mnist("data"), ge.Cache("data/cache"), {}
    order = torch.randperm(len(mnist.x_train), generator=torch.Generator().manual_seed(0))
    n = min(IMAGES, len(order) // 2)
    for hidden in SHAPES[-1:] if arguments.convolutional else SHAPES:
        config = ge.TrainConfig(arguments.epochs, 256, learning_rate=6e-3, weight_decay=0.05, progress=False)
        widths = [784, *hidden, 10]
        networks: list[nn.Module]
        if hidden:
            networks = list(cache.call(ge.train_ensemble, mnist, widths, 2 * arguments.pairs, config))
        else:
            networks = [_trained(mnist, config, seed) for seed in range(2 * arguments.pairs)]
        rows = []
        for i in range(arguments.pairs):
            images = [mnist.x_train[order[k * n : (k + 1) * n]] for k in range(2)]
            rows.append(matched(networks[2 * i : 2 * i + 2], images, mnist.x_test))
        table = pd.DataFrame(rows)
        columns["-".join(map(str, hidden)) or "convolutional"] = {
            name: f"{ge.metrics.spread(table[name].to_numpy())}" for name in table
        }
    print(f"Mean correlation of matched units, {arguments.pairs} pairs, 95 % intervals. {mnist.source}")
    print(pd.DataFrame(columns).to_string())


if __name__ == "__main__":
    main()
