"""One question to one network or ensemble: arguments checked once, then answered chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from gradembed import _context, _progress
from gradembed._validation import (
    FLOAT_TYPES,
    as_integer,
    as_list,
    as_tensor,
    check_finite_result,
    check_module,
    check_parameters,
    check_per_sample,
    describe,
    refuse,
)
from gradembed.gradients.autograd import Autograd
from gradembed.gradients.batches import (
    Batch,
    Reservoir,
    Stream,
    call,
    check_fits,
    float_kind,
    part,
    read,
    size_of,
    tensors_in,
)
from gradembed.gradients.chain import Chain
from gradembed.gradients.lowrank import Capture
from gradembed.gradients.sites import OUTPUT, Site, find_sites
from gradembed.models import MLPEnsemble


@dataclass(frozen=True)
class Session:
    """A network, samples, units and sites that fit each other.

    Attributes:
        batch: All samples, or the first batch of a stream.
        readout: Of the unit layer: indices [u], or directions [*e, u, D].
        unit_labels: One label per unit: its index, "direction i", or "head[i]".
        heads: The head that each unit is of; empty if there is but one.
        kind: The precision that is computed in.
        stream: Where the samples come from, if not all of them are there.
        x_name: What the caller's users call the samples.
        protect: Puts the model and the random state back after each chunk of a stream: what the caller's iterable
            does between them, such as drawing samples, is not undone.
    """

    network: Chain | Autograd
    batch: Batch
    unit_site: Site
    readout: Tensor
    unit_labels: tuple[str, ...]
    heads: tuple[str, ...]
    kind: torch.dtype
    x_name: str = "x"
    stream: Stream | None = None
    protect: Callable[[], AbstractContextManager[None]] = nullcontext

    @classmethod
    @contextmanager
    def open(
        cls, model: nn.Module, x: Any, layers: Any = None, unit_layer: str | Site = "output", units: Any = None,
        directions: Any = None, *, forward: Callable[..., Any] | None = None, argument: str = "layers",
        units_argument: str = "units", x_name: str = "x", ensembles: bool = False, centered: bool = False,
    ) -> Iterator[Self]:  # fmt: skip
        """Check everything, choose the path, and put the model back afterwards.

        Args:
            model: The network.
            x: What it is asked with: see `batches.read`.
            layers: Where gradients are wanted: names, patterns, sites; one of them unless ``argument`` is "layers";
                ``None`` for the default layers.
            unit_layer: The layer that the units belong to.
            units: Their indices or labels; ``None`` for all.
            directions: Or directions in that layer, [u, D], or [e, u, D] for an ensemble.
            forward: How the model is called with a batch; ``None`` for as usual.
            argument: What the caller's users call ``layers``, for error messages.
            units_argument: What they call ``units``.
            x_name: What they call ``x``.
            ensembles: Whether the model may be an `MLPEnsemble`.
            centered: Whether units are read less the mean of their head, all of its units included.

        Yields:
            The session.
        """
        check_module(model)
        model, member = _unwrapped(model), "Take a member out by ensemble[i]"
        if isinstance(model, MLPEnsemble) and not ensembles:
            refuse("model", "be one network", describe(model), member)
        if forward is not None and not callable(forward):
            refuse("forward", "be callable with model and batch", describe(forward), "Pass a function", TypeError)
        samples = read(x, model, forward, x_name)
        is_one = forward is None and isinstance(samples, Tensor) and samples.dtype in FLOAT_TYPES
        if isinstance(model, MLPEnsemble) and not is_one:
            refuse(x_name, "be one float tensor, and `forward` None, for an ensemble", describe(x), member)
        batch = samples.first if isinstance(samples, Stream) else samples
        check_fits(model, batch, x_name)
        check_parameters(model)
        check_per_sample(model)
        several = argument == "layers"
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            keep_freed_memory()
            opening = stack.enter_context(ExitStack())
            protect: Callable[[], AbstractContextManager[None]] = nullcontext
            chain = Chain.of(model, batch) if forward is None else None
            names = chain.names if chain else _names(model)
            unit_site = _unit_site(unit_layer, model, names)
            sites = None if layers is None and several else find_sites(argument, layers, names, several=several)
            partial_site = next((str(site) for site in [*(sites or []), unit_site] if not site.is_plain), None)
            if partial_site and isinstance(model, MLPEnsemble):
                refuse(argument, "be whole layers for an ensemble", repr(partial_site), member)
            if chain and not partial_site:
                chain.ask(batch, unit_site, sites, x_name, argument)
                network: Chain | Autograd = chain
            else:
                protect = partial(_context.preserved, model)
                opening.enter_context(protect())
                network = Autograd(model, batch, forward or call, unit_site, sites, argument, x_name)
            named = network.heads, unit_site, units, directions, units_argument, network.n_members
            readout, labels, heads = resolve_units(*named)
            readout = _less_mean(network.heads, readout) if centered else readout
            asked = (network, batch, unit_site, readout, labels, heads, float_kind(model, batch), x_name)
            if isinstance(samples, Stream):
                opening.close()
                yield cls(*asked, samples, protect)
            else:
                yield cls(*asked)

    def renewed(self, like: Session | None = None) -> Session | None:
        """Ask the same of the network as it is by now: other weights in the same modules, nothing tried anew.

        Args:
            like: A renewed session of the same network: chains then share what they have worked out.

        Returns:
            A session; ``None`` if what was a chain has become something else, say by a hook.
        """
        if isinstance(self.network, Autograd):
            return replace(self, network=self.network.renewed())
        own = like.network if like else Chain.of(self.network.model, self.batch)
        if not isinstance(own, Chain):
            return None
        own = copy(own)
        own.ask(self.batch, self.unit_site, self.sites, self.x_name)
        return replace(self, network=own)

    @property
    def sites(self) -> list[Site]:
        """Where gradients are taken, in the caller's order."""
        return self.network.sites

    @property
    def layers(self) -> tuple[str, ...]:
        """What the sites are called."""
        return tuple(map(str, self.sites))

    @property
    def n_units(self) -> int:
        """The number of units, of each member of an ensemble."""
        return self.readout.shape[-2] if self.readout.ndim > 1 else len(self.readout)

    @property
    def n_samples(self) -> int | None:
        """Their number; ``None`` for a stream."""
        if self.stream:
            return None
        return size_of(self.batch) if self.network.n_members is None else self.batch.shape[-2]

    def from_the_top(self) -> list[str]:
        """The layers, each before those that it depends on."""
        named_last_first = self.layers[::-1]
        return sorted(named_last_first, key=lambda layer: -self.network.time[layer])

    def captures(
        self, chunk_size: int | None = None, *, patterns: bool = False, reservoir: Reservoir | None = None
    ) -> Iterator[Capture]:
        """Answer chunk by chunk: of samples, or for an ensemble of its networks.

        Args:
            chunk_size: Samples at a time; ``None`` chooses by a memory budget.
            patterns: Whether to note activation patterns, where the network has them.
            reservoir: What keeps some of the samples.

        Yields:
            Captures with finite values, in order.
        """
        size = self.samples_at_a_time(chunk_size)
        parts = self._of_groups(patterns) if self.network.n_members else self._of_chunks(size, patterns, reservoir)
        with _progress.bar(self.n_samples, "gradients", " samples", wanted=True, delay=1) as bar:
            for capture in parts:
                check_finite_result("values", capture.values, str(self.unit_site), self.x_name)
                yield capture
                bar.update(capture.values.shape[-1])

    def _of_chunks(self, size: int, patterns: bool, reservoir: Reservoir | None) -> Iterator[Capture]:
        """Go through the samples of one network."""
        whole = (part(self.batch, i, i + size) for i in range(0, self.n_samples or 0, size))
        for i, batch in enumerate(self.stream.chunks(size) if self.stream else whole):
            if reservoir:
                reservoir.add(batch)
            with self.protect():
                capture = self.network.capture(batch, self.readout, patterns=patterns, is_first=i == 0)
            yield capture

    def _of_groups(self, patterns: bool) -> Iterator[Capture]:
        """Go through an ensemble in groups of networks whose numbers fit into the caches."""
        chain: Chain = self.network  # type: ignore[assignment]
        e = chain.n_members or 1
        x = self.batch.expand(e, *self.batch.shape[-2:])
        readout = self.readout if self.readout.ndim == 1 else self.readout.expand(e, -1, -1)
        size = chain.members_at_a_time(x, self.n_units)
        for members in (slice(start, start + size) for start in range(0, e, size)):
            own = readout if readout.ndim == 1 else readout[members]
            yield chain.members(members).capture(x[members], own, patterns=patterns)

    def samples_at_a_time(self, chunk_size: int | None = None) -> int:
        """Choose the size of chunks; see `captures`."""
        if chunk_size is not None:
            return as_integer("chunk_size", chunk_size, 1)
        n, size = self.n_samples, self.network.chunk(tensors_in(self.batch)[0].element_size(), len(self.unit_labels))
        return size if n is None else -(-n // -(-n // size))  # equal chunks: a small last one costs as many calls


def keep_freed_memory() -> None:
    """Have the C library keep what a chunk frees for the next one.

    glibc gives large freed blocks back to the system and pays for them anew, page by page, which can take as long as
    the arithmetic. Freeing one block of 31 MiB, which is never touched and so costs nothing, raises the size from
    which it does so. Other allocators take no notice.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The module that a compiled or data-parallel one computes with."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) and len(model.device_ids or []) > 1:
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _names(model: nn.Module) -> list[str]:
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name not in ("", "input")]
    return ["input", *names] + ["output"] * ("output" not in names)


def _unit_site(unit_layer: Any, model: nn.Module, names: Sequence[str]) -> Site:
    """The string "output" is what the model returns, whatever its modules are called."""
    if unit_layer is OUTPUT or (isinstance(unit_layer, str) and unit_layer == "output"):
        return OUTPUT
    (site,) = find_sites("unit_layer", unit_layer, names, several=False)
    is_module = site.name in dict(model.named_modules(remove_duplicate=False))
    return OUTPUT if site.is_plain and site.name == "output" and not is_module else site


def _less_mean(widths: dict[str, int], units: Tensor) -> Tensor:
    """Return the directions that read units [u] less the mean of their head, [u, D]: rows of I - 1/C for C units."""
    if alone := [head for head, size in widths.items() if size < 2]:
        got = f"one unit in head {alone[0]!r}" if alone[0] else "one unit"
        refuse("centered", "be False where a unit has no others to be held against", got, "Leave it out")
    sizes = torch.tensor(list(widths.values()))
    head = torch.arange(len(sizes)).repeat_interleave(sizes)  # of each unit, [D]
    means = (head[units][:, None] == head) / sizes[head]  # [u, D]: no matrix as wide as it is high
    return means.neg_().index_put_((torch.arange(len(units)), units), torch.tensor(1.0), accumulate=True)


def resolve_units(
    widths: dict[str, int], unit_site: Site, units: Any, directions: Any, argument: str = "units",
    n_members: int | None = None,
) -> tuple[Tensor, tuple[str, ...], tuple[str, ...]]:  # fmt: skip
    """Turn units or directions of a layer into a read-out, refusing both and those that the layer does not have.

    Returns:
        The read-out, indices [u] or directions [*e, u, D]; a label per unit; and its head, if there are several.
    """
    width = sum(widths.values())
    labels = [f"{head}[{i}]" if head else str(i) for head, size in widths.items() for i in range(size)]
    heads = [head for head, size in widths.items() for _ in range(size)] if list(widths) != [""] else []
    if units is not None and directions is not None:
        refuse("directions", "be None when `units` is given", describe(directions), "Pass one of them")
    if directions is not None:
        axes = "u D" if n_members is None else "u D | e u D"
        sizes: dict[str, Any] = {"D": width} | ({} if n_members is None else {"e": n_members})
        if isinstance(directions, list):
            directions = np.asarray(directions, float)  # rounded to the model's precision later
        matrix = as_tensor("directions", directions, axes, **sizes)
        if bool((matrix == 0).all(-1).any()):
            refuse("directions", "be non-zero", "a row of zeros", "Drop that row: it reads nothing")
        return matrix, tuple(f"direction {i}" for i in range(matrix.shape[-2])), ()
    if units is None:
        return torch.arange(width), tuple(labels), tuple(heads)
    where, chosen = str(unit_site), []
    for item in as_list(argument, units, "a list of indices"):
        if isinstance(item, str) and item not in labels:
            refuse(argument, f"name units of {where!r}", repr(item), f"Choose labels like {labels[0]!r}, or indices")
        chosen.append(labels.index(item) if isinstance(item, str) else as_integer(argument, item))
        if not 0 <= chosen[-1] < width:
            refuse(argument, f"lie between 0 and {width - 1}, the units of {where!r}", item, "Drop or correct it")
    picked = tuple(heads[i] for i in chosen) if heads else ()
    return torch.tensor(chosen), tuple(labels[i] for i in chosen), picked
