"""The library's own networks: multi-layer perceptrons, one or many; and how to draw any network's weights anew."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from gradembed import _context
from gradembed._validation import as_integer, check_module, describe, refuse
from gradembed.models._networks import ACTIVATIONS, MLP, MLPEnsemble, StackedLinear

__all__ = ["ACTIVATIONS", "MLP", "MLPEnsemble", "StackedLinear", "check_reinitializable", "redrawn", "untrained"]

REMEDY = (
    "Pass reinitialize, a function that draws the weights of the copy that it gets or returns a new network, "
    "say reinitialize=lambda m: [p.normal_(0, 0.1) for p in m.parameters()]"
)


def untrained(model: nn.Module, seed: int = 0, reinitialize: Callable[[nn.Module], object] | None = None) -> nn.Module:
    """Copy a network and draw its initial weights anew, as each of its modules does when it is made.

    What is learned by training is then what the network has and its copy lacks.

    Args:
        model: Any module whose parameters belong to modules with ``reset_parameters``, as torch's own have.
        seed: Of the weights; torch's generators are put back.
        reinitialize: For every other module: gets the copy, without gradients being recorded, and draws its weights
            from torch's global generator, say ``lambda m: m.apply(m._init_weights)``. If it returns a module, that is
            the copy, moved to the precision, device and mode of ``model``.

    Returns:
        The copy; the model is left as it was. Buffers of modules that reset them (running statistics) are reset.

    Raises:
        ValueError: If a module has parameters that nothing draws anew, or ``seed`` is negative.
        TypeError: If ``model`` is no module, ``seed`` no integer or ``reinitialize`` no function.

    Example:
        >>> import torch, gradembed as ge
        >>> network = ge.MLP([4, 3], seed=1)
        >>> torch.equal(ge.untrained(network, seed=0).output.weight, ge.MLP([4, 3], seed=0).output.weight)
        True
    """
    check_reinitializable(model, reinitialize)
    return _draw(_copy(model), as_integer("seed", seed, 0), reinitialize)


def check_reinitializable(model: nn.Module, reinitialize: Callable[[nn.Module], object] | None = None) -> None:
    """Refuse what `untrained` cannot draw anew, by trying it: before a long measurement, not after it.

    Args:
        model: As for `untrained`.
        reinitialize: As for `untrained`.

    Raises:
        ValueError: If a parameter keeps its numbers (without ``reinitialize``, any; with it, any that is trained), or
            without ``reinitialize`` a module's weights are computed out of others.
        TypeError: If ``model`` is no module or ``reinitialize`` no function.
    """
    check_module(model)
    name, rule, remedy = "model", "draw all its weights anew by its modules' reset_parameters", REMEDY
    if reinitialize is None:
        for place, module in model.named_modules():
            if is_parametrized(module) or _weight_hooks(module):
                refuse(name, rule, f"{type(module).__name__} at {place!r}, pruned or parametrized", remedy)
    elif not callable(reinitialize):
        refuse("reinitialize", "be a function of a module", describe(reinitialize), "Pass a function", TypeError)
    else:
        name, rule = "reinitialize", "draw all weights of the copy anew"
        remedy = "Draw it too, return a new network, or mark what is fixed by requires_grad_(False)"
    twin, before = _copy(model), {}
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.is_floating_point() and not (is_lazy(parameter) or parameter.is_meta):
                # other numbers than before, so that what is not drawn is told from what is drawn as it was
                before[parameter] = parameter.copy_(parameter.nan_to_num(0, 0, 0).add_(0.71)).clone()
    drawn = _draw(twin, 0, reinitialize)
    own = {*model.parameters()}
    watched = [(key, p) for key, p in drawn.named_parameters() if p.requires_grad and reinitialize is not None]
    for key, parameter in watched or drawn.named_parameters():
        if parameter in own or (parameter in before and torch.equal(parameter, before[parameter])):
            owner = drawn.get_submodule(key.rpartition(".")[0])
            refuse(name, rule, f"{key!r} of {type(owner).__name__} as it was", remedy)


def _copy(model: nn.Module) -> nn.Module:
    """Return a deep copy; pruned and normed weights, which have a graph that torch does not copy, without it."""
    tensors = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in tensors if not value.is_leaf})


def _weight_hooks(module: nn.Module) -> list[Callable[..., object]]:
    """Return the hooks that compute a module's weights out of other parameters: pruning, norms of the old kind."""
    kinds = (BasePruningMethod, WeightNorm, SpectralNorm)
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, kinds)]


def _hooks(module: nn.Module) -> list[Callable[..., object]]:
    """Return the forward hooks of a module that are not torch's own."""
    own = _weight_hooks(module)
    return [hook for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()) if hook not in own]


def _holds_weights(hook: Any) -> bool:
    """Tell whether a function holds on to modules with weights, or tensors, that a copy of it would share."""
    function = inspect.unwrap(getattr(hook, "func", hook))
    reached = [getattr(hook, "__self__", None), *getattr(hook, "args", ()), *getattr(hook, "keywords", {}).values()]
    reached += [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    code, known = getattr(function, "__code__", None), getattr(function, "__globals__", {})
    reached += [known[name] for name in (code.co_names if code else ()) if name in known]
    reached += list(vars(hook).values()) if not inspect.isroutine(hook) and hasattr(hook, "__dict__") else []
    return any(
        isinstance(x, Tensor) or (isinstance(x, nn.Module) and next(x.parameters(), None) is not None) for x in reached
    )


def _draw(twin: nn.Module, seed: int, reinitialize: Callable[[nn.Module], object] | None) -> nn.Module:
    """Return the copy with its weights drawn anew as far as its modules, or ``reinitialize``, can."""
    like = next((p for p in twin.parameters() if p.is_floating_point()), torch.empty(0))
    with _context.seeded(seed, like.device), torch.no_grad():
        if reinitialize is not None:
            made = reinitialize(twin)
            if isinstance(made, nn.Module) and made is not twin:
                return made.to(like).train(twin.training)
            for module in twin.modules():
                for hook in _weight_hooks(module):
                    hook(module, ())  # else the weight stays what it was until the next forward pass
            return twin
        projections = {module.out_proj for module in twin.modules() if isinstance(module, nn.MultiheadAttention)}
        for module in twin.modules():
            if isinstance(module, nn.MultiheadAttention):  # as when it is made: the projection, then the rest
                module.out_proj.reset_parameters()
                module._reset_parameters()
            elif module not in projections and callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    return twin


@contextmanager
def redrawn(model: nn.Module, seed: int, reinitialize: Callable[[nn.Module], object] | None) -> Iterator[nn.Module]:
    """Give a network with weights drawn anew for the duration of a block.

    It is a copy, as `untrained` makes it. Where hooks hold on to modules with weights, which a copy's hooks would still
    call, it is the model itself, whose weights are put back when the block ends.

    Args:
        model: As for `untrained`.
        seed: As for `untrained`.
        reinitialize: As for `untrained`.

    Yields:
        The network.
    """
    if not any(_holds_weights(hook) for module in model.modules() for hook in _hooks(module)):
        yield untrained(model, seed, reinitialize)
        return
    parameters = [(module, dict(module._parameters)) for module in model.modules()]
    values = [
        (value, value.detach().clone()) for _, owned in parameters for value in owned.values() if value is not None
    ]
    with _context.preserved(model):
        try:
            yield _draw(model, seed, reinitialize)
        finally:
            for module, owned in parameters:
                module._parameters = owned
            with torch.no_grad():
                for value, before in values:
                    value.copy_(before)
