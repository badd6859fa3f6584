"""The general path: any module, by one automatic backward pass per unit for all samples and layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from gradembed import _context, _validation
from gradembed.gradients._rows import Capture, Rows


class General:
    """A network seen only through its modules' outputs.

    Attributes:
        names: All layer names.
        width: Always ``None``: only the model knows what it takes.
    """

    width = None

    def __init__(self, model: nn.Module, x: Tensor, argument: str, x_name: str) -> None:
        self.model, self.argument, self.x_name = model, argument, x_name
        self.modules = {name: m for name, m in model.named_modules(remove_duplicate=False) if name not in ("", "input")}
        self.names = ["input", *self.modules] + ([] if "output" in self.modules else ["output"])
        self._check_alone(x[:1])
        self._probe = x[:2]

    def default_layers(self, unit_layer: str) -> list[str]:
        """The input and every direct child (or child of a mere list) that runs once and feeds the unit layer.

        A last module whose output is the unit layer itself is none of them.

        Returns:
            Their names, in the order in which they run.
        """
        candidates = [name for name in _children(self.model) if name in self.modules]
        calls: list[str] = []
        hooks = {self.modules[name]: partial(_count, calls, name) for name in candidates}
        with _context.hooked(hooks), torch.no_grad():
            _validation.try_forward(self.model, self._probe, self.x_name)
        once = [name for name in calls if calls.count(name) == 1 and name != unit_layer]
        return ["input", *(name for name in once if self._feeds(name, unit_layer))]

    def comes_after(self, unit_layer: str, wrt: str) -> bool:
        """Whether a layer depends on another one.

        Returns:
            True if a gradient flows.
        """
        return unit_layer != wrt and _depends(*self._run(self._probe, [wrt], unit_layer))

    def _feeds(self, name: str, unit_layer: str) -> bool:
        """Whether the unit layer depends on a layer and is more than that layer under another name.

        Returns:
            True if so.
        """
        units, sites = self._run(self._probe, [name], unit_layer)
        return not torch.equal(units, sites[0].flatten(1)) and _depends(units, sites)

    def width_of(self, layer: str, x: Tensor) -> int:
        """The number of a layer's units.

        Returns:
            Its width, all axes after the first taken together.
        """
        return self._run(x[:1], [], layer)[0].shape[1]

    def capture(self, x: Tensor, layers: Sequence[str], unit_layer: str, readout: Tensor) -> Capture:
        """Run forward once and back once per unit.

        Args:
            x: Samples, [n, ...].
            layers: Where gradients are wanted.
            unit_layer: The layer that the units read.
            readout: [u, D], how they read it.

        Returns:
            Values, activations and gradients.
        """
        units, sites = self._run(x, layers, unit_layer)
        parts = [torch.autograd.grad(units, sites, row.expand_as(units), retain_graph=True) for row in readout]
        return Capture(
            units.detach() @ readout.T,
            {layer: site.detach().flatten(1) for layer, site in zip(layers, sites, strict=True)},
            {
                layer: Rows(torch.stack([part[i].flatten(1) for part in parts], dim=1), len(x))
                for i, layer in enumerate(layers)
            },
        )

    def _run(self, x: Tensor, layers: Sequence[str], unit_layer: str) -> tuple[Tensor, list[Tensor]]:
        """Run forward with the graph kept.

        Returns:
            The unit layer, [n, D], and the layers, as they came.
        """
        tape: dict[str, Tensor] = {}
        hooks = {
            self.modules[name]: partial(_record, tape, self.argument, name, len(x))
            for name in {*layers, unit_layer}
            if name in self.modules
        }
        with torch.enable_grad(), _context.hooked(hooks):
            tape["input"] = x.detach().clone().requires_grad_()
            # a copy: the model may work in place
            result = _validation.try_forward(self.model, tape["input"].clone(), self.x_name)
        if "output" not in self.modules:
            tape["output"] = result
        for name in (*layers, unit_layer):
            if name not in tape:
                _validation.refuse(
                    self.argument if name != unit_layer else "unit_layer",
                    "name a layer that the forward pass runs",
                    repr(name),
                    "Choose one that it calls as a module",
                )
        return tape[unit_layer].flatten(1), [tape[layer] for layer in layers]

    @torch.no_grad()
    def _check_alone(self, x: Tensor) -> None:
        """Refuse models that draw random numbers or let one sample change another's output."""
        same = [_validation.try_forward(self.model, torch.cat([x, x]), self.x_name)[0] for _ in range(2)]
        other = _validation.try_forward(self.model, torch.cat([x, x + 1]), self.x_name)[0]
        close = partial(torch.allclose, rtol=1e-4, atol=1e-6, equal_nan=True)
        if not close(same[0], same[1]):
            _validation.refuse(
                "model",
                "give the same output twice",
                "two different ones for the same samples",
                "Call model.eval(), or take the randomness out",
            )
        if not close(same[0], other):
            _validation.refuse(
                "model",
                "treat every sample by itself",
                "an output that changed with the other sample",
                "Call model.eval(), or take out what mixes the batch",
            )


def _depends(units: Tensor, sites: Sequence[Tensor]) -> bool:
    """Whether a gradient flows from units to a layer.

    Returns:
        True if so.
    """
    if not units.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(units.sum(), sites, allow_unused=True)
    return gradient is not None


def _record(
    tape: dict[str, Tensor], argument: str, name: str, n: int, _module: nn.Module, _args: object, output: object
) -> Tensor:
    """Note a module's output and hand on a copy, which later in-place modules may overwrite.

    Returns:
        The copy.
    """
    if name in tape:
        _validation.refuse(
            argument,
            "name a module that runs once in a forward pass",
            f"{name!r}, which runs more often",
            "Give each use a module of its own, or choose another layer",
        )
    if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != n or not output.is_floating_point():
        _validation.refuse(
            argument,
            "name a module that returns one float tensor with a row per sample",
            f"{name!r}, which returned {_validation.describe(output)}",
            "Choose another layer",
        )
    tape[name] = output if output.requires_grad else output.detach().requires_grad_()
    return tape[name].clone()


def _count(calls: list[str], name: str, _module: nn.Module, _args: object, output: object) -> None:
    if isinstance(output, Tensor) and output.ndim >= 2 and output.is_floating_point():
        calls.append(name)


def _children(module: nn.Module, prefix: str = "") -> list[str]:
    """Names of the direct children; those of a list or dictionary of modules stand for it.

    Returns:
        Dotted names.
    """
    names: list[str] = []
    for key, child in module.named_children():
        nested = isinstance(child, nn.ModuleList | nn.ModuleDict)
        names += _children(child, f"{prefix}{key}.") if nested else [prefix + key]
    return names
