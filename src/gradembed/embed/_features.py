"""What is averaged over the points of a unit: tokens in a frame of the unit's own, and random features of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradembed.embed._canonical import Canonical

FRAME_SIZE = 4
SOFTNESS = 0.5  # vectors of a frame much shorter than this are noise and are not blown up


def moment_frame(fields: Canonical, weights: Tensor) -> Tensor:
    """Build each unit's frame of four vectors that turn with its basis, from mean gradients.

    The vectors are E[ψ(f) g] with ψ = 1, f, f² - 1, tanh(3f/2), stacked to V and softly made orthonormal:
    (V V' + s²)^-½ V. Nothing has to be sorted and no sign chosen, so the frame depends smoothly on the field. A
    direction in which all four means vanish, as for a function that is even along it, is missing.

    Args:
        fields: The units.
        weights: Of the points, adding up to 1 for each unit, [u, m].

    Returns:
        [u, 4, r].
    """
    f = _height(fields)
    curves = torch.stack([torch.ones_like(f), f, f.square() - 1, torch.tanh(1.5 * f)], 1) * weights[:, None]
    vectors = (curves @ fields.gradients).double()
    squares, turns = torch.linalg.eigh(vectors @ vectors.mT)
    shrink = (squares.clamp_min(0) + SOFTNESS**2).rsqrt()
    frame: Tensor = (turns * shrink[:, None]) @ turns.mT @ vectors
    return frame.float()


def _height(fields: Canonical) -> Tensor:
    """The values or, where there are none, what the gradient says of them: a·g, standardised.

    Returns:
        [u, m].
    """
    if fields.values is not None:
        return fields.values
    pairing = (fields.points * fields.gradients).sum(2)
    centred = pairing - pairing.mean(1, keepdim=True)
    return centred / centred.square().mean(1, keepdim=True).sqrt().clamp_min(1e-6)


def frame_tokens(fields: Canonical, frame: Tensor, weights: Tensor) -> Tensor:
    """Describe each point by numbers that do not depend on the basis.

    They are f (if known), a·g, |g|, a and g in the frame, and with C = E[g g'] normalised to trace 1 the forms g'Cg,
    a'Ca and g'Ca, which see what an even function hides from the frame.

    Args:
        fields: The units.
        frame: [u, 4, r].
        weights: As for `moment_frame`.

    Returns:
        [u, m, number of tokens].
    """
    a, g = fields.points, fields.gradients
    second = (g * weights[..., None]).mT @ g
    second = second / second.diagonal(dim1=1, dim2=2).sum(1).clamp_min(1e-12)[:, None, None]
    ga, gg = g @ second, (g.square()).sum(2).sqrt()
    forms = [(ga * g).sum(2), ((a @ second) * a).sum(2), (ga * a).sum(2)]
    scalars = [*([] if fields.values is None else [fields.values]), (a * g).sum(2), gg, *forms]
    return torch.cat([torch.stack(scalars, 2), a @ frame.mT, g @ frame.mT], 2)


def coordinate_tokens(fields: Canonical, weights: Tensor) -> Tensor:
    """Describe each coordinate of the layer by moments over the points, which no other coordinate enters.

    Args:
        fields: The units.
        weights: As for `moment_frame`.

    Returns:
        [u, d, 9].
    """
    a, g, f = fields.points, fields.gradients, _height(fields)[..., None]
    w = weights[..., None]
    d = a.shape[2]
    strength = d**0.5  # so that one coordinate of d counts like a whole gradient
    mean = (w * g).sum(1)
    moments = [
        mean * strength,
        (w * g.square()).sum(1).sqrt() * strength,
        (w * g * f).sum(1) * strength,
        (w * g * (f.square() - 1)).sum(1) * strength,
        (w * a * g).sum(1) * strength,
        (w * a * f).sum(1),
        (w * a * (f.square() - 1)).sum(1),
        (w * a.square()).sum(1).sqrt(),
        (w * a.pow(3)).sum(1) / 3,
    ]
    return torch.stack(moments, 2)


@dataclass(frozen=True)
class Waves:
    """Random Fourier features cos(w·t + b) of tokens, half of them at one and half at twice the length scale.

    Attributes:
        weights: [number of tokens, k].
        phases: [k].
    """

    weights: Tensor
    phases: Tensor

    @classmethod
    def draw(cls, n_tokens: int, k: int, scale: float, generator: torch.Generator) -> Waves:
        """Draw directions and phases.

        Returns:
            The features.
        """
        scales = torch.full((k,), scale)
        scales[k // 2 :] *= 2
        weights = torch.randn(n_tokens, k, generator=generator) / scales
        return cls(weights, 2 * torch.pi * torch.rand(k, generator=generator))

    def mean(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """Average the features over points.

        Args:
            tokens: [u, m, number of tokens].
            weights: [u, m].

        Returns:
            [u, k].
        """
        return torch.bmm(weights[:, None], self(tokens))[:, 0]

    def __call__(self, tokens: Tensor) -> Tensor:
        return torch.cos(tokens @ self.weights + self.phases)


def uniform(fields: Canonical, visible: Tensor | None) -> Tensor:
    """Weigh the points that are seen equally.

    Returns:
        Weights adding up to 1 for each unit, [u, m].
    """
    u, m, _ = fields.gradients.shape
    seen = torch.ones(u, m) if visible is None else visible.float()
    return seen / seen.sum(1, keepdim=True)
