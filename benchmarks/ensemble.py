"""Many small networks trained together, side by side with one after the other, and what ready-made settings reach.

Run with ``make bench``: prints two tables. Both contestants of the first make the same networks of the same data, in
the same number of epochs and steps; that they agree is checked. `gradembed.train` evaluates the test part after each
epoch for its history, an ensemble once: the test part is kept small, so that this weighs little.
"""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from typing import cast

import pandas as pd
import torch
from torch import Tensor

import gradembed as ge
from benchmarks import _measure

DIMS = (1, 8, 64)
N_MEMBERS = 64
N_TRAIN, N_TEST = 4_096, 64
CONFIG = ge.TrainConfig(epochs=2, batch_size=64, learning_rate=0.01, weight_decay=0.01, device="cpu", progress=False)


def waves_split(dim: int) -> ge.datasets.Split:
    """Sample one function.

    Returns:
        Its values at random points.
    """
    x = 2 * torch.rand(N_TRAIN + N_TEST, dim) - 1
    y = ge.datasets.random_waves(1, dim)(x)[0]
    return ge.datasets.Split(x[:N_TRAIN], y[:N_TRAIN], x[N_TRAIN:], y[N_TRAIN:], "waves", "drawn")


def one_by_one(split: ge.datasets.Split, widths: list[int]) -> list[ge.TrainingRun]:
    """Train the networks one after the other.

    Returns:
        Their runs.
    """
    return [
        ge.train(ge.MLP(widths, seed=seed), split, dataclasses.replace(CONFIG, seed=seed)) for seed in range(N_MEMBERS)
    ]


def side_by_side() -> pd.DataFrame:
    """Compare both ways at several numbers of inputs, after a check that they agree.

    Returns:
        Seconds and ratios.

    Raises:
        RuntimeError: If they make other networks.
    """
    rows = []
    for dim in DIMS:
        split, widths = waves_split(dim), [dim, 64, 64, 1]
        together = partial(ge.train_ensemble, split, widths, N_MEMBERS, CONFIG)
        alone = partial(one_by_one, split, widths)
        scores = torch.tensor([run.test_r2 for run in alone()], dtype=torch.float64)
        if not torch.allclose(cast(Tensor, together().scores), scores, atol=1e-2):
            raise RuntimeError(f"networks of {dim} inputs trained together are others than alone")
        seconds = _measure.medians({"together": together, "one by one": alone}, repeats=3)
        steps = CONFIG.epochs * -(-N_TRAIN // CONFIG.batch_size)
        ratio = seconds["one by one"] / seconds["together"]
        each = 1e6 * seconds["together"] / steps / N_MEMBERS
        rows.append({"network": "-".join(map(str, widths)), **seconds, "times as fast": ratio, "µs per step": each})
    return pd.DataFrame(rows)


def ready_made() -> pd.DataFrame:
    """Train 16 networks on each of 10 functions with the settings made for it.

    Returns:
        Steps, held-out R² and seconds for 160 networks.
    """
    rows = []
    for dim in (1, 2, 4, 8, 16, 32, 64):
        config = dataclasses.replace(ge.TrainConfig.for_waves(dim), progress=False)
        start = time.perf_counter()
        ensemble = ge.train_ensemble(ge.datasets.random_waves(10, dim), [dim, 64, 64, 1], 160, config)
        seconds = time.perf_counter() - start
        scores = cast(Tensor, ensemble.scores)
        steps = config.epochs * 16_384 // config.batch_size
        summary = {"median R²": float(scores.median()), "least R²": float(scores.min())}
        rows.append({"inputs": dim, "steps": steps, **summary, "seconds": seconds})
    return pd.DataFrame(rows)


def main() -> None:
    """Measure and print."""
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; medians; a busy machine moves all of this\n")
    size = f"{N_TRAIN:,} samples, batches of {CONFIG.batch_size}, {CONFIG.epochs} epochs"
    print(f"{N_MEMBERS} networks, {size}; seconds\n{side_by_side().round(3).to_string(index=False)}\n")
    print(f"TrainConfig.for_waves, 160 networks d-64-64-1\n{ready_made().round(4).to_string(index=False)}")


if __name__ == "__main__":
    main()
