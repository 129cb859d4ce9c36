"""Python and the installed packages against what this version of `ddpo` asks for, read from its own metadata."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ddpo.doctor.checks import Outcome, failed, ok, warning

NAMED = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors")
"""Packages whose version is told even when nothing is wrong."""
_FOR_DEVELOPERS = "dev"

Version = Callable[[str], str]
"""Returns the installed version of a package; raises PackageNotFoundError."""


def look_at_python() -> Outcome:
    """Compare the interpreter with `requires-python`."""
    present = platform.python_version()
    try:
        wanted = metadata.metadata("ddpo")["Requires-Python"]
    except metadata.PackageNotFoundError:
        return warning(
            f"Python {present}; ddpo runs from a folder without being installed, so nothing says what it needs.",
            "Install it: `pip install -e .` in its folder.",
        )
    if wanted and not SpecifierSet(wanted).contains(present, prereleases=True):
        return failed(f"Python {present} does not satisfy {wanted}.", "Make an environment with another Python.")
    return ok(f"Python {present}, ddpo {metadata.version('ddpo')}")


def look_at_packages(requirements: Iterable[str] | None = None, version: Version = metadata.version) -> Outcome:
    """Compare the installed packages with the requirements, those of extras left out."""
    wanted = [requirement for requirement in _requirements(requirements) if not _extras_of(requirement)]
    problems = [problem for requirement in wanted if (problem := _problem(requirement, version))]
    if problems:
        names = " ".join(f"'{requirement.name}{requirement.specifier}'" for requirement, _ in problems)
        return failed("; ".join(text for _, text in problems) + ".", f"`pip install {names}`")
    named = [f"{r.name} {version(r.name)}" for r in wanted if r.name in NAMED]
    others = len(wanted) - len(named)
    return ok(", ".join(named) + (f" and {others} other{'s'[: others != 1]}" if others and named else ""))


def look_at_extras(requirements: Iterable[str] | None = None, version: Version = metadata.version) -> Outcome:
    """Say which optional parts are there."""
    problems: dict[str, bool] = {}
    for requirement in _requirements(requirements):
        for extra in _extras_of(requirement):
            problems[extra] = problems.get(extra, False) or _problem(requirement, version) is not None
    problems.pop(_FOR_DEVELOPERS, None)
    here = ", ".join(extra for extra, lacking in problems.items() if not lacking) or "none"
    away = ", ".join(extra for extra, lacking in problems.items() if lacking)
    return Outcome("note", f"installed: {here}" + (f"; not installed: {away}" if away else ""))


def _requirements(given: Iterable[str] | None) -> list[Requirement]:
    """Return the given requirements, or else those of the installed `ddpo`."""
    if given is None:
        try:
            given = metadata.requires("ddpo") or []
        except metadata.PackageNotFoundError:
            given = []
    return [Requirement(text) for text in given]


def _extras_of(requirement: Requirement) -> list[str]:
    """Return the extras a requirement belongs to: those under which its marker holds and without which it does not."""
    marker = requirement.marker
    if marker is None or marker.evaluate({"extra": ""}):
        return []
    return [extra for extra in _known_extras() if marker.evaluate({"extra": extra})]


def _known_extras() -> list[str]:
    try:
        return metadata.metadata("ddpo").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return []


def _problem(requirement: Requirement, version: Version) -> tuple[Requirement, str] | None:
    try:
        present = version(requirement.name)
    except metadata.PackageNotFoundError:
        return requirement, f"{requirement.name} is not installed"
    if requirement.specifier.contains(present, prereleases=True):
        return None
    return requirement, f"{requirement.name} is {present}, needed is {requirement.specifier}"
