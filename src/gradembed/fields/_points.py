"""Where fields are taken, and what of them a cloze leaves out."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from gradembed._validation import as_integer, as_number, as_tensor, check_choice, refuse
from gradembed.fields._fields import GradientFields, check_fields


def grid_points(m: int, dim: int) -> Float32[Tensor, "m d"]:
    """The regular grid of m points on the cube [-1, 1]^d, edges included.

    Args:
        m: Points in all: the d-th power of the number along each axis, which is at least 2.
        dim: Number of dimensions, d.

    Returns:
        [m, d], float32; the last coordinate runs fastest.

    Raises:
        ValueError: If ``m`` is no such power; names the nearest ones.
        TypeError: If a number is no integer.

    Example:
        >>> import gradembed as ge
        >>> ge.grid_points(9, dim=2)[:4]
        tensor([[-1., -1.],
                [-1.,  0.],
                [-1.,  1.],
                [ 0., -1.]])
    """
    m, dim = as_integer("m", m, 2), as_integer("dim", dim, 1, 63)  # two points or more along every axis
    k = max(int(m ** (1 / dim) + 1e-9), 2)
    if k**dim != m:
        remedy = f"Pass {k**dim:,} or {(k + 1) ** dim:,}, or use sobol_points"
        refuse("m", f"be a number of points to the power of dim={dim}", f"{m:,}", remedy)
    axis = torch.linspace(-1, 1, k)
    return torch.stack(torch.meshgrid(*[axis] * dim, indexing="ij"), -1).reshape(m, dim)


def sobol_points(m: int, dim: int, seed: int = 0) -> Float32[Tensor, "m d"]:
    """The first m points of a scrambled Sobol sequence on the cube [-1, 1]^d: more even than random ones.

    Args:
        m: How many; a power of two is most even.
        dim: Number of dimensions, d.
        seed: Of the scrambling.

    Returns:
        [m, d], float32.

    Raises:
        ValueError: If a number is out of range.
        TypeError: If one is no integer.

    Example:
        >>> import gradembed as ge
        >>> points = ge.sobol_points(1024, dim=64)
        >>> points.shape, bool(points.mean(0).abs().max() < 0.01)
        (torch.Size([1024, 64]), True)
    """
    m, seed = as_integer("m", m, 1), as_integer("seed", seed, 0)
    dim = as_integer("dim", dim, 1, torch.quasirandom.SobolEngine.MAXDIM)  # as far as the sequence is known
    return 2 * torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed).draw(m, dtype=torch.float32) - 1


def sample_points(x: Float[Tensor, "n d"], m: int, seed: int = 0) -> Float[Tensor, "m d"]:
    """Draw m rows of a data set, none twice.

    Args:
        x: Samples, [n, d], or [n, ...].
        m: How many.
        seed: Of the draw.

    Returns:
        A copy of the rows, in random order, [m, d].

    Raises:
        ValueError: If there are fewer than ``m``, or ``x`` is not finite float numbers.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import gradembed as ge
        >>> ge.sample_points(ge.datasets.load_iris().x_train, 30).shape
        torch.Size([30, 4])
    """
    rows = as_tensor("x", x, "n d ...")
    m = as_integer("m", m, 1, len(rows))
    generator = torch.Generator().manual_seed(as_integer("seed", seed, 0))
    return rows[torch.randperm(len(rows), generator=generator)[:m].to(rows.device)]


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
    u, m = check_fields("fields", fields, least_points=2).n_units, fields.n_points
    fraction, seed = as_fraction("fraction", fraction), as_integer("seed", seed, 0)
    check_choice("kind", kind, ("points", "regions"))
    generator = torch.Generator().manual_seed(seed)
    if kind == "points":
        lost = min(max(round(fraction * m), 1), m - 1)
        return (torch.rand(u, m, generator=generator).argsort(1).argsort(1) < lost).to(fields.gradients.device)
    if fields.regions is None:
        remedy = "Use kind='points', or fields of a piecewise-linear network"
        refuse("fields", "have regions with kind='regions'", "None", remedy)
    return _mask_regions(fields.regions.cpu(), fraction * m, generator).to(fields.gradients.device)


def _mask_regions(regions: Tensor, target: float, generator: torch.Generator) -> Tensor:
    """Return whole regions of each unit, drawn so that their points come near a number: True if left out, [u, m]."""
    # [u, m], numbered from 0 on, whatever the fields call them
    numbers = torch.stack([row.unique(return_inverse=True)[1] for row in regions])
    counts = numbers.amax(1) + 1
    if single := (counts == 1).nonzero().flatten().tolist():
        got = f"one in {len(single)} of them, unit {single[0]} the first"
        rule, remedy = "have at least two regions in every unit", "Drop those units, or use kind='points'"
        refuse("fields", rule, got, remedy)
    sizes = torch.zeros_like(numbers).scatter_add_(1, numbers, torch.ones_like(numbers))
    lots = torch.rand(sizes.shape, generator=generator).masked_fill_(sizes == 0, 2)
    drawn = lots.argsort(1)  # the regions that there are come first
    distance = (sizes.gather(1, drawn).cumsum(1) - target).abs()
    last = torch.arange(sizes.shape[1]) >= counts[:, None] - 1  # one region at least is kept
    n_lost = distance.masked_fill(last, torch.inf).argmin(1, keepdim=True) + 1
    return (drawn.argsort(1) < n_lost).gather(1, numbers)


def as_fraction(name: str, value: object) -> float:
    """Return a share of the points to leave out, above 0 and below 1."""
    fraction = as_number(name, value, 0, 1, open_low=True)
    if fraction == 1:
        refuse(name, "be below 1", value, "Keep something to predict from")
    return fraction
