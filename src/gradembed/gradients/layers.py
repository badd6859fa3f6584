"""Which layers a researcher wants to see: inside wrappers and containers, blocks as a whole, no mere pass-through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gradembed.gradients.batches import Batch
from gradembed.gradients.sites import Site, read_element


@dataclass(frozen=True)
class Call:
    """One run of a module.

    Attributes:
        name: Of the module.
        is_new: Whether it made a float tensor with a row per sample, and not merely handed one on.
    """

    name: str
    is_new: bool


@contextmanager
def recorded(modules: Mapping[str, nn.Module], n: int) -> Iterator[list[Call]]:
    """Note every run of a module in a block, in the order in which they end.

    Args:
        modules: By name.
        n: Samples in a batch.

    Yields:
        The runs so far.
    """
    calls: list[Call] = []
    stack: list[dict[int, int]] = []  # of each run that has begun: where its inputs lie, and their versions

    def before(_module: nn.Module, args: Any, named: Any) -> None:
        stack.append({a.data_ptr(): a._version for a in (*args, *named.values()) if isinstance(a, Tensor)})

    def after(names: list[str], output: Any) -> None:
        entered = stack.pop()
        out, _ = read_element(output, None)
        is_new = (
            isinstance(out, Tensor)
            and out.is_floating_point()
            and out.ndim >= 2
            and len(out) == n
            and entered.get(out.data_ptr(), -1) != out._version  # the very memory that came in, not written to
        )
        calls.extend(Call(name, is_new) for name in names)

    by_module: dict[nn.Module, list[str]] = {}
    for name, module in modules.items():
        if name:
            by_module.setdefault(module, []).append(name)
    with ExitStack() as handles:
        for module, names in by_module.items():
            handles.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            handles.callback(module.register_forward_hook(lambda _m, _a, out, names=names: after(names, out)).remove)
        yield calls


def default_names(model: nn.Module) -> list[str]:
    """Name the layers of a model by its structure.

    Lists, dictionaries and sequences of several layers stand for their items, and so does a module around them (a
    trunk) or around a single one (a wrapper). An item is a layer, whatever it is made of, unless it is a list or
    sequence of layers itself.

    Returns:
        Dotted names, in the order of definition.
    """
    return _items_of(model, "", is_trunk=True) if _n_weights(model) or any(model.children()) else []


def _items_of(module: nn.Module, name: str, *, is_trunk: bool) -> list[str]:
    prefix = f"{name}." if name else ""
    named = [(prefix + key, child) for key, child in module.named_children()]
    expanded: list[str] = []
    for key, child in named:
        if _is_list(child) or (is_trunk and (_holds_list(child) or _is_wrapper(child, len(named)))):
            expanded += _items_of(child, key, is_trunk=is_trunk and not _is_list(child))
        else:
            expanded.append(key)
    return expanded


def _is_list(module: nn.Module) -> bool:
    """Whether a module is nothing but several layers: a list, or a sequence of more than one module with weights."""
    if type(module).forward is nn.Module.forward:  # lists and dictionaries of modules, which are never called
        return any(module.children())
    return type(module) is nn.Sequential and _n_weights(module) > 1


def _holds_list(module: nn.Module) -> bool:
    return any(_is_list(child) or _holds_list(child) for child in module.children())


def _is_wrapper(module: nn.Module, n_siblings: int) -> bool:
    return n_siblings == 1 and any(module.children()) and type(module) is not nn.Sequential


def _n_weights(module: nn.Module) -> int:
    """Count modules within that have a matrix, or more axes, of weights."""
    return sum(any(p.ndim > 1 for p in part.parameters(recurse=False)) for part in module.modules())


def default_sites(model: nn.Module, calls: list[Call], batch: Batch) -> list[Site]:
    """Choose candidates among the layers: the float inputs, and what runs once and makes something new.

    Args:
        model: The network.
        calls: Of all of its modules in one pass.
        batch: What it was asked with.

    Returns:
        Sites, of which it is not known yet whether they feed the units.
    """
    inputs = [Site("input")] if read_element(batch, None)[0] is not None else []
    if not isinstance(batch, Tensor):
        items = batch.items() if isinstance(batch, Mapping) else enumerate(batch)
        floats = [key for key, item in items if isinstance(item, Tensor) and item.is_floating_point()]
        inputs = [Site("input", element=key) for key in floats] if len(floats) > 1 else inputs
    runs = Counter(call.name for call in calls)
    new = {call.name for call in calls if call.is_new}
    names = [name for name in default_names(model) if name in new]
    once = [Site(name) for name in names if runs[name] == 1]
    if once or inputs:
        return inputs + once
    # tokens, and no layer that runs once: every run of those that run, or else whatever module makes something new
    several = [Site(name, call=k) for name in names for k in range(runs[name])]
    return several or [Site(name) for name in runs if name in new and runs[name] == 1]
