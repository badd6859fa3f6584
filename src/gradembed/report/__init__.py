"""All questions to one trained network, answered on one page."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gradembed._files import save
from gradembed._validation import check_path, refuse
from gradembed.gradients import Site
from gradembed.report._request import read_request

__all__ = ["report"]


def report(
    model: nn.Module, x: Any, y: Tensor | None = None, path: str | os.PathLike[str] = "report.html", *,
    forward: Callable[..., Any] | None = None, others: Sequence[nn.Module] = (), names: Sequence[str] | None = None,
    units: Sequence[int | str] | Tensor | None = None, layers: str | Site | Sequence[str | Site] | None = None,
    unit_layer: str | Site | None = None, embedder: Any = None, tolerance: float | None = None, n_bootstrap: int = 1000,
    n_untrained: int = 0, reinitialize: Callable[[nn.Module], Any] | None = None, n_cards: int = 3,
    max_samples: int = 500, max_units: int = 40, title: str = "", seed: int = 0,
) -> Path:  # fmt: skip
    """Write one HTML page about a trained network: interference, gradient tree, units by what they compute, unit cards.

    The page needs no network, no script and no other file; every figure and table says how to read it. Parts that a
    model does not allow are left out, and the page says why: a gradient tree of a smooth network without ``tolerance``,
    an embedding of units where the input is not one tensor of floats. It is written whole or not at all, and is the
    same for the same arguments.

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
        unit_layer: Hidden layer, or a `Site`, whose units are embedded with the outputs; ``None`` for the last of
            ``layers``.
        embedder: A `FieldDescriptor`, a `GradientFieldEmbedder` or the like, fitted as a copy; ``None`` for
            ``FieldDescriptor("none")``, which trains nothing: all units have the input's basis in common.
        tolerance: Cosine distance up to which `gradient_tree` merges gradients of networks without activation patterns.
        n_bootstrap: Replicates of the bootstrap over samples behind the intervals; 0 for none.
        n_untrained: Copies with new initial weights, as a control.
        reinitialize: How a copy's weights are drawn anew, where its modules cannot do so: see `untrained`.
        n_cards: Unit cards at most.
        max_samples: Drawn for tree, embedding and cards, whose cost grows faster than the samples; fewer where memory
            would not do. Interference is over all samples.
        max_units: Hidden units that are embedded at most: those whose values vary most.
        title: Of the page; empty for the model's class.
        seed: Of all that is drawn.

    Returns:
        The path.

    Raises:
        ValueError: As `interference`; if targets, names or other networks do not fit the model, a setting is out of
            range, or ``path`` is a folder.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import tempfile, gradembed as ge
        >>> split = ge.datasets.load_iris()
        >>> run = ge.train(ge.MLP([4, 16, 3], seed=0), split, ge.TrainConfig(epochs=20, progress=False))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = ge.report(run.model, split.x_test, split.y_test, f"{folder}/iris.html", n_cards=1)
        ...     page.name, "Do the outputs interfere?" in page.read_text()
        ('iris.html', True)
    """
    options = dict(locals())  # all arguments by name, before there is anything else
    check_path("path", path)
    target = Path(path)
    if target.is_dir():
        refuse("path", "name a file", f"the folder {str(target)!r}", "Add a file's name, say report.html")
    request = read_request(options)
    from gradembed.report._sections import page_of  # draws: only here, so that gradembed does not import matplotlib

    save("path", target, page_of(request).encode())
    return target
