"""All questions to one trained network, answered on one page to look around in."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import escape
from torch import Tensor, nn

from gradembed._files import save
from gradembed._validation import as_integer, check_path, refuse
from gradembed.fields import GradientFields
from gradembed.gradients import Site
from gradembed.interference import Interference
from gradembed.report._request import check_embedder, check_title, read_request
from gradembed.tree import GradientTree

__all__ = ["Atlas", "explore", "report"]


@dataclass(frozen=True, repr=False, eq=False)
class Atlas:
    """A page about a trained network, as `report` wrote it, or about results, as `explore` made it.

    Attributes:
        path: Where it was written; ``None`` for a page of `explore`, which a notebook shows whole.
        title: Its title.
        findings: What it begins with: a sentence for each question, with chance and control.
        html: The page.

    Example:
        >>> import tempfile, torch, gradembed as ge
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     atlas = ge.report(ge.MLP([4, 8, 3], seed=0), torch.randn(50, 4), path=f"{folder}/a.html", n_bootstrap=0)
        ...     atlas.save(f"{folder}/b.html").name, atlas.path.name, len(atlas.findings)
        ('b.html', 'a.html', 3)
    """

    path: Path | None
    title: str
    findings: tuple[str, ...]
    html: str

    def __repr__(self) -> str:
        where = "not saved" if self.path is None else repr(str(self.path))
        return f"Atlas({self.title!r}, {len(self.html) / 1e6:.1f} MB, {where})"

    def __fspath__(self) -> str:
        if self.path is None:
            refuse("atlas", "be a page on disk", "one of explore", "Take the path that .save(path) returns")
        return str(self.path)

    def _repr_html_(self) -> str:
        if self.path is None:
            return self.explore()._repr_html_()
        lines = "".join(f"<li>{escape(line)}</li>" for line in self.findings)
        name = f"<code>{escape(str(self.path))}</code>"
        return f"<strong>{escape(self.title)}</strong><ul>{lines}</ul><p>The whole page: {name}, or .explore()</p>"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to another place, whole or not at all; folders are made if they are missing.

        Args:
            path: The file.

        Returns:
            The path.

        Raises:
            ValueError: If ``path`` is a folder.
            TypeError: If it is no path.
            OSError: If it cannot be written.

        Example:
            >>> import tempfile, torch, gradembed as ge
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     atlas = ge.report(ge.MLP([4, 8, 3]), torch.randn(50, 4), path=f"{folder}/a.html", n_bootstrap=0)
            ...     atlas.save(f"{folder}/new/b.html").read_text() == atlas.path.read_text()
            True
        """
        target = _file("path", path)
        save("path", target, self.html.encode())
        return target

    def explore(self, height: int = 900) -> _Frame:
        """Look around in the page inside a notebook: all its views, in a frame of the cell's output.

        Args:
            height: Of the frame in pixels, at least 200.

        Returns:
            What a notebook shows as the page.

        Raises:
            ValueError: If ``height`` is too small.
            TypeError: If it is no integer.

        Example:
            >>> import tempfile, torch, gradembed as ge
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     atlas = ge.report(ge.MLP([4, 8, 3]), torch.randn(50, 4), path=f"{folder}/a.html", n_bootstrap=0)
            >>> atlas.explore(height=600)._repr_html_()[:7]
            '<iframe'
        """
        return _Frame(self, as_integer("height", height, 200))


@dataclass(frozen=True, eq=False)
class _Frame:
    """A page inside a notebook."""

    atlas: Atlas
    height: int

    def _repr_html_(self) -> str:
        style = f"width:100%;height:{self.height}px;border:0"
        return (
            f'<iframe title="{escape(self.atlas.title)}" style="{style}" srcdoc="{escape(self.atlas.html)}"></iframe>'
        )


def _file(name: str, path: str | os.PathLike[str]) -> Path:
    check_path(name, path)
    target = Path(path)
    if target.is_dir():
        refuse(name, "name a file", f"the folder {str(target)!r}", "Add a file's name, say report.html")
    return target


