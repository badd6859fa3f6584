"""What the members of an ensemble learn: one split for all, a split for each, or functions on the cube."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradembed import _validation
from gradembed.datasets import RandomWaves, Split
from gradembed.training._config import TrainConfig

N_TEST = 2_000
N_SAMPLES = 16_384


@dataclass(frozen=True)
class Assignment:
    """Which data each member learns.

    Attributes:
        splits: Distinct ones, of equal shapes.
        labels: Position in ``splits`` for each member, [e].
    """

    splits: list[Split]
    labels: list[int]


def assign(target: object, d: int, n_members: int, seed: int, n_samples: int | None) -> Assignment:
    """Turn a target into data for each member.

    Args:
        target: As `train_ensemble` takes it.
        d: Features that the networks take.
        n_members: Networks.
        seed: Of the points at which a function is sampled.
        n_samples: How many of them are learned; ``None`` for the default.

    Returns:
        The data.
    """
    if isinstance(target, RandomWaves):
        if target.dim != d:
            _validation.refuse(
                "widths", f"start with {target.dim}, the inputs of the waves", d, "Change the first width"
            )
        each, rest = divmod(n_members, target.n_functions)
        if rest:
            rule = f"be a multiple of {target.n_functions}, the number of functions"
            _validation.refuse("n_members", rule, n_members, "Train as many networks on each function")
        return Assignment(sampled(target, d, seed, n_samples), [i // each for i in range(n_members)])
    if callable(target):
        return Assignment(sampled(target, d, seed, n_samples), [0] * n_members)
    if n_samples is not None:
        got, remedy = f"{n_samples} with {_validation.describe(target)}", "Leave it out, or shorten the split"
        _validation.refuse("n_samples", "be None unless a function is sampled", got, remedy)
    splits = _splits(target, n_members)
    if (width := splits[0].x_train.shape[1]) != d:
        _validation.refuse("widths", f"start with {width}, the features of the data", d, "Change the first width")
    distinct = list({id(split): split for split in splits}.values())
    places = {id(split): i for i, split in enumerate(distinct)}
    return Assignment(distinct, [places[id(split)] for split in splits])


def sampled(
    function: RandomWaves | Callable[[Tensor], Tensor], d: int, seed: int, n_samples: int | None
) -> list[Split]:
    """Evaluate a function at points drawn uniformly from the cube [-1, 1]^d; waves give a split per function.

    Returns:
        The splits, which share their points.
    """
    n = N_SAMPLES if n_samples is None else n_samples
    _validation.check_integer("n_samples", n, 1)
    x = 2 * torch.rand(n + N_TEST, d, generator=torch.Generator().manual_seed(seed)) - 1
    with torch.no_grad():
        y = function(x)
    if not isinstance(y, Tensor):
        _validation.refuse("target", "return a torch.Tensor", _validation.describe(y), "Convert its result", TypeError)
    waves = isinstance(function, RandomWaves)
    name = "waves" if waves else getattr(function, "__name__", type(function).__name__)
    values = y.unbind() if waves else [y]
    for value in values:
        _validation.check_targets(value, len(x), "target")
    source = f"{n:,} points drawn uniformly from the cube [-1, 1]^{d}, and {N_TEST:,} held out"
    return [Split(x[:n], value[:n], x[n:], value[n:], name, source) for value in values]


def _splits(target: object, n_members: int) -> list[Split]:
    """Check splits.

    Returns:
        One for each member.
    """
    if isinstance(target, Split):
        return [target] * n_members
    if not isinstance(target, Sequence) or not all(isinstance(split, Split) for split in target):
        rule = "be a gradembed.Split, one for each member, or a function of points"
        _validation.refuse("target", rule, _validation.describe(target), "Build one with gradembed.Split", TypeError)
    if len(target) != n_members:
        got, remedy = f"{len(target)} splits for {n_members} members", "Pass as many as members, or a single one"
        _validation.refuse("target", "hold one split for each member", got, remedy)
    for i, split in enumerate(target):
        if _shapes(split) != _shapes(target[0]):
            got, remedy = f"{_shapes(split)} for member {i} after {_shapes(target[0])}", "Cut them to equal sizes"
            _validation.refuse("target", "hold splits of equal shapes and types", got, remedy)
    return list(target)


def _shapes(split: Split) -> str:
    parts = (split.x_train, split.y_train, split.x_test, split.y_test)
    return ", ".join(f"{str(part.dtype).removeprefix('torch.')} {list(part.shape)}" for part in parts)


def check_shift(config: TrainConfig) -> None:
    """Refuse shifts, which are drawn for one network at a time."""
    if config.max_shift:
        remedy = "Set it to 0, or train the networks one by one"
        _validation.refuse("max_shift", "be 0 for an ensemble", config.max_shift, remedy)
