"""Interference of an untrained 784-64-64-10 network at 10,000 random samples: all layers here, the input there.

Run with ``make bench``. The rivals compute less (the input layer and the mean cosine alone); weights and samples
are random because speed does not depend on them. The arithmetic bound counts the multiplications that all layers need
at the rate at which this machine multiplies large square matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd
import torch

import gradembed as ge
from benchmarks import _measure, _rivals

WIDTHS = [784, 64, 64, 10]
N = 10_000


def arithmetic() -> int:
    """Floating-point operations of the forward pass, the backward pass and the Gram matrices.

    Returns:
        Their number.
    """
    d, h1, h2, u = WIDTHS
    forward = d * h1 + h1 * h2 + h2 * u
    backward = u * (h2 * h1 + h1 * h1)  # to hidden1, then into the coordinates at the input
    gram = u * u * (h1 + h1 + h2)
    return 2 * N * (forward + backward + gram)


def main() -> None:
    """Measure and print the table.

    Raises:
        RuntimeError: If a rival computes something else.
    """
    torch.manual_seed(0)
    network, x = ge.MLP(WIDTHS, seed=0), torch.randn(N, WIDTHS[0])
    expected = ge.interference(network, x).cosine["input"].float()
    rivals = {rival.__name__: rival for rival in (_rivals.vmap_jacrev, _rivals.batched_grad, _rivals.unit_loop)}
    for name, rival in rivals.items():
        if not torch.allclose(rival(network, x), expected, atol=1e-4):
            raise RuntimeError(f"{name} computes something else")
    contestants: dict[str, Callable[[], object]] = {"gradembed (all layers)": partial(ge.interference, network, x)}
    contestants |= {name: partial(rival, network, x) for name, rival in rivals.items()}
    seconds = _measure.medians(contestants)
    bound = arithmetic() / _measure.product_rate()
    table = pd.DataFrame({"seconds": seconds | {"arithmetic bound": bound}})
    table["times gradembed"] = table["seconds"] / seconds["gradembed (all layers)"]
    print(f"{N:,} samples, {torch.get_num_threads()} threads, torch {torch.__version__}, medians of 7 rounds\n")
    print(table.to_string(float_format=lambda value: f"{value:.4f}"))


if __name__ == "__main__":
    main()
