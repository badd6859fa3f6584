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


def interference_loop(gradients: Tensor) -> dict[str, Tensor]:
    """Average the measures over samples, one pair and one sample at a time."""
    gradients = gradients.double()
    n, u, _ = gradients.shape
    names = ("cosine", "abs_cosine", "conflict", "norm_similarity", "count")
    measures = {name: torch.zeros(u, u, dtype=torch.float64) for name in names}
    for a in range(u):
        for b in range(u):
            rows = []
            for first, second in zip(gradients[:, a], gradients[:, b], strict=True):
                p, q = float(first.norm()), float(second.norm())
                if p > 0 and q > 0:
                    cosine = float(first @ second) / p / q
                    rows.append((cosine, abs(cosine), cosine < -1e-12, 2 * p * q / (p * p + q * q)))
            for name, column in zip(names, zip(*rows, strict=True), strict=False):
                measures[name][a, b] = sum(column) / len(rows)
            measures["count"][a, b] = len(rows)
    lengths = gradients.norm(dim=2)
    return measures | {"norm": lengths.sum(0) / n, "undefined": (lengths == 0).sum(0)}


def all_pairs_loop(gradients: Tensor) -> dict[str, Tensor]:
    """The measures over all ordered pairs of samples: pair up every two samples, then average at the same sample."""
    u = gradients.shape[1]
    paired = torch.stack([torch.cat([one, other]) for one in gradients for other in gradients])
    loop = interference_loop(paired)
    return {name: loop[name][:u, u:] for name in ("cosine", "abs_cosine", "conflict", "norm_similarity", "count")}
