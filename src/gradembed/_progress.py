"""Progress bars, where there is something to draw them on."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def bar(total: int | None, text: str, unit: str, *, wanted: bool, delay: float = 0) -> tqdm[Any]:
    """Make a progress bar on standard error, where there is one to draw on.

    Returns:
        The bar; it draws nothing if it is not wanted, or standard error is closed.
    """
    has_place = sys.stderr is not None and not getattr(sys.stderr, "closed", False)
    return tqdm(total=total, desc=text, unit=unit, disable=not (wanted and has_place), delay=delay)
