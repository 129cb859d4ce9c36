"""The command line as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def ddpo(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `ddpo` with these arguments, on one thread."""
    return subprocess.run(
        [sys.executable, "-m", "ddpo", *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
