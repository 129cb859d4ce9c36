"""Break the package in one place at a time and look whether the tests notice; see README.md.

python benchmarks/mutants.py --machine xeon-2-cores --date 2026-01-31
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import yaml

from forked_tests import copied, first_failure

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Mutant:
    """A file below src/ddpo in which `old` (once there) becomes `new`, the harm to a user, and pytest's arguments."""

    name: str
    file: str
    old: str
    new: str
    harm: str
    tests: str


def wanted(names: str) -> list[Mutant]:
    """Return the mutants of these names; raises SystemExit for one that there is not, or that fits nowhere."""
    mutants = {entry["name"]: Mutant(**entry) for entry in yaml.safe_load((HERE / "mutants.yaml").read_text("utf-8"))}
    chosen = names.split(",") if names else list(mutants)
    if unknown := [name for name in chosen if name not in mutants]:
        raise SystemExit(f"there is no mutant '{unknown[0]}'; there are {', '.join(mutants)}")
    for one in mutants.values():
        number = (HERE.parent / "src" / "ddpo" / one.file).read_text("utf-8").count(one.old)
        if number != 1:
            raise SystemExit(f"mutant '{one.name}': its text occurs {number} times in {one.file}, not once: {one.old}")
    return [mutants[name] for name in chosen]


def passes(roots: SimpleQueue[Path], tests: str, limit: float) -> None:
    """Raise SystemExit unless these tests pass without any mutant."""
    root = roots.get()
    try:
        failed = first_failure(root, tests, limit)
    finally:
        roots.put(root)
    if failed:
        raise SystemExit(f"without any mutant, {failed} of '{tests}' fails")


def killer(roots: SimpleQueue[Path], mutant: Mutant, limit: float) -> str | None:
    """Return the test that fails once a copy of the package has become the mutant, None if it survives."""
    root = roots.get()
    file = root / "src" / "ddpo" / mutant.file
    text, times = file.read_text("utf-8"), file.stat()
    file.write_text(text.replace(mutant.old, mutant.new), "utf-8")
    try:
        found, why = first_failure(root, mutant.tests, limit, keep_compiled=False), ""
    except RuntimeError as error:
        found, why = None, f" ({error})"
    file.write_text(text, "utf-8")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # what was compiled of it counts again
    roots.put(root)
    print(f"{mutant.name}: {f'killed by {found}' if found else 'SURVIVED' + why}", file=sys.stderr, flush=True)
    return found


def to_markdown(head: Sequence[str], mutants: Sequence[Mutant], killers: Sequence[str | None]) -> str:
    """Return the page that people read."""
    survivors = killers.count(None)
    lines = [*head, "", f"{len(mutants)} mutants, {len(mutants) - survivors} killed, {survivors} survived.", ""]
    lines += ["| mutant | place in `src/ddpo` | unnoticed, it would mean | killed by |", "|---|---|---|---|"]
    for one, test in zip(mutants, killers, strict=True):
        by = f"`{test.removeprefix('tests/')}`" if test else "**survived**"
        lines.append(f"| {one.name} | {one.file} | {one.harm} | {by} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names, separated by commas; default: all")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("--limit", type=float, default=180, help="seconds for the tests of a mutant")
    parser.add_argument("--machine", default="unnamed", help="kind of machine, for the name of the result")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"), help="for the name of the result")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    chosen, start = parser.parse_args(arguments), time.monotonic()
    mutants = wanted(chosen.only)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="ddpo-mutants-") as folder, ThreadPoolExecutor(chosen.jobs) as threads:
        roots: SimpleQueue[Path] = SimpleQueue()
        for job in range(chosen.jobs):
            roots.put(copied(HERE.parent, Path(folder, str(job))))
        list(threads.map(lambda tests: passes(roots, tests, chosen.limit), sorted({one.tests for one in mutants})))
        killers = list(threads.map(lambda one: killer(roots, one, chosen.limit), mutants))
    head = [f"# Mutants: {chosen.machine}, {chosen.date}", ""]
    head += [f"{time.monotonic() - start:.0f} s, {chosen.jobs} at a time, Python {platform.python_version()}."]
    target = chosen.output / f"{chosen.date}-{chosen.machine}-mutants.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(to_markdown(head, mutants, killers), encoding="utf-8")
    sys.exit(None in killers)


if __name__ == "__main__":
    main(sys.argv[1:])
