"""Writing files so that a reader never sees half of one; asking for files by names that users gave."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write `content` to a temporary file beside `path`, then rename it; makes the folder when it is missing."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


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
