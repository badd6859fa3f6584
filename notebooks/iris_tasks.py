"""What notebook 02 asks of networks with two tasks: which unit serves which, and pictures of nodes and of modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.image import AxesImage
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn

import gradembed as ge

METHODS = ["gradients", "correlation", "outgoing", "incoming"]  # that give a unit to a task

# ---------------------------------------------------------------- which unit serves which of two tasks of three classes


def losses(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the loss of each task, [2], on samples [m, d] of classes [m, 2]."""
    output = network(x).unflatten(1, (2, 3))
    return torch.stack([nn.functional.cross_entropy(output[:, t], y[:, t]) for t in (0, 1)])


def accuracies(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the accuracy in each task, [2]."""
    return (network(x).unflatten(1, (2, 3)).argmax(2) == y).double().mean(0)


def without(
    network: nn.Module, layer: str, units: Sequence[int], means: Tensor, judge: Callable[..., Tensor], *data: Tensor
) -> Tensor:
    """Judge a network whose units are held at their means, [2]."""
    if len(units) == 0:  # a module that no unit is in
        return judge(network, *data).detach()
    with torch.no_grad(), ge.ablated(network, layer, units, at=means):
        return judge(network, *data)


def by_weights(network: nn.Module, layer: str) -> dict[str, Tensor]:
    """Give each unit to the task that most absolute weight leads to, and to the one that most of it comes from."""
    first, second, last = (m.weight.detach().abs() for m in network.modules() if isinstance(m, nn.Linear))
    out, into = (last @ second, first) if layer == "hidden1" else (last, second @ first)
    outgoing = out.square().unflatten(0, (2, -1)).mean(1).argmax(0)
    return {"outgoing": outgoing, "incoming": into.square().unflatten(1, (2, -1)).mean(2).argmax(1)}


def by_correlation(activations: Tensor, outputs: Tensor) -> dict[str, Tensor]:
    """Give each unit, [m, d], to the task whose outputs, [m, 6], it correlates with most (mean r²)."""
    both, d = torch.cat([activations, outputs], 1), activations.shape[1]
    both = (both - both.mean(0)) / both.std(0).clamp_min(1e-12)
    square = (both[:, :d].T @ both[:, d:] / (len(both) - 1)).square()  # [d, 6]
    return {"correlation": square.unflatten(1, (2, 3)).mean(2).argmax(1)}


def agreements(guesses: dict[str, Tensor], rise: Tensor, matters: float) -> dict[str, float]:
    """Compare guesses of each unit's task with the task whose loss rises more without the unit.

    Args:
        guesses: Of each method, [d].
        rise: Of the loss when the unit is held at its mean, [d, 2].
        matters: Part of the largest rise above which a unit matters.

    Returns:
        Shares of units that matter and that are alive, and adjusted Rand indices over both.
    """
    truth, most = rise.argmax(1), rise.amax(1)
    sets = {"matter": most > matters * rise.max(), "alive": rise.abs().amax(1) > 0}
    row = {f"share, {name}": float(at.double().mean()) for name, at in sets.items()}
    for name, at in sets.items():
        row |= {f"{how}, {name}": adjusted_rand_score(truth[at], guess[at]) for how, guess in guesses.items()}
    return row


def recover(
    network: nn.Module, split: ge.datasets.Split, layer: str, n_judged: int, matters: float
) -> dict[str, float]:
    """Sort a layer's units by task in four ways, and compare with what is lost without them.

    Args:
        network: With three outputs for each of two tasks.
        split: Units are looked at and held on its training part, modules judged on its test part.
        layer: Whose units.
        n_judged: Training samples used.
        matters: As in `agreements`.

    Returns:
        The row of `agreements`; whether the outputs come apart by task; what holding a module costs.
    """
    x, y = split.x_train[:n_judged], split.y_train[:n_judged]
    modules, activations = ge.task_modules(network, x, layer), ge.unit_gradients(network, x, layer).activations
    means = activations.mean(0)
    guesses = {"gradients": modules.unit_modules} | by_correlation(activations, network(x).detach())
    held = [without(network, layer, [unit], means, losses, x, y) for unit in range(activations.shape[1])]
    row = agreements(guesses | by_weights(network, layer), torch.stack(held) - losses(network, x, y).detach(), matters)
    test = split.x_test, split.y_test
    held = [without(network, layer, modules.units(m), means, accuracies, *test) for m in (0, 1)]
    drops = accuracies(network, *test) - torch.stack(held)  # [modules, tasks]
    own, other = drops.diagonal(), drops.fliplr().diagonal()
    return row | {
        "outputs right": float(modules.output_modules.tolist() == [0, 0, 0, 1, 1, 1]),
        "own task loses": float(own.mean()), "other task loses": float(other.mean()),
        "own, least": float(own.min()), "other, most": float(other.max()),
    }  # fmt: skip


# ---------------------------------------------------------------- pictures


def middles(ends: np.ndarray) -> np.ndarray:
    """Return the middle of each of several blocks in a row, given where they end."""
    return (np.concatenate([[0], ends[:-1]]) + ends - 1) / 2


def sorted_nodes(tree: ge.GradientTree, layer: str, y: Tensor) -> np.ndarray:
    """Order a layer's nodes by root, then by the commonest class of their samples; y: [roots, samples]."""
    votes = torch.zeros(len(tree.norms[layer]), 3)
    votes.index_put_((tree.nodes[layer].flatten(), y.flatten()), torch.ones(y.numel()), accumulate=True)
    return np.lexsort((votes.argmax(1).numpy(), tree.roots[layer].numpy()))


def nodes(
    ax: Axes, tree: ge.GradientTree, layer: str, y: Tensor, names: Sequence[str], heavy: Sequence[int] = ()
) -> AxesImage:
    """Draw the cosines of all nodes of a layer, in a block for each pair of roots.

    Args:
        ax: Where to draw.
        tree: The tree.
        layer: Whose nodes.
        y: Class that each sample has for each root, [roots, samples]; orders the nodes of a root.
        names: Of the roots.
        heavy: Roots before which a heavy line stands.

    Returns:
        The picture.
    """
    order, ends = sorted_nodes(tree, layer, y), tree.roots[layer].bincount().cumsum(0).numpy()
    matrix = tree.similarity(layer).numpy()[np.ix_(order, order)]
    cells = np.ma.masked_where(np.eye(len(matrix)), matrix)
    image = ax.imshow(cells, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    for i, end in enumerate(ends[:-1], 1):
        for line in (ax.axhline, ax.axvline):
            line(end - 0.5, color="black", linewidth=2.5 if i in heavy else 0.6)
    ax.set_xticks(middles(ends), names, rotation=30, ha="right", fontsize=8)
    ax.set_yticks(middles(ends), names, fontsize=8)
    ax.set_facecolor("#bbbbbb")  # of the diagonal
    ax.set_title(f"{layer}: {len(matrix)} nodes", fontsize=10)
    return image


def modules(ax: Axes, result: ge.TaskModules, names: Sequence[str]) -> AxesImage:
    """Draw how far each unit moves each output, as part of the most that any unit does; units sorted by module.

    Returns:
        The picture, whose colors go by the square root, since most units do little.
    """
    module = np.where(result.unit_modules < 0, 2, result.unit_modules.numpy())
    order, effects = np.lexsort((-result.selectivity.numpy(), module)), result.effects / result.effects.amax(1, True)
    image = ax.imshow(effects[:, order].numpy(), cmap="Blues", aspect="auto", norm=PowerNorm(0.5, 0, 1))
    ends = np.bincount(module, minlength=3).cumsum()
    for end in ends[:2]:
        ax.axvline(end - 0.5, color="black", linewidth=1.5)
    sizes, titles = np.bincount(module, minlength=3), ["module 0", "module 1", "no effect"]
    kept = np.flatnonzero(sizes)
    ax.set_xticks(middles(ends)[kept], [f"{titles[i]}: {sizes[i]} units" for i in kept])
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.axhline(len(names) / 2 - 0.5, color="black", linewidth=1.5)
    ax.tick_params(length=0)
    ax.set_title(result.layer, fontsize=10)
    return image
