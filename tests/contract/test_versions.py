"""The versions that pyproject.toml admits, and the two sets of them that the tests are run with."""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]


def requirements() -> Iterator[Requirement]:
    """What ``bio-rl[dev]`` asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    while lines:
        requirement = Requirement(lines.pop())
        if requirement.name == project["name"]:
            lines += [line for extra in sorted(requirement.extras) for line in project["optional-dependencies"][extra]]
        else:
            yield requirement


def pins(name: str) -> dict[str, Version]:
    """The version of each package in a file of constraints."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(package): Version(version) for package, version in pairs}


@pytest.mark.parametrize("requirement", list(requirements()), ids=str)
def test_the_oldest_version_that_is_admitted_is_one_that_is_tested(requirement: Requirement) -> None:
    oldest = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
    assert oldest == [pins("constraints-oldest.txt")[canonicalize_name(requirement.name)]]


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-oldest.txt"])
def test_what_is_tested_is_admitted(name: str) -> None:
    tested = pins(name)
    for requirement in requirements():
        assert tested[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_command_that_shows_curves_starts() -> None:
    """A release of TensorBoard may ask for what its own requirements no longer bring."""
    subprocess.run([sys.executable, "-m", "tensorboard.main", "--version"], check=True)
