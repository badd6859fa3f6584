"""The general path: any module, by automatic backward passes, one per unit for many samples and all sites at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import copy
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from gradembed._validation import refuse
from gradembed.gradients.batches import HALF_TYPES, Batch, chosen, joined, kind_of, size_of, tensors_in
from gradembed.gradients.layers import Recorder, default_sites
from gradembed.gradients.lowrank import Capture, LowRank
from gradembed.gradients.sites import OUTPUT, Site, float_elements, refuse_independent
from gradembed.gradients.tape import Place, Tape, frozen, heads_of, place_of

GRADIENT_BYTES = 2**30  # of gradients at all sites, at a time
SITE_BYTES = 12 * 2**20  # of activations at all sites: about what stays in the caches
MOST_SAMPLES = 256  # at a time: more are hardly faster, and cost memory
PAIR_NUMBERS = 8  # that are held for each sample and pair of units while means are taken
PROBED_UNITS = 8  # of which it is asked whether a layer feeds them


class Autograd:
    """A network seen only through its sites, tried on a few real samples.

    Attributes:
        sites: Where gradients are taken, in the order in which they run.
        widths: Of each site.
        heads: Names of the heads that the units are of, "" for the only one, with their widths.
    """

    n_members = None

    def __init__(
        self, model: nn.Module, batch: Batch, forward: Callable[[nn.Module, Batch], Any], unit_site: Site,
        sites: Sequence[Site] | None, argument: str, x_name: str,
    ) -> None:  # fmt: skip
        self.model, self.forward, self.argument, self.x_name = model, forward, argument, x_name
        self.learnable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.unit_site = unit_site
        for site in sites or ():
            if (unit_site is not OUTPUT and site == unit_site) or site.name not in (*self.modules, "input"):
                refuse_independent(argument, site, unit_site)
        n = size_of(batch)
        self.pads = n == 1  # whether a sample alone is given twice over: the model may squeeze a batch of one
        self.probed = sorted({0, n - 1})
        self._probe, recorder = chosen(batch, self.probed), Recorder(self.modules)
        units = self._values(self._probe, recorder)
        self.heads = {name: part.shape[1] for name, part in units.items()}
        self._expected = torch.cat(list(units.values()), 1)  # of the probed samples, [p, D]
        if n > 1:
            self._check_alone(batch, recorder)
        self.sites = default_sites(model, recorder, self._probe) if sites is None else list(sites)
        self._check_sites(chosen(batch, [n - 1, 0]), is_default=sites is None)

    def renewed(self) -> Autograd:
        """The same, of a network of which by now other parameters may be learned."""
        other = copy(self)
        other.learnable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return other

    # ------------------------------------------------------------------ asking

    def capture(
        self, batch: Batch, readout: Tensor, *, is_first: bool = False, is_small: bool = False, **_: Any
    ) -> Capture:
        """Run forward once and back once per unit.

        Args:
            batch: n samples.
            readout: How units read the unit layer: their indices [u], or directions [u, D].
            is_first: Whether the batch begins with the samples that the model was tried on: they have to give the same.
            is_small: Whether a pass costs more than the samples in it: back once, with the batch repeated u times.

        Returns:
            Values, activations and gradients.
        """
        n, u = size_of(batch), len(readout)
        is_small = is_small and u > 1
        repeated = joined([batch] * u) if is_small else joined([batch, batch]) if n == 1 and self.pads else batch
        run = self._run(repeated, self.sites)
        heads = list(run.units.values())
        flat = torch.cat([head.detach() for head in heads], 1)[:n]
        for row, i in enumerate(self.probed if is_first else ()):
            if i < n and not self._is_same(flat[i : i + 1], row):
                self._refuse_mixing("an output that changed with the other samples")
        values = flat[:, readout].T if readout.ndim == 1 else readout.to(flat) @ flat.T
        kind = torch.float32 if flat.dtype in HALF_TYPES else flat.dtype
        activations = {str(site): site.part(run.values[place_of(site)])[:n].to(kind) for site in self.sites}

        def differentiate(group: Sequence[Site]) -> dict[str, LowRank]:
            """One backward pass per unit, to some of the sites."""
            rows = {str(s): flat.new_empty(len(readout), n, self.widths[str(s)], dtype=kind) for s in group}
            places = list(dict.fromkeys(map(place_of, group)))
            for k, row in enumerate(readout):
                keep = len(groups) > 1 or k < len(readout) - 1
                found = self._backward(run, *_read_out(heads, row), places, keep=keep)
                for site in group:
                    gradient = found[place_of(site)]
                    rows[str(site)][k] = 0 if gradient is None else site.part(gradient, pool=torch.sum)[:n]
            return {layer: LowRank(part, n) for layer, part in rows.items()}

        def differentiate_at_once() -> dict[str, LowRank]:
            """One backward pass, each unit's from a copy of the batch of its own."""
            sizes = [head.shape[1] for head in heads]
            rows = nn.functional.one_hot(readout, sum(sizes)) if readout.ndim == 1 else readout
            weights = rows.to(flat).repeat_interleave(n, 0).split(sizes, 1)
            found, parts = self._backward(run, heads, weights, keep=False), {}
            for site in self.sites:
                gradient = found[place_of(site)]
                part = flat.new_zeros(1) if gradient is None else site.part(gradient, pool=torch.sum).to(kind)
                parts[str(site)] = LowRank(part.expand(u * n, self.widths[str(site)]).view(u, n, -1), n)
            return parts

        groups = self._groups(len(readout) * n * flat.element_size())
        if is_small:
            return Capture(values.to(kind), activations, differentiate_at_once())
        gradients = differentiate(groups[0]) if len(groups) == 1 else _ByGroup(groups, differentiate)
        return Capture(values.to(kind), activations, gradients)

    def _groups(self, bytes_each: int) -> list[list[Site]]:
        """Cut the sites into groups whose gradients fit into the memory budget, ``bytes_each`` for each width."""
        groups: list[list[Site]] = []
        room = 0
        for site in self.sites:
            need = self.widths[str(site)] * bytes_each
            if not groups or need > room:
                groups.append([])
                room = GRADIENT_BYTES
            groups[-1].append(site)
            room -= need
        return groups

    def chunk(self, item: int, u: int) -> int:
        """The number of samples at a time, for numbers of ``item`` bytes and u units."""
        item, width = max(4, item), sum(self.widths.values())
        size = min(max(SITE_BYTES // (width * item), 16), MOST_SAMPLES)
        return max(1, min(size, GRADIENT_BYTES // (u * max(width, PAIR_NUMBERS * u) * item)))

    def _backward(
        self, run: Tape, outputs: Any, weights: Any, places: Sequence[Place] | None = None, *, keep: bool = True
    ) -> dict[Place, Tensor | None]:
        """Differentiate weighted outputs by what stands at (all) places; ``None`` where nothing flows."""
        places = list(run.edges) if places is None else places
        edges = [run.edges[place] for place in places]
        live = [(output, weight) for output, weight in zip(outputs, weights, strict=True) if output.requires_grad]
        if not live or not edges:
            return dict.fromkeys(places)
        outputs, weights = zip(*live, strict=True)
        try:
            with frozen(self.learnable):  # as in the forward pass, which a checkpoint repeats
                found = torch.autograd.grad(outputs, edges, weights, retain_graph=keep, allow_unused=True)
        except RuntimeError as error:
            _let_pass(error)
            if "heckpoint" in str(error):
                remedy = (
                    "Switch checkpointing off, or use checkpoint(..., use_reentrant=False) and layers outside of it"
                )
                refuse("model", "let gradients be taken at its layers", "activation checkpointing", remedy)
            got = f"{type(self.model).__name__}, which stopped with: {_first_line(error)}"
            remedy = "Take gradients at a later layer, or pass the module that it was made from"
            refuse("model", "be differentiable", got, remedy)
        return dict(zip(places, found, strict=True))

    def _run(self, batch: Batch, sites: Sequence[Site]) -> Tape:
        """Run forward with the graph kept from the sites on."""
        tape = Tape(size_of(batch), self.argument, sites, self.unit_site)
        with torch.enable_grad(), frozen(self.learnable), tape.tapping(self.modules):
            result = self._call(tape.cut_input(batch))
        if self.unit_site is OUTPUT:
            tape.units = heads_of(result, tape.n, type(self.model).__name__)
        elif self.unit_site.name == "output" and "output" not in self.modules:  # a part of what is returned
            tape.read_units(result)
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
            shapes = ", ".join(map(kind_of, tensors_in(batch)[:3]))
            got = f"{shapes}, on which {type(self.model).__name__} stopped with: {_first_line(error)}"
            remedy = "Pass samples as in training: the same shape, type and keys (one alone as x[None])"
            how = "batch" if isinstance(batch, Mapping) else "..."
            remedy += f", or say how to call it: forward=lambda model, batch: model({how})"
            if isinstance(batch, Tensor) and not batch.is_floating_point() and "dtype" in str(error):
                remedy = f"Convert them with {self.x_name}.float()"
            try:
                refuse(self.x_name, "fit the model", got, remedy)
            except ValueError as refusal:
                raise refusal from error

    # ------------------------------------------------------------------ trying

    @torch.no_grad()
    def _values(self, batch: Batch, recorder: Recorder | None = None) -> dict[str, Tensor]:
        """The units' values, head by head [n, D], of few samples."""
        n = size_of(batch)
        batch = joined([batch, batch]) if n == 1 and self.pads else batch
        with recorder.run(size_of(batch)) if recorder else nullcontext():
            run = self._run(batch, [])
        return {name: part.detach()[:n] for name, part in run.units.items()}

    def _check_alone(self, batch: Batch, recorder: Recorder) -> None:
        """Refuse models that give a sample alone another output than beside others."""
        for row, i in enumerate(self.probed):
            try:
                units = self._values(chosen(batch, [i]), recorder)
                squeezed = {name: part.shape[1] for name, part in units.items()} != self.heads
            except (ValueError, TypeError):
                squeezed = True
            if squeezed:
                self.pads = True
                recorder.runs.pop()
                units = self._values(chosen(batch, [i]), recorder)
            if not self._is_same(torch.cat(list(units.values()), 1), row):
                self._refuse_mixing("an output that changed with the other samples")

    def _check_sites(self, swapped: Batch, *, is_default: bool) -> None:
        """Cut at the sites, and see whether gradients flow to them, from each sample to itself only.

        Real samples are exchanged. Nothing is invented that the model might not take (tokens that it does not know,
        values out of range).

        Args:
            swapped: The last sample and the first.
            is_default: Whether the sites are candidates, of which some may be dropped.
        """
        run = self._run(swapped, self.sites)
        heads = list(run.units.values())
        values = torch.cat([head.detach() for head in heads], 1)
        if not self._is_same(values.flip(0)[: len(self.probed)]):
            self._explain_change(swapped)
        weights = [torch.zeros_like(head).index_fill_(0, torch.tensor([0], device=head.device), 1) for head in heads]
        weights = [w * torch.linspace(1, 2, w.shape[1]).to(w) for w in weights]  # of the first sample's units
        found = self._backward(run, heads, weights)
        for place, gradient in found.items():
            if gradient is not None:
                bound = min(8 * torch.finfo(gradient.dtype).eps, 1e-3) * gradient.abs().amax()
                if gradient[1:].abs().amax() > bound:  # NaN is told of where it is measured
                    self._refuse_mixing(f"a gradient that flows from one sample to others at {place[0]!r}")
        reached = [site for site in self.sites if found[place_of(site)] is not None]
        if is_default:
            self.sites = self._feeding(run, reached, heads, values)
            self.sites = self.sites or [site for site in reached if site.name == "input"]
            inputs = [site for site in self.sites if site.name == "input"]
            first = [Site("input", element=place) for place in float_elements(swapped)[:1]]
            if first and inputs == first:  # the other inputs are not read
                self.sites[self.sites.index(inputs[0])] = Site("input")
                self._check_sites(swapped, is_default=True)
                return
            if not self.sites:
                self._refuse_detached()
                rule = "name a layer, since none by itself feeds all units"
                refuse(self.argument, rule, "None", "Pass layers=, or fewer units' heads in forward=")
        elif len(reached) < len(self.sites):
            self._refuse_detached()
            refuse_independent(self.argument, next(site for site in self.sites if site not in reached), self.unit_site)
        order = list(run.edges)
        self.time = {str(site): order.index(place_of(site)) for site in self.sites}
        if is_default:
            self.sites.sort(key=lambda site: self.time[str(site)])
        self.widths = {str(site): site.part(run.values[place_of(site)]).shape[1] for site in self.sites}

    def _refuse_detached(self) -> None:
        """Refuse a model whose outputs are cut off from its own parameters."""
        if self.unit_site is OUTPUT and self.learnable:
            with torch.enable_grad():
                heads = heads_of(self._call(self._probe), size_of(self._probe), type(self.model).__name__)
            if not any(head.requires_grad for head in heads.values()):
                remedy = (
                    "Take out torch.no_grad(), inference_mode(), .detach() or .data, or pass forward= that does without"
                )
                refuse("model", "return outputs through which gradients flow", "outputs cut off from the model", remedy)

    def _explain_change(self, swapped: Batch) -> NoReturn:
        """Say why samples in another order, in a model that is cut at the sites, did not give the same."""
        other = torch.cat(list(self._values(swapped).values()), 1).flip(0)[: len(self.probed)]
        if not self._is_same(other):
            self._refuse_mixing("an output that changed with the order of the samples")
        got, remedy = "another output once they are cut", "Choose layers that nothing modifies in place beside them"
        refuse(self.argument, "name layers at which the model can be cut", got, remedy)

    def _refuse_mixing(self, got: str) -> NoReturn:
        """Refuse a model whose output changed: because it draws random numbers, or else because of other samples."""
        if not self._is_same(torch.cat(list(self._values(self._probe).values()), 1)):
            remedy = "Call model.eval(), or take the randomness out"
            refuse("model", "give the same output twice", "two different ones for the same samples", remedy)
        remedy = "Call model.eval(), set batch_first=True, or take out what mixes the batch"
        refuse("model", "treat every sample by itself", got, remedy)

    def _is_same(self, values: Tensor, row: int | None = None) -> bool:
        """Whether outputs [p, D], or one row of them, are those of the probed samples, up to rounding."""
        reference, eps = self._expected.double(), torch.finfo(self._expected.dtype).eps
        expected = reference if row is None else reference[row : row + 1]
        if values.shape != expected.shape or not torch.equal(values.isfinite(), expected.isfinite()):
            return False
        # each unit is measured by its spread over the samples, so that a large offset hides nothing but rounding
        spread = reference.amax(0) - reference.amin(0) if len(reference) > 1 else reference.abs().amax(0)
        bound = eps**0.5 * spread + min(256 * eps, 0.02) * reference.abs().amax()
        return bool(((values.double() - expected).abs().nan_to_num(0) <= bound.nan_to_num(0)).all())

    def _feeding(self, run: Tape, sites: list[Site], heads: list[Tensor], values: Tensor) -> list[Site]:
        """Keep the sites that feed all units (of some evenly spaced), and that are not the units under another name."""
        there = {site: site.part(run.values[place_of(site)]) for site in sites}
        sites = [site for site, a in there.items() if a.shape != values.shape or not torch.equal(a, values)]
        places, last = list(dict.fromkeys(map(place_of, sites))), values.shape[1] - 1
        asked = sorted({i * last // (PROBED_UNITS - 1) for i in range(PROBED_UNITS if places else 0)})
        found = [self._backward(run, *_read_out(heads, torch.tensor(unit)), places) for unit in asked]
        places = [place for place in places if all(row[place] is not None for row in found)]
        moved = [[bool((g := row[place]) is not None and g.any()) for place in places] for row in found]
        feeds = torch.tensor(moved).reshape(len(found), len(places))
        feeds = feeds[feeds.any(1)]  # a unit that nothing moves at these samples says nothing
        good = {place for place, column in zip(places, feeds.T, strict=True) if column.all() or not column.any()}
        return [site for site in sites if place_of(site) in good]


class _ByGroup(Mapping[str, LowRank]):
    """Gradients at many wide sites, one group of sites after the other: only the last one asked for is kept."""

    def __init__(self, groups: list[list[Site]], differentiate: Callable[[list[Site]], dict[str, LowRank]]) -> None:
        self._groups, self._differentiate = groups, differentiate
        self._found: dict[str, LowRank] = {}

    def __getitem__(self, layer: str) -> LowRank:
        if layer not in self._found:
            self._found = {}
            self._found = self._differentiate(next(group for group in self._groups if layer in map(str, group)))
        return self._found[layer]

    def __iter__(self) -> Iterator[str]:
        return (str(site) for group in self._groups for site in group)

    def __len__(self) -> int:
        return sum(map(len, self._groups))


def _read_out(heads: Sequence[Tensor], row: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Say what to differentiate, and with which weights, for one unit: its number, or a direction over all heads."""
    sizes = [head.shape[1] for head in heads]
    if row.ndim:
        return list(heads), [
            part.expand_as(head) for head, part in zip(heads, row.to(heads[0]).split(sizes), strict=True)
        ]
    unit, k = int(row), 0
    while unit >= sizes[k]:
        unit, k = unit - sizes[k], k + 1
    weights = torch.zeros_like(heads[k])
    weights[:, unit] = 1
    return [heads[k]], [weights]


def _let_pass(error: Exception) -> None:
    """Raise again what is a refusal of ours already, or says that memory ran out."""
    out_of_memory = isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
    if getattr(error, "is_refusal", False) or out_of_memory:
        raise error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300].rstrip(".") if lines else type(error).__name__
