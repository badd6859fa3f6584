"""Where in the forward pass a gradient is taken, or a unit is read."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from types import EllipsisType
from typing import Any, NoReturn

import torch
from torch import Tensor

from gradembed._validation import as_bool, as_integer, as_list, describe, refuse

Index = int | slice | EllipsisType | Sequence[int]


@dataclass(frozen=True)
class Site:
    """A place in the forward pass: a module's output or input, an element of what it returns, a part of it, one run.

    Wherever a layer is named, a `Site` says more than the name: ``wrt=``, ``layers=``, ``unit_layer=``. Results call it
    by ``str(site)``. With ``mean``, what lies along those axes counts as one number, the average; a gradient is then
    that with respect to a shift of all of them together.

    Attributes:
        name: Of the module, or "input" for what the model is given. ``*`` stands for any one component of a dotted name
            where several layers are allowed: ``Site("blocks.*.mlp", index=(slice(None), 0))``.
        element: Which of what it returns (or takes), by position, key or attribute; ``None`` for its only or first
            float tensor.
        index: A part, as in ``a[index]`` with axis 0 the samples: ``(slice(None), -1)`` is the last token,
            ``(slice(None), 5)`` channel 5.
        mean: Axes of that part that are averaged: ``(2, 3)`` are the places of a feature map [n, c, h, w].
        call: Which run of a module that runs several times, from 0; ``None`` for its only one.
        input: Whether what the module takes is meant, not what it returns.

    Raises:
        ValueError: If the index leaves out samples, an axis of the mean is that of the samples, or a run is negative.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> nn = torch.nn
        >>> model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4, 2))
        >>> channels = ge.Site("1", mean=(2, 3))  # six pooled channels as units
        >>> ge.unit_gradients(model, torch.randn(9, 1, 4, 4), "input", unit_layer=channels, units=[5])
        UnitGradients(9 samples, 1 unit of '1 mean (2, 3)' with respect to 16 of 'input')
    """

    name: str
    element: int | str | None = field(default=None, kw_only=True)
    index: Index | tuple[Index, ...] | None = field(default=None, kw_only=True)
    mean: int | Sequence[int] | None = field(default=None, kw_only=True)
    call: int | None = field(default=None, kw_only=True)
    input: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "input", as_bool("input", self.input))
        if self.name == "input" and (self.input or self.call is not None):
            remedy = "Leave them out: it is what the model is given"
            refuse("name", "be a module's with `input` or `call`", "'input'", remedy)
        if not isinstance(self.name, str):
            refuse("name", "be a module's name", describe(self.name), "Use one out of model.named_modules()", TypeError)
        if self.element is not None and not isinstance(self.element, str):
            object.__setattr__(self, "element", as_integer("element", self.element))
        if self.call is not None:
            object.__setattr__(self, "call", as_integer("call", self.call, 0))
        if self.index is not None:
            items = self.index if isinstance(self.index, tuple) else (self.index,)
            object.__setattr__(self, "index", tuple(map(_index_item, items)))
            if not items or not isinstance(items[0], slice) or items[0] != slice(None):
                rule = "keep all samples, which are axis 0: begin with slice(None)"
                refuse("index", rule, describe(self.index), "Pass (slice(None), ...)")
        if self.mean is not None:
            axes = self.mean if isinstance(self.mean, Iterable) else [self.mean]
            object.__setattr__(self, "mean", tuple(as_integer("mean", axis) for axis in as_list("mean", axes, "axes")))
            if 0 in self.mean:  # type: ignore[operator]  # a tuple by now
                refuse("mean", "leave out axis 0, the samples", describe(self.mean), "Average over later axes")

    def __hash__(self) -> int:
        return hash(str(self))  # slices have no hash of their own

    def __str__(self) -> str:
        parts = [self.name, *["input"] * self.input, *[f"run {self.call}"] * (self.call is not None)]
        if self.element is not None:
            parts += [f"element {self.element!r}" if str(self.element).isdigit() else f"element {self.element}"]
        if self.index is not None:
            parts += [f"[{', '.join(map(_shown, self.index))}]"]  # type: ignore[arg-type]
        return " ".join([*parts, *[f"mean {self.mean}"] * (self.mean is not None)])

    @property
    def is_plain(self) -> bool:
        """Whether a name says all there is to say."""
        return str(self) == self.name

    def part(
        self, a: Tensor, lead: int = 0, *, pool: Callable[..., Tensor] = torch.mean, argument: str = "layer"
    ) -> Tensor:
        """Take the part out of what stands at the site.

        Args:
            a: [n, ...], or with ``lead`` axes before.
            lead: How many.
            pool: What becomes of the axes of ``mean``: their average, or for gradients the sum.
            argument: What the caller's users call the site.

        Returns:
            [n, d], with the same axes before.
        """
        try:
            part = a if self.index is None else a[(slice(None),) * lead + self.index]  # type: ignore[operator]
            axes = [lead + axis if axis > 0 else part.ndim + axis for axis in self.mean or ()]  # type: ignore[union-attr]
            part = pool(part, dim=axes) if axes else part
            keeps = all(axis > lead for axis in axes) and part.shape[: lead + 1] == a.shape[: lead + 1] and part.numel()
            if lead == 0 and self.index and any(isinstance(item, list) for item in self.index):  # type: ignore[union-attr]
                own = torch.arange(len(a), device=a.device).reshape(-1, *[1] * (a.ndim - 1)).expand(a.shape)
                rows = own[self.index].flatten(1)  # the sample that each number of the part is of
                keeps = keeps and torch.equal(rows, own.flatten(1)[:, :1].expand_as(rows))
            fault = "" if keeps else "it leaves out samples, or everything"
        except (IndexError, RuntimeError, ValueError) as error:
            fault = str(error).splitlines()[0].rstrip(".")
        if fault:
            shape = ", ".join(["n", *map(str, a.shape[lead + 1 :])])
            rule = f"name a part of {self.name!r}, which has the shape [{shape}]"
            refuse(argument, rule, f"{str(self)!r}: {fault}", "Choose `index` and `mean` within it")
        return part.reshape(*part.shape[: lead + 1], -1)


OUTPUT = Site("output")  # as units: what the model returns


def _index_item(item: Any) -> Any:
    if isinstance(item, slice) or item is Ellipsis:
        return item
    if isinstance(item, Iterable):
        return [as_integer("index", i) for i in as_list("index", item, "positions")]
    return as_integer("index", item)


def _shown(item: Any) -> str:
    if isinstance(item, slice):
        ends = [":".join("" if end is None else str(end) for end in (item.start, item.stop))]
        return ":".join(ends if item.step is None else [*ends, str(item.step)])
    return "..." if item is Ellipsis else str(item)


def find_sites(argument: str, given: Any, known: Sequence[str], *, several: bool) -> list[Site]:
    """Turn names, patterns and sites into sites of modules that there are.

    Args:
        argument: What the caller calls them.
        given: One of them or, with ``several``, a list.
        known: Names of all layers.
        several: Whether there may be more than one.

    Returns:
        Sites, none twice.
    """
    items = as_list(argument, given, "a list of layers") if several and not isinstance(given, str | Site) else [given]
    found: dict[str, Site] = {}
    for item in items:
        if not isinstance(item, str | Site):
            remedy = "Use 'input', a name out of model.named_modules(), or a gradembed.Site"
            rule = "be layers' names or Sites" if several else "be one layer's name or Site"
            refuse(argument, rule, describe(item), remedy, TypeError)
        site = item if isinstance(item, Site) else Site(item)
        names = _matches(site.name, known)
        if not names or (len(names) > 1 and not several):
            choice = names or [name for name in known if argument == "unit_layer" or name != "output"]
            shown = ", ".join(map(repr, choice[:12])) + (", ..." if len(choice) > 12 else "")
            rule = "match one layer only" if names else "name a layer of the model"
            refuse(argument, rule, repr(site.name), f"Choose one of {shown}")
        for name in names:
            found.setdefault(str(exact := replace(site, name=name)), exact)
    return list(found.values())


def _matches(pattern: str, known: Sequence[str]) -> list[str]:
    """Names that a name or pattern stands for; wrappers' prefixes may be there or not."""
    for name in (pattern, re.sub(r"^(_orig_mod|module)\.", "", pattern), f"module.{pattern}"):
        if name in known:
            return [name]
    if "*" not in pattern:
        return []
    expression = re.compile(re.escape(pattern).replace(r"\*", "[^.]+"))
    return [name for name in known if expression.fullmatch(name)]


