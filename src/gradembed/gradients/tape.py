"""A forward pass with fresh nodes at the sites."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from gradembed._validation import describe, refuse
from gradembed.gradients.batches import Batch, each
from gradembed.gradients.sites import OUTPUT, Site, read_element, replace_element

Place = tuple[str, bool, int | None, int | str | None]


def place_of(site: Site) -> Place:
    """Where a site's tensor stands, whichever part of it is meant: sites of one place share a node."""
    return site.name, site.input, site.call, site.element


class Tape:
    """What a forward pass leaves behind: fresh nodes at the sites, and the units.

    A node is a copy that is handed on in place of what the module returned. So what a skip, or whoever else holds the
    module's very output, does with it is no path through the site, and later in-place modules cannot overwrite it.

    Attributes:
        n: Samples.
        edges: Where in the graph the gradient of each place arrives, in the order in which they ran.
        values: What stood there, [n, ...].
        units: Head by head, [n, D].
    """

    def __init__(self, n: int, argument: str, sites: Sequence[Site], unit_site: Site) -> None:
        self.n, self.argument, self.unit_site = n, argument, unit_site
        self.places = dict(zip(map(place_of, sites), sites, strict=True))  # any one site of each place
        self.edges: dict[Place, Any] = {}
        self.values: dict[Place, Tensor] = {}
        self.units: dict[str, Tensor] = {}
        self.runs: Counter[str] = Counter()
        self._given: tuple[Any, ...] = ()

    @contextmanager
    def tapping(self, modules: Mapping[str, nn.Module]) -> Iterator[None]:
        """Register hooks at the sites, and where the units are, for the duration of a block."""
        there = [*self.places.values(), *([] if self.unit_site is OUTPUT else [self.unit_site])]
        with ExitStack() as handles:
            for name in dict.fromkeys(site.name for site in there if site.name in modules and site.name != "input"):
                module = modules[name]
                if isinstance(module, torch.jit.ScriptModule):
                    continue  # it takes no hooks
                if any(site.input for site in there if site.name == name):
                    before = partial(self._before, name)
                    handles.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                handles.callback(module.register_forward_hook(partial(self._after, name)).remove)
            yield

    def _before(self, name: str, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        """Look at what a module takes."""
        return changed_arguments(module, args, named, lambda held: self._pass(name, held, is_input=True))

    def _after(self, name: str, _module: nn.Module, args: Any, output: Any) -> Any:
        """Look at what a module returns."""
        self._given = args
        output = self._pass(name, output, is_input=False)
        self.runs[name] += 1
        return output

    def _pass(self, name: str, held: Any, *, is_input: bool) -> Any:
        """Cut at the sites that are here in this run of a module, and read the units if they are."""
        here = (name, is_input), (None, self.runs[name])
        for site in self.places.values():
            if (site.name, site.input) == here[0] and site.call in here[1]:
                held = self.cut(held, site)
        unit = self.unit_site
        if unit is not OUTPUT and (unit.name, unit.input) == here[0] and unit.call in here[1]:
            self.read_units(held)
        return held

    def cut_input(self, batch: Batch) -> Batch:
        """Make fresh nodes of the model's inputs; every other tensor is copied, for the model may work in place."""
        batch = each(batch, torch.clone)
        for site in self.places.values():
            if site.name == "input":
                batch = self.cut(batch, site)
        return batch

    def cut(self, held: Any, site: Site) -> Any:
        """Put a fresh node in place of a tensor.

        Args:
            held: What holds it.
            site: Which.

        Returns:
            The same with the node.
        """
        tensor, place = read_element(held, site.element)
        self._check(self.argument, site, tensor, held)
        key = place_of(site)
        if key in self.edges:
            _refuse_runs(self.argument, site)
        site.part(tensor, argument=self.argument)
        base = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
        with torch.enable_grad():  # also in a part of the model that keeps no graph
            node = base.clone()
        self.edges[key] = torch.autograd.graph.get_gradient_edge(node)  # stays where it is if the node is overwritten
        passed = any(tensor is given for given in self._given)  # and so may be written to by whoever else holds it
        self.values[key] = tensor.detach().clone() if passed else tensor.detach()
        return replace_element(held, place, node)

    def read_units(self, held: Any) -> None:
        """Take down the units' values, as they are now."""
        tensor, _ = read_element(held, self.unit_site.element)
        self._check("unit_layer", self.unit_site, tensor, held)
        if self.units:
            _refuse_runs("unit_layer", self.unit_site)
        self.units = {"": self.unit_site.part(tensor, argument="unit_layer").clone()}

    def check_complete(self) -> None:
        """Refuse sites that the pass has not met."""
        for site in self.places.values():
            if place_of(site) not in self.edges:
                self._refuse_unmet(self.argument, site)
        if not self.units:
            self._refuse_unmet("unit_layer", self.unit_site)

    def _check(self, argument: str, site: Site, tensor: Any, held: Any) -> None:
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.ndim and len(tensor) == self.n:
            return
        what = "takes" if site.input else "holds" if site.name == "input" else "returned"
        got = f"{str(site)!r}, which {what} {describe(held)}"
        remedy = "Choose another layer, or one of the elements by gradembed.Site(name, element=...)"
        if site.name == "input":
            remedy = "Start at the first layer that makes floats of it, such as an embedding"
            remedy += "" if isinstance(held, Tensor) else ", or say Site('input', element=...)"
        refuse(argument, "name a place with one float tensor that has a row per sample", got, remedy)

    def _refuse_unmet(self, argument: str, site: Site) -> NoReturn:
        runs = self.runs[site.name]
        if site.call is not None and runs:
            refuse(argument, f"name one of the {runs} runs of {site.name!r}, from 0", site.call, "Lower `call`")
        rule, remedy = "name a layer that the forward pass runs", "Choose one that it calls as a module"
        refuse(argument, rule, repr(site.name), f"{remedy} (compiled, scripted and exported modules call none)")


def changed_arguments(
    module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], change: Callable[[dict[Any, Any]], dict[Any, Any]]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Change what a module is called with, seen as one mapping: first by position, then by name in forward's order."""
    order = [key for key in inspect.signature(module.forward).parameters if key in named]
    held = change({**dict(enumerate(args)), **{key: named[key] for key in dict.fromkeys([*order, *named])}})
    return tuple(held[i] for i in range(len(args))), {key: held[key] for key in named}


def _refuse_runs(argument: str, site: Site) -> NoReturn:
    got = f"{site.name!r}, which runs more often"
    remedy = f"Say which run: gradembed.Site({site.name!r}, call=0) is the first"
    refuse(argument, "name a module that runs once in a forward pass", got, remedy)


@contextmanager
def frozen(learnable: Sequence[nn.Parameter]) -> Iterator[None]:
    """Have no gradients flow to the parameters: a graph is then kept from the sites on only."""
    fast = torch.backends.mha.get_fastpath_enabled()  # which leads past modules where nothing needs a gradient
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for parameter in learnable:
            parameter.requires_grad_(False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for parameter in learnable:
            parameter.requires_grad_(True)


def heads_of(result: Any, n: int, model: str) -> dict[str, Tensor]:
    """Read what a model returned as heads.

    Args:
        result: A tensor, an object with ``logits``, or a mapping or tuple of heads, each with a row per sample.
        n: Samples.
        model: Its name, for messages.

    Returns:
        Name → [n, D], "" where there is but one tensor.
    """
    logits = getattr(result, "logits", None)
    result = logits if isinstance(logits, Tensor) else result
    if isinstance(result, Mapping):
        named = {str(key): item for key, item in result.items()}
    elif isinstance(result, tuple | list):
        names = getattr(result, "_fields", range(len(result)))
        named = {str(key): item for key, item in zip(names, result, strict=True)}
        named = {"": result[0]} if len(named) == 1 else named
    else:
        named = {"": result}
    heads = {}
    for name, item in named.items():
        item = item[None] if isinstance(item, Tensor) and item.ndim == 0 and n == 1 else item
        if not (isinstance(item, Tensor) and item.is_floating_point() and item.ndim and len(item) == n):
            where = f"{describe(item)} as {name!r}" if name else describe(item)
            remedy = "Pass forward=lambda model, batch: ..., which returns what is to be compared, and nothing else"
            refuse("model", "return float tensors with a row per sample", f"{model}, which returned {where}", remedy)
        heads[name] = item.reshape(n, -1)
    if not heads:
        refuse("model", "return a tensor", describe(result), "Pass forward=lambda model, batch: ..., which does")
    return heads
