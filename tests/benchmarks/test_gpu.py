"""The GPU's benchmark, tried on a CPU at tiny size: everything it measures is in its one result."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_everything_is_measured_in_one_go(tmp_path):
    options = ["--tiny", "--device", "cpu", "--architecture", "sd14-tiny", "--date", "2026-01-31"]
    places = ["--cache", str(tmp_path / "cache"), "--output", str(tmp_path)]
    command = [ROOT / "benchmarks" / "gpu.sh", "tried", *options, *places]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "2026-01-31-tried-gpu.json").read_text())
    assert [name for name, what in result.items() if {"failed", "left_out"} & set(what)] == []
    audit = result["ratio audit, LoRA, fp32"]
    assert audit["ratio_error"] == 0
    assert 0 < audit["noise_floor"] < 1e-5
    iteration = result["iteration, LoRA"]
    steps = iteration["seconds"]["rollout"] + iteration["seconds"]["update"]
    # 4 samples of 2 steps are timed; the paper's are 256 of 50
    others = iteration["seconds"]["total"] - steps
    assert abs(iteration["paper_iteration_seconds"] - 64 * (25 * steps + others)) < 1e-6 * steps
    assert result["memory, LoRA, batch 1"]["memory_GB"] > 0
    assert result["bare diffusers pipeline"]["samples_per_second"] > 0
    assert result["embedded model"]["last"]["iteration"] == 1
    assert str(tmp_path) not in json.dumps(result)
