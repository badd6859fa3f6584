"""Blocks of features: averages over a unit's points, or pairs of them, each blind to a group of changes of basis.

In shapes, a [u, m, d] are points, g [u, m, d] gradients, f [u, m] values, w [u, m] weights of the points, which add up
to 1 for each unit, and r are reference points, evenly spaced among a unit's points in the order of its values.
All blocks but level and floor are blind to shifts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

SOFTNESS = 0.5  # vectors of a frame much shorter than this are noise and are not blown up
BINS = 8  # of points, by the rank of their value
REFERENCES = 128  # points that all points are paired with, at most
PAIRS = 1000  # of points, drawn at random
NEAR = 2.0  # exp(-2 gap), in units of the median squared gap
QUANTILES = 32
TIE = 1e-5  # values closer than this are one, in units of their spread


class Waves:
    """Random Fourier features cos(w·t + b) of tokens, half of them at one and half at twice the length scale.

    Args:
        n_tokens: Numbers per token, t.
        k: Features.
        scale: The smaller length scale.
        generator: Of the directions, [t, k], and phases, [k].
    """

    def __init__(self, n_tokens: int, k: int, scale: float, generator: torch.Generator) -> None:
        scales = torch.full((k,), scale)
        scales[k // 2 :] *= 2
        self.weights: Tensor = torch.randn(n_tokens, k, generator=generator) / scales
        self.phases: Tensor = 2 * torch.pi * torch.rand(k, generator=generator)

    def __call__(self, tokens: Tensor) -> Tensor:
        flat_tokens = tokens.flatten(0, -2)
        return torch.addmm(self.phases, flat_tokens, self.weights).cos_().view(*tokens.shape[:-1], -1)


class Units:
    """Some units, in canonical coordinates, and what several blocks need of them.

    Args:
        a: Points, [u, m, d].
        g: Gradients, [u, m, d].
        f: Values, or what stands for them, of mean 0 and variance 1, [u, m].
        zero: The layer's zero in these coordinates, [u or 1, 1, d].
        offset: The value's mean in units of its spread, [u].
        has_values: Whether f are values.
        is_affine: Whether gradients are measured by the points' own covariance: then no basis is preferred.
        draws: Two uniform numbers for each pair of points, [2, pairs].
    """

    def __init__(
        self, a: Tensor, g: Tensor, f: Tensor, zero: Tensor, offset: Tensor, draws: Tensor, *, has_values: bool,
        is_affine: bool,
    ) -> None:  # fmt: skip
        self.a, self.g, self.f, self.zero, self.offset = a, g, f, zero, offset
        self.has_values, self.is_affine, self.draws = has_values, is_affine, draws
        self.m, self._made = f.shape[1], dict[str, Tensor]()

    @cached_property
    def order(self) -> Tensor:
        """Points by rising value, [u, m]; where values differ by no more than rounding, by g·a."""
        first = self.own.argsort(dim=1, stable=True)
        values = (self.f / TIE).round().gather(1, first)
        return first.gather(1, values.argsort(dim=1, stable=True))

    @cached_property
    def references(self) -> Tensor:
        """Which points are references, [u, r]."""
        n = min(self.m, REFERENCES)
        return self.order[:, (torch.arange(n) * self.m + self.m // 2) // n]

    @cached_property
    def own(self) -> Tensor:
        """g_i·a_i, [u, m]."""
        return (self.g * self.a).sum(2)

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """Make something that does not depend on which points are seen, when it is first asked for."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    @cached_property
    def covariance(self) -> Tensor:
        """Σ of the points, [u, d, d]."""
        return self.a.mT @ self.a / self.m

    def dual(self, vectors: Tensor) -> Tensor:
        """Return what gradients are multiplied by in place of vectors v, [u, n, d]: v, or Σv."""
        return vectors @ self.covariance if self.is_affine else vectors

    @cached_property
    def length(self) -> Tensor:
        """The length of each gradient, (g'g)^½ or (g'Σg)^½, [u, m]."""
        return (self.dual(self.g) * self.g).sum(2).clamp_min_(0).sqrt()

    @cached_property
    def reach(self) -> Tensor:
        """g_i·a_j, the first-order value at a reference j seen from i, [u, m, r]."""
        return self.g @ at(self.a, self.references).mT

    @cached_property
    def gap(self) -> Tensor:
        """|a_i - a_j|², in units of the unit's median, [u, m, r]."""
        other = at(self.a, self.references)
        gap = torch.baddbmm(other.square().sum(2)[:, None], self.a, other.mT, alpha=-2)
        gap = gap.add_(self.a.square().sum(2)[..., None]).clamp_min_(0)
        some = at(gap, self.references[:, :: -(-self.references.shape[1] // 64)])
        return gap.div_(some.flatten(1).median(1).values.clamp_min(1e-12)[:, None, None])

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Random pairs: point i, reference j, and j's place among the references, each [u, pairs]."""
        n, m = self.references.shape[1], self.m
        first, second = (self.draws[0] * m).long(), (self.draws[1] * n).long()
        return self.order[:, first], self.references[:, second], second.expand(len(self.f), -1)

    def bins(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return averages over the eighths, by rank of the value, of the points seen, [u, 8, m], and references."""
        seen = (w > 0).gather(1, self.order)
        ranks = torch.empty_like(self.order).scatter_(1, self.order, seen.cumsum(1) - 1)
        bins = ranks * BINS // seen.sum(1, keepdim=True)
        member = (bins[:, None] == torch.arange(BINS)[:, None]) & (w > 0)[:, None]
        chosen = member.gather(2, self.references[:, None].expand(-1, BINS, -1))
        return averages(member), averages(chosen)

    def by_bins(self, pairs: Tensor, w: Tensor) -> Tensor:
        """Return means of numbers of pairs, [u, m, r], over pairs of bins, [u, 8, 8]."""
        rows, columns = self.bins(w)
        return rows @ pairs @ columns.mT


def at(numbers: Tensor, points: Tensor) -> Tensor:
    """Return the rows of numbers, [u, m, k], at points of each unit's own, [u, n]."""
    if numbers.stride(0) == 0:  # the same for all units
        return numbers[0][points]
    rows = points + numbers.shape[1] * torch.arange(len(points))[:, None]
    return numbers.flatten(0, 1).index_select(0, rows.flatten()).view(*points.shape, -1)


def averages(member: Tensor) -> Tensor:
    """Return matrices that average over members, [u, bins, m]; an empty bin gives 0."""
    return member / member.sum(2, keepdim=True).clamp_min(1)


class Block(NamedTuple):
    """A block: its name, what computes it for units and weights, and its waves, which may be none."""

    name: str
    function: Callable[[Waves, Units, Tensor], Tensor]
    waves: Waves


def flat(_: Waves, units: Units, w: Tensor) -> Tensor:
    """Gradients in line, zero where unseen; the more is unseen, the larger is the rest: [u, m·d]. Blind to nothing."""
    return (units.g * (w[..., None] * float(units.m**0.5))).flatten(1)


def kernel(waves: Waves, units: Units, w: Tensor) -> Tensor:
    """Kernel mean E[φ(a) ⊗ (g, f)] with φ = 1 and waves of the point, [u, (k + 1)(d + 1)]. Blind to nothing."""
    channels = torch.cat([units.g, units.f[..., None]], 2) if units.has_values else units.g
    phi = torch.cat([torch.ones_like(units.a[..., :1]), waves(units.a)], 2) * w[..., None]  # [u, m, k + 1]
    return (phi.mT @ channels).flatten(1)


def frame(waves: Waves, units: Units, w: Tensor) -> Tensor:
    """Mean over points of waves of f, a·g, |g|, and of a and g in the moment frame, [u, k]. Blind to rotations."""
    along, dual = moment_frame(units, w)
    parts = [units.own[..., None], units.length[..., None], units.a @ along.mT, units.g @ dual.mT]
    parts = [units.f[..., None], *parts] if units.has_values else parts
    return torch.bmm(w[:, None], waves(torch.cat(parts, 2)))[:, 0]  # of tokens [u, m, 10 or 11]


def coordinates(waves: Waves, units: Units, w: Tensor) -> Tensor:
    """Mean over coordinates of waves of moments over points of each alone, [u, k]. Blind to their order."""
    a, g, f = units.a, units.g, units.f
    bend, one = (f.square() - 1) * w, w[:, None]  # [u, m], [u, 1, m]
    curves = torch.stack([w, w * f, bend], 1)
    mean, *slopes = (curves @ g).unbind(1)  # each [u, d]
    slopes = [mean, (one @ g.square())[:, 0].sqrt(), *slopes, (one @ (a * g))[:, 0]]
    _, *places = (curves @ a).unbind(1)
    squares = a.square()
    places += [(one @ squares)[:, 0].sqrt(), (one @ squares.mul_(a))[:, 0] / 3]
    strength = a.shape[2] ** 0.5  # so that one coordinate of d counts like a whole gradient
    moments = [*(slope * strength for slope in slopes), *places]
    return waves(torch.stack(moments, 2)).mean(1)  # tokens [u, d, 9]


def reach(_: Waves, units: Units, w: Tensor) -> Tensor:
    """Root mean square of g_i·a_j over pairs of bins, [u, 64]. Blind to any invertible matrix."""
    squares = units.once("squares", lambda: units.reach.square())
    return units.by_bins(squares, w).clamp_min(0).sqrt().flatten(1)


def step(_: Waves, units: Units, w: Tensor) -> Tensor:
    """Mean of tanh of the first-order change g_i·(a_j - a_i) over pairs of bins, [u, 64]. Blind like reach."""
    steps = units.once("steps", lambda: (units.reach - units.own[..., None]).tanh_())
    return units.by_bins(steps, w).flatten(1)


def near(_: Waves, units: Units, w: Tensor) -> Tensor:
    """Mean of exp(-2 gap) and exp(-gap / 2) over pairs of bins, no gradient in it, [u, 128]. Blind to rotations."""
    wide = units.once("wide", lambda: (units.gap * (-NEAR / 4)).exp_())
    narrow = units.once("narrow", lambda: wide.square().square_())
    return torch.cat([units.by_bins(kernel, w).flatten(1) for kernel in (narrow, wide)], 1)


def affine_pairs(waves: Waves, units: Units, w: Tensor) -> Tensor:
    """Mean over random pairs of waves of f_i, f_j, both first-order changes, and g_i'Σg_j, [u, k]. Blind like reach."""
    return _pair_mean(units, w, lambda: waves(_tokens(units, [])))


def metric_pairs(waves: Waves, units: Units, w: Tensor) -> Tensor:
    """The same with g_i·g_j and the root of the gap beside, which need a metric, [u, k]. Blind to rotations, shifts."""

    def made() -> Tensor:
        i, j, column = units.pairs
        gap = at(units.gap, i).gather(2, column[..., None])[..., 0]
        return waves(_tokens(units, [(at(units.g, i) * at(units.g, j)).sum(2), 2 * gap.sqrt()]))

    return _pair_mean(units, w, made)


def _tokens(units: Units, more: list[Tensor]) -> Tensor:
    i, j, column = units.pairs
    own = units.own
    there = at(units.reach, i)  # g_i·a_k at all references, [u, pairs, r]
    ahead = there.gather(2, column[..., None])[..., 0] - own.gather(1, i)
    back = (at(units.g, j) * at(units.a, i)).sum(2) - own.gather(1, j)
    spread = (there * at(units.reach, j)).mean(2)  # g_i'Σg_j, Σ that of the references
    return torch.stack([units.f.gather(1, i), units.f.gather(1, j), ahead, back, spread, *more], 2)


def _pair_mean(units: Units, w: Tensor, make: Callable[[], Tensor]) -> Tensor:
    i, j, _ = units.pairs
    seen = (w > 0).gather(1, i) & (w > 0).gather(1, j)
    weights = seen / seen.sum(1, keepdim=True).clamp_min(1)
    return torch.bmm(weights[:, None], units.once("pairs", make))[:, 0]


def level(_: Waves, units: Units, w: Tensor) -> Tensor:
    """Quantiles of the values, with their offset, [u, 32]. Blind to everything but the offset."""
    return quantiles(units.f + units.offset[:, None], w)


def floor(_: Waves, units: Units, w: Tensor) -> Tensor:
    """Quantiles of the value at zero of the affine piece at each point, [u, 32]. Blind to any matrix, not to shifts."""
    return quantiles(units.f + units.offset[:, None] - units.own + (units.g * units.zero).sum(2), w)


def quantiles(numbers: Tensor, w: Tensor) -> Tensor:
    """Return quantiles of the numbers, [u, m], at the points seen, [u, 32]."""
    last = (w > 0).sum(1, keepdim=True) - 1
    ordered = torch.where(w > 0, numbers, torch.inf).sort(1).values
    place = torch.linspace(0, 1, QUANTILES + 2)[1:-1] * last
    low, share = place.floor().long(), place.frac()
    return torch.lerp(ordered.gather(1, low), ordered.gather(1, torch.minimum(low + 1, last)), share)


def moment_frame(units: Units, w: Tensor) -> tuple[Tensor, Tensor]:
    """Make each unit's frame of four vectors that turn with its basis, from mean gradients.

    The vectors are E[ψ(f) g] with ψ = 1, f, f² - 1, tanh(3f/2), stacked to V and softly made orthonormal:
    (V V' + s²)^-½ V, or (V Σ V' + s²)^-½ V. Nothing has to be sorted and no sign chosen, so the frame depends smoothly
    on the field. A direction in which all four means vanish, as for a function that is even along it, is missing.

    Returns:
        The frame, by which points are multiplied, and its dual, by which gradients are, [u, 4, d].
    """
    f = units.f
    curves = torch.stack([torch.ones_like(f), f, f.square() - 1, torch.tanh(1.5 * f)], 1) * w[:, None]  # [u, 4, m]
    vectors = curves @ units.g  # [u, 4, d]
    dual = units.dual(vectors)
    squares, turns = torch.linalg.eigh(vectors.double() @ dual.double().mT)
    shrink = (squares.clamp_min(0) + SOFTNESS**2).rsqrt()
    soft = ((turns * shrink[:, None]) @ turns.mT).float()
    return soft @ vectors, soft @ dual


def heights(a: Tensor, g: Tensor, w: Tensor) -> Tensor:
    """Return what stands for unknown values, and what the gradients say of them: a·g, standardized, [u, m]."""
    pairing = (a * g).sum(2)
    centered = pairing - (w * pairing).sum(1, keepdim=True)
    return centered / (w * centered.square()).sum(1, keepdim=True).sqrt().clamp_min(1e-6)
