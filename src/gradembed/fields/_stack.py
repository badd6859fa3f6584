"""Gradients of many networks at once: chains of linear layers, weights stacked, and elementwise modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradembed.fields._regions import numbered
from gradembed.gradients import SKIPPED, apply_with_slope, keep_freed_memory
from gradembed.tree._pieces import is_on, is_smooth, packed, slopes_of, splits

GROUP_BYTES = 8 * 2**20  # of what one group of networks computes: about what a processor keeps in its cache


@dataclass(frozen=True)
class Linear:
    """A layer of every network.

    Attributes:
        weight: [e, out, in].
        bias: [e, 1, out].
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Linear:
        """Take the parameters of one network, [out, in] and [out], or of several, [e, out, in] and [e, out].

        Returns:
            The layer.
        """
        weight = weight.detach().reshape(-1, *weight.shape[-2:])
        bias = weight.new_zeros(weight.shape[:2]) if bias is None else bias.detach().reshape(weight.shape[:2])
        return cls(weight, bias[:, None])

    def __getitem__(self, members: slice) -> Linear:
        return Linear(self.weight[members], self.bias[members])


Step = Linear | nn.Module


@dataclass(frozen=True)
class Captured:
    """What units do at the points of their networks.

    Attributes:
        gradients: [e, u, m, d].
        activations: Of the layer that gradients are taken with respect to, [e, m, d].
        values: [e, u, m].
        regions: Number of the linear piece that each point lies in, [e, u, m]; or ``None`` with a smooth activation.
    """

    gradients: Tensor
    activations: Tensor
    values: Tensor
    regions: Tensor | None


