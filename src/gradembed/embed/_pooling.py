"""From fields to one row of features per unit, by averages over points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradembed import _validation
from gradembed.embed._canonical import Canonical
from gradembed.embed._features import Waves, coordinate_tokens, frame_tokens, moment_frame, uniform

CHUNK = 4_000_000  # numbers in the largest intermediate tensor
TOKEN_SCALE = 0.5  # length scale of half of the waves; the others' is twice that


@dataclass(frozen=True)
class Pooling:
    """A map from canonical fields to rows of features, fixed before it sees them.

    Attributes:
        kind: "frame", "coordinates" (frame and coordinates), "kernel" (a shared basis), or "flat" (shared points).
        waves: One set of random features for each kind of token.
    """

    kind: str
    waves: tuple[Waves, ...]

    @classmethod
    def draw(cls, kind: str, dim: int, has_values: bool, n_features: int, seed: int) -> Pooling:
        """Draw the random features.

        Returns:
            The map.
        """
        generator = torch.Generator().manual_seed(seed)
        if kind == "flat":
            return cls(kind, ())
        if kind == "kernel":
            k = max(n_features // 8, 8)
            return cls(kind, (Waves.draw(dim, k, 0.5 * dim**0.5, generator),))
        waves = [Waves.draw(13 + has_values, n_features, TOKEN_SCALE, generator)]
        if kind == "coordinates":
            waves.append(Waves.draw(9, n_features, TOKEN_SCALE, generator))
        return cls(kind, tuple(waves))

    def rows(self, fields: Canonical, visible: Tensor | None = None) -> Tensor:
        """Average.

        Args:
            fields: The units.
            visible: The points that are seen, [u, m]; ``None`` for all.

        Returns:
            [u, p].

        Raises:
            ValueError: If points and gradients are so far apart in size that their products overflow.
        """
        if self.kind == "flat":
            return self._flat(fields, visible)
        width = max([fields.gradients.shape[2], *(len(wave.phases) for wave in self.waves)])
        size = max(CHUNK // (fields.gradients.shape[1] * width), 1)
        weights = uniform(fields, visible)
        rows = torch.cat([self._pooled(part, w) for part, w in _parts(fields, weights, size)])
        if not _validation.is_finite(rows):
            rule, remedy = "have points and gradients whose products are finite", "Scale the points down"
            _validation.refuse("fields", rule, "an overflow", remedy)
        return rows

    def _flat(self, fields: Canonical, visible: Tensor | None) -> Tensor:
        """Line the gradients up, zero where unseen; the more is unseen, the larger is the rest.

        Returns:
            [u, m·d].
        """
        weights = uniform(fields, visible) * fields.gradients.shape[1] ** 0.5
        rows: Tensor = (fields.gradients * weights[..., None]).flatten(1)
        return rows

    def _pooled(self, fields: Canonical, weights: Tensor) -> Tensor:
        """Average a few units.

        Returns:
            [u, p].
        """
        if self.kind == "kernel":
            channels = fields.gradients
            if fields.values is not None:
                channels = torch.cat([channels, fields.values[..., None]], 2)
            phi = self.waves[0](fields.points)
            phi = torch.cat([torch.ones_like(phi[..., :1]), phi], 2) * weights[..., None]
            return (phi.mT @ channels).flatten(1)
        frame = moment_frame(fields, weights)
        rows = self.waves[0].mean(frame_tokens(fields, frame, weights), weights)
        if self.kind == "frame":
            return rows
        tokens = coordinate_tokens(fields, weights)
        return torch.cat([rows, self.waves[1](tokens).mean(1)], 1)


def pooling_kind(invariance: str, *, is_flat: bool) -> str:
    """Choose what is averaged.

    Returns:
        A `Pooling.kind`.
    """
    if invariance == "none":
        return "flat" if is_flat else "kernel"
    return "coordinates" if invariance == "permutation" else "frame"


def _parts(fields: Canonical, weights: Tensor, size: int) -> Iterator[tuple[Canonical, Tensor]]:
    """Cut the units into chunks.

    Yields:
        Fields and weights of a few units.
    """
    for start in range(0, len(weights), size):
        chosen = slice(start, start + size)
        values = None if fields.values is None else fields.values[chosen]
        part = replace(fields, points=fields.points[chosen], gradients=fields.gradients[chosen], values=values)
        yield part, weights[chosen]
