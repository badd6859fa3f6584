"""Fields of gradients: what one unit after another does at its points."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from gradembed import _files
from gradembed._validation import as_integer, as_list, as_tensor, describe, refuse

OPTIONAL = {"values": ("float", "u m"), "labels": ("int", "u"), "groups": ("int", "u"), "regions": ("int", "u m"),
            "fit_r2": ("float", "u")}  # fmt: skip
NAMES = ("points", "gradients", *OPTIONAL)


@dataclass(frozen=True, repr=False, eq=False)
class GradientFields:
    """Gradient fields of u units: m points of a d-dimensional space each, and the unit's gradient at every one.

    ``fields[3]``, ``fields[2:5]``, ``fields[[0, 7]]`` and ``fields[mask]`` are fewer of the units. Arrays and lists
    of numbers are taken wherever tensors are, and kept as tensors.

    Attributes:
        points: Where gradients are taken: [m, d] if all units share them, [u, m, d] if each has its own.
        gradients: [u, m, d].
        values: What the unit gives at its points, [u, m]; or ``None``.
        labels: What each unit is, [u]. For evaluation only: nothing learns from them. Or ``None``.
        groups: Which network each unit is from, [u]; or ``None``.
        regions: Numbers of the linear pieces that the points lie in, [u, m]: of two points of a unit with the same
            number the gradients are the same. Known for piecewise-linear networks; else ``None``.
        fit_r2: Of gradients that `estimated_fields` made: how well the values were fitted, [u]; else ``None``.

    Raises:
        ValueError: If shapes do not fit each other, numbers are not finite, or precisions or devices differ.
        TypeError: If one of them holds no numbers.

    Example:
        >>> import torch, gradembed as ge
        >>> x = torch.randn(100, 3)
        >>> fields = ge.GradientFields(x, gradients=torch.stack([x, -x]), values=x.square().sum(1).expand(2, -1) / 2)
        >>> fields
        GradientFields(2 units at 100 shared points of 3 dimensions, with values)
        >>> len(fields[:1]), fields.own_points().shape
        (1, torch.Size([2, 100, 3]))
    """

    points: Float[Tensor, "m d"] | Float[Tensor, "u m d"]
    gradients: Float[Tensor, "u m d"]
    values: Float[Tensor, "u m"] | None = None
    labels: Int64[Tensor, " u"] | None = None
    groups: Int64[Tensor, " u"] | None = None
    regions: Int64[Tensor, "u m"] | None = None
    fit_r2: Float[Tensor, " u"] | None = None

    def __post_init__(self) -> None:
        gradients = as_tensor("gradients", self.gradients, "u m d")  # first: the others have to fit them
        object.__setattr__(self, "gradients", gradients)
        u, m, d = gradients.shape
        for name, (kind, axes) in {"points": ("float", "m d|u m d"), **OPTIONAL}.items():
            if (value := getattr(self, name)) is not None or name == "points":
                object.__setattr__(self, name, as_tensor(name, value, axes, kind=kind, like=gradients, u=u, m=m, d=d))

    @classmethod
    def concatenate(cls, parts: Sequence[GradientFields], *, new_networks: bool = False) -> GradientFields:
        """Put the units of several fields one after the other.

        Points stay shared if all parts share the same. ``regions`` are kept if all parts have them.

        Args:
            parts: Fields with equally many points of the same dimension.
            new_networks: Number ``groups`` on from part to part, for parts that have no network in common. Else
                they are kept, and equal numbers mean the same network.

        Returns:
            All units.

        Raises:
            ValueError: If there is no part, or sizes, precision or device differ, or some parts have values, labels
                or groups and others have none.
            TypeError: If a part is no `GradientFields`.

        Example:
            >>> import torch, gradembed as ge
            >>> one = ge.GradientFields(torch.randn(10, 3), torch.randn(2, 10, 3))
            >>> ge.GradientFields.concatenate([one, one, one])
            GradientFields(6 units at 10 shared points of 3 dimensions)
        """
        items: list[GradientFields] = [check_fields("parts", part) for part in as_list("parts", parts, "some fields")]
        kinds = [f"{p.n_points} points of {p.dim} dimensions, {p.points.dtype} on {p.points.device}" for p in items]
        if other := [kind for kind in kinds if kind != kinds[0]]:
            refuse("parts", f"all have {kinds[0]}", other[0], "Use `subsample` or convert them, or take them apart")
        optional: dict[str, Tensor | None] = {}
        for name in OPTIONAL:
            given = [value for part in items if (value := getattr(part, name)) is not None]
            if len(given) not in (0, len(items)) and name not in ("regions", "fit_r2"):
                got = f"{len(items) - len(given)} of {len(items)} without"
                refuse("parts", f"all have {name}, or none", got, "Add or drop them with dataclasses.replace")
            optional[name] = torch.cat(given) if len(given) == len(items) else None
        if new_networks and (groups := optional["groups"]) is not None:  # number the pairs of part and group
            pairs = torch.stack([torch.cat([torch.full((len(p),), i) for i, p in enumerate(items)]).to(groups), groups])
            optional["groups"] = pairs.unique(dim=1, return_inverse=True)[1]
        same = all(part.is_shared and torch.equal(part.points, items[0].points) for part in items)
        points = items[0].points if same else torch.cat([part.own_points() for part in items])
        return cls(points, torch.cat([part.gradients for part in items]), **optional)

    @property
    def n_units(self) -> int:
        """Number of units, u."""
        return self.gradients.shape[0]

    @property
    def n_points(self) -> int:
        """Number of points of each unit, m."""
        return self.gradients.shape[1]

    @property
    def dim(self) -> int:
        """Number of dimensions, d."""
        return self.gradients.shape[2]

    @property
    def is_shared(self) -> bool:
        """Whether all units have the same points, in the same order."""
        return self.points.ndim == 2

    def __len__(self) -> int:
        return self.n_units

    def __getitem__(self, index: int | slice | Sequence[int] | Sequence[bool] | Tensor) -> GradientFields:
        chosen = _positions(index, self.n_units).to(self.gradients.device)
        names = [*OPTIONAL, "gradients", *([] if self.is_shared else ["points"])]
        return replace(self, **{name: value[chosen] for name in names if (value := getattr(self, name)) is not None})

    def __repr__(self) -> str:
        u, m, d = self.gradients.shape
        counts = f"{u:,} unit{'s' if u != 1 else ''} at {m:,} {'shared' if self.is_shared else 'own'} points"
        extras = [name for name in OPTIONAL if getattr(self, name) is not None]
        note = f", with {', '.join(extras)}" if extras else ""
        return f"GradientFields({counts} of {d} dimension{'s' if d != 1 else ''}{note})"

    def own_points(self) -> Float[Tensor, "u m d"]:
        """The points of each unit, whether shared or not.

        Returns:
            [u, m, d]. May be an expanded view: never write to it.
        """
        return self.points.expand(self.gradients.shape)

    def amplitudes(self) -> Float[Tensor, " u"]:
        """The scale of each unit: the standard deviation of its values over its points.

        Without values it is the root mean square of the gradient's norm.

        Returns:
            [u]. Exactly 0 for a unit whose values differ by no more than rounding.
        """
        if self.values is None:
            largest = self.gradients.abs().amax((1, 2), keepdim=True).double()
            scaled = self.gradients / torch.where(largest > 0, largest, 1)  # float64: no underflow in the squares
            return (scaled.square().sum(2).mean(1).sqrt() * largest[:, 0, 0]).to(self.gradients)
        spread = self.values.double().std(1, correction=0)
        rounding = 8 * torch.finfo(self.values.dtype).eps * self.values.double().abs().amax(1)
        return torch.where(spread > rounding, spread, 0).to(self.values)

    def normalized(self) -> GradientFields:
        """Drop scale and offset of the units' outputs: f → (f - mean f) / s and g → g / s, with s its amplitude.

        Two units of which one is a·f + b of the other, a > 0, come out the same.

        Returns:
            Fields whose ``amplitudes()`` are 1.

        Raises:
            ValueError: If a unit is constant at its points and has no scale.

        Example:
            >>> import torch, gradembed as ge
            >>> x = torch.randn(100, 3)
            >>> fields = ge.GradientFields(x, torch.stack([x, 5 * x])).normalized()
            >>> torch.allclose(fields.gradients[0], fields.gradients[1])
            True
        """
        scale, values = varying_amplitudes(self), self.values
        if values is not None:
            values = ((values - values.double().mean(1, keepdim=True)) / scale[:, None]).to(values)
        return replace(self, gradients=self.gradients / scale[:, None, None], values=values)

    def subsample(self, m: int, seed: int = 0) -> GradientFields:
        """Keep m points of each unit, drawn without replacement: shared ones together, own ones for each unit alone.

        Args:
            m: How many.
            seed: Of the draw.

        Returns:
            The same units at fewer points.

        Raises:
            ValueError: If ``m`` is below 1 or above the number of points, or ``seed`` is negative.
            TypeError: If one of them is no integer.

        Example:
            >>> import torch, gradembed as ge
            >>> ge.GradientFields(torch.randn(10, 3), torch.randn(2, 10, 3)).subsample(4)
            GradientFields(2 units at 4 shared points of 3 dimensions)
        """
        m, u = as_integer("m", m, 1, self.n_points), self.n_units
        generator = torch.Generator().manual_seed(as_integer("seed", seed, 0))
        draws = [torch.randperm(self.n_points, generator=generator)[:m] for _ in range(1 if self.is_shared else u)]
        where = torch.arange(u)[:, None], torch.stack(draws).expand(u, -1)  # units [u, 1] and their points [u, m]
        names = ("gradients", "values", "regions")
        picked = {name: value[where] for name in names if (value := getattr(self, name)) is not None}
        return replace(self, points=self.points[draws[0]] if self.is_shared else self.points[where], **picked)

    def rotated(self, rotations: Tensor) -> GradientFields:
        """Turn points and gradients: p → R p, g → R g. Norms and inner products stay.

        Args:
            rotations: Orthogonal matrices (reflections too), [d, d] for all units or [u, d, d] for each its own.

        Returns:
            The turned fields; with own points if each unit has its own rotation.

        Raises:
            ValueError: If they have another shape, or are not orthogonal.
            TypeError: If they hold no numbers.

        Example:
            >>> import torch, gradembed as ge
            >>> fields = ge.GradientFields(torch.randn(10, 2), torch.randn(1, 10, 2))
            >>> turned = fields.rotated([[0.0, -1.0], [1.0, 0.0]])
            >>> torch.equal(turned.points[:, 1], fields.points[:, 0])
            True
        """
        matrices = self._matrices("rotations", rotations)
        off = float((matrices.mT @ matrices - torch.eye(self.dim).to(matrices)).abs().max())
        if off > 1e3 * torch.finfo(self.gradients.dtype).eps:
            remedy = "Take Q of torch.linalg.qr, or use `transformed`"
            refuse("rotations", "be orthogonal", f"R'R that differs from the identity by {off:.1e}", remedy)
        return self._mapped(matrices, matrices)

    def transformed(self, matrices: Tensor) -> GradientFields:
        """Change the basis: p → M p, g → M⁻ᵀ g, as gradients do. The pairings g·(p - p') stay.

        Args:
            matrices: Invertible, [d, d] for all units or [u, d, d] for each its own.

        Returns:
            The fields in the new basis; with own points if each unit has its own matrix.

        Raises:
            ValueError: If they have another shape, or cannot be inverted in their precision.
            TypeError: If they hold no numbers.

        Example:
            >>> import torch, gradembed as ge
            >>> fields = ge.GradientFields(torch.ones(1, 2), torch.ones(1, 1, 2))
            >>> fields.transformed(torch.diag(torch.tensor([2.0, 4.0]))).gradients
            tensor([[[0.5000, 0.2500]]])
        """
        given = self._matrices("matrices", matrices)
        singular = torch.linalg.svdvals(given)
        if bool((singular[..., -1] <= self.dim * torch.finfo(self.gradients.dtype).eps * singular[..., 0]).any()):
            refuse("matrices", "be invertible", "a singular one", "Leave out the directions that it drops")
        return self._mapped(given, torch.linalg.inv(given).mT)

    def save(self, path: str | Path) -> None:
        """Write the fields to a file of safetensors, whole or not at all.

        Args:
            path: The file; its folder is made if it is missing.

        Raises:
            OSError: If it cannot be written.
            TypeError: If it is no path.
        """
        kept = {name: value.cpu().contiguous().clone() for name in NAMES if (value := getattr(self, name)) is not None}
        _files.save("path", path, safetensors.torch.save(kept))

    @classmethod
    def load(cls, path: str | Path) -> GradientFields:
        """Read what `save` wrote.

        Args:
            path: The file.

        Returns:
            The fields, on the CPU.

        Raises:
            ValueError: If the file holds something else.
            OSError: If it cannot be read.
            TypeError: If it is no path.

        Example:
            >>> import tempfile, torch, gradembed as ge
            >>> fields = ge.GradientFields(torch.randn(10, 3), torch.randn(2, 10, 3))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     fields.save(f"{folder}/fields.safetensors")
            ...     ge.GradientFields.load(f"{folder}/fields.safetensors")
            GradientFields(2 units at 10 shared points of 3 dimensions)
        """
        rule, content = "name a file that GradientFields.save wrote", _files.load("path", path)
        try:
            tensors = safetensors.torch.load(content)
        except safetensors.SafetensorError as error:
            refuse("path", rule, f"{str(path)!r}: {error}", "Pass another")
        if not {"points", "gradients"} <= tensors.keys() <= set(NAMES):
            refuse("path", rule, f"one with {', '.join(map(repr, tensors)) or 'nothing'}", "Pass another")
        return cls(**tensors)

    def _matrices(self, name: str, value: Any) -> Tensor:
        """Return one matrix for all units or one for each, in float64 on the fields' device."""
        return as_tensor(name, value, "d d|u d d", u=self.n_units, d=self.dim).to(self.gradients.device, torch.float64)

    def _mapped(self, of_points: Tensor, of_gradients: Tensor) -> GradientFields:
        points = (self.points if of_points.ndim == 2 else self.own_points()).double() @ of_points.mT
        gradients = self.gradients.double() @ of_gradients.mT
        return replace(self, points=points.to(self.points), gradients=gradients.to(self.gradients))


def check_fields(name: str, value: Any, least_units: int = 1, least_points: int = 1) -> GradientFields:
    """Return the fields, refusing what is none, or has too few units or points."""
    if not isinstance(value, GradientFields):
        refuse(name, "be GradientFields", describe(value), "Take them with gradembed.gradient_fields", TypeError)
    if value.n_points < least_points:
        refuse(name, f"have at least {least_points} points of each unit", value.n_points, "Take them at more points")
    if value.n_units < least_units:
        refuse(name, f"have at least {least_units} units", value.n_units, "Concatenate more units")
    return value


def varying_amplitudes(fields: GradientFields) -> Tensor:
    """Return the units' amplitudes, [u], refusing constant units: they have no scale to be divided by."""
    amplitudes = fields.amplitudes()
    if constant := (amplitudes == 0).nonzero().flatten().tolist():
        remedy = "Drop them with fields[fields.amplitudes() > 0]"
        refuse("fields", "vary at the points of every unit", f"constant units {reprlib.repr(constant)}", remedy)
    return amplitudes


def _positions(index: Any, u: int) -> Tensor:
    """Return an integer, a slice, a list of positions or a mask as positions from 0 to u - 1, at least one, [v]."""
    positions = np.arange(u)
    try:
        given = index.numpy(force=True) if isinstance(index, Tensor) else index
        row = np.asarray(positions[given] if isinstance(given, slice) else given)
    except ValueError:  # rows of different lengths
        row = np.array(None)
    if (row.size and row.dtype.kind not in "iub") or (row.ndim == 0 and row.dtype.kind == "b"):
        remedy = "Pass fields[0], fields[2:5], fields[[0, 7]] or fields[mask]"
        refuse("index", "be an integer, a slice, a list of positions or a mask", describe(index), remedy, TypeError)
    chosen = positions[:0]
    with suppress(IndexError):
        chosen = positions[row.reshape(-1)] if row.size else chosen
    if not len(chosen):
        rule = f"pick units between {-u} and {u - 1}, one or more, or be a mask of {u} units"
        refuse("index", rule, describe(index), "Drop or correct it", IndexError)
    return torch.from_numpy(chosen)
