"""Print the lower bounds of the dependencies as constraints for pip: `make test-lowest` installs with them.

Every bound in pyproject.toml becomes an exact version, those of the extras named on the command line included.
Names after ``--except`` are left out.
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def lowest(extras: list[str], left_out: list[str]) -> list[str]:
    """Turn lower bounds into exact versions.

    Args:
        extras: Optional dependencies to include.
        left_out: Names of packages to leave out.

    Returns:
        One constraint per package, such as ``numpy==1.26``.

    Raises:
        ValueError: If a dependency has no lower bound.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *(one for name in extras for one in project["optional-dependencies"][name])]
    skipped = {canonicalize_name(name) for name in [*left_out, project["name"]]}
    constraints = []
    for requirement in map(Requirement, listed):
        if canonicalize_name(requirement.name) in skipped:
            continue
        bounds = [part.version for part in requirement.specifier if part.operator == ">="]
        if len(bounds) != 1:
            raise ValueError(f"`{requirement.name}` should have one lower bound. Got '{requirement}'. Write name>=x.y.")
        constraints.append(f"{requirement.name}=={bounds[0]}")
    return constraints


def main() -> None:
    """Print the constraints that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="*")
    parser.add_argument("--except", dest="left_out", nargs="*", default=[])
    arguments = parser.parse_args()
    print("\n".join(lowest(arguments.extras, arguments.left_out)))


if __name__ == "__main__":
    main()
