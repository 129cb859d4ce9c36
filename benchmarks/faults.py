"""Run every trial of docs/reliability.md at full size and write what came of it; see README.md.

python benchmarks/faults.py --machine xeon-2-cores --date 2026-01-31
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT / "tests" / folder) for folder in ("faults", "support", "learning")]

from fault_trials.registry import Tally, Trial, all_trials, count  # noqa: E402 - found through the line above


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", default="", help="names, separated by commas; default: all")
    parser.add_argument("--fast", action="store_true", help="the sizes of the tests")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time")
    parser.add_argument("--machine", default="unnamed", help="kind of machine, for the name of the result")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"), help="for the name of the result")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    return parser.parse_args(arguments)


def wanted(names: str) -> list[Trial]:
    """Return the trials of these names.

    Raises SystemExit for a name that there is none of.
    """
    trials = {one.name: one for one in all_trials()}
    unknown = [name for name in names.split(",") if name and name not in trials]
    if unknown:
        raise SystemExit(f"there is no trial '{unknown[0]}'; there are {', '.join(trials)}")
    return [one for name, one in trials.items() if not names or name in names.split(",")]


def tallied(one: Trial, size: int) -> Tally:
    """Run a trial and say on stderr what came of it."""

    def each(case: str, problem: str | None) -> None:
        if problem is not None:
            print(f"  lost: {case}: {problem}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="ddpo-faults-") as folder:
        tally = count(one, size, Path(folder), each)
    print(f"trial {one.number}, {one.name}: {tally.summary} ({tally.seconds:.0f} s)", file=sys.stderr, flush=True)
    return tally


def about(chosen: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    """Describe the run for the head of its result; nothing of it tells whose machine it was."""
    pairs = zip(("", *arguments), arguments, strict=False)
    shown = [after for before, after in pairs if "--output" not in (before, after.partition("=")[0])]
    return {
        "machine": chosen.machine,
        "date": chosen.date,
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "commit": commit(),
        "command": shlex.join(["python", "benchmarks/faults.py", *shown]),
    }


def commit() -> str:
    """Return the commit of this checkout, marked where files differ from it."""
    command = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def to_json(tallies: Sequence[Tally], head: dict[str, Any]) -> str:
    """Return everything that was counted."""
    trials = [
        {
            "number": tally.trial.number,
            "name": tally.trial.name,
            "promise": tally.trial.promise,
            "size": tally.size,
            "tried": tally.tried,
            "survived": tally.survived,
            "lost": tally.lost,
            "seconds": round(tally.seconds, 1),
        }
        for tally in tallies
    ]
    return json.dumps({"about": head, "trials": trials}, indent=1, ensure_ascii=False) + "\n"


def to_markdown(tallies: Sequence[Tally], head: dict[str, Any]) -> str:
    """Return the page that people read."""
    lines = [f"# Faults: {head['machine']}, {head['date']}", "", f"`{head['command']}`", ""]
    lines += [f"Commit {head['commit']}, {head['cores']} cores, {head['processor']}, Python {head['python']}.", ""]
    lines += ["| trial | | promise | tried | survived | lost | s |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {tally.trial.number} | {tally.trial.name} | {tally.trial.promise} | {tally.tried} | {tally.survived} | "
        f"{len(tally.lost)} | {tally.seconds:.0f} |"
        for tally in tallies
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> None:
    chosen = options(arguments)
    head = about(chosen, arguments)
    trials = wanted(chosen.trials)
    with ProcessPoolExecutor(chosen.jobs) as processes:
        tallies = list(processes.map(tallied, trials, [one.fast if chosen.fast else one.full for one in trials]))
    chosen.output.mkdir(parents=True, exist_ok=True)
    target = chosen.output / f"{chosen.date}-{chosen.machine}-faults"
    Path(f"{target}.json").write_text(to_json(tallies, head), encoding="utf-8")
    Path(f"{target}.md").write_text(to_markdown(tallies, head), encoding="utf-8")
    print(Path(f"{target}.md").read_text(encoding="utf-8"))
    sys.exit(any(tally.lost for tally in tallies))


if __name__ == "__main__":
    main(sys.argv[1:])
