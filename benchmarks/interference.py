"""Interference at all layers, side by side with what one would write instead, and how it grows.

Run with ``make bench``: prints tables and draws ``build/benchmarks/interference.png``. Weights and samples are random,
because speed does not depend on them. The rivals compute the mean cosine alone; `gradembed.interference` all its
measures. The arithmetic bound counts the multiplications that all layers need, at the rate at which this machine
multiplies large square matrices in the same run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch

import gradembed as ge
from benchmarks import _measure, _rivals

WIDTHS = [784, 64, 64, 10]
N = 10_000
RIVALS = (_rivals.vmap_jacrev, _rivals.vmap_jacrev_at_once, _rivals.batched_grad, _rivals.unit_loop)
OUT = Path(__file__).resolve().parent.parent / "build" / "benchmarks"


def arithmetic(widths: list[int], n: int) -> int:
    """Floating-point operations of the forward pass, the backward pass and the Gram matrices at all layers.

    Returns:
        Their number.
    """
    u, hidden = widths[-1], widths[1:-1]
    forward = sum(a * b for a, b in itertools.pairwise(widths))
    # back through every linear layer but the last (whose gradients are its weights); the first into coordinates
    backward = u * (sum(a * b for a, b in itertools.pairwise(hidden)) + hidden[0] * min(widths[:2]))
    gram = u * u * (min(widths[:2]) + sum(hidden[:-1]))
    return 2 * n * (forward + backward + gram)


def side_by_side() -> pd.DataFrame:
    """Compare all contestants at 10,000 samples, after a check that they agree.

    Returns:
        Seconds and ratios.

    Raises:
        RuntimeError: If a rival computes something else.
    """
    network, x = ge.MLP(WIDTHS, seed=0), torch.randn(N, WIDTHS[0])
    ours = ge.interference(network, x)
    for rival in RIVALS:
        for layer, cosine in zip(ours.layers, _rivals.at_all_layers(rival, network, x), strict=True):
            if not torch.allclose(cosine, ours.cosine[layer].float(), atol=1e-4):
                raise RuntimeError(f"{rival.__name__} computes something else at {layer}")
    contestants: dict[str, Callable[[], object]] = {"gradembed": partial(_measure.measures, network, x)}
    contestants["with chance"] = partial(ge.interference, network, x)
    contestants |= {rival.__name__: partial(_rivals.at_all_layers, rival, network, x) for rival in RIVALS}
    seconds = _measure.medians(contestants)
    seconds["arithmetic bound"] = arithmetic(WIDTHS, N) / _measure.product_rate()
    table = pd.DataFrame({"seconds": seconds})
    table["times gradembed"] = table["seconds"] / seconds["gradembed"]
    return table


def growth() -> pd.DataFrame:
    """Vary one thing at a time.

    Returns:
        Seconds here and with the best-known rival, against the arithmetic bound.
    """
    cases = [("samples", WIDTHS, n) for n in (1_000, 10_000, 60_000)]
    cases += [("width", [784, w, w, 10], N) for w in (32, 128, 512)]
    cases += [("depth", [784, *[64] * k, 10], N) for k in (1, 4, 8)]
    rate, rows = _measure.product_rate(), []
    for what, widths, n in cases:
        network, x = ge.MLP(widths, seed=0), torch.randn(n, widths[0])
        contestants: dict[str, Callable[[], object]] = {
            "gradembed": partial(_measure.measures, network, x),
            "vmap_jacrev": partial(_rivals.at_all_layers, _rivals.vmap_jacrev, network, x),
        }
        seconds = _measure.medians(contestants, repeats=3)
        bound = arithmetic(widths, n) / rate
        rows.append(
            {
                "varied": what,
                "network": "-".join(map(str, widths)),
                "samples": n,
                **seconds,
                "ratio": seconds["vmap_jacrev"] / seconds["gradembed"],
                "over bound": seconds["gradembed"] / bound,
            }
        )
    return pd.DataFrame(rows)


def all_pairs() -> pd.DataFrame:
    """Time |cosine| of every sample with every other, at the input, after a check that both agree.

    Returns:
        Seconds and their ratio.

    Raises:
        RuntimeError: If the rival computes something else.
    """
    network, rows = ge.MLP(WIDTHS, seed=0), []
    for n in (1_000, 4_000, N):
        x = torch.randn(n, WIDTHS[0])
        ours = partial(_measure.measures, network, x, layers=["input"], pairing="all")
        if n == N:  # minutes a call for the rival
            rows.append({"samples": n, **_measure.medians({"gradembed": ours}, repeats=1)})
            continue
        rival = partial(_rivals.all_pairs, network, x)
        if not torch.allclose(rival(), ours().abs_cosine["input"].float(), atol=1e-4):
            raise RuntimeError("all_pairs computes something else")
        seconds = _measure.medians({"gradembed": ours, "all_pairs": rival}, repeats=3)
        rows.append({"samples": n, **seconds, "ratio": seconds["all_pairs"] / seconds["gradembed"]})
    return pd.DataFrame(rows)


def trees() -> pd.DataFrame:
    """Time the tree of all combinations against the realised one.

    Returns:
        Seconds and input nodes.
    """
    network, rows = ge.MLP(WIDTHS, seed=0), []
    for n in (4, 16, 64, N):
        x = torch.randn(n, WIDTHS[0])
        row: dict[str, float] = {"samples": n}
        for mode in ("realised", "product") if n <= 64 else ("realised",):
            build = partial(ge.gradient_tree, network, x, mode=mode)
            row[f"{mode} (s)"] = _measure.medians({mode: build}, repeats=3)[mode]
            row[f"{mode} nodes"] = len(build().counts["input"])
        rows.append(row)
    return pd.DataFrame(rows)


def merged_trees() -> pd.DataFrame:
    """Time the realised tree of a smooth network, whose nodes are merged by tolerance.

    Returns:
        Seconds and input nodes.
    """
    network, x, rows = ge.MLP(WIDTHS, torch.nn.GELU, seed=0), torch.randn(N, WIDTHS[0]), []
    for tolerance in (0.1, 0.01):
        build = partial(ge.gradient_tree, network, x, tolerance=tolerance)
        seconds = _measure.medians({"merged": build}, repeats=3)["merged"]
        rows.append({"tolerance": tolerance, "seconds": seconds, "nodes": len(build().counts["input"])})
    return pd.DataFrame(rows)


def _peak(n: int) -> float:
    network, x = ge.MLP(WIDTHS, seed=0), torch.randn(n, WIDTHS[0])
    _measure.measures(network, x[:100])  # what the first call loads for good
    before = _measure.high_water()
    _measure.measures(network, x)
    return _measure.high_water() - before


def draw(table: pd.DataFrame) -> Path:
    """Draw the comparison at 10,000 samples.

    Returns:
        The file.
    """
    figure, ax = plt.subplots(figsize=(6.4, 2.8), layout="constrained")
    bars = ax.barh(table.index[::-1], table["seconds"][::-1], color=ge.plots.COLORS[0])
    ax.bar_label(bars, [f"{s:.3f} s  ({r:.1f}x)" for s, r in table[::-1].to_numpy()], padding=3, fontsize=8)
    ax.set(xlabel="seconds, median of 7 rounds", xlim=(0, table["seconds"].max() * 1.25))
    ax.set_title(
        f"Interference at all layers, {N:,} samples, 784-64-64-10, {torch.get_num_threads()} threads", fontsize=10
    )
    OUT.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT / "interference.png", dpi=150)
    return OUT / "interference.png"


def main() -> None:
    """Measure, print, draw."""
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; medians; a busy machine moves all of this\n")
    table = side_by_side()
    print(f"All layers, {N:,} samples, {'-'.join(map(str, WIDTHS))}\n{table.round(4).to_string()}\n")
    print(f"Growth\n{growth().round(4).to_string(index=False)}\n")
    print(f"All pairs of samples, at the input\n{all_pairs().round(4).to_string(index=False)}\n")
    print(f"Trees\n{trees().round(4).to_string(index=False)}\n")
    print(f"Trees merged by tolerance, GELU, {N:,} samples\n{merged_trees().round(4).to_string(index=False)}\n")
    print(f"Additional peak memory, 60,000 samples: {_measure.in_own_process(_peak, 60_000):.0f} MB\n")
    print(f"drawn: {draw(table).name} in build/benchmarks")


if __name__ == "__main__":
    main()