def report(
    model: nn.Module, x: Any, y: Tensor | None = None, path: str | os.PathLike[str] = "report.html", *,
    forward: Callable[..., Any] | None = None, others: Sequence[nn.Module] = (), names: Sequence[str] | None = None,
    units: Sequence[int | str] | Tensor | None = None, layers: str | Site | Sequence[str | Site] | None = None,
    centered: bool | None = None, unit_layer: str | Site | None = None, embedder: Any = None,
    tolerance: float | None = None, n_bootstrap: int = 1000, n_untrained: int = 0,
    reinitialize: Callable[[nn.Module], Any] | None = None, max_samples: int = 500, max_units: int = 40,
    title: str = "", seed: int = 0,
) -> Atlas:  # fmt: skip
    """Write one HTML page about a trained network, to look around in.

    It begins with what was found, beside chance and control. Its views are linked: from the layers to the matrix of
    all pairs of outputs, to one pair at its samples, to the branches of the gradient tree, to an embedding of the units
    with a card of each and the nearest units in other networks. What is looked at stands in the page's address; figures
    can be saved as SVG, tables as CSV. The page needs no network and no other file. Parts that a model does not allow
    are left out, and the page says why: a gradient tree of a smooth network without ``tolerance``, an embedding of
    units where the input is not one tensor of floats. It is written whole or not at all, and is the same for the same
    arguments.

    One network shows no spread: give networks trained from other seeds as ``others`` to see what belongs to the data
    and what to the training run, and ``n_untrained`` to see what training did.

    Args:
        model: Any trained module that treats every sample by itself, in eval mode. Left as it was.
        x: Samples, best ones that it was not trained on: whatever `unit_gradients` takes. Batches that come from an
            iterable are put together.
        y: Integer classes [n], or [n, t] for t heads or, of a single head, t equal blocks of outputs; or float values
            [n] or [n, u].
        path: The file to write; its folder is made if it is missing.
        forward: How the model is called with a batch, and what is compared, as in `unit_gradients`.
        others: Networks of the same architecture and tasks.
        names: Of all outputs; ``None`` numbers them, those of several heads as "head[0]".
        units: Which outputs to compare, by index or label; ``None`` for all, at most the first 20.
        layers: Where to compare, as in `interference`.
        centered: Whether pairs of outputs are compared less the mean of their head, as in `interference`; ``None`` for
            where ``y`` holds the classes of heads with three outputs or more: only then do their signs mean something.
        unit_layer: Hidden layer, or a `Site`, whose units are embedded with the outputs; ``None`` for the last of
            ``layers``.
        embedder: A `FieldDescriptor`, a `GradientFieldEmbedder` or the like, fitted as a copy; ``None`` for
            ``FieldDescriptor("none")``, which trains nothing: all units have the input's basis in common.
        tolerance: Cosine distance up to which `gradient_tree` merges gradients of networks without activation patterns.
        n_bootstrap: Replicates of the bootstrap over samples behind the intervals; 0 for none.
        n_untrained: Copies with new initial weights, as a control.
        reinitialize: How a copy's weights are drawn anew, where its modules cannot do so: see `untrained`.
        max_samples: Drawn for pairs at samples, tree and embedding, whose cost grows faster than the samples; fewer
            where memory would not do. Interference is over all samples.
        max_units: Hidden units that are embedded at most: those whose values vary most.
        title: Of the page; empty for the model's class.
        seed: Of all that is drawn.

    Returns:
        The page: its ``path``, ``save`` to write it elsewhere, ``explore`` to look at it in a notebook.

    Raises:
        ValueError: As `interference`; if targets, names or other networks do not fit the model, a setting is out of
            range, or ``path`` is a folder.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import tempfile, gradembed as ge
        >>> split = ge.datasets.load_iris()
        >>> run = ge.train(ge.MLP([4, 16, 3], seed=0), split, ge.TrainConfig(epochs=20, progress=False))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     atlas = ge.report(run.model, split.x_test, split.y_test, f"{folder}/iris.html")
        ...     atlas.path.name, "Do the outputs interfere?" in atlas.path.read_text()
        ('iris.html', True)
    """
    options = dict(locals())  # all arguments by name, before there is anything else
    target, request = _file("path", path), read_request(options)
    from gradembed.report._sections import page_of  # the plotting library is loaded by the first page

    html, title, said = page_of(request)
    save("path", target, html.encode())
    return Atlas(target, title, said, html)


def explore(*results: Interference | GradientTree | GradientFields, embedder: Any = None, title: str = "",
            seed: int = 0) -> Atlas:  # fmt: skip
    """Look around in results that are there already, in the linked views of `report`: no network is asked again.

    Of an `Interference` come layers and matrix of pairs, of a `GradientTree` its branches, of `GradientFields` an
    embedding with a card of each unit and the nearest ones in other networks. Views whose result is missing are left
    out, and so are those that take the network and its samples: one pair at its samples, and pictures.

    Args:
        results: One of each kind at most: outputs compared with a level of chance, a tree, fields with values at shared
            points, whose ``groups`` are networks and whose ``labels`` color the units.
        embedder: For fields, as in `report`.
        title: Of the page.
        seed: Of the descriptor and of the null of the nearest unit.

    Returns:
        The page. A notebook shows it, ``save`` writes it.

    Raises:
        ValueError: If there is no result, or two of a kind, or one does not hold what its views show.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> network, x = ge.MLP([4, 8, 3], seed=0), torch.randn(50, 4)
        >>> fields = ge.gradient_fields(network, x, unit_layer="hidden1")
        >>> atlas = ge.explore(ge.interference(network, x), ge.gradient_tree(network, x), fields, title="One network")
        >>> atlas.title, len(atlas.findings)
        ('One network', 3)
    """
    check_title(title)
    check_embedder(embedder)
    seed = as_integer("seed", seed, 0)
    from gradembed.report._results import page_of_results  # the plotting library is loaded by the first page

    html, title, said = page_of_results(results, embedder, title or "Results to look around in", seed)
    return Atlas(None, title, said, html)
