"""Interference at a fixed probe: prepared once, measured as often as the weights change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from gradembed._context import undisturbed
from gradembed._validation import as_bool, as_integer, check_choice, check_finite_result, check_module, describe, refuse
from gradembed.gradients import LowRank, Session, Site
from gradembed.gradients.batches import Reservoir, each, part, size_of, tensors_in
from gradembed.gradients.tape import heads_of
from gradembed.interference.chance import MOST, Readouts
from gradembed.interference.realised import CONFLICT_TOLERANCE, diagonals, gram

MEASURES = ("cosine", "abs_cosine", "conflict")
SMALL = 128  # samples, counted once for each unit; of fewer a pass costs about as much as of one
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Moment:
    """What a probe says at one time, of l layers and p pairs of tasks.

    Attributes:
        means: Of cosine, |cosine| and conflict over the samples, [3, l, p].
        errors: Their standard errors over the samples, [3, l, p].
        count: Samples at which both gradients exist, [l, p].
        chance: Mean |cosine| of two random read-outs, [l]; ``None`` if it was not asked for.
        parameter_cosine: Of the gradients of the mean losses, [p]; ``None`` if units are no losses.
    """

    means: Tensor
    errors: Tensor
    count: Tensor
    chance: Tensor | None
    parameter_cosine: Tensor | None

    @classmethod
    def empty(cls, layers: int, pairs: int) -> Moment:
        """Stand in where nothing was measured."""
        none = torch.zeros(3, layers, pairs, dtype=torch.float64)
        return cls(none, none, none[0].long(), None, None)


class Probe:
    """One batch, asked of one network.

    Attributes:
        layers: From the lowest one up.
        pairs: Of tasks: of heads, if there are several, else of units.
    """

    def __init__(
        self, model: nn.Module, probe: Any, *, on: str = "outputs", forward: Callable[..., Any] | None = None,
        layers: str | Site | Sequence[str | Site] | None = None, units: Sequence[int | str] | None = None,
        centered: bool = False, n_readouts: int = 16, reference: str | Site | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        check_module(model)
        check_choice("on", on, ("outputs", "losses"))
        if on == "losses" and forward is None:
            remedy = 'Pass forward=lambda model, batch: {"task": ..., ...}, a loss [n] for each task'
            refuse("forward", "return the losses of every sample with on='losses'", "None", remedy)
        n_readouts, seed = as_integer("n_readouts", n_readouts, 0), as_integer("seed", seed, 0)
        if 0 < n_readouts < 4:
            refuse("n_readouts", "be 0 or at least 4", n_readouts, "Pass 16, or 0 for no chance")
        self.model, self.forward, self.on = model, forward, on
        self._drawn: dict[str, Any] = {"forward": forward, "reference": reference, "r": n_readouts, "seed": seed}
        self._asked: dict[str, Any] = {"forward": forward, "units": units, "centered": as_bool("centered", centered)}
        self._batch: Any = probe
        self._layers: Any = layers
        self._prepare()
        if size_of(self._batch) < 2:
            refuse("probe", "hold at least two samples", size_of(self._batch), "Pass more: 64 to 256 are usual")
        if len(self._tasks) < 2:
            refuse("probe", "be asked of at least two tasks", self._tasks, "Return several units or heads")
        if on == "losses" and len(self._tasks) < self._session.n_units:
            got, remedy = f"{self._session.n_units} units in {len(self._tasks)} heads", "Take the mean over its classes"
            refuse("forward", "return one loss a sample for each task", got, remedy)

    def _prepare(self) -> None:
        """Try the model, find its layers, draw read-outs."""
        opened = Session.open(self.model, self._batch, self._layers, x_name="probe", **self._asked)
        with undisturbed(self.model), opened as session:
            if session.stream:
                remedy = "Take one batch: next(iter(loader))"
                refuse("probe", "be one batch", describe(self._batch), remedy, TypeError)
            self._batch = each(session.batch, torch.clone)  # whoever made it may fill it anew
            sites = sorted(session.sites, key=lambda site: session.network.time[str(site)])
            session.network.sites = self._layers = sites  # the same ones, should it be prepared anew
            self._session = replace(session, batch=self._batch)
            some = Reservoir(MOST, self._drawn["seed"])
            some.add(self._batch)
            drawn = dict(self._drawn)
            if drawn["reference"] is None and self.on == "losses":
                drawn["reference"] = sites[-1]  # heads lie above, each read by its own loss
            self._readouts = Readouts(self.model, self._session, some, **drawn) if drawn["r"] else None
        self.layers, heads = self._session.layers, self._session.heads
        of_units = heads if len(set(heads)) > 1 else self._session.unit_labels
        self._tasks = list(dict.fromkeys(of_units))
        self.pairs: Pairs = tuple(combinations(self._tasks, 2))
        u, place = len(of_units), {pair: i for i, pair in enumerate(self.pairs)}
        apart = [(i, j) for i, j in combinations(range(u), 2) if of_units[i] != of_units[j]]
        device = tensors_in(self._batch)[0].device
        self._places = torch.tensor([i * u + j for i, j in apart], device=device)  # in a matrix over units
        order = [sorted((of_units[i], of_units[j]), key=self._tasks.index) for i, j in apart]
        self._pair_of = torch.tensor([place[a, b] for a, b in order], device=device)

    # ------------------------------------------------------------------ measuring

    def measure(self) -> Moment:
        """Measure with the weights of now, and leave the model as it is."""
        with undisturbed(self.model):
            numbers, chance = self.at_samples(), None
            if self._readouts:
                levels, _ = self._readouts.levels(lambda asked: {k: v[1:] for k, v in self._means(asked).items()})
                chance = torch.tensor([levels[layer] for layer in self.layers], dtype=torch.float64)
            cosine = self._parameter_cosine() if self.on == "losses" else None
        sums, weights = numbers[:3], numbers[3]  # [3, l, n, p], [l, n, p]
        total = weights.sum(1, dtype=torch.float64)
        means = (sums.sum(2, dtype=torch.float64) / total.clamp_min(1)).clamp(-1, 1)  # [3, l, p]
        left = sums - means[:, :, None] * weights  # of a ratio of means, to first order
        n = weights.shape[1]
        errors = left.square().sum(2).sqrt() / total.clamp_min(1) * (n / (n - 1)) ** 0.5
        return Moment(means.cpu(), errors.cpu(), (weights > 0).sum(1).cpu(), chance, cosine)

    def at_samples(self) -> Tensor:
        """Sums over the pairs of units behind each pair of tasks: cosine, |cosine|, conflict, and their number.

        To be called with the model `undisturbed`.

        Returns:
            For each layer and sample, [4, l, n, p].
        """
        self._renew()
        session, parts = self._session, []
        n, tolerance = size_of(self._batch), CONFLICT_TOLERANCE[session.kind]
        for layer, cosine, exists in self._cosines(session):
            flat = cosine.flatten(1).index_select(1, self._places)  # [n, pairs of units]
            both = (exists[:, :, None] * exists[:, None, :]).flatten(1).index_select(1, self._places)
            conflict = torch.lt(flat, -tolerance, out=torch.empty_like(flat))
            numbers = torch.stack([flat, flat.abs(), conflict, both])
            if len(self._pair_of) > len(self.pairs):
                shape = (*numbers.shape[:2], len(self.pairs))
                numbers = numbers.new_zeros(shape).index_add_(2, self._pair_of, numbers)
            parts.append((layer, numbers))
        by_layer = {name: [numbers for layer, numbers in parts if layer == name] for name in self.layers}
        return torch.stack([torch.cat(chunks, 1).expand(-1, n, -1) for chunks in by_layer.values()], 1)

    def readouts(self) -> dict[str, Tensor]:
        """Compare the random read-outs, after `at_samples` and with the model `undisturbed`.

        Returns:
            For each layer |mean cosine| over samples of every two of them: chance for mean cosines.
        """
        if not self._readouts:
            return {}
        sets = self._readouts.sets
        found = {layer: matrices for layer, (_, matrices) in self._readouts.known.items()}
        for session, *_ in self._readouts.parts:
            found |= {layer: sets.within(mean.abs()) for layer, (mean, _, _) in self._means(session).items()}
        return {layer: matrices[sets.different] for layer, matrices in found.items()}

    def _renew(self) -> None:
        """Take the weights as they are now; where more than that has changed, prepare anew."""
        session = self._session.renewed()
        if session is None:
            return self._prepare()
        self._session = session
        if self._readouts:
            parts = [(one.renewed(session) or one, own, level) for one, own, level in self._readouts.parts]
            self._readouts.parts = parts
        return None

    def _cosines(self, session: Session) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Cosines of all pairs of units, [n, u, u], and which gradients exist, [n, u]; of one sample if all are alike.

        Yields:
            Layer by layer; for each chunk of samples again.
        """
        n, size = size_of(session.batch), session.samples_at_a_time()
        for start in range(0, n, size):
            samples, is_small = part(session.batch, start, start + size), session.n_units * min(n, size) <= SMALL
            capture = session.network.capture(samples, session.readout, is_small=is_small)
            for layer, rows in capture.gradients.items():
                if start == 0 or not rows.is_constant:
                    yield layer, *_cosines(rows, layer)

    def _means(self, session: Session) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """Mean cosine and |cosine| of all pairs of units, and whether they have one, [u, u], per layer."""
        sums: dict[str, Tensor] = {}
        for layer, cosine, exists in self._cosines(session):
            parts = torch.stack([cosine.sum(0), cosine.abs().sum(0), exists.T @ exists]).double()
            sums[layer] = sums[layer] + parts if layer in sums else parts
        means = {layer: (part[:2] / part[2].clamp_min(1)).cpu() for layer, part in sums.items()}
        return {layer: (*means[layer], part[2].cpu()) for layer, part in sums.items()}

    def _parameter_cosine(self) -> Tensor:
        """Cosines of the gradients of mean losses, on the parameters that both reach; 0 where one of them vanishes.

        Returns:
            A number per pair, [p].
        """
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        with torch.enable_grad():
            result = self.forward(self.model, each(self._batch, torch.clone))  # type: ignore[misc]
            heads = heads_of(result, size_of(self._batch), type(self.model).__name__)
            losses = torch.cat(list(heads.values()), 1)[:, self._session.readout].mean(0)
            keep: dict[str, Any] = {"retain_graph": True, "allow_unused": True}
            nothing = (None,) * len(parameters)
            moves = bool(parameters) and losses.requires_grad
            rows = [torch.autograd.grad(loss, parameters, **keep) if moves else nothing for loss in losses]
        t = len(self._tasks)
        products, squares = (losses.new_zeros(t, t, dtype=torch.float64) for _ in range(2))
        for column in zip(*rows, strict=True):
            some = next((gradient for gradient in column if gradient is not None), None)
            if some is not None:
                whole = [torch.zeros_like(some) if gradient is None else gradient for gradient in column]
                flat = torch.stack(whole).flatten(1).double()
                inner = flat @ flat.T
                products += inner
                squares += inner.diagonal()[:, None] * (inner.diagonal() > 0)  # of one, where the other is not zero
        check_finite_result("gradients", products, "the parameters", "probe")
        lengths = squares.sqrt() * squares.T.sqrt()
        cosine = torch.where(lengths > 0, products / lengths.clamp_min(torch.finfo(lengths.dtype).tiny), 0)
        return cosine.clamp(-1, 1)[*torch.triu_indices(t, t, 1)].cpu()


def _cosines(rows: LowRank, layer: str) -> tuple[Tensor, Tensor]:
    """Return cosines of units' gradients [n, u, u], and which exist, [n, u]; of one sample for constant gradients."""
    gradients = rows.coordinates()
    products, _ = gram(gradients[:, :1] if rows.is_constant else gradients, layer)
    length = diagonals(products).sqrt_()
    exists = (length > 0).to(length)
    inverse = (length + (1 - exists)).reciprocal_()
    return products.mul_(inverse[:, :, None]).mul_(inverse[:, None, :]), exists
