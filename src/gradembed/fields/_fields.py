"""Fields of gradients: what one unit after another does at its points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from gradembed import _files, _validation
from gradembed.fields._arguments import (
    check_fields,
    check_kind,
    check_matrices,
    check_points_of,
    numbered_on,
    positions,
)

OPTIONAL = ("values", "labels", "groups", "regions")


@dataclass(frozen=True, repr=False, eq=False)
class GradientFields:
    """Gradient fields of u units: m points of a d-dimensional space each, and the unit's gradient at every one.

    ``fields[3]``, ``fields[2:5]``, ``fields[[0, 7]]`` and ``fields[mask]`` are fewer of the units.

    Attributes:
        points: Where gradients are taken: [m, d] if all units share them, [u, m, d] if each has its own.
        gradients: [u, m, d].
        values: What the unit gives at its points, [u, m]; or ``None``.
        labels: What each unit is, [u]. For evaluation only: nothing learns from them. Or ``None``.
        groups: Which network each unit is from, [u]; or ``None``.
        regions: Numbers of the linear pieces that the points lie in, [u, m]: of two points of a unit with the same
            number the gradients are the same. Known for piecewise-linear networks; else ``None``.

    Raises:
        ValueError: If shapes do not fit each other, numbers are not finite, or precisions or devices differ.
        TypeError: If one of them is no tensor.

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

    def __post_init__(self) -> None:
        check_fields(self.points, self.gradients, **{name: getattr(self, name) for name in OPTIONAL})
        for name in ("points", "gradients", "values"):
            value = getattr(self, name)
            if value is not None and value.requires_grad:
                object.__setattr__(self, name, value.detach())

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
        items: list[GradientFields] = _validation.check_sequence("parts", parts, "a sequence of fields")
        for part in items:
            check_kind("parts", part, GradientFields)
            check_points_of(part.gradients, items[0].gradients)
        optional: dict[str, Tensor | None] = {}
        for name in OPTIONAL:
            given = [getattr(part, name) for part in items]
            missing = sum(value is None for value in given)
            if 0 < missing < len(items) and name != "regions":
                remedy = "Give them to all, or drop them with dataclasses.replace"
                _validation.refuse("parts", f"all have {name}, or none", f"{missing} of {len(items)} without", remedy)
            optional[name] = None if missing else torch.cat(given)
        if new_networks and optional["groups"] is not None:
            optional["groups"] = torch.cat(numbered_on([part.groups for part in items]))  # type: ignore[misc]
        first = items[0].points
        same = all(part.is_shared and torch.equal(part.points, first) for part in items)
        points = first if same else torch.cat([part.own_points() for part in items])
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
        chosen = positions(index, self.n_units).to(self.gradients.device)
        picked = {name: value[chosen] for name in OPTIONAL if (value := getattr(self, name)) is not None}
        points = self.points if self.is_shared else self.points[chosen]
        return replace(self, points=points, gradients=self.gradients[chosen], **picked)

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

    def normalised(self) -> GradientFields:
        """Drop scale and offset of the units' outputs: f → (f - mean f) / s and g → g / s, with s its amplitude.

        Two units of which one is a·f + b of the other, a > 0, come out the same.

        Returns:
            Fields whose ``amplitudes()`` are 1.

        Raises:
            ValueError: If a unit is constant at its points and has no scale.

        Example:
            >>> import torch, gradembed as ge
            >>> x = torch.randn(100, 3)
            >>> fields = ge.GradientFields(x, torch.stack([x, 5 * x])).normalised()
            >>> torch.allclose(fields.gradients[0], fields.gradients[1])
            True
        """
        scale = self.amplitudes()
        flat = (scale == 0).nonzero().flatten().tolist()
        if flat:
            shown = ", ".join(map(str, flat[:8])) + (", ..." if len(flat) > 8 else "")
            remedy = "Drop them with fields[fields.amplitudes() > 0]"
            _validation.refuse("fields", "vary at the points of every unit", f"constant units {shown}", remedy)
        values = self.values
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
        _validation.check_integer("m", m, 1)
        _validation.check_integer("seed", seed, 0)
        if m > self.n_points:
            _validation.refuse("m", f"be at most {self.n_points}, the points that there are", m, "Capture more of them")
        generator = torch.Generator().manual_seed(seed)
        draws = 1 if self.is_shared else self.n_units
        order = torch.stack([torch.randperm(self.n_points, generator=generator)[:m] for _ in range(draws)])
        order = order.to(self.gradients.device).expand(self.n_units, -1)
        units = torch.arange(self.n_units, device=order.device)[:, None]
        per_point = {
            name: value[units, order] for name in ("values", "regions") if (value := getattr(self, name)) is not None
        }
        points = self.points[order[0]] if self.is_shared else self.points[units, order]
        return replace(self, points=points, gradients=self.gradients[units, order], **per_point)

    def rotated(self, rotations: Tensor) -> GradientFields:
        """Turn points and gradients: p → R p, g → R g. Norms and inner products stay.

        Args:
            rotations: Orthogonal matrices (reflections too), [d, d] for all units or [u, d, d] for each its own.

        Returns:
            The turned fields; with own points if each unit has its own rotation.

        Raises:
            ValueError: If they have another shape, or are not orthogonal.
            TypeError: If they are no tensor.

        Example:
            >>> import torch, gradembed as ge
            >>> fields = ge.GradientFields(torch.randn(10, 2), torch.randn(1, 10, 2))
            >>> turned = fields.rotated(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
            >>> torch.equal(turned.points[:, 1], fields.points[:, 0])
            True
        """
        matrices = check_matrices("rotations", rotations, self.gradients)
        identity = torch.eye(self.dim, dtype=matrices.dtype, device=matrices.device)
        off = float((matrices.mT @ matrices - identity).abs().max())
        if off > 1e3 * torch.finfo(self.gradients.dtype).eps:
            remedy = "Take Q of torch.linalg.qr, or use `transformed`"
            _validation.refuse("rotations", "be orthogonal", f"R'R that differs from the identity by {off:.1e}", remedy)
        return self._mapped(matrices, matrices)

    def transformed(self, matrices: Tensor) -> GradientFields:
        """Change the basis: p → M p, g → M⁻ᵀ g, as gradients do. The pairings g·(p - p') stay.

        Args:
            matrices: Invertible, [d, d] for all units or [u, d, d] for each its own.

        Returns:
            The fields in the new basis; with own points if each unit has its own matrix.

        Raises:
            ValueError: If they have another shape, or cannot be inverted in their precision.
            TypeError: If they are no tensor.

        Example:
            >>> import torch, gradembed as ge
            >>> fields = ge.GradientFields(torch.ones(1, 2), torch.ones(1, 1, 2))
            >>> fields.transformed(torch.diag(torch.tensor([2.0, 4.0]))).gradients
            tensor([[[0.5000, 0.2500]]])
        """
        given = check_matrices("matrices", matrices, self.gradients)
        singular = torch.linalg.svdvals(given)
        if bool((singular[..., -1] <= self.dim * torch.finfo(self.gradients.dtype).eps * singular[..., 0]).any()):
            _validation.refuse("matrices", "be invertible", "a singular one", "Leave out the directions that it drops")
        return self._mapped(given, torch.linalg.inv(given).mT)

    def save(self, path: str | Path) -> None:
        """Write the fields to a file of safetensors, whole or not at all.

        Args:
            path: The file; its folder is made if it is missing.

        Raises:
            OSError: If it cannot be written.
            TypeError: If it is no path.
        """
        tensors = {name: getattr(self, name) for name in ("points", "gradients", *OPTIONAL)}
        kept = {name: value.cpu().contiguous().clone() for name, value in tensors.items() if value is not None}
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
            _validation.refuse("path", rule, f"{str(path)!r}: {error}", "Pass another")
        needed, known = {"points", "gradients"}, {"points", "gradients", *OPTIONAL}
        if not needed <= tensors.keys() <= known:
            got = ", ".join(map(repr, tensors)) or "nothing"
            _validation.refuse("path", rule, f"one with {got}", "Pass another")
        return cls(**tensors)

    def _mapped(self, of_points: Tensor, of_gradients: Tensor) -> GradientFields:
        """Multiply points and gradients by matrices, given in float64.

        Returns:
            The mapped fields.
        """
        points = self.points if of_points.ndim == 2 else self.own_points()
        moved = points.double() @ of_points.mT
        gradients = self.gradients.double() @ of_gradients.mT
        return replace(self, points=moved.to(self.points), gradients=gradients.to(self.gradients))
