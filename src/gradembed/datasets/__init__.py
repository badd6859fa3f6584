"""Data sets as plain tensors, split into training and test part, and toys whose answer is known beforehand.

Example:
    >>> import gradembed as ge
    >>> iris = ge.datasets.load_iris()
    >>> ge.datasets.stack_tasks(iris, n_tasks=2)  # two tasks that have nothing in common
    StackedSplit('iris x 2', 120 training and 30 test samples of 8 features, from Fisher's Iris ...)
    >>> ge.datasets.random_waves(10, dim=3)  # ten functions whose gradients are known
    RandomWaves(10 functions of 3 inputs, 4 waves each, roughness 1, seed 0)
"""

from __future__ import annotations

from gradembed.datasets._clock_pizza import load_clock_pizza
from gradembed.datasets._groups import GroupNetworks, component_labels, load_group_networks, train_addition_networks
from gradembed.datasets._loaders import load_iris, load_mnist
from gradembed.datasets._split import Split, StackedSplit, stack_tasks
from gradembed.datasets._synthetic import RandomWaves, random_waves, soft_mixing

__all__ = [
    "GroupNetworks", "RandomWaves", "Split", "StackedSplit", "component_labels", "load_clock_pizza",
    "load_group_networks", "load_iris", "load_mnist", "random_waves", "soft_mixing", "stack_tasks",
    "train_addition_networks",
]  # fmt: skip
