"""Checkpoints of a run: folders that are there whole, with checksums, or not at all. Never imports torch.

checkpoints/iteration-000020/             after 20 iterations
checkpoints/iteration-000021-unfinished/  in the middle of the 21st
checkpoints/latest                        the name of the newest
checkpoints/best                          the name of the one with the highest reward on the fixed samples

A checkpoint is written into a hidden folder, every file is flushed to the disk and read back for its checksum, and the
folder is renamed; then `latest` moves, and only then are older ones removed. Its files are safetensors and JSON.
`sha256sum --check SHA256SUMS` inside a checkpoint checks it too.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpo.runtime.errors import CheckpointError
from ddpo.runtime.files import flush_to_disk, write_atomically

STATE = "state.json"
"""Everything in a checkpoint that is no tensor."""
CHECKSUMS = "SHA256SUMS"
_NAME = re.compile(r"iteration-(\d{6,})(-unfinished)?")
_PARTIAL = ".partial"
_REPLACED = ".replaced"


def checkpoint_name(iteration: int, *, unfinished: bool = False) -> str:
    """Return the name of the checkpoint after an iteration, or in the middle of it."""
    return f"iteration-{iteration:06d}" + ("-unfinished" if unfinished else "")


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def position(self) -> tuple[int, bool]:
        """What checkpoints of a run are ordered by: iteration, and whether it is finished."""
        match = _NAME.fullmatch(self.name)
        assert match is not None
        return int(match[1]), match[2] is None

    def state(self) -> dict[str, Any]:
        """Return what `STATE` holds.

        Raises:
            CheckpointError: it is no JSON object, or of a version that is not known.
        """
        try:
            state = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.folder / STATE} cannot be read: {error}.") from None
        if not isinstance(state, dict):
            raise CheckpointError(f"{self.folder / STATE} holds no state of a run.")
        return state

    def verify(self) -> None:
        """Compare every file with its checksum.

        Raises:
            CheckpointError: a file is missing, cannot be read or is not as it was written; it is named.
        """
        checksums = self._checksums()
        for name, digest in checksums.items():
            file = self.folder / name
            try:
                same = _digest(file) == digest
            except FileNotFoundError:
                raise CheckpointError(f"{file} is missing.") from None
            except OSError as error:
                raise CheckpointError(f"{file} cannot be read: {error.strerror}.") from None
            if not same:
                raise CheckpointError(f"{file} is damaged: it is not what was written.")
        if foreign := [file for file in self._files() if file.relative_to(self.folder).as_posix() not in checksums]:
            raise CheckpointError(f"{foreign[0]} does not belong to the checkpoint, or {CHECKSUMS} is damaged.")

    def _files(self) -> list[Path]:
        """Return every file but the checksums."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file() and path != self.folder / CHECKSUMS)

    def _checksums(self) -> dict[str, str]:
        file = self.folder / CHECKSUMS
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            what = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
            raise CheckpointError(f"{file} {what}.") from None
        checksums = {name: digest for digest, name in re.findall(r"^([0-9a-f]{64})  (.+)$", text, re.MULTILINE)}
        if text != _sums(checksums) or STATE not in checksums:
            raise CheckpointError(f"{file} is damaged: it is not what was written.")
        return checksums


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> list[Checkpoint]:
        """Return the checkpoints there are, oldest first; half-written ones do not count."""
        if not self.folder.is_dir():
            return []
        found = [Checkpoint(path) for path in self.folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
        return sorted(found, key=lambda checkpoint: checkpoint.position)

    def half_written(self) -> list[Path]:
        """Return what was left of saves that did not come to their end."""
        return sorted(self.folder.glob(f".*{_PARTIAL}")) if self.folder.is_dir() else []

    def put_back(self) -> None:
        """Give a checkpoint its name again whose run was killed while another one was about to take its place."""
        for path in self.half_written():
            name = path.name[1:].removesuffix(f"{_REPLACED}{_PARTIAL}")
            if _NAME.fullmatch(name) and not (self.folder / name).exists():
                path.replace(self.folder / name)

    def get(self, name: str | None = None) -> Checkpoint:
        """Return a checkpoint that has been compared with its checksums: the one called `name`, `best`, or the latest.

        Raises:
            CheckpointError: there is none, or it is damaged; the one before it is offered.
        """
        checkpoint = self._named(name) if name not in (None, "best", "latest") else self._pointed_at(name or "latest")
        try:
            checkpoint.verify()
        except CheckpointError as error:
            older = [each.name for each in self.all() if each.position < checkpoint.position]
            offer = (
                f"Go on from the one before it with --checkpoint {older[-1]}."
                if older
                else "There is none before it; start the run again."
            )
            raise CheckpointError(f"{error} {offer}") from None
        return checkpoint

    def _named(self, name: str | None) -> Checkpoint:
        known = [checkpoint.name for checkpoint in self.all()]
        if name not in known:
            raise CheckpointError(
                f"{self.folder} has no checkpoint '{name}'; there {_are(known)}." if known else self._none()
            )
        return Checkpoint(self.folder / str(name))

    def _pointed_at(self, pointer: str) -> Checkpoint:
        """Return the checkpoint that `latest` or `best` names; the newest where `latest` was not written yet."""
        there = self.all()
        if not there:
            raise CheckpointError(self._none())
        file = self.folder / pointer
        try:
            name = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            if pointer == "best":
                raise CheckpointError(f"{self.folder} has no best checkpoint; train with keep_best=true.") from None
            return there[-1]
        if name not in [checkpoint.name for checkpoint in there]:
            raise CheckpointError(
                f"{file} names the checkpoint '{name}', which is not there. Go on from another one with --checkpoint "
                f"{there[-1].name}."
            )
        return Checkpoint(self.folder / name)

    def _none(self) -> str:
        return f"{self.folder} holds no checkpoint: the run was ended before the first one; start it again."

    def begin(self, name: str) -> Path:
        """Make and return the hidden folder that a checkpoint is written into.

        Raises OSError.
        """
        partial = self._hidden(name)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        return partial

    def _hidden(self, name: str) -> Path:
        """Return the folder of what is not a checkpoint yet, or no longer."""
        return self.folder / f".{name}{_PARTIAL}"

    def discard(self, name: str) -> None:
        """Remove what was written of a checkpoint that cannot be finished: the disk may be full of it."""
        shutil.rmtree(self._hidden(name), ignore_errors=True)

    def finish(self, partial: Path, state: Mapping[str, Any]) -> Checkpoint:
        """Make a checkpoint of the hidden folder once all else is in it, and point `latest` to it.

        Raises:
            CheckpointError: what is on the disk is not what was written.
            OSError: the disk is full or takes nothing.
        """
        (partial / STATE).write_text(json.dumps(state), encoding="utf-8")
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        for file in files:
            flush_to_disk(file)
        sums = _sums({file.relative_to(partial).as_posix(): _digest(file) for file in files})
        (partial / CHECKSUMS).write_text(sums, encoding="utf-8")
        for path in (partial / CHECKSUMS, *(path for path in partial.rglob("*") if path.is_dir()), partial):
            flush_to_disk(path)
        checkpoint = Checkpoint(self.folder / partial.name[1 : -len(_PARTIAL)])
        Checkpoint(partial).verify()
        if checkpoint.folder.exists():  # the same moment of the run, saved before
            checkpoint.folder.replace(self._hidden(f"{checkpoint.name}{_REPLACED}"))
        partial.replace(checkpoint.folder)
        flush_to_disk(self.folder)
        write_atomically(self.folder / "latest", f"{checkpoint.name}\n".encode())
        return checkpoint

    def mark_best(self, checkpoint: Checkpoint) -> None:
        """Remember a checkpoint as the best."""
        write_atomically(self.folder / "best", f"{checkpoint.name}\n".encode())

    def prune(self, keep_last: int, written: Checkpoint) -> None:
        """Remove all but the newest `keep_last` checkpoints and the best.

        What is further than the one just `written` is of a course that the run has left, and not among the newest.
        """
        reached = [checkpoint.name for checkpoint in self.all() if checkpoint.position <= written.position]
        kept = set(reached[-keep_last:])
        kept |= {(self.folder / name).read_text().strip() for name in ("best",) if (self.folder / name).is_file()}
        for checkpoint in self.all():
            if checkpoint.name not in kept:
                checkpoint.folder.replace(self._hidden(checkpoint.name))  # never a checkpoint half removed
        for path in self.half_written():
            shutil.rmtree(path, ignore_errors=True)


def _sums(checksums: Mapping[str, str]) -> str:
    """Return the text of `CHECKSUMS`, as `sha256sum` writes it."""
    return "".join(f"{digest}  {name}\n" for name, digest in checksums.items())


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _are(names: list[str]) -> str:
    return f"is {names[0]}" if len(names) == 1 else f"are {', '.join(names)}"