@torch.no_grad()
def capture(steps: Sequence[Step], bottom: int, points: Tensor, readout: Tensor) -> Captured:
    """Differentiate units of all networks at all of their points, a group of networks at a time.

    Args:
        steps: From the input to the unit layer.
        bottom: Number of steps before the layer that gradients are taken with respect to.
        points: Inputs, [e, m, d].
        readout: How units read the unit layer, [e, u, D].

    Returns:
        Gradients, activations, values and regions.
    """
    keep_freed_memory()
    (e, m, d), u = points.shape, readout.shape[1]
    widths = [d, *(step.weight.shape[1] for step in steps if isinstance(step, Linear))]
    d = widths[sum(isinstance(step, Linear) for step in steps[:bottom])]
    has_regions = not any(is_smooth(step) for step in steps[bottom:] if not isinstance(step, Linear))
    gradients, values = points.new_empty(e, u, m, d), points.new_empty(e, u, m)
    activations = points.new_empty(e, m, d) if bottom else points
    patterns = []
    size = max(1, GROUP_BYTES // (m * (sum(widths) + u * max(widths)) * points.element_size()))
    for start in range(0, e, size):
        members = slice(start, start + size)
        group = [step[members] if isinstance(step, Linear) else step for step in steps]
        forward = _Forward(group, bottom, points[members])
        if bottom:
            activations[members] = forward.activations
        values[members] = readout[members] @ forward.top.mT
        words = _backward(group, bottom, readout[members], forward, gradients[members], patterns=has_regions)
        patterns.append(np.concatenate(words, axis=-1) if words else np.zeros((*values[members].shape, 1), np.uint64))
    regions = numbered(np.concatenate(patterns)).to(points.device) if has_regions else None
    return Captured(gradients, activations, values, regions)


class _Forward:
    """A pass up to the unit layer.

    Attributes:
        activations: At the bottom, [e, m, d].
        top: The unit layer, [e, m, D].
        slopes: Of each elementwise step from the bottom up, but of ReLU, [e, m, w].
        states: What enters each step with two slopes, or for ReLU what leaves it, [e, m, w].
    """

    def __init__(self, steps: Sequence[Step], bottom: int, a: Tensor) -> None:
        self.slopes: dict[int, Tensor] = {}
        self.states: dict[int, Tensor] = {}
        self.activations = a
        for p, step in enumerate(steps):
            if isinstance(step, Linear):
                a = torch.baddbmm(step.bias, a, step.weight.mT)
            elif type(step) is nn.ReLU:
                a = a.clamp_min(0)
                if p >= bottom:
                    self.states[p] = a
            elif not isinstance(step, SKIPPED):
                if p >= bottom and splits(step):
                    self.states[p] = a
                out, slope = apply_with_slope(step, a.flatten(0, 1), with_slope=p >= bottom)
                if slope is not None:
                    self.slopes[p] = slope.view(a.shape)
                a = out.view(a.shape)
            if p + 1 == bottom:
                self.activations = a
        self.top = a

    def slope(self, p: int) -> Tensor:
        """The derivative of an elementwise step.

        Returns:
            [e, m, w].
        """
        return self.slopes[p] if p in self.slopes else self.states[p].sign()


def _backward(
    steps: Sequence[Step], bottom: int, readout: Tensor, forward: _Forward, out: Tensor, *, patterns: bool
) -> list[np.ndarray]:
    """Go back to the bottom and write the gradients to ``out``, [e, u, m, d].

    Returns:
        With ``patterns``: the state of every unit with two slopes that a gradient passes through, as bits packed in
        words [e, u, m, q], step by step.
    """
    g, pending, words = readout[:, :, None], None, []  # [e, u, 1, D] as long as all points have the same
    for p in range(len(steps) - 1, bottom - 1, -1):
        step = steps[p]
        if isinstance(step, Linear):
            g = _product(g, pending, step.weight, out if p == bottom else None)
            pending = None
        elif type(step) is nn.ReLU and g.shape[2] > 1:
            torch.ops.aten.threshold_backward.grad_input(g, forward.states[p][:, None], 0, grad_input=g)
            if patterns:
                words.append(packed(g.numpy(force=True) != 0))  # on, and passed
        elif not isinstance(step, SKIPPED):
            if patterns and p in forward.states:
                g, pending = (g, None) if pending is None else (g * pending, None)
                words.append(_pattern(step, g, forward.states[p]))
            slope = forward.slope(p)[:, None]
            if g.shape[2] > 1:
                g = g.mul_(slope)
            else:
                pending = slope if pending is None else pending * slope
    if pending is not None:
        g = g * pending
    if g.data_ptr() != out.data_ptr():
        out.copy_(g.expand_as(out))
    return words


def _product(g: Tensor, slope: Tensor | None, weight: Tensor, out: Tensor | None) -> Tensor:
    """(g * slope) @ weight, with a single unit's slopes folded into the weights where that is less work.

    Args:
        g: [e, u, m, r], or [e, u, 1, r] where all points have the same.
        slope: [e, 1, m, r], only with a common g, or ``None``.
        weight: [e, r, c].
        out: Where to write, if all points get their own, [e, u, m, c]; or ``None``.

    Returns:
        [e, u, m, c], or [e, u, 1, c] where all points have the same.
    """
    if slope is not None and g.shape[1] == 1 and slope.shape[2] >= g.shape[3]:
        weight, g = g[:, 0].mT * weight, slope
    elif slope is not None:
        g = g * slope
    shape = (*g.shape[:3], weight.shape[2])
    if out is not None and out.shape == shape:
        torch.bmm(g.flatten(1, 2), weight, out=out.view(len(out), -1, shape[3]))
        return out
    return (g.flatten(1, 2) @ weight).view(shape)


def _pattern(step: nn.Module, g: Tensor, state: Tensor) -> np.ndarray:
    """Tell the states of a step's units, apart from those that a gradient does not pass through.

    Args:
        step: One with two slopes.
        g: The gradients above it, [e, u, m, w], or [e, u, 1, w] where all points have the same.
        state: What enters it, or for ReLU what leaves it, [e, m, w].

    Returns:
        Bits packed in words, [e, u, m, q].
    """
    low, high = slopes_of(step, state.flatten(0, 1))
    on: Any = is_on(step, state.numpy(force=True))  # type: ignore[arg-type]  # comparing is slow in torch
    passed = (g.numpy(force=True) != 0) & (low != high).numpy(force=True)
    words: np.ndarray = packed(on)[:, None] & packed(passed)
    return words
