"""Blocks of features: averages over a unit's points, blind to changes of basis, and the principal components of them.

In shapes, a [u, m, d] are points, g [u, m, d] gradients, f [u, m] values and w [u, m] weights of the points, which add
up to 1 for each unit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from sklearn.utils.extmath import svd_flip
from torch import Tensor

from gradembed._validation import is_finite, refuse
from gradembed.embed._coordinates import Canonical, slices
from gradembed.fields._fields import GradientFields

SOFTNESS = 0.5  # vectors of a frame much shorter than this are noise and are not blown up
TOKEN_SCALE = 0.5  # length scale of half of the waves; the others' is twice that
CHUNK = 4_000_000  # numbers in the largest intermediate tensor
FLOOR = 1e-6  # components with less than this share of the largest spread are rounding


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
        return torch.cos(tokens @ self.weights + self.phases)


Block = Callable[[Waves, Tensor, Tensor, Tensor | None, Tensor], Tensor]


def flat_block(_: Waves, a: Tensor, g: Tensor, f: Tensor | None, w: Tensor) -> Tensor:  # noqa: ARG001
    """Return the gradients in line, zero where unseen; the more is unseen, the larger is the rest: [u, m·d]."""
    rows: Tensor = g * (w * g.shape[1] ** 0.5)[..., None]  # [u, m, d]
    return rows.flatten(1)


def kernel_block(waves: Waves, a: Tensor, g: Tensor, f: Tensor | None, w: Tensor) -> Tensor:
    """Return the kernel mean E[φ(a) ⊗ (g, f)] with φ = 1 and waves of the point, [u, (k + 1)(d + 1)]."""
    channels = g if f is None else torch.cat([g, f[..., None]], 2)
    phi = waves(a)
    phi = torch.cat([torch.ones_like(phi[..., :1]), phi], 2) * w[..., None]  # [u, m, k + 1]
    return (phi.mT @ channels).flatten(1)


def frame_block(waves: Waves, a: Tensor, g: Tensor, f: Tensor | None, w: Tensor) -> Tensor:
    """Return the mean over points of waves of numbers that do not depend on the basis, [u, k].

    They are f (if known), a·g, |g|, a and g in the moment frame, and with C = E[g g'] of trace 1 the forms g'Cg, a'Ca
    and g'Ca, which see what an even function hides from the frame.
    """
    frame = moment_frame(g, _heights(a, g, f), w)
    second = (g * w[..., None]).mT @ g  # [u, d, d]
    second = second / second.diagonal(dim1=1, dim2=2).sum(1).clamp_min(1e-12)[:, None, None]
    ga, gg = g @ second, (g.square()).sum(2).sqrt()
    forms = [(ga * g).sum(2), ((a @ second) * a).sum(2), (ga * a).sum(2)]
    scalars = [*([] if f is None else [f]), (a * g).sum(2), gg, *forms]
    tokens = torch.cat([torch.stack(scalars, 2), a @ frame.mT, g @ frame.mT], 2)  # [u, m, 13 or 14]
    return torch.bmm(w[:, None], waves(tokens))[:, 0]


def coordinate_block(waves: Waves, a: Tensor, g: Tensor, f: Tensor | None, w: Tensor) -> Tensor:
    """Return the mean over coordinates of waves of moments over points, which no other coordinate enters, [u, k]."""
    f, w = _heights(a, g, f)[..., None], w[..., None]  # [u, m, 1]
    strength = a.shape[2] ** 0.5  # so that one coordinate of d counts like a whole gradient
    moments = [
        (w * g).sum(1) * strength,
        (w * g.square()).sum(1).sqrt() * strength,
        (w * g * f).sum(1) * strength,
        (w * g * (f.square() - 1)).sum(1) * strength,
        (w * a * g).sum(1) * strength,
        (w * a * f).sum(1),
        (w * a * (f.square() - 1)).sum(1),
        (w * a.square()).sum(1).sqrt(),
        (w * a.pow(3)).sum(1) / 3,
    ]
    return waves(torch.stack(moments, 2)).mean(1)  # tokens [u, d, 9]


def moment_frame(g: Tensor, f: Tensor, w: Tensor) -> Tensor:
    """Return each unit's frame of four vectors that turn with its basis, from mean gradients, [u, 4, d].

    The vectors are E[ψ(f) g] with ψ = 1, f, f² - 1, tanh(3f/2), stacked to V and softly made orthonormal:
    (V V' + s²)^-½ V. Nothing has to be sorted and no sign chosen, so the frame depends smoothly on the field. A
    direction in which all four means vanish, as for a function that is even along it, is missing.
    """
    curves = torch.stack([torch.ones_like(f), f, f.square() - 1, torch.tanh(1.5 * f)], 1) * w[:, None]  # [u, 4, m]
    vectors = (curves @ g).double()  # [u, 4, d]
    squares, turns = torch.linalg.eigh(vectors @ vectors.mT)
    shrink = (squares.clamp_min(0) + SOFTNESS**2).rsqrt()
    frame: Tensor = (turns * shrink[:, None]) @ turns.mT @ vectors
    return frame.float()


def _heights(a: Tensor, g: Tensor, f: Tensor | None) -> Tensor:
    """Return the values or, where there are none, what the gradient says of them: a·g, standardized, [u, m]."""
    if f is not None:
        return f
    pairing = (a * g).sum(2)
    centered = pairing - pairing.mean(1, keepdim=True)
    return centered / centered.square().mean(1, keepdim=True).sqrt().clamp_min(1e-6)


class Features:
    """A map from canonical fields to one row of features per unit, fixed before it sees them: blocks, side by side.

    Args:
        invariance: As for `FieldDescriptor`.
        fields: Of the fit; only their dimension counts, and whether they have values.
        is_flat: Whether the units share their points, and gradients are just put in line.
        n: Random waves of each kind of token.
        seed: Of the waves.
    """

    def __init__(self, invariance: str, fields: GradientFields, *, is_flat: bool, n: int, seed: int) -> None:
        generator, d = torch.Generator().manual_seed(seed), fields.dim
        self.blocks: list[tuple[Block, Waves]] = []
        if is_flat:
            self.blocks += [(flat_block, Waves(0, 0, 1, generator))]
        elif invariance == "none":
            self.blocks += [(kernel_block, Waves(d, max(n // 8, 8), 0.5 * d**0.5, generator))]
        else:
            self.blocks += [(frame_block, Waves(13 + (fields.values is not None), n, TOKEN_SCALE, generator))]
        if invariance == "permutation":
            self.blocks += [(coordinate_block, Waves(9, n, TOKEN_SCALE, generator))]

    def transform(self, fields: Canonical, visible: Tensor | None = None) -> Tensor:
        """Return averages over the points that are seen, [u, m] of True, or over all: [u, p]."""
        a, g, f = fields.points, fields.gradients, fields.values
        u, m, d = g.shape
        seen = torch.ones(u, m) if visible is None else visible.float()
        weights = seen / seen.sum(1, keepdim=True)
        size = max(CHUNK // (m * max([d, *(len(waves.phases) for _, waves in self.blocks)])), 1)
        parts = []
        for i in slices(u, size):
            given = (a[i], g[i], None if f is None else f[i], weights[i])
            parts.append(torch.cat([block(waves, *given) for block, waves in self.blocks], 1))
        rows = torch.cat(parts)
        if not is_finite(rows):
            rule = "have points and gradients whose products are finite"
            refuse("fields", rule, "an overflow", "Scale the points down")
        return rows


class PrincipalComponents:
    """A projection on principal components, all divided by one number: distances keep their proportions.

    Args:
        rows: What to find the components of, [u, p].
        k: How many; fewer if the rows have fewer.

    Attributes:
        n: How many there are.
        center: Mean row, [p].
        matrix: [p, n].
    """

    def __init__(self, rows: Tensor, k: int) -> None:
        center = rows.double().mean(0)
        centered = rows.double() - center
        _, spreads, vectors = torch.linalg.svd(centered, full_matrices=False)
        self.n = min(max(int((spreads > FLOOR * spreads[0]).sum()), 1), k)
        basis = flipped(vectors[: self.n]).T
        size = (centered @ basis).square().mean().sqrt()
        self.center, self.matrix = center.to(rows), (basis / torch.where(size > 0, size, 1)).to(rows)

    def transform(self, rows: Tensor) -> Tensor:
        """Return rows, [..., p], projected, [..., n]."""
        return (rows - self.center) @ self.matrix


def flipped(vectors: Tensor) -> Tensor:
    """Return vectors, [k, p], with the signs that make the largest entry of each positive."""
    return torch.from_numpy(svd_flip(None, vectors.numpy().copy("K"), u_based_decision=False)[1])
