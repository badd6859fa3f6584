"""What tests of training share: quick settings, small data, weights as one vector."""

import dataclasses

import torch

import gradembed as ge

IRIS = ge.datasets.load_iris()
PARTS = ("x_train", "y_train", "x_test", "y_test")


def quick(**changes):
    settings = {"epochs": 2, "batch_size": 32, "learning_rate": 0.01, "weight_decay": 0.01, "progress": False}
    return ge.TrainConfig(**{**settings, **changes})


def map_parts(split, change):
    """The same data, each tensor changed."""
    return dataclasses.replace(split, **{name: change(getattr(split, name)) for name in PARTS})


def double(split):
    """The same data in float64, in which rounding does not hide a difference."""
    return map_parts(split, lambda part: part.double() if part.is_floating_point() else part)


def values_split(n_outputs=None, d=5, seed=1):
    """Sines of projections; targets [n] or [n, n_outputs]."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(90, d, generator=generator)
    y = (0.5 * x @ torch.randn(d, n_outputs or 1, generator=generator)).sin()
    y = y if n_outputs else y[:, 0]
    return ge.datasets.Split(x[:60], y[:60], x[60:], y[60:], "sines", "drawn")


def weights_of(network):
    return torch.cat([value.detach().flatten() for value in network.state_dict().values()])
