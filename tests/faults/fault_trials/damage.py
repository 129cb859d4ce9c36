"""Trial 5: a checkpoint that is not as it was written, in any file, is named and never gone on from."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from quiet_runs import resume, train
from tiny_run import Signalling, difference, save_model, tiny_run

from ddpo.runs.checkpoints import CHECKSUMS, STATE, Checkpoint, Checkpoints
from ddpo.runs.folder import RunFolder
from fault_trials.refusals import Reached, flaw_of_ending, no_model_may_load, run_here
from fault_trials.registry import Cases, trial

SEED = 5
REWARD = f"{Path(__file__).parents[2] / 'support' / 'tiny_run.py'}:by_content"
VARIANTS: dict[str, tuple[dict[str, Any], tuple[str, int]]] = {
    "ddpo-is": ({}, ("rollout", 6)),
    "rwr-sparse": (
        {
            "algorithm": {"name": "rwr-sparse", "samples_per_update": 4, "percentile": 0.5},
            "updates_per_iteration": 2,
            "lora": {"rank": 2},
        },
        ("update", 8),
    ),
}
"""Settings of each run, and the report of a phase of its third iteration at which it is interrupted."""
ACCEPTED = "was accepted"
Damage = Callable[[bytes, random.Random], bytes | None]
"""Gives the new content of a file; None: it is removed."""


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def _flipped(content: bytes, draw: random.Random) -> bytes:
    place, bit = draw.randrange(len(content)), 1 << draw.randrange(8)
    return content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]


def _zeroed(content: bytes, draw: random.Random) -> bytes:
    """Return what a file system leaves that had written the size but not yet all of the data."""
    start = draw.randrange(len(content) - 1)
    zeroed = content[:start] + bytes(len(content) - start)
    return zeroed if zeroed != content else content[:-1]


DAMAGES: dict[str, Damage] = {"cut": _cut, "a bit flipped": _flipped, "zeroed at the end": _zeroed}
"""Each is made several times, at random places."""
ONCE: dict[str, Damage] = {
    "missing": lambda content, draw: None,
    "empty": lambda content, draw: b"",
    "the last line missing": lambda content, draw: b"".join(content.splitlines(keepends=True)[:-1]),
    "a byte less": lambda content, draw: content[:-1],
    "a byte more": lambda content, draw: content + b"\n",
}


@trial(
    5,
    "damage",
    "A checkpoint of which a file is cut, changed, missing or another's is refused with the file's name, and the one "
    "before it is offered, from which the run ends as if nothing had happened.",
    fast=1,
    full=200,
)
def damaged_checkpoints(size: int, folder: Path) -> Cases:
    """Damage every file of finished and unfinished checkpoints in each way, `size` times where it is at random."""
    model, draw = save_model(folder / "model"), random.Random(SEED)
    for variant, (settings, (phase, at)) in VARIANTS.items():
        config = tiny_run(model, folder / variant, reward=REWARD, **settings)
        run = train(config, display=Signalling(phase, at)).folder
        for case, problem in _damages_refused(run, size, draw):
            yield f"{variant}, {case}", problem
        whole = train(config.model_copy(update={"output": folder / f"whole {variant}"})).folder
        yield f"{variant}, from the one before it, beside half of another", _lost_by_going_back(run, whole)


def _damages_refused(run: RunFolder, size: int, draw: random.Random) -> Cases:
    """Try each damage on each file, put back what was there, and see that it is accepted then."""
    finished, unfinished = Checkpoints(run.checkpoints).all()
    older = Checkpoint(shutil.copytree(finished.folder, run.checkpoints / "iteration-000001"))  # to be offered
    for checkpoint, before, other in ((finished, older, unfinished), (unfinished, finished, finished)):
        flaw = partial(_flaw, run, checkpoint.name)
        offered = f"Go on from the one before it with --checkpoint {before.name}."
        for file in sorted(path for path in checkpoint.folder.rglob("*") if path.is_file()):
            name = file.relative_to(checkpoint.folder)
            named = str(checkpoint.folder if file.name == CHECKSUMS else file)  # wrong sums may name any file
            for case, damage in _damages(file, other.folder / name, size):
                with _damaged(file, damage, draw):
                    yield f"{checkpoint.name}/{name} {case}", flaw(named, offered)
        foreign = checkpoint.folder / "foreign.safetensors"
        foreign.write_bytes(b"")
        yield f"{checkpoint.name}, a file too many", flaw(str(foreign), offered)
        foreign.unlink()
        yield f"{checkpoint.name} as it was", None if flaw() == ACCEPTED else "is refused"
    shutil.rmtree(older.folder)
    yield from _pointers(run, unfinished)


def _damages(file: Path, counterpart: Path, size: int) -> Iterator[tuple[str, Damage]]:
    """Yield what may become of a file; `counterpart` is the same one of another checkpoint, which may have none."""
    yield from ONCE.items()
    if counterpart.is_file() and counterpart.read_bytes() != file.read_bytes():
        yield "of another checkpoint", lambda content, draw: counterpart.read_bytes()
    for case, damage in DAMAGES.items():
        for number in range(size):
            yield f"{case}, {number}", damage


@contextmanager
def _damaged(file: Path, damage: Damage, draw: random.Random) -> Iterator[None]:
    content = file.read_bytes()
    changed = damage(content, draw)
    if changed is None:
        file.unlink()
    else:
        file.write_bytes(changed)
    yield
    file.write_bytes(content)


def _flaw(run: RunFolder, checkpoint: str | None, *says: str) -> str | None:
    """Return what is wrong with how `ddpo resume` refuses a checkpoint."""
    arguments = ["resume", str(run.path), *(() if checkpoint is None else ("--checkpoint", checkpoint))]
    try:
        with no_model_may_load():
            return flaw_of_ending(run_here(arguments, run.path.parent), *says)
    except Reached:
        return ACCEPTED


POINTERS: dict[str, bytes | None] = {
    "missing": None,
    "no text": b"\xff\xfe\x00",
    "empty": b"",
    "that names nothing": b"iteration-000009\n",
    "that leads out of the folder": b"../model\n",
}
"""Contents of the file `latest`. Where nothing can be read, the newest checkpoint is the latest."""


def _pointers(run: RunFolder, newest: Checkpoint) -> Cases:
    for case, content in POINTERS.items():
        with _damaged(run.checkpoints / "latest", lambda _, __, content=content: content, random.Random()):
            if case in ("missing", "no text"):
                right = Checkpoints(run.checkpoints).get() == newest and _flaw(run, None) == ACCEPTED
                yield f"latest {case}", None if right else "the newest is not taken"
            else:
                says = str(run.checkpoints / "latest"), f"with --checkpoint {newest.name}."
                yield f"latest {case}", _flaw(run, None, *says)


def _lost_by_going_back(run: RunFolder, whole: RunFolder) -> str | None:
    """Go on from the one before a damaged checkpoint, with half of a third beside them."""
    checkpoints = Checkpoints(run.checkpoints)
    finished, unfinished = checkpoints.all()
    (unfinished.folder / STATE).write_bytes(b"{")
    half = checkpoints.begin("iteration-000003")
    (half / "training.safetensors").write_bytes(b"half")
    listening = Signalling()
    resume(run.path, checkpoint=finished.name, display=listening)
    if not any(text.startswith(f"Ignored: {half.name[1:]}") for text in listening.said):
        return f"the half-written one was not said: {listening.said}"
    if half.exists():
        return "the half-written one is still there"
    return difference(run, whole)
