"""The GPU's benchmark, tried on a CPU at tiny size: what it measures is in its one result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_everything_is_measured_in_one_go(tmp_path):
    options = ["--tiny", "--device", "cpu", "--architecture", "sd14-tiny", "--date", "2026-01-31"]
    places = ["--cache", str(tmp_path / "cache"), "--output", str(tmp_path)]
    command = [ROOT / "benchmarks" / "gpu.sh", "tried", *options, *places]
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "2026-01-31-tried-gpu.json").read_text())
    assert [name for name, what in result.items() if {"failed", "left_out"} & set(what)] == []
    iteration = result["iteration, LoRA"]
    assert iteration["ratio_error"] == 0
    assert 0 < iteration["noise_floor"] < 1e-5
    assert iteration["peak_memory_GB"] > 0
    steps = iteration["seconds"]["rollout"] + iteration["seconds"]["update"]
    # 4 samples of 2 steps are timed; the paper's are 256 of 50
    others = iteration["seconds"]["total"] - steps
    assert abs(iteration["paper_iteration_seconds"] - 64 * (25 * steps + others)) < 1e-6 * steps
    assert result["bare diffusers pipeline"]["samples_per_second"] > 0
    assert str(tmp_path) not in json.dumps(result)
