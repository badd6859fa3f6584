"""How interference grows with samples, width, depth and outputs, and whether its cost can be told from shapes.

Run with ``make bench``, or ``python -m benchmarks.scale --device cuda``. Samples are streamed, as from a `DataLoader`
that costs nothing: one batch, given again and again. Weights and samples are random, because speed does not depend on
them. Each time is predicted by the model in ``_cost.py`` from rates that are measured in the same run. Prints a table,
draws ``build/benchmarks/scale.png``.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.ticker import LogLocator
from torch import Tensor

import gradembed as ge
from benchmarks import _cost, _measure

BATCH = 5000  # samples that the stream gives at a time
WITHIN = 1.5  # the factor that predictions are meant to keep to
OUT = Path(__file__).resolve().parent.parent / "build" / "benchmarks"


class Setting(NamedTuple):
    """One network and number of samples."""

    varied: str
    value: int
    widths: list[int]
    n: int


def settings() -> list[Setting]:
    """Vary one thing at a time, and at last all of them.

    Returns:
        Settings, each of some seconds on two cores.
    """
    return [
        *(Setting("samples", n, [784, 64, 64, 10], n) for n in (10_000, 100_000, 1_000_000)),
        *(
            Setting("width", w, [784, w, w, 10], n)
            for w, n in ((64, 50_000), (256, 20_000), (1024, 5_000), (4096, 1_000))
        ),
        *(Setting("depth", k, [784, *[256] * k, 10], 10_000) for k in (2, 4, 8, 16)),
        *(Setting("outputs", u, [784, 64, 64, u], n) for u, n in ((10, 50_000), (100, 5_000), (1000, 200))),
        Setting("all", 0, [784, *[1024] * 8, 100], 500),
    ]


def stream(x: Tensor, n: int) -> Iterator[Tensor]:
    """Give the same samples again and again.

    Returns:
        Batches of n samples together.
    """
    whole, rest = divmod(n, len(x))
    return itertools.chain(itertools.repeat(x, whole), [x[:rest]] if rest else [])


def growth(device: torch.device, rounds: int = 5) -> pd.DataFrame:
    """Measure and predict all settings. Analysis and rates take turns, so that a slow spell hits both.

    Returns:
        One row per setting: medians over rounds.
    """
    machine, rows = _cost.Machine(device), []
    for varied, value, widths, n in settings():
        network = ge.MLP(widths, seed=0).to(device)
        x = torch.randn(min(n, BATCH), widths[0], device=device)
        m = min(n, _cost.chunk_size(network, x))
        machine.prepare(*_cost.works(widths, m))
        _measure.measures(network, x[:64])
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            _measure.measures(network, stream(x, n))  # ends with results on the CPU
            seconds = time.perf_counter() - start
            machine.round()
            predicted, products = machine.predict(widths, n, m)
            times.append((seconds, predicted, seconds / predicted, products))
        measured, predicted, ratio, products = (statistics.median(column) for column in zip(*times, strict=True))
        row = {
            "varied": varied,
            "value": value,
            "network": f"{widths[0]}-{widths[1]}x{len(widths) - 2}-{widths[-1]}",
            "samples": n,
            "chunk": m,
            "seconds": measured,
            "spread": (max(times)[0] - min(times)[0]) / measured,
            "predicted": predicted,
            "ratio": ratio,
            "in products": products,
        }
        print(f"  {row['network']}, {n:,} samples: {measured:.3f} s, {ratio:.2f} of the prediction", flush=True)
        rows.append(row)
    return pd.DataFrame(rows)


def _peak(n: int, device: str) -> float:
    network, x = ge.MLP([784, 64, 64, 10], seed=0).to(device), torch.randn(BATCH, 784, device=device)
    _measure.measures(network, x[:100])  # what the first call loads for good
    high_water = _measure.high_water if device == "cpu" else lambda: torch.cuda.max_memory_allocated() / 2**20
    before = high_water()
    _measure.measures(network, stream(x, n))
    return high_water() - before


def draw(table: pd.DataFrame, title: str) -> Path:
    """Draw measured and predicted times against what was varied.

    Returns:
        The file.
    """
    kinds = [kind for kind in table["varied"].unique() if kind != "all"]
    figure, axes = plt.subplots(1, len(kinds), figsize=(11, 3), layout="constrained")
    for ax, kind in zip(axes, kinds, strict=True):
        part = table[table["varied"] == kind]
        each = part["samples"] / 1000 if kind != "samples" else 1
        low, high = part["predicted"] / WITHIN / each, part["predicted"] * WITHIN / each
        ax.fill_between(part["value"], low, high, color=ge.plots.COLORS[1], alpha=0.2, label=f"within {WITHIN}")
        ax.plot(part["value"], part["predicted"] / each, color=ge.plots.COLORS[1], label="predicted")
        ax.plot(part["value"], part["seconds"] / each, "o", color=ge.plots.COLORS[0], label="measured")
        ax.set(xscale="log", yscale="log", xlabel=kind)
        ax.set_ylabel("seconds" if kind == "samples" else "seconds per 1,000 samples")
        ax.set_xticks(part["value"], [f"{value:,}" for value in part["value"]], minor=False)
        ax.minorticks_off()
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        ax.yaxis.set_major_formatter("{x:g}")
    axes[0].legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    OUT.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT / "scale.png", dpi=150)
    return OUT / "scale.png"


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu, or cuda where there is one")
    device = torch.device(parser.parse_args().device)
    torch.manual_seed(0)
    where = f"{torch.get_num_threads()} threads" if device.type == "cpu" else torch.cuda.get_device_name(device)
    print(f"torch {torch.__version__}, {where}; medians; a busy machine moves all of this\n")
    table = growth(device)
    print(f"\nGrowth\n{table.drop(columns='value').round(3).to_string(index=False)}\n")
    off = table["ratio"].where(table["ratio"] > 1, 1 / table["ratio"])
    print(f"measured / predicted: {table['ratio'].min():.2f} to {table['ratio'].max():.2f}; "
          f"{int((off <= WITHIN).sum())} of {len(table)} within a factor of {WITHIN}")  # fmt: skip
    peaks = {n: _measure.in_own_process(_peak, n, str(device)) for n in (10_000, 100_000, 1_000_000)}
    print("additional peak memory: " + ", ".join(f"{n:,} samples {peak:.0f} MB" for n, peak in peaks.items()) + "\n")
    print(f"drawn: {draw(table, f'Interference of streamed samples at all layers, {where}').name} in build/benchmarks")


if __name__ == "__main__":
    main()
