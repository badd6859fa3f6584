"""What watching costs: the monitor every 50 steps of training, beside what one would write, and TorchJD's tools.

Run with ``make bench``: prints a table. In each round a measurement stands between steps of training, so that both meet
the same spells of a busy machine; their ratio is paired, and its median and quartiles over rounds are shown.
Time is that of the processor, which other programs do not take away; there is one thread.

Contestants:

- *by hand*: hooks at the same layers, one backward pass per unit or task, the mean cosine of each pair. It knows no
  |cosine|, conflict, errors or chance, and does not put dropout or batch norm into eval mode.
- *by hand, parameters*: the cosine of the gradients of mean losses, two tasks, the usual baseline.
- *TorchJD*: ``autojac.jac`` at the layers, and the Gramian of ``autogram.Engine`` on the parameters; where it is
  installed.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradembed as ge

EVERY, BATCH, PROBE = 50, 256, 64
Task = Callable[[], object]


def two_losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Which of the first five classes it is, and which of the last, at every sample.

    Returns:
        Two tasks' losses.
    """
    z = model(batch[0])
    return {
        "low": F.cross_entropy(z[:, :5], batch[1] % 5, reduction="none"),
        "high": F.cross_entropy(z[:, 5:], batch[1] % 5, reduction="none"),
    }


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...], list[str]]]:
    """The network of MNIST and a small convolutional one.

    Returns:
        With the shape of a sample, and the layers at which gradients are taken by hand.
    """
    convolutional = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        nn.Sequential(nn.Linear(1568, 64), nn.ReLU()),
        nn.Linear(64, 10),
    )
    perceptron = ge.MLP([784, 64, 64, 10], seed=0)
    return {
        "784-64-64-10": (perceptron, (784,), ["hidden1", "hidden2"]),
        "convolutional": (convolutional, (1, 28, 28), ["0", "1", "2"]),
    }


def by_hand(network: nn.Module, layers: list[str], differentiate: Callable[[Tensor, list[Tensor]], Any]) -> Task:
    """Mean cosines of the outputs' gradients, as one would write them.

    Returns:
        A measurement.
    """

    def measure(x: Tensor) -> list[Tensor]:
        kept: list[Tensor] = []
        modules = dict(network.named_modules())
        hooks = [modules[name].register_forward_hook(lambda _m, _a, out: kept.append(out)) for name in layers]
        outputs = network(x)
        for hook in hooks:
            hook.remove()
        gradients = differentiate(outputs.sum(0), kept)  # for each layer [u, n, ...]
        unit = [F.normalize(gradient.flatten(2), dim=2) for gradient in gradients]
        return [torch.einsum("und,vnd->uv", rows, rows) / len(x) for rows in unit]

    return measure  # type: ignore[return-value]


def one_by_one(outputs: Tensor, at: list[Tensor]) -> list[Tensor]:
    """One backward pass per unit.

    Returns:
        For each layer the gradients of every unit, [u, n, ...].
    """
    rows = [torch.autograd.grad(output, at, retain_graph=True) for output in outputs]
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def parameters_by_hand(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The cosine of the tasks' gradients.

    Returns:
        A number.
    """
    parameters = list(network.parameters())
    losses = [loss.mean() for loss in two_losses(network, batch).values()]
    rows = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    a, b = (torch.cat([gradient.flatten() for gradient in row]) for row in rows)
    return F.cosine_similarity(a, b, dim=0)


def measure(monitor: ge.InterferenceMonitor) -> None:
    """Have a monitor measure, and forget it."""
    monitor.step(0)
    monitor._moments.clear()


def contestants(name: str) -> tuple[Task, dict[str, Task]]:
    """What is timed with one network.

    Returns:
        A step of training, and measurements by name.
    """
    network, shape, layers = networks()[name]
    x, y = torch.rand(BATCH, *shape), torch.randint(10, (BATCH,))
    probe, labels = torch.rand(PROBE, *shape), torch.randint(10, (PROBE,))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()

    at: dict[str, Any] = {"layers": layers}
    losses: dict[str, Any] = {"on": "losses", "forward": two_losses}
    monitors = {
        "monitor: 10 outputs": ge.InterferenceMonitor(network, probe),
        "monitor: 10 outputs, same layers as by hand": ge.InterferenceMonitor(network, probe, **at),
        "monitor: the same without chance": ge.InterferenceMonitor(network, probe, n_readouts=0, **at),
        "monitor: 2 losses and parameters": ge.InterferenceMonitor(network, (probe, labels), **losses, **at),
    }
    found: dict[str, Task] = {words: partial(measure, monitor) for words, monitor in monitors.items()}
    hand: Any = by_hand(network, layers, one_by_one)
    found["by hand: mean cosine of 10 outputs"] = lambda: hand(probe)
    found["by hand: 2 losses, parameters"] = lambda: parameters_by_hand(network, (probe, labels))
    try:
        from torchjd import autogram, autojac
    except ImportError:
        return step, found
    jacobians: Any = by_hand(network, layers, lambda outputs, kept: autojac.jac(outputs, kept))
    found["TorchJD jac: mean cosine of 10 outputs"] = lambda: jacobians(probe)
    twin = copy.deepcopy(network)  # the engine hooks itself to its modules, and would slow down the others
    engine = autogram.Engine(twin, batch_dim=None)

    def gramian() -> Tensor:
        losses = torch.stack([loss.mean() for loss in two_losses(twin, (probe, labels)).values()])
        return engine.compute_gramian(losses)  # type: ignore[no-any-return]

    found["TorchJD autogram: 2 losses, parameters"] = gramian
    return step, found


def seconds(task: Task, times: int = 1) -> float:
    """Time of the processor.

    Returns:
        Seconds.
    """
    start = time.process_time()
    for _ in range(times):
        task()
    return time.process_time() - start


def overheads(name: str, rounds: int, steps: int) -> pd.DataFrame:
    """Time all measurements of one network against the steps between which they stand.

    Args:
        name: Of the network.
        rounds: How often.
        steps: Timed before and after each measurement.

    Returns:
        Milliseconds, and percent of the time of 50 steps: median and quartiles over rounds.
    """
    step, found = contestants(name)
    for task in (step, *found.values()):  # whatever is slower the first time
        seconds(task, 2)
    rows: dict[str, list[tuple[float, float]]] = {words: [] for words in found}
    for _ in range(rounds):
        for words, task in found.items():
            before, once, after = seconds(step, steps), seconds(task), seconds(step, steps)
            rows[words].append((once, once / (before + after) * 2 * steps / EVERY))
    table = []
    for words, pairs in rows.items():
        low, middle, high = statistics.quantiles([100 * ratio for _, ratio in pairs], n=4)
        each = 1e3 * statistics.median(once for once, _ in pairs)
        table.append({"network": name, "measurement": words, "ms": each, "%": middle, "from": low, "to": high})
    return pd.DataFrame(table)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}; one measurement of {PROBE} samples per {EVERY} steps of batches of {BATCH}\n")
    tables = [overheads("784-64-64-10", 31, steps=25), overheads("convolutional", 9, steps=2)]
    print(pd.concat(tables).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
