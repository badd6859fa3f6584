"""Gradient fields of an ensemble, side by side with going through its networks one by one; and their description.

Run with ``make bench``. Weights and points are random, because speed does not depend on them. `gradembed` also gives
values and linear regions; the rivals give gradients alone. The arithmetic bound counts the multiplications of one
forward and one backward pass, which no rival can do without, at the rate at which this machine multiplies large
square matrices in the same run: the ratio of the best rival to it is the most that any batching could gain.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

import gradembed as ge
from benchmarks import _measure

HIDDEN, MEMBERS, POINTS = [64, 64], 160, 1000
TRIED_POINTWISE = 50  # points of one network, from which the rest is extrapolated


def one_backward_each(networks: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Autograd at its best: the sum over points of a network's only output, differentiated once.

    Returns:
        [e, m, d].
    """
    fields = []
    for network in networks:
        leaf = x.clone().requires_grad_()
        fields.append(torch.autograd.grad(network(leaf).sum(), leaf)[0])
    return torch.stack(fields)


def jacobian_each(networks: Sequence[nn.Module], x: Tensor) -> Tensor:
    """``torch.func``: the Jacobian at one point, mapped over points, network by network.

    Returns:
        [e, m, d].
    """
    with torch.no_grad():
        return torch.stack([torch.func.vmap(torch.func.jacrev(network))(x)[:, 0] for network in networks])


def unit_gradients_each(networks: Sequence[nn.Module], x: Tensor) -> Tensor:
    """`gradembed.unit_gradients`, network by network.

    Returns:
        [e, m, d].
    """
    return torch.stack([ge.unit_gradients(network, x, "input").gradients[:, 0] for network in networks])


def point_by_point(networks: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Autograd in a loop over networks and points.

    Returns:
        [e, m, d].
    """
    return torch.cat([one_backward_each(networks, point[None]) for point in x], dim=1)


def arithmetic(widths: Sequence[int]) -> int:
    """Floating-point operations at one point of one network: forward, and back through all layers but the last.

    Returns:
        Their number.
    """
    layers = [a * b for a, b in itertools.pairwise(widths)]
    return 2 * (sum(layers) + sum(layers[:-1]))


def compare(dim: int, repeats: int = 5) -> pd.DataFrame:
    """Time all contestants, after a check that they agree.

    Args:
        dim: Inputs of the networks.
        repeats: Rounds.

    Returns:
        Seconds and ratios.

    Raises:
        RuntimeError: If a rival computes something else.
    """
    widths = [dim, *HIDDEN, 1]
    ensemble, x = ge.MLPEnsemble(widths, MEMBERS, seed=0), ge.sobol_points(POINTS, dim)
    networks = list(ensemble)
    ours = ge.gradient_fields(ensemble, x).gradients
    for rival in (one_backward_each, jacobian_each, unit_gradients_each):
        if not torch.allclose(rival(networks, x), ours, atol=1e-4):
            raise RuntimeError(f"{rival.__name__} computes something else")
    contestants: dict[str, Callable[[], object]] = {
        "gradembed": partial(ge.gradient_fields, ensemble, x),
        "one_backward_each": partial(one_backward_each, networks, x),
        "jacobian_each": partial(jacobian_each, networks, x),
        "unit_gradients_each": partial(unit_gradients_each, networks, x),
        "point_by_point": partial(point_by_point, networks[:1], x[:TRIED_POINTWISE]),
    }
    seconds = _measure.medians(contestants, repeats)
    seconds["point_by_point"] *= MEMBERS * POINTS / TRIED_POINTWISE
    seconds["arithmetic bound"] = MEMBERS * POINTS * arithmetic(widths) / _measure.product_rate()
    table = pd.DataFrame({"seconds": seconds})
    table["times gradembed"] = table["seconds"] / seconds["gradembed"]
    return table


def drawn(u: int, m: int, d: int, *, own: bool) -> ge.GradientFields:
    """Draw fields without meaning.

    Returns:
        u units.
    """
    points = torch.randn(*((u,) if own else ()), m, d)
    return ge.GradientFields(points, torch.randn(u, m, d), torch.randn(u, m))


def _peak(u: int, m: int, d: int, own: bool) -> float:
    fields = drawn(u, m, d, own=own)
    before = _measure.high_water()
    ge.FieldDescriptor().fit_transform(fields)
    return _measure.high_water() - before


def describe(u: int, m: int, d: int, repeats: int = 3) -> pd.DataFrame:
    """Time the descriptor, with what one would otherwise do to raw gradients: principal components of whole rows.

    Returns:
        Seconds and megabytes beyond the fields; "half" is with half the units.
    """
    rows = []
    for own in (False, True):
        fields = drawn(u, m, d, own=own)
        pca = PCA(8, svd_solver="randomized", random_state=0)
        contestants: dict[str, Callable[[], object]] = {
            "seconds": partial(ge.FieldDescriptor().fit_transform, fields),
            "half": partial(ge.FieldDescriptor().fit_transform, fields[: u // 2]),
            "PCA of rows": partial(pca.fit_transform, fields.gradients.flatten(1).numpy()),
        }
        seconds = _measure.medians(contestants, repeats)
        del fields, contestants
        peak = _measure.in_own_process(_peak, u, m, d, own)
        rows.append({"points": "own" if own else "shared", **seconds, "MB": peak})
    return pd.DataFrame(rows)


def main() -> None:
    """Measure and print."""
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; medians; a busy machine moves all of this\n")
    for dim in (1, 8, 64):
        title = f"Fields of {MEMBERS} networks {'-'.join(map(str, [dim, *HIDDEN, 1]))} at {POINTS:,} points"
        print(f"{title} (point_by_point extrapolated)\n{compare(dim).round(4).to_string()}\n")
    sizes = 1000, 1500, 240
    print("Description of {:,} units at {:,} points of {} dimensions".format(*sizes))
    print(describe(*sizes).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
