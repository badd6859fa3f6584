"""What is lost when units are taken out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gradembed import _validation
from gradembed.models import MLPEnsemble


@contextmanager
def ablated(model: nn.Module, layer: str, units: Sequence[int], at: float | Tensor = 0.0) -> Iterator[nn.Module]:
    """Hold units of a layer at a constant for the duration of a block: what is lost is what they did.

    Zero says what the network does without them; their mean over the data, what it does without their information.
    A module that runs several times is held every time.

    Args:
        model: A network that treats every sample by itself; its hooks are put back when the block ends.
        layer: "input", or the name of a module that returns one tensor with a row per sample.
        units: Indices in that layer's (flattened) output.
        at: A number for all, or one for each unit of the layer, [d] (say, ``activations.mean(0)``).

    Yields:
        The model.

    Raises:
        ValueError: If the layer is unknown, or ``at`` is not finite; in the block, if a unit is out of range, or
            ``at`` does not fit; when the block ends, if the layer did not run in it.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> network, x = ge.MLP([4, 8, 3], seed=0), torch.randn(5, 4)
        >>> with ge.ablated(network, "hidden1", range(8)):
        ...     alike = torch.equal(network(x)[0], network(x)[1])
        >>> alike, torch.equal(network(x)[0], network(x)[1])
        (True, False)
    """
    modules, indices = _check_ablation(model, layer, units, at)
    holder = _Holder(layer, indices, at)
    if layer == "input":
        handle = model.register_forward_pre_hook(holder.before, with_kwargs=True)
    else:
        handle = modules[layer].register_forward_hook(holder.after)
    try:
        yield model
    finally:
        handle.remove()
    if not holder.has_run:
        got, remedy = f"{layer!r}, which did not run", "Call the model in the block, or choose another layer"
        _validation.refuse("layer", "name a layer that runs in the block", got, remedy)


def _check_ablation(
    model: nn.Module, layer: str, units: Sequence[int], at: float | Tensor
) -> tuple[dict[str, nn.Module], list[int]]:
    """Check all that can be checked before the layer has run.

    Returns:
        The model's modules by name, and the units as a list.
    """
    _validation.check_module(model)
    if isinstance(model, MLPEnsemble):
        _validation.refuse("model", "be one network", _validation.describe(model), "Take a member out by ensemble[i]")
    names = model.named_modules(remove_duplicate=False)
    modules = {name: module for name, module in names if name not in ("", "input")}
    _validation.check_layer("layer", layer, ["input", *modules])
    listed = units.tolist() if hasattr(units, "tolist") else units  # tensors and arrays of indices too
    indices = _validation.check_sequence("units", listed, "a list of indices")
    for unit in indices:
        _validation.check_integer("units", unit, 0)
    if not isinstance(at, Tensor):
        _validation.check_number("at", at, -3e38, 3e38)
        return modules, indices
    _validation.check_dense("at", at)
    if at.is_complex():
        _validation.refuse("at", "hold real numbers", _validation.describe(at), "Take at.real")
    if not _validation.is_finite(at):
        _validation.refuse("at", "be finite", f"{int((~at.isfinite()).sum())} NaN or infinite values", "Clean it")
    return modules, indices


@dataclass
class _Holder:
    """Hooks that set units of a layer to constants, and note that they did."""

    layer: str
    units: list[int]
    at: float | Tensor
    has_run: bool = False

    def before(
        self, module: nn.Module, args: tuple[object, ...], named: Mapping[str, Any]
    ) -> tuple[tuple[object, ...], dict[str, Any]]:
        """Hold units of a module's first argument.

        Returns:
            Its arguments.
        """
        if args:
            return (self.hold(args[0]), *args[1:]), dict(named)
        first = next(iter(inspect.signature(module.forward).parameters), "")
        if first not in named:
            remedy = "Pass the samples by position"
            _validation.refuse("model", "be called with the samples as its first argument", list(named), remedy)
        return args, {**named, first: self.hold(named[first])}

    def after(self, _module: nn.Module, _args: object, output: object) -> Tensor:
        """Hold units of a module's output.

        Returns:
            What it returns instead.
        """
        return self.hold(output)

    def hold(self, values: object) -> Tensor:
        """Set the units of every sample.

        Returns:
            A changed copy.
        """
        if not isinstance(values, Tensor) or values.ndim < 2 or not values.is_floating_point():
            got, remedy = f"{self.layer!r}, which has {_validation.describe(values)}", "Choose another layer"
            _validation.refuse("layer", "name a layer with one float tensor, a row per sample", got, remedy)
        flat = values.flatten(1).clone()
        width = flat.shape[1]
        _validation.check_units(self.units, width, self.layer)
        if isinstance(self.at, Tensor) and self.at.shape != (width,):
            rule = f"be a number, or have shape [{width}], one for each unit of {self.layer!r}"
            _validation.refuse("at", rule, _validation.describe(self.at), "Pass activations.mean(0)")
        flat[:, self.units] = self.at.to(flat)[self.units] if isinstance(self.at, Tensor) else self.at
        self.has_run = True
        return flat.reshape(values.shape)
