"""The matrix-product path: chains of linear layers and elementwise modules.

With activations a_p after step p and a read-out S [u, D] of the unit layer, the gradient of all units of
all samples is S W_k diag(s_k) W_{k-1} ... , where s are the slopes of the elementwise steps at the sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from gradembed.gradients._rows import Basis, Capture, Rows, product
from gradembed.models import ACTIVATIONS, MLP

# Exact types only: a subclass may compute something else.
ELEMENTWISE = (*ACTIVATIONS.values(), nn.PReLU, nn.Dropout, nn.BatchNorm1d)
SKIPPED = (nn.Flatten, nn.Identity, nn.Dropout)  # once samples are rows and the model is in eval mode
_CONTAINER_FORWARDS = (nn.Sequential.forward, MLP.forward)


class Chain:
    """A network that is a chain, with a position for each of its layer names.

    Attributes:
        positions: Layer name → number of steps before that layer's activations; "input" is 0.
        children: Names of the direct children, in order.
        width: Features that the first linear layer takes, or ``None`` without one.
    """

    def __init__(self, steps: list[nn.Module], positions: dict[str, int], children: list[str]) -> None:
        self.steps, self.positions, self.children = steps, positions, children
        self.width = next((step.in_features for step in steps if isinstance(step, nn.Linear)), None)
        self._bases = {p: Basis(step.weight) for p, step in enumerate(steps) if isinstance(step, nn.Linear)}

    @classmethod
    def of(cls, model: nn.Module, x: Tensor) -> Self | None:
        """Read a model as a chain.

        Returns:
            The chain, or ``None`` if the model, or these samples, need the general path.
        """
        steps: list[nn.Module] = []
        positions = {"input": 0}
        if not _flatten(model, "", steps, positions):
            return None
        if x.ndim != 2 and not (steps and isinstance(steps[0], nn.Flatten)):
            return None
        positions.setdefault("output", len(steps))
        children = [name for name, _ in model.named_children()] if _is_container(model) else []
        return cls(steps, positions, children)

    @property
    def names(self) -> list[str]:
        """All layer names."""
        return list(self.positions)

    def default_layers(self, unit_layer: str) -> list[str]:
        """The input and the direct children before a layer.

        Returns:
            Their names, in order.
        """
        top = self.positions[unit_layer]
        return ["input", *(name for name in self.children if 0 < self.positions[name] < top)]

    def comes_after(self, unit_layer: str, wrt: str) -> bool:
        """Whether a layer depends on another one.

        Returns:
            True if at least one step lies between them.
        """
        return self.positions[unit_layer] > self.positions[wrt]

    def width_of(self, layer: str, x: Tensor) -> int:
        """The number of a layer's units.

        Returns:
            Its width.
        """
        below = self.steps[: self.positions[layer]]
        widths = [step.out_features for step in below if isinstance(step, nn.Linear)]
        return widths[-1] if widths else x[0].numel()

    @torch.no_grad()
    def capture(self, x: Tensor, layers: Sequence[str], unit_layer: str, readout: Tensor) -> Capture:
        """Run forward to the unit layer and back to the lowest of the layers.

        Args:
            x: Samples, [n, ...].
            layers: Where gradients are wanted.
            unit_layer: The layer that the units read.
            readout: [u, D], how they read it.

        Returns:
            Values, activations and gradients.
        """
        wanted = {self.positions[layer] for layer in layers}
        bottom, top = min(wanted), self.positions[unit_layer]
        activations, slopes = self._forward(x.flatten(1), wanted, bottom, top)
        gradients = self._backward(slopes, wanted, bottom, top, readout, len(x))
        return Capture(
            activations[top] @ readout.T,
            {layer: activations[self.positions[layer]] for layer in layers},
            {layer: gradients[self.positions[layer]] for layer in layers},
        )

    def _forward(
        self, a: Tensor, wanted: set[int], bottom: int, top: int
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        activations, slopes = {}, {}
        for p, step in enumerate(self.steps[:top]):
            if p in wanted:
                activations[p] = a
            if isinstance(step, nn.Linear):
                a = step(a)
            elif not isinstance(step, SKIPPED):
                a, slope = apply_with_slope(step, a, with_slope=p >= bottom)
                if slope is not None:
                    slopes[p] = slope
        activations[top] = a
        return activations, slopes

    def _backward(
        self, slopes: dict[int, Tensor], wanted: set[int], bottom: int, top: int, readout: Tensor, n: int
    ) -> dict[int, Rows]:
        gradients: dict[int, Rows] = {}
        rows, slope, basis = readout, None, None  # [u, D] as long as it is the same for every sample
        for p in range(top - 1, bottom - 1, -1):
            is_linear = p in self._bases
            if basis is not None and (is_linear or p in slopes):
                rows, slope, basis = product(rows, slope, basis.weight), None, None
            if is_linear:
                basis = self._bases[p]
            elif p in slopes and rows.ndim == 2:
                slope = slopes[p] if slope is None else slope * slopes[p]
            elif p in slopes:
                # in place, unless a result holds it
                own = not any(kept.rows is rows for kept in gradients.values())
                rows = rows.mul_(slopes[p][:, None]) if own else rows * slopes[p][:, None]
            if p in wanted:
                if basis is not None and basis.isometry is basis.weight:  # nothing is saved by waiting
                    rows, slope, basis = product(rows, slope, basis.weight), None, None
                gradients[p] = Rows(rows, n, slope, basis)
        return gradients


def apply_with_slope(step: nn.Module, a: Tensor, *, with_slope: bool) -> tuple[Tensor, Tensor | None]:
    """Apply an elementwise module, and differentiate it as autograd does.

    Returns:
        Its output and, if wanted, its derivative at each number.
    """
    if isinstance(step, nn.ReLU):
        out = a.clamp_min(0)
        return out, out.sign() if with_slope else None
    if not with_slope:
        return step(a.clone()), None  # a copy, because the module may work in place
    with torch.enable_grad():
        leaf = a.detach().clone().requires_grad_()
        out = step(leaf.clone())
        (slope,) = torch.autograd.grad(out.sum(), leaf)
    return out.detach(), slope


def _flatten(module: nn.Module, name: str, steps: list[nn.Module], positions: dict[str, int]) -> bool:
    """Append a module's steps and note where each name within it ends.

    Returns:
        Whether it is a chain.
    """
    if _has_hooks(module):
        return False
    if _is_container(module):
        for key, child in module._modules.items():
            if child is None or not _flatten(child, f"{name}.{key}" if name else key, steps, positions):
                return False
    elif type(module) in (nn.Linear, *ELEMENTWISE) or (
        type(module) is nn.Flatten and module.start_dim == 1 and module.end_dim == -1
    ):
        steps.append(module)
    else:
        return False
    if name and name != "input":
        positions[name] = len(steps)
    return True


def _is_container(module: nn.Module) -> bool:
    return type(module).forward in _CONTAINER_FORWARDS


def _has_hooks(module: nn.Module) -> bool:
    """Whether anything may change what the module computes, or the gradient through it.

    Returns:
        True if it has hooks, or a forward of its own.
    """
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for kind in kinds) or "forward" in vars(module)
