"""Assertions that several test files share."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def assert_close(actual: Tensor, expected: Tensor, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    """Equal to relative precision; in float64 by default to 1e-9."""
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


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
