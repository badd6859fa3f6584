"""Tasks on two overlaid digits, and many multi-task networks trained side by side. Notebook 08 compares them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from scipy.stats import rankdata
from sklearn.linear_model import RidgeCV
from torch import Tensor, nn
from torch.nn import functional as F

import gradembed as ge

CLASSES = {
    "left digit": 10, "right digit": 10, "left even": 2, "right even": 2, "left loop": 2, "right loop": 2,
    "left high": 2, "right high": 2, "left larger": 2, "sum": 19, "sum even": 2, "ink": 4,
}  # fmt: skip
SIZES = (*CLASSES.values(),)
Network = tuple[tuple[int, ...], int]  # tasks by number, and how many hidden layers they share whole


def overlay(x: Tensor, y: Tensor, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Lay a digit in the upper left of 36 x 36 pixels and one in the lower right over each other; halve the resolution.

    Args:
        x: Digits of 28 x 28 pixels in rows, [m, 784].
        y: Their classes, [m].
        n: Images to make.
        seed: Of the digits that meet.

    Returns:
        Pixels in [0, 1], [n, 324], and the class of each image in the twelve tasks, [n, 12].
    """
    generator = torch.Generator().manual_seed(seed)
    rounds = range(-(-n // len(x)))
    pairs = [torch.cat([torch.randperm(len(x), generator=generator) for _ in rounds])[:n] for _ in ("left", "right")]
    canvas = torch.zeros(2, n, 36, 36)
    for layer, index, corner in zip(canvas, pairs, (slice(0, 28), slice(8, 36)), strict=True):
        layer[:, corner, corner] = ((x[index] - x.min()) / (x.max() - x.min())).view(n, 28, 28)
    images = F.avg_pool2d(canvas.amax(0), 2).flatten(1)
    (a, b), loop, ink = (y[index] for index in pairs), torch.tensor([1, 0, 0, 0, 0, 0, 1, 0, 1, 1]), images.sum(1)
    quartile = torch.bucketize(ink, ink.quantile(torch.tensor([0.25, 0.5, 0.75])))
    tasks = [a, b, a % 2 == 0, b % 2 == 0, loop[a], loop[b], a > 4, b > 4, a > b, a + b, (a + b) % 2 == 0, quartile]
    return images, torch.stack([task.long() for task in tasks], 1)


class Forest:
    """Networks in training side by side: at each level blocks of weights, each reading one block of the level below.

    Above the layers that its tasks share, each task of a network has a branch of half the units, so that a network of
    two tasks has the same number of hidden units wherever it is split. All blocks of a hidden layer, and all heads of a
    task, start from the same weights: networks of a forest differ in nothing but what they are taught. In shapes, b
    counts the blocks of a level, h the heads.

    Args:
        networks: The tasks of each, and how many hidden layers they share.
        n_features: Of an image.
        widths: Of the hidden layers.
        seed: Of the initial weights.
    """

    def __init__(self, networks: Sequence[Network], n_features: int, widths: Sequence[int], seed: int) -> None:
        self.networks, depth = list(networks), len(widths)
        levels: list[list[tuple[int, ...]]] = [[] for _ in range(depth + 1)]  # a block is (network,) or (network, task)
        for i, (tasks, shared) in enumerate(self.networks):
            for level in range(depth):
                levels[level] += [(i,)] if level < shared or len(tasks) == 1 else [(i, task) for task in tasks]
            levels[depth] += [(i, task) for task in tasks]
        self.index = [{block: b for b, block in enumerate(level)} for level in levels]
        self.heads = levels[-1]
        self.parents = [torch.tensor([self.at(k, block) for block in levels[k + 1]]) for k in range(depth)]
        self.tasks = torch.tensor([task for _, task in self.heads])
        self.closed = torch.arange(max(SIZES)) >= torch.tensor(SIZES)[self.tasks][:, None, None]  # [h, 1, classes]
        shared = [[self.networks[block[0]][1] > k for block in level] for k, level in enumerate(levels[:-1])]
        kept = zip(widths, shared, strict=True)
        self.live = [
            torch.arange(w) < torch.tensor([w if whole else w // 2 for whole in s])[:, None, None] for w, s in kept
        ]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [nn.Linear(*pair) for pair in zip((n_features, *widths[:-1]), widths, strict=True)]
            heads = [nn.Linear(widths[-1], max(SIZES)) for _ in SIZES]
        modules = [*([layer] * len(level) for layer, level in zip(layers, levels, strict=False))]
        modules.append([heads[task] for task in self.tasks])
        self.weights = [torch.stack([m.weight.detach().T for m in level]) for level in modules]  # [b, in, out]
        self.biases = [torch.stack([m.bias.detach()[None] for m in level]) for level in modules]  # [b, 1, out]

    def at(self, level: int, block: tuple[int, ...]) -> int:
        """Return which block of a level a network, or one of its tasks, goes through."""
        return self.index[level][block if block in self.index[level] else block[:1]]

    def logits(self, x: Tensor) -> Tensor:
        """Return the scores of all heads for images [n, d]: [h, n, classes], -1e9 for classes that a task has not."""
        b, d, width = self.weights[0].shape
        a = (x @ self.weights[0].transpose(0, 1).reshape(d, b * width)).view(len(x), b, width).transpose(0, 1)
        a = (a + self.biases[0]).relu() * self.live[0]  # [b, n, width]
        for weight, bias, parent, live in zip(
            self.weights[1:-1], self.biases[1:-1], self.parents[:-1], self.live[1:], strict=True
        ):
            a = torch.baddbmm(bias, a[parent], weight).relu() * live
        return torch.baddbmm(self.biases[-1], a[self.parents[-1]], self.weights[-1]).masked_fill(self.closed, -1e9)

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        """Return each head's mean cross-entropy, [h], for images [n, d] of classes [n, 12]."""
        targets = y[:, self.tasks].T.flatten()
        return F.cross_entropy(self.logits(x).flatten(0, 1), targets, reduction="none").view(-1, len(x)).mean(1)

    @torch.no_grad()
    def accuracy(self, x: Tensor, y: Tensor) -> Tensor:
        """Return each head's share of right answers, [h]."""
        parts = zip(x.split(500), y.split(500), strict=True)
        right = [(self.logits(a).argmax(2) == b[:, self.tasks].T).sum(1) for a, b in parts]
        return torch.stack(right).sum(0) / len(x)

    def layers(self, i: int) -> list[dict[str, Tensor]]:
        """Copy the layers of a network whose tasks share all that are hidden; its heads lie side by side."""
        blocks, heads = (
            [index[i,] for index in self.index[:-1]],
            [self.index[-1][i, task] for task in self.networks[i][0]],
        )
        kept = ~self.closed[heads].flatten()  # [heads · classes]
        parts = [(weight[b].T, bias[b, 0]) for weight, bias, b in zip(self.weights, self.biases, blocks, strict=False)]
        parts += [(self.weights[-1][heads].transpose(1, 2).flatten(0, 1)[kept], self.biases[-1][heads].flatten()[kept])]
        return [{"weight": weight.detach().clone(), "bias": bias.detach().clone()} for weight, bias in parts]

    def start(self, i: int, layers: Sequence[dict[str, Tensor]]) -> None:
        """Give a network the hidden layers of one that has learned its first task, and that task's head."""
        blocks = [*(index[i,] for index in self.index[:-1]), self.index[-1][i, self.networks[i][0][0]]]
        for level, (b, layer) in enumerate(zip(blocks, layers, strict=True)):
            u = len(layer["bias"])
            self.weights[level][b, :, :u], self.biases[level][b, 0, :u] = layer["weight"].T, layer["bias"]


def network(layers: Sequence[dict[str, Tensor]]) -> ge.MLP:
    """Return the network of the weights [out, in] and biases [out] of its layers, bottom first."""
    model = ge.MLP([layers[0]["weight"].shape[1], *(len(layer["bias"]) for layer in layers)])
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    for linear, layer in zip(linears, layers, strict=True):
        linear.load_state_dict(layer)
    return model.eval()


def train(
    networks: Sequence[Network], data: Sequence[Tensor], *, widths: Sequence[int], epochs: int, seed: int,
    learning_rate: float = 3e-3, batch_size: int = 128, keep: Sequence[int] = (),
    start: Sequence[Sequence[dict[str, Tensor]]] = (),
) -> dict[str, Any]:  # fmt: skip
    """Train networks side by side: Adam, one-cycle schedule, the sum of their tasks' mean cross-entropies.

    Args:
        networks: The tasks of each, and how many hidden layers they share.
        data: Training images [n, d] and classes [n, 12], and the same for test.
        widths: Of the hidden layers.
        epochs: Passes through the training images.
        seed: Of initial weights and the order of images.
        learning_rate: Peak.
        batch_size: Images a step.
        keep: Epochs after which networks that share all hidden layers are kept.
        start: For each network the layers of one that has learned its first task; this task is then taught no more.

    Returns:
        ``heads`` (network and task of each head), ``loss`` in training, [epochs, h], test ``accuracy``, [h], with
        ``start`` also ``before``, [h], and ``kept``: for each epoch of ``keep`` the layers of each network, or none.
    """
    x, y, x_test, y_test = data
    forest = Forest(networks, x.shape[1], widths, seed)
    for i, layers in enumerate(start):
        forest.start(i, layers)
    taught = [not start or networks[i][0][0] != task for i, task in forest.heads]
    found: dict[str, Any] = {"heads": [[*head] for head in forest.heads], "before": forest.accuracy(x_test, y_test)}
    optimizer = torch.optim.Adam([p.requires_grad_() for p in (*forest.weights, *forest.biases)], fused=True)
    steps = epochs * -(-len(x) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    order, losses, kept = torch.Generator().manual_seed(seed), [], []
    for epoch in range(1, epochs + 1):
        total = torch.zeros(len(forest.heads))
        for index in torch.randperm(len(x), generator=order).split(batch_size):
            loss = forest.losses(x[index], y[index])
            optimizer.zero_grad()
            loss[taught].sum().backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(index)
        losses.append(total / len(x))
        if epoch in keep:
            kept.append([forest.layers(i) if shared == len(widths) else [] for i, (_, shared) in enumerate(networks)])
    return found | {"loss": torch.stack(losses), "accuracy": forest.accuracy(x_test, y_test), "kept": kept}


def losses_of(tasks: Sequence[int]) -> Callable[[nn.Module, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """Return what gives each task's loss at every sample, [n], by its name, for a model and (images, classes)."""
    sizes, names = [SIZES[task] for task in tasks], [[*CLASSES][task] for task in tasks]

    def losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        scores = model(batch[0]).split(sizes, 1)
        each = [F.cross_entropy(s, batch[1][:, t], reduction="none") for s, t in zip(scores, tasks, strict=True)]
        return dict(zip(names, each, strict=True))

    return losses


def measures(layers: Sequence[dict[str, Tensor]], tasks: Sequence[int], x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Compare every two tasks of a network, at some images.

    Args:
        layers: Of a network whose tasks share all hidden layers.
        tasks: Its tasks, by number.
        x: Images, [n, d].
        y: Their classes, [n, 12].

    Returns:
        Numbers for every two tasks, [t, t], by "<measure>, <layer>". Of the gradients of the per-sample losses with
        respect to a layer: the mean "cosine", the upper end of its interval ("highest cosine"), |cosine| less chance,
        and "agreement", the share of images without conflict. "outputs": the mean |cosine| of the gradients of centered
        scores, over pairs of scores of both tasks, less chance. "parameters": the cosine of the mean losses' gradients
        on a layer's, or all, shared weights and biases; "affinity", their inner product in units of the second task's
        loss, mean of both ways: what a small step for one does for the other (Fifty et al. 2021, Efficiently
        identifying task groupings for multi-task learning, to first order). Without gradients: mean |r| over pairs of
        scores ("correlation of outputs"), "correlation of losses".
    """
    model, sizes = network(layers), [SIZES[task] for task in tasks]
    names = ["input", *(f"hidden{k + 1}" for k in range(len(layers) - 1))]
    parts = [torch.eye(size) - 1 / size if size > 2 else torch.tensor([[-1.0, 1.0]]) for size in sizes]
    blocks = [F.pad(part, (sum(sizes[:k]), sum(sizes[k + 1 :]))) for k, part in enumerate(parts)]
    member = torch.block_diag(*[torch.full((len(part), 1), 1 / len(part)) for part in parts]).double()  # [u, t]

    chance = ge.interference(model, x[:64], units=[0, 1], layers=names).chance
    outputs = ge.interference(model, x, directions=torch.cat(blocks), layers=names, n_readouts=0)
    by_loss = ge.interference(model, (x, y), forward=losses_of(tasks), layers=names, n_readouts=0, n_bootstrap=200)
    found: dict[str, Tensor] = {}
    for name in names:
        found[f"cosine, {name}"], found[f"agreement, {name}"] = by_loss.cosine[name], 1 - by_loss.conflict[name]
        found[f"|cosine|, {name}"] = by_loss.abs_cosine[name] - chance[name]
        found[f"outputs, {name}"] = member.T @ outputs.abs_cosine[name] @ member - chance[name]
        found[f"highest cosine, {name}"] = by_loss.intervals["cosine"][name][1]
    means = torch.stack([*losses_of(tasks)(model, (x, y)).values()], 1).mean(0)
    shared = [*model.parameters()][:-2]  # weight and bias, layer by layer
    grads = [torch.autograd.grad(mean, shared, retain_graph=True) for mean in means]
    by_layer = [[torch.cat([g.flatten() for g in grad[k : k + 2]]) for grad in grads] for k in range(0, len(shared), 2)]
    flat = [torch.stack(layer).double() for layer in by_layer]  # each [t, parameters of the layer]
    gram = [f @ f.T for f in (torch.cat(flat, 1), *flat)]
    cosines = [g / torch.outer(g.diagonal(), g.diagonal()).sqrt() for g in gram]
    found |= {f"parameters, {name}": c for name, c in zip(("all", *names[1:]), cosines, strict=True)}
    affinity = gram[0] / means.detach().double()
    found["affinity"] = (affinity + affinity.T) / 2
    found["correlation of outputs"] = member.T @ outputs.output_correlation.abs() @ member
    found["correlation of losses"] = by_loss.output_correlation
    return found


def plan(tasks: Sequence[int], depth: int) -> list[Network]:
    """List what is trained side by side: each task alone, with all units or half; every pair, split; all tasks."""
    alone = [((task,), shared) for shared in (depth, 0) for task in tasks]
    pairs = [(pair, shared) for pair in combinations(tasks, 2) for shared in range(1, depth + 1)]
    return [*alone, *pairs, ((*tasks,), depth)]


def rank_correlation(
    a: np.ndarray, b: np.ndarray, control: np.ndarray | None = None, *, n_bootstrap: int = 2000, seed: int = 0
) -> np.ndarray:
    """Correlate the ranks of two quantities over pairs of tasks, each a mean over seeds.

    Args:
        a: One quantity, [seeds, pairs].
        b: Another.
        control: A third, whose ranks' share is taken off both (partial correlation).
        n_bootstrap: Replicates that draw seeds and pairs.
        seed: Of the replicates.

    Returns:
        Spearman's correlation first, then that of each replicate, [1 + n_bootstrap].
    """
    rng, (s, p) = np.random.default_rng(seed), a.shape
    seeds = np.concatenate([np.arange(s)[None], rng.integers(s, size=(n_bootstrap, s))])
    drawn = np.concatenate([np.arange(p)[None], rng.integers(p, size=(n_bootstrap, p))])
    given = [a, b] if control is None else [a, b, control]
    means = [np.take_along_axis(table[seeds].mean(1), drawn, 1) for table in given]
    ranks = [rankdata(mean, axis=1) for mean in means]
    x, y, *rest = (rank - rank.mean(1, keepdims=True) for rank in ranks)
    for z in rest:
        x, y = (v - z * _ratio((v * z).sum(1), (z * z).sum(1))[:, None] for v in (x, y))
    return _ratio((x * y).sum(1), np.sqrt((x * x).sum(1) * (y * y).sum(1)))


def _ratio(part: Any, whole: Any) -> Any:
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 1e-9)  # of draws in which nothing varies, 0


def measured(kept: Sequence[Sequence[Any]], networks: Sequence[Network], x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Compare the two tasks of every pair, in the pair's own network.

    Args:
        kept: As `train` gives it.
        networks: What was trained.
        x: Images, [n, d].
        y: Their classes, [n, 12].

    Returns:
        By name as in `measures`, for each epoch and pair, [k, p].
    """
    pairs = [i for i, (tasks, _) in enumerate(networks) if len(tasks) == 2 and kept[0][i]]
    each = [[measures(layers[i], networks[i][0], x, y) for i in pairs] for layers in kept]
    return {name: torch.stack([torch.stack([m[name][0, 1] for m in row]) for row in each]) for name in each[0][0]}


def representation_similarity(kept: Sequence[Any], x: Tensor) -> Tensor:
    """Compare the last hidden layers of networks by linear CKA (Kornblith et al. 2019), at images [n, d]: [t, t]."""
    kernels = []
    for layers in kept:
        a = x
        for layer in layers[:-1]:
            a = F.linear(a, **layer).relu()
        a = a - a.mean(0)
        kernels.append(F.normalize((a @ a.T).flatten(), dim=0))
    return torch.stack(kernels) @ torch.stack(kernels).T


def recommended(kept: Sequence[Any], networks: Sequence[Network], x: Tensor, y: Tensor, level: str) -> Tensor:
    """Count the hidden layers that `gradembed.recommend_split` tells every pair to share.

    Args:
        kept: The networks of one epoch, as `train` gives them.
        networks: What was trained.
        x: Images, [n, d].
        y: Their classes, [n, 12].
        level: Below which cosine two tasks should part.

    Returns:
        A number from 0 on for each pair, [p].
    """
    found = []
    for (tasks, _), layers in zip(networks, kept, strict=True):
        if len(tasks) == 2 and layers:
            hidden = [f"hidden{k + 1}" for k in range(len(layers) - 1)]
            asked = {"forward": losses_of(tasks), "layers": hidden, "level": level, "n_bootstrap": 100}
            result = ge.recommend_split(network(layers), (x, y), **asked)
            (last,) = result.layer.values()
            found.append(("", *result.layers).index(last))
    return torch.tensor(found)


# ---------------------------------------------------------------- scores


def reliability(values: np.ndarray) -> float:
    """Say how reliable the mean over seeds of values [s, p] is, by their rank correlations (Spearman and Brown)."""
    s = len(values)
    r = np.corrcoef(rankdata(values, axis=1))[np.triu_indices(s, 1)].mean()
    return s * r / (1 + (s - 1) * r)


def interval(replicates: np.ndarray) -> str:
    """Write a number and the 95 % interval of its replicates, which stand after it."""
    low, high = np.quantile(replicates[1:], [0.025, 0.975])
    return f"{replicates[0]:.2f} [{low:.2f}, {high:.2f}]"


def rank_table(values: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Put the ranks of numbers for pairs, [p], into a symmetric table of the tasks, [t, t]."""
    a, b = np.transpose(pairs)
    table = np.zeros((b.max() + 1, b.max() + 1))
    table[a, b] = table[b, a] = rankdata(values)
    return table


def digits_of(a: str, b: str) -> str:
    """Say which digits two tasks are about."""
    sides = {"both" if name == "left larger" else name.split()[0] for name in (a, b)}
    if not sides <= {"left", "right"}:
        return "a task of both digits"
    return "same digit" if len(sides) == 1 else "one digit each"


def foretold(predictors: Sequence[np.ndarray], target: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Predict numbers for pairs, [p], from others by ridge regression on ranks, learned from pairs of other tasks."""
    z, y, found = np.stack([*map(rankdata, predictors)], 1) / len(pairs), rankdata(target), np.zeros(len(pairs))
    for i, pair in enumerate(pairs):
        apart = [k for k, other in enumerate(pairs) if not {*pair} & {*other}]
        found[i] = RidgeCV(np.logspace(-3, 3, 13)).fit(z[apart], y[apart]).predict(z[i : i + 1])[0]
    return found


def points_lost(before: Sequence[Any], after: Sequence[Any], tasks: Sequence[int], x: Tensor, y: Tensor) -> np.ndarray:
    """Say how much accuracy, in points, networks have lost at their first head; ``tasks`` names its task."""
    right = [
        [100 * float((network(layers)(x)[:, : SIZES[task]].argmax(1) == y[:, task]).double().mean()) for layers in pair]
        for task, *pair in zip(tasks, before, after, strict=True)
    ]
    return np.array([early - late for early, late in right])


def deepest(conflicts: np.ndarray) -> np.ndarray:
    """Count the hidden layers below the first with a conflict, [s, p]; conflicts [s, layers, p]."""
    return np.where(conflicts.any(1), conflicts.argmax(1), conflicts.shape[1])


def within(splits: np.ndarray, accuracies: np.ndarray, margin: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Say whether chosen splits, [s, p], are within a margin of the best of all, [s, p, splits], and what they lose."""
    best, chosen = accuracies.max(2), np.take_along_axis(accuracies, splits[..., None], 2)[..., 0]
    return (chosen >= best - margin).astype(float), best - chosen


# ---------------------------------------------------------------- figures


def write(ax: Axes, image: AxesImage, table: np.ndarray, form: str, size: float) -> None:
    """Write numbers into the cells of a picture, so that they can be read there."""
    for (i, j), number in np.ndenumerate(table):
        if np.isfinite(number):
            dark = np.dot(image.to_rgba(number)[:3], (0.3, 0.6, 0.1)) < 0.5
            color = "white" if dark else "black"
            ax.text(j, i, format(number, form), ha="center", va="center", fontsize=size, color=color)


def heat(ax: Axes, table: np.ndarray, names: Sequence[str], ends: tuple[float, float], colors: str, words: str) -> None:
    """Draw numbers for every ordered pair of tasks, the diagonal gray."""
    low, high = ends
    image = ax.imshow(table, cmap=plt.get_cmap(colors).with_extremes(bad="#d9d9d9"), vmin=low, vmax=high)
    write(ax, image, table, "z.1f", 7)
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.figure.colorbar(image, ax=ax, label=words, extend="both" if low else "max", shrink=0.8)


def dots(ax: Axes, found: Mapping[float, np.ndarray], color: str, label: str | None = None, **style: Any) -> None:
    """Draw numbers, each at its height, as dots on the 95 % intervals of their replicates."""
    for i, (height, replicates) in enumerate(found.items()):
        low, high = np.quantile(replicates[1:], [0.025, 0.975])
        ax.plot([low, high], [height, height], color=color, linewidth=1.4, alpha=0.6)
        ax.plot(replicates[0], height, "o", color=color, markersize=5, label=None if i else label, **style)
