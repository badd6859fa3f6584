"""Per-sample gradients of units with respect to an earlier layer's activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradembed import _validation
from gradembed.gradients._chain import SKIPPED, Chain, apply_with_slope
from gradembed.gradients._rows import Basis, Capture, Rows, unit_rows
from gradembed.gradients._session import Session, check_layers, keep_freed_memory, resolve_units
from gradembed.gradients._stream import Stream, streamed

__all__ = [
    "SKIPPED", "Basis", "Capture", "Chain", "Rows", "Session", "Stream", "UnitGradients", "apply_with_slope",
    "check_layers", "keep_freed_memory", "resolve_units", "streamed", "unit_gradients", "unit_rows",
]  # fmt: skip


@dataclass(frozen=True, repr=False)
class UnitGradients:
    """Gradients of units at samples, with the points where they were taken.

    Attributes:
        gradients: Of each unit at each sample, [n, u, d]. Of the un-averaged value at that one sample:
            no 1/n is in it.
        activations: Of the layer ``wrt``, [n, d]; axes after the first are flattened.
        values: The units' outputs, [n, u].
        unit_layer: The layer that the units belong to.
        wrt: The layer that the gradients are taken with respect to.
        unit_labels: One per unit, along axis 1 of ``gradients``.

    Example:
        >>> import torch, gradembed as ge
        >>> result = ge.unit_gradients(ge.MLP([4, 8, 3], seed=0), torch.randn(5, 4), wrt="input")
        >>> result.gradients.shape, result.activations.shape, result.values.shape
        (torch.Size([5, 3, 4]), torch.Size([5, 4]), torch.Size([5, 3]))
    """

    gradients: Float[Tensor, "n u d"]
    activations: Float[Tensor, "n d"]
    values: Float[Tensor, "n u"]
    unit_layer: str
    wrt: str
    unit_labels: tuple[str, ...]

    def __repr__(self) -> str:
        n, u, d = self.gradients.shape
        return f"UnitGradients({n} samples, {u} units of {self.unit_layer!r} with respect to {d} of {self.wrt!r})"

    def unit_vectors(self) -> Float[Tensor, "n u d"]:
        """The gradients scaled to length 1; zero gradients stay zero.

        Returns:
            Directions, [n, u, d].
        """
        return unit_rows(self.gradients)[0]


def unit_gradients(
    model: nn.Module,
    x: Tensor,
    wrt: str,
    *,
    unit_layer: str = "output",
    units: Sequence[int] | None = None,
    directions: Tensor | None = None,
    chunk_size: int | None = None,
) -> UnitGradients:
    """Differentiate units at every sample with respect to the activations of an earlier layer.

    Chains of linear layers and elementwise modules (any `MLP`, any ``nn.Sequential`` of them) take a path
    of matrix products; every other module one automatic backward pass per unit. The results are the same. The model
    is left as it was: mode, hooks, ``requires_grad``, buffers, ``.grad``.

    Args:
        model: A trained network that treats every sample by itself; usually in eval mode.
        x: Samples, [n, d], or [n, ...] where the model takes more axes. Float32 or float64, as the model.
        wrt: "input", or the name of a module out of ``model.named_modules()``: its output.
        unit_layer: The layer that the units belong to: such a name, or "output" for what the
            model returns (unless a module has that name).
        units: Indices in the unit layer; ``None`` for all.
        directions: Instead of ``units``: directions in the unit layer, [u, D]. The unit's value is the dot
            product of the layer's activations with its direction.
        chunk_size: Samples at a time; ``None`` chooses by a memory budget. The result is the same.

    Returns:
        Gradients [n, u, d], activations [n, d] and values [n, u].

    Raises:
        ValueError: If ``x`` is empty, not finite or does not fit the model; if a layer is unknown, runs more than
            once or does not come before the unit layer; if a unit is out of range; if samples influence each other
            (batch norm in train mode), outputs are random (dropout in train mode) or gradients overflow.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> network, x = ge.MLP([4, 8, 3], seed=0), torch.randn(5, 4)
        >>> ge.unit_gradients(network, x, wrt="hidden1")
        UnitGradients(5 samples, 3 units of 'output' with respect to 8 of 'hidden1')

        The output layer is linear, so the gradients are its weights, at every sample:

        >>> bool((ge.unit_gradients(network, x, "hidden1").gradients == network.output.weight).all())
        True
    """
    if not isinstance(wrt, str):
        _validation.refuse("wrt", "be one layer's name", _validation.describe(wrt), "Call once per layer", TypeError)
    with Session.open(model, x, [wrt], unit_layer, units, directions, "wrt") as session:
        parts = []
        for capture in session.captures(chunk_size):
            gradients = capture.gradients[wrt].dense()
            _validation.check_finite_result("gradients", gradients, wrt)
            parts.append((gradients, capture.activations[wrt], capture.values))
        gradients, activations, values = (torch.cat(part).clone() for part in zip(*parts, strict=True))
    return UnitGradients(gradients, activations, values, unit_layer, wrt, session.unit_labels)
