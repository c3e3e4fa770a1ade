"""environment.yml, the Makefile and the CI agree with pyproject.toml, on every platform named."""

import re
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # a dependency of pytest there

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = SpecifierSet(PROJECT["requires-python"])


def test_conda_environment_is_the_project_with_its_test_tools():
    """It installs the project itself, so it has no second list of packages to disagree."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    packages = [package for package in environment["dependencies"] if isinstance(package, str)]
    python, pip = map(Requirement, packages)
    assert (python.name, python.specifier, pip.name) == ("python", PYTHONS, "pip")
    (with_pip,) = [entry["pip"] for entry in environment["dependencies"] if entry not in packages]
    assert with_pip == ["-e .[dev]"]
    assert "dev" in PROJECT["optional-dependencies"]


def test_makefile_refuses_the_pythons_that_the_project_refuses():
    low, high = re.search(
        r"\((\d+, \d+)\) <= sys\.version_info\[:2\] < \((\d+, \d+)\)",
        (ROOT / "Makefile").read_text(),
    ).groups()
    assert SpecifierSet(f">={low.replace(', ', '.')},<{high.replace(', ', '.')}") == PYTHONS


def test_ci_runs_every_python_that_the_project_takes():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    taken = {f"3.{minor}" for minor in range(30) if Version(f"3.{minor}") in PYTHONS}
    for job in jobs.values():
        assert set(job["strategy"]["matrix"]["python"]) == taken


@pytest.mark.parametrize(
    ("sys_platform", "machine"),
    [
        ("linux", "x86_64"),
        ("linux", "aarch64"),
        ("darwin", "x86_64"),
        ("darwin", "arm64"),
        ("win32", "AMD64"),
    ],
)
def test_one_package_gives_decord_on_every_platform(sys_platform, machine):
    """decord itself has wheels for x86-64 Linux and Windows alone."""
    here = {"sys_platform": sys_platform, "platform_machine": machine}
    requirements = [Requirement(line) for line in PROJECT["dependencies"]]
    chosen = [
        requirement.name
        for requirement in requirements
        if requirement.name.startswith("decord")
        and (requirement.marker is None or requirement.marker.evaluate(here))
    ]
    has_wheel = sys_platform != "darwin" and machine in ("x86_64", "AMD64")
    assert chosen == ["decord" if has_wheel else "decord2"]


def test_every_dependency_has_a_lower_bound():
    for line in PROJECT["dependencies"]:
        operators = {specifier.operator for specifier in Requirement(line).specifier}
        assert ">=" in operators, line
