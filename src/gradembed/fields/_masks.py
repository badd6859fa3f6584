"""What of a field is left out, to be predicted from the rest."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from gradembed import _validation
from gradembed.fields._arguments import check_fraction, check_kind
from gradembed.fields._fields import GradientFields


def field_mask(fields: GradientFields, fraction: float, seed: int = 0, kind: str = "points") -> Bool[Tensor, "u m"]:
    """Choose at random which points of each unit a cloze task leaves out; every unit keeps and loses at least one.

    With ``kind="points"`` each unit loses ``fraction`` of its points, rounded. With ``kind="regions"`` it loses whole
    regions, drawn one after the other until their points come nearest to that, so that no point that is left
    gives away the gradient of one that is not.

    Args:
        fields: With at least two points; for regions also with ``regions``, at least two in every unit.
        fraction: Share of the points to leave out, above 0 and below 1.
        seed: Of the draw.
        kind: "points" or "regions".

    Returns:
        True where a point is left out, [u, m].

    Raises:
        ValueError: If a unit has fewer than two points or regions, regions are unknown, or a choice is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> fields = ge.gradient_fields(ge.MLP([4, 8, 3], seed=0), torch.randn(100, 4))
        >>> ge.field_mask(fields, 0.4).sum(1)
        tensor([40, 40, 40])
        >>> mask = ge.field_mask(fields, 0.4, kind="regions")
        >>> set(fields.regions[0][mask[0]].tolist()) & set(fields.regions[0][~mask[0]].tolist())
        set()
    """
    check_kind("fields", fields, GradientFields)
    check_fraction("fraction", fraction)
    _validation.check_integer("seed", seed, 0)
    _validation.check_choice("kind", kind, ("points", "regions"))
    u, m = fields.n_units, fields.n_points
    if m < 2:
        _validation.refuse("fields", "have at least two points of each unit", m, "Take fields at more points")
    generator = torch.Generator().manual_seed(seed)
    if kind == "points":
        lost = min(max(round(fraction * m), 1), m - 1)
        mask = torch.zeros(u, m, dtype=torch.bool)
        chosen = torch.rand(u, m, generator=generator).argsort(1)[:, :lost]
        return mask.scatter_(1, chosen, True).to(fields.gradients.device)
    if fields.regions is None:
        remedy = "Use kind='points', or fields of a piecewise-linear network"
        _validation.refuse("fields", "have regions with kind='regions'", "None", remedy)
    return _mask_regions(fields.regions.cpu(), fraction * m, generator).to(fields.gradients.device)


def _mask_regions(regions: Tensor, target: float, generator: torch.Generator) -> Tensor:
    """Draw whole regions of each unit, so that their points come near a number.

    Returns:
        True where a point is left out, [u, m].
    """
    ordered, order = regions.sort(1)
    changes = torch.zeros_like(ordered)
    changes[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).cumsum(1)
    numbers = torch.empty_like(ordered).scatter_(1, order, changes)  # from 0 on, whatever the fields call them
    counts = changes[:, -1] + 1
    single = (counts == 1).nonzero().flatten().tolist()
    if single:
        shown = ", ".join(map(str, single[:8])) + (", ..." if len(single) > 8 else "")
        remedy = "Drop those units, or use kind='points'"
        _validation.refuse("fields", "have at least two regions in every unit", f"one in units {shown}", remedy)
    sizes = torch.zeros_like(numbers).scatter_add_(1, numbers, torch.ones_like(numbers))
    lots = torch.rand(sizes.shape, generator=generator).masked_fill_(sizes == 0, 2)
    drawn = lots.argsort(1)  # the regions that there are come first
    distance = (sizes.gather(1, drawn).cumsum(1) - target).abs()
    last = torch.arange(sizes.shape[1]) >= counts[:, None] - 1  # one region at least is kept
    n_lost = distance.masked_fill(last, torch.inf).argmin(1, keepdim=True) + 1
    is_lost = torch.zeros_like(sizes, dtype=torch.bool)
    is_lost.scatter_(1, drawn, torch.arange(sizes.shape[1]) < n_lost)
    return is_lost.gather(1, numbers)
