"""A step of an experiment: one command, what it makes, and how to tell that it is finished. Never imports torch."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ddpo.runs.folder import RunFolder
from ddpo.runtime.files import write_atomically


@dataclass(frozen=True)
class Step:
    """One subprocess. It is finished when its marker is there, which is written after exit code 0 only."""

    name: str
    """Unique in the work folder."""
    command: tuple[str, ...]
    """Program and arguments."""
    product: Path
    """The folder or JSON file that the command makes; removed before it is made again, unless the command `resumes`."""
    work: Path
    """The work folder, which holds the step's log and lock."""
    cost: float = 1.0
    """Expected work, in any unit that all steps of a command share: for the time that is left."""
    resumes: bool = False
    """Whether the command trains and goes on from the checkpoints it left when it was interrupted."""
    after: str | None = None
    """The name of the step that must be finished before."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the command."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """What the marker says besides the command, the seconds and the date."""

    @property
    def marker(self) -> Path:
        """JSON file that says that the step is finished: inside the product, or beside it if that is a JSON file."""
        if self.product.suffix == ".json":
            return self.product.with_suffix(".finished.json")
        return self.product / "finished.json"

    @property
    def log(self) -> Path:
        """What the command prints."""
        return self.work / "logs" / f"{self.name}.log"

    @property
    def lock(self) -> Path:
        """The file that the process working on the step has locked."""
        return self.work / "locks" / f"{self.name}.lock"

    @property
    def is_finished(self) -> bool:
        """Whether the command has been run to its end and what it made is still there."""
        return self.marker.is_file() and self.product.exists()

    def finished(self) -> dict[str, Any]:
        """Return what the marker says."""
        record: dict[str, Any] = json.loads(self.marker.read_text(encoding="utf-8"))
        return record

    def clear(self) -> None:
        """Remove what an interrupted command left and does not use, and make the folder that the product goes into."""
        if self.resumes:
            pass
        elif self.product.is_dir():
            shutil.rmtree(self.product)
        else:
            self.product.unlink(missing_ok=True)
            self.marker.unlink(missing_ok=True)
        self.product.parent.mkdir(parents=True, exist_ok=True)

    def finish(self, seconds: float) -> None:
        """Write the marker; checkpoints of a finished run are of no use."""
        if self.resumes:
            shutil.rmtree(RunFolder(self.product).checkpoints, ignore_errors=True)
        record = {
            "step": self.name,
            "command": shlex.join(word for word in self.command if word not in (sys.executable, "-m")),
            "seconds": round(seconds, 1),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **self.record,
        }
        write_atomically(self.marker, json.dumps(record, indent=1).encode())
