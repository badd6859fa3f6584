"""The general path: any module, by automatic backward passes, one per unit for many samples and all sites at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from gradembed._validation import describe, refuse
from gradembed.gradients.batches import HALF_TYPES, Batch, chosen, joined, size_of, tensors_in
from gradembed.gradients.layers import Recorder, default_sites
from gradembed.gradients.lowrank import Capture, LowRank
from gradembed.gradients.sites import OUTPUT, Site
from gradembed.gradients.tape import Tape, frozen, heads_of, place_of

PROBES = 4  # real samples, by which a model is tried before the measurement
PROBED_UNITS = 16  # of which it is asked whether a layer feeds them


class Autograd:
    """A network seen only through its sites, tried on a few real samples.

    Attributes:
        sites: Where gradients are taken, in the order in which they run.
        widths: Of each site.
        heads: Names of the heads that the units are of, "" for the only one, with their widths.
    """

    n_members = None
    width = None  # only the model knows what it takes

    def __init__(
        self,
        model: nn.Module,
        batch: Batch,
        forward: Callable[[nn.Module, Batch], Any],
        unit_site: Site,
        sites: Sequence[Site] | None,
        argument: str,
        x_name: str,
    ) -> None:
        self.model, self.forward, self.argument, self.x_name = model, forward, argument, x_name
        self.modules = dict(model.named_modules(remove_duplicate=False))
        n = size_of(batch)
        self.pads = n == 1  # whether a sample alone is given twice over: the model may squeeze a batch of one
        self.probed = sorted({i * (n - 1) // max(1, PROBES - 1) for i in range(PROBES)})
        probe = chosen(batch, self.probed)
        self._recorder = Recorder(self.modules)
        units = self._values(probe, unit_site)
        self.heads = {name: part.shape[1] for name, part in units.items()}
        self._expected = torch.cat(list(units.values()), 1)  # of the probed samples, [p, D]
        self._check_exchange(batch, unit_site)
        candidates = default_sites(model, self._recorder, probe) if sites is None else list(sites)
        self._check_sites(probe, candidates, unit_site, is_default=sites is None)

    # ------------------------------------------------------------------ asking

    def capture(
        self, batch: Batch, sites: Sequence[Site], unit_site: Site, readout: Tensor, *, is_first: bool = False, **_: Any
    ) -> Capture:
        """Run forward once and back once per unit.

        Args:
            batch: n samples.
            sites: Where gradients are wanted.
            unit_site: What the units are of.
            readout: How they read it: their indices [u], or directions [u, D].
            is_first: Whether the batch begins with the samples that the model was tried on: they have to give the same.

        Returns:
            Values, activations and gradients.
        """
        n = size_of(batch)
        run = self._run(joined([batch, batch]) if n == 1 and self.pads else batch, sites, unit_site)
        heads = list(run.units.values())
        flat = torch.cat([head.detach() for head in heads], 1)[:n]
        for row, i in enumerate(self.probed if is_first else ()):
            if i < n and not self._is_same(flat[i : i + 1], row):
                self._refuse_mixing("an output that changed with the other samples")
        values = flat[:, readout].T if readout.ndim == 1 else readout.to(flat) @ flat.T
        kind = torch.float32 if flat.dtype in HALF_TYPES else flat.dtype
        keys = list(dict.fromkeys(map(place_of, sites)))
        rows = {str(s): flat.new_empty(len(readout), n, self.widths[str(s)], dtype=kind) for s in sites}
        for k, row in enumerate(readout):
            outputs, weights = _read_out(heads, row)
            inputs = [run.edges[key] for key in keys]
            found = dict(zip(keys, self._backward(outputs, inputs, weights, k < len(readout) - 1), strict=True))
            for site in sites:
                gradient = found[place_of(site)]
                rows[str(site)][k] = 0 if gradient is None else site.part(gradient, pool=torch.sum)[:n]
        activations = {str(site): site.part(run.values[place_of(site)])[:n].to(kind) for site in sites}
        return Capture(values.to(kind), activations, {layer: LowRank(part, n) for layer, part in rows.items()})

    def _backward(self, outputs: Any, inputs: Any, weights: Any, keep: bool) -> Sequence[Tensor | None]:
        try:
            found: Sequence[Tensor | None] = torch.autograd.grad(
                outputs, inputs, weights, retain_graph=keep, allow_unused=True
            )
            return found
        except RuntimeError as error:
            _let_pass(error)
            if "heckpoint" in str(error):
                remedy = "Call checkpoint(..., use_reentrant=False), or switch checkpointing off"
                refuse("model", "let gradients be taken at its layers", "reentrant activation checkpointing", remedy)
            refuse("model", "be differentiable", f"{type(self.model).__name__}, which stopped with: {error}",
                   "Take gradients at a later layer, or pass the module that it was made from")  # fmt: skip

    def _run(self, batch: Batch, sites: Sequence[Site], unit_site: Site) -> Tape:
        """Run forward with the graph kept from the sites on."""
        tape = Tape(size_of(batch), self.argument, sites, unit_site)
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(frozen(self.model))
            stack.enter_context(tape.tapping(self.modules))
            result = self._call(tape.cut_input(batch))
        if unit_site is OUTPUT:
            tape.units = heads_of(result, tape.n, type(self.model).__name__)
        tape.check_complete()
        return tape

    def _call(self, batch: Batch) -> Any:
        """Run the model, turning its complaint into one about the argument that the samples are from."""
        try:
            return self.forward(self.model, batch)
        except Exception as error:
            _let_pass(error)
            if "heckpoint" in str(error):
                raise
            shapes = ", ".join(describe(tensor) for tensor in tensors_in(batch)[:3])
            got = f"{shapes}, on which {type(self.model).__name__} stopped with: {_first_line(error)}"
            remedy = "Pass samples as in training: the same shape, type and keys, or say with `forward=` how to call it"
            if isinstance(batch, Tensor) and not batch.is_floating_point() and "dtype" in str(error):
                remedy = f"Convert them with {self.x_name}.float()"
            try:
                refuse(self.x_name, "fit the model", got, remedy)
            except ValueError as refusal:
                raise refusal from error

    @torch.no_grad()
    def _values(self, batch: Batch, unit_site: Site) -> dict[str, Tensor]:
        """The units' values, head by head [n, D], of few samples."""
        n = size_of(batch)
        batch = joined([batch, batch]) if n == 1 and self.pads else batch
        with self._recorder.run(size_of(batch)):
            run = self._run(batch, [], unit_site)
        return {name: part.detach()[:n] for name, part in run.units.items()}

    # ------------------------------------------------------------------ trying

    def _check_exchange(self, batch: Batch, unit_site: Site) -> None:
        """Refuse models that draw random numbers or let one sample change another's output.

        Real samples are exchanged: the same ones in another order, and each of them alone. Nothing is invented that the
        model might not take (tokens that it does not know, values out of range).
        """
        order = self.probed
        swapped = self._flat(chosen(batch, order[::-1]), unit_site).flip(0)
        if not self._is_same(swapped):
            if not self._is_same(self._flat(chosen(batch, order), unit_site)):
                remedy = "Call model.eval(), or take the randomness out"
                refuse("model", "give the same output twice", "two different ones for the same samples", remedy)
            self._refuse_mixing("an output that changed with the order of the samples")
        if len(order) == 1:
            return
        try:  # whether a batch of one sample comes out in another shape, as after squeeze()
            single = self._flat(chosen(batch, order[:1]), unit_site)
            self.pads = single.shape[1] != sum(self.heads.values())
        except (ValueError, TypeError):
            self.pads = True
        if self.pads:
            self._recorder.runs.pop()
        for row, i in enumerate(order):
            if not self._is_same(self._flat(chosen(batch, [i]), unit_site), row):
                self._refuse_mixing("an output that changed with the other samples")

    def _flat(self, batch: Batch, unit_site: Site) -> Tensor:
        return torch.cat(list(self._values(batch, unit_site).values()), 1)

    def _is_same(self, values: Tensor, row: int | None = None) -> bool:
        """Whether outputs [p, D], or one row of them, are those of the probed samples, up to rounding."""
        reference, eps = self._expected.double(), torch.finfo(self._expected.dtype).eps
        expected = reference if row is None else reference[row : row + 1]
        if values.shape != expected.shape or not torch.equal(values.isfinite(), expected.isfinite()):
            return False
        # each unit is measured by its spread over the samples, so that a large offset hides nothing but rounding
        spread = reference.amax(0) - reference.amin(0) if len(reference) > 1 else reference.abs().amax(0)
        bound = eps**0.5 * spread + 256 * eps * reference.abs().amax()
        return bool(((values.double() - expected).abs().nan_to_num(0) <= bound.nan_to_num(0)).all())

    def _refuse_mixing(self, got: str) -> None:
        remedy = "Call model.eval(), set batch_first=True, or take out what mixes the batch"
        refuse("model", "treat every sample by itself", got, remedy)

    def _check_sites(self, probe: Batch, sites: list[Site], unit_site: Site, *, is_default: bool) -> None:
        """Cut at the sites, and see whether gradients flow to them, from each sample to itself only."""
        n = size_of(probe)
        for site in sites if not is_default else ():
            if (unit_site is not OUTPUT and site == unit_site) or site.name not in (*self.modules, "input"):
                refuse_independent(site, unit_site)
        run = self._run(
            joined([probe, probe]) if n == 1 else probe, sites, unit_site
        )  # two at least, to tell them apart
        if not self._is_same(torch.cat([part.detach()[:n] for part in run.units.values()], 1)):
            got, remedy = "another output once they are cut", "Choose layers that nothing modifies in place beside them"
            refuse(self.argument, "name layers at which the model can be cut", got, remedy)
        heads = list(run.units.values())
        keys = list(dict.fromkeys(map(place_of, sites)))
        live = [head for head in heads if head.requires_grad]
        generator = torch.Generator().manual_seed(0)
        weights = [torch.zeros(head.shape).to(head) for head in live]
        for weight in weights:
            weight[0] = torch.randn(weight.shape[1], generator=generator).to(weight)
        edges = [run.edges[key] for key in keys]
        found = dict(
            zip(keys, self._backward(live, edges, weights, True) if live and edges else [None] * len(keys), strict=True)
        )
        for key, gradient in found.items():
            if gradient is not None:
                others, own = gradient[1:].abs().amax(), gradient.abs().amax()
                if not others <= 8 * torch.finfo(gradient.dtype).eps * own:
                    self._refuse_mixing(f"a gradient that flows from one sample to others at {key[0]!r}")
        kept = [site for site in sites if found[place_of(site)] is not None]
        if is_default:
            kept = self._feeding(run, kept, live)
        elif len(kept) < len(sites):
            refuse_independent(next(s for s in sites if s not in kept), unit_site)
        time = {key: i for i, key in enumerate(run.edges)}
        self.sites = sorted(kept, key=lambda site: time[place_of(site)]) if is_default else kept
        self.time = {str(site): time[place_of(site)] for site in kept}
        self.widths = {str(site): site.part(run.values[place_of(site)]).shape[1] for site in kept}

    def _feeding(self, run: Tape, sites: list[Site], heads: list[Tensor]) -> list[Site]:
        """Keep the sites that feed all units (of some evenly spaced), and that are not the units under another name."""
        total = sum(head.shape[1] for head in heads)
        asked = sorted({i * (total - 1) // max(1, PROBED_UNITS - 1) for i in range(PROBED_UNITS)})
        keys = list(dict.fromkeys(map(place_of, sites)))
        feeds = torch.zeros(len(asked), len(keys), dtype=torch.bool)
        for row, unit in enumerate(asked):
            outputs, weights = _read_out(heads, torch.tensor(unit))
            found = self._backward(outputs, [run.edges[key] for key in keys], weights, True)
            feeds[row] = torch.tensor([g is not None and bool(g.any()) for g in found])
        feeds = feeds[feeds.any(1)]  # a unit that nothing moves at these samples says nothing
        good = {key for key, column in zip(keys, feeds.T, strict=True) if column.all() or not column.any()}
        flat = torch.cat([head.detach() for head in heads], 1)
        return [
            site
            for site in sites
            if place_of(site) in good
            and not ((a := site.part(run.values[place_of(site)])).shape == flat.shape and torch.equal(a, flat))
        ] or [site for site in sites if site.name == "input"]


def _read_out(heads: Sequence[Tensor], row: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Say what to differentiate, and with which weights, for one unit: its number, or a direction over all heads."""
    sizes = [head.shape[1] for head in heads]
    if row.ndim:
        parts = row.to(heads[0]).split(sizes)
        return list(heads), [part.expand_as(head) for head, part in zip(heads, parts, strict=True)]
    unit = int(row)
    for head, size in zip(heads, sizes, strict=True):
        if unit < size:
            weights = torch.zeros_like(head)
            weights[:, unit] = 1
            return [head], [weights]
        unit -= size
    raise IndexError(unit)


def refuse_independent(site: Site, unit_site: Site) -> NoReturn:
    """Refuse a layer that the units do not depend on."""
    remedy = "Choose a later unit layer, or an earlier layer to differentiate by"
    refuse("unit_layer", f"come after {str(site)!r}, and depend on it", repr(str(unit_site)), remedy)


def _let_pass(error: Exception) -> None:
    """Raise again what is a refusal of ours already, or says that memory ran out."""
    if (
        getattr(error, "is_refusal", False)
        or isinstance(error, torch.OutOfMemoryError)
        or "allocate memory" in str(error)
    ):
        raise error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300].rstrip(
        "."
    )
