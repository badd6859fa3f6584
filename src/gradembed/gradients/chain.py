"""The matrix-product path: chains of linear layers and elementwise modules, of one network or an ensemble at once.

With activations a_p after step p and a read-out S [u, D] of the unit layer, the gradient of all units of
all samples is S W_k diag(s_k) W_{k-1} ... , where s are the slopes of the elementwise steps at the sample. An ensemble
has an axis [e] before all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from gradembed._validation import FLOAT_TYPES, describe, refuse
from gradembed.gradients.layers import default_names
from gradembed.gradients.lowrank import Basis, Capture, LowRank, product
from gradembed.gradients.patterns import SKIPPED, is_smooth, pattern_words, splits
from gradembed.gradients.sites import OUTPUT, Site, refuse_independent
from gradembed.models import ACTIVATIONS, MLP, MLPEnsemble, StackedLinear

# Exact types only: a subclass may compute something else.
ELEMENTWISE = (*ACTIVATIONS.values(), nn.PReLU, nn.Dropout, nn.BatchNorm1d)
_CONTAINER_FORWARDS = (nn.Sequential.forward, MLP.forward)
CHUNK_BYTES = 10 * 2**20  # of gradients at a time: fewer calls than smaller chunks, and still kept by the allocator
GROUP_BYTES = 8 * 2**20  # of what one group of an ensemble computes: about what a processor keeps in its cache
FEW = 8  # samples; of fewer at a time, running sums over many pairs of units cost more than the samples


@dataclass(frozen=True)
class Linear:
    """A linear layer of one network, or of every network of an ensemble.

    Attributes:
        weight: [*e, out, in].
        bias: [*e, out], or ``None``.
    """

    weight: Tensor
    bias: Tensor | None

    def __call__(self, a: Tensor) -> Tensor:
        """Map activations, [*e, n, in] to [*e, n, out]."""
        if self.weight.ndim == 2 or self.bias is None:
            return nn.functional.linear(a, self.weight, self.bias)
        return torch.baddbmm(self.bias[:, None], a, self.weight.mT)

    def of(self, members: slice) -> Linear:
        """The layer of some members of an ensemble."""
        return Linear(self.weight[members], None if self.bias is None else self.bias[members])


Step = Linear | nn.Module


class Chain:
    """A network that is a chain, or an ensemble of them, with a position for each of its layer names.

    Attributes:
        steps: What it does, one after the other.
        positions: Layer name → number of steps before that layer's activations; "input" is 0.
        width: Features that the first linear layer takes, or ``None`` without one.
        n_members: Networks of an ensemble, or ``None``.
        time: When each of them is there: the same.
        sites: Where gradients are wanted, once `ask` has been called.
        widths: Of each site.
        heads: The number of units, as of a single head.
    """

    def __init__(self, model: nn.Module, steps: list[Step], positions: dict[str, int], n_members: int | None) -> None:
        self.model, self.steps, self.positions, self.n_members = model, steps, positions, n_members
        self.width = next((step.weight.shape[-1] for step in steps if isinstance(step, Linear)), None)
        self.time = positions
        self._bases = {p: Basis(step.weight) for p, step in enumerate(steps) if isinstance(step, Linear)}

    @classmethod
    def of(cls, model: nn.Module, x: Any) -> Self | None:
        """Read a model as a chain.

        Returns:
            The chain, or ``None`` if the model, or these samples, need the general path.
        """
        if not isinstance(x, Tensor) or x.dtype not in FLOAT_TYPES:
            return None
        steps: list[Step] = []
        positions = {"input": 0}
        if not _flatten(model, "", steps, positions):
            return None
        if x.ndim != 2 and not isinstance(model, MLPEnsemble) and not (steps and isinstance(steps[0], nn.Flatten)):
            return None
        positions.setdefault("output", len(steps))
        return cls(model, steps, positions, len(model) if isinstance(model, MLPEnsemble) else None)

    @property
    def names(self) -> list[str]:
        """All layer names."""
        return list(self.positions)

    def ask(
        self, x: Tensor, unit_site: Site, sites: list[Site] | None, x_name: str = "x", argument: str = "layers"
    ) -> None:
        """Say what the chain is asked for, refusing samples and layers that do not fit it.

        Args:
            x: Samples, [n, ...], or [e, n, d].
            unit_site: What the units are of.
            sites: Where gradients are wanted; ``None`` for the default layers.
            x_name: What the caller's users call ``x``.
            argument: What they call ``sites``.
        """
        e, takes = self.n_members, self.width
        if e is None and takes is not None and x[0].numel() != takes:
            rule = f"have {takes} features, the width of the model's first layer"
            refuse(x_name, rule, describe(x), "Pass samples shaped as in training")
        if e is not None and (x.shape[-1] != takes or x.ndim not in (2, 3) or (x.ndim == 3 and len(x) != e)):
            rule = f"have shape [m, {takes}] for all members, or [{e}, m, {takes}]"
            refuse(x_name, rule, describe(x), "Match them to the ensemble")
        self.unit_site = unit_site
        if self.top(unit_site) == 0:
            refuse("unit_layer", "come after the input", repr(str(unit_site)), "Choose a layer of the model")
        for site in sites or ():
            if not self.top(unit_site) > self.positions[site.name]:
                refuse_independent(argument, site, unit_site)
        self.sites = self.default_sites() if sites is None else sites
        width = [x[0].numel() if e is None else x.shape[-1]]  # at each position
        for step in self.steps:
            width.append(step.weight.shape[-2] if isinstance(step, Linear) else width[-1])
        self.heads = {"": width[self.top(unit_site)]}
        self.widths = {str(site): width[self.positions[site.name]] for site in self.sites}
        linear = [step.weight.shape[-2] for step in self.steps[: self.top(unit_site)] if isinstance(step, Linear)]
        self.widest = max(linear, default=1)

    def default_sites(self) -> list[Site]:
        """The input, and the layers before the units, each once: a pass-through is the layer before it."""
        work = [0]  # steps that do anything, before each position
        for step in self.steps:
            work.append(work[-1] + (not isinstance(step, SKIPPED)))
        done = {name: work[self.positions[name]] for name in reversed(default_names(self.model))}
        first = {at: name for name, at in done.items() if 0 < at < work[self.top(self.unit_site)]}
        return [Site("input"), *(Site(first[at]) for at in sorted(first))]

    def top(self, unit_site: Site) -> int:
        """The number of steps before the units."""
        return len(self.steps) if unit_site is OUTPUT else self.positions[unit_site.name]

    def chunk(self, item: int, u: int) -> int:
        """The number of samples at a time, for numbers of ``item`` bytes and u units."""
        each = u * max(self.widest, u, 64) * item
        return max(1, CHUNK_BYTES // each, min(FEW, 4 * CHUNK_BYTES // each))

    def members_at_a_time(self, x: Tensor, u: int) -> int:
        """The number of an ensemble's networks whose numbers, at samples [e, n, d], stay in the caches."""
        m, d = x.shape[-2:]
        widths = [d, *(step.weight.shape[-2] for step in self.steps if isinstance(step, Linear))]
        return max(1, GROUP_BYTES // (m * (sum(widths) + u * max(widths)) * x.element_size()))

    def members(self, chosen: slice) -> Chain:
        """Some members of an ensemble."""
        steps = [step.of(chosen) if isinstance(step, Linear) else step for step in self.steps]
        chain = Chain(self.model, steps, self.positions, len(range(self.n_members or 0)[chosen]))
        chain.unit_site, chain.sites, chain.heads, chain.widest = self.unit_site, self.sites, self.heads, self.widest
        return chain

    @torch.no_grad()
    def capture(self, x: Tensor, readout: Tensor, *, patterns: bool = False, **_: Any) -> Capture:
        """Run forward to the unit layer and back to the lowest of the sites.

        Args:
            x: Samples, [n, ...], or [e, n, d].
            readout: How units read the unit layer: their indices [u], or directions [*e, u, D].
            patterns: Whether to note the states of the units that gradients pass through, if all steps have such.

        Returns:
            Values, activations and gradients.
        """
        stops = {str(site): self.positions[site.name] for site in self.sites}
        bottom, top = min(stops.values()), self.top(self.unit_site)
        x = x.flatten(1) if self.n_members is None else x
        activations, slopes, states = self._forward(x, set(stops.values()), bottom, top)
        a = activations[top]
        patterns = patterns and not any(map(is_smooth, self.steps[bottom:top]))
        n, states = a.shape[-2], states if patterns else {}
        own = None if patterns else self._through_elementwise(readout, max(stops.values()), slopes)
        rows, start = own or self.read_out(readout, x)
        gradients, words = self._backward(rows, start, set(stops.values()), slopes, states, n)
        if patterns and words is None:  # the same piece everywhere
            words = np.zeros((*rows.shape[:-2], n, 1), np.uint64)
        return Capture(
            a[..., readout].mT if readout.ndim == 1 else readout.to(a) @ a.mT,
            {layer: activations[p] for layer, p in stops.items()},
            {layer: gradients[p] for layer, p in stops.items()},
            words,
        )

    def read_out(self, readout: Tensor, x: Tensor) -> tuple[Tensor, int]:
        """Begin the way back: rows [*e, u, 1, r], common to all samples, and the number of steps below them."""
        top = self.top(self.unit_site)
        if readout.ndim > 1:
            return readout[..., None, :].to(x), top
        step = self.steps[top - 1]
        if isinstance(step, Linear):  # its weights are the gradients of its units; no matrix as wide as the layer
            return step.weight[..., readout.to(x.device), :][..., None, :], top - 1
        rows = nn.functional.one_hot(readout, self.heads[""]).to(x)[:, None]
        return rows if self.n_members is None else rows.expand(self.n_members, *rows.shape), top

    def _through_elementwise(
        self, readout: Tensor, highest: int, slopes: dict[int, Tensor]
    ) -> tuple[Tensor, int] | None:
        """Begin below the last linear layer, where that makes rows shorter: until there, units do not meet.

        Returns:
            Rows, [*e, u, n or 1, r], and the number of steps below them, of units [u] of a layer of elementwise steps;
            else ``None``.
        """
        p = top = self.top(self.unit_site)
        while p > highest and not isinstance(self.steps[p - 1], Linear):
            p -= 1
        step = self.steps[p - 1]
        if readout.ndim > 1 or p in (top, highest) or step.weight.shape[-1] >= step.weight.shape[-2]:  # type: ignore
            return None
        rows = step.weight[..., readout, :][..., None, :]  # type: ignore[index]
        for slope in (slopes[q] for q in range(p, top) if q in slopes):
            rows = rows * slope[..., readout].mT[..., None]
        return rows, p - 1

    def _forward(self, a: Tensor, wanted: set[int], bottom: int, top: int) -> tuple[dict[int, Tensor], ...]:
        """Run forward, keeping activations where wanted, slopes, and what tells the piece of a step with two slopes."""
        activations, slopes, states = {}, {}, {}
        for p, step in enumerate(self.steps[:top]):
            if p in wanted:
                activations[p] = a
            if isinstance(step, Linear):
                a = step(a)
            elif not isinstance(step, SKIPPED):
                entered = a
                a, slope = apply_with_slope(step, a, with_slope=p >= bottom)
                if slope is not None:
                    slopes[p] = slope
                if p >= bottom and splits(step):
                    states[p] = a if type(step) is nn.ReLU else entered
        activations[top] = a
        return activations, slopes, states

    def _backward(
        self, rows: Tensor, start: int, wanted: set[int], slopes: dict[int, Tensor], states: dict[int, Tensor], n: int
    ) -> tuple[dict[int, LowRank], np.ndarray | None]:
        """Go back, keeping what is common to all samples common, and products unmade, as long as that can be."""
        # the gradient at any time is (rows * slope) @ basis, with rows [*e, u, n, r] or, common, [*e, u, 1, r]
        gradients: dict[int, LowRank] = {}
        words: list[np.ndarray] = []
        slope, basis, common = None, None, rows.shape[-2] == 1
        if start in wanted:
            gradients[start] = LowRank(rows, n, common)
        for p in range(start - 1, min(wanted) - 1, -1):
            here = self._bases.get(p)
            if (basis is not None and (here is not None or p in slopes)) or (slope is not None and p in states):
                rows = product(rows, slope, None if basis is None else basis.weight)
                common, slope, basis = common and slope is None, None, None
            if p in states:
                words.append(pattern_words(self.steps[p], rows, states[p]))  # type: ignore[arg-type]
            if here is not None:
                basis = here
            elif p in slopes and common:
                slope = slopes[p] if slope is None else slope * slopes[p]
            elif p in slopes:  # in place, unless a result holds the rows
                own = not any(kept.rows is rows for kept in gradients.values())
                rows = torch.mul(rows, slopes[p][..., None, :, :], out=rows if own else None)
            if p in wanted:
                if basis is not None and basis.isometry is basis.weight:  # nothing is saved by waiting
                    rows = product(rows, slope, basis.weight)
                    common, slope, basis = common and slope is None, None, None
                gradients[p] = LowRank(rows, n, common, slope, basis)
        return gradients, np.concatenate(words, -1) if words else None


def apply_with_slope(step: nn.Module, a: Tensor, *, with_slope: bool) -> tuple[Tensor, Tensor | None]:
    """Apply an elementwise module, and differentiate it as autograd does.

    Returns:
        Its output and, if wanted, its derivative at each number.
    """
    if isinstance(step, nn.ReLU):
        out = a.clamp_min(0)
        return out, out.sign() if with_slope else None
    if not with_slope:
        return step(a.clone()), None  # a copy, because the module may work in place
    with torch.enable_grad():
        leaf = a.detach().clone().requires_grad_()
        out = step(leaf.clone())
        (slope,) = torch.autograd.grad(out.sum(), leaf)
    return out.detach(), slope


def _flatten(module: nn.Module, name: str, steps: list[Step], positions: dict[str, int]) -> bool:
    """Append a module's steps and note where each name within it ends.

    Returns:
        Whether it is a chain.
    """
    if isinstance(module, torch.jit.ScriptModule) or _has_hooks(module):
        return False
    if type(module).forward in _CONTAINER_FORWARDS or type(module) is MLPEnsemble:
        for key, child in module._modules.items():
            if child is None or not _flatten(child, f"{name}.{key}" if name else key, steps, positions):
                return False
    elif type(module) in (nn.Linear, StackedLinear) and module._parameters.keys() >= {"weight", "bias"}:
        owned: dict[str, Any] = {name: p if p is None else p.detach() for name, p in module._parameters.items()}
        steps.append(Linear(owned["weight"], owned["bias"]))
    elif type(module) in ELEMENTWISE or (type(module) is nn.Flatten and module.start_dim == 1 and module.end_dim == -1):
        steps.append(module)
    else:
        return False
    if name and name != "input":
        positions[name] = len(steps)
    return True


def _has_hooks(module: nn.Module) -> bool:
    """Whether anything may change what the module computes, or the gradient through it.

    Returns:
        True if it, or every module, has hooks, or it has a forward of its own.
    """
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    of_all = nn.modules.module
    return (
        any(getattr(module, kind) or getattr(of_all, f"_global{kind}") for kind in kinds)
        or "forward" in vars(module)
        or hasattr(module, "parametrizations")
    )
