"""Every file in examples/ does what it says: one for each seam, the only file that adds something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import ddpo

EXAMPLES = Path(__file__).parents[2] / "examples"
SEAMS = {f"own_{seam}.py" for seam in ("policy", "algorithm", "reward", "prompts", "kernel", "callback")}
TINY = (
    *("iterations=2", "samples_per_iteration=8", "samples_per_prompt=4", "updates_per_iteration=2", "batch_size=8"),
    *("sampler.steps=4", "evaluation.number=2", "evaluation.every=null", "evaluation.rewards=[]", "precision=fp32"),
    *("evaluation.kl_to_base=false", "checkpoint_every=null"),
)
"""The default recipe in small."""


def test_each_seam_has_a_short_file() -> None:
    assert {file.name for file in EXAMPLES.iterdir()} >= SEAMS
    assert [file.name for file in EXAMPLES.glob("own_*.py") if len(file.read_text().splitlines()) >= 80] == []


def trained(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """Return the metrics of a run."""
    outcome = ddpo("train", *arguments, "--output", str(folder), "--quiet", folder=EXAMPLES.parent)
    assert outcome.returncode == 0, outcome.stderr
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_own_policy_raises_its_reward_and_its_report_shows_the_points(tmp_path: Path) -> None:
    reward = "reward=examples/own_policy.py:near_target"
    metrics = trained(tmp_path / "run", "policy=examples/own_policy.py:Points", reward, "prompts=none", "iterations=20")
    first, last = (float(np.mean([row["reward/mean"] for row in rows])) for rows in (metrics[:3], metrics[-3:]))
    assert last > first + 0.5  # of a distance of 1.8; one standard error is 0.05
    assert max(row["ratio/max_error_at_start"] for row in metrics) == 0
    assert (tmp_path / "run" / "before-after.png").is_file()
    assert "data:image" in (tmp_path / "run" / "report.html").read_text()
    drawn = tmp_path / "drawn.npy"
    assert ddpo("sample", str(tmp_path / "run"), "--number", "5", "--output", str(drawn)).returncode == 0
    points = np.load(drawn)
    assert points.shape == (5, 2)
    assert points[:, 0].mean() < -0.5  # towards (-1.5, 0.3), which a picture's range of 0 to 1 does not hold


@pytest.mark.parametrize(
    ("setting", "metric"),
    [
        ("reward={name: examples/own_reward.py:redness, minimum: -0.5}", "reward/mean"),
        ("algorithm={name: examples/own_algorithm.py:Anchored, clip_nats: 0.5}", "kl/step_to_base"),
        ("sampler={name: examples/own_kernel.py:window, steps: 4, options: {first: 1, last: 2}}", "kl/step/bucket_2"),
    ],
)
def test_own_part_trains_the_embedded_model(setting: str, metric: str, tmp_path: Path) -> None:
    assert all(np.isfinite(row[metric]) for row in trained(tmp_path / "run", *TINY, setting))


def test_own_prompts_carry_tensors_to_the_reward(tmp_path: Path) -> None:
    prompts = "prompts=examples/own_prompts.py:coloured"
    metrics = trained(tmp_path / "run", *TINY, prompts, "reward=examples/own_prompts.py:has_the_colour")
    assert -1.7 < metrics[0]["reward/mean"] < 0
    samples = json.loads((tmp_path / "run" / "samples" / "iteration-000000.json").read_text())["samples"]
    assert samples[0]["prompt"] == "a red cat"


def test_own_kernel_has_a_likelihood_in_its_window_alone(tmp_path: Path) -> None:
    kernel = "sampler={name: examples/own_kernel.py:window, steps: 4, options: {first: 1, last: 2}}"
    (row, _) = trained(tmp_path / "run", *TINY, kernel)
    assert {key for key in row if key.startswith("clip_fraction/")} == {
        "clip_fraction/bucket_1",
        "clip_fraction/bucket_2",
    }


def test_own_callback_ends_the_run(tmp_path: Path) -> None:
    callback = "callbacks=[{name: examples/own_callback.py:Patience, iterations: 1}]"
    constant = tmp_path / "constant.py"
    constant.write_text("def zero(images, prompts, metadata):\n    return [0.0] * len(images)\n")
    metrics = trained(tmp_path / "run", *TINY, callback, f"reward={constant}:zero", "iterations=5")
    assert len(metrics) == 2  # the second is no better than the first
    assert (tmp_path / "run" / "best.txt").read_text() == "1 0.0000\n"
    assert (tmp_path / "run" / "model").is_dir()
