"""The house rules that a program can check (docs/architecture.md, CONTRIBUTING.md)."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "ddpo"
SEAMS = {
    "algorithms": r"isinstance\([^()]*(?:Regression|Algorithm|PolicyGradient|ImportanceSampling|ScoreFunction)\b",
    "policies": r"isinstance\([^()]*(?:Policy|StableDiffusion)\w*\b",
}
"""Rooms whose objects the other rooms know by their protocol alone."""


def _layers() -> list[str]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return layers


def test_the_longest_import_chain_has_at_most_eight_rooms() -> None:
    assert len(_layers()) <= 8


def test_every_folder_is_a_room_of_the_contract() -> None:
    rooms = {room.strip().removeprefix("ddpo.") for layer in _layers() for room in layer.split("|")}
    assert {folder.parent.name for folder in SOURCE.glob("*/__init__.py")} == rooms
    assert {file.name for file in SOURCE.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("room", SEAMS)
def test_nobody_asks_which_algorithm_or_policy_it_is(room: str) -> None:
    allowed = {"given.py", "explanations.py"}  # they tell an algorithm from the name of one
    found = [
        f"{file.relative_to(SOURCE)}: {match[0]}"
        for file in SOURCE.rglob("*.py")
        if room not in file.relative_to(SOURCE).parts and file.name not in allowed
        for match in re.finditer(SEAMS[room], file.read_text())
    ]
    assert found == []


def test_the_loop_is_read_in_one_sitting() -> None:
    assert len((SOURCE / "training" / "trainer.py").read_text().splitlines()) <= 300
