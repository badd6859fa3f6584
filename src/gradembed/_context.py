"""Context managers that put things back: modes, buffers, hooks and random state, also after an error."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

Hook = Callable[[nn.Module, tuple[object, ...], object], object]


@contextmanager
def seeded(seed: int | None, device: torch.device | None = None) -> Iterator[None]:
    """Draw from torch's global generator as if freshly seeded, and put its state back.

    ``None`` draws from the generator as it stands and lets it move on. A CUDA ``device`` has a generator
    of its own, which is treated likewise.

    Yields:
        Nothing.
    """
    if seed is None:
        yield
        return
    on_cuda = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        # default_generator, not torch.manual_seed: the latter would reseed every CUDA device for good
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def kept_threads() -> Iterator[None]:
    """Put torch's number of threads back when the block ends: numba and OpenMP set it for all.

    Yields:
        Nothing.
    """
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore modes, buffers and the random state when the block ends, however it ends.

    Parameters and their ``.grad`` are not copied: nothing here writes to them.

    Yields:
        Nothing.
    """
    modes = [(module, module.training) for module in model.modules()]
    held = [(owner, key, buffer) for owner in model.modules() for key, buffer in owner._buffers.items()]
    buffers = [(*one, one[2].detach().clone() if isinstance(one[2], Tensor) else None) for one in held]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=sorted(devices, key=str)):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for owner, key, buffer, value in buffers:
            if buffer is not None and value is not None:
                with torch.inference_mode(buffer.is_inference()), torch.no_grad():
                    buffer.copy_(value)
            owner._buffers[key] = buffer


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluate a network in the midst of its training: `preserved`, in eval mode, and Python's and NumPy's numbers too.

    Yields:
        Nothing.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # whose numbers the training may draw
    try:
        with preserved(model), torch.inference_mode(False):
            for module in model.modules():
                module.training = False  # not eval(), which a module may have made to do more
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def all_or_nothing(estimator: object) -> Iterator[None]:
    """Give an object its former attributes back if the block ends with an error or an interruption.

    What is half learned is never taken for learned. Attributes are put back, not copied: the block must set new ones.

    Yields:
        Nothing.
    """
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


@contextmanager
def hooked(hooks: Mapping[nn.Module, Hook]) -> Iterator[None]:
    """Register forward hooks for the duration of the block.

    Yields:
        Nothing.
    """
    with ExitStack() as handles:
        for module, hook in hooks.items():
            handles.callback(module.register_forward_hook(hook).remove)
        yield
