"""Data sets as plain tensors, split into training and test part, and toys whose answer is known beforehand."""

from __future__ import annotations

from gradembed.datasets._iris import load_iris
from gradembed.datasets._mnist import load_mnist
from gradembed.datasets._split import Split
from gradembed.datasets._stacked import StackedSplit, stack_tasks
from gradembed.datasets._toys import soft_mixing
from gradembed.datasets._waves import RandomWaves, random_waves

__all__ = [
    "RandomWaves",
    "Split",
    "StackedSplit",
    "load_iris",
    "load_mnist",
    "random_waves",
    "soft_mixing",
    "stack_tasks",
]
