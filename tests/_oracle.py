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
    n, u, _ = gradients.shape
    measures = {name: torch.zeros(u, u, dtype=torch.float64) for name in ("cosine", "abs_cosine", "conflict", "count")}
    for a in range(u):
        for b in range(u):
            cosines = []
            for i in range(n):
                first, second = gradients[i, a].double(), gradients[i, b].double()
                if float(first.norm()) > 0 and float(second.norm()) > 0:
                    cosines.append(float(first @ second) / float(first.norm()) / float(second.norm()))
            if cosines:
                measures["cosine"][a, b] = sum(cosines) / len(cosines)
                measures["abs_cosine"][a, b] = sum(map(abs, cosines)) / len(cosines)
                measures["conflict"][a, b] = sum(c < -1e-12 for c in cosines) / len(cosines)
            measures["count"][a, b] = len(cosines)
    measures["norm_similarity"] = _norm_similarity(gradients)
    measures["norm"] = torch.stack([gradients[:, a].double().norm(dim=1).mean() for a in range(u)])
    measures["undefined"] = torch.tensor([int((gradients[:, a].norm(dim=1) == 0).sum()) for a in range(u)])
    return measures


def _norm_similarity(gradients: Tensor) -> Tensor:
    """2|a||b| / (|a|² + |b|²), averaged over the samples at which both gradients exist."""
    n, u, _ = gradients.shape
    result = torch.zeros(u, u, dtype=torch.float64)
    for a in range(u):
        for b in range(u):
            lengths = [(float(gradients[i, a].norm()), float(gradients[i, b].norm())) for i in range(n)]
            values = [2 * p * q / (p * p + q * q) for p, q in lengths if p > 0 and q > 0]
            result[a, b] = sum(values) / len(values) if values else 0
    return result


def all_pairs_loop(gradients: Tensor) -> dict[str, Tensor]:
    """The measures over all ordered pairs of samples: pair up every two samples, then average at the same sample."""
    n, u, d = gradients.shape
    paired = torch.zeros(n * n, 2 * u, d, dtype=gradients.dtype)
    for i in range(n):
        for j in range(n):
            paired[i * n + j] = torch.cat([gradients[i], gradients[j]])
    loop = interference_loop(paired)
    return {name: loop[name][:u, u:] for name in ("cosine", "abs_cosine", "conflict", "norm_similarity", "count")}