def read_element(value: Any, key: int | str | None) -> tuple[Any, int | str | None]:
    """Find a tensor in what a module returns or takes.

    Args:
        value: A tensor, or a tuple, list, mapping or object of them.
        key: Which; ``None`` for the only or first float tensor.

    Returns:
        It (``None`` if there is none) and its place, ``None`` for the value itself.
    """
    if isinstance(value, Tensor):
        return (value, None) if key in (None, 0) else (None, key)
    items = _items(value)
    if key is None:
        place = next(iter(float_elements(value)), None)
        return dict(items).get(place), place
    if isinstance(value, Mapping) and key in value:
        return value[key], key
    if isinstance(key, int):
        place, item = items[key] if -len(items) <= key < len(items) else (key, None)
        return item, place
    return dict(items).get(key, getattr(value, key, None)), key


def float_elements(value: Any) -> list[int | str]:
    """Find the float tensors in what a module returns or takes.

    Returns:
        Their positions or keys.
    """
    return [place for place, item in _items(value) if isinstance(item, Tensor) and item.is_floating_point()]


def _items(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, tuple | list):
        return list(enumerate(value))
    return list(vars(value).items()) if hasattr(value, "__dict__") else []


def replace_element(value: Any, place: int | str | None, new: Tensor) -> Any:
    """Put a tensor where `read_element` found one, into a copy of what held it.

    Returns:
        The copy.
    """
    if place is None:
        return new
    if isinstance(value, tuple):
        items = [new if i == place else item for i, item in enumerate(value)]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if is_dataclass(value) and not isinstance(value, Mapping):
        return replace(value, **{str(place): new})  # type: ignore[type-var]  # an instance
    other = copy.copy(value)
    if isinstance(value, Mapping | list):
        other[place] = new
    else:
        setattr(other, str(place), new)
    return other


def refuse_independent(argument: str, site: Site, unit_site: Site) -> NoReturn:
    """Refuse a layer that the units do not depend on."""
    remedy = "Choose an earlier layer to differentiate by, or a later unit_layer"
    refuse(argument, f"come before {str(unit_site)!r}, where the units are, and feed it", repr(str(site)), remedy)
