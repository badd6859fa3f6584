"""The library's own networks: multi-layer perceptrons, one or many; and how to draw any network's weights anew."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from gradembed import _context
from gradembed._validation import as_integer, check_module, describe, refuse
from gradembed.models._networks import ACTIVATIONS, MLP, MLPEnsemble, StackedLinear

__all__ = ["ACTIVATIONS", "MLP", "MLPEnsemble", "StackedLinear", "check_reinitializable", "redrawn", "untrained"]

Reinitialize = Callable[[nn.Module], object]
REMEDY = (
    "Pass reinitialize, a function that draws the weights of the copy that it gets or returns a new network, "
    "say reinitialize=lambda m: [p.normal_(0, 0.1) for p in m.parameters()]"
)


def untrained(model: nn.Module, seed: int = 0, reinitialize: Reinitialize | None = None) -> nn.Module:
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
        ValueError: If a parameter keeps its numbers (without ``reinitialize``, any; with it, any that is trained), or
            without ``reinitialize`` a module's weights are computed out of others; or if ``seed`` is negative.
        TypeError: If ``model`` is no module, ``seed`` no integer or ``reinitialize`` no function.

    Example:
        >>> import torch, gradembed as ge
        >>> network = ge.MLP([4, 3], seed=1)
        >>> torch.equal(ge.untrained(network, seed=0).output.weight, ge.MLP([4, 3], seed=0).output.weight)
        True
    """
    check_module(model)
    seed = as_integer("seed", seed, 0)
    if reinitialize is not None and not callable(reinitialize):
        refuse("reinitialize", "be a function of a module", describe(reinitialize), "Pass a function", TypeError)
    drawn, kept = _drawn(model, seed, reinitialize, moved=False)
    # left as it was, or drawn as it was, say zeros? Out of other numbers one can tell
    if kept and (kept := _drawn(model, seed, reinitialize, moved=True)[1]):
        got = f"{kept[0]} as it was"
        if reinitialize is None:  # which pruned and normed modules do not
            refuse("model", "draw all its weights anew by its modules' reset_parameters", got, REMEDY)
        remedy = "Draw it too, return a new network, or mark what is fixed by requires_grad_(False)"
        refuse("reinitialize", "draw all weights of the copy anew", got, remedy)
    return drawn


def check_reinitializable(model: nn.Module, reinitialize: Reinitialize | None = None) -> None:
    """Refuse what `untrained` cannot draw anew, by trying it: before a long measurement, not after it."""
    untrained(model, 0, reinitialize)


def _drawn(model: nn.Module, seed: int, draw: Reinitialize | None, moved: bool) -> tuple[nn.Module, list[str]]:
    """Return a copy drawn anew, if ``moved`` out of other weights, and which weights are still as before."""
    # pruned and normed weights have a graph, which torch does not copy: they go without it
    made = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    try:
        twin = copy.deepcopy(model, {id(value): value.detach().clone() for value in made if not value.is_leaf})
    except RuntimeError as error:
        got = f"an error: {str(error).splitlines()[0]}".rstrip(".")
        remedy = "Delete the tensors that it keeps between calls"
        refuse("model", "be a module that copy.deepcopy can copy", got, remedy)
    both: Iterator[tuple[Tensor, Tensor]] = zip(twin.parameters(), model.parameters(), strict=True)
    pairs = [(p, old) for p, old in both if p.is_floating_point() and not (is_lazy(p) or p.is_meta)]
    with torch.no_grad():
        pairs = [(p, old.nan_to_num(0, 0, 0) + 0.71) for p, old in pairs] if moved else pairs
        for p, old in pairs:
            p.copy_(old)
        drawn = _draw(twin, seed, draw)
        same = {p for p, old in pairs if torch.equal(p.nan_to_num(0.5), old.nan_to_num(0.5))}
    named, same = [*drawn.named_parameters()], same | {*model.parameters()}
    if draw is not None:
        named = [(key, p) for key, p in named if p.requires_grad] or named
    kept = [key for key, p in named if p in same]
    return drawn, [f"{key!r} of {type(drawn.get_submodule(key.rpartition('.')[0])).__name__}" for key in kept]


def _weight_hooks(module: nn.Module) -> list[Callable[..., object]]:
    """Return the hooks that compute a module's weights out of other parameters: pruning, norms of the old kind."""
    kinds = (BasePruningMethod, WeightNorm, SpectralNorm)
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, kinds)]


def _holds_weights(hook: Any) -> bool:
    """Tell whether a function holds on to modules with weights, or tensors, that a copy of it would share."""
    reached = [getattr(hook, "__self__", None), *getattr(hook, "args", ()), *getattr(hook, "keywords", {}).values()]
    reached += vars(hook).values() if not inspect.isroutine(hook) and hasattr(hook, "__dict__") else []
    with suppress(TypeError, ValueError):  # what is not written in Python
        found = inspect.getclosurevars(inspect.unwrap(getattr(hook, "func", hook)))
        reached += [*found.nonlocals.values(), *found.globals.values()]
    return any(isinstance(x, Tensor) or (isinstance(x, nn.Module) and [*x.parameters()]) for x in reached)


def _from_within(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        yield from _from_within(child)
    yield module


def _draw(twin: nn.Module, seed: int, reinitialize: Reinitialize | None) -> nn.Module:
    """Return the network with its weights drawn anew as far as its modules, or ``reinitialize``, can."""
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
        for module in dict.fromkeys(
            _from_within(twin)
        ):  # as they are made: a module may draw its children's weights again
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
    return twin


@contextmanager
def redrawn(model: nn.Module, seed: int, reinitialize: Reinitialize | None) -> Iterator[nn.Module]:
    """Give a network with weights drawn anew, as `untrained` makes it, for the duration of a block.

    It is a copy, unless hooks hold on to modules with weights, which a copy's hooks would still call: then it is the
    model itself, whose weights are put back when the block ends.

    Yields:
        The network.
    """
    hooks = [(hook, _weight_hooks(m)) for m in model.modules() for kind in (m._forward_hooks, m._forward_pre_hooks)
             for hook in kind.values()]  # fmt: skip
    if not any(_holds_weights(hook) for hook, torchs in hooks if hook not in torchs):
        yield untrained(model, seed, reinitialize)
        return
    owned = [(module, dict(module._parameters)) for module in model.modules()]
    values = {parameter: parameter.detach().clone() for parameter in model.parameters()}
    with _context.preserved(model):
        try:
            yield _draw(model, seed, reinitialize)
        finally:
            for module, parameters in owned:
                module._parameters = parameters
            with torch.no_grad():
                for parameter, before in values.items():
                    parameter.copy_(before)
