"""Files written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


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


def _umask() -> int:
    """What this process withholds from new files (it can only be read by setting it).

    Returns:
        The mask.
    """
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
