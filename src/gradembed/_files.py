"""Files written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn
from uuid import uuid4

from gradembed._validation import check_path, refuse


def write_atomically(target: Path, content: bytes) -> None:
    """Write beside the target, then move: a reader sees the whole file or none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{uuid4().hex[:8]}.part")
    try:
        part.write_bytes(content)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def save(name: str, path: str | Path, content: bytes) -> None:
    """Write a file of the caller's whole or not at all, turning the system's complaint into one about an argument."""
    check_path(name, path)
    try:
        write_atomically(Path(path), content)
    except OSError as error:
        _refuse(name, "name a file that can be written", path, error)


def load(name: str, path: str | Path) -> bytes:
    """Read a file of the caller's, turning the system's complaint into one about an argument.

    Returns:
        What is in it.
    """
    check_path(name, path)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        _refuse(name, "name a file that can be read", path, error)


def _refuse(name: str, rule: str, path: str | Path, error: OSError) -> NoReturn:
    got = f"{str(path)!r}: {error.strerror or error}"
    refuse(name, rule, got, "Choose another place, or mend this one", type(error))
