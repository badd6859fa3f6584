"""What a sweep gives: a result for each setting, in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradembed import _validation
from gradembed.sweep._settings import describe, label, plain

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class SweepResult:
    """One result per setting, in the order of the settings.

    Attributes:
        function: Name of the function.
        settings: The arguments of each call.
        results: What each call returned; None where it failed.
        errors: What went wrong in each call; None where nothing did.
        n_cached: How many results were found in the cache.

    Example:
        >>> import gradembed as ge
        >>> def area(width, height):
        ...     return {"area": width * height}
        >>> result = ge.sweep(area, {"width": [1, 2], "height": [3, 4]}, progress=False)
        >>> result
        SweepResult(4 settings of 'area', 0 from the cache, 0 failed)
        >>> result.to_frame()
           width  height  area
        0      1       3     3
        1      1       4     4
        2      2       3     6
        3      2       4     8
    """

    function: str
    settings: tuple[dict[str, Any], ...]
    results: tuple[Any, ...]
    errors: tuple[str | None, ...]
    n_cached: int

    @property
    def failed(self) -> list[int]:
        """Numbers of the settings whose call failed."""
        return [i for i, error in enumerate(self.errors) if error is not None]

    def __len__(self) -> int:
        return len(self.settings)

    def __repr__(self) -> str:
        return (
            f"SweepResult({len(self)} settings of {self.function!r}, {self.n_cached} from the cache, "
            f"{len(self.failed)} failed)"
        )

    def to_frame(self) -> pd.DataFrame:
        """A tidy table: the settings' values beside what each call returned.

        Returns:
            One row per setting; several where a call returned several rows, none where it returned an empty list.
            Columns are the settings' names, then the results' (``result`` for bare numbers), then ``error`` if a
            call failed. Values that are no numbers or strings are shown by a short text.

        Raises:
            TypeError: If a result is no number, string, dictionary, list of dictionaries, data frame, or object with
                a ``to_frame``.
            ValueError: If a result gives a setting's name another value.
        """
        import pandas as pd

        names = dict.fromkeys(name for setting in self.settings for name in setting)
        rows = [row for index in range(len(self)) for row in self._rows(index)]
        found = dict.fromkeys(name for row in rows for name in row if name not in names)
        if self.failed:
            found["error"] = found.pop("error", None)
        return pd.DataFrame(rows, columns=[*names, *found])

    def _rows(self, index: int) -> Iterator[dict[str, Any]]:
        """Rows of one setting.

        Yields:
            Its values and one row of its result.
        """
        setting, error = self.settings[index], self.errors[index]
        left = {name: label(value) for name, value in setting.items()}
        if error is not None:
            yield left | {"error": error}
            return
        for row in self._records(index):
            right = {name: label(plain(value)) for name, value in row.items()}
            for name in left.keys() & right.keys():
                if left[name] != right[name]:
                    got = f"{name!r}: {right[name]!r} at {describe(index, setting)}"
                    remedy = "Name it otherwise in the result"
                    _validation.refuse("function", "leave the settings' names their values", got, remedy)
            yield left | right

    def _records(self, index: int) -> list[dict[str, Any]]:
        """A result as rows.

        Returns:
            One dictionary per row.
        """
        import pandas as pd

        value = plain(self.results[index])
        if value is None or isinstance(value, bool | int | float | str):
            return [{"result": value}]
        if not isinstance(value, dict | list) and hasattr(value, "to_frame"):
            value = value.to_frame()
        if isinstance(value, pd.DataFrame):
            return value.to_dict("records")  # type: ignore[return-value]
        records = [value] if isinstance(value, dict) else value
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            got = f"{_validation.describe(value)} at {describe(index, self.settings[index])}"
            rule = "return numbers, dictionaries, lists of dictionaries or data frames, to make a table"
            _validation.refuse("function", rule, got, "Take what you need from .results", TypeError)
        return records
