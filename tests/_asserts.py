"""Assertions that several test files share."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

import gradembed as ge


def assert_close(actual: Tensor, expected: Tensor, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    """Equal to relative precision; in float64 by default to 1e-9."""
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def assert_is_tree(tree: ge.GradientTree) -> None:
    """What holds for every tree: partitions that get finer, the stated order, directions of length 1."""
    r, n, above = len(tree.root_labels), tree.n_samples, ""
    for layer in tree.layers:
        nodes, roots, parents, counts = (getattr(tree, f)[layer] for f in ("nodes", "roots", "parents", "counts"))
        assert torch.equal(nodes.flatten().bincount(minlength=len(counts)), counts)
        assert torch.equal(roots[nodes], torch.arange(r)[:, None].expand(r, n))
        if above:
            assert torch.equal(parents[nodes], tree.nodes[above])  # a child's samples are its parent's
            assert torch.equal(tree.roots[above][parents], roots)
        else:
            assert parents.tolist() == [-1] * len(parents)
        first = [int(row[0]) if len(row := (nodes == c).any(0).nonzero()) else n for c in range(len(counts))]
        keys = list(zip(roots.tolist(), (-counts).tolist(), first, strict=True))
        assert keys == sorted(keys)
        assert_close(tree.directions[layer].norm(dim=1), (tree.norms[layer] > 0).to(tree.directions[layer]), rtol=1e-6)
        above = layer


def gradients_of(tree: ge.GradientTree, layer: str) -> Tensor:
    """Direction times norm of every root and sample of a tree: [n, r, d]."""
    nodes = tree.nodes[layer]
    return (tree.directions[layer][nodes] * tree.norms[layer][nodes][..., None]).transpose(0, 1)


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Nothing about a model changes in the block, whether it ends well or not."""
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = _snapshot(model)
    random = torch.random.get_rng_state()
    try:
        yield
    finally:
        after = _snapshot(model)
        assert before[0] == after[0]
        for old, new in zip(before[1], after[1], strict=True):
            torch.testing.assert_close(new, old, rtol=0, atol=0)
        assert torch.equal(random, torch.random.get_rng_state())


def _snapshot(model: nn.Module) -> tuple[list[object], list[Tensor]]:
    facts: list[object] = []
    for name, module in model.named_modules():
        hooks = [len(getattr(module, kind)) for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")]
        facts += [name, id(module), module.training, hooks, sorted(vars(module))]
    facts += [(name, id(p), p.requires_grad, p.grad.data_ptr()) for name, p in model.named_parameters()]
    facts += [(name, id(b)) for name, b in model.named_buffers()]
    tensors = [*model.parameters(), *(p.grad for p in model.parameters()), *model.buffers()]
    return facts, [copy.deepcopy(t.detach()) for t in tensors]
