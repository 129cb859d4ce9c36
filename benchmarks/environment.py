"""The environment that TRL runs in: its own, as its requirements must not decide what this project is tested with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REQUIREMENTS = (
    "torch==2.13.0",
    "trl==0.23.1",  # the last release with DDPOTrainer
    "diffusers==0.42.1",
    "transformers==5.23.0",
    "peft==0.21.2",
    "accelerate==1.15.0",
    "pillow==13.0.0",  # the reward is the size of its JPEG files
)
"""torchvision is not needed."""


def trl_python(cache: Path) -> Path:
    """Return the interpreter of TRL's environment under `cache`, which is made at the first call."""
    folder = cache / "trl"
    python, stamp = folder / "bin" / "python", folder / "requirements.txt"
    wanted = "\n".join(REQUIREMENTS) + "\n"
    if not (stamp.is_file() and stamp.read_text() == wanted):
        print(f"Installing {', '.join(REQUIREMENTS)} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
        stamp.write_text(wanted)
    return python
