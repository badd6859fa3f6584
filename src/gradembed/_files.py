"""Files written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import NoReturn

from gradembed import _validation


def write_atomically(target: Path, content: bytes) -> None:
    """Write beside the target, then move: a reader sees the whole file or none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, part = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(part).chmod(0o666 & ~_umask())  # temporary files are made for their owner alone
        Path(part).replace(target)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def save(name: str, path: str | Path, content: bytes) -> None:
    """Write a file of the caller's whole or not at all, turning the system's complaint into one about an argument."""
    _validation.check_path(name, path)
    try:
        write_atomically(Path(path), content)
    except OSError as error:
        _refuse(name, "name a file that can be written", path, error)


def load(name: str, path: str | Path) -> bytes:
    """Read a file of the caller's, turning the system's complaint into one about an argument.

    Returns:
        What is in it.
    """
    _validation.check_path(name, path)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        _refuse(name, "name a file that can be read", path, error)


def _refuse(name: str, rule: str, path: str | Path, error: OSError) -> NoReturn:
    got = f"{str(path)!r}: {error.strerror or error}"
    _validation.refuse(name, rule, got, "Choose another place, or mend this one", type(error))


def _umask() -> int:
    """What this process withholds from new files (it can only be read by setting it).

    Returns:
        The mask.
    """
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
