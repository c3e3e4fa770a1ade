"""What this machine has, what each profile needs, and a remedy for each thing amiss."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from tqdm.auto import tqdm

from pgvl_core import assets, profiles
from pgvl_core.workbook import Table, table

PYTHON = ((3, 10), (3, 13))  # first version that does, first that does not
NAMED = ("torch", "transformers", "timm", "numpy")  # packages whose versions are shown
REINSTALL = "install the project again: python -m pip install -e ."
RAM_SLACK = 0.9  # what a machine sold with so many GB shows of them, at the least


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    ok: bool
    found: str
    remedy: str = ""  # what to do when it is amiss
    required: bool = True  # whether the profile asked about cannot run without


@dataclass(frozen=True)
class Report:
    """What `doctor` found; shows itself as a table."""

    profile: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether the profile can run on this machine as it is."""
        return all(check.ok for check in self.checks if check.required)

    def _table(self) -> Table:
        marks = {(True, True): "ok", (False, True): "AMISS", (True, False): "ok"}
        return table(
            [
                {
                    "": marks.get((check.ok, check.required), "no"),
                    "check": check.name,
                    "found": check.found,
                    "remedy": "" if check.ok else check.remedy,
                }
                for check in self.checks
            ]
        )

    def _verdict(self) -> str:
        if self.ok:
            return f"The {self.profile} profile can run here."
        return f"The {self.profile} profile cannot run here until what is AMISS is mended."

    def __repr__(self) -> str:
        return f"{self._table()!r}\n\n{self._verdict()}"

    def _repr_html_(self) -> str:
        return f"{self._table()._repr_html_()}<p>{self._verdict()}</p>"


def doctor(profile: str = "pocket") -> Report:
    """Look at this machine for what a profile needs, and at what the other profiles would need.

    Assets are hashed, so that a damaged one is found. Nothing is fetched or changed.

    Raises
    ------
    ValueError
        When there is no such profile.
    """
    asked = profiles.profile(profile)
    checks = [
        check_python(),
        check_packages(),
        check_device(asked),
        check_ram(asked),
        *check_store(asked),
        *(check_asset(name, profile) for name in tqdm(assets.needs(profile), leave=False)),
    ]
    others = [other for other in profiles.PROFILES.values() if other is not asked]
    return Report(profile, (*checks, *(check_profile(other) for other in others)))


def check_python() -> Check:
    first, end = PYTHON
    return Check(
        "Python",
        first <= sys.version_info[:2] < end,
        f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        f"make the environment with Python {first[0]}.{first[1]} to {end[0]}.{end[1] - 1}",
    )


def check_packages() -> Check:
    """The packages that pyproject.toml asks for, at versions that it allows."""
    try:
        asked = [Requirement(line) for line in importlib.metadata.requires("pgvl") or []]
    except importlib.metadata.PackageNotFoundError:
        return Check("packages", False, "pgvl is not installed", REINSTALL)
    versions, amiss = {}, []
    for package in asked:
        if package.marker and not package.marker.evaluate({"extra": ""}):
            continue
        try:
            versions[package.name] = importlib.metadata.version(package.name)
        except importlib.metadata.PackageNotFoundError:
            amiss.append(f"{package} is not installed")
            continue
        if not package.specifier.contains(versions[package.name], prereleases=True):
            amiss.append(f"{package} is wanted, {versions[package.name]} is installed")
    shown = ", ".join(f"{name} {versions[name]}" for name in NAMED if name in versions)
    found = ", ".join(amiss) or f"{shown} and the {len(versions) - len(NAMED)} others"
    return Check("packages", not amiss, found, REINSTALL)


def _accelerator() -> tuple[str, float]:
    """Name of the device torch would use and GB of its own memory (0 for the processor's)."""
    import torch

    if not torch.accelerator.is_available():
        return f"cpu, {torch.get_num_threads()} threads", 0.0
    device = torch.accelerator.current_accelerator()
    kind = device.type if device else "cpu"
    if kind != "cuda":
        return kind, psutil.virtual_memory().total / 1e9  # shared with the processor, as on a Mac
    found = torch.cuda.get_device_properties(0)
    return f"cuda, {found.name}", found.total_memory / 1e9


def check_device(profile: profiles.Profile) -> Check:
    try:
        device, memory = _accelerator()
    except Exception as error:  # a torch that does not load: a wrong build, a missing library
        return Check("device", False, f"torch fails: {error}", REINSTALL)
    found = f"{device}, {memory:.0f} GB" if memory else device
    remedy = f"the {profile.name} profile needs an accelerator of {profile.gpu:.0f} GB"
    return Check("device", memory >= RAM_SLACK * profile.gpu, found, f"{remedy}; pocket needs none")


def check_ram(profile: profiles.Profile) -> Check:
    memory = psutil.virtual_memory()
    return Check(
        "RAM",
        memory.total / 1e9 >= RAM_SLACK * profile.ram,
        f"{memory.total / 1e9:.0f} GB, {memory.available / 1e9:.0f} GB free; "
        f"{profile.ram:.0f} GB needed",
        "use a smaller profile or a machine with more memory",
    )


def check_store(profile: profiles.Profile) -> list[Check]:
    """The cache folder, its disk, and pip, all three needed to fetch what is missing."""
    store, there = assets.home(), assets.home()
    while not there.exists():
        there = there.parent
    missing = [name for name in assets.needs(profile.name) if assets.fault(name)]
    needed = sum(assets.ASSETS[name].disk for name in missing) / 1000
    free = shutil.disk_usage(there).free / 1e9
    pip = importlib.util.find_spec("pip")
    return [
        Check(
            "cache folder",
            not missing or (there.is_dir() and os.access(there, os.W_OK)),
            assets.tidy(store) if store.is_relative_to(Path.home()) else "as PGVL_HOME says",
            "it cannot be written to: set PGVL_HOME to a folder that can",
        ),
        Check(
            "disk",
            free >= needed,
            f"{free:.0f} GB free; {needed:.1f} GB needed for what is missing",
            "free some space, or set PGVL_HOME to a folder on another disk",
        ),
        Check(
            "pip", bool(pip), "there" if pip else "not here", "python -m ensurepip", bool(missing)
        ),
    ]


def check_asset(name: str, profile: str) -> Check:
    fault = assets.fault(name, full=True)
    return Check(name, fault is None, fault or "present", f"pgvl fetch --profile {profile}")


def check_profile(profile: profiles.Profile) -> Check:
    """Whether this machine could run a profile that was not asked about, once fetched."""
    amiss = [check.name for check in (check_device(profile), check_ram(profile)) if not check.ok]
    missing = sum(assets.fault(name) is not None for name in assets.needs(profile.name))
    gpu = f", {profile.gpu:.0f} GB accelerator" if profile.gpu else ""
    return Check(
        f"{profile.name} profile",
        not amiss and not missing,
        f"needs {profile.ram:.0f} GB RAM{gpu}, {profile.disk:.0f} GB disk; {missing} assets absent",
        f"too small: {', '.join(amiss)}" if amiss else f"pgvl fetch --profile {profile.name}",
        required=False,
    )
