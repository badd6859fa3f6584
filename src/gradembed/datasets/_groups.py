"""Networks that multiply in a finite group, whose units' function is known: which representation a unit reads."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn import functional as F

from gradembed._validation import as_integer, as_list, as_number, as_tensor, check_path, refuse
from gradembed.models import MLPEnsemble

DEAD = 0.01  # of the largest unit's energy
PURE = 0.8  # of a unit's own energy
STEPS, RATE, DECAY = 2_000, 0.02, 0.5  # of full-batch AdamW


@dataclass(frozen=True, repr=False, eq=False)
class GroupNetworks:
    """Networks that have learned the multiplication of a finite group of n elements, and what their units read.

    A network gets two elements, one-hot and one behind the other, and its largest output is their product:
    relu(A[a] + B[b]) U, an `MLP` 2n-h-n with its biases at zero.

    Attributes:
        name: Of the group.
        source: Where the networks are from.
        table: Multiplication, [n, n]: ``table[a, b]`` is a·b.
        networks: Of one shape.
        labels: Which isotypic component a hidden unit reads, [e, h], as `component_labels` finds it; -1 for none.
        purity: The share of the unit's energy in it, [e, h].
        component_dims: Dimensions of the components, [c].

    Example:
        >>> import gradembed as ge
        >>> addition = ge.datasets.train_addition_networks(5, n_networks=2, n_hidden=16)
        >>> addition
        GroupNetworks('addition modulo 5', 2 networks 10-16-5, trained here)
        >>> bool((addition.networks(addition.inputs).argmax(2) == addition.targets).all())
        True
    """

    name: str
    source: str
    table: Int64[Tensor, "n n"]
    networks: MLPEnsemble
    labels: Int64[Tensor, "e h"]
    purity: Float64[Tensor, "e h"]
    component_dims: Int64[Tensor, " c"]

    def __repr__(self) -> str:
        shape = "-".join(map(str, self.networks.widths))
        return f"GroupNetworks({self.name!r}, {len(self.networks)} networks {shape}, {self.source})"

    @property
    def inputs(self) -> Float[Tensor, "pairs d"]:
        """All pairs (a, b), one-hot and one behind the other, [n², 2n]."""
        one = torch.eye(n := len(self.table))
        return torch.cat([one.repeat_interleave(n, 0), one.repeat(n, 1)], 1)

    @property
    def symmetries(self) -> Int64[Tensor, "t d"]:
        """Orders of the 2n inputs under which products change their names at most, [3n, 2n], for `FieldDescriptor`.

        For each element g: (a, b) to (ga, b), to (a, bg⁻¹) and to (ag⁻¹, gb), which leaves even the product alone.
        """
        n, same = len(self.table), torch.arange(len(self.table)).expand_as(self.table)
        neutral = (self.table == same).all(1).nonzero()[0]
        ahead, behind = self.table, self.table.T[(self.table == neutral).long().argmax(1)]  # [g, a]: ga and ag⁻¹
        pairs = ((ahead, n + same), (same, n + behind), (behind, n + ahead))
        return torch.cat([torch.cat(pair, 1) for pair in pairs])

    @property
    def targets(self) -> Int64[Tensor, " pairs"]:
        """Products of these pairs, [n²]."""
        return self.table.flatten()


def component_labels(weights: Any, table: Any, *, least_purity: float = PURE) -> tuple[Tensor, Tensor]:
    """Tell which representation of a finite group each unit reads, from its weights.

    The functions on a group fall into isotypic components, one for each irreducible representation (for complex
    conjugates, one for both): its matrix coefficients. Class functions, convolved with, multiply each component by one
    number, so that components are the joint eigenspaces of the class sums, K_ab = w(class of a⁻¹b). A unit reads the
    component that holds most of its energy, the sum of its squared weights.

    Args:
        weights: Of the read-in, [..., h, k·n]: k blocks of n inputs, each one-hot in the group's elements.
        table: Multiplication table, [n, n]: ``table[a, b]`` is a·b.
        least_purity: Units with a smaller share in one component read none.

    Returns:
        Labels, [..., h], int64, the components in the order of their dimensions, the constant first; -1 for units with
        less than a hundredth of the energy of the network's largest, or below the purity. And the purity: the share
        of the unit's energy in its first component, [..., h], float64; 0 for units without weights.

    Raises:
        ValueError: If shapes do not fit, or ``table`` is no group's.
        TypeError: If an argument holds no numbers.

    Example:
        >>> import torch, gradembed as ge
        >>> a = torch.arange(7)
        >>> waves = torch.stack([torch.cos(2 * torch.pi * k * a / 7) for k in (1, 1, 3)])
        >>> labels, purity = ge.datasets.component_labels(waves, (a[:, None] + a) % 7)
        >>> bool(labels[0] == labels[1] != labels[2]), bool((purity > 0.999).all())
        (True, True)

    References:
        B. Chughtai, L. Chan, N. Nanda (2023), A toy model of universality: reverse engineering how networks learn
        group operations.
        J.-P. Serre (1977), Linear representations of finite groups, chapters 2 and 6.
    """
    table = _group_table(table)
    read_in = as_tensor("weights", weights, "h d ...", kind="any").double()
    least, n = as_number("least_purity", least_purity, 0, 1), len(table)
    if read_in.shape[-1] % n:
        refuse("weights", f"have blocks of {n} inputs, the group's elements", list(read_in.shape), "Transpose them")
    basis, component = _components(table)
    amplitudes = read_in.unflatten(-1, (-1, n)) @ basis  # [..., h, k, n]
    energy = torch.zeros(*read_in.shape[:-1], int(component.max()) + 1, dtype=torch.float64)
    energy.index_add_(-1, component, amplitudes.square().sum(-2))
    total = energy.sum(-1)
    largest, labels = energy.max(-1)
    purity = largest / torch.where(total > 0, total, 1)
    is_read = (total > DEAD * total.amax(-1, keepdim=True)) & (purity >= least)
    return torch.where(is_read, labels, -1), purity


def _group_table(table: Any) -> Tensor:
    """Read a multiplication table, refusing what is no group's."""
    products = as_tensor("table", table, "n n", kind="int")
    everyone, n = torch.arange(len(products)), len(products)
    is_latin = all(torch.equal(t.sort(1).values, everyone.expand(n, n)) for t in (products, products.T))
    if not is_latin or not bool((products == everyone).all(1).any()):
        got = "one in which a row or column lacks an element" if not is_latin else "one without a neutral element"
        refuse("table", "be the multiplication table of a group", got, "Number the elements from 0")
    if not torch.equal(products[products], products[:, products]):
        refuse("table", "be the multiplication table of a group", "one with (ab)c ≠ a(bc)", "Correct it")
    return products


