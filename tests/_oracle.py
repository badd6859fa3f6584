"""What the library should compute, by naive loops over samples and units. Imports torch only."""

from collections.abc import Callable

import torch
from torch import Tensor


def gradient_loop(head: Callable[[Tensor], Tensor], body: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Differentiate head by the output of body, one sample and one unit at a time: [n, u, d]."""
    samples = []
    for i in range(len(x)):
        site = body(x[i : i + 1]).detach().requires_grad_()
        units = head(site).flatten()
        rows = [torch.autograd.grad(unit, site, retain_graph=True)[0].flatten() for unit in units]
        samples.append(torch.stack(rows))
    return torch.stack(samples)


def interference_loop(gradients: Tensor, others: Tensor | None = None) -> dict[str, Tensor]:
    """Average the measures over the samples at which both gradients exist, one pair of units [n, d] at a time."""
    first, second = gradients.double(), (gradients if others is None else others).double()
    u = first.shape[1]
    names = ("cosine", "abs_cosine", "conflict", "norm_similarity", "count")
    measures = {name: torch.zeros(u, u, dtype=torch.float64) for name in names}
    for a in range(u):
        for b in range(u):
            g, h, p, q = first[:, a], second[:, b], first[:, a].norm(dim=1), second[:, b].norm(dim=1)
            exist = (p > 0) & (q > 0)
            g, h, p, q = g[exist], h[exist], p[exist], q[exist]
            cosine = (g / p[:, None] * h / q[:, None]).sum(1)
            rows = (cosine, cosine.abs(), (cosine < -1e-12).double(), 2 * p * q / (p * p + q * q))
            for name, row in zip(names, rows, strict=False):
                measures[name][a, b] = row.mean() if len(row) else 0
            measures["count"][a, b] = len(p)
    lengths = first.norm(dim=2)
    return measures | {"norm": lengths.mean(0), "undefined": (lengths == 0).sum(0)}


def all_pairs_loop(gradients: Tensor) -> dict[str, Tensor]:
    """The measures over all ordered pairs of samples: pair up every two samples, then average at the same sample."""
    n = len(gradients)
    loop = interference_loop(gradients.repeat_interleave(n, 0), gradients.repeat(n, 1, 1))
    return {name: loop[name] for name in ("cosine", "abs_cosine", "conflict", "norm_similarity", "count")}
