"""Points at which fields are taken."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from gradembed import _validation


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
    _validation.check_integer("m", m, 2)
    _validation.check_integer("dim", dim, 1)
    if dim > 63:
        remedy = "Use sobol_points"
        _validation.refuse("dim", "be at most 63: a grid has two points or more along every axis", dim, remedy)
    k = 2
    while k < m and (k + 1) ** dim <= m:  # at most the m-th root; one axis needs no search
        k = m if dim == 1 else k + 1
    if k**dim != m:
        near = " or ".join(f"{power:,}" for power in dict.fromkeys((k**dim, (k + 1) ** dim)))
        remedy = f"Pass {near}, or use sobol_points"
        _validation.refuse("m", f"be a number of points to the power of dim={dim}", f"{m:,}", remedy)
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
    _validation.check_integer("m", m, 1)
    _validation.check_integer("dim", dim, 1)
    _validation.check_integer("seed", seed, 0)
    most = torch.quasirandom.SobolEngine.MAXDIM
    if dim > most:
        _validation.refuse("dim", f"be at most {most:,}, as far as the sequence is known", dim, "Draw random points")
    drawn: Tensor = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed).draw(m, dtype=torch.float32)
    return 2 * drawn - 1


def sample_points(x: Float[Tensor, "n d"], m: int, seed: int = 0) -> Float[Tensor, "m d"]:
    """Draw m rows of a data set, none twice.

    Args:
        x: Samples, [n, d], or [n, ...].
        m: How many.
        seed: Of the draw.

    Returns:
        A copy of the rows, in random order, [m, d].

    Raises:
        ValueError: If there are fewer than ``m``, or ``x`` is no finite float tensor.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import gradembed as ge
        >>> ge.sample_points(ge.datasets.load_iris().x_train, 30).shape
        torch.Size([30, 4])
    """
    _validation.check_samples(x)
    _validation.check_integer("m", m, 1)
    _validation.check_integer("seed", seed, 0)
    if m > len(x):
        _validation.refuse("m", f"be at most {len(x)}, the rows that there are", m, "Pass fewer, or more data")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:m]
    return x.detach()[order.to(x.device)]
