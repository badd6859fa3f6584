"""What a user would write instead of `gradembed.interference`: mean cosines between units, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

Rival = Callable[[nn.Module, Tensor], Tensor]


def _sum_of_cosines(gradients: Tensor) -> Tensor:
    """Normalize and multiply.

    Returns:
        The sum over samples, [u, u].
    """
    vectors = normalize(gradients, dim=-1)
    return torch.bmm(vectors, vectors.mT).sum(0)


def vmap_jacrev(network: nn.Module, x: Tensor, chunk: int = 1000) -> Tensor:
    """``torch.func``: the Jacobian of one sample, mapped over samples.

    Returns:
        Mean cosines at the network's input, [u, u].
    """
    jacobian = torch.func.vmap(torch.func.jacrev(network))
    with torch.no_grad():
        return torch.stack([_sum_of_cosines(jacobian(part)) for part in x.split(chunk)]).sum(0) / len(x)


def vmap_jacrev_at_once(network: nn.Module, x: Tensor) -> Tensor:
    """As `vmap_jacrev`, for all samples in one piece, as one writes it first.

    Returns:
        Mean cosines at the network's input, [u, u].
    """
    return vmap_jacrev(network, x, chunk=len(x))


def batched_grad(network: nn.Module, x: Tensor, chunk: int = 1000) -> Tensor:
    """``torch.autograd.grad(is_grads_batched=True)``: all units in one vectorized backward pass.

    Returns:
        Mean cosines at the network's input, [u, u].
    """
    sums = []
    for part in x.split(chunk):
        leaf = part.clone().requires_grad_()
        out = network(leaf)
        seeds = torch.eye(out.shape[1])[:, None].expand(-1, len(part), -1)
        (gradients,) = torch.autograd.grad(out, leaf, seeds, is_grads_batched=True)
        sums.append(_sum_of_cosines(gradients.transpose(0, 1)))
    return torch.stack(sums).sum(0) / len(x)


def unit_loop(network: nn.Module, x: Tensor, chunk: int = 1000) -> Tensor:
    """One backward pass per unit, for all samples of a chunk.

    Returns:
        Mean cosines at the network's input, [u, u].
    """
    sums = []
    for part in x.split(chunk):
        leaf = part.clone().requires_grad_()
        out = network(leaf)
        rows = [torch.autograd.grad(unit.sum(), leaf, retain_graph=True)[0] for unit in out.unbind(1)]
        sums.append(_sum_of_cosines(torch.stack(rows, dim=1)))
    return torch.stack(sums).sum(0) / len(x)


def at_all_layers(rival: Rival, network: nn.Module, x: Tensor) -> list[Tensor]:
    """Ask a rival at the input and after each child but the last, one layer after the other.

    Returns:
        Mean cosines, layer by layer.
    """
    results, children = [], list(network.children())
    for i in range(len(children)):
        head = nn.Sequential(*children[i:])
        results.append(rival(head, x.detach()))
        with torch.no_grad():
            x = children[i](x)
    return results


def all_pairs(network: nn.Module, x: Tensor) -> Tensor:
    """All-pairs mean |cosine| at the network's input: two units at a time, every sample against every other.

    Returns:
        Of every two units, [u, u].
    """
    with torch.no_grad():
        vectors = normalize(torch.func.vmap(torch.func.jacrev(network))(x), dim=-1).unbind(1)
    return torch.tensor([[float((first @ second.T).abs().mean()) for second in vectors] for first in vectors])


def hooked(network: nn.Module, x: Tensor, layers: Sequence[str], chunk: int = 64) -> dict[str, Tensor]:
    """A hook at each layer, and one backward pass per output for all samples of a chunk: any network.

    Args:
        network: Returns [n, u]; no module of it works in place.
        x: Samples, [n, ...].
        layers: "input", or names of modules that return a tensor.
        chunk: Samples at a time.

    Returns:
        Mean cosines at each layer, [u, u].
    """
    sums: dict[str, Tensor] = {}
    modules = dict(network.named_modules())
    for part in x.split(chunk):
        tape: dict[str, Tensor] = {}
        if "input" in layers:
            part = tape["input"] = part.clone().requires_grad_()
        hooks = {name: partial(_keep, tape, name) for name in layers if name != "input"}
        handles = [modules[name].register_forward_hook(hook) for name, hook in hooks.items()]
        out = network(part)
        for handle in handles:
            handle.remove()
        rows = [torch.autograd.grad(unit.sum(), list(tape.values()), retain_graph=True) for unit in out.unbind(1)]
        for name, gradients in zip(tape, zip(*rows, strict=True), strict=True):
            cosines = _sum_of_cosines(torch.stack([row.flatten(1) for row in gradients], dim=1))
            sums[name] = sums[name] + cosines if name in sums else cosines
    return {name: total / len(x) for name, total in sums.items()}


def _keep(tape: dict[str, Tensor], name: str, _module: nn.Module, _args: object, output: Tensor) -> None:
    tape[name] = output


def at_one_layer(head: nn.Module, body: nn.Module, x: Tensor, chunk: int = 64) -> Tensor:
    """`vmap_jacrev` with respect to what a body returns and a head takes.

    Returns:
        Mean cosines at that layer, [u, u].
    """
    jacobian = torch.func.vmap(torch.func.jacrev(lambda sample: head(sample[None])[0]))
    with torch.no_grad():
        sums = [_sum_of_cosines(jacobian(body(part)).flatten(2)) for part in x.split(chunk)]
    return torch.stack(sums).sum(0) / len(x)
