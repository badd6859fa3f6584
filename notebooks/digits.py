"""What notebook 01 asks of ten digits: patterns over their 45 pairs, in the mean and at single images; and rivals in time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

import gradembed as ge

PAIRS = np.triu_indices(10, 1)
CENTERED = torch.eye(10) - 0.1  # read out the logits less their mean


# ---------------------------------------------------------------- patterns over pairs


def pattern(table: Tensor) -> np.ndarray:
    """Return what a table, [10, 10], says of the 45 pairs."""
    return table.numpy()[PAIRS]


def correlations(tables: Sequence[Tensor], others: Sequence[Tensor] | None = None) -> np.ndarray:
    """Correlate the patterns of every two tables, or of each table with its own other one."""
    if others is not None:
        return np.array([np.corrcoef(pattern(a), pattern(b))[0, 1] for a, b in zip(tables, others)])
    return np.corrcoef([pattern(table) for table in tables])[np.triu_indices(len(tables), 1)]


def mean_of(tables: Sequence[Tensor]) -> Tensor:
    """Average tables."""
    return torch.stack(list(tables)).mean(0)


def beyond_outputs(results: Sequence[ge.Interference], layer: str, n_permutations: int) -> list[ge.metrics.Enrichment]:
    """Test whether the cosines of every two networks agree beyond what the correlations of both networks' outputs say."""
    tests = []
    for a, b in itertools.combinations(results, 2):
        own = torch.stack([a.output_correlation, b.output_correlation])  # the mean of both would make noise agree
        tests.append(ge.metrics.mantel(a.cosine[layer], b.cosine[layer], own, n_permutations=n_permutations))
    return tests


# ---------------------------------------------------------------- single images


def cosines_at(network: nn.Module, x: Tensor, layer: str) -> np.ndarray:
    """Return the cosines of the gradients of the 45 pairs of centered scores at every image, [n, 45]."""
    first, second = (list(side) for side in PAIRS)
    parts = []
    for part in x.split(500):
        vectors = ge.unit_gradients(network, part, layer, directions=CENTERED).unit_vectors()
        parts.append((vectors[:, first] * vectors[:, second]).sum(-1))
    return torch.cat(parts).double().numpy()


def predictors(network: nn.Module, x: Tensor) -> np.ndarray:
    """Return what the two centered scores of every pair say at every image: a, b, a b and |a − b|, [n, 45, 4]."""
    with torch.no_grad():
        z = network(x).double()
    a, b = ((z - z.mean(1, keepdim=True)).numpy()[:, list(side)] for side in PAIRS)
    return np.stack([a, b, a * b, np.abs(a - b)], axis=-1)


def left_over(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return what a linear regression of y, [n], on x, [n, k], leaves."""
    x = np.concatenate([np.ones((len(x), 1)), x], axis=1)
    return y - x @ np.linalg.lstsq(x, y, rcond=None)[0]


def agreement_at_images(networks: Sequence[nn.Module], x: Tensor, layer: str) -> dict[str, float]:
    """Do two networks agree on the images at which two classes share, and beyond what both networks' outputs explain?

    Args:
        networks: Every two of them are compared.
        x: Images, [n, 784].
        layer: Of the gradients.

    Returns:
        Means over pairs of classes and of networks; the share of pairs of classes whose agreement beyond outputs is
        above 0 in the mean over networks.
    """
    at = [cosines_at(network, x, layer) for network in networks]
    asked = [predictors(network, x) for network in networks]
    plain, partial, explained = [], [], []
    for i, j in itertools.combinations(range(len(networks)), 2):
        for k in range(45):
            outputs = np.concatenate([asked[i][:, k], asked[j][:, k]], axis=1)
            a, b = left_over(at[i][:, k], outputs), left_over(at[j][:, k], outputs)
            plain.append(np.corrcoef(at[i][:, k], at[j][:, k])[0, 1])
            partial.append(np.corrcoef(a, b)[0, 1])
            explained.append(1 - a.var() / at[i][:, k].var())
    return {
        "variance within pairs": np.mean([c.var(0).mean() / c.var() for c in at]),
        "two networks agree": np.mean(plain),
        "beyond both outputs": np.mean(partial),
        "pairs of classes above 0": np.mean(np.reshape(partial, (-1, 45)).mean(0) > 0),
        "R² of outputs": np.mean(explained),
    }


# ---------------------------------------------------------------- directions and times


def mean_directions(network: nn.Module, x: Tensor) -> Tensor:
    """Average the gradients of the centered scores, scaled to length 1, over images, [10, 784]."""
    parts = [
        ge.unit_gradients(network, part, "input", directions=CENTERED).unit_vectors().sum(0) for part in x.split(1000)
    ]
    return torch.stack(parts).sum(0) / len(x)


def seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """Return the median time of several calls."""
    times = []
    for _ in range(repeats):
        start = perf_counter()
        function()
        times.append(perf_counter() - start)
    return float(np.median(times))


def loop(network: nn.Module, x: Tensor) -> Tensor:
    """Mean cosines at the input from the definition, a loop over samples and units, [10, 10]."""
    rows = []
    for sample in x:
        leaf = sample.clone().requires_grad_()
        units = network(leaf[None])[0]
        rows.append(torch.stack([torch.autograd.grad(unit, leaf, retain_graph=True)[0] for unit in units]))
    vectors = nn.functional.normalize(torch.stack(rows), dim=-1)
    return torch.einsum("nud,nvd->uv", vectors, vectors) / len(x)


def with_torch_func(network: nn.Module, x: Tensor) -> Tensor:
    """Mean cosines at the input by `torch.func`, 1,000 images at a time, [10, 10]."""
    total = torch.zeros(10, 10)
    for part in x.split(1000):
        vectors = nn.functional.normalize(torch.func.vmap(torch.func.jacrev(network))(part), dim=-1)
        total += torch.bmm(vectors, vectors.mT).sum(0)
    return total.detach() / len(x)
