"""Trained networks and results on disk: safetensors and JSON, keyed by a hash of what produced them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import safetensors
import torch
from torch import nn

from gradembed import _validation
from gradembed.store._entries import STORABLE, Encoder, read, write
from gradembed.store._fingerprint import fingerprint

__all__ = ["STORABLE", "Cache", "fingerprint"]

P = ParamSpec("P")
R = TypeVar("R")


class Cache:
    """Calls functions, or finds what an equal call gave before.

    Two calls are equal if function, arguments (tensors and networks by content), the library's source,
    torch's version, thread count and presence of CUDA are. Each entry is a pair of files,
    ``<function>-<hash>.safetensors`` and ``.json``, both written atomically, the second with checksums of both;
    nothing is pickled. A damaged entry is computed again, with a warning; an entry that cannot be
    written costs a warning, not the result.

    Args:
        folder: Where entries are; made when the first is written.

    Example:
        >>> import tempfile, gradembed as ge
        >>> cache, split = ge.Cache(tempfile.mkdtemp()), ge.datasets.load_iris()
        >>> config = ge.TrainConfig(epochs=1, progress=False)
        >>> first = cache.call(ge.train, ge.MLP([4, 3], seed=0), split, config)
        >>> second = cache.call(ge.train, ge.MLP([4, 3], seed=0), split, config)  # read, not trained
        >>> second.seconds == first.seconds
        True
    """

    def __init__(self, folder: str | Path = "data/cache") -> None:
        _validation.check_path("folder", folder)
        self.folder = Path(folder)

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return ``function(*args, **kwargs)``, computed or read.

        Args:
            function: A function of the library, or any that returns storable things: numbers, strings, tensors,
                plain data frames, the library's results, and lists, tuples and dictionaries (string keys) of them.
                A network in the result must be one of the arguments: it is filled in place, as `train` does. An
                `MLPEnsemble` may be new.
            *args: Its arguments.
            **kwargs: Its named arguments.

        Returns:
            The result.

        Raises:
            TypeError: If an argument cannot be hashed by content, or the result cannot be stored.

        Warns:
            UserWarning: If an entry is damaged, or cannot be written.
        """
        bound = inspect.signature(function).bind(*args, **kwargs)
        path = self._path(function, bound.arguments)
        modules = [value for value in (*bound.args, *bound.kwargs.values()) if isinstance(value, nn.Module)]
        found = self._find(path, modules)
        if found is not None:
            return found[0]  # type: ignore[no-any-return]
        result = function(*args, **kwargs)
        self._keep(path, result, modules)
        return result

    def _path(self, function: Callable[..., object], *parts: object) -> Path:
        """Where the result of a call is, or would be; sweeps use this too, and the next two.

        Returns:
            Its JSON file.
        """
        key = fingerprint([function, *parts, _environment()])
        return self.folder / f"{getattr(function, '__name__', 'call')}-{key[:32]}.json"

    def _find(self, path: Path, modules: Sequence[nn.Module] = ()) -> tuple[Any] | None:
        """Read an entry, with a warning if it is damaged.

        Returns:
            The result, alone in a tuple, since it may be None; nothing if there is none.
        """
        if path.exists():
            try:
                return (read(path, modules),)
            except (OSError, LookupError, ValueError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
                message = f"cache entry {path.name} is damaged ({error}): computing it again"
                warnings.warn(message, UserWarning, stacklevel=3)
        return None

    def _keep(self, path: Path, result: object, modules: Sequence[nn.Module] = ()) -> None:
        """Write an entry; if that fails, warn."""
        encoder = Encoder(modules)
        tree = encoder.encode(result, "result")
        try:
            write(path, tree, encoder.tensors)
        except OSError as error:
            message = f"cache entry {path.name} cannot be written ({error}): going on without"
            warnings.warn(message, UserWarning, stacklevel=3)


def _environment() -> list[Any]:
    """What changes results beside the arguments.

    Returns:
        Versions, threads, devices.
    """
    return [_library(), torch.__version__, torch.get_num_threads(), torch.cuda.is_available()]


@cache
def _library() -> str:
    """Version and source of this library, drawing excepted.

    Returns:
        A hash.
    """
    folder = Path(__file__).parent.parent
    files = sorted(path for path in folder.rglob("*.py") if "plots" not in path.relative_to(folder).parts)
    return fingerprint([metadata.version("gradembed"), [path.read_bytes() for path in files]])