def _components(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return a basis of the functions on a group, [n, n], and the component that each column lies in, [n]."""
    neutral = (table == torch.arange(len(table))).all(1).nonzero()[0]
    inverse = (table == neutral).long().argmax(1)
    conjugates = table[table, inverse[:, None]]  # [x, g]: x g x⁻¹
    kind = torch.minimum(conjugates.amin(0), conjugates.amin(0)[inverse])  # classes, with those of the inverses
    weights = torch.randn(len(table), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values, basis = torch.linalg.eigh(weights[kind][table[inverse]])  # symmetric, since w(g⁻¹) = w(g)
    gaps, n_components = values.diff(), len(kind.unique())  # as many components as such classes
    starts = gaps.argsort(descending=True)[: n_components - 1]
    component = torch.zeros_like(kind).index_fill_(0, starts + 1, 1).cumsum(0)
    dims, constant = component.bincount(), component[basis.sum(0).abs().argmax()]
    keys = dims.double().index_fill(0, constant, 0)
    return basis, keys.argsort(stable=True).argsort()[component]


def published(name: str, root: str | Path | None, remedy: str) -> Path:
    """Find a file of published networks, in ``root`` or else in the folder that GRADEMBED_DATA names.

    Returns:
        Its path.
    """
    folders = [folder for folder in (root, os.environ.get("GRADEMBED_DATA")) if folder is not None]
    for folder in folders:
        check_path("root", folder)
    found = [path for folder in folders if (path := Path(folder, name)).is_file()]
    if not found:
        refuse("root", "hold the published networks", f"no {name} in it or in GRADEMBED_DATA", remedy, OSError)
    return found[0]


def load_group_networks(
    group: str, *, seeds: Sequence[int] | None = None, root: str | Path | None = None
) -> GroupNetworks:
    """Load published networks that multiply in a group: "S5", "A5", "D59" or "C113".

    They are those of Chughtai, Chan and Nanda, folded to relu(A[a] + B[b]) U and kept as ``groups/<group>.safetensors``
    in ``root``, or else in the folder that the environment variable ``GRADEMBED_DATA`` names. They are not downloaded.

    Args:
        group: Of which a file is there.
        seeds: Which of its networks; ``None`` for all.
        root: Folder to look in first.

    Returns:
        The networks, right on every pair.

    Raises:
        ValueError: If a seed is not in the file, or the file is damaged.
        TypeError: If an argument has the wrong type.
        OSError: If the file is not there.

    Example:
        >>> import gradembed as ge
        >>> ge.datasets.load_group_networks("S5", seeds=[1, 2])  # doctest: +SKIP
        GroupNetworks('S5', 2 networks 240-128-120, published: Chughtai, Chan and Nanda 2023)

    References:
        B. Chughtai, L. Chan, N. Nanda (2023), A toy model of universality: reverse engineering how networks learn
        group operations. Code and networks: github.com/bilal-chughtai/rep-theory-mech-interp.
    """
    check_path("group", group)
    asked = None if seeds is None else [as_integer("seeds", s) for s in as_list("seeds", seeds, "seeds")]
    path = published(f"groups/{group}.safetensors", root, "Use train_addition_networks instead")
    try:
        with safetensors.safe_open(path, "pt") as file:
            known = [int(seed) for seed in json.loads(file.metadata()["seeds"])]
            chosen = known if asked is None else asked
            if missing := [seed for seed in chosen if seed not in known]:
                refuse("seeds", f"be among {known}", missing, "Drop them")
            parts = [torch.stack([file.get_tensor(f"{part}.{seed}") for seed in chosen]) for part in "ABU"]
            table = file.get_tensor("table")
    except (safetensors.SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        refuse("root", "hold intact files of networks", f"{path.name}, which cannot be read ({error})", "Copy it again")
    return _labeled(str(group), "published: Chughtai, Chan and Nanda 2023", table, *parts)


def train_addition_networks(p: int = 31, n_networks: int = 8, *, n_hidden: int = 64, seed: int = 0) -> GroupNetworks:
    """Train networks on addition modulo a prime, as a stand-in for published ones: seconds each, right on all pairs.

    2,000 steps of AdamW on all p² pairs, with strong weight decay, under which units come to read one frequency each.

    Args:
        p: The modulus.
        n_networks: How many.
        n_hidden: Hidden units of each.
        seed: Of the first network's weights; the next one's is one more.

    Returns:
        The networks. Their components are the constant and the frequencies, of two dimensions each.

    Raises:
        ValueError: If a number is out of range, or a network does not get all pairs right.
        TypeError: If a number is no integer.

    Example:
        >>> import gradembed as ge
        >>> ge.datasets.train_addition_networks(5, n_networks=2, n_hidden=16).component_dims
        tensor([1, 2, 2])

    References:
        N. Nanda, L. Chan, T. Lieberum, J. Smith, J. Steinhardt (2023), Progress measures for grokking via mechanistic
        interpretability.
    """
    p, e = as_integer("p", p, 3), as_integer("n_networks", n_networks, 1)
    h, seed = as_integer("n_hidden", n_hidden, 1), as_integer("seed", seed, 0)
    table = (torch.arange(p)[:, None] + torch.arange(p)) % p
    targets = table.flatten().repeat(e)
    draws = [torch.randn(3, p, h, generator=torch.Generator().manual_seed(seed + i)) for i in range(e)]
    a, b, u = torch.stack(draws, 1)  # [e, p, h]
    weights = [a / (2 * p) ** 0.5, b / (2 * p) ** 0.5, u.mT / h**0.5]
    with torch.enable_grad():
        a, b, u = weights = [part.clone().requires_grad_() for part in weights]
        optimizer = torch.optim.AdamW(weights, RATE, betas=(0.9, 0.98), weight_decay=DECAY)
        for _ in range(STEPS):
            outputs = (a[:, :, None] + b[:, None]).flatten(1, 2).relu() @ u  # [e, p², p]
            loss = F.cross_entropy(outputs.flatten(0, 1), targets, reduction="sum") / p**2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    trained = _labeled(f"addition modulo {p}", "trained here", table, *(part.detach() for part in weights))
    with torch.no_grad():
        right = trained.networks(trained.inputs).argmax(2) == trained.targets
    if not bool(right.all()):
        got = f"{h}, with which a network gets {float(right.double().mean(1).min()):.1%} of the pairs right"
        refuse("n_hidden", "be enough to get all pairs right", got, "Raise it")
    return trained


def _labeled(name: str, source: str, table: Tensor, a: Tensor, b: Tensor, u: Tensor) -> GroupNetworks:
    """Return networks of weights A, B, [e, n, h], and U, [e, h, n]."""
    read_in, read_out = torch.cat([a, b], 1).mT, u.mT
    biases = [torch.zeros(weights.shape[:2]) for weights in (read_in, read_out)]
    parts = {"weights": [read_in, read_out], "biases": biases, "activations": [("ReLU", {})]}
    networks = MLPEnsemble.from_parts(parts).eval()
    labels, purity = component_labels(read_in, table)
    dims = _components(table)[1].bincount()
    return GroupNetworks(name, source, table, networks, labels, purity, dims)
