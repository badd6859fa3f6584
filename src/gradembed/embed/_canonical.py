"""Points and gradients of units in coordinates that a change of basis does not move, or only turns."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import fields as fields_of

import torch
from torch import Tensor

from gradembed import _validation
from gradembed.fields import GradientFields

INVARIANCES = ("none", "permutation", "orthogonal", "linear")
RANK_TOLERANCE = 1e-9  # directions of the points with less than this share of the largest variance are not there
UNITS_AT_A_TIME = 64  # in float64


@dataclass(frozen=True)
class Canonical:
    """Fields without scale and offset. In shapes, r counts the coordinates that are left.

    Attributes:
        points: Centred, [u, m, r].
        gradients: Of the values below, [u, m, r].
        values: Mean 0, variance 1, [u, m]; or ``None``.
        centre: What was subtracted from the points, [u, 1, d].
        forward: Points of these coordinates are (a - centre) @ forward, [u, d, r].
        amplitudes: Gradients in the layer's own coordinates are amplitude · g @ forward', [u].
    """

    points: Tensor
    gradients: Tensor
    values: Tensor | None
    centre: Tensor
    forward: Tensor
    amplitudes: Tensor

    def place(self, points: Tensor) -> Tensor:
        """Express other points in these coordinates.

        Args:
            points: [u, m, d].

        Returns:
            [u, m, r].
        """
        placed: Tensor = (points.to(self.centre) - self.centre) @ self.forward
        return placed.to(self.points)

    def restore(self, gradients: Tensor) -> Tensor:
        """Express gradients in the layer's own coordinates, with the unit's own scale.

        Args:
            gradients: [u, m, r].

        Returns:
            [u, m, d].
        """
        restored: Tensor = gradients.to(self.forward) @ self.forward.mT
        return restored * self.amplitudes[:, None, None]


NAMES = tuple(field.name for field in fields_of(Canonical))


@dataclass(frozen=True)
class Coordinates:
    """How fields are made canonical: learnt from the fields of a fit, applied to any.

    Attributes:
        invariance: As for `FieldDescriptor`.
        centre: Mean of all points, [d]; used where the basis is shared.
        scale: Root mean square of the centred points' coordinates.
    """

    invariance: str
    centre: Tensor
    scale: float

    @classmethod
    def fit(cls, fields: GradientFields, invariance: str) -> Coordinates:
        """Measure where the points lie.

        Returns:
            The coordinates.
        """
        points = fields.points.double().cpu()
        centre = points.flatten(0, -2).mean(0)
        middle = centre if invariance == "none" else points.mean(-2, keepdim=True)
        scale = float((points - middle).square().mean().sqrt())
        return cls(invariance, centre, scale if scale > 0 else 1.0)

    def apply(self, fields: GradientFields) -> Canonical:
        """Make fields canonical; sums are in float64, the result is in float32.

        Returns:
            The fields.

        Raises:
            ValueError: If a unit is constant.
        """
        check_varying(fields)
        parts = [self._apply(fields[i : i + UNITS_AT_A_TIME]) for i in range(0, len(fields), UNITS_AT_A_TIME)]
        columns = zip(*([getattr(part, name) for name in NAMES] for part in parts), strict=True)
        joined = {
            name: None if column[0] is None else torch.cat(column) for name, column in zip(NAMES, columns, strict=True)
        }
        return Canonical(**joined)  # type: ignore[arg-type]

    def _apply(self, fields: GradientFields) -> Canonical:
        """Make a few units canonical.

        Returns:
            The fields.
        """
        points, gradients = fields.points.double().cpu(), fields.gradients.double().cpu()
        points = points if points.ndim == 3 else points[None]
        u, _, d = gradients.shape
        centre = self.centre[None, None] if self.invariance == "none" else points.mean(1, keepdim=True)
        centred = points - centre
        if self.invariance == "linear":
            forward, back = _whitening(centred)
        else:
            forward = torch.eye(d, dtype=points.dtype)[None] / self.scale
            back = forward * self.scale**2
        turned = gradients @ back
        values, amplitudes = _without_scale(fields, turned)
        return Canonical(
            (centred @ forward).float().expand(u, -1, -1),
            (turned / amplitudes[:, None, None]).float(),
            values,
            centre.expand(u, -1, -1),
            forward.expand(u, -1, -1),
            amplitudes,
        )


def _whitening(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Find the maps that give points unit covariance, and gradients the opposite.

    Directions in which no point differs from another are set to zero in both.

    Returns:
        Two matrices per unit, [u or 1, d, r], to be multiplied from the right.
    """
    covariance = centred.mT @ centred / centred.shape[1]
    variances, vectors = torch.linalg.eigh(covariance)
    is_there = variances > RANK_TOLERANCE * variances[:, -1:]
    safe = torch.where(is_there, variances, 1).sqrt()
    return vectors * torch.where(is_there, 1 / safe, 0)[:, None], vectors * torch.where(is_there, safe, 0)[:, None]


def _without_scale(fields: GradientFields, gradients: Tensor) -> tuple[Tensor | None, Tensor]:
    """Normalise values; without values, the scale is the gradients' own in canonical coordinates.

    Returns:
        Values of mean 0 and variance 1, [u, m], and what they were divided by, [u].
    """
    if fields.values is None:
        values, scale = None, gradients.square().sum(2).mean(1).sqrt()
        scale = torch.where(scale > 0, scale, 1)  # all of it along directions in which no point differs: stays zero
    else:
        values, scale = fields.values.double().cpu(), fields.amplitudes().double().cpu()
        values = values - values.mean(1, keepdim=True)
    return None if values is None else (values / scale[:, None]).float(), scale


def check_varying(fields: GradientFields) -> None:
    """Refuse units that are constant: they have no scale to be divided by."""
    constant = (fields.amplitudes() <= 0).nonzero().flatten().tolist()
    if constant:
        shown = ", ".join(map(str, constant[:8])) + (", ..." if len(constant) > 8 else "")
        remedy = "Drop them with fields[fields.amplitudes() > 0]"
        _validation.refuse("fields", "vary at the points of every unit", f"constant units {shown}", remedy)
