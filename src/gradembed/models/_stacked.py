"""Layers of several networks as one."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradembed import _validation
from gradembed.models._mlp import MLP

# Elementwise and without parameters, so that one module serves all members. Exact types only: a subclass may
# compute something else.
ACTIVATIONS = {
    kind.__name__: kind
    for kind in (
        nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity, nn.ELU, nn.SELU, nn.CELU,
        nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Mish, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid,
        nn.Tanhshrink,
    )
}  # fmt: skip


class StackedLinear(nn.Module):
    """As many linear layers as there are members.

    Args:
        weight: [e, out, in].
        bias: [e, out].
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map each member's samples.

        Args:
            x: [e, n, in].

        Returns:
            [e, n, out].
        """
        return torch.baddbmm(self.bias[:, None], x, self.weight.transpose(1, 2))

    def extra_repr(self) -> str:
        """Describe the layer.

        Returns:
            Members and widths.
        """
        e, fan_out, fan_in = self.weight.shape
        return f"{e} members, {fan_in} to {fan_out}"


def stacked(members: Sequence[MLP], name: str) -> tuple[list[tuple[Tensor, Tensor]], list[nn.Module]]:
    """Check networks and stack copies of their weights.

    Args:
        members: The networks.
        name: The argument that is wrong where they do not fit.

    Returns:
        Weights [e, out, in] and biases [e, out] layer by layer, and a copy of the activations.
    """
    activations = activations_of(members[0])
    for module in activations:
        if ACTIVATIONS.get(type(module).__name__) is not type(module):
            rule = f"be one of torch's elementwise activations without parameters ({', '.join(ACTIVATIONS)})"
            _validation.refuse(name, rule, _validation.describe(module), "Train such networks one by one")
    kinds = [_kind(member) for member in members]
    for i, kind in enumerate(kinds):
        if kind != kinds[0]:
            got, remedy = f"{kind} for member {i} after {kinds[0]}", "Stack equal ones"
            _validation.refuse(name, "give networks of equal widths, activations, precision and device", got, remedy)
    linears = [[part for part in member.modules() if isinstance(part, nn.Linear)] for member in members]
    layers = [
        (torch.stack([part.weight.detach() for part in layer]), torch.stack([part.bias.detach() for part in layer]))
        for layer in zip(*linears, strict=True)
    ]
    return layers, copy.deepcopy(activations)


def activations_of(network: nn.Module) -> list[nn.Module]:
    """List the activations of a perceptron, or of an ensemble.

    Returns:
        One per hidden layer.
    """
    return [layer.activation for layer in network.children() if isinstance(layer, nn.Sequential)]  # type: ignore[misc]


def settings(module: nn.Module) -> dict[str, Any]:
    """What an activation was made with, as far as it keeps it.

    Returns:
        Arguments for its class.
    """
    names = inspect.signature(type(module)).parameters
    return {name: getattr(module, name) for name in names if hasattr(module, name)}


def _kind(network: MLP) -> str:
    """What has to be the same in every member.

    Returns:
        One line.
    """
    weight = next(network.parameters())
    return f"{network.widths}, {[repr(m) for m in activations_of(network)]}, {weight.dtype} on {weight.device}"
