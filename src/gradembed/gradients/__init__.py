"""Per-sample gradients of units with respect to an earlier layer's activations: the one engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradembed._validation import check_finite_result
from gradembed.gradients.lowrank import Basis, Capture, LowRank, unit_rows
from gradembed.gradients.session import Session
from gradembed.gradients.sites import Site

__all__ = ["Basis", "Capture", "LowRank", "Session", "Site", "UnitGradients", "unit_gradients", "unit_rows"]


@dataclass(frozen=True, repr=False, eq=False)
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
        units = f"{u} unit{'s' if u != 1 else ''} of {self.unit_layer!r}"
        samples = f"{n} sample{'s' if n != 1 else ''}"
        return f"UnitGradients({samples}, {units} with respect to {d} of {self.wrt!r})"

    def unit_vectors(self) -> Float[Tensor, "n u d"]:
        """The gradients scaled to length 1; zero gradients stay zero.

        Returns:
            Directions, [n, u, d].
        """
        return unit_rows(self.gradients)[0]


def unit_gradients(
    model: nn.Module, x: Any, wrt: str | Site, *, forward: Callable[..., Any] | None = None,
    unit_layer: str | Site = "output", units: Sequence[int | str] | Tensor | None = None,
    directions: Tensor | None = None, chunk_size: int | None = None,
) -> UnitGradients:  # fmt: skip
    """Differentiate units at every sample with respect to the activations of an earlier layer.

    Chains of linear layers and elementwise modules (any `MLP`, any ``nn.Sequential`` of them) take a path
    of matrix products; every other module one automatic backward pass per unit. The results are the same. The model
    is left as it was: mode, hooks, ``requires_grad``, buffers, ``.grad``.

    Args:
        model: A trained network that treats every sample by itself; usually in eval mode.
        x: What it is asked with. A tensor [n, ...] of any type is given to ``model(x)``, a mapping to ``model(**x)``, a
            tuple of several inputs to ``model(*x)``; every tensor in it has the samples along axis 0. Or an iterable
            of such batches (a list, a ``DataLoader``): labels behind the input are dropped if the model takes but one.
        wrt: "input", the name of a module out of ``model.named_modules()`` (its output), or a `Site`.
        forward: Called with model and batch, gives what is compared: a tensor [n] or [n, ...], or a mapping or tuple of
            such heads, whose units are then called "head[0]"; ``None`` calls the model, of whose result ``.logits``
            counts, if it has any.
        unit_layer: The layer that the units belong to: such a name or `Site`, or "output" for what the model returns.
        units: Indices in the unit layer, or labels; ``None`` for all.
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

        Tokens and a mask, and the last token of a block:

        >>> class Reader(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.embed = torch.nn.Embedding(10, 6)
        ...         self.block = torch.nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)
        ...         self.head = torch.nn.Linear(6, 2)
        ...     def forward(self, tokens, mask):
        ...         return self.head(self.block(self.embed(tokens), src_key_padding_mask=mask)[:, -1])
        >>> asked = {"tokens": torch.randint(10, (7, 5)), "mask": torch.zeros(7, 5, dtype=torch.bool)}
        >>> ge.unit_gradients(Reader().eval(), asked, ge.Site("block", index=(slice(None), -1)))
        UnitGradients(7 samples, 2 units of 'output' with respect to 6 of 'block [:, -1]')
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with Session.open(model, x, wrt, unit_layer, units, directions, forward=forward, argument="wrt") as session:
        layer = session.layers[0]
        n, start, whole = session.n_samples, 0, None
        for capture in session.captures(chunk_size):
            gradients = capture.gradients[layer].dense().transpose(0, 1)  # [n, u, d]
            check_finite_result("gradients", gradients, layer)
            if n is not None:  # written where it stays, not kept and put together
                whole = gradients.new_empty(n, *gradients.shape[1:]) if whole is None else whole
                whole[start : start + len(gradients)] = gradients
                start, gradients = start + len(gradients), whole[start : start + len(gradients)]
            parts.append((gradients, capture.activations[layer].clone(), capture.values.T))
    columns = list(zip(*parts, strict=True))
    whole = torch.cat(columns[0]) if whole is None else whole
    kept = torch.cat(columns[1]), torch.cat(columns[2]).contiguous()
    return UnitGradients(whole, *kept, str(session.unit_site), layer, session.unit_labels)
