"""Which layers a researcher wants to see: inside wrappers and containers, blocks as a whole, no mere pass-through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradembed.gradients.batches import Batch
from gradembed.gradients.sites import Site, float_elements, read_element


class Recorder:
    """Notes which modules make something new, in several runs of a model.

    Attributes:
        runs: For each run, by name and in the order in which they end: how often a module ran, and how often it made a
            float tensor with a row per sample, rather than merely handing one on.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.runs: list[dict[str, list[int]]] = []
        self._n = 0
        self._entered: list[dict[int, int]] = []  # by each run that has begun: where its inputs lie, and their versions
        self._names: dict[nn.Module, list[str]] = {}
        for name, module in modules.items():
            if name and not isinstance(module, torch.jit.ScriptModule):
                self._names.setdefault(module, []).append(name)

    @contextmanager
    def run(self, n: int) -> Iterator[None]:
        """Note what runs in a block, with n samples."""
        self._n = n
        self.runs.append({})
        self._entered.clear()
        with ExitStack() as handles:
            for module in self._names:
                handles.callback(module.register_forward_pre_hook(self._before, with_kwargs=True).remove)
                handles.callback(module.register_forward_hook(self._after).remove)
            yield

    def _before(self, _module: nn.Module, args: Any, named: Any) -> None:
        tensors = (a for a in (*args, *named.values()) if isinstance(a, Tensor))
        self._entered.append(dict(map(_state, tensors)))

    def _after(self, module: nn.Module, _args: Any, output: Any) -> None:
        entered = self._entered.pop()
        out, _ = read_element(output, None)
        is_new = isinstance(out, Tensor) and not out.is_nested and out.ndim >= 2 and len(out) == self._n
        # unless it is the very memory that came in, not written to
        is_new = is_new and entered.get(_state(out)[0], -1) != _state(out)[1]
        for name in self._names[module]:
            counts = self.runs[-1].setdefault(name, [0, 0])
            counts[0] += 1
            counts[1] += is_new

    def times(self, name: str) -> list[tuple[int, int]]:
        """How often a module ran, and made something new, in each run."""
        return [tuple(run.get(name, (0, 0))) for run in self.runs]  # type: ignore[misc]


def _state(tensor: Tensor) -> tuple[int, int]:
    """Where a tensor lies, and its version; its own name and 0 where it has no memory of its own to speak of."""
    try:
        return tensor.data_ptr(), tensor._version
    except RuntimeError:  # vmapped, sparse, or of inference mode
        return id(tensor), 0


def default_names(model: nn.Module, ran: Iterable[str] | None = None) -> list[str]:
    """Name the layers of a model by its structure.

    Lists, dictionaries and sequences of several layers stand for their items, and so does a module around such a list
    of blocks (a trunk) or around a single module (a wrapper). An item is a layer, whatever it is made of, unless it is
    a list or sequence of layers itself.

    Args:
        model: The network.
        ran: Names of the modules that run in a forward pass; ``None`` for all.

    Returns:
        Dotted names, in the order of definition.
    """
    is_chain = _is_list(model) and len(list(model.children())) > 2
    used = None if ran is None else {name[:end] for name in ran for end, c in enumerate(f"{name}.") if c == "."}
    return _items_of(model, "", used, is_trunk=not is_chain)


def _items_of(module: nn.Module, prefix: str, used: set[str] | None, *, is_trunk: bool) -> list[str]:
    """Names of the layers within a module; of a trunk, also within modules that hold a list of blocks."""
    children = [(key, child) for key, child in module._modules.items() if child is not None]  # shared ones too
    if used is not None and not _is_list(module):  # metrics and losses are no layers; experts that did not run are
        children = [(key, child) for key, child in children if prefix + key in used]
    names: list[str] = []
    for key, child in children:
        is_wrapper = len(children) == 1 and any(child.children()) and type(child) is not nn.Sequential
        if _is_list(child) or (is_trunk and (is_wrapper or _holds_blocks(child))):
            names += _items_of(child, f"{prefix}{key}.", used, is_trunk=is_trunk and not _is_list(child))
        else:
            names.append(prefix + key)
    return names


def _is_list(module: nn.Module) -> bool:
    """Whether a module is nothing but several layers: a list, or a sequence of more than one module with weights."""
    if isinstance(module, torch.jit.ScriptModule):
        return False
    if type(module).forward is nn.Module.forward:  # lists and dictionaries of modules, which are never called
        return any(module.children())
    weights = (any(p.ndim > 1 for p in part.parameters(recurse=False)) for part in module.modules())
    return type(module) is nn.Sequential and sum(weights) > 1


def _holds_blocks(module: nn.Module) -> bool:
    """Whether somewhere in a module there is a list that is never called, or a sequence of modules made of others."""
    for part in module.modules():
        is_deep = type(part) is not nn.Sequential or sum(any(child.children()) for child in part) > 1
        if part is not module and _is_list(part) and is_deep:
            return True
    return False


def default_sites(model: nn.Module, recorder: Recorder, batch: Batch) -> list[Site]:
    """Choose candidates among the layers: every float input, and what runs once and makes something new.

    Args:
        model: The network.
        recorder: Of some of its runs.
        batch: What it was asked with.

    Returns:
        Sites, of which it is not known yet whether they feed the units.
    """
    floats = [None] * batch.is_floating_point() if isinstance(batch, Tensor) else float_elements(batch)
    inputs = [Site("input", element=place if len(floats) > 1 else None) for place in floats]
    names = [name for name in default_names(model, recorder.runs[0]) if name != "input"]
    times = {name: [count for count, _ in recorder.times(name)] for name in names}  # runs, in each run of the model
    # lists of which some items run for some samples only, or most never, are a choice of experts, not layers
    items: dict[str, list[list[int]]] = {}
    for name in names:
        items.setdefault(name.rpartition(".")[0], []).append(times[name])
    choices = {
        parent
        for parent, runs in items.items()
        if parent and (any(len(set(run)) > 1 for run in runs) or sum(map(any, runs)) <= len(runs) / 2)
    }
    usable = [name for name in names if name.rpartition(".")[0] not in choices and len(set(times[name])) == 1]
    once = [Site(name) for name in usable if set(recorder.times(name)) == {(1, 1)}]
    if once or inputs:
        return inputs + once
    # tokens, and no layer that runs once: every run of those that run, or else whatever module makes something new
    several = [Site(name, call=k) for name in usable for k in range(recorder.times(name)[0][1])]
    return several or [Site(name) for name in recorder.runs[0] if set(recorder.times(name)) == {(1, 1)}]
