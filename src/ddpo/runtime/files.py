"""Files: written so that a reader never sees half of one, locked, and asked for by names that users gave. No torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write `content` to a temporary file beside `path`, then rename it; makes the folder when it is missing.

    A reader, also one after a power cut, finds the old content or the new.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        flush_to_disk(temporary)
        temporary.replace(target)
        flush_to_disk(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """Return once a file's content, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(path: Path) -> IO[str] | None:
    """Return a lock file, made and locked, empty; None when another process has locked it.

    The system unlocks it when the file is closed or the process ends, however it ends.

    Raises:
        OSError: the file cannot be made, or the file system knows no locks.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    file.truncate(0)
    return file


def expanded(name: str | Path) -> Path:
    """Return the path that a user's `name` stands for: `~` is a home folder, where there is that user."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def is_file(path: Path) -> bool:
    """Return whether there is such a file; what cannot be a path, such as a long sentence, is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Return whether there is such a folder; what cannot be a path, such as a long sentence, is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
